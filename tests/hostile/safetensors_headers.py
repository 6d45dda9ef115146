"""safetensors headers: the length, the JSON, and every field of an entry, one at a time."""

import json
import struct
from collections.abc import Mapping
from typing import Any

from tests.hostile import written
from tests.hostile.case import Hostile
from tests.hostile.paths import JSON
from tests.hostile.written import VALUES, entry, file, packed

_NAME = "model.safetensors"
W = "fc.weight"


def _refused(
    name: str, what: str, data: bytes, *says: str, row: int | None = None, **more: Any
) -> Hostile:
    build = file(_NAME, data)
    return Hostile(f"header-{name}", what, build, 2, says, row=row, plain="safetensors", **more)


def _raw(text: str, data: bytes = VALUES) -> bytes:
    return packed(text, data)


def _one(**changed: object) -> dict[str, Any]:
    """Return a header of one tensor with some fields of its entry changed."""
    return {W: {**entry(), **changed}}


def _without(field: str) -> dict[str, Any]:
    return {W: {key: value for key, value in entry().items() if key != field}}


_ENTRY = json.dumps(entry())
_SHAPE = "shape is no list of integers"
_SPAN = "data_offsets is no list of integers"
# What stands in a field -> what is said of it.
_SHAPES: Mapping[str, tuple[object, str]] = {
    "null": (None, _SHAPE),
    "text": ("2x2", _SHAPE),
    "object": ({"0": 2}, _SHAPE),
    "of-floats": ([2.0, 2.0], _SHAPE),
    "of-texts": (["2", "2"], _SHAPE),
    "of-booleans": ([True, True], _SHAPE),
    "of-nulls": ([None, 4], _SHAPE),
    "of-lists": ([[2, 2]], _SHAPE),
    "negative": ([-2, -2], "negative number"),
    "too-large": ([2, 3], "F32 [2, 3] needs 24 bytes, has 16"),
    "scalar": ([], "F32 [] needs 4 bytes, has 16"),
    "overflow": ([2**32, 2**32, 4], "overflows"),
    "overflow-behind-zero": ([0, 2**62, 2**62], "overflows"),
    "huge-number": ([10**400], "overflows"),
    "of-1000-dimensions": ([1] * 996 + [2, 2, 1, 1], "1,000 dimensions"),
}
_SPANS: Mapping[str, tuple[object, str]] = {
    "null": (None, _SPAN),
    "text": ("0-16", _SPAN),
    "floats": ([0.0, 16.0], _SPAN),
    "booleans": ([False, 16], _SPAN),
    "one": ([16], "not two numbers"),
    "three": ([0, 8, 16], "not two numbers"),
    "negative": ([-16, 0], "negative number"),
    "backwards": ([16, 0], "needs 16 bytes, has -16"),
    "huge": ([0, 10**400], "needs 16 bytes, has 10,000,000"),
    "beyond-64-bits": ([2**64, 2**64 + 16], "unused bytes before tensor"),
}
_ENTRIES: Mapping[str, object] = {"number": 1, "null": None, "list": [], "text": "F32"}
_DTYPES: Mapping[str, object] = {
    "unknown": "F12",
    "lower-case": "f32",
    "empty": "",
    "null": None,
    "number": 32,
    "list": ["F32"],
    "object": {"F32": 1},
    "long": "F" * 1_000_000,
}


