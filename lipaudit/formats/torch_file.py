"""The files torch.save writes: zip archives (since 1.6), the legacy layout, TorchScript."""

from collections.abc import Sequence
from typing import ClassVar

from lipaudit.errors import MalformedFile, UnsupportedFormat, WriteRefused
from lipaudit.formats import edits, rebuilding, slots, state_dict
from lipaudit.formats.base import AbstractFormat, ChangedFile, Edit, Patch, register
from lipaudit.formats.dangerous import alarms, strangers
from lipaudit.formats.pickle_guard import Budget, Pickled, unpickle
from lipaudit.formats.source import Source
from lipaudit.formats.torch_tensors import Materializer, Storage
from lipaudit.formats.zip_archive import Archive
from lipaudit.graph.model import Model

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_HEAD = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_FIRST_PICKLE = 64
"""Bytes that hold the pickle of the magic number, whatever its protocol."""
_SUFFIXES = (".pt", ".pth", ".ckpt", ".th", ".tar", ".bin", ".model")
_FIRST_BYTES = 64 << 20
MAX_PICKLE = 128 << 20
"""Bytes of one pickle: names and sizes of tensors, not their values."""


@register
class TorchZip(AbstractFormat):
    """A zip with one pickle (data.pkl) and one member a storage."""

    name: ClassVar[str] = "torch (zip)"
    suffixes: ClassVar[tuple[str, ...]] = _SUFFIXES

    def recognizes(self, source: Source) -> bool:
        """Tell by the zip's first bytes; .pt2 is asked first and has no data.pkl."""
        return source.head(4) == b"PK\x03\x04"

    def read(self, source: Source) -> Model:
        """Walk data.pkl and lay the tensors over the members."""
        archive = Archive.open(source)
        path = str(source.path)
        order = _byteorder(archive)
        if "data.pkl" not in archive.members:
            raise _not_torch(archive)
        data, budget = archive.read("data.pkl", limit=MAX_PICKLE), Budget(path)
        budget.charge(len(data))
        pickled = unpickle(data, path=path, budget=budget)

        def shelf(dtype: str, key: str, items: int) -> Storage:
            member = archive.members.get(f"data/{key}")
            size = slots.item_size(dtype) * items
            if member is None:
                raise MalformedFile(f"zip has no member data/{key}", slug="zip", path=path)
            if member.length != size:
                raise MalformedFile(
                    f"data/{key} has {member.length:,} bytes, the pickle claims {size:,}",
                    slug="storage-size",
                    path=path,
                )
            return Storage(dtype, member.offset, member.length)

        rebuilding.check(pickled.calls, path)
        materializer = Materializer(source, shelf, big_endian=order == b"big")
        tree = materializer.walk(pickled.value)
        script = "constants.pkl" in archive.members
        return state_dict.assemble(
            tree,
            path=path,
            format="TorchScript" if script else self.name,
            source=source,
            alarms=alarms(pickled),
            notes=(
                *archive.notes,
                *((_SCRIPT_NOTE,) if script else ()),
                *materializer.notes,
                *(() if script else strangers(pickled)),
            ),
            may_assume=not script,
            attached=materializer.hidden,
        )

    def changed(self, model: Model, patch: Patch, output: str = "") -> Sequence[ChangedFile]:
        """Replace the members' bytes and their checksums."""
        del output
        source = _writable(model)
        archive = Archive.open(source)
        owners = {member.offset: name for name, member in archive.members.items() if member.length}
        found: list[Edit] = []
        for edit in edits.by_file(model, patch)[source.path]:
            found += archive.edits(owners[edit.offset], edit.data)
        return (ChangedFile(source.path, "", tuple(found)),)


