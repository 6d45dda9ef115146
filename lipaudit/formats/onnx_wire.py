"""Wire: an ONNX file walked byte by byte as protobuf, before any library parses it.

A protobuf library allocates as it parses: two bytes of file can become a node of hundreds of
bytes. So the limits are checked on the wire first. What is left for the library is a skeleton:
the structure of the network without documentation, and with the values of every tensor replaced
by a note of where they lie (`Payload`), so that weights stay on the disk until they are needed.

Encoding: https://protobuf.dev/programming-guides/encoding/
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import reduce
from typing import Any, NamedTuple

import onnx

from lipaudit.errors import MalformedFile, UnsafeFile
from lipaudit.formats.source import Source

MAX_NODES = 500_000
MAX_DEPTH = 64
# A node of an honest file takes ten fields, or fifty with what torch notes beside it, and the
# largest networks have ten thousand nodes; a field takes this walk a microsecond or two.
_MAX_FIELDS = 800_000
# Messages that say nothing are no field's worth of file, and many fields' worth of work.
_TINY = 4
_TINY_COST = 8
_MAX_SKELETON = 1 << 26
_MAX_TEXT = 1 << 22
"""Bytes of one name or description; an honest one has a hundred."""
_CHUNK = 1 << 18
_VARINT, _FIXED64, BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
LONGEST_VARINT = 10
_LAST_NUMBER = (1 << 29) - 1
"""Of a field, by the encoding."""
_GROWTH = 8
"""A byte of packed integers becomes a number of eight; one of packed floats, about as much."""
_TOKEN = struct.Struct("<BQQ")


@dataclass(frozen=True, slots=True)
class Payload:
    """Where the values of a tensor lie in the file, and which field of TensorProto they are."""

    field: int
    offset: int
    length: int

    def token(self) -> bytes:
        """Return the bytes that stand for the values in the skeleton's `raw_data`."""
        return _TOKEN.pack(self.field, self.offset, self.length)

    @classmethod
    def of_token(cls, token: bytes) -> "Payload":
        """Return the payload that a token of the skeleton stands for."""
        return cls(*_TOKEN.unpack(token))


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The structure of an ONNX file without the values of its tensors."""

    data: bytes
    """An encoded ModelProto; `raw_data` of a tensor is a `Payload.token`."""
    has_training: bool


class _Action(Enum):
    """What the walk does with a field."""

    COPY = auto()
    MESSAGE = auto()
    PAYLOAD = auto()


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    action: _Action
    message: str
    is_repeated: bool
    is_text: bool
    is_number: bool


class _Run(NamedTuple):
    """One field as it stands in the file, by positions. A tuple: millions are made."""

    number: int
    start: int
    data: int
    end: int
    is_bytes: bool


# The messages that the walk enters, and what it keeps of them; every other field is dropped.
_KEPT: Mapping[str, str] = {
    "ModelProto": "ir_version opset_import graph functions metadata_props",
    "GraphProto": "node name initializer sparse_initializer input output",
    "FunctionProto": "name input output attribute attribute_proto node opset_import domain "
    "overload",
    "NodeProto": "input output name op_type domain overload attribute",
    "AttributeProto": "name ref_attr_name type f i s t g sparse_tensor tp floats ints strings "
    "tensors graphs sparse_tensors type_protos",
    "TensorProto": "dims data_type segment float_data int32_data string_data int64_data name "
    "raw_data external_data data_location double_data uint64_data",
    "SparseTensorProto": "values indices dims",
    "OperatorSetIdProto": "domain version",
    "StringStringEntryProto": "key value",
    "ValueInfoProto": "name type",
    "TypeProto": "tensor_type sequence_type map_type sparse_tensor_type optional_type opaque_type "
    "denotation",
    "TypeProto.Tensor": "elem_type shape",
    "TypeProto.SparseTensor": "elem_type shape",
    "TypeProto.Sequence": "elem_type",
    "TypeProto.Optional": "elem_type",
    "TypeProto.Map": "key_type value_type",
    "TensorShapeProto": "dim",
    "TensorShapeProto.Dimension": "dim_value dim_param",
}
_VALUES = frozenset(
    {"raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"}
)
_RAW = onnx.TensorProto.RAW_DATA_FIELD_NUMBER
_TRAINING = onnx.ModelProto.TRAINING_INFO_FIELD_NUMBER


def _rules(message: str) -> dict[int, _Field]:
    """Take the field numbers from the library's own description of the message."""
    described: Mapping[str, Any] = reduce(
        getattr, message.split("."), onnx
    ).DESCRIPTOR.fields_by_name
    rules = {}
    for name in _KEPT[message].split():
        field = described[name]
        kind = field.message_type
        inner = kind.full_name.removeprefix("onnx.") if kind is not None else ""
        action = _Action.MESSAGE if inner in _KEPT else _Action.COPY
        if message == "TensorProto" and name in _VALUES:
            action = _Action.PAYLOAD
        is_text = field.type == field.TYPE_STRING
        is_number = kind is None and field.type not in {field.TYPE_STRING, field.TYPE_BYTES}
        rules[field.number] = _Field(name, action, inner, field.is_repeated, is_text, is_number)
    return rules


