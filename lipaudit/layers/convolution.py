"""Convolution: Conv and ConvTranspose with a stored kernel, in 1, 2 or 3 dimensions.

Beside ONNX's own attributes two more are understood, for what other formats say:
`padding_mode` ("zeros", "circular", "reflect", "replicate", as in torch.nn; domain "torch" only)
and `geometry` = "unstated" for a kernel out of a bare state dict, of which stride, padding and
grouping are not known.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch.nn import functional

from lipaudit.device import Compute
from lipaudit.graph.constant import Constant, Shape
from lipaudit.graph.node import ONNX_DOMAIN, TORCH_DOMAIN, Attribute, Node
from lipaudit.layers.base import (
    AbstractGainLayer,
    AbstractLayer,
    AbstractLinearLayer,
    Call,
    Example,
    Examples,
    Gain,
    Unbounded,
    UnsupportedNode,
)
from lipaudit.layers.operands import operand, optional
from lipaudit.layers.registry import layer
from lipaudit.layers.windows import Pads, Windows, same_pads
from lipaudit.operators.base import AbstractLinearOperator
from lipaudit.operators.clipped import Clipped, clipped_kernel, passed_kernel
from lipaudit.operators.convolution import convolution
from lipaudit.operators.correlation import with_zeros
from lipaudit.operators.geometry import ConvGeometry, PaddingMode

_CONV = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED = (
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
)
_TORCH_PAD = {
    PaddingMode.ZEROS: "constant",
    PaddingMode.CIRCULAR: "circular",
    PaddingMode.REFLECT: "reflect",
    PaddingMode.REPLICATE: "replicate",
}
_BILINEAR = Unbounded("bilinear", "its kernel is a signal, so it multiplies two signals")


def _kernel(call: Call) -> Constant | None:
    """Return the stored kernel; None when it is a signal."""
    kernel = call.constant(1)
    if call.given(2):
        call.weight(2, "the bias")
    if kernel is not None and not 3 <= len(kernel.shape) <= 5:
        raise UnsupportedNode(
            f"a kernel with {len(kernel.shape)} axes is no 1-D to 3-D convolution"
        )
    return kernel


def _is_unstated(call: Call) -> bool:
    return call.attribute("geometry", "stated") == "unstated"


def _unstated() -> UnsupportedNode:
    return UnsupportedNode(
        "the file holds its kernel but not its stride, padding and groups, so that the input's "
        "shape does not say what it makes; --model gives them",
        slug="geometry",
    )


def _axes(value: Sequence[object]) -> str:
    """Write one entry an axis the way people do: 2x2."""
    return "x".join(str(entry) for entry in value)


def _described(geometry: ConvGeometry, auto_pad: str) -> Mapping[str, str]:
    """Return what of a geometry is worth a word in the reports."""
    if not geometry.stated:
        return {"geometry": "not stated"}
    pads = [str(low) if low == high else f"{low}+{high}" for low, high in geometry.padding]
    words = {
        "stride": _axes(geometry.stride),
        "padding": auto_pad if auto_pad.startswith("SAME") else _axes(pads),
    }
    if any(step != 1 for step in geometry.dilation):
        words["dilation"] = _axes(geometry.dilation)
    if geometry.groups != 1:
        words["groups"] = str(geometry.groups)
    if any(geometry.output_padding):
        words["output padding"] = _axes(geometry.output_padding)
    if geometry.mode is not PaddingMode.ZEROS:
        words["padding mode"] = geometry.mode.value
    return words


@dataclass(frozen=True, slots=True)
class _ConvForm:
    """The attributes of a Conv, whose pads may depend on the size of the input."""

    windows: Windows
    groups: int
    mode: PaddingMode

    @classmethod
    def of(cls, call: Call, sizes: Shape) -> "_ConvForm":
        modes = {mode.value: mode for mode in PaddingMode}
        mode = modes.get(call.attribute("padding_mode", "zeros"))
        if mode is None or (mode is not PaddingMode.ZEROS and call.node.domain != TORCH_DOMAIN):
            raise UnsupportedNode("an unknown padding mode")
        windows = Windows.of(call, sizes)
        groups = call.attribute("group", 1)
        if groups < 1 or min(low for pad in windows.pads for low in pad) < 0:
            raise UnsupportedNode("groups or pads that are negative")
        return cls(windows, groups, mode)

    def geometry(self, sizes: Shape | None) -> ConvGeometry:
        """Return the geometry on an input of these spatial sizes (None: any)."""
        pads = self.windows.pads if sizes is None else self.windows.pads_on(sizes)
        return ConvGeometry(
            self.windows.strides, pads, self.windows.dilations, self.groups, self.mode
        )

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        x, kernel, bias = operand(inputs), operand(inputs, 1), optional(inputs, 2)
        rank = len(self.windows.strides)
        if x.dim() != rank + 2:
            raise ValueError(f"a {rank}-D convolution needs {rank + 2} axes, not {x.dim()}")
        pads = self.windows.pads_on(tuple(x.shape[2:]))
        inner = tuple(low for low, _ in pads)
        if self.mode is not PaddingMode.ZEROS or any(low != high for low, high in pads):
            # functional.pad counts axes from the last.
            flat = [size for pad in reversed(pads) for size in pad]
            x = functional.pad(x, flat, mode=_TORCH_PAD[self.mode])
            inner = (0,) * rank
        step = self.windows
        return (_CONV[rank - 1](x, kernel, bias, step.strides, inner, step.dilations, self.groups),)


def _conv_examples(domain: str) -> Callable[[], Examples]:
    def kernel(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))

    def case(
        weight: torch.Tensor, shape: Shape, bias: bool = False, **attributes: Attribute
    ) -> Example:
        names = ("x", "w", "b") if bias else ("x", "w")
        constants = {1: weight} | ({2: torch.linspace(-1, 1, weight.shape[0])} if bias else {})
        return Example(Node("Conv", "conv", names, ("y",), attributes, domain), (shape,), constants)

    def onnx() -> Examples:
        yield case(kernel(3, 2, 3), (2, 2, 7), bias=True)
        yield case(kernel(3, 2, 3, 3), (1, 2, 5, 6), bias=True, pads=(1, 1, 1, 1), strides=(2, 2))
        yield case(kernel(4, 1, 2, 3), (1, 4, 6, 5), group=4, pads=(0, 1, 1, 1), dilations=(2, 1))
        yield case(kernel(2, 2, 2, 2, 2), (1, 2, 3, 4, 3), pads=(1, 0, 0, 0, 1, 1))
        for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
            yield case(kernel(2, 2, 3, 2), (1, 2, 5, 6), auto_pad=auto, strides=(2, 3))
        yield Example(
            Node("Conv", "conv", ("x", "k"), ("y",), {"kernel_shape": (3,)}),
            ((1, 2, 5), (3, 2, 3)),
            {},
        )

    def torch_only() -> Examples:
        for mode in ("circular", "reflect", "replicate"):
            yield case(
                kernel(2, 2, 3, 3), (1, 2, 5, 4), padding_mode=mode, pads=(1, 1, 1, 1), bias=True
            )
        yield case(kernel(2, 2, 3), (1, 2, 6), padding_mode="circular", pads=(2, 2))

    return onnx if domain == ONNX_DOMAIN else torch_only


@layer("Conv", summary="largest singular value", examples=_conv_examples(ONNX_DOMAIN))
@layer(
    "Conv",
    summary="largest singular value, with the stated padding mode",
    examples=_conv_examples(TORCH_DOMAIN),
    domain=TORCH_DOMAIN,
)
@final
@dataclass(frozen=True, slots=True)
class Conv(AbstractLinearLayer):
    """A convolution with a stored kernel of shape (outputs, inputs / groups, *sizes)."""

    kernel: Constant
    form: _ConvForm | None
    """None when only the kernel is known."""

    @classmethod
    def from_node(cls, call: Call) -> AbstractLayer:
        """Take the kernel; where it is a signal, the layer is a `SignalConv`."""
        kernel = _kernel(call)
        if kernel is None:
            sizes = call.whole_numbers("kernel_shape")
            if not 1 <= len(sizes) <= 3:
                raise UnsupportedNode("the kernel is a signal of unknown shape")
            return SignalConv(_ConvForm.of(call, sizes))
        form = None if _is_unstated(call) else _ConvForm.of(call, kernel.shape[2:])
        return cls(kernel, form)

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Pad, convolve, and add the bias."""
        if self.form is None:
            raise _unstated()
        return self.form.run(inputs)

    def weights(self) -> tuple[Constant, ...]:
        """Return the kernel."""
        return (self.kernel,)

    def with_weight(self, weight: Constant) -> "Conv":
        """See `AbstractLinearLayer.with_weight`."""
        return replace(self, kernel=weight)

    def operator(self, shape: Shape | None, compute: Compute) -> AbstractLinearOperator:
        """Return the convolution of one sample of this shape."""
        sample = None if shape is None or self.form is None else shape[1:]
        return convolution(self.kernel.values(), self._geometry(shape), sample, compute)

    def clipped(self, shape: Shape | None, limit: float, compute: Compute) -> Clipped | None:
        """See `AbstractLinearLayer.clipped`."""
        sample = None if shape is None or self.form is None else shape[1:]
        kernel, geometry = self.kernel.values(), self._geometry(shape)
        return clipped_kernel(kernel, geometry, sample, limit, compute)

    def passed(self, shape: Shape | None, limit: float, compute: Compute) -> torch.Tensor:
        """See `AbstractLinearLayer.passed`."""
        return passed_kernel(self.kernel.values(), self._geometry(shape), shape, limit, compute)

    def geometry(self) -> Mapping[str, str]:
        """Return stride, padding, and what else is not usual."""
        auto_pad = "" if self.form is None else self.form.windows.auto_pad
        return _described(self._geometry(None), auto_pad)

    def _geometry(self, shape: Shape | None) -> ConvGeometry:
        if self.form is None:
            return ConvGeometry.unstated(len(self.kernel.shape) - 2)
        return self.form.geometry(None if shape is None else shape[2:])


