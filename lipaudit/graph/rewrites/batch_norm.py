"""Batch norm at inference is a scale a channel: folded into the linear map before it.

    γ (W x + b - μ) / √(v + ε) + β  =  (s W) x + s (b - μ) + β    with s = γ / √(v + ε)

The norm of the folded map is at most the product of the two norms and often far below: the
channels that the normalization amplifies are rarely those on which W is large.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from lipaudit.graph.constant import Constant, Shape, put_of, rescale_of
from lipaudit.graph.dtypes import torch_type
from lipaudit.graph.node import TORCH_DOMAIN, Graph, Node

# v + ε, its root, the quotient and the product with the weight: four roundings of 2^-53 each,
# doubled so that their products are covered too (Higham 2002, lemma 3.1).
_FOLDING_ERROR = 8 * 2.0**-53
Read = Callable[[], torch.Tensor]
_PARAMETERS = slice(1, 5)  # scale, bias, mean, variance


def fold_batch_norms(graph: Graph, shapes: Mapping[str, Shape | None]) -> Graph:
    """Fold each batch norm whose input comes from one linear map and goes nowhere else.

    A batch norm counts its channels along axis 1, a dense layer its outputs along the last one:
    they are the same only in a matrix, which the shapes of the edges must tell.
    """
    makers = {node.outputs[0]: node for node in graph.nodes if node.outputs}
    uses = Counter(name for node in graph.nodes for name in {*node.inputs, *node.captures})
    uses.update(edge.name for edge in graph.outputs)
    constants = dict(graph.constants)
    folded: dict[str, Node] = {}
    dropped: set[str] = set()
    for node in graph.nodes:
        if node.op != "BatchNormalization" or not node.inputs[0]:
            continue
        before = makers.get(node.inputs[0])
        if before is None or uses[node.inputs[0]] != 1 or len([o for o in node.outputs if o]) != 1:
            continue
        shape = shapes.get(node.inputs[0])
        if before.op == "Linear" and (shape is None or len(shape) != 2):
            continue
        merged = _merge(before, node, constants)
        if merged is not None:
            folded[node.outputs[0]] = merged
            dropped.add(before.outputs[0])
    nodes = tuple(
        folded.get(node.outputs[0], node) if node.outputs else node
        for node in graph.nodes
        if not (node.outputs and node.outputs[0] in dropped)
    )
    return replace(graph, nodes=nodes, constants=constants)


def _merge(before: Node, norm: Node, constants: dict[str, Constant]) -> Node | None:
    """Return the linear node that does both, adding its constants; None if they do not fit."""
    if norm.attributes.get("training_mode", 0) != 0 or len(before.inputs) < 2:
        return None
    weight = constants.get(before.inputs[1])
    parameters = [constants.get(name) for name in norm.inputs[_PARAMETERS]]
    axis = _output_axis(before)
    known = [parameter for parameter in parameters if parameter is not None]
    if weight is None or axis is None or len(known) != 4:
        return None
    has_bias = len(before.inputs) > 2 and bool(before.inputs[2])
    bias = constants.get(before.inputs[2]) if has_bias else None
    if has_bias and (bias is None or bias.shape != known[0].shape):
        return None
    epsilon = norm.attributes.get("epsilon", 1e-5)
    if not isinstance(epsilon, float) or weight.shape[axis] != known[0].items:
        return None
    variance = known[3].values()
    if not bool((variance + epsilon > 0).all()):
        return None
    scale = known[0].values() / torch.sqrt(variance + epsilon)
    shift = bias.values() if bias is not None else torch.zeros_like(scale)
    offset = (shift - known[2].values()) * scale + known[1].values()
    names = f"{_label(before, weight)} + {_label(norm, known[0])}"
    scaled = _scaled(f"{names}.weight", (weight, known[0], known[3]), scale, axis)
    moved = _folded(f"{names}.bias", weight.dtype, known[0].shape, lambda: offset, known)
    if scaled.name in constants or moved.name in constants:
        return None
    constants[scaled.name] = scaled
    constants[moved.name] = moved
    return replace(
        before,
        name=names,
        inputs=(before.inputs[0], scaled.name, moved.name),
        outputs=norm.outputs,
        sources=(*before.origin, *norm.origin),
    )


def _label(node: Node, weight: Constant) -> str:
    """Return the place in the code that the weight's key names, else the node's own name."""
    key = next(iter(weight.sources), "")
    return key.removesuffix(".weight") if key.endswith(".weight") and "/" not in key else node.name


def _output_axis(node: Node) -> int | None:
    """Return the weight's axis that counts output channels; None when folding is not offered."""
    attributes: Mapping[str, object] = node.attributes
    if node.op == "Conv" and "geometry" not in attributes:
        return 0
    if node.op == "ConvTranspose" and attributes.get("group", 1) == 1:
        return 1
    if node.op == "Linear" and node.domain == TORCH_DOMAIN:
        return 0
    if node.op == "Gemm" and attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA", 0):
        # alpha scales the product with the folded weight just as it did before.
        return 0 if attributes.get("transB", 0) else 1
    return None


def _scaled(
    name: str, ingredients: tuple[Constant, ...], scale: torch.Tensor, axis: int
) -> Constant:
    """Return the weight times γ/√(v + ε), of which weight, γ and v are the ingredients.

    Wanted values go into the weight; a channel that γ makes 0 keeps its own. A mere factor goes
    into γ where the weight cannot be written.
    """
    weight, gamma, _ = ingredients
    along = [1] * len(weight.shape)
    along[axis] = -1
    factors = scale.reshape(along)
    put = put_of(weight)

    def product() -> torch.Tensor:
        return weight.values() * factors

    def before(wanted: torch.Tensor) -> Mapping[str, torch.Tensor]:
        if put is None:
            raise TypeError(f"{weight.name!r} cannot be written")
        return put(torch.where(factors == 0, weight.values(), wanted / factors))

    handle = weight if rescale_of(weight) is not None else gamma
    return replace(
        _folded(name, weight.dtype, weight.shape, product, ingredients),
        put=before if put is not None else None,
        rescale=rescale_of(handle),
        put_note=handle.put_note,
    )


def _folded(
    name: str, dtype: str, shape: Shape, exact: Read, ingredients: Sequence[Constant]
) -> Constant:
    """Return a constant that runs in the network's own type and is measured in float64."""
    return Constant(
        name=name,
        shape=shape,
        dtype=dtype,
        read=lambda: exact().to(torch_type(dtype)),
        sources=ingredients[0].sources,
        entry_error=2.0 * sum(made.entry_error for made in ingredients) + _FOLDING_ERROR,
        unrounded=exact,
    )
