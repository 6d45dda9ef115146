"""Renaming: what an ONNX file says of the files beside it, replaced on the wire.

A name is a field in a message in a message ...: where its length changes, so do the lengths
that stand before all of them. Everything else keeps its bytes.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import onnx

from lipaudit.formats import edits
from lipaudit.formats.base import ChangedFile, Edit
from lipaudit.formats.onnx_wire import BYTES, Walk, varint
from lipaudit.formats.source import Source

_ENTRY = "StringStringEntryProto"
_TENSOR = "TensorProto"
# The messages on the way from a model to what a tensor says of its external data.
_ENTERED = frozenset(
    {
        "ModelProto",
        "GraphProto",
        "FunctionProto",
        "NodeProto",
        "AttributeProto",
        "SparseTensorProto",
        "TrainingInfoProto",
        _TENSOR,
    }
)
_KEY = onnx.StringStringEntryProto.KEY_FIELD_NUMBER
_VALUE = onnx.StringStringEntryProto.VALUE_FIELD_NUMBER


class _Run(NamedTuple):
    """A field that has a length, by positions."""

    length_at: int
    data: int
    end: int


def _inner(message: str) -> dict[int, str]:
    """Return the fields that are entered, by number, from the library's own description."""
    described: Mapping[str, Any] = getattr(onnx, message).DESCRIPTOR.fields_by_name
    fields = {
        field.number: field.message_type.name
        for field in described.values()
        if field.message_type is not None and field.message_type.name in _ENTERED
    }
    if message == _TENSOR:
        fields[described["external_data"].number] = _ENTRY
    return fields


_FIELDS = {message: _inner(message) for message in _ENTERED}


def renamed(
    source: Source, files: Mapping[str, ChangedFile], names: Mapping[str, str]
) -> tuple[Edit, ...]:
    """Return the edits that give files beside the model their new names, by the old ones.

    The checksum that a tensor states of its file becomes that of the file as it is written.
    """
    if not files:
        return ()
    return tuple(_Renaming(source, files, names).message("ModelProto", 0, source.size))


class _Renaming:
    """One walk over the structure of the file."""

    def __init__(
        self, source: Source, files: Mapping[str, ChangedFile], names: Mapping[str, str]
    ) -> None:
        self._source = source
        self._walk = Walk(source)
        self._files = files
        self._names = names
        self._sums: dict[str, str] = {}

    def message(self, name: str, start: int, end: int) -> Iterator[Edit]:
        """Walk over a message."""
        fields = _FIELDS[name]
        said: dict[str, _Run] = {}
        for number, run in _runs(self._walk, start, end):
            inner = fields.get(number)
            if inner == _ENTRY:
                entry = dict(_runs(self._walk, run.data, run.end))
                if _KEY in entry and _VALUE in entry:
                    said[self._text(entry[_KEY])] = entry[_VALUE]
            elif inner is not None:
                yield from self.message(inner, run.data, run.end)
        if "location" in said:
            yield from self._replaced(said)

    def _replaced(self, said: Mapping[str, _Run]) -> Iterator[Edit]:
        location = str(PurePosixPath(self._text(said["location"])))
        if location not in self._files:
            return
        wanted = {"location": self._names[location]}
        if "checksum" in said and self._files[location].edits:
            if location not in self._sums:
                self._sums[location] = edits.sha1_of(self._files[location])
            wanted["checksum"] = self._sums[location]
        for key, text in wanted.items():
            if (key, text) != ("location", location):
                run = said[key]
                yield Edit(run.data, text.encode(), run.end - run.data)

    def _text(self, run: _Run) -> str:
        return self._source.read(run.data, run.end - run.data).decode("utf-8", "replace")


def _runs(walk: Walk, start: int, end: int) -> Iterator[tuple[int, _Run]]:
    """Step over the fields of a message that have a length, with their numbers."""
    at = start
    while at < end:
        walk.position = at
        number, wire = walk.key(end)
        length_at = walk.position
        data, at = walk.skip(wire, end)
        if wire == BYTES:
            yield number, _Run(length_at, data, at)


def with_lengths(source: Source, leaves: Sequence[Edit]) -> tuple[Edit, ...]:
    """Return edits of whole fields with the lengths that they change, up to the outermost."""
    growing = sorted(
        (edit for edit in leaves if len(edit.data) != edit.end - edit.offset),
        key=lambda edit: edit.offset,
    )
    if not growing:
        return tuple(leaves)
    lengths = _Lengths(source, growing)
    lengths.message(0, source.size)
    return (*leaves, *lengths.edits)


class _Lengths:
    """One walk to the fields that grow or shrink, through the messages around them."""

    def __init__(self, source: Source, growing: Sequence[Edit]) -> None:
        self.edits: list[Edit] = []
        self._walk = Walk(source)
        self._offsets = [edit.offset for edit in growing]
        growth = (len(edit.data) - (edit.end - edit.offset) for edit in growing)
        self._growth = [0, *accumulate(growth)]

    def message(self, start: int, end: int) -> int:
        """Walk over a message and return by how many bytes it grows."""
        return sum(self._field(run) for _, run in _runs(self._walk, start, end))

    def _field(self, run: _Run) -> int:
        first = bisect_left(self._offsets, run.data)
        last = bisect_left(self._offsets, max(run.end, run.data + 1))
        if first == last:
            return 0
        if self._offsets[first] == run.data:  # a message starts with the key of its first field
            growth = self._growth[last] - self._growth[first]
        else:
            growth = self.message(run.data, run.end)
        if not growth:
            return 0
        head = varint(run.end - run.data + growth)
        self.edits.append(Edit(run.length_at, head, run.data - run.length_at))
        return growth + len(head) - (run.data - run.length_at)
