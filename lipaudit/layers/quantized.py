"""Integer arithmetic: convolutions and matrix products of quantized signals.

Sums are taken in float64, which holds every integer below 2^53, and only then scaled and
rounded. None of these has a Lipschitz constant: they are needed to run a network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch

from lipaudit.graph.constant import Shape
from lipaudit.graph.node import Node
from lipaudit.layers.base import (
    AbstractGainLayer,
    Call,
    Examples,
    Gain,
    Unbounded,
    UnsupportedNode,
    example,
)
from lipaudit.layers.convolution import SignalConv
from lipaudit.layers.operands import Inputs, Outputs, operand, optional
from lipaudit.layers.quantization import rounded
from lipaudit.layers.registry import layer

_Spread = Callable[[torch.Tensor], torch.Tensor]


class _AbstractIntegerLayer(AbstractGainLayer):
    """A layer on integers."""

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Nothing: integers carry no small difference."""
        del shapes
        return Unbounded("discontinuous", "it computes with integers")


def _by_row(parameter: torch.Tensor) -> torch.Tensor:
    """Lay a parameter of the rows of a matrix out; one number stays one."""
    return parameter[:, None] if parameter.ndim == 1 and parameter.numel() > 1 else parameter


def _by_column(parameter: torch.Tensor) -> torch.Tensor:
    return parameter


def _centred(inputs: Inputs, items: int, zero: int, spread: _Spread) -> torch.Tensor:
    """Return integers without their zero point, in float64."""
    shift = optional(inputs, zero)
    x = operand(inputs, items).double()
    return x if shift is None else x - spread(shift.double())


def _matrices() -> dict[int, torch.Tensor]:
    return {
        0: torch.tensor([[1, 2, 3], [14, 5, 6]], dtype=torch.uint8),
        1: torch.tensor([[7, 8], [9, 10], [11, 2]], dtype=torch.uint8),
    }


def _mat_mul_integer_examples() -> Examples:
    zero = torch.tensor(2, dtype=torch.uint8)
    yield example("MatMulInteger", constants=_matrices())
    yield example("MatMulInteger", constants={**_matrices(), 2: zero, 3: zero})


@layer("MatMulInteger", summary="none: integers", examples=_mat_mul_integer_examples)
@final
@dataclass(frozen=True, slots=True)
class MatMulInteger(_AbstractIntegerLayer):
    """The product of two integer matrices without their zero points."""

    @classmethod
    def from_node(cls, call: Call) -> "MatMulInteger":
        """Build it: there is nothing to know."""
        del call
        return cls()

    def forward(self, inputs: Inputs) -> Outputs:
        """Multiply; int32 wraps around."""
        a = _centred(inputs, 0, 2, _by_row)
        b = _centred(inputs, 1, 3, _by_column)
        return ((a @ b).to(torch.int64).to(torch.int32),)


def _q_linear_mat_mul_examples() -> Examples:
    a, b = _matrices().values()
    zero = torch.tensor(3, dtype=torch.uint8)
    parts = (a, torch.tensor(0.5), zero, b, torch.tensor(0.25), zero, torch.tensor(2.0), zero)
    yield example("QLinearMatMul", constants=dict(enumerate(parts)))


@layer("QLinearMatMul", summary="none: integers", examples=_q_linear_mat_mul_examples)
@final
@dataclass(frozen=True, slots=True)
class QLinearMatMul(_AbstractIntegerLayer):
    """The product of two quantized matrices, quantized again."""

    @classmethod
    def from_node(cls, call: Call) -> "QLinearMatMul":
        """Build it: there is nothing to know."""
        del call
        return cls()

    def forward(self, inputs: Inputs) -> Outputs:
        """Multiply, scale, round."""
        sums = _centred(inputs, 0, 2, _by_row) @ _centred(inputs, 3, 5, _by_column)
        scale = _by_row(operand(inputs, 1)) * _by_column(operand(inputs, 4))
        zero = operand(inputs, 7)
        return (_requantized(sums, scale / operand(inputs, 6), zero),)


