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
from lipaudit.formats.dangerous import calls
from lipaudit.formats.exported_graph import DTYPES, ExportedGraph
from lipaudit.formats.pickle_guard import Global, mentioned
from lipaudit.formats.source import Source
from lipaudit.formats.state_dict import ties
from lipaudit.formats.zip_archive import Archive, Member, Part
from lipaudit.graph.constant import Constant, Slot
from lipaudit.graph.model import Model, Topology

SCHEMA_MAJOR = 8
"""Of torch 2.5 to 2.13; a new major number means that meanings changed."""
_STRIDED = 7
_MAX_PICKLE = 25_000_000
_LEGACY_PICKLES = 4
"""How many follow the first one in the layout before torch 1.6; raw items follow them."""
_OBJECTS = ("data/constants/custom_obj_", "data/constants/opaque_obj_")


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
            names = Archive.open(source, check=False).members
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
        tensors = _tensors(archive, source)
        graph = ExportedGraph(document, tensors, path).read()
        return Model(
            path=path,
            format=self.name,
            files=(source.path,),
            tensors=tensors,
            graph=graph,
            topology=Topology.STATED,
            notes=archive.notes,
            alarms=_alarms(archive, source),
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


def _tensors(archive: Archive, source: Source) -> dict[str, Constant]:
    """Return every weight and stored constant by name."""
    path = str(source.path)
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
                tensors[key] = _stored(archive, source, f"data/{folder}", key, entry)
    return tensors


def _stored(
    archive: Archive, source: Source, folder: str, key: str, entry: Mapping[str, Any]
) -> Constant:
    path = str(source.path)
    if entry.get("use_pickle") is not False:
        raise UnsafeFile(
            f"weight {key!r} is pickled inside the pt2",
            slug="pt2-pickle",
            path=path,
            hint="export it again with torch 2.10 or newer",
        )
    member = archive.members.get(f"{folder}/{entry.get('path_name')}")
    meta = entry["tensor_meta"]
    number = meta.get("dtype") if isinstance(meta, dict) else None
    dtype = DTYPES.get(number) if isinstance(number, int) else None
    problem = ""
    if member is None:
        problem = f"has no bytes: no member {entry.get('path_name')!r}"
    elif dtype is None:
        problem = "has items of unknown type"
    elif meta.get("layout") != _STRIDED:
        problem = "has an unknown layout"
    if member is None or dtype is None or problem:
        raise MalformedFile(f"weight {key!r} {problem}", slug="pt2-weight", path=path)
    slot = Slot(
        path=source.path,
        offset=member.offset,
        length=member.length,
        dtype=dtype,
        shape=_integers(meta.get("sizes"), key, path),
        strides=_integers(meta.get("strides"), key, path),
        first=_integers([meta.get("storage_offset")], key, path)[0],
    )
    if len(slot.shape) != len(slot.strides):
        raise MalformedFile(f"weight {key!r} has odd strides", slug="pt2-weight", path=path)
    return slots.stored(key, slot, source)


def _integers(value: object, key: str, path: str) -> tuple[int, ...]:
    entries = value if isinstance(value, list) else [None]
    sizes = [entry.get("as_int") if isinstance(entry, dict) else None for entry in entries]
    known = tuple(size for size in sizes if isinstance(size, int) and not isinstance(size, bool))
    if len(known) != len(sizes):
        raise MalformedFile(
            f"weight {key!r} has a size that is no number", slug="pt2-weight", path=path
        )
    return known


def _alarms(archive: Archive, source: Source) -> tuple[str, ...]:
    """Look through the pickled sample inputs and objects, which lipaudit has no use for."""
    names: dict[Global, None] = {}
    found: list[str] = []
    for name, member in archive.members.items():
        if not name.endswith(".pt") and not name.startswith(_OBJECTS):
            continue
        seen, is_whole = _names_in(Part(source, member.offset, member.length), member)
        names |= dict.fromkeys(seen)
        if not is_whole:
            found.append(f"in {name} cannot be looked through")
    return (*calls(names), *found)


def _names_in(part: Part, member: Member) -> tuple[tuple[Global, ...], bool]:
    """Return the names that a member written by torch.save mentions, and whether these are all.

    A pickle is run up to where it breaks, so that what can be walked of a broken one counts.
    """
    path = str(part.path)
    head = part.read(0, min(4, part.size))
    try:
        if head == b"PK\x03\x04":
            inner = Archive.open(part, check=False)
            pickles = inner.read("data.pkl", limit=_MAX_PICKLE)
        else:
            pickles = part.read(0, min(part.size, _MAX_PICKLE))
    except LipauditError:
        return (), False
    if member.is_packed:
        return (), False
    names, end = mentioned(pickles, path=path)
    found = list(names)
    for _ in range(_LEGACY_PICKLES):
        if not 0 <= end < len(pickles) or head == b"PK\x03\x04":
            break
        names, end = mentioned(pickles, start=end, path=path)
        found += names
    return tuple(found), end >= 0
