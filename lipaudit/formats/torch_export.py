"""torch.export archives (.pt2): a zip with the graph as JSON and each weight as raw bytes.

torch.export.load runs code that such a file can carry in its pickled members. Here the JSON is
read, the weights are slots into the zip, and a pickled member is looked at by the pickle guard
for alarms only.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lipaudit import strict_json
from lipaudit.errors import (
    LipauditError,
    MalformedFile,
    UnsafeFile,
    UnsupportedFormat,
    WriteRefused,
)
from lipaudit.formats import edits, slots
from lipaudit.formats.base import AbstractFormat, ChangedFile, Edit, Patch, register
from lipaudit.formats.dangerous import alarms
from lipaudit.formats.exported_graph import DTYPES, ExportedGraph
from lipaudit.formats.pickle_guard import unpickle
from lipaudit.formats.source import Source
from lipaudit.formats.state_dict import ties
from lipaudit.formats.zip_archive import Archive, nested
from lipaudit.graph.constant import Constant, Slot
from lipaudit.graph.model import Model, Topology

SCHEMA_MAJOR = 8
"""Of torch 2.5 to 2.13; a new major number means that meanings changed."""
_STRIDED = 7


@register
class TorchExport(AbstractFormat):
    """A .pt2 archive."""

    name: ClassVar[str] = "torch.export"
    suffixes: ClassVar[tuple[str, ...]] = (".pt2",)

    def recognizes(self, source: Source) -> bool:
        """Tell by the archive's own word for its format."""
        if source.head(4) != b"PK\x03\x04":
            return False
        try:
            names = Archive.open(source).members
        except LipauditError:
            return False  # the torch reader says what is wrong with the zip
        return "archive_format" in names or "serialized_exported_program.json" in names

    def read(self, source: Source) -> Model:
        """Read the graph's JSON and lay the weights over their members."""
        path = str(source.path)
        archive = Archive.open(source)
        models = [name for name in archive.members if _is_graph(name)]
        if len(models) != 1:
            raise UnsupportedFormat(
                f"{len(models)} graphs in one archive", slug="pt2-layout", path=path
            )
        document = _json(archive, models[0])
        _check_version(document, path)
        tensors = _tensors(archive, path)
        graph = ExportedGraph(document, tensors, path).read()
        return Model(
            path=path,
            format=self.name,
            files=(source.path,),
            tensors=tensors,
            graph=graph,
            topology=Topology.STATED,
            alarms=_alarms(archive),
            ties=ties(tensors),
            digest=source.digest,
        )

    def changed(self, model: Model, patch: Patch, output: str = "") -> Sequence[ChangedFile]:
        """Replace the weights' bytes and their checksums."""
        del output
        if model.alarms:
            raise WriteRefused(
                "holds a pickle made to run code, which a copy would pass on",
                slug="write-alarm",
                path=model.path,
            )
        source = Source(model.files[0])
        archive = Archive.open(source)
        owners = {m.offset: name for name, m in archive.members.items() if m.length}
        found: list[Edit] = []
        for edit in edits.by_file(model, patch)[source.path]:
            found += archive.edits(owners[edit.offset], edit.data)
        return (ChangedFile(source.path, "", tuple(found)),)


def _is_graph(name: str) -> bool:
    return name.startswith("models/") and name.endswith(".json")


def _json(archive: Archive, name: str) -> dict[str, Any]:
    path = str(archive.source.path)
    document = strict_json.parse(archive.read(name), name, path=path)
    if not isinstance(document, dict):
        raise MalformedFile(f"{name} is no JSON object", slug="pt2-json", path=path)
    return document


def _check_version(document: Mapping[str, Any], path: str) -> None:
    version = document.get("schema_version")
    major = version.get("major") if isinstance(version, dict) else None
    if major != SCHEMA_MAJOR:
        raise UnsupportedFormat(
            f"schema version {major} of torch.export is not known (only {SCHEMA_MAJOR})",
            slug="pt2-version",
            path=path,
            hint="export it again with torch 2.10 or newer",
        )


def _tensors(archive: Archive, path: str) -> dict[str, Constant]:
    """Return every weight and stored constant by name."""
    tensors: dict[str, Constant] = {}
    for folder, config in (
        ("weights", "model_weights_config"),
        ("constants", "model_constants_config"),
    ):
        name = f"data/{folder}/{config}.json"
        entries = _json(archive, name).get("config", {}) if name in archive.members else {}
        if not isinstance(entries, dict):
            raise MalformedFile(f"{name} has no config", slug="pt2-json", path=path)
        for key, entry in entries.items():
            if isinstance(entry, dict) and entry.get("tensor_meta") is not None:
                tensors[key] = _stored(archive, folder, key, entry, path)
    return tensors


def _stored(
    archive: Archive, folder: str, key: str, entry: Mapping[str, Any], path: str
) -> Constant:
    if entry.get("use_pickle") is not False:
        raise UnsafeFile(
            f"weight {key!r} is pickled inside the pt2",
            slug="pt2-pickle",
            path=path,
            hint="export it again with torch 2.10 or newer",
        )
    member = archive.members.get(f"data/{folder}/{entry.get('path_name')}")
    meta = entry["tensor_meta"]
    dtype = DTYPES.get(meta.get("dtype", 0)) if isinstance(meta, dict) else None
    if member is None or dtype is None or meta.get("layout") != _STRIDED:
        raise MalformedFile(
            f"weight {key!r} has no bytes or an unknown type", slug="pt2-weight", path=path
        )
    slot = Slot(
        path=archive.source.path,
        offset=member.offset,
        length=member.length,
        dtype=dtype,
        shape=_integers(meta.get("sizes"), key, path),
        strides=_integers(meta.get("strides"), key, path),
        first=_integers([meta.get("storage_offset")], key, path)[0],
    )
    if len(slot.shape) != len(slot.strides):
        raise MalformedFile(f"weight {key!r} has odd strides", slug="pt2-weight", path=path)
    return slots.stored(key, slot, archive.source)


def _integers(value: object, key: str, path: str) -> tuple[int, ...]:
    entries = value if isinstance(value, list) else [None]
    sizes = [entry.get("as_int") if isinstance(entry, dict) else None for entry in entries]
    known = tuple(size for size in sizes if isinstance(size, int) and not isinstance(size, bool))
    if len(known) != len(sizes):
        raise MalformedFile(
            f"weight {key!r} has a size that is no number", slug="pt2-weight", path=path
        )
    return known


def _alarms(archive: Archive) -> tuple[str, ...]:
    """Look through the pickled sample inputs, which lipaudit has no use for."""
    found: dict[str, None] = {}
    for name, member in archive.members.items():
        if name.endswith(".pt") and member.length < strict_json.MAX_BYTES:
            data = archive.read(name)
            try:
                pickled = unpickle(nested(data, "data.pkl"), path=str(archive.source.path))
            except LipauditError:
                continue  # not a pickle that could be opened, so none that could run
            found |= dict.fromkeys(alarms(pickled))
    return tuple(found)
