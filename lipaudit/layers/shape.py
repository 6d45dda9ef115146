"""Layers that only rename, retype or rearrange the items of a signal: isometries."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from lipaudit.enclosure import ONE, ZERO
from lipaudit.graph.constant import Shape
from lipaudit.graph.dtypes import ONNX_DTYPES, torch_type
from lipaudit.layers.base import (
    MOVED,
    AbstractGainLayer,
    AbstractPositiveLayer,
    AbstractRetypable,
    Call,
    Examples,
    Folding,
    Gain,
    Unbounded,
    UnsupportedNode,
    example,
    unary,
)
from lipaudit.layers.operands import Inputs, Outputs, operand
from lipaudit.layers.registry import layer
from lipaudit.layers.values import Values, rising

_SINGLE = 4
"""Bytes of float32: casts to narrower types are the ones that people make on purpose."""
_ISOMETRY = unary(ONE, "rearranges its items")


class _AbstractRearrangement(AbstractPositiveLayer):
    """A layer that gives each item of its signal one new place, or none of them any change."""

    folding: ClassVar[Folding] = MOVED

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return 1: ‖P d‖ = ‖d‖."""
        del shapes
        return _ISOMETRY


def _identity_examples() -> Examples:
    yield example("Identity", (2, 3), exact_gain=1.0)


@layer("Identity", summary="1", examples=_identity_examples, module="Identity", aten="alias")
@final
@dataclass(frozen=True, slots=True)
class Identity(_AbstractRearrangement):
    """The signal itself."""

    @classmethod
    def from_node(cls, call: Call) -> "Identity":
        """Build it: there is nothing to know."""
        del call
        return cls()

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Return what comes."""
        return () if inputs[0] is None else (inputs[0],)

    def forward(self, inputs: Inputs) -> Outputs:
        """Hand the input on."""
        return (operand(inputs, 0),)


def _dropout_examples() -> Examples:
    yield example("Dropout", (2, 3), exact_gain=1.0)
    yield example("Dropout", (2, 3), constants={1: torch.tensor(0.25)}, exact_gain=1.0, outputs=2)


@layer("Dropout", summary="1 (at inference)", examples=_dropout_examples, module="Dropout")
@final
@dataclass(frozen=True, slots=True)
class Dropout(_AbstractRearrangement):
    """Dropout at inference: the signal itself, and a mask that keeps everything."""

    @classmethod
    def from_node(cls, call: Call) -> "Dropout":
        """Build it, unless it is in training mode."""
        training = call.constant(2)
        if call.given(2) and (training is None or any(training.integers())):
            raise UnsupportedNode("dropout in training mode is random", slug="random")
        return cls()

    def forward(self, inputs: Inputs) -> Outputs:
        """Hand the input on."""
        x = operand(inputs, 0)
        return x, torch.ones_like(x, dtype=torch.bool)


def _cast_examples() -> Examples:
    yield example("Cast", (2, 3), to=11, exact_gain=1.0)
    yield example("Cast", (2, 3), to=6)
    yield example("Cast", (2, 3), to=9)
    yield example("Cast", (2, 3), to=1, dtypes=("int64",))


@layer("Cast", summary="1 to a real type, else none: discontinuous", examples=_cast_examples)
@final
@dataclass(frozen=True, slots=True)
class Cast(AbstractGainLayer, AbstractRetypable):
    """A change of item type: the identity of the exact-real function between real types."""

    folding: ClassVar[Folding] = MOVED

    dtype: torch.dtype
    saturate: bool

    @classmethod
    def from_node(cls, call: Call) -> "Cast":
        """Read the type off the attribute `to`."""
        return cls(stated_dtype(call, "to"), bool(call.attribute("saturate", 1)))

    def in_dtype(self, dtype: torch.dtype) -> "Cast":
        """Return the cast to the run's type in place of any other real one."""
        return Cast(dtype, self.saturate) if self.dtype.is_floating_point else self

    def forward(self, inputs: Inputs) -> Outputs:
        """Convert the items."""
        return (cast(operand(inputs, 0), self.dtype, saturate=self.saturate),)

    @property
    def is_affine(self) -> bool:
        """See `AbstractGainLayer.is_affine`."""
        return self.dtype.is_floating_point

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Return what comes: the identity in real numbers, whatever a run rounds to."""
        x = inputs[0]
        real = x is not None and x.lo.is_floating_point() and (self.dtype.is_floating_point)
        return (x,) if x is not None and real else ()

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return 1 between real types: rounding is no part of the exact-real function."""
        del shapes
        return cast_gain(self.dtype)


def stated_dtype(call: Call, attribute: str, default: int = 0) -> torch.dtype:
    """Return the item type that a node names in an attribute, as ONNX numbers them."""
    number = call.attribute(attribute, default)
    name = ONNX_DTYPES.get(number, f"number {number}")
    dtype = torch_type(name)
    if dtype is None:
        raise UnsupportedNode(f"values of type {name} are not supported", slug="dtype")
    return dtype


