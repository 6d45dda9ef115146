"""Convolutions, plain and transposed."""

from lipaudit.formats.aten.call import AtenCall, Untranslatable, emit, translates
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.node import Attribute


@translates("conv1d", "conv2d", "conv3d")
def conv(call: AtenCall, build: GraphBuilder) -> None:
    """Write a convolution; `padding` may be a word."""
    kernel = _kernel(call)
    dilation = call.integers("dilation", len(kernel), 1)
    word = call.word("padding", "")
    if word == "same":
        totals = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        pads = (*(t // 2 for t in totals), *(t - t // 2 for t in totals))
    elif word in {"", "valid"}:
        pads = (0,) * (2 * len(kernel)) if word else call.integers("padding", len(kernel)) * 2
    else:
        raise Untranslatable(f"padding {word}")
    attributes = _attributes(call, kernel, pads)
    emit(call, build, "Conv", _inputs(call), {**attributes, "dilations": dilation})


@translates("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(call: AtenCall, build: GraphBuilder) -> None:
    """Write a transposed convolution."""
    _transposed(call, build, _kernel(call))


@translates("convolution")
def convolution(call: AtenCall, build: GraphBuilder) -> None:
    """Either of the two, as core ATen has it."""
    kernel = _kernel(call)
    if call.flag("transposed"):
        _transposed(call, build, kernel)
        return
    attributes = _attributes(call, kernel, call.integers("padding", len(kernel)) * 2)
    emit(call, build, "Conv", _inputs(call), attributes)


def _transposed(call: AtenCall, build: GraphBuilder, kernel: tuple[int, ...]) -> None:
    attributes = _attributes(call, kernel, call.integers("padding", len(kernel)) * 2)
    attributes["output_padding"] = call.integers("output_padding", len(kernel))
    emit(call, build, "ConvTranspose", _inputs(call), attributes)


def _kernel(call: AtenCall) -> tuple[int, ...]:
    sizes = call.shape(call.tensor("weight"))[2:]
    known = tuple(size for size in sizes if size is not None)
    if len(known) != len(sizes) or call.rank(call.tensor("input")) != len(sizes) + 2:
        raise Untranslatable("no batch axis, or an open kernel size")
    return known


def _attributes(
    call: AtenCall, kernel: tuple[int, ...], pads: tuple[int, ...]
) -> dict[str, Attribute]:
    rank = len(kernel)
    return {
        "kernel_shape": kernel,
        "strides": call.integers("stride", rank, 1),
        "pads": pads,
        "dilations": call.integers("dilation", rank, 1),
        "group": call.integer("groups", 1),
    }


def _inputs(call: AtenCall) -> list[str]:
    inputs = [call.tensor("input"), call.tensor("weight"), call.optional("bias")]
    return inputs if inputs[2] else inputs[:2]
