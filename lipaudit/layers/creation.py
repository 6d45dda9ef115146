"""Layers that make values out of shapes and stored numbers: no difference passes through them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from lipaudit.enclosure import ZERO
from lipaudit.graph.constant import Constant, Shape, computed
from lipaudit.graph.dtypes import torch_type
from lipaudit.layers.base import (
    GATHERED,
    AbstractGainLayer,
    AbstractRetypable,
    AbstractShapeReader,
    Call,
    Examples,
    Folding,
    Gain,
    Unbounded,
    UnsupportedNode,
    ValuesNeeded,
    example,
    unary,
)
from lipaudit.layers.operands import Inputs, Outputs, operand, operands
from lipaudit.layers.registry import layer
from lipaudit.layers.shape import stated_dtype


def _shape_examples() -> Examples:
    yield example("Shape", (2, 3, 4))
    yield example("Shape", (2, 3, 4), start=1, end=-1)


@layer("Shape", summary="0: a constant", examples=_shape_examples)
@final
@dataclass(frozen=True, slots=True)
class ShapeOf(AbstractShapeReader):
    """The sizes of a signal."""

    axes: slice

    @classmethod
    def from_node(cls, call: Call) -> "ShapeOf":
        """Read which axes are asked for; Python's rules for slices are ONNX's."""
        end = call.attribute("end", 0) if call.has("end") else None
        return cls(slice(call.attribute("start", 0), end))

    def value(self, shape: Shape) -> torch.Tensor:
        """Return the sizes."""
        return torch.tensor(shape[self.axes], dtype=torch.int64)

    def forward(self, inputs: Inputs) -> Outputs:
        """Look at the shape alone."""
        x = operand(inputs)
        return (self.value(tuple(x.shape)).to(x.device),)


def _size_examples() -> Examples:
    yield example("Size", (2, 3, 4))


@layer("Size", summary="0: a constant", examples=_size_examples)
@final
@dataclass(frozen=True, slots=True)
class SizeOf(AbstractShapeReader):
    """The number of items of a signal."""

    @classmethod
    def from_node(cls, call: Call) -> "SizeOf":
        """Build it: there is nothing to know."""
        del call
        return cls()

    def value(self, shape: Shape) -> torch.Tensor:
        """Return the product of the sizes."""
        return torch.tensor(torch.Size(shape).numel())

    def forward(self, inputs: Inputs) -> Outputs:
        """Look at the shape alone."""
        x = operand(inputs)
        return (self.value(tuple(x.shape)).to(x.device),)


def _filled_examples() -> Examples:
    value = computed("value", torch.tensor([2.5]))
    yield example("ConstantOfShape", constants={0: torch.tensor([2, 3])}, value=value)
    yield example("ConstantOfShape", constants={0: torch.tensor([2, 0])})


@layer("ConstantOfShape", summary="0: a constant", examples=_filled_examples)
@final
@dataclass(frozen=True, slots=True)
class ConstantOfShape(AbstractGainLayer):
    """One number all over a stated shape."""

    folding: ClassVar[Folding] = GATHERED

    shape: Shape
    fill: Constant

    @classmethod
    def from_node(cls, call: Call) -> "ConstantOfShape":
        """Read the shape off the input and the number off the attribute."""
        shape = call.weight(0, "the shape").integers()
        fill = call.node.attributes.get("value", computed("0", torch.zeros(1)))
        if not isinstance(fill, Constant) or fill.items != 1 or any(size < 0 for size in shape):
            raise UnsupportedNode("it has no shape and one number to fill it with")
        if torch_type(fill.dtype) is None:
            raise UnsupportedNode(f"values of type {fill.dtype}", slug="dtype")
        return cls(shape, fill)

    def forward(self, inputs: Inputs) -> Outputs:
        """Spread the number; the items share one place in memory, however many there are."""
        device = operand(inputs).device
        return (self.fill.read().reshape(()).to(device).expand(self.shape),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return no factor: there is no signal."""
        del shapes
        return Gain(())


def _eye_examples() -> Examples:
    yield example("EyeLike", (3, 4), exact_gain=0.0)
    yield example("EyeLike", (3, 4), dtype=11, k=-1, exact_gain=0.0)