def cast(x: torch.Tensor, dtype: torch.dtype, *, saturate: bool = True) -> torch.Tensor:
    """Convert items as ONNX does: an 8-bit float that overflows is the largest one, or none."""
    if dtype.is_floating_point and dtype.itemsize == 1 and x.is_floating_point():
        largest = torch.finfo(dtype).max
        if saturate:
            return x.clamp(-largest, largest).to(dtype)
        # torch saturates by itself, depending on its version.
        return torch.where(x.abs() > largest, x * math.nan, x).to(dtype)
    return x.to(dtype)


def cast_gain(dtype: torch.dtype) -> Gain | Unbounded:
    """Return 1 for a cast to a real type, nothing for a rounding one."""
    if dtype.is_floating_point and dtype.itemsize < _SINGLE:
        assumed = (f"a cast to {str(dtype).removeprefix('torch.')} rounds nothing",)
        return Gain((ONE,), method="the identity in real numbers", assumptions=assumed)
    if dtype.is_floating_point or dtype.is_complex:
        return unary(ONE, "the identity in real numbers")
    return Unbounded("discontinuous", f"a cast to {dtype} rounds")


def _cast_like_examples() -> Examples:
    yield example("CastLike", (2, 3), constants={1: torch.zeros(1)}, exact_gain=1.0)
    yield example("CastLike", (2, 3), (2,), exact_gain=1.0)
    yield example("CastLike", (2, 3), constants={1: torch.zeros(1, dtype=torch.int64)})


@layer("CastLike", summary="1 to a real type, else none", examples=_cast_like_examples)
@final
@dataclass(frozen=True, slots=True)
class CastLike(AbstractGainLayer):
    """A change to the item type of a second input, whose values do not matter."""

    folding: ClassVar[Folding] = MOVED

    dtype: torch.dtype | None
    """None where the second input is a signal."""
    saturate: bool
    is_data_stored: bool

    @classmethod
    def from_node(cls, call: Call) -> "CastLike":
        """Read the type off the second input, if that is stored."""
        like = call.constant(1)
        dtype = torch_type(like.dtype) if like is not None else None
        stored = call.constant(0) is not None
        return cls(dtype, bool(call.attribute("saturate", 1)), stored)

    def forward(self, inputs: Inputs) -> Outputs:
        """Convert the items to the type that the second input has in this run."""
        like = operand(inputs, 1).dtype
        return (cast(operand(inputs, 0), like, saturate=self.saturate),)

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Return what comes: the identity in real numbers, whatever a run rounds to."""
        x = inputs[0]
        real = (
            x is not None
            and x.lo.is_floating_point()
            and (self.dtype is None or self.dtype.is_floating_point)
        )
        return (x,) if x is not None and real else ()

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return 1 for the first signal, 0 for the second.

        Whether the second one is real-valued only the network knows: it refuses a node that
        turns real numbers into integers, provided that shapes and types are known.
        """
        if self.is_data_stored:
            return Gain((ZERO,), method="its result does not depend on the signal's values")
        if self.dtype is not None:
            return cast_gain(self.dtype)
        if None in shapes:
            return Unbounded("needs-shape", "the type it converts to is not known")
        return Gain((ONE, ZERO), method="the identity in real numbers")


def _reshape_examples() -> Examples:
    yield example("Reshape", (2, 3, 4), constants={1: torch.tensor([0, -1])}, exact_gain=1.0)
    yield example("Reshape", (2, 6), constants={1: torch.tensor([3, 2, 2])}, exact_gain=1.0)


@layer("Reshape", summary="1", examples=_reshape_examples)
@final
@dataclass(frozen=True, slots=True)
class Reshape(_AbstractRearrangement):
    """The same items in the same order under another shape."""

    shape: Shape
    """-1: what is left over; 0: as in the input, unless zeros are allowed."""
    allow_zero: bool

    @classmethod
    def from_node(cls, call: Call) -> "Reshape":
        """Read the shape off the second input."""
        shape = call.weight(1, "the shape").integers()
        if any(size < -1 for size in shape) or shape.count(-1) > 1:
            raise UnsupportedNode(f"{list(shape)} is no shape to reshape to")
        return cls(shape, bool(call.attribute("allowzero", 0)))

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Keep the rows' length where each is cut into shorter ones, or left as it is."""
        (made,) = rising(self.forward, inputs)
        x = inputs[0]
        if x is None or x.axis != -1 or not x.lo.dim() or not made.lo.dim():
            return (made,)
        pieces = made.lo.shape[-1]
        fits = pieces and x.lo.shape[-1] % pieces == 0
        return (made.with_row(x.row) if fits else made,)

    def forward(self, inputs: Inputs) -> Outputs:
        """Lay the items out anew."""
        x = operand(inputs, 0)
        sizes = [
            x.shape[axis] if size == 0 and not self.allow_zero else size
            for axis, size in enumerate(self.shape)
        ]
        if -1 in sizes:
            # Worked out here since torch refuses -1 beside a size of 0.
            others = math.prod(size for size in sizes if size != -1)
            sizes[sizes.index(-1)] = x.numel() // others if others else 0
        return (x.reshape(sizes),)


