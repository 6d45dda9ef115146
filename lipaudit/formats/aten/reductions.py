"""Reductions, running sums and order along axes."""

from lipaudit.formats.aten.call import AtenCall, Untranslatable, emit, translates
from lipaudit.graph.builder import GraphBuilder

_REDUCTIONS = {
    "mean": "ReduceMean",
    "sum": "ReduceSum",
    "amax": "ReduceMax",
    "amin": "ReduceMin",
    "logsumexp": "ReduceLogSumExp",
}


@translates("mean", "sum", "amax", "amin", "logsumexp")
def reduction(call: AtenCall, build: GraphBuilder) -> None:
    """Write a number for each slice along some axes."""
    axes = call.arguments.get("dim")
    inputs = [call.tensor("self")]
    if axes not in (None, (), []):
        inputs.append(build.integers(call.integers("dim"), f"{call.name}.axes"))
    keep = int(call.flag("keepdim"))
    emit(call, build, _REDUCTIONS[call.op], inputs, {"keepdims": keep})


@translates("cumsum")
def running_sum(call: AtenCall, build: GraphBuilder) -> None:
    """Write the sums of all items up to each."""
    axis = build.integers([call.integer("dim", 0)], f"{call.name}.axis")
    emit(call, build, "CumSum", [call.tensor("self"), axis])


@translates("topk")
def top(call: AtenCall, build: GraphBuilder) -> None:
    """Write the largest or smallest items in order, and where they were."""
    _ordered(call, build, call.integer("k", 1), largest=call.flag("largest", default=True))


@translates("sort")
def sort(call: AtenCall, build: GraphBuilder) -> None:
    """Write all items in order."""
    size = call.shape(call.tensor("self"))[call.integer("dim", -1)]
    if size is None:
        raise Untranslatable("open sizes")
    _ordered(call, build, size, largest=call.flag("descending"))


def _ordered(call: AtenCall, build: GraphBuilder, count: int, *, largest: bool) -> None:
    inputs = [call.tensor("self"), build.integers([count], f"{call.name}.k")]
    attributes = {"axis": call.integer("dim", -1), "largest": int(largest), "sorted": 1}
    emit(call, build, "TopK", inputs, attributes)