@layer("EyeLike", summary="0: a constant", examples=_eye_examples)
@final
@dataclass(frozen=True, slots=True)
class EyeLike(AbstractGainLayer, AbstractRetypable):
    """Ones on a diagonal of a matrix as large as the signal."""

    dtype: torch.dtype | None
    diagonal: int

    @classmethod
    def from_node(cls, call: Call) -> "EyeLike":
        """Read the diagonal and the item type."""
        dtype = stated_dtype(call, "dtype") if call.has("dtype") else None
        return cls(dtype, call.attribute("k", 0))

    def in_dtype(self, dtype: torch.dtype) -> "EyeLike":
        """Return the matrix in the run's type in place of another real one."""
        real = self.dtype is not None and self.dtype.is_floating_point
        return EyeLike(dtype, self.diagonal) if real else self

    def forward(self, inputs: Inputs) -> Outputs:
        """Look at the shape alone."""
        x = operand(inputs)
        rows, columns = x.shape
        row = torch.arange(rows, device=x.device)[:, None]
        column = torch.arange(columns, device=x.device)[None, :]
        return ((column - row == self.diagonal).to(self.dtype or x.dtype),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return 0: the values do not matter."""
        del shapes
        return unary(ZERO, "does not depend on the values")


def _range_examples() -> Examples:
    yield example("Range", constants=dict(enumerate(map(torch.tensor, (1, 10, 3)))))
    yield example("Range", constants=dict(enumerate(map(torch.tensor, (2.0, -1.0, -0.5)))))


@layer("Range", summary="none: discontinuous", examples=_range_examples)
@final
@dataclass(frozen=True, slots=True)
class Range(AbstractGainLayer):
    """The numbers from a start up to a limit in equal steps."""

    count: int | None
    """How many there are, where all three are stored."""

    @classmethod
    def from_node(cls, call: Call) -> "Range":
        """Count the numbers where start, limit and step are stored."""
        stated = [call.constant(position) for position in range(3)]
        known = [constant for constant in stated if constant is not None]
        if len(known) < len(stated):
            return cls(None)
        return cls(_count(*(constant.read().reshape(()) for constant in known)))

    def forward(self, inputs: Inputs) -> Outputs:
        """Count up: start + i * step."""
        start, limit, step = (value.reshape(()) for value in operands(inputs))
        count = self.count
        if count is None:
            if start.is_meta or limit.is_meta or step.is_meta:
                raise ValuesNeeded
            count = _count(start, limit, step)
        return (start + torch.arange(count, device=start.device).to(start.dtype) * step,)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Nothing: the length of the list depends on the values."""
        del shapes
        return Unbounded("discontinuous", "the length of its result depends on the values")


def _count(start: torch.Tensor, limit: torch.Tensor, step: torch.Tensor) -> int:
    """Return max(⌈(limit - start) / step⌉, 0), as ONNX defines it."""
    if not step.item():
        raise UnsupportedNode("a range in steps of 0")
    exact = (limit.double() - start.double()) / step.double()
    if not exact.isfinite():
        raise UnsupportedNode("a range without end")
    return max(int(exact.ceil().item()), 0)


def _one_hot_examples() -> Examples:
    indices, values = torch.tensor([[0, 2], [-1, 5]]), torch.tensor([0.5, 3.0])
    yield example("OneHot", constants={0: indices, 1: torch.tensor(3), 2: values})
    yield example("OneHot", constants={0: indices, 1: torch.tensor([3]), 2: values}, axis=0)


@layer("OneHot", summary="none: discontinuous", examples=_one_hot_examples)
@final
@dataclass(frozen=True, slots=True)
class OneHot(AbstractGainLayer):
    """One of two numbers at the position that an index names along a new axis, else the other."""

    depth: int
    axis: int

    @classmethod
    def from_node(cls, call: Call) -> "OneHot":
        """Read the length of the new axis off the second input."""
        depth = call.weight(1, "the depth").integers()
        if len(depth) != 1 or depth[0] < 1:
            raise UnsupportedNode(f"a depth of {list(depth)}")
        return cls(depth[0], call.attribute("axis", -1))

    def forward(self, inputs: Inputs) -> Outputs:
        """Compare the indices with every position; one out of range is nowhere."""
        indices, values = operand(inputs).long(), operand(inputs, 2)
        axis = self.axis % (indices.ndim + 1)
        # A negative index counts from the end.
        wrapped = torch.where(indices < 0, indices + self.depth, indices).unsqueeze(axis)
        places = torch.arange(self.depth, device=indices.device)
        places = places.reshape([-1 if at == axis else 1 for at in range(indices.ndim + 1)])
        return (torch.where(wrapped == places, values[1], values[0]),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Nothing: an index jumps."""
        del shapes
        return Unbounded("discontinuous", "an index jumps from place to place")
