"""Weights that the graph computes from stored tensors before it uses them.

Folded node by node such a weight would carry no proved error, since sums may cancel. Recognized,
it is the same constant as in a bare checkpoint: see `formats.parametrizations`.
"""

from lipaudit.formats import parametrizations
from lipaudit.formats.aten.call import AtenCall, Ref, Untranslatable, step, translates
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.constant import Constant
from lipaudit.graph.node import Node

_ALL = -1
"""What torch writes for one norm of the whole tensor."""


@translates("_weight_norm", "_weight_norm_interface")
def weight_norm(call: AtenCall, build: GraphBuilder) -> None:
    """G v / ‖v‖, the norm over all axes but one; the norms themselves may be a second result."""
    dim = call.integer("dim", 0)
    v, g = call.tensor("v"), call.tensor("g")
    sizes = call.shape(v)
    others = [axis for axis in range(len(sizes)) if axis != dim]
    if not others:
        raise Untranslatable("of single numbers")
    axes = build.integers(others, f"{call.name}.axes")
    stored_v, stored_g = build.lookup(v), build.lookup(g)
    kept = tuple(1 if axis in others else size for axis, size in enumerate(sizes))
    is_usual = call.shape(g) == (() if dim == _ALL else kept)
    if stored_v is not None and stored_g is not None and is_usual:
        name = parametrizations.target(stored_v.name)
        build.hold(call.outputs[0], parametrizations.weight_norm(name, stored_g, stored_v))
    else:
        length = step(call, build, "ReduceL2", [v, axes], {"keepdims": 1})
        scale = step(call, build, "Div", [g, length])
        build.add("Mul", [v, scale], name=call.name, outputs=call.outputs[:1])
    if len(call.outputs) > 1:
        keep = {"keepdims": 1}
        build.add("ReduceL2", [v, axes], name=call.name, attributes=keep, outputs=call.outputs[1:2])


def spectral_norm(call: AtenCall, build: GraphBuilder) -> bool:
    """Hold W / (uᵀ W v) as one constant where a division makes it of stored tensors.

    Torch lays W out as a matrix with one row an entry of u, by a permutation and a reshape.
    """
    weight, divisor = call.arguments.get("self"), call.arguments.get("other")
    if not isinstance(weight, Ref) or not isinstance(divisor, Ref):
        return False
    # torch reshapes a matrix too: to the shape that it has.
    original = build.lookup(_before(build, weight.name, "Reshape"))
    if original is None or original.shape != call.shape(weight.name):
        return False
    outer = _made_by(build, divisor.name, "MatMul")
    inner = _made_by(build, outer.inputs[1], "MatMul") if outer is not None else None
    if outer is None or inner is None:
        return False
    u, v = _vector(build, outer.inputs[0]), _vector(build, inner.inputs[1])
    axis = _row_axis(build, inner.inputs[0], original)
    if u is None or v is None or axis is None:
        return False
    if original.shape[axis] != u.items or original.items != u.items * v.items:
        return False
    name = parametrizations.target(original.name)
    build.hold(call.outputs[0], parametrizations.spectral_norm(name, (original, u, v), axis))
    return True


def _made_by(build: GraphBuilder, edge: str, op: str) -> Node | None:
    node = build.maker(edge)
    return node if node is not None and node.op == op and not node.domain else None


def _before(build: GraphBuilder, edge: str, op: str) -> str:
    """Return where a row of such operations starts."""
    while (node := _made_by(build, edge, op)) is not None:
        edge = node.inputs[0]
    return edge


def _vector(build: GraphBuilder, edge: str) -> Constant | None:
    found = build.lookup(_before(build, edge, "Identity"))
    return found if found is not None and len(found.shape) == 1 else None


def _row_axis(build: GraphBuilder, edge: str, original: Constant) -> int | None:
    """Return the axis that counts the rows of a matrix, None if it is not the weight laid out."""
    edge = _before(build, edge, "Reshape")
    turned = _made_by(build, edge, "Transpose")
    if turned is None:
        return 0 if build.lookup(edge) is original and original.shape else None
    perm = turned.attributes.get("perm")
    if build.lookup(turned.inputs[0]) is not original:
        return None
    axes = range(len(original.shape))
    orders = ((axis, *(other for other in axes if other != axis)) for axis in axes)
    return next((order[0] for order in orders if order == perm), None)