_RULES = {message: _rules(message) for message in _KEPT}


def skeleton(source: Source) -> Skeleton:
    """Walk the whole file; raise when it is no protobuf, or too large a structure."""
    walk = Walk(source)
    data = walk.message("ModelProto", 0, source.size, 1)
    return Skeleton(bytes(data), walk.has_training)


def resembles_model(source: Source) -> bool:
    """Tell whether the file's outermost fields look like those of an ONNX model.

    ONNX has no magic number. A model is believed when its fields are ModelProto's and fill the
    file exactly with a graph among them, or, cut short, begin with a plausible IR version.
    """
    numbers = {field.number for field in onnx.ModelProto.DESCRIPTOR.fields}
    walk = Walk(source)
    has_graph = has_version = False
    try:
        while walk.position < source.size:
            number, wire = walk.key(source.size)
            if number not in numbers:
                return False
            if number == onnx.ModelProto.IR_VERSION_FIELD_NUMBER and wire == _VARINT:
                has_version = 1 <= walk.varint(source.size) < 1 << 7
                continue
            walk.skip(wire, source.size)
            has_graph |= number == onnx.ModelProto.GRAPH_FIELD_NUMBER and wire == BYTES
    except (MalformedFile, UnsafeFile):
        return has_version
    return has_graph


