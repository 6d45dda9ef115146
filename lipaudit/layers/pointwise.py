"""Pointwise: a function of one number, applied to every item of a signal.

By the mean value theorem such a layer stretches a difference by at most the supremum of
|slope|, and by no less: one item suffices to attain it. So a kind needs no class, only a row
in the table `SLOPES`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import final

import torch

from lipaudit.graph.node import ONNX_DOMAIN, Attribute, Node
from lipaudit.layers.base import (
    AbstractGainLayer,
    Call,
    Example,
    Examples,
    Gain,
    Unbounded,
    unary,
)
from lipaudit.layers.operands import operand
from lipaudit.layers.registry import layer
from lipaudit.layers.slope import Slope
from lipaudit.layers.values import Values, at_least, enclosing

Function = Callable[[torch.Tensor], torch.Tensor]
_HUGE = 1e100


def steep(why: str) -> Unbounded:
    """Return the verdict on a function whose slope has no finite supremum."""
    return Unbounded("unbounded-slope", why)


def jump(where: str) -> Unbounded:
    """Return the verdict on a function that is not continuous."""
    return Unbounded("discontinuous", where)


Meaning = Callable[[Call], tuple[Slope | Unbounded, Function]]
"""What a node's attributes make of an operation."""


def always(range_: Slope | Unbounded, function: Function) -> Meaning:
    """Return the meaning of an operation that has no attributes."""
    return lambda _call: (range_, function)


_NO_ATTRIBUTES: Mapping[str, Attribute] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Case:
    """Attributes for an example, and the Lipschitz constant they give where it is known."""

    attributes: Mapping[str, Attribute] = field(default_factory=lambda: _NO_ATTRIBUTES)
    exact: float | None = None


@dataclass(frozen=True, slots=True)
class Trend:
    """Where a function falls and rises, so that its extremes between two numbers are known."""

    least_at: float | None
    """It falls before and rises after this number, but for the dip; infinite where it only rises
    (-) or falls (+). None: not known."""
    dip: float = 0.0
    """How far below all of that it may go left of 0."""
    within: tuple[float, float] = (-math.inf, math.inf)
    """Numbers between which all values lie."""
    pole: bool = False
    """Whether it has a pole at 0, so that nothing is known of values on both sides."""

    def values(self, function: Function, x: Values, stretch: float) -> tuple[Values, ...]:
        """Bound what a function of this trend makes of such values.

        Inside, terms may cancel that are no larger than |f(0)| and the stretch times |x|.
        """
        low, high = self.within
        if self.least_at is None:
            return (Values.between(low, high),)
        if self.pole and not bool(((x.lo > 0) | (x.hi < 0)).all()):
            return ()
        turn = x.lo.clamp(min=self.least_at).minimum(x.hi)
        left, right, least = (_evaluated(function, at) for at in (x.lo, x.hi, turn))
        least = torch.minimum(least, torch.minimum(left, right))
        least = torch.where(x.lo < 0, least - self.dip, least)
        inner = stretch * x.magnitude + function(torch.zeros_like(x.lo)).abs()
        moduli = torch.nan_to_num(inner, nan=0.0, posinf=0.0)
        found = enclosing(least, torch.maximum(left, right), moduli)
        return (Values(found.lo.clamp(min=low), found.hi.clamp(max=high)),)


def _evaluated(function: Function, x: torch.Tensor) -> torch.Tensor:
    """Evaluate; at an infinity where that is no number, at a number almost as large."""
    made = function(x)
    return torch.where(torch.isnan(made), function(x.clamp(-_HUGE, _HUGE)), made)


def trend(
    least_at: float,
    dip: float = 0.0,
    *,
    within: tuple[float, float] = (-math.inf, math.inf),
    pole: bool = False,
) -> Callable[[Call], Trend]:
    """Return the trend of an operation whatever its attributes."""
    return lambda _call: Trend(least_at, dip, within, pole)


@dataclass(frozen=True, slots=True)
class Row:
    """One pointwise operation."""

    summary: str
    """Its constant, for the README's table."""
    meaning: Meaning
    cases: tuple[Case, ...] = (Case(),)
    module: str = ""
    aten: str = ""
    trend: Callable[[Call], "Trend | None"] | None = None
    """Where it rises and falls; None: read off the slopes where they have one sign."""
    steepest: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    """The largest |slope| between two numbers, where it has no finite supremum."""


_slopes: dict[tuple[str, str], Row] = {}
SLOPES: Mapping[tuple[str, str], Row] = MappingProxyType(_slopes)
"""(domain, op) -> its row. `tabulate` is the way in."""


def tabulate(rows: Mapping[str, Row], domain: str = ONNX_DOMAIN) -> None:
    """Add operations to the table and announce them to the registry."""
    for op, row in rows.items():
        _slopes[domain, op] = row
        layer(
            op,
            summary=row.summary,
            examples=_examples_of(op, row, domain),
            domain=domain,
            module=row.module,
            aten=row.aten,
        )(Pointwise)


def _examples_of(op: str, row: Row, domain: str) -> Callable[[], Examples]:
    def examples() -> Iterator[Example]:
        for case in row.cases:
            node = Node(op, op, ("x",), ("y",), case.attributes, domain)
            yield Example(node, shapes=((3, 5),), constants={}, exact_gain=case.exact)

    return examples


@final
@dataclass(frozen=True, slots=True)
class Pointwise(AbstractGainLayer):
    """A function of one number on every item of its signal."""

    slope: Slope | Unbounded
    function: Function
    trend: Trend | None
    steepest: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None

    @classmethod
    def from_node(cls, call: Call) -> "Pointwise":
        """Look the operation up in `SLOPES`."""
        row = SLOPES[call.node.domain, call.node.op]
        slope, function = row.meaning(call)
        stated = row.trend(call) if row.trend is not None else _by_slope(slope)
        return cls(slope, function, stated, row.steepest)

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Apply the function to every item."""
        return (self.function(operand(inputs)),)

    @property
    def slopes(self) -> Slope | None:
        """See `AbstractGainLayer.slopes`."""
        return self.slope if isinstance(self.slope, Slope) else None

    def gain(self, shapes: Sequence[tuple[int, ...] | None]) -> Gain | Unbounded:
        """Return the supremum of |slope|, whatever the shape."""
        del shapes
        if isinstance(self.slope, Unbounded):
            return self.slope
        return unary(self.slope.stretch, "supremum of the slope")

    def gain_within(
        self, shapes: Sequence[tuple[int, ...] | None], values: Sequence[Values]
    ) -> Gain | Unbounded:
        """Return the largest |slope| between the values, where it has no supremum."""
        if isinstance(self.slope, Slope) or self.steepest is None:
            return self.gain(shapes)
        slopes = self.steepest(values[0].lo, values[0].hi)
        if not bool(torch.isfinite(slopes).all()):
            return self.slope
        largest = float(slopes.abs().max()) if slopes.numel() else 0.0
        return unary(at_least(largest), "the largest slope between the values")

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Return what the function makes of the ends, and of the least point between them."""
        if self.trend is None or inputs[0] is None:
            return ()
        stretch = self.slope.stretch.upper if isinstance(self.slope, Slope) else 0.0
        return self.trend.values(self.function, inputs[0], stretch)


def _by_slope(slope: Slope | Unbounded) -> Trend | None:
    """Return the trend of a function whose slope has one sign."""
    if isinstance(slope, Unbounded):
        return None
    return Trend(-math.inf) if slope.lo >= 0 else Trend(math.inf) if slope.hi <= 0 else None
