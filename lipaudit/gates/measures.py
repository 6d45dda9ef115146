"""Measures read back: an upper and a lower end from JSON, believed only as far as they agree."""

import math

from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.gates.document import Entry
from lipaudit.results import Measure

_RIGORS = {rigor.label: rigor for rigor in Rigor}
_OVERFLOW = 308.0
"""log10 from which on a number may have no float."""
_LARGEST = 1e12
"""log10 of more than any product of norms that a file has room for."""


def measure(entry: Entry) -> Measure:
    """Read an object with lower, upper, their logarithms, and rigor; null is "not known"."""
    rigor = _RIGORS.get(entry.text("rigor"))
    if rigor is None:
        raise entry.wrong("rigor", "one of " + ", ".join(_RIGORS))
    upper, lower = entry.number("upper"), entry.number("lower") or 0.0
    log10 = entry.number("log10_upper")
    if lower < 0 or (upper is not None and not lower <= upper):
        raise entry.wrong("upper", "a number that is not below 0 or below the lower end")
    method = entry.text("method", "")
    if upper is not None:
        return Measure.of(Enclosure.of(lower, upper, rigor), method)
    floor = math.log10(lower) if lower > 0 else -math.inf
    if log10 is None:
        return Measure(lower, math.inf, floor, math.inf, rigor, method)
    if not _OVERFLOW <= log10 <= _LARGEST:
        raise entry.wrong("log10_upper", "the logarithm of a number past the float range")
    return Measure(lower, math.inf, floor, log10, rigor, method)