class Walk:
    """One pass over the file: a position, a window of bytes around it, and what was counted."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.position = 0
        self.has_training = False
        self._window = b""
        self._base = 0
        self._fields = 0
        self._nodes = 0
        self._kept = 0

    def message(self, name: str, start: int, end: int, depth: int) -> bytearray:
        """Return the kept fields of the message between two positions, encoded anew."""
        if depth > MAX_DEPTH:
            raise self._unsafe(f"graph nested deeper than {MAX_DEPTH} messages", "onnx-depth")
        if name == "NodeProto":
            self._count_node()
        elif end - start < _TINY:
            self._fields += _TINY_COST
        rules = _RULES[name]
        out = bytearray()
        seen: set[int] = set()
        values: list[_Run] = []
        self.position = start
        while self.position < end:
            run = self._next(end)
            rule = rules.get(run.number)
            if rule is None:
                self.has_training |= run.number == _TRAINING and name == "ModelProto"
            elif rule.action is _Action.PAYLOAD:
                _add(values, run)
            elif rule.action is _Action.COPY or not run.is_bytes:
                out += self._copied(run, rule)
            else:
                if not rule.is_repeated and run.number in seen:
                    raise self._malformed(f"field {rule.name!r} appears twice", run.start)
                seen.add(run.number)
                inner = self.message(rule.message, run.data, run.end, depth + 1)
                out += _encoded(run.number, inner)
            self.position = run.end
        out += self._values(values)
        return out

    def _count_node(self) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._unsafe(f"more than {MAX_NODES:,} nodes", "onnx-nodes")

    def _next(self, end: int) -> _Run:
        """Step over the next field."""
        start = self.position
        number, wire = self.key(end)
        data, stop = self.skip(wire, end)
        return _Run(number, start, data, stop, wire == BYTES)

    def key(self, end: int) -> tuple[int, int]:
        """Read the number and wire type of the next field."""
        self._fields += 1
        if self._fields > _MAX_FIELDS:
            raise self._unsafe(f"more than {_MAX_FIELDS:,} protobuf fields", "onnx-fields")
        key = self.varint(end)
        if not 0 < key >> 3 <= _LAST_NUMBER:
            raise self._malformed(f"field number {key >> 3:,}", self.position)
        return key >> 3, key & 7

    def skip(self, wire: int, end: int) -> tuple[int, int]:
        """Step over a field's data and return where it starts and ends."""
        start = self.position
        if wire == BYTES:
            length = self.varint(end)
            start = self.position
            stop = start + length
        elif wire == _VARINT:
            self.varint(end)
            stop = self.position
        elif wire in _FIXED_SIZES:
            stop = start + _FIXED_SIZES[wire]
        else:
            raise self._malformed(f"wire type {wire}", start)
        if stop > end:
            raise self._malformed(f"a field of {stop - start:,} bytes, {end - start:,} left", start)
        self.position = stop
        return start, stop

    def varint(self, end: int) -> int:
        """Read a base-128 number."""
        at = self.position - self._base
        if at < 0 or at + LONGEST_VARINT > len(self._window):
            at = self._refill()
        elif self._window[at] < 0x80 and self.position < end:
            self.position += 1
            return self._window[at]
        window, limit = self._window, min(len(self._window), end - self._base)
        value = shift = 0
        for place in range(at, min(at + LONGEST_VARINT, limit)):
            byte = window[place]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                self.position = self._base + place + 1
                return value
            shift += 7
        raise self._malformed("a number without an end", self.position)

    def _refill(self) -> int:
        """Move the window to the position; return the index of the position in it."""
        self._base = self.position
        length = min(_CHUNK, self.source.size - self._base)
        self._window = self.source.read(self._base, length)
        return 0

    def _bytes(self, start: int, end: int) -> bytes:
        first = start - self._base
        if first >= 0 and end - self._base <= len(self._window):
            return self._window[first : end - self._base]
        return self.source.read(start, end - start)

    def _copied(self, run: _Run, rule: _Field) -> bytes:
        """Return a field as it stands in the file."""
        grows = run.is_bytes and rule.is_number
        self._keep((run.end - run.start) * (_GROWTH if grows else 1))
        if not rule.is_text:
            return self._bytes(run.start, run.end)
        length = run.end - run.data
        if length > _MAX_TEXT:
            raise self._unsafe(
                f"field {rule.name!r} is a text of {length:,} bytes, more than {_MAX_TEXT:,}",
                "onnx-structure",
            )
        found = self._bytes(run.start, run.end)
        if not found.isascii():
            self._check_text(rule.name, run, found[run.data - run.start :])
        return found

    def _values(self, found: list[_Run]) -> bytes:
        """Return what the skeleton keeps of a tensor's values.

        One packed run becomes a token. Values in several runs, which protobuf joins, stay as
        they are: no exporter writes them, but they are legal.
        """
        if not found:
            return b""
        filled = [run for run in found if run.data < run.end] or found[:1]
        first = filled[0]
        if len({run.number for run in filled}) > 1:
            raise self._malformed("a tensor has values in two fields", first.start)
        if len(filled) == 1 and first.is_bytes:
            token = Payload(first.number, first.data, first.end - first.data).token()
            return _encoded(_RAW, token)
        if first.number == _RAW:
            raise self._malformed("a tensor has raw_data twice", first.start)
        self._keep(_GROWTH * sum(run.end - run.start for run in filled))
        return b"".join(self._bytes(run.start, run.end) for run in filled)

    def _check_text(self, name: str, run: _Run, encoded: bytes) -> None:
        """Refuse what protobuf would hand on as bytes instead of text; count what it takes."""
        try:
            text = encoded.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._malformed(f"field {name!r} is no text", run.start) from error
        if not text.isascii():  # one emoji makes every letter take four bytes (PEP 393)
            self._keep(4 * len(text) - len(encoded))

    def _keep(self, length: int) -> None:
        """Refuse before copying when the structure itself grows out of hand."""
        self._kept += length
        if self._kept > _MAX_SKELETON:
            raise self._unsafe(
                f"its structure without weights takes more than {_MAX_SKELETON:,} bytes",
                "onnx-structure",
            )

    def _malformed(self, cause: str, position: int) -> MalformedFile:
        return MalformedFile(
            f"not a valid ONNX protobuf: {cause} at byte {position:,}",
            slug="onnx-protobuf",
            path=str(self.source.path),
        )

    def _unsafe(self, cause: str, slug: str) -> UnsafeFile:
        return UnsafeFile(cause, slug=slug, path=str(self.source.path))


def _add(runs: list[_Run], run: _Run) -> None:
    """Add a field to those of its kind; items that stand one by one become one run."""
    last = runs[-1] if runs else None
    if last is None or last.is_bytes or run.is_bytes:
        runs.append(run)
    elif (last.number, last.end) == (run.number, run.start):
        runs[-1] = _Run(run.number, last.start, last.data, run.end, is_bytes=False)
    else:
        runs.append(run)


def _encoded(number: int, data: bytes | bytearray) -> bytes:
    """Return a length-delimited field."""
    return varint(number << 3 | BYTES) + varint(len(data)) + bytes(data)


def varint(value: int) -> bytes:
    """Encode a base-128 number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
