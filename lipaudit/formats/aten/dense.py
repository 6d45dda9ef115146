"""Dense products: linear, matmul and their like, and attention spelled out."""

import math

from lipaudit.formats.aten.call import (
    AtenCall,
    Untranslatable,
    emit,
    parameter,
    scalar,
    step,
    translates,
)
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.node import TORCH_DOMAIN, Attribute


@translates("linear")
def linear(call: AtenCall, build: GraphBuilder) -> None:
    """X Wᵀ + b."""
    weight = call.tensor("weight")
    if parameter(build, weight) is not None and call.rank(weight) == 2:
        inputs = [call.tensor("input"), weight, call.optional("bias")]
        emit(call, build, "Linear", inputs[: 3 if inputs[2] else 2], domain=TORCH_DOMAIN)
        return
    turned = step(call, build, "Transpose", [weight], {"perm": (1, 0)})
    _product(call, build, [call.tensor("input"), turned], call.optional("bias"))


@translates("matmul", "mm", "bmm", "mv", "dot", "vdot")
def matmul(call: AtenCall, build: GraphBuilder) -> None:
    """Write A B."""
    second = "vec" if call.op == "mv" else "tensor" if call.op == "dot" else "mat2"
    other = call.optional(second) or call.tensor("other")
    emit(call, build, "MatMul", [call.tensor("self"), other])


@translates("addmm")
def addmm(call: AtenCall, build: GraphBuilder) -> None:
    """β C + α A B."""
    factors = {"alpha": call.number("alpha", 1.0), "beta": call.number("beta", 1.0)}
    inputs = [call.tensor("mat1"), call.tensor("mat2"), call.tensor("self")]
    emit(call, build, "Gemm", inputs, factors)


@translates("baddbmm")
def baddbmm(call: AtenCall, build: GraphBuilder) -> None:
    """C + A B, batched."""
    if call.number("alpha", 1.0) != 1 or call.number("beta", 1.0) != 1:
        raise Untranslatable("scaled")
    _product(call, build, [call.tensor("batch1"), call.tensor("batch2")], call.tensor("self"))


@translates("einsum")
def einsum(call: AtenCall, build: GraphBuilder) -> None:
    """Write sums of products as an equation."""
    equation = call.word("equation", "").replace(" ", "")
    emit(call, build, "Einsum", call.tensors("tensors"), {"equation": equation})


@translates("scaled_dot_product_attention")
def attention(call: AtenCall, build: GraphBuilder) -> None:
    """softmax(Q Kᵀ scale + mask) V."""
    query, key, value = (call.tensor(name) for name in ("query", "key", "value"))
    if call.number("dropout_p", 0.0):
        raise Untranslatable("with dropout")
    mask = call.optional("attn_mask")
    if call.flag("is_causal") or call.flag("enable_gqa") or (mask and _is_stored(build, mask)):
        _fused_attention(call, build, [query, key, value, *([mask] if mask else [])])
        return
    if mask and call.kind(mask) == "bool":
        raise Untranslatable("a mask that the network computes")
    rank = call.rank(key)
    width = call.shape(query)[-1]
    if width is None:
        raise Untranslatable("open head size")
    axes = (*range(rank - 2), rank - 1, rank - 2)
    turned = step(call, build, "Transpose", [key], {"perm": axes})
    scores = step(call, build, "MatMul", [query, turned])
    scale = scalar(call, build, call.number("scale", 1 / math.sqrt(width)))
    scores = step(call, build, "Mul", [scores, scale])
    if mask:
        scores = step(call, build, "Add", [scores, mask])
    weights = step(call, build, "Softmax", [scores], {"axis": -1})
    emit(call, build, "MatMul", [weights, value])


def _fused_attention(call: AtenCall, build: GraphBuilder, inputs: list[str]) -> None:
    """Write attention with a mask or shared heads as ONNX's operation, heads on axis 1."""
    ranks = {call.rank(name) for name in inputs[:3]}
    grouped = call.flag("enable_gqa")
    if ranks not in ({3}, {4}) or (grouped and ranks == {3}):
        raise Untranslatable(f"masked, causal or grouped, of rank {max(ranks)}")
    if ranks == {4}:
        query, key, value = (call.shape(name)[1] for name in inputs[:3])
        if key != value or (key != query and not grouped):
            raise Untranslatable("heads that broadcast")
    attributes: dict[str, Attribute] = {"is_causal": int(call.flag("is_causal"))}
    if ranks == {3}:
        # A stack of single heads; a mask of rank 3 goes over the stack.
        attributes |= {"q_num_heads": 1, "kv_num_heads": 1}
        if len(inputs) > 3 and call.rank(inputs[3]) == 3:
            inputs[3] = step(call, build, "Unsqueeze", [inputs[3], build.integers([1])])
    if call.arguments.get("scale") is not None:
        attributes["scale"] = call.number("scale", 1.0)
    emit(call, build, "Attention", inputs, attributes)


def _is_stored(build: GraphBuilder, edge: str) -> bool:
    while (node := build.maker(edge)) is not None and node.op == "Identity":
        edge = node.inputs[0]
    return build.lookup(edge) is not None


@translates("embedding")
def embedding(call: AtenCall, build: GraphBuilder) -> None:
    """Rows of a table by index."""
    emit(call, build, "Gather", [call.tensor("weight"), call.tensor("indices")], {"axis": 0})


def _product(call: AtenCall, build: GraphBuilder, factors: list[str], offset: str) -> None:
    if not offset:
        emit(call, build, "MatMul", factors)
        return
    emit(call, build, "Add", [step(call, build, "MatMul", factors), offset])
