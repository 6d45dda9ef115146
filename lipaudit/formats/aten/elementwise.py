"""Arithmetic item by item, activations with parameters, and softmax."""

import torch

from lipaudit.formats.aten.call import (
    AtenCall,
    Ref,
    Untranslatable,
    emit,
    parameter,
    scalar,
    step,
    translates,
)
from lipaudit.formats.aten.parametrized import spectral_norm
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.constant import Constant
from lipaudit.graph.node import TORCH_DOMAIN, Attribute

_ARITHMETIC = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"}
_PAIRS = {"maximum": "Max", "minimum": "Min"}
_CONSTANT_CLAMPS = {"relu6": (0.0, 6.0), "relu6_": (0.0, 6.0)}


@translates("add", "sub", "mul", "div", "add_", "sub_", "mul_", "div_")
def arithmetic(call: AtenCall, build: GraphBuilder) -> None:
    """Write the four operations, with torch's factor on the second operand."""
    if call.arguments.get("rounding_mode") is not None:
        raise Untranslatable("rounded division")
    if call.op.startswith("div") and spectral_norm(call, build):
        return
    other = _operand(call, build, "other")
    factor = call.number("alpha", 1.0)
    if factor != 1.0:
        other = step(call, build, "Mul", [other, scalar(call, build, factor, "alpha")])
    emit(call, build, _ARITHMETIC[call.op.rstrip("_")], [_operand(call, build, "self"), other])


@translates("maximum", "minimum")
def extreme(call: AtenCall, build: GraphBuilder) -> None:
    """Write the larger or smaller of two."""
    emit(call, build, _PAIRS[call.op], [call.tensor("self"), call.tensor("other")])


@translates("pow")
def power(call: AtenCall, build: GraphBuilder) -> None:
    """Write a power."""
    exponent = _operand(call, build, "exponent")
    emit(call, build, "Pow", [_operand(call, build, "self"), exponent])


@translates("rsub")
def reversed_difference(call: AtenCall, build: GraphBuilder) -> None:
    """Other - self."""
    if call.number("alpha", 1.0) != 1.0:
        raise Untranslatable("scaled")
    emit(call, build, "Sub", [_operand(call, build, "other"), call.tensor("self")])


@translates("rsqrt")
def reciprocal_root(call: AtenCall, build: GraphBuilder) -> None:
    """1 / √x."""
    emit(call, build, "Reciprocal", [step(call, build, "Sqrt", [call.tensor("self")])])


@translates("where")
def where(call: AtenCall, build: GraphBuilder) -> None:
    """One of two, by a condition."""
    both = [_operand(call, build, name) for name in ("self", "other")]
    emit(call, build, "Where", [call.tensor("condition"), *both])


@translates("clamp", "hardtanh", "clamp_", "hardtanh_", "relu6", "relu6_", "clamp_min", "clamp_max")
def clamp(call: AtenCall, build: GraphBuilder) -> None:
    """Write a projection onto an interval."""
    low, high = call.arguments.get("min"), call.arguments.get("max")
    if "hardtanh" in call.op:
        low, high = call.number("min_val", -1.0), call.number("max_val", 1.0)
    low, high = _CONSTANT_CLAMPS.get(call.op, (low, high))
    if isinstance(low, Ref) or isinstance(high, Ref):
        _between(call, build, low, high)
        return
    if not all(end is None or isinstance(end, (int, float)) for end in (low, high)):
        raise Untranslatable("ends that are not stored")
    ends = [
        scalar(call, build, end, "end") if isinstance(end, (int, float)) else ""
        for end in (low, high)
    ]
    while ends and not ends[-1]:
        ends.pop()
    emit(call, build, "Clip", [call.tensor("self"), *ends])


def _between(call: AtenCall, build: GraphBuilder, low: object, high: object) -> None:
    """Write min(max(x, low), high), which copies items where the ends are larger tensors."""
    x = call.tensor("self")
    if low is not None and high is not None:
        x = step(call, build, "Max", [x, _operand(call, build, "min")])
    last = ("Max", "min") if high is None else ("Min", "max")
    emit(call, build, last[0], [x, _operand(call, build, last[1])])


@translates("masked_fill", "masked_fill_")
def masked_fill(call: AtenCall, build: GraphBuilder) -> None:
    """Write a number where a mask holds."""
    inputs = [call.tensor("mask"), _operand(call, build, "value"), call.tensor("self")]
    emit(call, build, "Where", inputs)


