"""A padding that exporters write apart belongs to the convolution after it.

torch.nn writes reflect, replicate and circular padding as one attribute of a convolution, exports
as a node of its own. Apart, the norm of the convolution would be that of another layer than the
one in the code.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from lipaudit.graph.constant import Constant, Shape
from lipaudit.graph.node import ONNX_DOMAIN, TORCH_DOMAIN, Graph, Node

_MODES = {"wrap": "circular", "reflect": "reflect", "edge": "replicate"}
_ROOM = {"wrap": 0, "reflect": 1}
"""By how much the padding of one side must stay below the size, as torch demands."""


def join_paddings(graph: Graph, shapes: Mapping[str, Shape | None]) -> Graph:
    """Join each padding with the one convolution that reads it; the same graph if there is none."""
    makers = {node.outputs[0]: node for node in graph.nodes if node.outputs}
    uses = Counter(name for node in graph.nodes for name in {*node.inputs, *node.captures})
    uses.update(edge.name for edge in graph.outputs)
    joined: dict[str, Node] = {}
    dropped: set[str] = set()
    for node in graph.nodes:
        before = makers.get(node.inputs[0]) if node.op == "Conv" and node.inputs else None
        if before is None or before.op != "Pad" or uses[node.inputs[0]] != 1:
            continue
        one = _joined(before, node, graph.constants, shapes.get(before.inputs[0]))
        if one is not None:
            joined[node.outputs[0]] = one
            dropped.add(node.inputs[0])
    if not joined:
        return graph
    nodes = tuple(
        joined.get(node.outputs[0], node) if node.outputs else node
        for node in graph.nodes
        if not (node.outputs and node.outputs[0] in dropped)
    )
    return replace(graph, nodes=nodes)


def _joined(
    pad: Node, conv: Node, constants: Mapping[str, Constant], shape: Shape | None
) -> Node | None:
    """Return the convolution that pads itself; None where it would be another one."""
    mode = pad.attributes.get("mode", "constant")
    kernel = constants.get(conv.inputs[1]) if len(conv.inputs) > 1 else None
    sizes = constants.get(pad.inputs[1]) if len(pad.inputs) > 1 else None
    over_axes = len(pad.inputs) > 3 and bool(pad.inputs[3])
    if mode not in _MODES or kernel is None or sizes is None or over_axes:
        return None
    stated = conv.attributes.get("pads", ())
    own = any(stated) if isinstance(stated, tuple) else True
    automatic = conv.attributes.get("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}
    if own or automatic or conv.domain != ONNX_DOMAIN or "geometry" in conv.attributes:
        return None
    pads, axes = sizes.integers(), len(kernel.shape)
    if len(pads) != 2 * axes or min(pads) < 0 or any((*pads[:2], *pads[axes : axes + 2])):
        return None
    before, after = pads[2:axes], pads[axes + 2 :]
    # ONNX may go around several times, torch and the engine only once.
    if (shape is None and mode == "wrap") or (shape is not None and len(shape) != axes):
        return None
    if shape is not None and mode in _ROOM:
        room = _ROOM[str(mode)]
        if any(max(p, q) > n - room for n, p, q in zip(shape[2:], before, after, strict=True)):
            return None
    attributes = {
        **{name: value for name, value in conv.attributes.items() if name != "auto_pad"},
        "pads": (*before, *after),
        "padding_mode": _MODES[str(mode)],
    }
    inputs = (pad.inputs[0], *conv.inputs[1:])
    return replace(conv, domain=TORCH_DOMAIN, inputs=inputs, attributes=attributes)
