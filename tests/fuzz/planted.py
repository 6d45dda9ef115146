"""Planted: a worker whose reader of reports does what no reader may, as the file asks.

With it the fuzzer is tested, in the processes in which it looks for such things.
"""

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.fuzz import property as held
from tests.fuzz import worker
from tests.fuzz.case import Case

_OVER = 50 << 20
_HANGS = 12


def planted(name: str) -> str:
    """Return the case in which one of `FAULTS` happens, as text."""
    return Case({"report.json": name.encode()}, "report.json", "report").text("planted")


def _write(path: Path) -> None:
    path.with_name("left").touch()


def _overwrite(path: Path) -> None:
    path.write_bytes(b"another")


def _hold(_: Path) -> None:
    bytearray(held.MEMORY + _OVER)


def _ask(_: Path) -> None:
    """Ask for more than there may ever be, without touching it."""
    bytes(2 * held.ROOM)


def _turn(_: Path) -> None:
    start = time.process_time()
    while time.process_time() - start < held.SECONDS + 0.5:
        pass


def _sleep(_: Path) -> None:
    time.sleep(_HANGS + 20)


def _die(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _crash(_: Path) -> None:
    raise KeyError


def _warn(_: Path) -> None:
    warnings.warn("planted", stacklevel=1)


def _print(_: Path) -> None:
    sys.stdout.write("planted\n")


FAULTS: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "nothing": (lambda _: None, ""),
    "a file": (_write, "something was written"),
    "another content": (_overwrite, "something was written"),
    "memory": (_hold, "MB of memory"),
    "address space": (_ask, "MemoryError"),
    "time": (_turn, "of processor time"),
    "waiting": (_sleep, "not done after"),
    "a traceback": (_crash, "KeyError"),
    "a warning": (_warn, "a warning"),
    "a line": (_print, "printed"),
    "a signal": (_die, "killed the process"),
}
"""What happens, and a part of what the fuzzer says about it."""


def _read(path: Path) -> None:
    FAULTS[path.read_text()][0](path)


if __name__ == "__main__":
    held.HANGS = _HANGS
    held.READERS["report"] = _read
    worker.serve(Path(sys.argv[1]))
