"""ONNX files: a full graph with its weights, in the file or beside it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped] # has no stubs

from lipaudit.errors import MalformedFile, UnsupportedFormat, WriteRefused
from lipaudit.formats import edits, onnx_renaming, onnx_wire
from lipaudit.formats.base import AbstractFormat, ChangedFile, Patch, register
from lipaudit.formats.onnx_graph import GraphReader
from lipaudit.formats.onnx_scope import Functions, Scope, opsets_of
from lipaudit.formats.onnx_tensor import TensorReader
from lipaudit.formats.source import Source, digest_of
from lipaudit.formats.state_dict import ties
from lipaudit.graph.model import Model, Topology
from lipaudit.graph.node import Graph

# Since this version a listed initializer is a default that the caller may override.
_IR_WITH_DEFAULTS = 4
# As ONNX's document "Optional Metadata" defines them.
_PIXELS = {
    "NominalRange_0_255": (0.0, 255.0),
    "Normalized_0_1": (0.0, 1.0),
    "Normalized_1_1": (-1.0, 1.0),
    "NominalRange_16_235": (16.0, 235.0),
}
# Before this version a file stated no opset: there was only one.
_IR_WITH_OPSETS = 3


@register
class OnnxFormat(AbstractFormat):
    """An ONNX model of any opset since the first, with or without external data."""

    name = "onnx"
    suffixes = (".onnx",)

    def recognizes(self, source: Source) -> bool:
        """See `AbstractFormat.recognizes`; tried last, it also answers for its suffix.

        A damaged file that nobody else knows then gets an error that says what is wrong.
        """
        return onnx_wire.resembles_model(source) or source.path.suffix == ".onnx"

    def read(self, source: Source) -> Model:
        """See `AbstractFormat.read`."""
        skeleton = onnx_wire.skeleton(source)
        tensors = TensorReader(source)
        try:
            proto = onnx.ModelProto.FromString(skeleton.data)
            _check_version(proto.ir_version, str(source.path))
            reader, graph = _read_graph(proto, tensors)
        except DecodeError as error:
            raise MalformedFile(
                f"not a valid ONNX protobuf: {error}", slug="onnx-protobuf", path=str(source.path)
            ) from error
        external = tensors.external
        files = (source.path, *external.paths.values())
        return Model(
            path=str(source.path),
            format=self.name,
            files=files,
            tensors=reader.tensors,
            graph=graph,
            topology=Topology.STATED,
            assumptions=tuple(_defaults(proto)),
            notes=(*_notes(skeleton, external.hard_linked), *reader.notes),
            ranges=_ranges(proto),
            ties=ties(reader.tensors),
            digest=lambda: digest_of(files),
        )

    def changed(self, model: Model, patch: Patch, output: str = "") -> Sequence[ChangedFile]:
        """See `AbstractFormat.changed`.

        The files beside it become `out.onnx.data`, or a folder of that name; under the model's
        own name, which is another folder then, they keep theirs.
        """
        found = edits.by_file(model, patch)
        main, *paths = model.files
        for path in paths:
            if Source(path).links > 1:
                # Its other name may lie outside the folder: a copy would carry its bytes out.
                raise WriteRefused(
                    f"external file {path.name!r} is a hard link",
                    slug="write-link",
                    path=model.path,
                )
        beside = {_relative(path, main): path for path in paths}
        files = {name: ChangedFile(path, name, found[path]) for name, path in beside.items()}
        names = _names(beside, "" if output == main.name else output)
        source = Source(main)
        leaves = (*found[main], *onnx_renaming.renamed(source, files, names))
        return (
            ChangedFile(main, "", onnx_renaming.with_lengths(source, leaves)),
            *(replace(file, name=names[name]) for name, file in files.items()),
        )


def _check_version(version: int, path: str) -> None:
    """Raise unless it is a version of the format, and not newer than what is known of it."""
    if version < 1:
        stated = f"states IR version {version:,}" if version else "states no IR version"
        raise MalformedFile(stated, slug="onnx-version", path=path)
    if version > onnx.IR_VERSION:
        raise UnsupportedFormat(
            f"ONNX IR version {version:,} is newer than {onnx.IR_VERSION}, the newest that the "
            "installed onnx describes",
            slug="onnx-version",
            path=path,
            hint="update onnx, or export for an older version",
        )


def _names(names: Iterable[str], output: str) -> dict[str, str]:
    """Call the files beside a model after an output of that name, if it has one."""
    old = list(names)
    if not output:
        return {name: name for name in old}
    return {name: f"{output}.data/{name}" if len(old) > 1 else f"{output}.data" for name in old}


def _read_graph(proto: onnx.ModelProto, tensors: TensorReader) -> tuple[GraphReader, Graph]:
    path = str(tensors.source.path)
    if not proto.HasField("graph"):
        raise MalformedFile("holds no graph", slug="onnx-graph", path=path)
    functions = Functions(proto.functions, path)
    functions.check_size(proto.graph)
    reader = GraphReader(tensors, functions)
    return reader, reader.graph(proto.graph, Scope(_opsets(proto, path)))


def _opsets(proto: onnx.ModelProto, path: str) -> dict[str, int]:
    opsets = opsets_of(proto.opset_import, path)
    if proto.ir_version < _IR_WITH_OPSETS:
        opsets.setdefault("", 1)
    return opsets


def _defaults(proto: onnx.ModelProto) -> list[str]:
    """Name the tensors that are weights only as long as the caller gives no others."""
    if proto.ir_version < _IR_WITH_DEFAULTS:
        return []
    stored = {tensor.name for tensor in proto.graph.initializer}
    names = [value.name for value in proto.graph.input if value.name in stored]
    if not names:
        return []
    shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
    return [f"overridable initializers taken at their stored value: {shown}"]


def _ranges(proto: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """Return the pixel range that the standard's image metadata states for the image inputs."""
    stated = {entry.key: entry.value for entry in proto.metadata_props}
    span = _PIXELS.get(stated.get("Image.NominalPixelRange", ""))
    if span is None:
        return {}
    images = [value.name for value in proto.graph.input if value.type.denotation == "IMAGE"]
    return dict.fromkeys(images, span)


def _notes(skeleton: onnx_wire.Skeleton, hard_linked: Sequence[str]) -> list[str]:
    notes = [f"external file {name!r} is a hard link" for name in hard_linked]
    if skeleton.has_training:
        notes.append("training information ignored")
    return notes


def _relative(path: Path, main: Path) -> str:
    """Return where an external file lies from the model: in its folder, or its real folder's."""
    folders = [main.parent, main.resolve().parent]
    inside = [path.relative_to(folder) for folder in folders if path.is_relative_to(folder)]
    return str(min(inside, key=lambda name: len(name.parts)))
