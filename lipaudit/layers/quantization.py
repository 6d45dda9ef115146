"""Quantization: real numbers to integers with a scale, and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from lipaudit.graph.constant import Constant, Shape
from lipaudit.layers.base import (
    AbstractGainLayer,
    AbstractRetypable,
    Call,
    Examples,
    Folding,
    Gain,
    Unbounded,
    example,
    unary,
)
from lipaudit.layers.magnitude import largest_magnitude
from lipaudit.layers.operands import Inputs, Outputs, axis_of, of_rank, operand, optional
from lipaudit.layers.registry import layer
from lipaudit.layers.shape import cast, stated_dtype

_ROUNDS = Unbounded("discontinuous", "it rounds to integers")


@dataclass(frozen=True, slots=True)
class _Granularity:
    """Along what a scale varies: nothing, one axis, or blocks of one axis."""

    axis: int
    block: int

    @classmethod
    def stated(cls, call: Call) -> "_Granularity":
        return cls(call.attribute("axis", 1), call.attribute("block_size", 0))

    def spread(self, parameter: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Lay a scale or a zero point out so that it meets the items of x that it belongs to."""
        if parameter.numel() == 1:
            return parameter.reshape(())
        axis = axis_of(self.axis, x.dim())
        if parameter.ndim == 1 and not self.block:
            return parameter.reshape([-1 if at == axis else 1 for at in range(x.ndim)])
        if not self.block:
            raise ValueError("a scale of several axes needs a block size")
        of_rank(parameter, x.dim())
        repeated = parameter.repeat_interleave(self.block, axis)
        return repeated.narrow(axis, 0, x.shape[axis])


def rounded(x: torch.Tensor, zero: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """Round half to even, shift, and saturate to an integer type (or cast to an 8-bit float)."""
    if dtype.is_floating_point:
        return cast(x, dtype)
    limits = torch.iinfo(dtype)
    shifted = x.round() if zero is None else x.round() + zero.to(x.dtype)
    return shifted.clamp(limits.min, limits.max).to(dtype)


def _quantize_examples() -> Examples:
    scale, zero = torch.tensor(0.25), torch.tensor(3, dtype=torch.uint8)
    yield example("QuantizeLinear", (2, 3), constants={1: scale, 2: zero})
    by_axis = {1: torch.tensor([0.25, 0.5, 2.0]), 2: torch.tensor([0, 1, -2], dtype=torch.int8)}
    yield example("QuantizeLinear", (2, 3), constants=by_axis, axis=1)
    yield example("QuantizeLinear", (2, 3), constants={1: scale})


@layer("QuantizeLinear", summary="none: discontinuous", examples=_quantize_examples)
@final
@dataclass(frozen=True, slots=True)
class QuantizeLinear(AbstractGainLayer):
    """round(x / scale) + zero point, saturated to an integer type."""

    granularity: _Granularity
    dtype: torch.dtype | None
    """As an attribute says; None: that of the zero point."""

    @classmethod
    def from_node(cls, call: Call) -> "QuantizeLinear":
        """Read along what the scale varies, and the type."""
        stated = call.attribute("output_dtype", 0)
        dtype = stated_dtype(call, "output_dtype") if stated else None
        return cls(_Granularity.stated(call), dtype)

    def forward(self, inputs: Inputs) -> Outputs:
        """Divide, round, shift, saturate."""
        x, zero = operand(inputs), optional(inputs, 2)
        dtype = self.dtype or (torch.uint8 if zero is None else zero.dtype)
        scaled = x / self.granularity.spread(operand(inputs, 1), x)
        shift = None if zero is None else self.granularity.spread(zero, x)
        return (rounded(scaled, shift, dtype),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Nothing: a step is no slope."""
        del shapes
        return _ROUNDS


def _dequantize_examples() -> Examples:
    op, shape, integers = "DequantizeLinear", (2, 3), ("int8",)
    yield example(op, shape, constants={1: torch.tensor(0.25)}, dtypes=integers)
    by_axis = {1: torch.tensor([0.25, 0.5, 2.0]), 2: torch.tensor([0, 1, -2], dtype=torch.int8)}
    yield example(op, shape, constants=by_axis, dtypes=integers)
    blocks = {1: torch.tensor([[0.25, 0.5], [1.0, 2.0]])}
    yield example(op, shape, constants=blocks, dtypes=integers, axis=1, block_size=2)


@layer("DequantizeLinear", summary="max |scale|", examples=_dequantize_examples)
@final
@dataclass(frozen=True, slots=True)
class DequantizeLinear(AbstractGainLayer, AbstractRetypable):
    """(x - zero point) * scale: quantized weights as the real numbers they stand for."""

    # The difference of two integers and its product with a scale: one rounding in float64.
    folding: ClassVar[Folding] = Folding(rounding=2.0**-53, linear_in=(1,))

    granularity: _Granularity
    scale: Constant | None
    dtype: torch.dtype | None
    """As an attribute says; None: that of the scale."""

    @classmethod
    def from_node(cls, call: Call) -> "DequantizeLinear":
        """Take the scale, and along what it varies."""
        stated = call.attribute("output_dtype", 0)
        dtype = stated_dtype(call, "output_dtype") if stated else None
        return cls(_Granularity.stated(call), call.constant(1), dtype)

    def in_dtype(self, dtype: torch.dtype) -> "DequantizeLinear":
        """Return the layer that yields the run's type."""
        return DequantizeLinear(self.granularity, self.scale, dtype)

    def forward(self, inputs: Inputs) -> Outputs:
        """Subtract and multiply, in a type that holds the difference of the integers."""
        x, scale, zero = operand(inputs), operand(inputs, 1), optional(inputs, 2)
        dtype = self.dtype or scale.dtype
        wide = torch.promote_types(scale.dtype, torch.float32)
        items = x.to(wide)
        if zero is not None and not zero.is_floating_point():
            items = items - self.granularity.spread(zero, x).to(wide)
        return ((items * self.granularity.spread(scale, x).to(wide)).to(dtype),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return the largest scale: a diagonal map."""
        if self.scale is None or len(shapes) != 1:
            return Unbounded("bilinear", "the network computes the scale or the zero point")
        largest = largest_magnitude(self.scale)
        return largest if isinstance(largest, Unbounded) else unary(largest, "largest scale")


def _dynamic_examples() -> Examples:
    yield example("DynamicQuantizeLinear", (2, 3), outputs=3)
    yield example("DynamicQuantizeLinear", constants={0: torch.tensor([1.0, 2.5])}, outputs=3)
    yield example("DynamicQuantizeLinear", constants={0: torch.zeros(2)}, outputs=3)


@layer("DynamicQuantizeLinear", summary="none: discontinuous", examples=_dynamic_examples)
@final
@dataclass(frozen=True, slots=True)
class DynamicQuantizeLinear(AbstractGainLayer):
    """Quantization to uint8 with the scale that the values themselves ask for."""

    @classmethod
    def from_node(cls, call: Call) -> "DynamicQuantizeLinear":
        """Build it: there is nothing to know."""
        del call
        return cls()

    def forward(self, inputs: Inputs) -> Outputs:
        """Spread 0..255 over the range of the values and 0 (ONNX's definition)."""
        x = operand(inputs)
        low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
        scale = (high - low) / 255
        scale = torch.where(scale == 0, 1, scale)  # all values are 0: any scale will do
        zero = rounded(-low / scale, None, torch.uint8)
        return rounded(x / scale, zero, torch.uint8), scale, zero

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Nothing: a step is no slope."""
        del shapes
        return _ROUNDS
