"""Variances and standard deviations."""

import math

import torch

from lipaudit.formats.aten.call import AtenCall, Untranslatable, scalar, step, translates
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.constant import Constant


@translates("var", "var_mean")
def variance(call: AtenCall, build: GraphBuilder) -> None:
    """Write Σ(x - mean x)² / (n - c), and the mean where that is asked for too."""
    axes, divisor = _group(call, build)
    centred = _centred(call, build, axes)
    square = step(call, build, "Mul", [centred, centred])
    keep = {"keepdims": int(call.flag("keepdim"))}
    if divisor is None:
        build.add(
            "ReduceMean", [square, *axes], name=call.name, attributes=keep, outputs=call.outputs[:1]
        )
    else:
        total = step(call, build, "ReduceSum", [square, *axes], keep)
        divided = [total, scalar(call, build, divisor, "divisor")]
        build.add("Div", divided, name=call.name, outputs=call.outputs[:1])
    _mean(call, build, axes)


@translates("std", "std_mean")
def deviation(call: AtenCall, build: GraphBuilder) -> None:
    """Write ‖x - mean x‖ / √(n - c): unlike the root of a variance it has a bounded slope."""
    axes, divisor = _group(call, build)
    items = divisor if divisor is not None else float(_items(call))
    keep = {"keepdims": int(call.flag("keepdim"))}
    length = step(call, build, "ReduceL2", [_centred(call, build, axes), *axes], keep)
    divided = [length, build.constant(_root(items, build.fresh(f"{call.name}.divisor")))]
    build.add("Div", divided, name=call.name, outputs=call.outputs[:1])
    _mean(call, build, axes)


def _group(call: AtenCall, build: GraphBuilder) -> tuple[list[str], float | None]:
    """Return the axes as an input, if they are stated, and n - c; None where c = 0."""
    correction = call.number("correction", 1.0)
    if "unbiased" in call.arguments:
        correction = float(call.flag("unbiased", default=True))
    items = _items(call)
    if items - correction <= 0 or items > 1 << 24:
        raise Untranslatable(f"{items} items")
    axes = [] if _all_axes(call) else [build.integers(call.integers("dim"), f"{call.name}.axes")]
    return axes, None if correction == 0 else items - correction


def _items(call: AtenCall) -> int:
    sizes = call.shape(call.tensor("self"))
    axes = range(len(sizes)) if _all_axes(call) else call.integers("dim")
    chosen = [sizes[axis] for axis in axes]
    known = [size for size in chosen if size is not None]
    if len(known) != len(chosen):
        raise Untranslatable("open sizes")
    return math.prod(known)


def _all_axes(call: AtenCall) -> bool:
    return call.arguments.get("dim") in (None, (), [])


def _centred(call: AtenCall, build: GraphBuilder, axes: list[str]) -> str:
    x = call.tensor("self")
    return step(call, build, "Sub", [x, step(call, build, "ReduceMean", [x, *axes])])


def _mean(call: AtenCall, build: GraphBuilder, axes: list[str]) -> None:
    if len(call.outputs) > 1:
        inputs, keep = [call.tensor("self"), *axes], {"keepdims": int(call.flag("keepdim"))}
        build.add("ReduceMean", inputs, name=call.name, attributes=keep, outputs=call.outputs[1:2])


def _root(value: float, name: str) -> Constant:
    exact = torch.tensor(value, dtype=torch.float64).sqrt()
    return Constant(
        name=name,
        shape=(),
        dtype="float32",
        read=exact.float,
        entry_error=2.0**-53,  # IEEE 754 roots are correctly rounded
        unrounded=lambda: exact,
    )
