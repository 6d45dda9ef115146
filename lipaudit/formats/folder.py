"""Folders: a model kept as several files, as on the Hugging Face hub.

An index (`*.index.json`) says which shard holds which tensor. It is believed only as far as
the shards agree: every tensor of every shard is in the index, and the other way round.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lipaudit import strict_json
from lipaudit.errors import MalformedFile, UnreadableFile, UnsafeFile, UsageError
from lipaudit.formats import safetensors
from lipaudit.formats.base import AbstractFormat, ChangedFile, Patch, register
from lipaudit.formats.source import Source, digest_of
from lipaudit.formats.state_dict import assemble_flat
from lipaudit.formats.strangers import INDEX_SUFFIX, is_index, recognized
from lipaudit.graph.constant import Constant
from lipaudit.graph.model import Model, Unread

# As transformers looks for them, the safer format first.
_WELL_KNOWN = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
_SUFFIXES = (".safetensors", ".onnx", ".pt2", ".pt", ".pth", ".ckpt", ".th", ".bin", INDEX_SUFFIX)
_LOOKED_FOR = "model.safetensors, pytorch_model.bin, their .index.json, *.onnx, *.pt2, *.pt, ..."
_CONFIG = "config.json"
_MAX_SHARDS = 10_000


@dataclass(frozen=True, slots=True)
class _Shard:
    """What was read of one of the files."""

    source: Source
    form: str
    tensors: Mapping[str, Constant]
    alarms: tuple[str, ...] = ()
    missing: tuple[Unread, ...] = ()
    """Its tensors without values."""


@register
class ShardedFormat(AbstractFormat):
    """A model in several shards of any one format, read through its index."""

    name = "sharded"
    suffixes = (INDEX_SUFFIX,)

    def recognizes(self, source: Source) -> bool:
        """See `AbstractFormat.recognizes`: JSON that speaks of a weight map."""
        return is_index(source)

    def read(self, source: Source) -> Model:
        """See `AbstractFormat.read`."""
        weight_map = _weight_map(source)
        names = tuple(dict.fromkeys(weight_map.values()))
        sources = {name: _open(name, names, source) for name in names}
        shards = {name: _read(name, shard, source) for name, shard in sources.items()}
        _check_agreement(weight_map, shards, source)
        files = (source.path, *(shard.source.path for shard in shards.values()))
        model = assemble_flat(
            {key: shards[name].tensors[key] for key, name in weight_map.items()},
            path=str(source.path),
            format=self.name,
            files=files,
            notes=(f"{len(names)} shards",),
            digest=lambda: digest_of(files),
        )
        alarms = dict.fromkeys(alarm for shard in shards.values() for alarm in shard.alarms)
        missing = tuple(one for shard in shards.values() for one in shard.missing)
        return replace(model, alarms=tuple(alarms), unread=(*model.unread, *missing))

    def changed(self, model: Model, patch: Patch, output: str = "") -> Sequence[ChangedFile]:
        """See `AbstractFormat.changed`: each shard is changed as its own format does it."""
        del output
        index, *shards = model.files
        files = [ChangedFile(index, "", ())]
        for path in shards:
            source = Source(path)
            shard_format = recognized(source)
            shard = shard_format.read(source)
            own = {key: values for key, values in patch.items() if key in shard.tensors}
            (changed,) = shard_format.changed(shard, own)
            files.append(replace(changed, name=path.name))
        return files


def read_folder(folder: Path) -> Model:
    """Read the one model that a folder holds; raise when there is none, or a choice."""
    try:
        names = sorted(path.name for path in folder.iterdir() if _is_file(path))
    except OSError as error:
        cause = f"cannot be listed: {error.strerror}"
        raise UnreadableFile(cause, slug="unreadable", path=str(folder)) from error
    chosen = next((name for name in _WELL_KNOWN if name in names), "") or _only(names, folder)
    source = Source(folder / chosen)
    model = recognized(source).read(source)
    notes = [f"read {chosen} of the folder"]
    if _CONFIG in names:
        notes.append(f"{_CONFIG} says what the network is; --hf takes the layer graph from it")
    is_sharded = chosen.endswith(INDEX_SUFFIX)
    return replace(
        model,
        path=str(folder) if is_sharded else model.path,
        notes=(*model.notes, *notes),
        folder=folder,
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a link to a name that is too long
        return False


def _only(names: Sequence[str], folder: Path) -> str:
    """Return the one file that looks like a model."""
    candidates = [name for name in names if name.endswith(_SUFFIXES)]
    indexes = [name for name in candidates if name.endswith(INDEX_SUFFIX)]
    candidates = indexes or candidates
    if not candidates:
        raise UnreadableFile(
            f"no model file found (looked for {_LOOKED_FOR})", slug="no-model", path=str(folder)
        )
    if len(candidates) > 1:
        shown = ", ".join(candidates[:5]) + (", ..." if len(candidates) > 5 else "")
        raise UsageError(
            f"{len(candidates)} model files: {shown}",
            slug="several-models",
            hint="name the one that is meant",
            path=str(folder),
        )
    return candidates[0]


def _weight_map(source: Source) -> Mapping[str, str]:
    path = str(source.path)
    if source.size > strict_json.MAX_BYTES:
        raise UnsafeFile(f"index of {source.size:,} bytes", slug="index", path=path)
    index: Any = strict_json.parse(source.read(0, source.size), "index", path=path)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise MalformedFile("index without a weight_map", slug="index", path=path)
    for key, name in weight_map.items():
        if not isinstance(name, str) or not name:
            raise MalformedFile(f"{key!r} has no shard", slug="index", path=path)
        if name != Path(name).name or name in {".", ".."} or "\\" in name or "\0" in name:
            raise UnsafeFile(
                f"shard name leaves the folder: {name!r}", slug="index-outside", path=path
            )
    if len(set(weight_map.values())) > _MAX_SHARDS:
        raise UnsafeFile(f"more than {_MAX_SHARDS:,} shards", slug="index", path=path)
    return weight_map


def _open(name: str, names: Sequence[str], index: Source) -> Source:
    path = index.path.parent / name
    if not _is_there(path):
        raise UnreadableFile(
            f"shard {names.index(name) + 1} of {len(names)} missing: {name!r}",
            slug="index-missing",
            path=str(index.path),
        )
    # In a Hugging Face cache index and shards are links into one folder of blobs.
    homes = (Path(os.path.realpath(index.path.parent)), Path(os.path.realpath(index.path)).parent)
    if not any(Path(os.path.realpath(path)).is_relative_to(home) for home in homes):
        raise UnsafeFile(
            f"shard {name!r} is a link to what lies outside the folder",
            slug="index-outside",
            path=str(index.path),
        )
    return Source(path)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _read(name: str, source: Source, index: Source) -> _Shard:
    form = recognized(source)
    if isinstance(form, ShardedFormat):
        raise MalformedFile(
            f"shard {name!r} is an index itself", slug="index", path=str(index.path)
        )
    if isinstance(form, safetensors.SafetensorsFormat):
        return _Shard(source, form.name, safetensors.tensors(source))
    model = form.read(source)
    missing = tuple(one for one in model.unread if one.name not in model.tensors)
    return _Shard(source, form.name, model.tensors, model.alarms, missing)


def _check_agreement(
    weight_map: Mapping[str, str], shards: Mapping[str, _Shard], index: Source
) -> None:
    """Raise unless the index names every tensor of every shard, and each shard has its own."""
    forms = sorted({shard.form for shard in shards.values()})
    if len(forms) > 1:
        raise _disagreement(f"shards of several formats: {', '.join(forms)}", index)
    for key, name in weight_map.items():
        if key not in shards[name].tensors:
            raise _disagreement(f"tensor {key!r} is not in shard {name!r}", index)
    owners: dict[str, str] = {}
    for name, shard in shards.items():
        for key in shard.tensors:
            if key in owners:
                raise _disagreement(
                    f"tensor {key!r} is in two shards, {owners[key]!r} and {name!r}", index
                )
            owners[key] = name
            if key not in weight_map:
                raise _disagreement(f"tensor {key!r} of shard {name!r} is not in the index", index)


def _disagreement(cause: str, index: Source) -> MalformedFile:
    return MalformedFile(cause, slug="index-keys", path=str(index.path))