@final
@dataclass(frozen=True, slots=True)
class SignalConv(AbstractGainLayer):
    """A convolution of two signals."""

    form: _ConvForm

    @classmethod
    def from_node(cls, call: Call) -> "SignalConv":
        """Read the attributes."""
        return cls(_ConvForm.of(call, call.whole_numbers("kernel_shape")))

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Pad and convolve."""
        return self.form.run(inputs)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """State that there is no finite constant."""
        del shapes
        return _BILINEAR


def _transposed_examples() -> Examples:
    def case(weight: torch.Tensor, shape: Shape, **attributes: Attribute) -> Example:
        bias = torch.linspace(-1, 1, weight.shape[1] * int(str(attributes.get("group", 1))))
        node = Node("ConvTranspose", "up", ("x", "w", "b"), ("y",), attributes)
        return Example(node, (shape,), {1: weight, 2: bias})

    square = torch.arange(54.0).reshape(3, 2, 3, 3).sin()
    line = torch.arange(12.0).reshape(2, 2, 3).cos()
    yield case(line, (1, 2, 5))
    yield case(square, (1, 3, 4, 3), pads=(1, 1, 1, 1), strides=(2, 2), output_padding=(1, 1))
    yield case(square, (1, 3, 4, 3), pads=(0, 1, 2, 0), strides=(2, 1), dilations=(1, 2))
    yield case(square[:2], (1, 2, 4, 3), group=2)
    yield case(square, (1, 3, 4, 3), strides=(2, 2), output_shape=(8, 7))
    for auto in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        yield case(square, (1, 3, 4, 3), strides=(2, 2), auto_pad=auto)


@layer("ConvTranspose", summary="largest singular value", examples=_transposed_examples)
@final
@dataclass(frozen=True, slots=True)
class ConvTranspose(AbstractLinearLayer):
    """The adjoint of a convolution with a stored kernel (inputs, outputs / groups, *sizes)."""

    kernel: Constant
    windows: Windows | None
    """None when only the kernel is known."""
    groups: int
    output_padding: tuple[int, ...]
    output_shape: tuple[int, ...]
    """Spatial sizes that are asked for; () when pads say it."""

    @classmethod
    def from_node(cls, call: Call) -> "ConvTranspose":
        """Take the kernel, which must be stored."""
        kernel = _kernel(call) or call.weight(1, "the kernel")
        sizes = kernel.shape[2:]
        rank = len(sizes)
        windows = None if _is_unstated(call) else Windows.of(call, sizes)
        extra = call.whole_numbers("output_padding") or (0,) * rank
        asked = call.whole_numbers("output_shape")
        if len(extra) != rank or len(asked) not in {0, rank} or min(extra) < 0:
            raise UnsupportedNode("output_padding or output_shape does not fit the kernel")
        return cls(kernel, windows, call.attribute("group", 1), extra, asked)

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Spread the kernel over the output, cut the pads away, and add the bias."""
        x, kernel, bias = operand(inputs), operand(inputs, 1), optional(inputs, 2)
        if self.windows is None:
            raise _unstated()
        rank = len(self.windows.strides)
        # On its meta device torch does not look at the channels.
        if x.dim() != rank + 2 or x.shape[1] != kernel.shape[0]:
            raise ValueError(f"a {rank}-D convolution of {kernel.shape[0]} channels")
        full = _TRANSPOSED[rank - 1](
            x, kernel, None, self.windows.strides, 0, 0, self.groups, self.windows.dilations
        )
        cut = zip(self._cut(tuple(x.shape[2:])), self.output_padding, strict=True)
        made = with_zeros(full, tuple((-low, extra - high) for (low, high), extra in cut))
        return (made if bias is None else made + bias.reshape(-1, *(1,) * rank),)

    def weights(self) -> tuple[Constant, ...]:
        """Return the kernel."""
        return (self.kernel,)

    def with_weight(self, weight: Constant) -> "ConvTranspose":
        """See `AbstractLinearLayer.with_weight`."""
        return replace(self, kernel=weight)

    def operator(self, shape: Shape | None, compute: Compute) -> AbstractLinearOperator:
        """Return the transposed convolution of one sample of this shape."""
        sample = None if shape is None or self.windows is None else shape[1:]
        return convolution(self.kernel.values(), self._geometry(shape), sample, compute)

    def clipped(self, shape: Shape | None, limit: float, compute: Compute) -> Clipped | None:
        """See `AbstractLinearLayer.clipped`."""
        sample = None if shape is None or self.windows is None else shape[1:]
        kernel, geometry = self.kernel.values(), self._geometry(shape)
        return clipped_kernel(kernel, geometry, sample, limit, compute)

    def passed(self, shape: Shape | None, limit: float, compute: Compute) -> torch.Tensor:
        """See `AbstractLinearLayer.passed`."""
        return passed_kernel(self.kernel.values(), self._geometry(shape), shape, limit, compute)

    def geometry(self) -> Mapping[str, str]:
        """Return stride, padding, and what else is not usual."""
        auto_pad = "" if self.windows is None else self.windows.auto_pad
        words = dict(_described(self._geometry(None), auto_pad))
        if self.output_shape:
            words["output shape"] = _axes(self.output_shape)
        return words

    def _geometry(self, shape: Shape | None) -> ConvGeometry:
        rank = len(self.kernel.shape) - 2
        if self.windows is None:
            return ConvGeometry.unstated(rank)
        pads = self.windows.pads if shape is None else self._cut(shape[2:])
        return ConvGeometry(
            self.windows.strides,
            pads,
            self.windows.dilations,
            self.groups,
            transposed=True,
            output_padding=self.output_padding,
        )

    def _cut(self, sizes: Shape) -> Pads:
        """Return what is cut away on each side, for an input of these spatial sizes.

        The formulas of the ONNX specification of ConvTranspose: an asked-for size, or
        SAME_*'s input size times stride, fixes the total, of which the odd item goes to the
        end (SAME_UPPER) or to the start.
        """
        if self.windows is None or not (self.output_shape or self.windows.is_same):
            return self.windows.pads if self.windows is not None else ()
        asked = self.output_shape or tuple(
            size * stride for size, stride in zip(sizes, self.windows.strides, strict=True)
        )
        totals = tuple(
            stride * (size - 1) + extra + reach - wanted
            for size, stride, extra, reach, wanted in zip(
                sizes,
                self.windows.strides,
                self.output_padding,
                self.windows.reaches,
                asked,
                strict=True,
            )
        )
        return same_pads(totals, more_at_end=self.windows.auto_pad == "SAME_UPPER")
