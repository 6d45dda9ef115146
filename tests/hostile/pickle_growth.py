"""Small pickles that would grow: by what is shared by many calls, by equal hashes, by sheer number.

Each is of a size at which the square of it, or its bytes a hundredfold, would be noticed.
"""

import struct
from collections.abc import Callable
from pathlib import Path

from tests.hostile.case import Hostile
from tests.hostile.legacy_torch import MAGIC
from tests.hostile.pickling import FOUR, STOP, Name, archive, opcodes, program, storage, tensor
from tests.hostile.zip_building import write

_PROTOCOL = b"\x80\x02"
_EQUAL = (1 << 61) - 1
"""Its multiples have one hash."""
_ORDERED = opcodes(Name("collections", "OrderedDict"))


def _grows(
    name: str,
    what: str,
    code: Callable[[], bytes],
    *says: str,
    exits: int = 2,
    seconds: float = 3.0,
) -> Hostile:
    """Return a case of a whole pickle, in a torch zip."""

    def build(folder: Path) -> Path:
        return archive(folder, _PROTOCOL + code() + STOP, {"0": FOUR})

    return Hostile(f"growth-{name}", what, build, exits, says, plain="torch", seconds=seconds)


def _integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _memo_lines() -> bytes:
    return b"N" + b"".join(b"p%d\n" % (at * _EQUAL) for at in range(1, 100_000))


def _equal_pairs() -> bytes:
    pairs = b"".join(b"](" + _integer(at * _EQUAL) + b"Ne" for at in range(1, 100_000))
    return _ORDERED + b"](" + pairs + b"e\x85R"


def _shared_arguments(made_by: Name, count: int = 60_000) -> bytes:
    """Return as many calls with the same arguments as there are arguments."""
    args = b"(" + b"N" * count + b"tq\x00"
    return args + b"0" + opcodes(made_by) + b"q\x010(" + b"h\x01h\x00R" * count + b"t"


def _shared_table() -> bytes:
    """Return one table of attributes that is given to many parameters."""
    count = 20_000
    table = b"}(" + b"".join(opcodes(f"k{at}") + b"N" for at in range(count)) + b"u"
    args = b"(" + opcodes(tensor()) + b"\x89" + _ORDERED + b")R" + table + b"t"
    call = opcodes(Name("torch._utils", "_rebuild_parameter_with_state"))
    return args + b"q\x000" + call + b"q\x010](" + b"h\x01h\x00R" * count + b"e"


def _shared_scales() -> bytes:
    """Return one list of scales that is given to many tensors of as many channels."""
    count = 20_000
    numbers = b"](" + b"G" + struct.pack(">d", 0.5) + b"".join([b"2"] * (count - 1)) + b"e"
    zeros = b"](" + b"K\x00" * count + b"e"
    scheme = b"(" + opcodes(Name("torch", "per_channel_affine")) + numbers + zeros + b"K\x00t"
    window = opcodes(0) + opcodes((count, 0)) + opcodes((0, 1))
    base = opcodes(storage("QInt8Storage", items=16))
    args = b"(" + base + window + scheme + b"\x89" + _ORDERED + b")Rt"
    call = opcodes(Name("torch._utils", "_rebuild_qtensor"))
    return args + b"q\x000" + call + b"q\x010](" + b"h\x01h\x00R" * count + b"e"


def _shared_key() -> bytes:
    """Return a tuple of a million parts that is hashed again and again."""
    key = b"(" + b"K\x01" * 1_000_000 + b"tq\x000"
    return key + b"}(" + b"h\x00N" * 4_000 + b"u"


def _far_down() -> bytes:
    """Return a hundred thousand tensors, 450 dictionaries down."""
    args = tensor().args
    call = opcodes(args) + b"q\x000" + opcodes(Name("torch._utils", "_rebuild_tensor_v2"))
    down = b"".join(b"}" + opcodes("k") for _ in range(450))
    many = b"](" + b"h\x01h\x00R" * 100_000 + b"e"
    return call + b"q\x010" + down + many + b"s" * 450


def _legacy(second: bytes, first: bytes = b"") -> Callable[[Path], Path]:
    """Return the layout before torch 1.6 with other first or second pickles."""
    magic = _PROTOCOL + first + b"\x8a\x0a" + MAGIC.to_bytes(10, "little") + STOP
    rest = [program(value) for value in (1001, {"a": 1}, {"w": tensor()}, ["0"])]
    return lambda folder: write(
        folder, magic + (second or rest[0]) + b"".join(rest[1:]) + struct.pack("<q", 4) + FOUR
    )


