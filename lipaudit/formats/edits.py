"""Edits: a patch of tensors turned into bytes to replace, file by file."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from lipaudit.errors import WriteRefused
from lipaudit.formats import slots
from lipaudit.formats.base import ChangedFile, Edit, Patch
from lipaudit.formats.source import Source
from lipaudit.graph.constant import Slot
from lipaudit.graph.model import Fingerprint, Model

_CHUNK = 1 << 22
_Storages = dict[tuple[int, int], bytearray]
"""First byte and length of a storage -> its new bytes."""


def by_file(model: Model, patch: Patch) -> Mapping[Path, tuple[Edit, ...]]:
    """Return the edits of every file of the model that put the patched values in their slots.

    Several tensors may be windows on one storage. Raise `WriteRefused` for a tensor without a
    slot, and when tensors that share bytes want them to be different.
    """
    found: dict[Path, _Storages] = {path: {} for path in model.files}
    numbers: dict[Path, list[Edit]] = {path: [] for path in model.files}
    placed = []
    for key, values in patch.items():
        slot = _slot(model, key, found)
        if slot.varints:
            numbers[slot.path].append(Edit(slot.offset, _varints(values), slot.length))
        else:
            placed.append((key, slot, values))
    for _, slot, values in placed:
        storage = _storage(found[slot.path], slot)
        slots.window(storage, slot).copy_(values)
    for key, slot, values in placed:
        written = slots.window(_storage(found[slot.path], slot), slot)
        if not _same_bits(written, values):
            raise _torn(f"tensor {key!r} shares", model)
    return {path: (*_edits(storages, model), *numbers[path]) for path, storages in found.items()}


def _varints(values: torch.Tensor) -> bytes:
    """Encode 16-bit items as protobuf does: seven bits a byte, a high bit on all but the last."""
    bits = values.contiguous().flatten().view(torch.int16).numpy().astype(np.uint16)
    groups = np.stack([bits & 0x7F, bits >> 7 & 0x7F, bits >> 14], axis=1).astype(np.uint8)
    more = np.stack([bits >= 1 << 7, bits >= 1 << 14, np.zeros_like(bits, dtype=bool)], axis=1)
    used = np.insert(more[:, :2], 0, values=True, axis=1)
    return bytes((groups | more.astype(np.uint8) << 7)[used])


def chunks(file: ChangedFile) -> Iterator[bytes]:
    """Yield an input file with its edits made, a piece at a time.

    Raise `WriteRefused` when it is not the file that was read, or changes on the way.
    """
    source = Source(file.original)
    check_same(source, file.seen)
    at = 0
    for edit in sorted(file.edits, key=lambda edit: edit.offset):
        yield from _plain(source, at, edit.offset)
        yield edit.data
        at = edit.end
    yield from _plain(source, at, source.size)
    check_same(source, file.seen)


def sha1_of(file: ChangedFile) -> str:
    """Return the SHA-1 of a file as it will be written."""
    total = hashlib.sha1(usedforsecurity=False)
    for chunk in chunks(file):
        total.update(chunk)
    return total.hexdigest()


def _plain(source: Source, start: int, end: int) -> Iterator[bytes]:
    for offset in range(start, end, _CHUNK):
        yield source.read(offset, min(_CHUNK, end - offset))


def check_same(source: Source, seen: Fingerprint | None) -> None:
    """Raise unless an open file is still what it was when it was read."""
    if seen is not None and source.fingerprint() != seen:
        raise WriteRefused(
            "changed since it was read",
            slug="write-changed",
            path=str(source.path),
            hint="run it again",
        )


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
        storages[place] = Source(slot.path).load(*place)
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
