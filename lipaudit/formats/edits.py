"""Edits: a patch of tensors turned into bytes to replace, file by file."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from lipaudit.errors import WriteRefused
from lipaudit.formats import slots
from lipaudit.formats.base import Edit, Patch
from lipaudit.formats.source import Source
from lipaudit.graph.constant import Slot
from lipaudit.graph.model import Model

_Storages = dict[tuple[int, int], bytearray]
"""First byte and length of a storage -> its new bytes."""


def by_file(model: Model, patch: Patch) -> Mapping[Path, tuple[Edit, ...]]:
    """Return the edits of every file of the model that put the patched values in their slots.

    Several tensors may be windows on one storage. Raise `WriteRefused` for a tensor without a
    slot, and when tensors that share bytes want them to be different.
    """
    found: dict[Path, _Storages] = {path: {} for path in model.files}
    placed = [(key, _slot(model, key, found), values) for key, values in patch.items()]
    for _, slot, values in placed:
        storage = _storage(found[slot.path], slot)
        slots.window(storage, slot).copy_(values)
    for key, slot, values in placed:
        written = slots.window(_storage(found[slot.path], slot), slot)
        if not _same_bits(written, values):
            raise _torn(f"tensor {key!r} shares", model)
    return {path: tuple(_edits(storages, model)) for path, storages in found.items()}


def _slot(model: Model, key: str, files: Mapping[Path, _Storages]) -> Slot:
    slot = model.tensors[key].slot if key in model.tensors else None
    if slot is None or slot.path not in files:
        raise WriteRefused(
            f"tensor {key!r} is not stored in a way that can be replaced in place",
            slug="write-slot",
            path=model.path,
        )
    return slot


def _storage(storages: _Storages, slot: Slot) -> bytearray:
    place = (slot.offset, slot.length)
    if place not in storages:
        storages[place] = bytearray(Source(slot.path).read(*place))
    return storages[place]


def _same_bits(written: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Compare without arithmetic: a NaN equals itself, and -0 is not 0."""
    sides = (side.contiguous().reshape(-1).view(torch.uint8) for side in (written, wanted))
    return torch.equal(*sides)


def _edits(storages: _Storages, model: Model) -> Iterable[Edit]:
    end = -1
    for (offset, length), data in sorted(storages.items()):
        if offset < end:
            raise _torn("two tensors share", model)
        end = offset + length
        yield Edit(offset, bytes(data))


def _torn(which: str, model: Model) -> WriteRefused:
    return WriteRefused(
        f"{which} bytes with another tensor that gets other values",
        slug="write-tied",
        path=model.path,
    )
