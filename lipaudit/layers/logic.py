"""Comparisons, truth values, bits, and choosing between two signals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from lipaudit.enclosure import Enclosure
from lipaudit.graph.constant import Constant, Shape
from lipaudit.layers.base import (
    GATHERED,
    AbstractGainLayer,
    Call,
    Combine,
    Examples,
    Folding,
    Gain,
    Unbounded,
    example,
)
from lipaudit.layers.broadcast import copying
from lipaudit.layers.operands import Inputs, Outputs, operand, operands
from lipaudit.layers.registry import layer

_Function = Callable[..., torch.Tensor]

_COMPARISONS: Mapping[str, _Function] = {
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
}
_CONNECTIVES: Mapping[str, _Function] = {
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Not": torch.logical_not,
}
_BITS: Mapping[str, _Function] = {
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "BitwiseNot": torch.bitwise_not,
}
_FUNCTIONS: Mapping[str, _Function] = {
    **_COMPARISONS,
    **_CONNECTIVES,
    **_BITS,
    "IsNaN": torch.isnan,
}


def _examples_of(op: str) -> Callable[[], Examples]:
    dtype = "bool" if op in _CONNECTIVES else "int32" if op in _BITS else "float32"

    def examples() -> Examples:
        if op in {"Not", "BitwiseNot", "IsNaN"}:
            yield example(op, (2, 3), dtypes=(dtype,))
        else:
            yield example(op, (2, 3), (3,), dtypes=(dtype, dtype))

    return examples


def _register(cls: type["Predicate"]) -> type["Predicate"]:
    for op in _FUNCTIONS:
        layer(op, summary="none: discontinuous", examples=_examples_of(op))(cls)
    return cls


@_register
@final
@dataclass(frozen=True, slots=True)
class Predicate(AbstractGainLayer):
    """A function of items whose results are truth values or bits."""

    op: str

    @classmethod
    def from_node(cls, call: Call) -> "Predicate":
        """Remember which one it is."""
        return cls(call.node.op)

    def forward(self, inputs: Inputs) -> Outputs:
        """Apply it item by item."""
        return (_FUNCTIONS[self.op](*operands(inputs)),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Nothing: a truth value jumps."""
        del shapes
        return Unbounded("discontinuous", f"{self.op} yields truth values or bits")


def _is_inf_examples() -> Examples:
    values = torch.tensor([1.0, -torch.inf, torch.inf, torch.nan])
    yield example("IsInf", constants={0: values})
    yield example("IsInf", constants={0: values}, detect_negative=0)
    yield example("IsInf", constants={0: values}, detect_positive=0)


