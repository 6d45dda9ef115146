"""Layouts: tensors that are not rows of items in a storage.

Quantized tensors are read as the numbers that they stand for. Sparse ones are not read, but their
indices are held against their size: other readers take them as they are, and reach past the end
of their memory.
"""

import math
from dataclasses import dataclass, replace

import torch

from lipaudit.errors import MalformedFile
from lipaudit.formats import slots
from lipaudit.formats.pickle_guard import Global, Record
from lipaudit.formats.rebuilding import NO_DATA, Missing
from lipaudit.graph.constant import Constant

_ROWS_FIRST = ("sparse_csr", "sparse_bsr")
_COLUMNS_FIRST = ("sparse_csc", "sparse_bsc")
_ROUNDING = 2.0**-53
"""Of one product in float64."""
_LEAST_NORMAL = 2.0**-1022
_CODES = ("int8", "uint8", "int32")
_MOST_BYTES = 64 << 20
"""Of the indices and scales of all tensors of a file, which are looked at when it is opened."""
_MOST_SCALES = 1 << 22
"""Of all quantized tensors of a file; one list of them can be given to many."""
_REAL = ("float32", "float64", "int32", "int64")


@dataclass(frozen=True, slots=True)
class _Vector:
    """Scales or zero points of quantized tensors."""

    numbers: torch.Tensor
    are_whole: bool
    """Whether they are integers that no zero point exceeds."""
    are_normal: bool
    """Whether none but 0 is below the normal numbers."""


