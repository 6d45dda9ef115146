"""ONNX on the wire: protobuf written by hand, wrong byte by byte, or far too much of it."""

import struct

from tests.hostile import written
from tests.hostile.case import Hostile
from tests.hostile.written import VALUES, file

_NAME = "model.onnx"
_VARINT, _FIXED64, _BYTES, _START, _END, _FIXED32 = range(6)
_NO_PROTOBUF = "not a valid ONNX protobuf"
_DIMS = b"\x08\x02\x08\x02"


def varint(value: int, *, length: int = 0) -> bytes:
    """Encode a number in base 128, in more bytes than it needs if so many are wanted."""
    out = bytearray()
    while value > 0x7F or len(out) + 1 < length:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def key(number: int, wire: int) -> bytes:
    """Encode what stands before a field."""
    return varint(number << 3 | wire)


def field(number: int, data: bytes | str) -> bytes:
    """Encode a field of bytes, a text or a message."""
    raw = data.encode() if isinstance(data, str) else data
    return key(number, _BYTES) + varint(len(raw)) + raw


def number(at: int, value: int) -> bytes:
    """Encode a field that is a number; a negative one takes ten bytes."""
    return key(at, _VARINT) + varint(value % 2**64)


# The fields of onnx.proto by their numbers.
VERSION = number(1, 8)
OPSET = field(8, number(2, 17))
NODE = field(1, field(1, "x") + field(1, "W") + field(2, "y") + field(3, "fc") + field(4, "MatMul"))


def value(name: str, *sizes: int | str) -> bytes:
    """Encode a ValueInfoProto of floats."""
    dims = b"".join(
        field(1, number(1, size) if isinstance(size, int) else field(2, size)) for size in sizes
    )
    return field(1, name) + field(2, field(1, number(1, 1) + field(2, dims)))


def tensor(
    *parts: bytes, dims: bytes = _DIMS, dtype: bytes = b"\x10\x01", name: str = "W"
) -> bytes:
    """Encode a TensorProto, by default of 2x2 floats, with the parts that hold its values."""
    return dims + dtype + field(8, name) + b"".join(parts)


RAW = field(9, VALUES)
ENDS = field(11, value("x", 1, 2)) + field(12, value("y", 1, 2))


def graph(
    *initializers: bytes, nodes: bytes = NODE, more: bytes = b"", ends: bytes = ENDS
) -> bytes:
    """Encode a GraphProto: one MatMul, or other nodes."""
    stored = b"".join(field(5, one) for one in initializers)
    return nodes + field(2, "g") + stored + ends + more


def model(body: bytes | None = None, *, head: bytes = VERSION, tail: bytes = OPSET) -> bytes:
    """Encode a ModelProto, by default a good one."""
    return head + field(7, graph(tensor(RAW)) if body is None else body) + tail


def _refused(name: str, what: str, data: bytes, *says: str, row: int | None = 42) -> Hostile:
    return Hostile(f"wire-{name}", what, file(_NAME, data), 2, says, row=row, plain="onnx")


def _read(name: str, what: str, data: bytes, *says: str) -> Hostile:
    return Hostile(f"wire-{name}", what, file(_NAME, data), 0, says or ("fc",), plain="onnx")


def _weight(name: str, what: str, stored: bytes, *says: str, row: int | None = 45) -> Hostile:
    return _refused(name, what, model(graph(stored)), "'W'", *says, row=row)


def _nested(depth: int) -> bytes:
    body = b""
    for _ in range(depth):
        attribute = field(1, "body") + field(6, body)
        body = field(1, field(4, "Loop") + field(5, attribute))
    return body


def _types(depth: int) -> bytes:
    """Encode the type of sequences of sequences."""
    kind = b""
    for _ in range(depth):
        kind = field(4, field(1, kind))
    return kind


def _attribute(name: str, *parts: bytes) -> bytes:
    """Encode a graph of one node with one attribute."""
    return graph(
        nodes=field(
            1,
            field(1, "x")
            + field(2, "y")
            + field(4, "Relu")
            + field(5, field(1, name) + b"".join(parts)),
        )
    )


