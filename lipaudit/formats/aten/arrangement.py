"""Operations that move, select, repeat or join items."""

import math

import torch

from lipaudit.formats.aten.call import (
    AtenCall,
    Ref,
    Sizes,
    Untranslatable,
    emit,
    real,
    step,
    translates,
)
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.constant import computed
from lipaudit.graph.node import Attribute

_LARGEST = 2**62
_LONGEST_ROLL = 1 << 20


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


@translates("triu", "tril")
def triangle(call: AtenCall, build: GraphBuilder) -> None:
    """Write one triangle of matrices, zeros in the other."""
    inputs = [call.tensor("self"), build.integers([call.integer("diagonal", 0)], f"{call.name}.k")]
    emit(call, build, "Trilu", inputs, {"upper": int(call.op == "triu")})


@translates("full", "zeros", "ones", "full_like", "zeros_like", "ones_like")
def full(call: AtenCall, build: GraphBuilder) -> None:
    """Equal numbers."""
    sizes = [size for size in call.out_shape if size is not None]
    if len(sizes) != len(call.out_shape) or math.prod(sizes) > 1 << 20:
        raise Untranslatable("open or large")
    value = {"zeros": 0.0, "ones": 1.0}.get(call.op.removesuffix("_like"))
    number = call.number("fill_value", 0.0) if value is None else value
    filled = torch.full(sizes, number, dtype=torch.float64)
    name, dtype = build.fresh(f"{call.name}.full"), call.dtypes.get(call.outputs[0], "float32")
    # The likeness of a signal follows its type, and so does its number; others are made before.
    is_short = not call.op.endswith("_like") and dtype != "float64"
    if dtype in {"bool", "int64"}:
        made = computed(name, filled.to(torch.bool if dtype == "bool" else torch.int64))
    else:
        made = computed(name, filled.float()) if is_short else real(name, filled, dtype)
    constant = build.constant(made)
    emit(call, build, "Identity", [constant])


@translates("roll")
def roll(call: AtenCall, build: GraphBuilder) -> None:
    """Write axes turned round: each is the same items in another order."""
    x, shifts, axes = call.tensor("self"), call.integers("shifts"), call.arguments.get("dims")
    if axes in (None, (), []):
        x = step(call, build, "Reshape", [x, build.integers([-1], f"{call.name}.flat")])
        x = _turned(call, build, x, (0, shifts[0], _count(call.out_shape)))
        shape = build.integers([_known(size) for size in call.out_shape], f"{call.name}.shape")
        emit(call, build, "Reshape", [x, shape])
        return
    for axis, shift in zip(call.integers("dims"), shifts, strict=True):
        x = _turned(call, build, x, (axis, shift, _known(call.out_shape[axis])))
    emit(call, build, "Identity", [x])


def _turned(call: AtenCall, build: GraphBuilder, x: str, how: tuple[int, int, int]) -> str:
    axis, shift, size = how
    if size > _LONGEST_ROLL:
        raise Untranslatable(f"{size} items")
    places = build.integers([(at - shift) % size for at in range(size)], f"{call.name}.places")
    return step(call, build, "Gather", [x, places], {"axis": axis})


@translates("index_select")
def index_select(call: AtenCall, build: GraphBuilder) -> None:
    """Write slices by their places."""
    inputs = [call.tensor("self"), call.tensor("index")]
    emit(call, build, "Gather", inputs, {"axis": call.integer("dim", 0)})


@translates("index")
def index(call: AtenCall, build: GraphBuilder) -> None:
    """Write slices along the one axis that has a list of places."""
    stated = call.arguments.get("indices")
    given = list(enumerate(stated)) if isinstance(stated, (list, tuple)) else []
    chosen = [(axis, places) for axis, places in given if isinstance(places, Ref)]
    if len(chosen) != 1:
        raise Untranslatable("places along several axes")
    ((axis, places),) = chosen
    if call.dtypes.get(places.name) not in {"int64", "int32"}:
        raise Untranslatable("a mask for an index")
    emit(call, build, "Gather", [call.tensor("self"), places.name], {"axis": axis})


@translates("pixel_shuffle")
def pixel_shuffle(call: AtenCall, build: GraphBuilder) -> None:
    """Write channels laid out as pixels."""
    if len(call.out_shape) != 4:
        raise Untranslatable(f"of rank {len(call.out_shape)}")
    attributes: dict[str, Attribute] = {
        "blocksize": call.integer("upscale_factor", 1),
        "mode": "CRD",
    }
    emit(call, build, "DepthToSpace", [call.tensor("self")], attributes)


@translates("pixel_unshuffle")
def pixel_unshuffle(call: AtenCall, build: GraphBuilder) -> None:
    """Write blocks of pixels stacked as channels: c, then row and column within the block."""
    factor, sizes = call.integer("downscale_factor", 1), call.out_shape
    if len(sizes) != 4:
        raise Untranslatable(f"of rank {len(sizes)}")
    channels, height, width = (_known(size) for size in sizes[1:])
    split = (-1, channels // factor**2, height, factor, width, factor)
    cut = build.integers(split, f"{call.name}.blocks")
    blocks = step(call, build, "Reshape", [call.tensor("self"), cut])
    turned = step(call, build, "Transpose", [blocks], {"perm": (0, 1, 3, 5, 2, 4)})
    joined = build.integers([-1, channels, height, width], f"{call.name}.shape")
    emit(call, build, "Reshape", [turned, joined])


def _known(size: int | None) -> int:
    if size is None:
        raise Untranslatable("open sizes")
    return size


def _count(sizes: Sizes) -> int:
    return math.prod(_known(size) for size in sizes)
