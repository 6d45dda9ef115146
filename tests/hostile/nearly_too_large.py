"""Files just below a limit: what is read must fit into the memory that is promised, too."""

import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.hostile import growing_onnx
from tests.hostile.case import Hostile
from tests.hostile.onnx_wire import field, number
from tests.hostile.pickling import checkpoint, tensor
from tests.hostile.written import VALUES, entry, file

_MILLION = 10**6
_EMOJI = "\N{GRINNING FACE}"
_ENTRY = json.dumps(entry()).encode()
_ONE = b'"w.weight":' + _ENTRY
_SECONDS = 4.0
"""Of files of 25 to 60 MB."""


def _header(name: str, what: str, text: Callable[[], bytes], code: int, *says: str) -> Hostile:
    def build(folder: Path) -> Path:
        header = text()
        data = struct.pack("<Q", len(header)) + header + VALUES
        return file("m.safetensors", data)(folder)

    return Hostile(f"nearly-{name}", what, build, code, says, seconds=_SECONDS)


def _onnx(name: str, what: str, made: Callable[[], bytes], code: int, *says: str) -> Hostile:
    def build(folder: Path) -> Path:
        return file("m.onnx", made())(folder)

    return Hostile(f"nearly-{name}", what, build, code, says, seconds=_SECONDS)


def _torch(name: str, what: str, key: str, code: int, *says: str) -> Hostile:
    def build(folder: Path) -> Path:
        return checkpoint(folder, {key + ".weight": tensor()})

    return Hostile(f"nearly-{name}", what, build, code, says, seconds=_SECONDS)


def _shape(item: bytes, count: int) -> bytes:
    items = b",".join([item] * count)
    return b'{"a":{"dtype":"F32","data_offsets":[0,16],"shape":[' + items + b"]}}"


def _list(item: bytes, count: int, more: bytes = b'""') -> bytes:
    return b'{"a":[' + b",".join([item] * count) + b"," + more + b"]}"


def _named(text: bytes) -> bytes:
    return b'{"' + text + b'.weight":' + _ENTRY + b"}"


def _metadata(value: bytes) -> bytes:
    return b"{" + _ONE + b',"__metadata__":{"a":"' + value + b'"}}'


def _keys(keys: Iterable[bytes], value: bytes) -> bytes:
    return b",".join(b'"' + key + b'":' + value for key in keys)


def _hexadecimal(count: int) -> Iterable[bytes]:
    return (b"%06x" % at for at in range(count))


def _texts(count: int, text: str) -> bytes:
    nodes = [
        growing_onnx._node("Relu", ("x",), (f"{at}{text}",), f"{at}{text}") for at in range(count)
    ]
    return growing_onnx._nodes([*nodes, *growing_onnx._chain(1)])


def _attribute(held: bytes) -> bytes:
    more = field(5, field(1, "s") + held)
    return growing_onnx._nodes([growing_onnx._node("Relu", ("x",), ("y",), more=more)])


_LARGE, _ENDLESS = "too large to be one", "names without end"
_WIDE = f"a{_EMOJI}".encode()
_ESCAPED = b"a\\ud83d\\ude00"
CASES: tuple[Hostile, ...] = (
    _header("numbers", "two million sizes", lambda: _shape(b"257", 1_999_900), 2, "dimensions"),
    _header("too-many-numbers", "six million sizes", lambda: _shape(b"257", 6 * _MILLION), 2,
            _LARGE),
    _header("fractions", "two million fractions", lambda: _shape(b"1.5", 1_999_900), 2,
            "no list of integers"),
    _header("tables", "a million tables", lambda: _list(b'{"b":1,"cc":257}', 995_000), 2, "dtype"),
    _header("tables-and-an-emoji", "a million tables beside an emoji",
            lambda: _list(b'{"b":1}', 950_000, b'"' + b"a" * 4_000_000 + _WIDE + b'"'), 2, "dtype"),
    _header("metadata", "a million words of metadata",
            lambda: b"{" + _ONE + b',"__metadata__":{' + _keys(_hexadecimal(990_000), b'""')
            + b"}}", 0, "w"),
    _header("text", "12 MB of text with an emoji",
            lambda: _metadata(b"a" * 12_400_000 + _WIDE), 0, "w"),
    _header("too-much-text", "24 MB of text with an emoji",
            lambda: _metadata(b"a" * 24_000_000 + _WIDE), 2, _LARGE),
    _header("escapes", "25 MB of text with an escaped emoji",
            lambda: _metadata(b"a" * 24_900_000 + _ESCAPED), 0, "w"),
    _header("name", "a name of 25 MB", lambda: _named(b"a" * 24_900_000), 0, "aaa"),
    _header("name-and-an-emoji", "a name of 4 MB with an emoji",
            lambda: _named(b"a" * 4_190_000 + _ESCAPED), 0, "aaa"),
    _header("too-long-a-name", "a name of 25 MB with an emoji",
            lambda: _named(b"a" * 24_900_000 + _ESCAPED), 2, _ENDLESS),
    _header("too-many-tensors", "330,000 tensors",
            lambda: b"{" + _keys(_hexadecimal(330_000), b'{"dtype":"F32","shape":[0],'
            b'"data_offsets":[0,0]}') + b"}", 2, "330,000 tensors, more than 100,000"),
    _torch("torch-name", "a torch name of 16 MB", "a" * 16_700_000, 0, "aaa"),
    _torch("torch-name-and-an-emoji", "a torch name of 4 MB with an emoji",
           "a" * 4_190_000 + _EMOJI, 0, "aaa"),
    _torch("torch-too-long-a-name", "a torch name of 5 MB with an emoji",
           "a" * 5_000_000 + _EMOJI, 2, _ENDLESS),
    _onnx("onnx-names", "names of 60 MB", lambda: _texts(7, "a" * 4_190_000), 0, "fc"),
    _onnx("onnx-names-and-emojis", "names of 14 MB with emojis",
          lambda: _texts(1, "a" * 4_190_000 + _EMOJI), 0, "fc"),
    _onnx("onnx-too-many-emojis", "names of 30 MB with emojis",
          lambda: _texts(4, "a" * 4_190_000 + _EMOJI), 2, "structure without weights"),
    _onnx("onnx-too-long-a-name", "a name of 5 MB", lambda: _texts(1, "a" * 5_000_000), 2,
          "a text of 5,000,001 bytes, more than 4,194,304"),
    _onnx("onnx-string", "an attribute of 60 MB",
          lambda: _attribute(field(4, b"a" * 60_000_000) + number(20, 3)), 0, "fc"),
    _onnx("onnx-integers", "an attribute of eight million integers",
          lambda: _attribute(field(8, b"\x7f" * 8_000_000) + number(20, 7)), 0, "fc"),
)  # fmt: skip
