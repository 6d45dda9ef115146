"""Dense products: linear, matmul and their like, and attention spelled out."""

import math

from lipaudit.formats.aten.call import AtenCall, Untranslatable, emit, parameter, step, translates
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.node import TORCH_DOMAIN


@translates("linear")
def linear(call: AtenCall, build: GraphBuilder) -> None:
    """X Wᵀ + b."""
    weight = call.tensor("weight")
    if parameter(build, weight) is not None and len(call.shape(weight)) == 2:
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
    if call.number("dropout_p", 0.0) or call.flag("is_causal") or call.flag("enable_gqa"):
        raise Untranslatable("causal, grouped or with dropout")
    sizes = call.shape(key)
    width = call.shape(query)[-1]
    if width is None:
        raise Untranslatable("open head size")
    axes = (*range(len(sizes) - 2), len(sizes) - 1, len(sizes) - 2)
    turned = step(call, build, "Transpose", [key], {"perm": axes})
    scores = step(call, build, "MatMul", [query, turned])
    scale = build.scalar(call.number("scale", 1 / math.sqrt(width)))
    scores = step(call, build, "Mul", [scores, scale])
    if call.optional("attn_mask"):
        scores = step(call, build, "Add", [scores, call.tensor("attn_mask")])
    weights = step(call, build, "Softmax", [scores], {"axis": -1})
    emit(call, build, "MatMul", [weights, value])


@translates("embedding")
def embedding(call: AtenCall, build: GraphBuilder) -> None:
    """Rows of a table by index."""
    emit(call, build, "Gather", [call.tensor("weight"), call.tensor("indices")], {"axis": 0})


def _product(call: AtenCall, build: GraphBuilder, factors: list[str], offset: str) -> None:
    if not offset:
        emit(call, build, "MatMul", factors)
        return
    emit(call, build, "Add", [step(call, build, "MatMul", factors), offset])
