"""Normalizations, with the scales that torch leaves out written as ones."""

import torch

from lipaudit.formats.aten.call import AtenCall, Untranslatable, emit, filled, translates
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.constant import computed
from lipaudit.graph.node import Attribute


@translates("batch_norm", "_native_batch_norm_legit_no_training", "native_batch_norm")
def batch_norm(call: AtenCall, build: GraphBuilder) -> None:
    """Batch norm; in training mode it stays what it is, and is refused later."""
    if call.flag("training"):
        raise Untranslatable("training")
    statistics = [call.tensor("running_mean"), call.tensor("running_var")]
    (channels,) = call.shape(statistics[0])
    if channels is None:
        raise Untranslatable("open channels")
    weight = call.optional("weight") or filled(build, channels, 1.0, f"{call.name}.ones")
    bias = call.optional("bias") or filled(build, channels, 0.0, f"{call.name}.zeros")
    attributes: dict[str, Attribute] = {"epsilon": call.number("eps", 1e-5)}
    build.add(
        "BatchNormalization",
        [call.tensor("input"), weight, bias, *statistics],
        name=call.name,
        attributes=attributes,
        outputs=call.outputs[:1],
    )


@translates("layer_norm", "native_layer_norm")
def layer_norm(call: AtenCall, build: GraphBuilder) -> None:
    """Layer norm over the last axes."""
    shape = call.integers("normalized_shape")
    attributes: dict[str, Attribute] = {
        "axis": -len(shape),
        "epsilon": call.number("eps", 1e-5),
    }
    inputs = [call.tensor("input"), _scale(call, build, shape), call.optional("bias")]
    build.add(
        "LayerNormalization",
        inputs if inputs[2] else inputs[:2],
        name=call.name,
        attributes=attributes,
        outputs=call.outputs[:1],
    )


@translates("rms_norm", "_fused_rms_norm")
def rms_norm(call: AtenCall, build: GraphBuilder) -> None:
    """RMS norm over the last axes; without an ε torch takes that of the item type."""
    shape = call.integers("normalized_shape")
    epsilon = call.number("eps", 0.0)
    if call.arguments.get("eps") is None:
        dtype = call.dtype(call.tensor("input"))
        if dtype not in {"float32", "float64"}:
            raise Untranslatable("the epsilon of a short item type")
        epsilon = torch.finfo(torch.float64 if dtype == "float64" else torch.float32).eps
    attributes: dict[str, Attribute] = {"axis": -len(shape), "epsilon": epsilon}
    build.add(
        "RMSNormalization",
        [call.tensor("input"), _scale(call, build, shape)],
        name=call.name,
        attributes=attributes,
        outputs=call.outputs[:1],
    )


@translates("group_norm")
def group_norm(call: AtenCall, build: GraphBuilder) -> None:
    """Group norm with one scale a channel."""
    _grouped(call, build, "input", call.integer("num_groups", 1))


@translates("instance_norm")
def instance_norm(call: AtenCall, build: GraphBuilder) -> None:
    """Instance norm by the instance's own statistics."""
    channels = call.shape(call.tensor("input"))[1]
    if channels is None or not call.flag("use_input_stats", default=True):
        raise Untranslatable("stored statistics")
    _grouped(call, build, "input", channels)


def _grouped(call: AtenCall, build: GraphBuilder, name: str, groups: int) -> None:
    channels = call.shape(call.tensor(name))[1]
    if channels is None:
        raise Untranslatable("open channels")
    weight = call.optional("weight") or filled(build, channels, 1.0, f"{call.name}.ones")
    bias = call.optional("bias") or filled(build, channels, 0.0, f"{call.name}.zeros")
    attributes: dict[str, Attribute] = {
        "num_groups": groups,
        "epsilon": call.number("eps", 1e-5),
    }
    emit(call, build, "GroupNormalization", [call.tensor(name), weight, bias], attributes)


def _scale(call: AtenCall, build: GraphBuilder, shape: tuple[int, ...]) -> str:
    given = call.optional("weight")
    if given:
        return given
    return build.constant(computed(build.fresh(f"{call.name}.ones"), torch.ones(shape)))