@layer("IsInf", summary="none: discontinuous", examples=_is_inf_examples)
@final
@dataclass(frozen=True, slots=True)
class IsInf(AbstractGainLayer):
    """Whether an item is infinite, on the asked side."""

    negative: bool
    positive: bool

    @classmethod
    def from_node(cls, call: Call) -> "IsInf":
        """Read the sides."""
        sides = (call.attribute(f"detect_{side}", 1) != 0 for side in ("negative", "positive"))
        return cls(*sides)

    def forward(self, inputs: Inputs) -> Outputs:
        """Look at each item."""
        x = operand(inputs)
        return ((x.isneginf() & self.negative) | (x.isposinf() & self.positive),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Nothing: a truth value jumps."""
        del shapes
        return Unbounded("discontinuous", "it yields truth values")


def _shift_examples() -> Examples:
    for direction in ("LEFT", "RIGHT"):
        shifts = {
            0: torch.tensor([16, 4, 1], dtype=torch.uint8),
            1: torch.tensor([1, 2, 3], dtype=torch.uint8),
        }
        yield example("BitShift", constants=shifts, direction=direction)


@layer("BitShift", summary="none: discontinuous", examples=_shift_examples)
@final
@dataclass(frozen=True, slots=True)
class BitShift(AbstractGainLayer):
    """Bits moved to the left or to the right."""

    left: bool

    @classmethod
    def from_node(cls, call: Call) -> "BitShift":
        """Read the direction."""
        return cls(call.attribute("direction", "LEFT") == "LEFT")

    def forward(self, inputs: Inputs) -> Outputs:
        """Shift; torch has no shifts of the wider unsigned types, whose bits int64 holds too."""
        bits, by = operands(inputs)
        wide = bits.dtype in {torch.uint16, torch.uint32, torch.uint64}
        x, n = (bits.to(torch.int64), by.to(torch.int64)) if wide else (bits, by)
        return ((x << n if self.left else x >> n).to(bits.dtype),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Nothing: bits are no real numbers."""
        del shapes
        return Unbounded("discontinuous", "it moves bits")


def _where_examples() -> Examples:
    mask = torch.tensor([[True, False, True], [False, False, True]])
    yield example("Where", (2, 3), (2, 3), constants={0: mask}, exact_gain=1.0)
    yield example("Where", (2, 3), constants={0: mask, 2: torch.tensor(-1e9)}, exact_gain=1.0)
    yield example("Where", (1, 3), constants={0: mask, 1: torch.zeros(2, 1)}, exact_gain=2**0.5)
    yield example("Where", (2, 3), (2, 3), (1,), dtypes=("bool", "float32", "float32"))


@layer("Where", summary="√Σ L² under a stored condition, else none", examples=_where_examples)
@final
@dataclass(frozen=True, slots=True)
class Where(AbstractGainLayer):
    """Items of one signal where a condition holds, of another where it does not."""

    folding: ClassVar[Folding] = GATHERED

    condition: Constant | None
    choices: tuple[Constant | None, Constant | None]
    """What is chosen from; None for a signal."""

    @classmethod
    def from_node(cls, call: Call) -> "Where":
        """See which of the three are stored."""
        return cls(call.constant(0), (call.constant(1), call.constant(2)))

    def forward(self, inputs: Inputs) -> Outputs:
        """Choose item by item."""
        condition, chosen, other = operands(inputs)
        return (torch.where(condition, chosen, other),)

    @property
    def is_rising(self) -> bool:
        """See `AbstractGainLayer.is_rising`."""
        return self.condition is not None

    @property
    def is_affine(self) -> bool:
        """See `AbstractGainLayer.is_affine`."""
        return self.condition is not None

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return for each signal the root of how often one of its items may be used.

        The two signals end in disjoint parts of the result, so their squares add up.
        """
        if self.condition is None:
            return Unbounded("discontinuous", "the network computes which signal is chosen")
        given = iter(shapes)
        known = [next(given) if choice is None else choice.shape for choice in self.choices]
        everything = [self.condition.shape, *known]
        factors: list[Enclosure] = []
        for position, choice in enumerate(self.choices, start=1):
            if choice is None:
                factor = copying(everything, position)
                if factor is None:
                    return Unbounded("needs-shape", "how often items are copied is not known")
                factors.append(factor.without_lower())
        return Gain(tuple(factors), Combine.ROOT_SUM_SQUARES, "one of two, item by item")


def _rounding_examples(op: str) -> Callable[[], Examples]:
    def examples() -> Examples:
        yield example(op, constants={0: torch.tensor([-2.5, -1.5, -0.4, 0.0, 0.5, 1.5, 2.7])})
        yield example(op, (2, 3))

    return examples


_ROUNDINGS: Mapping[str, _Function] = {
    "Round": torch.round,  # half to even, both here and in ONNX
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Sign": torch.sign,
}


def _register_rounding(cls: type["Rounding"]) -> type["Rounding"]:
    for op in _ROUNDINGS:
        layer(op, summary="none: discontinuous", examples=_rounding_examples(op), aten=op.lower())(
            cls
        )
    return cls


@_register_rounding
@final
@dataclass(frozen=True, slots=True)
class Rounding(AbstractGainLayer):
    """A step function of each item."""

    op: str

    @classmethod
    def from_node(cls, call: Call) -> "Rounding":
        """Remember which one it is."""
        return cls(call.node.op)

    def forward(self, inputs: Inputs) -> Outputs:
        """Round each item."""
        return (_ROUNDINGS[self.op](operand(inputs)),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Nothing: a step is no slope."""
        del shapes
        return Unbounded("discontinuous", f"{self.op} is a step function")


def _mod_examples() -> Examples:
    values = {0: torch.tensor([-7, 7, 5]), 1: torch.tensor([3, -3, 2])}
    yield example("Mod", constants=values)
    yield example("Mod", constants=values, fmod=1)
    yield example("Mod", (2, 3), constants={1: torch.tensor(0.75)}, fmod=1)


@layer("Mod", summary="none: discontinuous", examples=_mod_examples)
@final
@dataclass(frozen=True, slots=True)
class Mod(AbstractGainLayer):
    """The remainder of a division, with the sign of the divisor, or (fmod) of the dividend."""

    like_c: bool

    @classmethod
    def from_node(cls, call: Call) -> "Mod":
        """Read whose sign it takes."""
        return cls(call.attribute("fmod", 0) != 0)

    def forward(self, inputs: Inputs) -> Outputs:
        """Divide and keep what is left."""
        return ((torch.fmod if self.like_c else torch.remainder)(*operands(inputs)),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Nothing: the remainder jumps at multiples of the divisor."""
        del shapes
        return Unbounded("discontinuous", "a remainder jumps")