GOOD = model()
_HALF = GOOD[: len(GOOD) // 2]
_MILLIONS = 20_000_000
_PACKED = 60_000_000

CASES: tuple[Hostile, ...] = (
    _read("good", "a good model, by hand", GOOD),
    _read("long-varint", "number in more bytes than it needs", b"\x08\x88\x80\x00" + GOOD[2:]),
    _read("unknown-field", "field that ONNX does not have", GOOD + field(4000, b"?" * 9)),
    _refused("cut", "cut in half", _HALF, _NO_PROTOBUF, "left"),
    _refused("cut-in-a-length", "cut in a length", VERSION + b"\x3a\x80", _NO_PROTOBUF),
    _refused("cut-in-a-varint", "cut in a number", b"\x08\x88", _NO_PROTOBUF, "without an end"),
    _refused("ff", "4 KB of 0xff", b"\xff" * 4096, _NO_PROTOBUF),
    _refused("counting", "counting bytes", bytes(range(8, 248)) * 16, _NO_PROTOBUF),
    _refused(
        "varint-of-11-bytes",
        "number of 11 bytes",
        b"\x08" + b"\xff" * 10 + b"\x01" + GOOD[2:],
        _NO_PROTOBUF,
        "without an end",
    ),
    _refused(
        "length-of-a-petabyte",
        "length of 1 PB",
        VERSION + key(7, _BYTES) + varint(10**15),
        _NO_PROTOBUF,
        "1,000,000,000,000,000 bytes, 0 left",
    ),
    _refused(
        "length-of-2-to-64",
        "length past 64 bits",
        VERSION + key(7, _BYTES) + b"\xff" * 9 + b"\x7f" + bytes(99),
        _NO_PROTOBUF,
        "left",
    ),
    _refused("field-0", "field number 0", GOOD + b"\x02\0", _NO_PROTOBUF, "field number 0"),
    _refused(
        "field-2-to-40",
        "field number 2^40",
        GOOD + varint(1 << 43 | 2) + b"\0",
        _NO_PROTOBUF,
        "field number 1,099,511,627,776",
    ),
    _refused("group", "group", GOOD + key(20, _START) + key(20, _END), _NO_PROTOBUF, "wire type 3"),
    _refused("end-of-group", "end of no group", GOOD + key(20, _END), _NO_PROTOBUF, "wire type 4"),
    _refused("wire-6", "wire type 6", GOOD + key(20, 6) + bytes(8), _NO_PROTOBUF, "wire type 6"),
    _refused(
        "fixed-past-the-end",
        "fixed number past the end",
        GOOD + key(20, _FIXED64) + bytes(4),
        _NO_PROTOBUF,
        "8 bytes, 4 left",
    ),
    _refused(
        "graph-is-a-number",
        "graph that is a number",
        VERSION + number(7, 5) + OPSET,
        "holds no graph",
    ),
    _refused("graph-missing", "no graph", VERSION + OPSET, "holds no graph"),
    _refused(
        "graph-twice", "two graphs", GOOD + field(7, graph(tensor(RAW))), "'graph' appears twice"
    ),
    _refused("version-missing", "no IR version", GOOD[2:], "states no IR version", row=None),
    _refused(
        "version-0", "IR version 0", model(head=number(1, 0)), "states no IR version", row=None
    ),
    _refused(
        "version-negative", "IR version -1", model(head=number(1, -1)), "IR version -1", row=None
    ),
    _refused(
        "version-999",
        "IR version 999",
        model(head=number(1, 999)),
        "IR version 999 is newer",
        row=None,
    ),
    _refused(
        "name-is-no-text",
        "name that is not UTF-8",
        model(graph(tensor(RAW), nodes=field(1, field(4, b"\xff\xfe")))),
        "is no text",
    ),
    _refused(
        "size-name-is-no-text",
        "size whose name is not UTF-8",
        model(
            graph(
                tensor(RAW),
                ends=field(
                    11,
                    field(1, "x")
                    + field(2, field(1, number(1, 1) + field(2, field(1, field(2, b"\xff"))))),
                ),
            )
        ),
        "is no text",
    ),
    _refused(
        "nodes",
        "20 million empty nodes",
        VERSION + field(7, b"\x0a\0" * _MILLIONS),
        "nodes",
        "500,000",
        row=43,
    ),
    _refused(
        "dims",
        "5 million sizes of a tensor",
        model(graph(tensor(dims=b"\x08\1" * 5_000_000))),
        "more than 800,000 protobuf fields",
        row=43,
    ),
    _refused(
        "dims-packed",
        "60 million sizes, packed",
        model(graph(tensor(dims=field(1, b"\1" * _PACKED)))),
        "takes more than",
        row=43,
    ),
    _refused(
        "ints-packed",
        "attribute of 60 million integers",
        model(_attribute("axes", field(8, b"\1" * _PACKED), number(20, 7))),
        "takes more than",
        row=43,
    ),
    _refused(
        "floats-packed",
        "attribute of 15 million floats",
        model(_attribute("scales", field(7, bytes(_PACKED)), number(20, 6))),
        "takes more than",
        row=43,
    ),
    _refused(
        "strings",
        "attribute of 5 million texts",
        model(_attribute("texts", b"\x4a\0" * 5_000_000, number(20, 8))),
        "more than 800,000 protobuf fields",
        row=43,
    ),
    _refused(
        "attributes",
        "5 million attributes",
        model(graph(nodes=field(1, field(4, "Relu") + b"\x2a\0" * 5_000_000))),
        "more than 800,000 protobuf fields",
        row=43,
    ),
    _refused(
        "sizes-of-an-input",
        "input of 20 million dimensions",
        model(
            graph(
                tensor(RAW),
                ends=field(11, field(1, "x") + field(2, field(1, field(2, b"\x0a\0" * _MILLIONS)))),
            )
        ),
        "more than 800,000 protobuf fields",
        row=43,
    ),
    _refused(
        "values-unpacked",
        "5 million values, one by one",
        model(graph(tensor(b"\x25\0\0\0\0" * 5_000_000))),
        "more than 800,000 protobuf fields",
        row=43,
    ),
    _refused(
        "values-in-two-runs",
        "60 million integers in two runs",
        model(graph(tensor(*[field(5, bytes(_PACKED // 2))] * 2, dtype=b"\x10\6"))),
        "takes more than",
        row=43,
    ),
    _refused(
        "inputs-of-a-node",
        "node of 5 million inputs",
        model(graph(nodes=field(1, b"\x0a\0" * 5_000_000))),
        "more than 800,000 protobuf fields",
        row=43,
    ),
    _refused(
        "text-of-70-mb",
        "operation called by 70 MB",
        model(graph(nodes=field(1, field(4, b"R" * 70_000_000)))),
        "takes more than",
        row=43,
    ),
    _refused(
        "subgraphs", "subgraphs 2,000 deep", model(_nested(2000)), "nested deeper than 64", row=44
    ),
    _refused(
        "types",
        "type of types 2,000 deep",
        model(graph(ends=field(11, field(1, "x") + field(2, _types(2000))))),
        "nested deeper than 64",
        row=44,
    ),
    _refused(
        "subgraphs-65", "subgraphs 65 deep", model(_nested(65)), "nested deeper than 64", row=44
    ),
    _weight("type-missing", "tensor without a type", tensor(RAW, dtype=b""), "unknown type 0"),
    _weight("type-0", "tensor of type 0", tensor(RAW, dtype=number(2, 0)), "unknown type 0"),
    _weight("type-99", "tensor of type 99", tensor(RAW, dtype=number(2, 99)), "unknown type 99"),
    _weight("type-negative", "tensor of type -1", tensor(RAW, dtype=number(2, -1)), "type -1"),
    _weight("size-negative", "sizes -2 x -2", tensor(RAW, dims=number(1, -2) * 2), "negative size"),
    _weight(
        "size-huge",
        "10^9 x 10^9 and no values",
        tensor(dims=number(1, 10**9) * 2),
        "needs 4,000,000,000,000,000,000 bytes, has 0 bytes",
    ),
    _weight("size-overflow", "2^40 x 2^40", tensor(RAW, dims=number(1, 2**40) * 2), "overflows"),
    _weight(
        "size-overflow-behind-0",
        "0 x 2^62 x 2^62",
        tensor(dims=number(1, 0) + number(1, 2**62) * 2),
        "overflows",
    ),
    _weight(
        "dimensions", "1,000 dimensions", tensor(RAW, dims=number(1, 1) * 1000), "1,000 dimensions"
    ),
    _weight(
        "raw-too-short",
        "10 of 16 bytes",
        tensor(field(9, VALUES[:10])),
        "needs 16 bytes, has 10 bytes",
    ),
    _weight(
        "raw-too-long",
        "20 of 16 bytes",
        tensor(field(9, VALUES + VALUES[:4])),
        "needs 16 bytes, has 20 bytes",
    ),
    _weight("raw-missing", "no values", tensor(), "needs 16 bytes, has 0 bytes"),
    _refused(
        "raw-and-floats",
        "values in two fields",
        model(graph(tensor(RAW, field(4, VALUES)))),
        "two fields",
        row=45,
    ),
    _refused(
        "raw-twice", "raw_data twice", model(graph(tensor(RAW, RAW))), "raw_data twice", row=45
    ),
    _weight(
        "floats-in-int64",
        "floats in int64_data",
        tensor(field(7, b"\1\1\1\1")),
        "type float32 is stored in int64_data",
    ),
    _weight(
        "doubles-in-floats",
        "doubles in float_data",
        tensor(field(4, VALUES), dtype=number(2, 11)),
        "type float64 is stored in float_data",
    ),
    _weight(
        "floats-odd",
        "float_data of 15 bytes",
        tensor(field(4, VALUES[:15])),
        "needs 16 bytes, has 15 bytes",
    ),
    _weight(
        "half-a-number",
        "int32_data that ends within a number",
        tensor(field(5, b"\1\1\1\x81"), dtype=number(2, 6)),
        "no end",
    ),
    _weight(
        "too-few-numbers",
        "three of four integers",
        tensor(field(7, b"\1\1\1"), dtype=number(2, 7)),
        "needs 32 bytes, has 24 bytes",
    ),
    _weight(
        "half-floats-too-large",
        "half floats of 20 bits",
        tensor(field(5, varint(1 << 20) * 4), dtype=number(2, 10)),
        "does not fit float16",
    ),
    _weight(
        "half-floats-too-long",
        "half float of a megabyte",
        tensor(field(5, b"\1\1\1" + b"\x81" * 1_000_000 + b"\1"), dtype=number(2, 10)),
        "too long",
    ),
    _weight(
        "segment",
        "segment of a tensor",
        tensor(RAW, field(3, number(1, 0) + number(2, 2))),
        "segment",
    ),
    _refused(
        "weight-twice",
        "weight stored twice",
        model(graph(tensor(RAW), tensor(RAW))),
        "duplicate initializer 'W'",
        row=49,
    ),
    Hostile(
        "wire-nan",
        "weight of NaN",
        file(_NAME, model(graph(tensor(field(9, struct.pack("<4f", *[float("nan")] * 4)))))),
        3,
        ("'W'", "4 of 4 values are NaN"),
        row=34,
        plain="onnx",
    ),
    Hostile(
        "wire-sparse-4-tb",
        "file that claims a weight of 4 TB",
        written.sparse(
            _NAME,
            VERSION + key(7, _BYTES) + varint(4 * 10**12),
            1 << 20,
        ),
        2,
        (_NO_PROTOBUF, "4,000,000,000,000 bytes"),
        row=45,
        plain="onnx",
    ),
)