def _flatten_examples() -> Examples:
    yield example("Flatten", (2, 3, 4), exact_gain=1.0)
    yield example("Flatten", (2, 3, 4), axis=-1, exact_gain=1.0)
    yield example("Flatten", (2, 3, 4), axis=0, exact_gain=1.0)


@layer("Flatten", summary="1", examples=_flatten_examples)
@final
@dataclass(frozen=True, slots=True)
class Flatten(_AbstractRearrangement):
    """All axes before one made into a single axis, and all from it on into another."""

    axis: int

    @classmethod
    def from_node(cls, call: Call) -> "Flatten":
        """Read the axis."""
        return cls(call.attribute("axis", 1))

    def forward(self, inputs: Inputs) -> Outputs:
        """Lay the items out as a matrix."""
        x = operand(inputs, 0)
        if not -x.ndim <= self.axis <= x.ndim:
            raise ValueError(f"there is no axis {self.axis} among {x.ndim}")
        before, after = x.shape[: self.axis], x.shape[self.axis :]
        return (x.reshape(math.prod(before), math.prod(after)),)


def _transpose_examples() -> Examples:
    yield example("Transpose", (2, 3, 4), exact_gain=1.0)
    yield example("Transpose", (2, 3, 4), perm=(1, 0, 2), exact_gain=1.0)


@layer("Transpose", summary="1", examples=_transpose_examples)
@final
@dataclass(frozen=True, slots=True)
class Transpose(_AbstractRearrangement):
    """The axes in another order; reversed when none is stated."""

    order: tuple[int, ...]

    @classmethod
    def from_node(cls, call: Call) -> "Transpose":
        """Read the order of the axes."""
        order: tuple[int, ...] = ()
        return cls(call.attribute("perm", order))

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Keep the rows' length along the axis that theirs becomes."""
        (made,) = rising(self.forward, inputs)
        x = inputs[0]
        rank = made.lo.dim()
        if x is None or -x.axis > rank:
            return (made,)
        order = self.order or tuple(range(rank))[::-1]
        return (made.with_row(x.row, order.index(rank + x.axis) - rank),)

    def forward(self, inputs: Inputs) -> Outputs:
        """Permute the axes."""
        x = operand(inputs, 0)
        return (x.permute(self.order or tuple(range(x.ndim))[::-1]),)


def _squeeze_examples() -> Examples:
    yield example("Squeeze", (2, 1, 3, 1), exact_gain=1.0)
    yield example("Squeeze", (2, 1, 3, 1), constants={1: torch.tensor([-1])}, exact_gain=1.0)


@layer("Squeeze", summary="1", examples=_squeeze_examples)
@final
@dataclass(frozen=True, slots=True)
class Squeeze(_AbstractRearrangement):
    """The shape without some of its axes of size 1; without all of them when none is stated."""

    axes: tuple[int, ...] | None

    @classmethod
    def from_node(cls, call: Call) -> "Squeeze":
        """Read the axes off the second input."""
        return cls(call.integers(1))

    def forward(self, inputs: Inputs) -> Outputs:
        """Drop the axes."""
        x = operand(inputs, 0)
        if self.axes is None:
            return (x.squeeze(),)
        if any(x.shape[axis] != 1 for axis in self.axes):
            raise ValueError(f"cannot squeeze axes {list(self.axes)}")
        return (x.squeeze(self.axes),)


def _unsqueeze_examples() -> Examples:
    yield example("Unsqueeze", (2, 3), constants={1: torch.tensor([0, -1])}, exact_gain=1.0)


@layer("Unsqueeze", summary="1", examples=_unsqueeze_examples)
@final
@dataclass(frozen=True, slots=True)
class Unsqueeze(_AbstractRearrangement):
    """The shape with new axes of size 1, counted in the result."""

    axes: tuple[int, ...]

    @classmethod
    def from_node(cls, call: Call) -> "Unsqueeze":
        """Read the axes off the second input."""
        return cls(call.weight(1, "the axes").integers())

    def forward(self, inputs: Inputs) -> Outputs:
        """Insert the axes."""
        x = operand(inputs, 0)
        rank = x.ndim + len(self.axes)
        new = {axis % rank for axis in self.axes}
        if len(new) != len(self.axes):
            raise ValueError(f"axes {list(self.axes)} repeat")
        sizes = iter(x.shape)
        return (x.reshape([1 if axis in new else next(sizes) for axis in range(rank)]),)