@register
class TorchLegacy(AbstractFormat):
    """The layout before torch 1.6: pickles in a row, then the raw storages."""

    name: ClassVar[str] = "torch (legacy)"
    suffixes: ClassVar[tuple[str, ...]] = _SUFFIXES

    def recognizes(self, source: Source) -> bool:
        """Tell by the magic number that the first pickle holds."""
        return _LEGACY_HEAD in source.head(32)

    def read(self, source: Source) -> Model:
        """Walk the five pickles, then work out where each storage lies."""
        path = str(source.path)
        pickles = _legacy_pickles(source)
        keys = pickles[4].value
        if not isinstance(keys, list) or not all(map(_is_key, keys)):
            raise _damaged(path)
        places: dict[str, Storage] = {}

        def placed(_dtype: str, key: str, _items: int) -> Storage:
            if key not in places:
                raise MalformedFile(f"storage {key} is missing", slug="storage-size", path=path)
            return places[key]

        rebuilding.check(pickles[3].calls, path)
        materializer = Materializer(source, placed, has_parts=True)
        types = materializer.storages(pickles[3].value)
        places |= _legacy_places(source, pickles[4].end, [str(key) for key in keys], types)
        tree = materializer.walk(pickles[3].value)
        return state_dict.assemble(
            tree,
            path=path,
            format=self.name,
            source=source,
            alarms=alarms(*pickles),
            notes=(*materializer.notes, *strangers(pickles[3])),
            attached=materializer.hidden,
        )

    def changed(self, model: Model, patch: Patch, output: str = "") -> Sequence[ChangedFile]:
        """Replace the bytes of the storages; the layout has no checksums."""
        del output
        source = _writable(model)
        return (ChangedFile(source.path, "", edits.by_file(model, patch)[source.path]),)


_SCRIPT_NOTE = "TorchScript graph not read; export to .pt2 or ONNX for a bound"


def _byteorder(archive: Archive) -> bytes:
    """Return `little` or `big`: the order of the machine that wrote the storages."""
    order = archive.read("byteorder", limit=64) if "byteorder" in archive.members else b"little"
    if order not in {b"little", b"big"}:
        raise MalformedFile(
            f"byte order {order[:20]!r} is neither little nor big",
            slug="byteorder",
            path=str(archive.source.path),
        )
    return order


def _not_torch(archive: Archive) -> UnsupportedFormat:
    names = list(archive.members)
    what = "zip without data.pkl"
    if names and all(name.endswith(".npy") for name in names):
        what = "NumPy archive (npz)"
    return UnsupportedFormat(
        f"{what}, not a model", slug="unsupported-format", path=str(archive.source.path)
    )


def _is_key(key: object) -> bool:
    """Tell whether this may name a storage: a text, or an address, which has 64 bits at most."""
    return isinstance(key, str) or (isinstance(key, int) and key.bit_length() <= 64)


def _legacy_pickles(source: Source) -> list[Pickled]:
    """Walk magic number, protocol, system, value and storage keys."""
    path = str(source.path)
    first = unpickle(source.head(_FIRST_PICKLE), path=path)
    if first.value != _LEGACY_MAGIC:
        raise _damaged(path)
    length = min(source.size, _FIRST_BYTES)
    while True:
        data = source.read(0, length)
        found, budget = [first], Budget(path)
        try:
            while len(found) < 5:
                found.append(unpickle(data, start=found[-1].end, path=path, budget=budget))
        except MalformedFile:
            if length == min(source.size, MAX_PICKLE):
                raise
            length = min(source.size, MAX_PICKLE)
            continue
        return found


def _damaged(path: str) -> MalformedFile:
    return MalformedFile("legacy header is damaged", slug="torch-legacy", path=path)


def _legacy_places(
    source: Source, start: int, keys: list[str], types: dict[str, tuple[str, int]]
) -> dict[str, Storage]:
    """Each storage is its number of items in eight bytes, then the items."""
    path = str(source.path)
    places: dict[str, Storage] = {}
    for key in keys:
        if key not in types or key in places:
            what = "appears twice" if key in places else "belongs to no tensor"
            raise MalformedFile(f"storage {key} {what}", slug="torch-legacy", path=path)
        dtype, claimed = types[key]
        items = int.from_bytes(source.read(start, 8), "little", signed=True)
        if items != claimed:
            raise MalformedFile(
                f"storage {key} has {items:,} items, the pickle claims {claimed:,}",
                slug="storage-size",
                path=path,
            )
        length = items * slots.item_size(dtype)
        if start + 8 + length > source.size:
            raise MalformedFile(f"storage {key} is cut short", slug="truncated", path=path)
        places[key] = Storage(dtype, start + 8, length)
        start += 8 + length
    return places


def _writable(model: Model) -> Source:
    """Open the one file of a model that may be copied with edits."""
    if model.alarms:
        raise WriteRefused(
            "holds a pickle made to run code, which a copy would pass on",
            slug="write-alarm",
            path=model.path,
            hint="clip a safetensors export instead",
        )
    return Source(model.files[0])
