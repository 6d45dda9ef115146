"""Slots read and written: from bytes in a file to a tensor, and back to edits."""

from dataclasses import replace

import torch

from lipaudit.errors import MalformedFile
from lipaudit.formats.base import Edit
from lipaudit.formats.source import Source
from lipaudit.graph.constant import Constant, Slot

COMPUTABLE = frozenset(
    {
        "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
        "float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128",
        "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
    }
)  # fmt: skip
"""Types whose items torch turns into float64. It has more names, and crashes on some of them."""
MAX_RANK = 128
"""torch computes with 64. The sizes of an endless shape would take forever to multiply."""
_LIMIT = 1 << 63
"""Of strides and offsets in torch."""
_MOST_ITEMS = 1 << 58
"""Of sizes multiplied, zeros left out: torch counts bytes in 64 bits, up to sixteen an item."""


def stored(name: str, slot: Slot, source: Source, *, scaled_by: str | None = None) -> Constant:
    """Return the lazy constant whose values lie in a slot of an open file."""
    check(slot, source, name)
    return Constant(
        name=name,
        shape=slot.shape,
        dtype=slot.dtype,
        read=lambda: _reached(slot, source),
        sources=(name,),
        slot=slot,
        scaled_by=scaled_by or name,
    )


def check(slot: Slot, source: Source, name: str) -> None:
    """Raise unless the slot lies in the file and the window in the slot, in Python integers."""
    if len(slot.shape) > MAX_RANK:
        raise _out_of_bounds(f"has {len(slot.shape):,} dimensions", source, name)
    size = item_size(slot.dtype)
    reach = _last(slot)
    empty = 0 in slot.shape
    problem = ""
    if any(count < 0 for count in slot.shape):
        problem = f"has size {min(slot.shape)}"
    elif items(tuple(max(count, 1) for count in slot.shape)) > _MOST_ITEMS:
        problem = "has a size that overflows"
    elif slot.first < 0 or any(stride < 0 for stride in slot.strides):
        problem = "has a negative offset or stride"
    elif max((slot.first, *slot.strides)) >= _LIMIT:
        problem = "has an offset or stride that overflows"
    elif slot.offset + slot.length > source.size:
        problem = f"needs bytes up to {slot.offset + slot.length:,}, the file has {source.size:,}"
    elif not empty and (reach + 1) * size > slot.length:
        problem = f"reaches item {reach:,} of {slot.length // size:,}"
    elif not empty and items(slot.shape) > slot.length // size:
        problem = f"declares {items(slot.shape):,} items, the file stores {slot.length // size:,}"
    if problem:
        raise _out_of_bounds(problem, source, name)


def window(storage: bytearray, slot: Slot) -> torch.Tensor:
    """Lay the strided window over storage bytes; the tensor shares their memory."""
    dtype = torch_dtype(slot.dtype)
    if 0 in slot.shape or not storage:
        return torch.zeros(slot.shape, dtype=dtype)
    # Some writers round a storage up: what is left of it is no item.
    flat = torch.frombuffer(storage, dtype=dtype, count=len(storage) // dtype.itemsize)
    return torch.as_strided(flat, slot.shape, slot.strides, slot.first)


def _reached(slot: Slot, source: Source) -> torch.Tensor:
    """Read what the window covers of its storage, of which it may be one of very many."""
    if 0 in slot.shape:
        return window(bytearray(), slot)
    size = item_size(slot.dtype)
    start, end = slot.first * size, (_last(slot) + 1) * size
    covered = source.load(slot.offset + start, end - start)
    return window(covered, replace(slot, offset=slot.offset + start, length=end - start, first=0))


def _last(slot: Slot) -> int:
    """Return the last item of the storage that the window reaches."""
    return slot.first + sum(
        (count - 1) * stride for count, stride in zip(slot.shape, slot.strides, strict=True)
    )


def _out_of_bounds(problem: str, source: Source, name: str) -> MalformedFile:
    return MalformedFile(f"tensor {name!r} {problem}", slug="tensor-bounds", path=str(source.path))


def replacement(slot: Slot, source: Source, values: torch.Tensor) -> Edit:
    """Return the edit that puts other values of the same shape and dtype into a slot."""
    storage = source.load(slot.offset, slot.length)
    window(storage, slot).copy_(values)
    return Edit(slot.offset, bytes(storage))


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's type of that name; raise `TypeError` when torch has none."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype {name} not supported")
    return dtype


def is_dtype(name: str) -> bool:
    """Tell whether torch has a type of that name."""
    return isinstance(getattr(torch, name, None), torch.dtype)


def item_size(name: str) -> int:
    """Return the bytes of one item of that type."""
    return torch_dtype(name).itemsize


def items(shape: tuple[int, ...]) -> int:
    """Return how many items a shape holds, in unbounded integers."""
    count = 1
    for size in shape:
        count *= size
    return count


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a tensor that is stored row after row without gaps."""
    return tuple(items(shape[axis + 1 :]) for axis in range(len(shape)))
