"""Upgrade: nodes of every opset since the first, rewritten to what the newest one calls them.

`_CHANGES` says for which operation and until which opset each function of `onnx_changes` is.
A node that the newest opset cannot express stays, in the domain `OLD_DOMAIN`, where no layer
claims to know it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import onnx

from lipaudit.formats import onnx_changes as changes
from lipaudit.formats.onnx_rank import Ranks
from lipaudit.formats.onnx_rewriter import Inexpressible, Rewriter
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.node import ONNX_DOMAIN, Node

OLD_DOMAIN = "onnx-old"
NEWER_DOMAIN = "onnx-newer"
# The opset in which the layers are written, or the newest that the installed library describes.
NEWEST_OPSET = min(28, onnx.defs.onnx_opset_version())
_EVER = NEWEST_OPSET + 1


def upgrade(node: Node, opset: int, builder: GraphBuilder, ranks: Ranks) -> str:
    """Write a node of an opset down in the newest one; return why it cannot be, or ""."""
    if node.domain != ONNX_DOMAIN:
        _leave(node, node.domain, builder)
        return ""
    if opset > NEWEST_OPSET:
        _leave(node, NEWER_DOMAIN, builder)
        return f"opset {opset} is newer than {NEWEST_OPSET}, the newest that lipaudit knows"
    if "consumed_inputs" in node.attributes:  # until 6 a hint for memory reuse, never a meaning
        rest = {key: v for key, v in node.attributes.items() if key != "consumed_inputs"}
        node = replace(node, attributes=rest)
    problem = _mismatch(node, opset)
    if problem:
        _leave(node, OLD_DOMAIN, builder)
        return problem
    rewriter = Rewriter(node, opset, builder, ranks)
    for until, change in _CHANGES.get(node.op, ()):
        if opset < until:
            try:
                change(rewriter)
            except Inexpressible as reason:
                _leave(node, OLD_DOMAIN, builder)
                return str(reason)
            return ""
    rewriter.finish(node.op, node.inputs, node.attributes)
    return ""


def _leave(node: Node, domain: str, builder: GraphBuilder) -> None:
    builder.add(
        node.op,
        node.inputs,
        name=node.name,
        attributes=node.attributes,
        outputs=node.outputs,
        domain=domain,
    )


def _mismatch(node: Node, opset: int) -> str:
    """Say what makes the node no node of its opset, "" when it is one.

    An attribute that came later is accepted: exporters that write one mean it.
    """
    if not onnx.defs.has(node.op):
        return f"{node.op} is no operation of ONNX"
    try:
        schema = onnx.defs.get_schema(node.op, opset, "")
    except onnx.defs.SchemaError:
        return f"{node.op} is no operation of opset {opset}"
    newest = onnx.defs.get_schema(node.op, NEWEST_OPSET, "")
    unknown = set(node.attributes) - set(schema.attributes) - set(newest.attributes)
    if unknown:
        return f"{node.op} has no attribute {min(unknown)!r} in opset {opset}"
    return ""


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_Changes = tuple[tuple[int, Callable[[Rewriter], None]], ...]

_CHANGES: Mapping[str, _Changes] = {
    **dict.fromkeys(
        ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor"), ((7, changes.broadcast),)
    ),
    **dict.fromkeys(("Equal", "Greater", "Less"), ((7, changes.broadcast),)),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), ((7, changes.recurrent),)),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), ((13, changes.one_axis),)),
    **dict.fromkeys(("LpPool", "GlobalLpPool"), ((2, changes.lp),)),
    **{f"Reduce{name}": ((18, changes.axes_as_input),) for name in _REDUCTIONS},
    "ReduceSum": ((13, changes.axes_as_input),),
    "BatchNormalization": ((14, changes.batch_normalization),),
    "Cast": ((6, changes.cast),),
    "Clip": ((11, changes.clip),),
    "Concat": ((4, changes.concat),),
    "DFT": ((20, changes.dft),),
    "DequantizeLinear": ((_EVER, changes.dequantize),),
    "Dropout": ((12, changes.dropout),),
    "Gemm": ((7, changes.gemm),),
    "GridSample": ((20, changes.grid_sample),),
    "GroupNormalization": ((21, changes.group_normalization),),
    "PRelu": ((7, changes.prelu),),
    "Pad": ((11, changes.pad),),
    "Reshape": ((5, changes.reshape),),
    "Resize": ((11, changes.resize_10), (_EVER, changes.resize)),
    "RoiAlign": ((16, changes.roi_align),),
    "Scan": ((9, changes.scan),),
    "Scatter": ((_EVER, changes.scatter),),
    "Selu": ((6, changes.selu),),
    "Slice": ((10, changes.slice_),),
    "Split": ((18, changes.split),),
    "Squeeze": ((13, changes.axes_as_input),),
    "Tile": ((6, changes.tile),),
    "TopK": ((10, changes.top_k),),
    "Unsqueeze": ((13, changes.axes_as_input),),
    "Upsample": ((_EVER, changes.upsample),),
}
