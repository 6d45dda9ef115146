"""Honest timing: contestants take turns, so that a noisy minute hits all of them."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

_EVICTED = 1 << 26
"""Bytes written before each measurement: more than the caches hold."""
_AT_REST = 0.3
"""Seconds before each measurement: libraries let their threads spin for a fifth of a second after
the last work they had, on the cores that the next contestant needs."""
_LONG_ENOUGH = 0.15
"""Seconds that a measurement lasts at least. Shorter calls are repeated for that long unmeasured,
then measured for that long: a scheduler may leave threads that wake from a rest on one core at
first, which is no matter of the method."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One method on one case."""

    name: str
    call: Callable[[], Any]
    """Does the work from scratch: nothing may be kept from call to call."""
    factor: float = 1.0
    """How many times this work the whole case is; above 1 the time is extrapolated."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one contestant, scaled to the whole case."""

    least: float
    median: float
    result: Any
    """What the last call returned."""


def seconds(call: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Time a call, repeated where it is short, with nothing left running on the device."""
    # Not by torch, whose threads would go on spinning into the time that is measured.
    np.ones(_EVICTED, dtype=np.uint8)
    _finish(device)
    time.sleep(_AT_REST)
    taken, result = _repeated(call, device)
    return (taken, result) if taken >= _LONG_ENOUGH else _repeated(call, device)


def _repeated(call: Callable[[], Any], device: str) -> tuple[float, Any]:
    start = time.perf_counter()
    calls, passed = 0, 0.0
    while passed < _LONG_ENOUGH:
        result = call()
        _finish(device)
        calls, passed = calls + 1, time.perf_counter() - start
    return passed / calls, result


def race(
    contestants: Sequence[Contestant], *, device: str, repeats: int, limit: float
) -> dict[str, Timing]:
    """Run the contestants in turn (A B A B ...), until a next round would pass the limit.

    The limit is a number of seconds for all rounds of one contestant on average. There is
    always one round; it pays for starting threads and libraries, and counts only if it stays the
    only one.
    """
    times: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    results: dict[str, Any] = {}
    for done in range(repeats):
        spent = sum(map(sum, times.values()))
        if done and spent * (done + 1) / done > limit * len(contestants):
            break
        for contestant in contestants:
            taken, results[contestant.name] = seconds(contestant.call, device)
            times[contestant.name].append(taken)
    timings = {}
    for contestant in contestants:
        counted = times[contestant.name][1:] or times[contestant.name]
        timings[contestant.name] = Timing(
            least=min(counted) * contestant.factor,
            median=statistics.median(counted) * contestant.factor,
            result=results[contestant.name],
        )
    return timings


def _finish(device: str) -> None:
    """Wait until the device has nothing left to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
