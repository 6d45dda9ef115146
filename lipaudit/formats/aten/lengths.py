"""Norms of vectors, and what is measured with them."""

import math

from lipaudit.formats.aten.call import AtenCall, Untranslatable, emit, scalar, step, translates
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.node import TORCH_DOMAIN, Attribute

_REDUCTIONS = {1.0: "ReduceL1", 2.0: "ReduceL2"}
_EXTREMES = {math.inf: "ReduceMax", -math.inf: "ReduceMin"}


@translates("linalg_vector_norm")
def vector_norm(call: AtenCall, build: GraphBuilder) -> None:
    """Write the 1-, 2- or ∞-norm of each slice."""
    _norm(call, build, call.number("ord", 2.0))


@translates("norm")
def norm(call: AtenCall, build: GraphBuilder) -> None:
    """Write torch.norm, which calls the order p."""
    _norm(call, build, call.number("p", 2.0))


@translates("frobenius_norm")
def frobenius_norm(call: AtenCall, build: GraphBuilder) -> None:
    """Write the 2-norm of all entries."""
    _norm(call, build, 2.0)


@translates("linalg_matrix_norm", "linalg_norm")
def matrix_norm(call: AtenCall, build: GraphBuilder) -> None:
    """Write a Frobenius norm, or the norm of vectors; not an operator norm."""
    order = call.arguments.get("ord")
    axes = call.arguments.get("dim")
    if call.op == "linalg_matrix_norm":
        order = "fro" if call.overload == "str_ord" and order is None else order
        axes = (-2, -1) if axes is None else axes
    of_vectors = isinstance(axes, (list, tuple)) and len(axes) == 1
    of_vectors = of_vectors or (axes is None and len(call.shape(call.tensor("self"))) == 1)
    if of_vectors and order != "fro":
        _norm(call, build, call.number("ord", 2.0))
        return
    if order not in {None, "fro"}:
        raise Untranslatable("an operator norm")
    _norm(call, build, 2.0, axes)


@translates("pairwise_distance")
def pairwise_distance(call: AtenCall, build: GraphBuilder) -> None:
    """Write the norm of x - y + ε along the last axis."""
    order = call.number("p", 2.0)
    if order not in _REDUCTIONS:
        raise Untranslatable(f"p = {order:g}")
    between = step(call, build, "Sub", [call.tensor("x1"), call.tensor("x2")])
    moved = step(
        call, build, "Add", [between, scalar(call, build, call.number("eps", 1e-6), "eps")]
    )
    axes = build.integers([-1], f"{call.name}.axes")
    keep = int(call.flag("keepdim"))
    emit(call, build, _REDUCTIONS[order], [moved, axes], {"keepdims": keep})


@translates("cosine_similarity")
def cosine_similarity(call: AtenCall, build: GraphBuilder) -> None:
    """Write the scalar product of x/max(‖x‖, ε) and y/max(‖y‖, ε)."""
    axis = call.integer("dim", 1)
    attributes: dict[str, Attribute] = {"axes": (axis,), "epsilon": call.number("eps", 1e-8)}
    units = []
    for name in ("x1", "x2"):
        edge = build.fresh(f"{call.outputs[0]}.{name}")
        units.append(edge)
        build.add(
            "Normalize", [call.tensor(name)], name=call.name, attributes=attributes,
            outputs=(edge,), domain=TORCH_DOMAIN,
        )  # fmt: skip
    product = step(call, build, "Mul", units)
    # An axis that broadcasting puts in front moves those that are counted from there.
    ranks = {len(call.shape(call.tensor(name))) for name in ("x1", "x2")}
    if len(ranks) > 1 and axis >= 0:
        raise Untranslatable("of different ranks")
    axes = build.integers([axis], f"{call.name}.axes")
    emit(call, build, "ReduceSum", [product, axes], {"keepdims": 0})


def _norm(call: AtenCall, build: GraphBuilder, order: float, axes: object = None) -> None:
    value = call.arguments.get("dim") if axes is None else axes
    inputs = [call.tensor("self")]
    if order in _EXTREMES:
        inputs = [step(call, build, "Abs", inputs)]
    elif order not in _REDUCTIONS:
        raise Untranslatable(f"p = {order:g}")
    if value not in (None, (), []):
        chosen = [value] if isinstance(value, int) else value
        if not isinstance(chosen, (list, tuple)) or not all(isinstance(a, int) for a in chosen):
            raise Untranslatable("dim is not a list of stored integers")
        inputs.append(build.integers(chosen, f"{call.name}.axes"))
    op = _REDUCTIONS.get(order) or _EXTREMES[order]
    emit(call, build, op, inputs, {"keepdims": int(call.flag("keepdim"))})
