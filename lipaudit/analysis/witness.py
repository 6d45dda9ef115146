"""Witness: sizes of the inputs at which a network runs, where nobody says what they are.

A bound for every size is a bound of nothing if there is no size at which the layers fit. So one
is looked for: the first weight says how many channels or features go in, and what is left open
is tried, one number for all open axes.
"""

from collections.abc import Iterator, Mapping
from itertools import chain

from lipaudit.errors import ShapeError
from lipaudit.graph.constant import Constant, Shape
from lipaudit.graph.node import Edge, Graph, Node
from lipaudit.layers import network as networks

_Open = tuple[int | None, ...]

_USUAL = (32, 224, 28, 64, 16, 8, 4, 1, 299, 256, 128, 96, 48, 512, 227, 2, 84)
_LARGEST = 300
_MOST_VISITS = 20_000
"""Nodes that are looked at before the search ends: some seconds."""


def exists(graph: Graph, known: Mapping[str, Shape]) -> bool:
    """Tell whether sizes were found at which every node takes what reaches it."""
    unknown = [edge for edge in graph.inputs if known.get(edge.name, edge.known_shape) is None]
    if not unknown:
        return True
    tries = max(_MOST_VISITS // max(len(graph.nodes), 1), len(_USUAL))
    for shapes in _candidates(graph, unknown):
        if tries <= 0:
            return False
        tries -= 1
        try:
            networks.build(graph, {**known, **shapes})
        except ShapeError:
            continue
        return True
    return False


def _candidates(graph: Graph, unknown: list[Edge]) -> Iterator[dict[str, Shape]]:
    """Yield shapes of all open inputs together, the likely ones first."""
    forms = {edge.name: tuple(_forms(graph, edge)) for edge in unknown}
    count = max(map(len, forms.values()))
    sizes = dict.fromkeys((*_USUAL, *range(1, _LARGEST)))
    for size in sizes:
        for at in range(count):
            chosen = {name: every[min(at, len(every) - 1)] for name, every in forms.items()}
            if size == next(iter(sizes)) or any(None in form for form in chosen.values()):
                yield {
                    name: tuple(size if axis is None else axis for axis in form)
                    for name, form in chosen.items()
                }


def _forms(graph: Graph, edge: Edge) -> Iterator[_Open]:
    """Yield the shapes an input may have: what the file leaves open, or what a weight wants."""
    if edge.shape is not None:
        whole = tuple(axis if isinstance(axis, int) else None for axis in edge.shape)
        yield (1, *whole[1:]) if whole and whole[0] is None else whole
        yield whole
        return
    for node in graph.nodes:
        wanted = tuple(_wanted(node, graph.constants))
        if wanted:
            yield from wanted
            break
    yield from chain([(1,) + (None,) * rank for rank in range(1, 5)], [(None,), ()])


def _wanted(node: Node, constants: Mapping[str, Constant]) -> Iterator[_Open]:
    """Yield what can go into a node with a weight."""
    stored = [constants[name] for name in node.inputs[1:2] if name in constants]
    if not stored or not stored[0].shape:
        return
    (weight,) = stored
    shape = weight.shape
    groups = node.attributes.get("group", 1)
    if node.op == "Conv" and isinstance(groups, int):
        yield (1, shape[1] * groups, *(None,) * (len(shape) - 2))
    elif node.op == "ConvTranspose":
        yield (1, shape[0], *(None,) * (len(shape) - 2))
    elif node.op in {"BatchNormalization", "InstanceNormalization", "GroupNormalization"}:
        yield from ((1, shape[0], *(None,) * more) for more in range(4))
    elif node.op in {"Linear", "LayerNormalization", "RMSNormalization", "Gemm", "MatMul"}:
        last = shape[1:] if node.op == "Linear" else shape
        if node.op in {"Gemm", "MatMul"}:
            turned = node.attributes.get("transB", 0) == 1
            last = shape[-1:] if turned else shape[-2:-1]
        yield from ((1, *(None,) * more, *last) for more in range(4))
