"""The chain: layers of a bare state dict, assumed to follow one another if nothing else fits.

What is assumed is printed: that the layers act in file order, and that between them stand
only maps that do not stretch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lipaudit.formats.loose import LooseLayers
from lipaudit.formats.modules import item_type
from lipaudit.graph.constant import Constant
from lipaudit.graph.node import Edge, Graph, Node

_GAPS = (
    "between them stand only maps that do not stretch (ReLU and its like, flatten, "
    "pooling without overlap)"
)
ASSUMPTIONS = ("the layers act one after the other in file order", _GAPS)


@dataclass(frozen=True, slots=True)
class Chain:
    """The assumed graph, or why there is none."""

    graph: Graph | None
    assumptions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def assume(layers: LooseLayers) -> Chain:
    """Wire the layers in file order if their sizes leave nothing over."""
    problem = _problem(layers)
    if problem:
        return Chain(None, notes=(f"not one chain of layers: {problem}",))
    wired: list[Node] = []
    before = "input"
    for node in layers.nodes:
        wired.append(replace(node, inputs=(before, *node.inputs[1:])))
        before = node.outputs[0]
    dtype = item_type(layers.constants[node.inputs[1]] for node in layers.nodes)
    graph = Graph(tuple(wired), layers.constants, (Edge("input", dtype=dtype),), (Edge(before),))
    return Chain(graph, ASSUMPTIONS)


def _problem(layers: LooseLayers) -> str:
    """Say why the layers do not form a chain; "" if they do."""
    if not layers.nodes:
        return "there are none"
    if layers.unread:
        return f"{layers.unread[0].name!r} has no place in it"
    blocks = _blocks([node.name for node in layers.nodes])
    if blocks:
        return f"the names speak of blocks ({blocks}), which often have skips or branches"
    flowing: int | None = None
    flat = False
    for node in layers.nodes:
        weight = layers.constants[node.inputs[1]]
        if not node.inputs[1].endswith("weight") or "weight_" in node.inputs[1]:
            return f"{node.name!r} is recurrent or one of several matrices"
        wants, makes, dense = _channels(node, weight)
        if flat and not dense and node.op == "Conv":
            return f"the convolution {node.name!r} follows a dense layer"
        if flowing is not None and not _fits(flowing, wants, dense=dense, flat=flat):
            return f"{node.name!r} wants {wants} numbers where {flowing} arrive"
        flowing, flat = makes, flat or dense
    return ""


def _blocks(names: Sequence[str]) -> str:
    """Name the parts that are more than rows of layers: `layer1.0` with its own conv1, conv2.

    Names of one level (`conv1`, `fc2`), or numbered parts of nn.Sequential (`features.0`,
    `classifier.3`), are what chains look like.
    """
    parents: dict[str, list[str]] = {}
    for name in names:
        parent, _, last = name.replace("/", ".").rpartition(".")
        parents.setdefault(parent, []).append(last)
    if len(parents) == 1:
        return ""
    inner = [p for p, kids in parents.items() if p and not all(k.isdigit() for k in kids)]
    return ", ".join(repr(parent) for parent in inner[:2])


def _channels(node: Node, weight: Constant) -> tuple[int, int, bool]:
    """Return what a node takes and makes (channels or features), and whether it is dense."""
    if node.op == "BatchNormalization":
        return weight.shape[0], weight.shape[0], False
    return weight.shape[1], weight.shape[0], node.op == "Linear"


def _fits(flowing: int, wants: int, *, dense: bool, flat: bool) -> bool:
    # A dense layer behind a convolution sees every pixel of every channel.
    several = flowing > 0 and wants > 0 and wants % flowing == 0
    return wants == flowing or (dense and not flat and several)
