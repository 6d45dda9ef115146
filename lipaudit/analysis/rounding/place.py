"""Place: one node of a running network, and what it holds of the stored tensors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from lipaudit.analysis.rounding.arithmetic import Arithmetic, Unprovable
from lipaudit.enclosure import ZERO, Enclosure
from lipaudit.graph.constant import Constant, Shape
from lipaudit.graph.node import Node
from lipaudit.layers.base import Gain
from lipaudit.operators.certify import crude_upper, frobenius_above
from lipaudit.operators.scaling import normalised, rescaled

_TIE = 1.0 + 2.0**-10
"""Whoever rounds float64 to a half by way of float32 may meet a tie that was none, and round to
the other neighbour, which is no farther than this much more."""


@dataclass(frozen=True, slots=True)
class Held:
    """A stored tensor as the running network holds it."""

    values: torch.Tensor
    """In float64, exactly."""
    moved: torch.Tensor
    """At least |held - exact|, entry by entry."""

    @property
    def is_exact(self) -> bool:
        """Whether nothing was lost."""
        return not bool(self.moved.any())


@dataclass(frozen=True, slots=True)
class Place:
    """One node with all that a rule may ask about it."""

    node: Node
    gain: Gain
    constants: Mapping[int, Constant]
    shapes: tuple[Shape, ...]
    """Of the signals."""
    made: Shape
    """Of the first output."""
    arithmetic: Arithmetic
    assumed: set[str] = field(default_factory=set)
    """The rules add what they assume."""

    @property
    def items(self) -> int:
        """How many numbers it makes."""
        return math.prod(self.made)

    @property
    def factor(self) -> Enclosure:
        """The gain of a node with one signal."""
        (factor,) = self.gain.factors
        return factor.without_lower()

    def held(self, constant: Constant) -> Held:
        """Round a stored tensor to the format of the run."""
        kept = self.arithmetic.kept
        if math.isinf(constant.entry_error):
            raise Unprovable(f"{constant.name!r} is computed, and how accurately is not known")
        exact = constant.values()
        if exact.is_complex():
            raise Unprovable(f"{constant.name!r} is complex")
        values = exact.to(kept.dtype).to(torch.float64)
        if not bool(torch.isfinite(values).all()):
            raise Unprovable(f"{constant.name!r} does not fit {kept.name}")
        # Exact: both are multiples of the exact value's last place, and close to one another.
        moved = (values - exact).abs() * _TIE
        if constant.unrounded is not None or constant.entry_error:
            moved = moved + 2.0 * constant.entry_error * exact.abs()
            self.assumed.add(
                "tensors that are computed from stored ones are computed accurately and then "
                f"rounded once to {kept.name}"
            )
        if bool(moved.any()):
            self.assumed.add(f"stored tensors are rounded to the nearest {kept.name}")
        return Held(values, moved)

    def spread(self, tensor: torch.Tensor) -> Enclosure:
        """Bound the norm of a tensor that is broadcast to the shape of the result."""
        if not tensor.numel():
            return ZERO
        return length(tensor).times(Enclosure.sqrt_of(-(-self.items // tensor.numel())))


def length(tensor: torch.Tensor) -> Enclosure:
    """Bound the Euclidean norm of a tensor."""
    if not bool(tensor.any()):
        return ZERO
    moderate, factor = normalised(tensor.reshape(1, -1))
    return rescaled(Enclosure.at_most(float(frobenius_above(moderate))), factor)


def norm_of_moduli(matrices: torch.Tensor) -> Enclosure:
    """Bound the largest norm of a stack of non-negative matrices by √(‖A‖₁‖A‖∞) or ‖A‖_F."""
    if not matrices.numel() or not bool(matrices.any()):
        return ZERO
    moderate, factor = normalised(matrices)
    return rescaled(Enclosure.at_most(crude_upper(moderate)), factor)


def largest_entry(tensor: torch.Tensor) -> Enclosure:
    """Return max |entry|, 0 for an empty tensor."""
    return Enclosure.at_most(float(tensor.abs().max()) if tensor.numel() else 0.0)
