"""Arithmetic of several tensors, item by item, with broadcasting."""

from collections.abc import Callable, Sequence
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
    Combine,
    Example,
    Examples,
    Folding,
    Gain,
    Unbounded,
    UnsupportedNode,
    unary,
)
from lipaudit.layers.broadcast import copying, scaling
from lipaudit.layers.magnitude import magnitudes
from lipaudit.layers.operands import operand, operands
from lipaudit.layers.pointwise import steep
from lipaudit.layers.registry import layer

_UNIT = 2.0**-53
_NEEDS_SHAPE = Unbounded(
    "needs-shape", "how often broadcasting copies the signal depends on a shape that is not known"
)
_SCALED = Folding(rounding=_UNIT, linear_in=0)


@dataclass(frozen=True, slots=True)
class _Merger:
    """What one operation does with its operands."""

    function: Callable[[Sequence[torch.Tensor]], torch.Tensor]
    combine: Combine
    averages: bool = False


def _difference(operands: Sequence[torch.Tensor]) -> torch.Tensor:
    left, right = operands
    return left - right


def _mean(operands: Sequence[torch.Tensor]) -> torch.Tensor:
    return reduce(torch.add, operands) / len(operands)


# Two numbers and the larger of them: |max(a, b) - max(a', b')| <= max(|a - a'|, |b - b'|), at
# most the root of the sum of squares; item by item that is what ROOT_SUM_SQUARES states.
_MERGERS = {
    "Add": _Merger(lambda operands: reduce(torch.add, operands), Combine.SUM),
    "Sub": _Merger(_difference, Combine.SUM),
    "Sum": _Merger(lambda operands: reduce(torch.add, operands), Combine.SUM),
    "Mean": _Merger(_mean, Combine.SUM, averages=True),
    "Max": _Merger(lambda operands: reduce(torch.maximum, operands), Combine.ROOT_SUM_SQUARES),
    "Min": _Merger(lambda operands: reduce(torch.minimum, operands), Combine.ROOT_SUM_SQUARES),
}


def _merge_examples(op: str) -> Callable[[], Examples]:
    def examples() -> Examples:
        constant = torch.arange(12.0).reshape(4, 3) / 7
        share = 0.5 if op == "Mean" else 1.0
        exact = None if op in {"Max", "Min"} else share
        yield Example(Node(op, op, ("x", "y"), ("z",)), ((2, 3), (2, 3)), {}, exact)
        yield Example(Node(op, op, ("x", "y"), ("z",)), ((2, 3), (4, 1, 1)), {})
        copied = None if exact is None else 2 * share
        yield Example(Node(op, op, ("x", "c"), ("z",)), ((1, 3),), {1: constant}, copied)
        yield Example(Node(op, op, ("c", "x"), ("z",)), ((4, 3),), {0: constant}, exact)
        if op not in {"Add", "Sub"}:
            three = Node(op, op, ("x", "y", "c"), ("z",))
            yield Example(three, ((4, 3), (1,)), {2: constant})

    return examples


@final
@dataclass(frozen=True, slots=True)
class Merge(AbstractGainLayer):
    """A sum, difference, mean, maximum or minimum of broadcast tensors."""

    merger: _Merger
    stored: tuple[Shape | None, ...]
    """Shapes of the constant operands by position, None for a signal."""

    @classmethod
    def from_node(cls, call: Call) -> "Merge":
        """Note which operands are stored, and their shapes."""
        count = len(call.node.inputs)
        known = [call.constant(position) for position in range(count)]
        stored = tuple(None if constant is None else constant.shape for constant in known)
        if count == 0 or (call.node.op in {"Add", "Sub"} and count != 2):
            raise UnsupportedNode(f"{call.node.op} of {count} operands")
        return cls(_MERGERS[call.node.op], stored)

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Combine the operands."""
        return (self.merger.function(operands(inputs)),)

    @property
    def is_affine(self) -> bool:
        """See `AbstractGainLayer.is_affine`."""
        return self.merger.combine is Combine.SUM

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return the stretch by broadcasting of each signal, over n for a mean of n."""
        arriving = iter(shapes)
        signals = [position for position, shape in enumerate(self.stored) if shape is None]
        every = [next(arriving) if shape is None else shape for shape in self.stored]
        share = ONE.over(Enclosure.exactly(len(self.stored))) if self.merger.averages else ONE
        factors = []
        for position in signals:
            copied = copying(every, position)
            if copied is None:
                return _NEEDS_SHAPE
            factors.append(copied.times(share))
        plain = all(factor == ONE for factor in factors)
        method = "each signal enters once" if plain else "√copies made by broadcasting"
        return Gain(tuple(factors), self.merger.combine, method)


for _op in _MERGERS:
    layer(
        _op,
        summary="1 for each signal, √copies where broadcast"
        + (", over n" if _op == "Mean" else ""),
        examples=_merge_examples(_op),
    )(Merge)


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


@layer("Mul", summary="largest |stored factor|; none for two signals", examples=_mul_examples)
@final
@dataclass(frozen=True, slots=True)
class Product(AbstractGainLayer):
    """A product of two broadcast tensors."""

    folding: ClassVar[Folding] = _SCALED
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

    folding: ClassVar[Folding] = _SCALED
    divisor: Constant | None
    """None when it is a signal."""

    @classmethod
    def from_node(cls, call: Call) -> "Quotient":
        """Take the stored divisor if there is one."""
        return cls(call.constant(1))

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


def _pow_examples() -> Examples:
    for exponent in (2.0, 1.0, 0.0, 3.0):
        node = Node("Pow", "Pow", ("x", "p"), ("y",))
        exact = exponent if exponent in {0.0, 1.0} else None
        yield Example(node, ((2, 3),), {1: torch.tensor(exponent)}, exact)
    yield Example(Node("Pow", "Pow", ("b", "x"), ("y",)), ((2, 3),), {0: torch.tensor(2.0)})
    several = {1: torch.tensor([[1.0], [0.0], [1.0]])}
    yield Example(Node("Pow", "Pow", ("x", "p"), ("y",)), ((1, 3),), several, 2**0.5)


@layer("Pow", summary="none, but for exponents 0 and 1", examples=_pow_examples)
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


def _glu_examples() -> Examples:
    yield Example(Node("GLU", "GLU", ("x",), ("y",), {}, TORCH_DOMAIN), ((2, 6),), {})
    yield Example(Node("GLU", "GLU", ("x",), ("y",), {"dim": 1}, TORCH_DOMAIN), ((2, 4, 3),), {})


@layer("GLU", summary="none", examples=_glu_examples, domain=TORCH_DOMAIN, module="GLU")
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
