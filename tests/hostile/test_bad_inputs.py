"""Every bad input gets its exit code and its line; nothing runs, and nothing is left behind."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Commands
from tests.hostile.case import MARKER, Hostile
from tests.hostile.families import ALL

TIMES = 5.0
"""Of a case's seconds a command gets before it is killed: the suite runs on busy machines. What
is quadratic or worse in the file misses that, too."""
WIDE = {"COLUMNS": "400"}
"""So that no line of a table breaks inside of what is looked for."""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    server = Commands(tmp_path_factory.mktemp("commands"))
    yield server
    server.close()


def snapshot(folder: Path) -> dict[str, tuple[int, bytes | str | None]]:
    """Return every entry with its kind, and its bytes or target; nothing is opened that blocks."""
    found: dict[str, tuple[int, bytes | str | None]] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        held: bytes | str | None = None
        if path.is_symlink():
            held = str(path.readlink())
        elif path.is_file() and path.stat().st_size < 1 << 28:
            held = path.read_bytes()
        found[str(path.relative_to(folder))] = (mode, held)
    return found


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_bad_input(case: Hostile, commands: Commands, tmp_path: Path) -> None:
    folder = tmp_path / "place"
    folder.mkdir()
    path = case.build(folder)
    before = snapshot(folder)
    done = commands.run(
        *case.command,
        path,
        *case.options,
        cwd=folder,
        seconds=TIMES * case.seconds,
        environment=WIDE,
    )
    said = done.stdout + done.stderr
    assert snapshot(folder) == before
    assert not list(tmp_path.rglob(MARKER)), "code of the file was run"
    assert done.code == case.code, done
    assert "Traceback" not in said
    assert "internal error" not in said
    if case.code == 2:
        (line,) = done.stderr.splitlines()
        assert line.startswith("lipaudit: error: ")
        (plain,) = re.findall(r"^[\w.-]*", path.name, re.ASCII)  # as far as nothing is escaped
        assert plain[:40] in line
        assert not done.stdout
        said = line
    for part in case.says:
        assert part in said, done
    for part in case.silent:
        assert part not in done.stdout + done.stderr
    assert "\x1b" not in said
    assert done.memory <= case.memory, done.memory


def test_names_are_told_apart() -> None:
    twice = [name for name, times in Counter(case.name for case in ALL).items() if times > 1]
    assert not twice
