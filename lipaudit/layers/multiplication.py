"""Products, quotients and powers of tensors, item by item, with broadcasting."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, final

import torch
from torch.nn import functional

from lipaudit.enclosure import ONE, Enclosure
from lipaudit.graph.constant import Constant, Shape
from lipaudit.graph.node import TORCH_DOMAIN, Node
from lipaudit.layers.base import (
    AbstractGainLayer,
    Call,
    Example,
    Examples,
    Folding,
    Gain,
    Unbounded,
    unary,
)
from lipaudit.layers.broadcast import scaling
from lipaudit.layers.magnitude import magnitudes
from lipaudit.layers.operands import operand, operands
from lipaudit.layers.pointwise import steep
from lipaudit.layers.registry import layer
from lipaudit.layers.values import SLACK, Values, at_least, enclosing

_UNIT = 2.0**-53
_NEEDS_SHAPE = Unbounded(
    "needs-shape", "how often broadcasting copies the signal depends on a shape that is not known"
)
_MULTIPLIED = Folding(rounding=_UNIT, linear_in=(0, 1), factors=True)
_DIVIDED = Folding(rounding=_UNIT, linear_in=(0,), factors=True)


def _scaling_gain(
    factors: torch.Tensor | Unbounded, shape: Shape | None, entry_error: float
) -> Gain | Unbounded:
    if isinstance(factors, Unbounded):
        return factors
    norm = scaling(factors, shape, entry_error)
    return _NEEDS_SHAPE if norm is None else unary(norm, "largest stored factor")


def _mul_examples() -> Examples:
    factors = torch.tensor([[0.5, -2.0, 1.0], [0.5, 1.0, 2.0]])
    yield Example(Node("Mul", "Mul", ("x", "y"), ("z",)), ((2, 3), (2, 3)), {})
    yield Example(Node("Mul", "Mul", ("x", "c"), ("z",)), ((2, 3),), {1: factors}, 2.0)
    # Columns (0.5, 0.5), (-2, 1), (1, 2): the longest have length √5.
    yield Example(Node("Mul", "Mul", ("c", "x"), ("z",)), ((3,),), {0: factors}, 5**0.5)
    yield Example(Node("Mul", "Mul", ("c", "x"), ("z",)), ((4, 1),), {0: torch.tensor(-3.0)}, 3.0)


@layer(
    "Mul",
    summary="largest |stored factor|; two signals: through value bounds",
    examples=_mul_examples,
)
@final
@dataclass(frozen=True, slots=True)
class Product(AbstractGainLayer):
    """A product of two broadcast tensors."""

    folding: ClassVar[Folding] = _MULTIPLIED
    factor: Constant | None
    """The stored one; None when both are signals."""

    @classmethod
    def from_node(cls, call: Call) -> "Product":
        """Take the stored factor if there is one."""
        return cls(call.constant(1) or call.constant(0))

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Multiply."""
        left, right = operands(inputs)
        return (left * right,)

    @property
    def is_affine(self) -> bool:
        """See `AbstractGainLayer.is_affine`."""
        return self.factor is not None

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return the norm of the diagonal map, where one factor is stored."""
        if self.factor is None:
            return Unbounded("bilinear", "it multiplies two signals")
        return _scaling_gain(magnitudes(self.factor), shapes[0], self.factor.entry_error)

    def gain_within(
        self, shapes: Sequence[Shape | None], values: Sequence[Values]
    ) -> Gain | Unbounded:
        """Return for each signal the largest factor it meets: d(a b) = b da + a db."""
        if self.factor is not None:
            return self.gain(shapes)
        if any(shape is None for shape in shapes):
            return _NEEDS_SHAPE
        factors = []
        for own, other in ((0, 1), (1, 0)):
            if not values[other].is_finite:
                return Unbounded("bilinear", "it multiplies two signals, one of them unbounded")
            norm = scaling(values[other].magnitude, shapes[own], 0.0)
            if norm is None:
                return _NEEDS_SHAPE
            factors.append(norm.without_lower())
        return Gain(tuple(factors), method="the largest values of the other factor")

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Return the extremes among the products of the ends."""
        left, right = inputs
        if left is None or right is None:
            return ()
        made = _products(left, right)
        stored, moving = (right, left) if right.lo is right.hi else (left, right)
        if moving.lo.shape != made.lo.shape or not stored.is_finite:
            return (made,)
        row = at_least(moving.row * stored.largest).upper
        return (made.with_row(row, moving.axis) if moving.row < math.inf else made,)


def _products(left: Values, right: Values) -> Values:
    """Bound a b: a product is extreme at the ends of its factors."""
    corners = [a * b for a in (left.lo, left.hi) for b in (right.lo, right.hi)]
    # 0 times an end that is infinite is no number, and bounds nothing.
    low, high = reduce(torch.minimum, corners), reduce(torch.maximum, corners)
    return enclosing(low, high)


