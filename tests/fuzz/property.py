"""Property: what must hold for every file that anybody can make up.

A file is read and audited, or refused with one line of an error that is lipaudit's own. Nothing
else is raised, printed or written, and neither time nor memory runs away.
"""

import os
import resource
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from enum import IntEnum
from pathlib import Path
from types import FrameType

from lipaudit.analysis import audit
from lipaudit.comparison import Snapshot
from lipaudit.device import CPU, Compute
from lipaudit.errors import LipauditError
from lipaudit.formats.detect import read_model
from lipaudit.gates import baseline, config_file, differing, orders, recorded
from lipaudit.gates.judge import judge
from lipaudit.gates.policy import Policy
from lipaudit.report import comparing
from lipaudit.report.base import Canvas, Choice
from lipaudit.report.catalog import REPORTERS
from lipaudit.report.text import safe
from lipaudit.results import Report, Tool
from tests.fuzz.case import Case

SECONDS = 2.0
"""Of processor time for one case, so that a busy machine changes nothing."""
HANGS = 30
"""Seconds after which a case is given up."""
MEMORY = 300 << 20
"""Bytes that one case may take beyond what the process holds."""
ROOM = 2 << 30
"""Address space that a worker may take beyond what it has: what asks for more fails at once."""
_AUDITED = 128 << 20
_TODAY = date(2026, 1, 1)
_CANVAS = Canvas()
_TOOL = Tool("0", {}, "cpu")


class Depth(IntEnum):
    """How far a case is followed: most are only read, since that is where files differ."""

    READ = 0
    AUDIT = 1
    REPORT = 2

    @classmethod
    def of(cls, seed: int) -> "Depth":
        """Return the depth for the case of a seed: every fourth is audited, then reported on."""
        if seed % 4:
            return cls.READ
        return cls.AUDIT if seed % 16 else cls.REPORT


class Broken(Exception):
    """What must hold did not."""


class _TooLong(BaseException):
    """Raised by the alarm; no handler of the code under test catches it."""


def check(case: Case, folder: Path, depth: Depth = Depth.REPORT) -> str:
    """Return how the case ended: "ok", or the slug of the error. Raise `Broken`.

    The folder must be empty and the working directory of the process; it is emptied again.
    """
    path = case.write(folder)
    before = snapshot(folder)
    start, held = time.process_time(), _reset_peak()
    try:
        with _quiet(), _alarm():
            slug = _outcome(case, path, depth)
        spent, grown = time.process_time() - start, _peak() - held
        if snapshot(folder) != before:
            raise Broken(f"something was written: {sorted(snapshot(folder))}")
    finally:
        _empty(folder)
    if spent > SECONDS:
        raise Broken(f"took {spent:.1f} s of processor time")
    if grown > MEMORY:
        raise Broken(f"took {grown >> 20:,} MB of memory")
    return slug


def confine() -> None:
    """Let this process have little more address space than it has: for workers only."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def snapshot(folder: Path) -> Mapping[str, bytes | None]:
    """Return what lies in a folder."""
    with os.scandir(folder) as entries:
        return {
            entry.name: Path(entry.path).read_bytes() if entry.is_file() else None
            for entry in entries
        }


def _outcome(case: Case, path: Path, depth: Depth) -> str:
    try:
        if case.reader == "model":
            _model(path, depth)
        else:
            READERS[case.reader](path)
    except LipauditError as error:
        _check_error(error)
        return error.slug
    except _TooLong:
        raise Broken(f"not done after {HANGS} s") from None
    return "ok"


def _check_error(error: LipauditError) -> None:
    line = safe(str(error))
    if not line.isprintable() or not error.cause or not error.slug:
        raise Broken(f"an error of no one line: {line[:200]!r}")
    line.encode("utf-8")


def _model(path: Path, depth: Depth) -> None:
    """Read a model, audit it as `inspect` does, and write every report about it."""
    model = read_model(str(path))
    if depth is Depth.READ:
        return
    report = Report(_TOOL, (audit.inspect(model, Compute(CPU, _AUDITED)),))
    verdict = judge(report, Policy(max_norm=1.0))
    if depth is Depth.AUDIT:
        return
    for reporter in REPORTERS.values():
        text = reporter.audit(report, verdict, _CANVAS, Choice())
        text.encode("utf-8")
        if "\x1b" in text:
            raise Broken(f"{reporter.name} hands on an escape character")


def _config(path: Path) -> None:
    found = config_file.load(str(path), today=_TODAY)
    if found is not None:
        orders.orders(found)


def _baseline(path: Path) -> None:
    """Read a baseline, and write it again."""
    known = baseline.read(str(path))
    again = baseline.text((), str(path), "0", kept=known)
    path.with_name("again.json").write_text(again, encoding="utf-8")
    try:
        if not baseline.is_baseline(str(path.with_name("again.json"))):
            raise Broken("what was written is no baseline")
    finally:
        path.with_name("again.json").unlink()
    _compared([replace(snapshot, path=name) for name, snapshot in known.items()])


def _report(path: Path) -> None:
    if recorded.is_report(str(path)):
        _compared(list(recorded.read(str(path))))


def _compared(models: list[Snapshot]) -> None:
    """Compare snapshots with themselves, in every format."""
    found = differing.compare(("a", models), ("b", models), 0.05)
    for write in comparing.FORMATS.values():
        write(found, _CANVAS, True).encode("utf-8")


READERS: dict[str, Callable[[Path], None]] = {
    "config": _config,
    "baseline": _baseline,
    "report": _report,
}
"""What reads a case that is no model."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Raise when something was printed as a warning."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    if found:
        raise Broken(f"a warning: {found[0].message}")


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(_number: int, _frame: FrameType | None) -> None:
        raise _TooLong

    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def _reset_peak() -> int:
    """Forget the largest size of this process so far; return its size now."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as peak:  # noqa: PTH123 - quicker
        peak.write("5")
    return _peak()


def _peak() -> int:
    """Return the largest size since the last reset.

    `getrusage` would not do: a process starts with the largest size of the one that started it.
    """
    with open("/proc/self/status", encoding="ascii") as lines:  # noqa: PTH123 - quicker
        stated = next(line for line in lines if line.startswith("VmHWM:"))
    return int(stated.split()[1]) << 10


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
