"""A trial: one seed, one network, one verdict."""

import contextlib
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from lipaudit.analysis import linear_parts, sampling
from lipaudit.analysis.bounds import multipliers
from lipaudit.errors import LipauditError
from lipaudit.layers import axis_maps
from lipaudit.operators import convolution
from tests.soundness import further
from tests.soundness.claims import Verdict, case_of, judge
from tests.soundness.files import draw_format, write
from tests.soundness.weights import Chance

_EVERYTHING = 0.5
"""Share of the networks on which nothing is shortened."""
_AS_LARGE = 0.4
"""Share of the networks whose maps are measured by the ways that are meant for large ones."""
_SECONDS = 60


class TooSlow(Exception):
    """Raised where a network takes a minute."""


@dataclass(frozen=True)
class Trial:
    """What became of one seed."""

    seed: int
    format: str
    verdict: Verdict | None
    """None where an exporter had no way to write the network."""
    seconds: float


def tried(seed: int, folder: Path | None = None) -> Trial:
    """Draw the network of a seed, write it, ask lipaudit, and attack the answer."""
    begun = time.perf_counter()
    chance, other = Chance(seed), Chance(seed + (1 << 32))
    name = draw_format(chance)
    with tempfile.TemporaryDirectory() as made:
        place = Path(made) if folder is None else folder
        written = write(chance, other, place, name)
        if written is None:
            return Trial(seed, name, None, time.perf_counter() - begun)
        everything, large = chance.flag(_EVERYTHING), chance.flag(_AS_LARGE)
        with shortened(everything=everything), as_large(large=large):
            try:
                case = case_of(written, chance)
            except LipauditError as problem:
                refused = Verdict("refused", problem.slug, (), None, ())
                return Trial(seed, name, refused, time.perf_counter() - begun)
            found = tuple(further.claims(case, everything=everything))
        verdict = judge(case, found)
    return Trial(seed, name, verdict, time.perf_counter() - begun)


@contextlib.contextmanager
def _changed(*wanted: tuple[Any, str, Any]) -> Iterator[None]:
    kept = [(module, name, getattr(module, name)) for module, name, _ in wanted]
    for module, name, value in wanted:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


@contextlib.contextmanager
def shortened(*, everything: bool) -> Iterator[None]:
    """Spend less on multipliers and on lower bounds of lipaudit's own."""
    less: tuple[tuple[Any, str, Any], ...] = (
        (multipliers, "_ROUNDS", 20), (multipliers, "_SIZE", 160), (linear_parts, "FLOPS", 1e8),
    )  # fmt: skip
    with _changed((sampling, "_FLOPS", 2e9 if everything else 0.0), *(() if everything else less)):
        yield


@contextlib.contextmanager
def as_large(*, large: bool) -> Iterator[None]:
    """Write no convolution, pool or resize out as a matrix, as if it were too large."""
    ways = ((convolution, "_DENSE_SIDE", 0), (axis_maps, "_DENSE_SIDE", 0)) if large else ()
    with _changed(*ways):
        yield


@contextlib.contextmanager
def limited(seconds: int = _SECONDS) -> Iterator[None]:
    """Stop what takes too long (on systems that have alarms)."""

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
