"""The table of bad inputs says what lipaudit printed, not what was expected of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Commands
from tests.hostile import table, written
from tests.hostile.case import Hostile

GOOD = written.file("model.safetensors", written.tensors())
EMPTY = written.file("model.safetensors", b"")


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    server = Commands(tmp_path_factory.mktemp("commands"))
    yield server
    server.close()


@pytest.mark.parametrize(
    ("case", "line"),
    [
        (Hostile("a", "", EMPTY, 2, ("empty",)), "file is empty (0 bytes) (exit 2)"),
        (Hostile("b", "", GOOD, 0, ('"upper"',), options=("-f", "json")), '"upper": 3.0'),
        (Hostile("c", "", GOOD, 0, ("not there",), options=("-f", "csv")), "record,model"),
        (Hostile("d", "", GOOD, 3, ("not there",), options=("-f", "csv")), "(exit 0)"),
        (Hostile("e", "", GOOD, 141, unread=True, says=("not there",)), "nothing (exit 141)"),
    ],
    ids=lambda value: value.name if isinstance(value, Hostile) else None,
)
def test_a_cell_is_what_was_printed(
    case: Hostile, line: str, commands: Commands, tmp_path: Path
) -> None:
    cell = table.ours(case, case.build(tmp_path), tmp_path, commands)
    assert line in cell
    assert "not there" not in cell
