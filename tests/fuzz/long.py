"""The long fuzz: `make fuzz MINUTES=10`. Saves what it finds as files of `regressions/`.

Seeds go on where the last run stopped only if `--first` says so: the same seeds are the same
cases, and a machine that ran the first million need not run them again.
"""

import argparse
import contextlib
import hashlib
import multiprocessing
import queue
import re
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.queues import Queue
from pathlib import Path

from tests.fuzz.case import parsed
from tests.fuzz.minimizing import minimized
from tests.fuzz.structured import GENERATORS
from tests.fuzz.workers import Batch, Failure, Worker

REGRESSIONS = Path(__file__).with_name("regressions")
_BATCH = 200
_MOST_SAVED = 50
_SHOWN_EVERY = 60.0
_FILE_NAME = re.compile(r"[^a-z0-9]+")


def fuzz(minutes: float, processes: int, first: int, names: list[str]) -> int:
    """Fuzz for so long on so many processes; return how many kinds of failures were found."""
    told: Queue[tuple[str, Batch]] = multiprocessing.Queue()
    end = time.monotonic() + 60.0 * minutes
    workers = [
        multiprocessing.Process(
            target=_work, args=(told, end, first + at * _BATCH, processes * _BATCH, names)
        )
        for at in range(processes)
    ]
    for worker in workers:
        worker.start()
    tally = _Tally()
    while any(worker.is_alive() for worker in workers) or not told.empty():
        with contextlib.suppress(queue.Empty):
            tally.add(*told.get(timeout=1.0))
    tally.show()
    return len(tally.kinds)


def _work(
    told: "Queue[tuple[str, Batch]]", end: float, first: int, stride: int, names: list[str]
) -> None:
    """Run batch after batch, every generator in turn, from a seed on in steps of `stride`."""
    with tempfile.TemporaryDirectory() as scratch:
        worker = Worker(Path(scratch))
        while time.monotonic() < end:
            for name in names:
                told.put((name, worker.run(name, first, _BATCH)))
                if time.monotonic() >= end:
                    break
            first += stride
        worker.close()


class _Tally:
    """What was found so far."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self._start = self._shown = time.monotonic()
        self._by_name: dict[str, Counter[str]] = {}

    def add(self, name: str, batch: Batch) -> None:
        self._by_name.setdefault(name, Counter()).update(batch.outcomes)
        for failure in batch.failures:
            kind = kind_of(failure)
            if kind not in self.kinds and len(self.kinds) < _MOST_SAVED:
                self.kinds[kind] = failure.name
                print(f"FOUND {failure.name}: {failure.why}", flush=True)  # noqa: T201
                print(f"  saved as {save(failure)}", flush=True)  # noqa: T201
        if time.monotonic() - self._shown > _SHOWN_EVERY:
            self._shown = time.monotonic()
            print(self._line(), flush=True)  # noqa: T201

    def show(self) -> None:
        lines = [
            f"  {name:22} {sum(found.values()):>10,}  "
            + ", ".join(f"{slug} {count:,}" for slug, count in found.most_common(8))
            for name, found in self._by_name.items()
        ]
        print("\n".join([*lines, self._line()]), flush=True)  # noqa: T201

    def _line(self) -> str:
        count = sum(sum(found.values()) for found in self._by_name.values())
        seconds = time.monotonic() - self._start
        slugs = {slug for found in self._by_name.values() for slug in found}
        return (
            f"{count:,} cases in {seconds:,.0f} s, {count / seconds:,.0f} a second, "
            f"{len(slugs)} outcomes, {len(self.kinds)} kinds of failures"
        )


def kind_of(failure: Failure) -> str:
    """Return what a failure is without the numbers and names that every case has its own of."""
    return re.sub(r"\d+(\.\d+)?|'.*", "#", failure.why)[:80]


def save(failure: Failure) -> Path:
    """Write a failing case, as small as it can be made, among the regressions."""
    case = parsed(failure.text)
    kind = kind_of(failure)
    with tempfile.TemporaryDirectory() as scratch:
        worker = Worker(Path(scratch))

        def fails(candidate: str) -> bool:
            why = worker.check(candidate)
            return bool(why) and kind_of(Failure("given", why, "")) == kind

        small = minimized(case, lambda one: fails(one.text("")))
        worker.close()
    digest = hashlib.sha256(small.text("").encode()).hexdigest()[:8]
    title = _FILE_NAME.sub("-", failure.why.lower()).strip("-")[:48].strip("-")
    path = REGRESSIONS / f"{title}-{digest}.txt"
    path.write_text(small.text(f"{failure.name}\n{failure.why}"))
    return path


def main() -> None:
    """Read the arguments, fuzz, and fail when something was found."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=fuzz.__doc__)
    parser.add_argument("minutes", type=float)
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--first", type=int, default=1_000_000, help="seed of the first case")
    parser.add_argument("--only", action="append", choices=sorted(GENERATORS))
    wanted = parser.parse_args()
    names = wanted.only or list(GENERATORS)
    found = fuzz(wanted.minutes, max(1, wanted.processes), wanted.first, names)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
