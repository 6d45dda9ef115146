"""Operations that move, select, repeat or join items."""

import math

import torch

from lipaudit.formats.aten.call import AtenCall, Untranslatable, emit, step, translates
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.constant import computed

_LARGEST = 2**62


@translates(
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_copy"
)
def reshape(call: AtenCall, build: GraphBuilder) -> None:
    """Write the same items under the shape that the file states for the result."""
    sizes = call.out_shape
    if sizes.count(None) > 1:
        raise Untranslatable("several open sizes")
    shape = build.integers([-1 if size is None else size for size in sizes], f"{call.name}.shape")
    emit(call, build, "Reshape", [call.tensor("self"), shape])


@translates(
    "alias", "clone", "contiguous", "detach", "detach_", "lift_fresh_copy", "dropout",
    "dropout_", "feature_dropout", "alpha_dropout", "native_dropout", "_to_copy", "to",
)  # fmt: skip
def identity(call: AtenCall, build: GraphBuilder) -> None:
    """Nothing at inference; a change between real types is none either."""
    if call.flag("train") and call.number("p", 0.0) > 0:
        raise Untranslatable("training")
    build.add("Identity", [call.tensor("self")], name=call.name, outputs=call.outputs[:1])


@translates("permute", "permute_copy")
def permute(call: AtenCall, build: GraphBuilder) -> None:
    """Axes in another order."""
    rank = len(call.out_shape)
    emit(
        call,
        build,
        "Transpose",
        [call.tensor("self")],
        {"perm": tuple(axis % rank for axis in call.integers("dims"))},
    )


@translates("transpose", "t", "mT")
def transpose(call: AtenCall, build: GraphBuilder) -> None:
    """Two axes exchanged."""
    axes = list(range(len(call.out_shape)))
    stated = (call.integer("dim0", 0), call.integer("dim1", 1))
    one, two = {"t": (0, 1), "mT": (-2, -1)}.get(call.op, stated)
    axes[one], axes[two] = axes[two], axes[one]
    emit(call, build, "Transpose", [call.tensor("self")], {"perm": tuple(axes)})


@translates("expand", "expand_as", "repeat")
def expand(call: AtenCall, build: GraphBuilder) -> None:
    """Items repeated along axes."""
    if call.op == "repeat":
        source, counts = call.shape(call.tensor("self")), call.integers("repeats")
        if len(source) != len(counts):
            raise Untranslatable("new axes")
        repeats = build.integers(counts, f"{call.name}.repeats")
        emit(call, build, "Tile", [call.tensor("self"), repeats])
        return
    sizes = [1 if size is None else size for size in call.out_shape]
    shape = build.integers(sizes, f"{call.name}.shape")
    emit(call, build, "Expand", [call.tensor("self"), shape])


@translates("cat")
def cat(call: AtenCall, build: GraphBuilder) -> None:
    """Tensors joined along an axis."""
    emit(call, build, "Concat", call.tensors("tensors"), {"axis": call.integer("dim", 0)})


@translates("stack")
def stack(call: AtenCall, build: GraphBuilder) -> None:
    """Tensors joined along a new axis."""
    axis = call.integer("dim", 0) % len(call.out_shape)
    where = build.integers([axis], f"{call.name}.axis")
    parts = [step(call, build, "Unsqueeze", [one, where]) for one in call.tensors("tensors")]
    emit(call, build, "Concat", parts, {"axis": axis})


@translates("split", "split_with_sizes", "chunk")
def split(call: AtenCall, build: GraphBuilder) -> None:
    """Write a tensor cut along an axis."""
    axis = call.integer("dim", 0)
    sizes = [call.shape(name)[axis] for name in call.outputs]
    known = [size for size in sizes if size is not None]
    if len(known) != len(sizes):
        raise Untranslatable("open sizes")
    cuts = build.integers(known, f"{call.name}.sizes")
    emit(call, build, "Split", [call.tensor("self"), cuts], {"axis": axis})


@translates("unbind")
def unbind(call: AtenCall, build: GraphBuilder) -> None:
    """Write the slices along an axis."""
    axis = call.integer("dim", 0)
    for at, name in enumerate(call.outputs):
        index = build.scalar(at, name=f"{call.name}.index", dtype=torch.int64)
        build.add(
            "Gather", [call.tensor("self"), index], name=call.name, attributes={"axis": axis},
            outputs=(name,),
        )  # fmt: skip


@translates("select")
def select(call: AtenCall, build: GraphBuilder) -> None:
    """One slice along an axis."""
    index = build.scalar(call.integer("index", 0), name=f"{call.name}.index", dtype=torch.int64)
    emit(call, build, "Gather", [call.tensor("self"), index], {"axis": call.integer("dim", 0)})


@translates("slice")
def slice_(call: AtenCall, build: GraphBuilder) -> None:
    """Write a range along an axis."""
    start = call.arguments.get("start")
    end = call.arguments.get("end")
    if not isinstance(start, (int, type(None))) or not isinstance(end, (int, type(None))):
        raise Untranslatable("open range")
    parts = {
        "start": [start or 0],
        "end": [_LARGEST if end is None else min(end, _LARGEST)],
        "axis": [call.integer("dim", 0)],
        "step": [call.integer("step", 1)],
    }
    inputs = [build.integers(values, f"{call.name}.{name}") for name, values in parts.items()]
    emit(call, build, "Slice", [call.tensor("self"), *inputs])


@translates("flip")
def flip(call: AtenCall, build: GraphBuilder) -> None:
    """Axes run backwards."""
    axes = call.integers("dims")
    parts = ([-1] * len(axes), [-_LARGEST] * len(axes), list(axes), [-1] * len(axes))
    inputs = [build.integers(values, f"{call.name}.range") for values in parts]
    emit(call, build, "Slice", [call.tensor("self"), *inputs])


@translates("full", "zeros", "ones", "full_like", "zeros_like", "ones_like")
def full(call: AtenCall, build: GraphBuilder) -> None:
    """Equal numbers."""
    sizes = [size for size in call.out_shape if size is not None]
    if len(sizes) != len(call.out_shape) or math.prod(sizes) > 1 << 20:
        raise Untranslatable("open or large")
    value = {"zeros": 0.0, "ones": 1.0}.get(call.op.removesuffix("_like"))
    filled = torch.full(sizes, call.number("fill_value", 0.0) if value is None else value)
    constant = build.constant(computed(build.fresh(f"{call.name}.full"), filled))
    emit(call, build, "Identity", [constant])
