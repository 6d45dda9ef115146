"""Values: which numbers a tensor can hold, item by item, and how long its rows can be."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lipaudit.enclosure import Enclosure
from lipaudit.graph.constant import Shape
from lipaudit.operators.certify import crude_upper

SLACK = 2.0**-32
"""Relative allowance for the rounding of one layer in float64: a sum of n terms is wrong by at
most n·2^-53 of their moduli, and torch's elementary functions by a few units in the last place.
It covers sums of up to a million terms."""
_TINY = 2.0**-1000
"""The same for results that underflow."""
MOST_TERMS = 1 << 20

Forward = Callable[[Sequence[torch.Tensor | None]], tuple[torch.Tensor, ...]]


@dataclass(frozen=True, eq=False, slots=True)
class Values:
    """Bounds of every item of a tensor, real in exact arithmetic.

    Both ends are float64 of the tensor's shape, or single numbers that hold for every item.
    Where a tensor is not of real numbers both ends are the tensor itself.
    """

    lo: torch.Tensor
    hi: torch.Tensor
    row: float = math.inf
    """Bound of the ℓ2 length of every row."""
    axis: int = -1
    """Along which axis rows run, counted from the end."""

    @classmethod
    def unknown(cls) -> "Values":
        """Bound nothing."""
        return cls(_number(-math.inf), _number(math.inf))

    @classmethod
    def exactly(cls, values: torch.Tensor) -> "Values":
        """Bound a stored tensor by itself."""
        return cls(values, values)

    @classmethod
    def between(cls, lo: float, hi: float) -> "Values":
        """Bound every item alike."""
        return cls(_number(lo), _number(hi))

    @property
    def magnitude(self) -> torch.Tensor:
        """The largest |item|, item by item."""
        return torch.maximum(self.lo.abs(), self.hi.abs())

    @property
    def largest(self) -> float:
        """The largest |item| of all, 0 for an empty tensor."""
        return float(self.magnitude.max()) if self.lo.numel() else 0.0

    @property
    def is_finite(self) -> bool:
        """Whether every item is bounded."""
        return math.isfinite(self.largest)

    def of_shape(self, shape: Shape | None) -> "Values":
        """Give single numbers the shape of the tensor they bound, where it is known."""
        if shape is None or self.lo.shape == shape:
            return self
        return Values(self.lo.expand(shape), self.hi.expand(shape), self.row, self.axis)

    def with_row(self, row: float, axis: int = -1) -> "Values":
        """Add a bound of the rows' length."""
        return Values(self.lo, self.hi, row, axis)

    def length(self, axis: int) -> float:
        """Bound the ℓ2 length of every row along an axis, counted from the end."""
        known = self.row if self.axis == axis else math.inf
        if -axis > self.lo.dim() or not self.is_finite:
            return known
        computed = torch.linalg.vector_norm(self.magnitude, dim=axis)
        found = float(computed.max()) if computed.numel() else 0.0
        return min(known, at_least(found).upper)

    def matrix_norm(self, shape: Shape) -> Enclosure:
        """Bound the norm of every matrix that the last two axes hold, also as a batch of them.

        With M the largest moduli, ‖A‖ <= ‖M‖ <= min(√(‖M‖₁‖M‖∞), ‖M‖_F); and ‖A‖ <= √n·row.
        """
        rows, columns = shape[-2:]
        whole = self.of_shape(shape).magnitude.to(torch.float64)
        if not rows or not columns or not whole.numel():
            return Enclosure.exactly(0)
        bound = Enclosure.unknown()
        if math.isfinite(self.largest):
            bound = Enclosure.at_most(crude_upper(whole.reshape(-1, rows, columns)))
        if math.isfinite(self.row) and self.axis in {-1, -2}:
            count = rows if self.axis == -1 else columns
            by_rows = Enclosure.sqrt_of(count).times(Enclosure.at_most(self.row))
            bound = Enclosure.at_most(min(bound.hi, by_rows.hi))
        return bound


def rising(forward: Forward, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
    """Bound the results of a function that grows with every item of every signal.

    Its results are items, their extremes, or sums of at most `MOST_TERMS` of them with
    non-negative weights, so that f(m) and f(-m) say how large the terms are.
    """
    real = [v is not None and v.lo.is_floating_point() for v in inputs]
    largest = [
        v.magnitude if v is not None and is_real else None
        for v, is_real in zip(inputs, real, strict=True)
    ]
    moduli = [
        made.abs() + back.abs() if made.is_floating_point() else None
        for made, back in zip(
            forward(_kept(inputs, largest)),
            forward(_kept(inputs, [None if m is None else -m for m in largest])),
            strict=True,
        )
    ]
    lows = forward([None if v is None else v.lo for v in inputs])
    highs = forward([None if v is None else v.hi for v in inputs])
    return tuple(enclosing(lo, hi, size) for lo, hi, size in zip(lows, highs, moduli, strict=True))


def _kept(
    inputs: Sequence[Values | None], replaced: Sequence[torch.Tensor | None]
) -> list[torch.Tensor | None]:
    """Put in other values, but for tensors that are not of real numbers and for stored ones."""
    return [
        None
        if v is None
        else v.lo
        if new is None or v.lo is v.hi or not v.lo.is_floating_point()
        else new
        for v, new in zip(inputs, replaced, strict=True)
    ]


def enclosing(lo: torch.Tensor, hi: torch.Tensor, moduli: torch.Tensor | None = None) -> Values:
    """Widen computed ends by what rounding may have moved them; NaN bounds nothing."""
    if not lo.is_floating_point():
        return Values.unknown()
    size = torch.maximum(lo.abs(), hi.abs())
    if moduli is not None:
        size = torch.maximum(size, moduli)
    slack = torch.nan_to_num(size, nan=0.0, posinf=0.0) * SLACK + _TINY
    low, high = lo - slack, hi + slack
    low = torch.where(torch.isnan(low), _number(-math.inf), low)
    high = torch.where(torch.isnan(high), _number(math.inf), high)
    return Values(torch.minimum(low, high), torch.maximum(low, high))


def at_least(number: float) -> Enclosure:
    """Raise a bound that was computed in float64 by what rounding may have taken off."""
    if not math.isfinite(number):
        return Enclosure.unknown()
    return (
        Enclosure.at_most(number)
        .times(Enclosure.at_most(1.0 + SLACK))
        .plus(Enclosure.at_most(_TINY))
    )


def _number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)