def _requantized(sums: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Scale integer sums in the scale's own type, as onnxruntime does, and round."""
    return rounded(sums.to(scale.dtype) * scale, zero, zero.dtype)


def _integer_image() -> torch.Tensor:
    return torch.arange(32, dtype=torch.uint8).reshape(1, 2, 4, 4)


def _conv_integer_examples() -> Examples:
    kernel = torch.arange(24, dtype=torch.uint8).reshape(3, 2, 2, 2)
    zero = torch.tensor(5, dtype=torch.uint8)
    yield example("ConvInteger", constants={0: _integer_image(), 1: kernel})
    yield example(
        "ConvInteger", constants={0: _integer_image(), 1: kernel, 2: zero}, pads=(1, 1, 1, 1)
    )


@layer("ConvInteger", summary="none: integers", examples=_conv_integer_examples)
@final
@dataclass(frozen=True, slots=True)
class ConvInteger(_AbstractIntegerLayer):
    """The convolution of integers without their zero points."""

    convolution: SignalConv

    @classmethod
    def from_node(cls, call: Call) -> "ConvInteger":
        """Read the geometry."""
        return cls(_plain(call, 1))

    def forward(self, inputs: Inputs) -> Outputs:
        """Convolve; int32 wraps around."""
        x = _centred(inputs, 0, 2, _by_column)
        kernel = _centred(inputs, 1, 3, _by_output_channel(operand(inputs, 1)))
        (sums,) = self.convolution.forward((x, kernel, None))
        return (sums.to(torch.int64).to(torch.int32),)


def _plain(call: Call, position: int) -> SignalConv:
    """Return the convolution of real numbers with the same geometry."""
    kernel = call.constant(position)
    attributes = dict(call.node.attributes)
    if kernel is not None:
        attributes["kernel_shape"] = kernel.shape[2:]
    elif "kernel_shape" not in attributes:
        raise UnsupportedNode("its kernel is computed, of unknown size")
    node: Node = replace(call.node, op="Conv", inputs=("x", "kernel"), attributes=attributes)
    return SignalConv.from_node(Call(node, {}))


def _by_output_channel(kernel: torch.Tensor) -> _Spread:
    def spread(parameter: torch.Tensor) -> torch.Tensor:
        return parameter.reshape(-1, *(1,) * (kernel.ndim - 1))

    return spread


def _q_linear_conv_examples() -> Examples:
    kernel = torch.arange(24, dtype=torch.uint8).reshape(3, 2, 2, 2)
    zero = torch.tensor(5, dtype=torch.uint8)
    image = {0: _integer_image(), 1: torch.tensor(0.5), 2: zero}
    result = {6: torch.tensor(9.0), 7: zero}
    bias = torch.tensor([1, -200, 300], dtype=torch.int32)
    one = {3: kernel, 4: torch.tensor(0.25), 5: zero}
    yield example("QLinearConv", constants={**image, **one, **result})
    yield example("QLinearConv", constants={**image, **one, **result, 8: bias}, pads=(1, 1, 1, 1))
    by_channel = {
        3: kernel.to(torch.int8),
        4: torch.tensor([0.5, 0.25, 0.125]),
        5: torch.zeros(3, dtype=torch.int8),
    }
    yield example("QLinearConv", constants={**image, **by_channel, **result, 8: bias})


@layer("QLinearConv", summary="none: integers", examples=_q_linear_conv_examples)
@final
@dataclass(frozen=True, slots=True)
class QLinearConv(_AbstractIntegerLayer):
    """The convolution of quantized signals, quantized again."""

    convolution: SignalConv

    @classmethod
    def from_node(cls, call: Call) -> "QLinearConv":
        """Read the geometry."""
        return cls(_plain(call, 3))

    def forward(self, inputs: Inputs) -> Outputs:
        """Convolve, add the bias (which has the scale of the products), scale, round."""
        by_channel = _by_output_channel(operand(inputs, 3))
        x = _centred(inputs, 0, 2, _by_column)
        kernel = _centred(inputs, 3, 5, by_channel)
        bias = optional(inputs, 8)
        (sums,) = self.convolution.forward((x, kernel, None if bias is None else bias.double()))
        scale = operand(inputs, 1) * operand(inputs, 4) / operand(inputs, 6)
        # Output channels are axis 1 of the result.
        laid_out = scale.reshape(1, -1, *(1,) * (sums.ndim - 2))
        return (_requantized(sums, laid_out, operand(inputs, 7)),)
