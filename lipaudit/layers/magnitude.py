"""Magnitudes: the extremes of a constant's absolute values, enclosed."""

import math

import torch

from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.graph.constant import Constant
from lipaudit.layers.base import Unbounded


def largest_magnitude(constant: Constant) -> Enclosure | Unbounded:
    """Enclose max |c|, 0 for an empty constant."""
    values = magnitudes(constant)
    if isinstance(values, Unbounded):
        return values
    return enclosed(float(values.max()) if values.numel() else 0.0, constant)


def smallest_magnitude(constant: Constant) -> Enclosure | Unbounded:
    """Enclose min |c|, 0 for an empty constant."""
    values = magnitudes(constant)
    if isinstance(values, Unbounded):
        return values
    return enclosed(float(values.min()) if values.numel() else 0.0, constant)


def magnitudes(constant: Constant) -> torch.Tensor | Unbounded:
    """Return |c| in float64, or why the values are of no use."""
    try:
        values = constant.values().abs()
    except TypeError:  # a dtype that torch has no name for
        return Unbounded("dtype", f"{constant.name!r}: dtype {constant.dtype} not supported")
    if not bool(torch.isfinite(values).all()):
        return Unbounded("non-finite", f"{constant.name!r} has NaN or infinite values")
    return values


def enclosed(magnitude: float, constant: Constant) -> Enclosure:
    """Enclose a magnitude of a constant whose entries may be off by its `entry_error`."""
    if math.isinf(constant.entry_error):
        return Enclosure.exactly(magnitude, Rigor.NUMERICAL)
    exact = Enclosure.exactly(magnitude)
    # |computed - exact| <= ε|exact| puts |exact| within computed/(1 ± ε); 2ε covers that for
    # every ε <= 1/2.
    return exact.widened(exact.times(Enclosure.exactly(2 * constant.entry_error)))
