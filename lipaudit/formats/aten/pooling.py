"""Pooling and padding."""

import math

from lipaudit.formats.aten.call import AtenCall, Untranslatable, emit, scalar, step, translates
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.node import TORCH_DOMAIN, Attribute


@translates(
    "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices"
)
def max_pool(call: AtenCall, build: GraphBuilder) -> None:
    """Write the largest item of each window."""
    attributes = _windows(call)
    attributes["dilations"] = call.integers("dilation", _rank(call), 1)
    build.add(
        "MaxPool",
        [call.tensor("self")],
        name=call.name,
        attributes=attributes,
        outputs=call.outputs[:1],
    )


@translates("avg_pool1d", "avg_pool2d", "avg_pool3d")
def average_pool(call: AtenCall, build: GraphBuilder) -> None:
    """Write the mean of each window."""
    attributes = _windows(call)
    if call.arguments.get("divisor_override") is not None:
        _divided(call, build, attributes)
        return
    attributes["count_include_pad"] = int(call.flag("count_include_pad", default=True))
    emit(call, build, "AveragePool", [call.tensor("self")], attributes)


def _divided(call: AtenCall, build: GraphBuilder, attributes: dict[str, Attribute]) -> None:
    """Write the sum of each window, divided by a number of its own; zeros around add nothing."""
    if call.flag("ceil_mode"):
        raise Untranslatable("own divisor of windows that reach out")
    attributes["count_include_pad"] = 1
    means = step(call, build, "AveragePool", [call.tensor("self")], attributes)
    items = math.prod(call.integers("kernel_size", _rank(call), 1))
    sums = step(call, build, "Mul", [means, scalar(call, build, float(items), "items")])
    divisor = scalar(call, build, call.number("divisor_override", 1.0), "divisor")
    emit(call, build, "Div", [sums, divisor])


@translates("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
@translates("_adaptive_avg_pool2d", "_adaptive_avg_pool3d")
def adaptive_average_pool(call: AtenCall, build: GraphBuilder) -> None:
    """Write the mean of windows that divide the input."""
    _adaptive(call, build, "Average")


@translates("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(call: AtenCall, build: GraphBuilder) -> None:
    """Write the largest item of windows that divide the input."""
    _adaptive(call, build, "Max")


@translates("constant_pad_nd", "pad")
def pad(call: AtenCall, build: GraphBuilder) -> None:
    """Something put around."""
    mode = call.word("mode", "constant")
    names = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    if mode not in names:
        raise Untranslatable(f"mode {mode}")
    value = scalar(call, build, call.number("value", 0.0), "value")
    _padded(call, build, names[mode], [value] if mode == "constant" else [])


@translates("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def reflection_pad(call: AtenCall, build: GraphBuilder) -> None:
    """Write the signal mirrored at its ends."""
    _padded(call, build, "reflect", [])


@translates("replication_pad1d", "replication_pad2d", "replication_pad3d")
def replication_pad(call: AtenCall, build: GraphBuilder) -> None:
    """Write the last items repeated."""
    _padded(call, build, "edge", [])


def _rank(call: AtenCall) -> int:
    """Return how many axes the windows slide along: the operator's name says it."""
    rank = int(call.op[call.op.index("pool") + 4])
    if call.rank(call.tensor("self")) != rank + 2:
        raise Untranslatable("no batch axis")
    return rank


def _windows(call: AtenCall) -> dict[str, Attribute]:
    rank = _rank(call)
    kernel = call.integers("kernel_size", rank, 1)
    given = call.arguments.get("stride")
    stride = call.integers("stride", rank, 1) if given else kernel
    return {
        "kernel_shape": kernel,
        "strides": stride,
        "pads": call.integers("padding", rank) * 2,
        "ceil_mode": int(call.flag("ceil_mode")),
    }


def _adaptive(call: AtenCall, build: GraphBuilder, which: str) -> None:
    size = call.integers("output_size", _rank(call), 1)
    if all(one == 1 for one in size):
        build.add(
            f"Global{which}Pool",
            [call.tensor("self")],
            name=call.name,
            outputs=call.outputs[:1],
        )
        return
    build.add(
        f"Adaptive{which}Pool",
        [call.tensor("self")],
        name=call.name,
        attributes={"output_size": size},
        outputs=call.outputs[:1],
        domain=TORCH_DOMAIN,
    )


def _padded(call: AtenCall, build: GraphBuilder, mode: str, more: list[str]) -> None:
    """Torch counts pads from the last axis, begin and end together; ONNX all begins first."""
    flat = call.integers("padding") if "padding" in call.arguments else call.integers("pad")
    rank = call.rank(call.tensor("self"))
    begins, ends = [0] * rank, [0] * rank
    for at in range(len(flat) // 2):
        begins[rank - 1 - at], ends[rank - 1 - at] = flat[2 * at], flat[2 * at + 1]
    pads = build.integers([*begins, *ends], f"{call.name}.pads")
    emit(call, build, "Pad", [call.tensor("self"), pads, *more], {"mode": mode})
