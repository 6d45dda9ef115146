"""The same items under another shape, or copied to one, as the arguments say.

The shape that the file states for the result is not asked: nothing would be left to hold it
against.
"""

from collections.abc import Sequence

from lipaudit.formats.aten.call import AtenCall, Ref, Symbol, Untranslatable, emit, translates
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.node import Attribute
from lipaudit.graph.stated import Axes

_COPIED = 0
"""In a shape: the size that the input has at that place (ONNX, Reshape)."""
_LEFT_OVER = -1


@translates("view", "reshape", "_unsafe_view", "view_copy")
def view(call: AtenCall, build: GraphBuilder) -> None:
    """Write the same items under a stated shape."""
    stated = call.arguments.get("size", call.arguments.get("shape"))
    if not isinstance(stated, (list, tuple)):
        raise Untranslatable("as another type, or to no shape")
    _shaped(call, build, stated)


@translates("unflatten")
def unflatten(call: AtenCall, build: GraphBuilder) -> None:
    """Write one axis as several."""
    stated = call.arguments.get("sizes")
    axes = call.axes(call.tensor("self"))
    at = call.integer("dim", 0) % len(axes)
    if not isinstance(stated, (list, tuple)):
        raise Untranslatable("to no sizes")
    _shaped(call, build, [*_kept(axes[:at]), *stated, *_kept(axes[at + 1 :])])


@translates("flatten")
def flatten(call: AtenCall, build: GraphBuilder) -> None:
    """Write several axes as one."""
    rank = call.rank(call.tensor("self"))
    first, last = call.integer("start_dim", 0), call.integer("end_dim", -1)
    if not rank:
        _shaped(call, build, [1])
        return
    first, last = first % rank, last % rank
    if first > last:
        raise Untranslatable("no axes")
    behind = call.axes(call.tensor("self"))[last + 1 :] if last + 1 < rank else ()
    _write(call, build, [*(_COPIED,) * first, _LEFT_OVER, *map(_number, behind)])


@translates("squeeze")
def squeeze(call: AtenCall, build: GraphBuilder) -> None:
    """Write the shape without axes of size 1; torch leaves a longer axis where it is."""
    axes = call.axes(call.tensor("self"))
    given = call.arguments.get("dim")
    meant = range(len(axes)) if given is None else [at % len(axes) for at in call.integers("dim")]
    _shaped(call, build, _kept(axes, without=[at for at in meant if axes[at] == 1]))


@translates("unsqueeze")
def unsqueeze(call: AtenCall, build: GraphBuilder) -> None:
    """Write the shape with another axis of size 1."""
    where = build.integers([call.integer("dim", 0)], f"{call.name}.axis")
    emit(call, build, "Unsqueeze", [call.tensor("self"), where])


@translates("expand")
def expand(call: AtenCall, build: GraphBuilder) -> None:
    """Items repeated along axes."""
    stated = call.arguments.get("size")
    if not isinstance(stated, (list, tuple)):
        raise Untranslatable("to no shape")
    _expanded(call, build, stated)


@translates("expand_as")
def expand_as(call: AtenCall, build: GraphBuilder) -> None:
    """Items repeated along axes, as another tensor has them."""
    _expanded(call, build, _kept(call.axes(call.tensor("other"))))


@translates("repeat")
def repeat(call: AtenCall, build: GraphBuilder) -> None:
    """Tensors side by side."""
    x, counts = call.tensor("self"), call.integers("repeats")
    if call.rank(x) != len(counts):
        raise Untranslatable("new axes")
    emit(call, build, "Tile", [x, build.integers(counts, f"{call.name}.repeats")])


@translates("_to_copy", "to", "type_as")
def converted(call: AtenCall, build: GraphBuilder) -> None:
    """Nothing between real types, but a cast where items become integers or truth values."""
    x, other = call.tensor("self"), call.arguments.get("other")
    if isinstance(other, Ref):
        emit(call, build, "CastLike", [x, other.name])
        return
    target = call.arguments.get("dtype")
    if target is None:
        emit(call, build, "Identity", [x])
    elif isinstance(target, str) and target in _CASTS:
        emit(call, build, "Cast", [x], {"to": _CASTS[target]})
    elif isinstance(target, str) and target in _SHORT:
        emit(call, build, "Identity", [x])
    else:
        raise Untranslatable("to an unknown type")


_CASTS = {
    "float32": 1, "uint8": 2, "int8": 3, "int16": 5, "int32": 6, "int64": 7, "bool": 9,
    "float64": 11,
}  # fmt: skip
"""ONNX's numbers of the types that make a difference, or undo one."""
_SHORT = frozenset({"float16", "bfloat16"})
"""Types to which items are rounded only: no part of the exact-real function."""


def _kept(axes: Axes, *, without: Sequence[int] = ()) -> list[object]:
    """Return axes as the arguments of a call would state them."""
    left = [axis for at, axis in enumerate(axes) if at not in without]
    return [Symbol(axis or "") if not isinstance(axis, int) else axis for axis in left]


def _shaped(call: AtenCall, build: GraphBuilder, stated: Sequence[object]) -> None:
    """Write a Reshape; open sizes are those of the input at their place, or what is left over."""
    if all(isinstance(size, int) for size in stated):
        _write(call, build, [_number(size) for size in stated], empty=0 in stated)
        return
    opened = [at for at, size in enumerate(stated) if isinstance(size, Symbol)]
    free = not any(size == _LEFT_OVER for size in stated)
    axes = call.axes(call.tensor("self"))
    sizes: list[int] = []
    for at, size in enumerate(stated):
        if at not in opened:
            sizes.append(_number(size))
        elif isinstance(size, Symbol) and size.name and axes[at : at + 1] == (size.name,):
            sizes.append(_COPIED)
        elif free:
            sizes.append(_LEFT_OVER)
            free = False
        else:
            raise Untranslatable("several open sizes")
    if any(size == 0 for at, size in enumerate(sizes) if at not in opened):
        raise Untranslatable("empty and open sizes")
    _write(call, build, sizes)


def _write(
    call: AtenCall, build: GraphBuilder, sizes: Sequence[int], *, empty: bool = False
) -> None:
    """Write a Reshape; a size of 0 is that of the input unless it is to be empty."""
    shape = build.integers(sizes, f"{call.name}.shape")
    attributes: dict[str, Attribute] = {"allowzero": 1} if empty else {}
    emit(call, build, "Reshape", [call.tensor("self"), shape], attributes)


def _expanded(call: AtenCall, build: GraphBuilder, stated: Sequence[object]) -> None:
    """Write an Expand; along an axis of the same open size nothing is copied."""
    x = call.tensor("self")
    is_stored = build.lookup(x) is not None
    source = () if is_stored else call.axes(x)
    before = len(stated) - len(source)
    sizes = []
    for at, size in enumerate(stated):
        if isinstance(size, int):
            there = source[at - before] if source and at >= before else 1
            if size != _LEFT_OVER and isinstance(there, int) and there not in {1, size}:
                raise Untranslatable(f"{there} items copied to {size}")
            sizes.append(1 if size == _LEFT_OVER else size)
        elif is_stored or (
            # What is stored does not move, however often it is copied.
            isinstance(size, Symbol) and at >= before and size.name == source[at - before]
        ):
            sizes.append(1)
        else:
            raise Untranslatable("copied an open number of times")
    emit(call, build, "Expand", [x, build.integers(sizes, f"{call.name}.shape")])


def _number(size: object) -> int:
    if isinstance(size, bool) or not isinstance(size, int):
        raise Untranslatable("open sizes")
    return size