@translates("threshold", "threshold_")
def threshold(call: AtenCall, build: GraphBuilder) -> None:
    """Write the items above a number, and another number for the rest."""
    least, x = _operand(call, build, "threshold"), call.tensor("self")
    if call.number("threshold", 0.0) == call.number("value", 0.0):
        emit(call, build, "Clip", [x, least])
        return
    above = step(call, build, "Greater", [x, least])
    emit(call, build, "Where", [above, x, _operand(call, build, "value")])


@translates("softshrink", "hardshrink")
def shrink(call: AtenCall, build: GraphBuilder) -> None:
    """Write 0 for small items; the soft one moves the others towards 0."""
    limit = call.number("lambd", 0.5)
    if limit < 0:
        raise Untranslatable("a negative limit")
    _with(call, build, "Shrink", {"lambd": limit, "bias": limit if "soft" in call.op else 0.0})


@translates("leaky_relu", "leaky_relu_")
def leaky_relu(call: AtenCall, build: GraphBuilder) -> None:
    """Write a rectifier with a slope below 0."""
    _with(call, build, "LeakyRelu", {"alpha": call.number("negative_slope", 0.01)})


@translates("elu", "elu_")
def elu(call: AtenCall, build: GraphBuilder) -> None:
    """Write an exponential linear unit."""
    if call.number("scale", 1.0) != 1.0 or call.number("input_scale", 1.0) != 1.0:
        raise Untranslatable("scaled")
    _with(call, build, "Elu", {"alpha": call.number("alpha", 1.0)})


@translates("celu")
def celu(call: AtenCall, build: GraphBuilder) -> None:
    """Write a continuously differentiable exponential linear unit."""
    _with(call, build, "Celu", {"alpha": call.number("alpha", 1.0)})


@translates("gelu")
def gelu(call: AtenCall, build: GraphBuilder) -> None:
    """Write a Gaussian error linear unit."""
    _with(call, build, "Gelu", {"approximate": call.word("approximate", "none")})


@translates("glu")
def glu(call: AtenCall, build: GraphBuilder) -> None:
    """Write one half gated by the other."""
    inputs, axis = [call.tensor("self")], call.integer("dim", -1)
    emit(call, build, "GLU", inputs, {"dim": axis}, domain=TORCH_DOMAIN)


@translates("softplus")
def softplus(call: AtenCall, build: GraphBuilder) -> None:
    """Write log(1 + exp(βx)) / β."""
    beta, threshold = call.number("beta", 1.0), call.number("threshold", 20.0)
    if beta == 1.0 and threshold == 20.0:
        _with(call, build, "Softplus", {})
        return
    inputs = [call.tensor("self")]
    attributes: dict[str, Attribute] = {"beta": beta, "threshold": threshold}
    emit(call, build, "Softplus", inputs, attributes, domain=TORCH_DOMAIN)


@translates("prelu")
def prelu(call: AtenCall, build: GraphBuilder) -> None:
    """Write a rectifier with a learned slope for each channel (axis 1)."""
    slope = parameter(build, call.tensor("weight"))
    rank = call.rank(call.tensor("self"))
    if slope is None:
        raise Untranslatable("computed slope")
    if slope.items > 1 and rank > 2:
        slope = _on_axis_one(slope, rank)
    emit(call, build, "PRelu", [call.tensor("self"), build.constant(slope)])


@translates("softmax", "_softmax", "log_softmax", "_log_softmax")
def softmax(call: AtenCall, build: GraphBuilder) -> None:
    """Softmax or its logarithm along an axis."""
    op = "LogSoftmax" if "log" in call.op else "Softmax"
    _with(call, build, op, {"axis": call.integer("dim", -1)})


def _with(call: AtenCall, build: GraphBuilder, op: str, attributes: dict[str, Attribute]) -> None:
    emit(call, build, op, [call.tensor("self")], attributes)


def _operand(call: AtenCall, build: GraphBuilder, name: str) -> str:
    """Return a tensor operand, or a number made a constant."""
    value = call.arguments.get(name)
    if isinstance(value, Ref):
        return value.name
    if isinstance(value, (int, float)):
        return scalar(call, build, value, name)
    raise Untranslatable(f"{name} is neither tensor nor stored number")


def _on_axis_one(slope: Constant, rank: int) -> Constant:
    shape = (slope.items, *(1,) * (rank - 2))

    def read() -> torch.Tensor:
        return slope.read().reshape(shape)

    return Constant(
        name=f"{slope.name}.on_channels",
        shape=shape,
        dtype=slope.dtype,
        read=read,
        sources=slope.sources,
        scaled_by=slope.scaled_by,
    )
