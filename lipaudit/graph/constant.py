"""Constants: tensors whose values are known, read only when somebody asks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lipaudit.errors import NotCertified

Shape = tuple[int, ...]
Put = Callable[[torch.Tensor], Mapping[str, torch.Tensor]]
"""Wanted values of a constant -> new values of the file's tensors behind it, by key."""
Rescale = Callable[[float], Mapping[str, torch.Tensor]]
"""A factor for all of a constant -> new values of the file's tensors behind it, by key."""

WRITABLE = frozenset({"float64", "float32", "float16", "bfloat16"})
"""Types that hold a wanted number as it is, but for a rounding: no scale stands beside them."""

_LONGEST_LIST = 1 << 20
"""A file of a few bytes can state a constant of 10^18 integers; no list of axes is that long."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where in a file a tensor's bytes lie: a strided window on a run of bytes.

    A slot is enough to read the tensor and to write other values of the same shape and dtype
    in its place, for every format: nobody downstream needs to know which format it was.
    """

    path: Path
    offset: int
    """First byte of the storage in the file."""
    length: int
    """Bytes of the storage."""
    dtype: str
    """torch's name of the item type, without `torch.`."""
    shape: Shape
    strides: tuple[int, ...]
    """In items, as torch counts them."""
    first: int = 0
    """Item of the storage at which the tensor starts."""
    varints: bool = False
    """Whether the bits of each item stand there as a protobuf number: other values may then
    take more or fewer bytes."""

    @property
    def is_whole(self) -> bool:
        """Whether the tensor is the storage, in order and without gaps."""
        expected, items = [], 1
        for size in reversed(self.shape):
            expected.append(items)
            items *= size
        fits = all(
            size <= 1 or stride == wanted
            for size, stride, wanted in zip(
                self.shape, self.strides, reversed(expected), strict=True
            )
        )
        return self.first == 0 and fits


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A tensor with known values: stored in a file, or computed from such ones.

    Equality is identity: two constants of equal values are still two.
    """

    name: str
    shape: Shape
    dtype: str
    """torch's name of the item type without `torch.`, or the file's own name where torch has
    none; then `read` raises."""
    read: Callable[[], torch.Tensor]
    """Produce the values in their own dtype. Each call reads anew: keep what you need."""
    sources: tuple[str, ...] = ()
    """Keys of the file tensors that the values come from."""
    slot: Slot | None = None
    """Where the values lie; None when they are computed, or stored in a way that cannot be
    written in place."""
    scaled_by: str | None = None
    """Key of the one file tensor in which the values are linear: multiplying that tensor by a
    number multiplies these values by it. None when there is no such tensor."""
    entry_error: float = 0.0
    """Bound of |computed - exact| / |exact| for every entry of `values()`; 0 when exact. It is
    carried so that a proved norm covers the rounding of a folded or parametrized weight."""
    unrounded: Callable[[], torch.Tensor] | None = None
    """Produce the values in float64 where `dtype` is too coarse for them: the result of
    arithmetic on stored numbers. None when `read` loses nothing."""
    put: Put | None = None
    """Turn wanted values (float64, this constant's shape) into new values of the file's tensors,
    float64 or the stored dtype, by key. Set where the values are computed; `put_of` also answers
    for stored ones."""
    rescale: Rescale | None = None
    """Turn a positive factor into new values of the file's tensors that multiply these values by
    it; see `rescale_of`."""
    put_note: str = ""
    """What a user should know of a file into which `put` or `rescale` wrote."""

    @property
    def items(self) -> int:
        """How many numbers it holds."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    def values(self) -> torch.Tensor:
        """Return the values in float64 (complex128 for complex ones); the conversion is exact."""
        stored = self.read() if self.unrounded is None else self.unrounded()
        return stored.to(torch.complex128 if stored.is_complex() else torch.float64)

    def integers(self) -> tuple[int, ...]:
        """Return the values of a small integer constant, flattened: an axis list, a shape."""
        if self.items > _LONGEST_LIST:
            raise NotCertified(
                f"{self.name!r}: {self.items:,} integers where a short list is meant", slug="size"
            )
        return tuple(int(value) for value in self.read().flatten().tolist())


def put_of(constant: Constant) -> Put | None:
    """Return the way from wanted values to the file's tensors; None where there is none."""
    if constant.put is not None or not _is_writable(constant):
        return constant.put
    (key,) = constant.sources
    return lambda wanted: {key: wanted}


def rescale_of(constant: Constant) -> Rescale | None:
    """Return the way from a factor to the file's tensors; None where there is none."""
    if constant.rescale is not None or not _is_writable(constant):
        return constant.rescale
    (key,) = constant.sources
    return lambda factor: {key: constant.values() * factor}


def _is_writable(constant: Constant) -> bool:
    """Tell whether the constant is a tensor of the file, stored in place in a floating type."""
    stored = constant.slot is not None and len(constant.sources) == 1
    return stored and constant.dtype in WRITABLE


def computed(
    name: str, value: torch.Tensor, *, sources: tuple[str, ...] = (), scaled_by: str | None = None
) -> Constant:
    """Wrap a tensor that is already at hand."""
    return Constant(
        name=name,
        shape=tuple(value.shape),
        dtype=str(value.dtype).removeprefix("torch."),
        read=lambda: value,
        sources=sources,
        scaled_by=scaled_by,
    )
