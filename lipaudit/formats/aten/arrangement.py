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
    "alias", "clone", "contiguous", "detach", "detach_", "lift_fresh_copy", "dropout",
    "dropout_", "feature_dropout", "alpha_dropout", "native_dropout",
)  # fmt: skip
def identity(call: AtenCall, build: GraphBuilder) -> None:
    """Nothing at inference."""
    if call.flag("train") and call.number("p", 0.0) > 0:
        raise Untranslatable("training")
    build.add("Identity", [call.tensor("self")], name=call.name, outputs=call.outputs[:1])


@translates("permute", "permute_copy")
def permute(call: AtenCall, build: GraphBuilder) -> None:
    """Axes in another order."""
    axes = call.integers("dims")
    order = tuple(axis % len(axes) for axis in axes)
    emit(call, build, "Transpose", [call.tensor("self")], {"perm": order})


@translates("transpose", "t", "mT")
def transpose(call: AtenCall, build: GraphBuilder) -> None:
    """Two axes exchanged."""
    axes = list(range(call.rank(call.tensor("self"))))
    stated = (call.integer("dim0", 0), call.integer("dim1", 1))
    one, two = {"t": (0, 1), "mT": (-2, -1)}.get(call.op, stated)
    axes[one], axes[two] = axes[two], axes[one]
    emit(call, build, "Transpose", [call.tensor("self")], {"perm": tuple(axes)})


@translates("cat")
def cat(call: AtenCall, build: GraphBuilder) -> None:
    """Tensors joined along an axis."""
    emit(call, build, "Concat", call.tensors("tensors"), {"axis": call.integer("dim", 0)})


@translates("stack")
def stack(call: AtenCall, build: GraphBuilder) -> None:
    """Tensors joined along a new axis."""
    axis = call.integer("dim", 0)
    where = build.integers([axis], f"{call.name}.axis")
    parts = [step(call, build, "Unsqueeze", [one, where]) for one in call.tensors("tensors")]
    emit(call, build, "Concat", parts, {"axis": axis})


@translates("split", "split_with_sizes", "chunk")
def split(call: AtenCall, build: GraphBuilder) -> None:
    """Write a tensor cut along an axis."""
    axis = call.integer("dim", 0)
    cuts = build.integers(_cuts(call, axis), f"{call.name}.sizes")
    emit(call, build, "Split", [call.tensor("self"), cuts], {"axis": axis})


def _cuts(call: AtenCall, axis: int) -> tuple[int, ...]:
    """Return the sizes of the parts: stated, or as many alike as there are results."""
    for name in ("split_sizes", "split_size"):
        if isinstance(call.arguments.get(name), (list, tuple)):
            return call.integers(name)
    count, size = len(call.outputs), call.shape(call.tensor("self"))[axis]
    if size is None:
        raise Untranslatable("open sizes")
    if call.op == "chunk":
        each = -(-size // call.integer("chunks", 1))
    else:
        each = call.integer("split_size", 1)
    last = size - each * (count - 1)
    if not 0 <= last <= each:
        raise Untranslatable(f"{count} parts of {each} of {size}")
    return (*(each,) * (count - 1), last)


@translates("unbind")
def unbind(call: AtenCall, build: GraphBuilder) -> None:
    """Write the slices along an axis."""
    axis = call.integer("dim", 0)
    if call.shape(call.tensor("self"))[axis] != len(call.outputs):
        raise Untranslatable("not as many results as slices")
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
    if call.op.endswith("_like"):
        sizes = [_known(size) for size in call.shape(call.tensor("self"))]
    else:
        given = call.arguments.get("size")
        sizes = list(call.integers("size")) if given else []
        if given is None or min(sizes, default=0) < 0:
            raise Untranslatable("no sizes")
    if math.prod(sizes) > 1 << 20:
        raise Untranslatable("large")
    value = {"zeros": 0.0, "ones": 1.0}.get(call.op.removesuffix("_like"))
    number = call.number("fill_value", 0.0) if value is None else value
    filled = torch.full(sizes, number, dtype=torch.float64)
    name, dtype = build.fresh(f"{call.name}.full"), call.kind(call.outputs[0])
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
    sizes = call.shape(x)
    if axes in (None, (), []):
        x = step(call, build, "Reshape", [x, build.integers([-1], f"{call.name}.flat")])
        x = _turned(call, build, x, (0, shifts[0], _count(sizes)))
        shape = build.integers([_known(size) for size in sizes], f"{call.name}.shape")
        emit(call, build, "Reshape", [x, shape])
        return
    for axis, shift in zip(call.integers("dims"), shifts, strict=True):
        x = _turned(call, build, x, (axis, shift, _known(sizes[axis])))
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
    if call.dtype(places.name) not in {"int64", "int32"}:
        raise Untranslatable("a mask for an index")
    emit(call, build, "Gather", [call.tensor("self"), places.name], {"axis": axis})


@translates("pixel_shuffle")
def pixel_shuffle(call: AtenCall, build: GraphBuilder) -> None:
    """Write channels laid out as pixels."""
    rank = call.rank(call.tensor("self"))
    if rank != 4:
        raise Untranslatable(f"of rank {rank}")
    attributes: dict[str, Attribute] = {
        "blocksize": call.integer("upscale_factor", 1),
        "mode": "CRD",
    }
    emit(call, build, "DepthToSpace", [call.tensor("self")], attributes)


@translates("pixel_unshuffle")
def pixel_unshuffle(call: AtenCall, build: GraphBuilder) -> None:
    """Write blocks of pixels stacked as channels: c, then row and column within the block."""
    factor, sizes = call.integer("downscale_factor", 1), call.shape(call.tensor("self"))
    if len(sizes) != 4:
        raise Untranslatable(f"of rank {len(sizes)}")
    channels, height, width = (_known(size) for size in sizes[1:])
    height, width = height // factor, width // factor
    split = (-1, channels, height, factor, width, factor)
    cut = build.integers(split, f"{call.name}.blocks")
    blocks = step(call, build, "Reshape", [call.tensor("self"), cut])
    turned = step(call, build, "Transpose", [blocks], {"perm": (0, 1, 3, 5, 2, 4)})
    joined = build.integers([-1, channels * factor**2, height, width], f"{call.name}.shape")
    emit(call, build, "Reshape", [turned, joined])


def _known(size: int | None) -> int:
    if size is None:
        raise Untranslatable("open sizes")
    return size


def _count(sizes: Sizes) -> int:
    return math.prod(_known(size) for size in sizes)
