"""Every bad input gets its exit code and its line; nothing runs, and nothing is left behind."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Commands
from tests.hostile.case import MARKER, MEMORY, SECONDS, Hostile
from tests.hostile.families import ALL
from tests.hostile.written import VALUES, file, tensors

ROWS = range(1, 55)
"""Of the list of bad inputs that this suite started from."""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    server = Commands(tmp_path_factory.mktemp("commands"))
    yield server
    server.close()


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_bad_input(case: Hostile, commands: Commands, tmp_path: Path) -> None:
    case.check(commands, tmp_path)


def test_names_are_told_apart() -> None:
    twice = [name for name, times in Counter(case.name for case in ALL).items() if times > 1]
    assert not twice


def test_every_row_of_the_list_is_here() -> None:
    assert {case.row for case in ALL if case.row is not None} == set(ROWS)


_FACTORY = """
import os, signal, sys, time, torch
from pathlib import Path
START = time.process_time()

def net():
    {does}
    return torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False))
"""
PLANTED = {
    "nothing": ("pass", ""),
    "memory": (f"bytearray({MEMORY + (50 << 20)})", "held"),
    "time": (
        f"while time.process_time() - START < {5 * SECONDS}: pass",
        "of processor time",
    ),
    "a file": ("Path('left').touch()", "something was written"),
    "a touch of the input": ("os.utime('model.safetensors')", "something was written"),
    "the marker": (f"Path('..', {MARKER!r}).touch()", "code of the file was run"),
    "a signal": ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by signal 11"),
    "waiting": ("time.sleep(60)", "killed by signal 14"),
    "an error": ("raise KeyError", "code=2"),
    "a traceback": ("print('Traceback', file=sys.__stdout__)", "'Traceback' was printed"),
    "a line on stderr": ("print('a warning', file=sys.stderr)", "a warning"),
    "an escape": ("print(chr(27), file=sys.__stdout__)", "x1b' was printed"),
    "an exit code": ("os._exit(3)", "code=3"),
}
"""What the code of a factory does, which lipaudit runs on demand, and what is to be said of it."""


@pytest.mark.parametrize("fault", PLANTED)
def test_the_harness_notices(fault: str, commands: Commands, tmp_path: Path) -> None:
    does, says = PLANTED[fault]

    def build(folder: Path) -> Path:
        (folder / "planted.py").write_text(_FACTORY.format(does=does), encoding="utf-8")
        (folder / "__pycache__").touch()  # no folder, so that Python itself writes nothing there
        return file("model.safetensors", tensors({"0.weight": VALUES}))(folder)

    seconds = 0.2 if fault == "waiting" else SECONDS
    options = ("--model", "planted:net", "--input-shape", "2")
    case = Hostile("planted", "", build, 0, ("3",), options=options, seconds=seconds)
    if says:
        with pytest.raises(AssertionError, match=says):
            case.check(commands, tmp_path)
    else:
        case.check(commands, tmp_path)