_MANY = _PROTOCOL + b"N0" * 6_000_000 + b"N" + STOP


def _long_legacy(folder: Path) -> Path:
    """Return pickles each of which alone is short enough."""
    magic = _PROTOCOL + b"\x8a\x0a" + MAGIC.to_bytes(10, "little") + STOP
    return write(folder, magic + _MANY * 4)


CASES = (
    _grows("memo-lines", "100,000 places in the memo of one hash", _memo_lines,
           "no place in the memo"),
    _grows("equal-pairs", "100,000 pairs whose keys have one hash", _equal_pairs,
           "keys of numbers"),
    _grows("shared-arguments", "60,000 arguments shared by 60,000 calls",
           lambda: _shared_arguments(Name("c", "m")), "no weight tensors found"),
    _grows("shared-arguments-rebuild", "60,000 arguments shared by calls that rebuild tensors",
           lambda: _shared_arguments(Name("torch._utils", "_rebuild_meta_tensor_no_storage")),
           "with 60,000 arguments"),
    _grows("shared-arguments-class", "60,000 arguments shared by calls of torch.Tensor",
           lambda: _shared_arguments(Name("torch", "Tensor")), "hidden-tensor", exits=3,
           seconds=12.0),
    _grows("shared-table", "20,000 attributes shared by 20,000 parameters", _shared_table,
           "19997 more", exits=0, seconds=12.0),
    _grows("shared-scales", "20,000 scales shared by 20,000 tensors", _shared_scales, "scales",
           exits=0, seconds=12.0),
    _grows("shared-key", "a key of a million parts, 4,000 times", _shared_key,
           "a tuple as dictionary key"),
    _grows("far-down", "100,000 tensors 450 dictionaries down", _far_down, "names without end",
           seconds=12.0),
    _grows("memo", "6.5 million texts in the memo",
           lambda: b"\x8c\x03abc\x940" * 6_500_000 + b"}", "MB of values", seconds=8.0),
    _grows("texts", "6 million texts in a list",
           lambda: b"]" + (b"(" + b"\x8c\x03abc" * 1_000 + b"e") * 6_000, "MB of values",
           seconds=8.0),
    _grows("floats", "6 million numbers in a list",
           lambda: b"]" + (b"(" + (b"G" + bytes(8)) * 1_000 + b"e") * 6_000, "MB of values",
           seconds=8.0),
    _grows("entries", "3 million entries of a dictionary",
           lambda: b"}" + b"".join(b"J" + struct.pack("<i", at) + b"Ns" for at in range(3_000_000)),
           "MB of values", seconds=8.0),
    _grows("lists", "a list of 990,000 lists",
           lambda: b"]" + (b"(" + b"]" * 1_000 + b"e") * 990, "MB of values", seconds=12.0),
    _grows("objects", "a list of 490,000 objects",
           lambda: opcodes(Name("a", "b")) + b"q\x000]" + (b"(" + b"h\x00)R" * 1_000 + b"e") * 490,
           "MB of values", seconds=12.0),
    _grows("lists-allowed", "a list of 700,000 lists",
           lambda: b"]" + (b"(" + b"]" * 1_000 + b"e") * 700, "no weight tensors", seconds=12.0),
    _grows("objects-allowed", "a list of 340,000 objects",
           lambda: opcodes(Name("a", "b")) + b"q\x000]" + (b"(" + b"h\x00)R" * 1_000 + b"e") * 340,
           "no weight tensors", seconds=20.0),
    _grows("texts-allowed", "3 million texts in a list",
           lambda: b"]" + (b"(" + b"\x8c\x03abc" * 1_000 + b"e") * 3_000, "no weight tensors",
           seconds=8.0),
    _grows("lines", "3 million storages named in a line",
           lambda: b"]" + (b"(" + b"P0\n" * 1_000 + b"e") * 3_000, "MB of values", seconds=8.0),
    _grows("wide-text", "a text of 60 MB with one emoji",
           lambda: b"X" + struct.pack("<I", 60_000_004) + b"a" * 60_000_000 + "\U0001f600".encode(),
           "MB of values"),
    Hostile("growth-legacy-first", "a legacy file that begins with 12 million opcodes",
            _legacy(b"", b"N0" * 6_000_000), 2, ("not a known model format",), plain="torch"),
    Hostile("growth-legacy-sum", "four pickles of 12 million opcodes in a legacy file",
            _long_legacy, 2, ("more than 5,000,000 opcodes",), plain="torch", seconds=12.0),
)  # fmt: skip