def _layout(
    name: str, what: str, spans: Mapping[str, tuple[int, int]], size: int, says: str
) -> Hostile:
    header = {
        key: entry(shape=((stop - start) // 4,), span=(start, stop))
        for key, (start, stop) in spans.items()
    }
    return _refused(name, what, packed(header, bytes(size)), says, row=39)


def _read(
    name: str, what: str, data: bytes, *says: str, row: int | None = None, **more: Any
) -> Hostile:
    more = {"options": JSON, **more}
    return Hostile(
        f"header-{name}", what, file(_NAME, data), 0, says, row=row, plain="safetensors", **more
    )


_LENGTHS: tuple[tuple[str, bytes, str], ...] = (
    ("2-to-60", struct.pack("<Q", 1 << 60) + b"{}", "header claims 1,152,921,504,606,846,976"),
    ("2-to-64", b"\xff" * 8 + b"{}", "header claims 18,446,744,073,709,551,615 bytes, file has 10"),
    ("past-the-end", struct.pack("<Q", 3) + b"{}", "header claims 3 bytes, file has 10"),
    ("zero", bytes(8) + b"{}", "header is not valid JSON at byte 0"),
    ("inside-the-text", struct.pack("<Q", 5) + _raw(_ENTRY)[8:], "header is not valid JSON"),
)

CASES: tuple[Hostile, ...] = (
    *(
        _refused(f"length-{name}", f"header length {name.replace('-', ' ')}", data, said, row=36)
        for name, data, said in _LENGTHS
    ),
    Hostile(
        "header-length-over-the-cap",
        "header of 30 MB",
        written.sparse(_NAME, struct.pack("<Q", 30_000_000) + b"{", 40_000_000),
        2,
        ("header of 30,000,000 bytes exceeds the limit 25,000,000",),
        row=36,
    ),
    _refused("no-utf-8", "header that is not UTF-8", packed(b'{"\xff": 1}'), "not UTF-8", row=37),
    _refused("mark", "byte order mark", packed(b"\xef\xbb\xbf{}"), "not valid JSON", row=37),
    _refused("utf-16", "header in UTF-16", packed("{}".encode("utf-16-le")), "not valid JSON"),
    _refused("no-json", "header that is no JSON", _raw('{"a": }'), "not valid JSON at byte 6"),
    _refused("two-objects", "two objects", _raw("{}{}"), "not valid JSON at byte 2"),
    _refused("blank-first", "header that begins with a blank", _raw(" {}"), "begins with {"),
    _refused("list", "header that is a list", _raw("[]"), "begins with {"),
    _refused("nul-padding", "header padded with NULs", _raw("{}\0\0"), "not valid JSON at byte 2"),
    _refused(
        "nested-lists",
        "200,000 nested lists",
        _raw('{"a":' + "[" * 200_000 + "]" * 200_000 + "}"),
        "nested too deep",
        row=37,
    ),
    _refused(
        "nested-objects",
        "200,000 nested objects",
        _raw('{"a":' * 200_000 + "1" + "}" * 200_000),
        "nested too deep",
        row=37,
    ),
    _refused("brackets", "ten million brackets", _raw("{" + "[" * 10**7), "too large to be one"),
    _refused("quotes", "five million quotes", _raw("{" + '"' * (5 * 10**6)), "too large to be one"),
    _refused("digits", "number of 5,000 digits", _raw('{"a":' + "9" * 5000 + "}"), "header: "),
    _refused("nan", "NaN for a number", _raw(f'{{"{W}": NaN}}'), "NaN is no JSON number"),
    _refused(
        "infinity",
        "-Infinity for a size",
        _raw(f'{{"{W}": {{"dtype": "F32", "shape": [-Infinity], "data_offsets": [0, 16]}}}}'),
        "-Infinity is no JSON number",
    ),
    _refused("no-tensors", "header without tensors", packed({}, b""), "no weight tensors found"),
    _refused(
        "only-metadata",
        "header with metadata alone",
        packed({"__metadata__": {"format": "pt"}}, b""),
        "no weight tensors found",
    ),
    _refused(
        "name-twice",
        "tensor defined twice, same bytes",
        _raw(f'{{"{W}": {_ENTRY}, "{W}": {_ENTRY}}}'),
        "'fc.weight' is defined twice",
        row=38,
    ),
    _refused(
        "name-twice-escaped",
        "tensor defined twice, once as \\u0066c",
        _raw(f'{{"{W}": {_ENTRY}, "\\u0066c.weight": {_ENTRY}}}'),
        "'fc.weight' is defined twice",
        row=38,
    ),
    _refused(
        "field-twice",
        "entry with two dtypes",
        _raw(f'{{"{W}": {{"dtype": "F64", {_ENTRY[1:]}}}'),
        "'dtype' is defined twice",
        row=38,
    ),
    _refused(
        "metadata-key-twice",
        "metadata with a key twice",
        _raw(f'{{"__metadata__": {{"a": "1", "a": "2"}}, "{W}": {_ENTRY}}}'),
        "'a' is defined twice",
        row=38,
    ),
    *(
        _refused(
            f"metadata-{name}",
            f"metadata: {json.dumps(value)}",
            packed({"__metadata__": value, **_one()}),
            "__metadata__ is no table of texts",
        )
        for name, value in {
            "of-numbers": {"a": 1},
            "of-nulls": {"a": None},
            "of-tables": {"a": {"b": "c"}},
            "list": ["a"],
            "text": "a",
        }.items()
    ),
    *(
        _refused(f"entry-{name}", f"entry: {json.dumps(value)}", packed({W: value}), f"'{W}'")
        for name, value in _ENTRIES.items()
    ),
    *(
        _refused(f"without-{field}", f"entry without {field}", packed(_without(field)), f"'{W}'")
        for field in ("dtype", "shape", "data_offsets")
    ),
    *(
        _refused(f"dtype-{name}", f"dtype: {name}", packed(_one(dtype=value)), "unknown dtype")
        for name, value in _DTYPES.items()
    ),
    *(
        _refused(
            f"shape-{name}", f"shape: {name}", packed(_one(shape=value)), f"'{W}'", said, row=40
        )
        for name, (value, said) in _SHAPES.items()
    ),
    *(
        _refused(
            f"offsets-{name}", f"offsets: {name}", packed(_one(data_offsets=value)), said, row=39
        )
        for name, (value, said) in _SPANS.items()
    ),
    _refused(
        "half-a-byte",
        "three items of four bits in two bytes",
        packed({W: entry("F4", (3,), (0, 2))}, bytes(2)),
        "needs 1.5 bytes, has 2",
    ),
    _layout("overlap", "overlapping tensors", {"a": (0, 16), "b": (12, 20)}, 20, "'b' overlaps"),
    _layout("inside", "tensor inside another", {"a": (0, 16), "b": (4, 8)}, 16, "'b' overlaps 'a'"),
    _layout("same-bytes", "two tensors, same bytes", {"a": (0, 8), "b": (0, 8)}, 8, "overlaps"),
    _layout(
        "hole", "hole between tensors", {"a": (0, 8), "b": (12, 16)}, 16, "4 unused bytes before"
    ),
    _layout("hole-first", "hole before the first", {"a": (4, 8)}, 8, "4 unused bytes before"),
    _layout("trailing", "trailing bytes", {"a": (0, 8)}, 12, "4 unused bytes at the end"),
    _layout("cut", "data cut", {"a": (0, 16)}, 10, "data cut at byte 10"),
    _read(
        "trailing-blanks",
        "header padded with blanks",
        packed(json.dumps(_one()) + " " * 70),
        '"name": "fc"',
    ),
    _read(
        "entries-out-of-order",
        "entries in another order than the data",
        packed({"b.weight": entry(span=(16, 32)), "a.weight": entry()}, VALUES * 2),
        '"name": "b"',
        '"name": "a"',
    ),
)