def _inverse(divisor: Values) -> Values:
    """Bound 1/b, where b keeps its sign."""
    signed = (divisor.lo > 0) | (divisor.hi < 0)
    nothing = torch.full_like(divisor.lo, torch.nan)
    return enclosing(
        torch.where(signed, divisor.hi.reciprocal(), nothing),
        torch.where(signed, divisor.lo.reciprocal(), nothing),
    )


def _div_examples() -> Examples:
    divisors = torch.tensor([[0.5, -2.0, 1.0], [0.5, 1.0, 2.0]])
    yield Example(Node("Div", "Div", ("x", "c"), ("z",)), ((2, 3),), {1: divisors}, 2.0)
    yield Example(Node("Div", "Div", ("x", "c"), ("z",)), ((3,),), {1: divisors}, 8**0.5)
    yield Example(Node("Div", "Div", ("x", "c"), ("z",)), ((2, 2),), {1: torch.tensor(0.25)}, 4.0)
    yield Example(Node("Div", "Div", ("c", "x"), ("z",)), ((2, 3),), {0: divisors})
    yield Example(Node("Div", "Div", ("x", "y"), ("z",)), ((2, 3), (2, 3)), {})


@layer("Div", summary="1 / least |stored divisor|; none for a signal", examples=_div_examples)
@final
@dataclass(frozen=True, slots=True)
class Quotient(AbstractGainLayer):
    """A quotient of two broadcast tensors; integers are divided towards 0, as in ONNX."""

    folding: ClassVar[Folding] = _DIVIDED
    divisor: Constant | None
    """None when it is a signal."""
    numerator: Constant | None

    @classmethod
    def from_node(cls, call: Call) -> "Quotient":
        """Take what is stored."""
        return cls(call.constant(1), call.constant(0))

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Divide."""
        left, right = operands(inputs)
        whole = not (left.is_floating_point() or left.is_complex())
        return (torch.div(left, right, rounding_mode="trunc" if whole else None),)

    @property
    def is_affine(self) -> bool:
        """See `AbstractGainLayer.is_affine`."""
        return self.divisor is not None

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return the norm of the diagonal map, where the divisor is stored."""
        if self.divisor is None:
            return steep("it divides by a signal, which may come close to 0")
        values = magnitudes(self.divisor)
        if isinstance(values, Unbounded):
            return values
        if bool((values == 0).any()):
            return Unbounded("infinite-gain", f"{self.divisor.name!r} divides by 0")
        # The reciprocal of a float64 may overflow; the gain is then larger than any float.
        inverse = values.reciprocal()
        if not bool(torch.isfinite(inverse).all()):
            return Unbounded("infinite-gain", f"{self.divisor.name!r} divides by almost 0")
        return _scaling_gain(inverse, shapes[0], 2 * (self.divisor.entry_error + _UNIT))

    def gain_within(
        self, shapes: Sequence[Shape | None], values: Sequence[Values]
    ) -> Gain | Unbounded:
        """Return for a divisor b that keeps away from 0: d(a/b) = da/b - a/b² db."""
        if self.divisor is not None:
            return self.gain(shapes)
        if any(shape is None for shape in shapes):
            return _NEEDS_SHAPE
        inverse = _inverse(values[-1])
        slopes = [inverse] if len(shapes) == 2 else []
        if inverse.is_finite:
            numerator = values[0] if len(shapes) == 2 else self.dividend
            slopes.append(_products(numerator, _products(inverse, inverse)))
        if len(slopes) < len(shapes) or not all(slope.is_finite for slope in slopes):
            return steep("it divides by a signal, which may come close to 0")
        norms = [scaling(s.magnitude, shape, 0.0) for s, shape in zip(slopes, shapes, strict=True)]
        known = tuple(norm.without_lower() for norm in norms if norm is not None)
        if len(known) < len(norms):
            return _NEEDS_SHAPE
        return Gain(known, method="1/b and a/b² at their largest")

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Multiply by the reciprocal."""
        left, right = inputs
        return () if left is None or right is None else (_products(left, _inverse(right)),)

    @property
    def dividend(self) -> Values:
        """Bound the stored dividend, where only the divisor is a signal."""
        if self.numerator is None or self.numerator.entry_error > SLACK:
            return Values.unknown()
        return Values.exactly(self.numerator.values())


def _pow_examples() -> Examples:
    for exponent in (2.0, 1.0, 0.0, 3.0):
        node = Node("Pow", "Pow", ("x", "p"), ("y",))
        exact = exponent if exponent in {0.0, 1.0} else None
        yield Example(node, ((2, 3),), {1: torch.tensor(exponent)}, exact)
    yield Example(Node("Pow", "Pow", ("b", "x"), ("y",)), ((2, 3),), {0: torch.tensor(2.0)})
    several = {1: torch.tensor([[1.0], [0.0], [1.0]])}
    yield Example(Node("Pow", "Pow", ("x", "p"), ("y",)), ((1, 3),), several, 2**0.5)


@layer(
    "Pow",
    summary="none, but for exponents 0 and 1; on bounded values its slope there",
    examples=_pow_examples,
)
@final
@dataclass(frozen=True, slots=True)
class Power(AbstractGainLayer):
    """A power of two broadcast tensors, in the type of the base."""

    exponent: Constant | None
    """None when it is a signal."""

    @classmethod
    def from_node(cls, call: Call) -> "Power":
        """Take the stored exponent if there is one."""
        return cls(call.constant(1))

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Raise to the power."""
        base, exponent = operands(inputs)
        return (torch.pow(base, exponent).to(base.dtype),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return the norm of the identity on the items whose exponent is 1."""
        if self.exponent is None:
            return steep("an exponential grows ever steeper")
        values = magnitudes(self.exponent)
        if isinstance(values, Unbounded):
            return values
        exact = self.exponent.values()
        if not bool(((exact == 0) | (exact == 1)).all()):
            return steep("a power other than 0 and 1 has no bounded slope")
        return _scaling_gain(exact, shapes[0], 0.0)

    def gain_within(
        self, shapes: Sequence[Shape | None], values: Sequence[Values]
    ) -> Gain | Unbounded:
        """Return the largest |p x^(p-1)|: at an end where x > 0, else where |x| is largest."""
        if self.exponent is None or isinstance(self.gain(shapes), Gain):
            return self.gain(shapes)
        if shapes[0] is None or self.exponent.entry_error:
            return _NEEDS_SHAPE if shapes[0] is None else self.gain(shapes)
        power, (base,) = self.exponent.values(), values
        if bool((base.lo > 0).all()):
            ends = [power.abs() * torch.pow(x, power - 1) for x in (base.lo, base.hi)]
            slopes = torch.maximum(*ends)
        elif bool(((power >= 1) & (power == power.round())).all()):
            slopes = power * torch.pow(base.magnitude, power - 1)
        else:
            return steep("a power has a bounded slope only away from 0")
        if not bool(torch.isfinite(slopes).all()):
            return steep("a power of a signal without bounds")
        norm = scaling(slopes, shapes[0], 0.0)
        if norm is None:
            return _NEEDS_SHAPE
        return unary(at_least(norm.upper), "the largest slope between the values")

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Return the powers of the ends; even ones are least at 0."""
        if self.exponent is None or inputs[0] is None:
            return ()
        base, power = inputs[0], self.exponent.values()
        whole = (power >= 0) & (power == power.round())
        nothing = torch.full_like(base.lo, torch.nan)
        ends = [
            torch.where(whole | (base.lo > 0), torch.pow(x, power), nothing)
            for x in (base.lo, base.hi)
        ]
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        through_zero = (base.lo < 0) & (base.hi > 0) & (power % 2 == 0)
        return (enclosing(torch.where(through_zero & (power > 0), 0.0, low), high),)


def _glu_examples() -> Examples:
    yield Example(Node("GLU", "GLU", ("x",), ("y",), {}, TORCH_DOMAIN), ((2, 6),), {})
    yield Example(Node("GLU", "GLU", ("x",), ("y",), {"dim": 1}, TORCH_DOMAIN), ((2, 4, 3),), {})


@layer(
    "GLU",
    summary="none; through value bounds",
    examples=_glu_examples,
    domain=TORCH_DOMAIN,
    module="GLU",
)
@final
@dataclass(frozen=True, slots=True)
class GatedLinearUnit(AbstractGainLayer):
    """One half of the signal times the sigmoid of the other (attribute dim: split where)."""

    dim: int

    @classmethod
    def from_node(cls, call: Call) -> "GatedLinearUnit":
        """Take the axis."""
        return cls(call.attribute("dim", -1))

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Gate one half by the other."""
        return (functional.glu(operand(inputs), self.dim),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """State that there is no finite constant: a·σ(b) moves with b as fast as a is large."""
        del shapes
        return Unbounded("bilinear", "it multiplies two halves of its signal")

    def gain_within(
        self, shapes: Sequence[Shape | None], values: Sequence[Values]
    ) -> Gain | Unbounded:
        """Return √(1 + (|a|/4)²): a row (σ(b), a σ'(b)), with σ <= 1 and σ' <= 1/4."""
        if shapes[0] is None or not values[0].is_finite:
            return self.gain(shapes)
        gated, _ = values[0].of_shape(shapes[0]).magnitude.chunk(2, self.dim)
        quarter = Enclosure.at_most(float(gated.max()) / 4)
        whole = ONE.plus(quarter.times(quarter)).sqrt()
        return unary(at_least(whole.upper), "a row of the gate and a quarter of the largest value")

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Return the gated half shrunk by anything between 0 and 1."""
        if inputs[0] is None:
            return ()
        low, high = (end.chunk(2, self.dim)[0] for end in (inputs[0].lo, inputs[0].hi))
        return (enclosing(low.clamp(max=0), high.clamp(min=0)),)