class Layouts:
    """The tensors of one file that are rebuilt in other ways than from their storage alone."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.quantized: dict[str, int] = {}
        """Type -> how many tensors were turned into the numbers they stand for."""
        self._bytes = _MOST_BYTES
        self._scales = _MOST_SCALES
        # Under the identity of what they were read from, which is held lest another takes it.
        self._vectors: dict[int, tuple[object, _Vector]] = {}

    def rebuilt(self, call: str, args: tuple[object, ...], name: str) -> object:
        """Return the tensor, or why it has no values; its parts are constants already."""
        if call == "_rebuild_sparse_tensor":
            return self._sparse(args, name)
        if "meta" in call:
            return NO_DATA
        layout = "nested" if "nested" in call else call
        return _unread(f"{layout} tensors")

    def dequantized(self, codes: object, scheme: object, name: str) -> object:
        """Return (code - zero point) · scale in float64, off by one rounding at most."""
        parts = scheme if isinstance(scheme, tuple) else ()
        kind = parts[0].name if parts and isinstance(parts[0], Global) else ""
        if not isinstance(codes, Constant):
            return codes
        if codes.dtype not in _CODES:
            raise self._broken("quantized", name, f"codes of type {codes.dtype}")
        self._scales -= sum(map(_count, parts))
        self._bytes -= _stored(parts)
        if self._scales < 0 or self._bytes < 0:
            return _unread(f"quantized tensors with more than {_MOST_SCALES:,} scales")
        shape: tuple[int, ...] = ()
        if kind == "per_tensor_affine" and len(parts) == 3:
            scales, points = self._read(parts[1:2], name), self._read(parts[2:3], name)
        elif kind == "per_channel_affine" and len(parts) == 4:
            scales, points = self._vector(parts[1], name), self._vector(parts[2], name)
            shape = self._channels(codes, parts[3], len(scales.numbers), name)
        else:
            return _unread(f"quantized tensors of scheme {kind or 'unknown'}")
        if len(points.numbers) != len(scales.numbers) or not points.are_whole:
            raise self._broken("quantized", name, "zero points that do not fit")
        stored = f"q{codes.dtype}"
        self.quantized[stored] = self.quantized.get(stored, 0) + 1
        factors, origins = scales.numbers.reshape(shape), points.numbers.reshape(shape)
        # Codes and zero points have 33 bits: their difference is exact. Below the normal numbers
        # a rounding is no longer small beside the product.
        return replace(
            codes,
            dtype="float64",
            read=lambda: (codes.read().to(torch.float64) - origins) * factors,
            slot=None,
            scaled_by=None,
            entry_error=_ROUNDING if scales.are_normal else math.inf,
        )

    def _vector(self, value: object, name: str) -> "_Vector":
        """Return scales or zero points, which very many tensors may share."""
        if id(value) not in self._vectors:
            self._vectors[id(value)] = (value, self._read(value, name))
        return self._vectors[id(value)][1]

    def _read(self, value: object, name: str) -> "_Vector":
        numbers = self._numbers(value, name)
        return _Vector(
            torch.tensor(numbers, dtype=torch.float64),
            are_whole=all(n.is_integer() and abs(n) <= 1 << 31 for n in numbers),
            are_normal=all(n == 0 or abs(n) >= _LEAST_NORMAL for n in numbers),
        )

    def _channels(self, codes: Constant, axis: object, count: int, name: str) -> tuple[int, ...]:
        """Return the shape in which one number a channel meets the codes."""
        if not isinstance(axis, int) or not 0 <= axis < len(codes.shape):
            raise self._broken("quantized", name, "an axis that it does not have")
        if codes.shape[axis] != count:
            raise self._broken(
                "quantized", name, f"{count:,} scales for {codes.shape[axis]:,} channels"
            )
        return tuple(count if at == axis else 1 for at in range(len(codes.shape)))

    def _numbers(self, value: object, name: str) -> list[float]:
        """Return the numbers of a tuple, a list or a stored vector."""
        if isinstance(value, Constant) and len(value.shape) == 1 and value.dtype in _REAL:
            return [float(number) for number in value.values().tolist()]
        parts = value if isinstance(value, (tuple, list)) else (None,)
        known = [number for part in parts if (number := _moderate(part)) is not None]
        if len(known) != len(parts):
            raise self._broken("quantized", name, "a scale or zero point that is no number")
        return known

    def _sparse(self, args: tuple[object, ...], name: str) -> Missing:
        layout = args[0].args[0] if args and isinstance(args[0], Record) and args[0].args else ""
        parts = args[1] if len(args) == 2 and isinstance(args[1], tuple) else ()
        kind = str(layout).removeprefix("torch.")
        self._bytes -= _stored(parts[:2])
        if self._bytes < 0:
            return _unread(f"sparse tensors with more than {_MOST_BYTES >> 20} MB of indices")
        if kind == "sparse_coo" and len(parts) in {3, 4}:
            self._check_coordinates(parts, name)
        elif kind in {*_ROWS_FIRST, *_COLUMNS_FIRST} and len(parts) == 4:
            self._check_compressed(kind, parts, name)
        else:
            raise self._broken("sparse", name, "an unknown layout")
        return _unread("sparse tensors")

    def _check_coordinates(self, parts: tuple[object, ...], name: str) -> None:
        """Hold the indices (axes, entries) of a COO tensor against its sizes."""
        indices, sizes = self._integers(parts[0], name), self._sizes(parts[2], name)
        values = parts[1].shape if isinstance(parts[1], Constant) else None
        if indices.dim() != 2 or len(indices) > len(sizes):
            raise self._broken("sparse", name, "indices for axes that it does not have")
        expected = (indices.shape[1], *sizes[len(indices) :])
        if values != expected:
            raise self._broken(
                "sparse", name, f"values that do not fit {indices.shape[1]:,} places"
            )
        for axis, row in enumerate(indices):
            self._check_range(row, sizes[axis], _axis_name(axis, len(sizes)), name)

    def _check_compressed(self, kind: str, parts: tuple[object, ...], name: str) -> None:
        """Hold the indices of a compressed tensor against its sizes and blocks."""
        starts, places = self._integers(parts[0], name), self._integers(parts[1], name)
        values = parts[2].shape if isinstance(parts[2], Constant) else ()
        sizes = self._sizes(parts[3], name)
        batch = starts.dim() - 1
        blocked = kind in {"sparse_bsr", "sparse_bsc"}
        block = values[batch + 1 : batch + 3] if blocked else (1, 1)
        fits = batch >= 0 and len(sizes) >= batch + 2 and places.dim() == batch + 1
        if not fits or values[: batch + 1] != tuple(places.shape) or len(block) != 2:
            raise self._broken("sparse", name, "indices for axes that it does not have")
        if 0 in block:
            raise self._broken("sparse", name, "blocks of no size")
        rows, columns = (size // side for size, side in zip(sizes[batch:], block, strict=False))
        words = ("row", "column")
        if kind in _COLUMNS_FIRST:
            rows, columns, words = columns, rows, ("column", "row")
        entries = places.shape[-1]
        ends_well = starts.shape[-1] == rows + 1 and bool(
            (starts[..., 0] == 0).all() and (starts[..., -1] == entries).all()
        )
        # Compared, not subtracted: a difference of two can overflow.
        if not ends_well or bool((starts[..., 1:] < starts[..., :-1]).any()):
            raise self._broken("sparse", name, f"{words[0]} starts that do not fit its size")
        self._check_range(places, columns, words[1], name)

    def _check_range(self, indices: torch.Tensor, size: int, word: str, name: str) -> None:
        if not indices.numel():
            return
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= size:
            raise self._broken("sparse", name, f"{word} {low if low < 0 else high:,} of {size:,}")

    def _integers(self, value: object, name: str) -> torch.Tensor:
        if not isinstance(value, Constant) or value.dtype not in {"int64", "int32"}:
            raise self._broken("sparse", name, "indices that are no integers")
        return value.read().to(torch.int64)

    def _sizes(self, value: object, name: str) -> tuple[int, ...]:
        if isinstance(value, Record) and value.kind == "torch.Size" and len(value.args) == 1:
            value = value.args[0]
        parts = value if isinstance(value, tuple) else (None,)
        if len(parts) > slots.MAX_RANK:
            raise self._broken("sparse", name, f"{len(parts):,} dimensions")
        sizes = tuple(part for part in parts if isinstance(part, int) and 0 <= part < 1 << 63)
        if len(sizes) != len(parts):
            raise self._broken("sparse", name, "a size that is no number")
        return sizes

    def _broken(self, layout: str, name: str, what: str) -> MalformedFile:
        link = ": " if what.startswith(("row ", "column ", "index ")) else " has "
        return MalformedFile(
            f"{layout} tensor {name!r}{link}{what}", slug="tensor-bounds", path=self._path
        )


def _axis_name(axis: int, rank: int) -> str:
    return ("row", "column")[axis] if rank == 2 else f"index of axis {axis}"


def _stored(parts: tuple[object, ...]) -> int:
    """Return how many bytes are read for them: a part of a storage costs all of it."""
    return sum(part.slot.length for part in parts if isinstance(part, Constant) and part.slot)


def _count(part: object) -> int:
    """Return how many scales or zero points there are."""
    if isinstance(part, Constant):
        return part.items
    return len(part) if isinstance(part, (tuple, list)) else 0


def _moderate(value: object) -> float | None:
    """Return a number that float64 holds as it is."""
    if isinstance(value, float):
        return value
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53
    return float(value) if whole and isinstance(value, int) else None


def _unread(what: str) -> Missing:
    return Missing("tensor-layout", f"{what} are not read; save it dense in a real type")
