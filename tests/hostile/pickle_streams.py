"""Pickles that break off, ask for more than there is, or hold what no checkpoint holds."""

import struct
from collections.abc import Callable
from pathlib import Path

from tests.hostile.case import Hostile
from tests.hostile.pickling import (
    FOUR,
    STOP,
    Call,
    Name,
    Raw,
    archive,
    checkpoint,
    opcodes,
    program,
    tensor,
)

_PROTOCOL = b"\x80\x02"
_NEWEST = b"\x80\x05"
_MEGABYTE = 1 << 20


def _stream(
    name: str,
    what: str,
    code: bytes | Callable[[], bytes],
    *says: str,
    row: int | None = None,
) -> Hostile:
    """Return a case of a whole pickle that is refused."""

    def build(folder: Path) -> Path:
        return archive(folder, code if isinstance(code, bytes) else code(), {"0": FOUR})

    return Hostile(f"pickle-{name}", what, build, 2, says, row=row, plain="torch")


def _read(name: str, what: str, value: object, *says: str, row: int | None = None) -> Hostile:
    """Return a case of a strange value beside a weight, which is read nevertheless."""

    def build(folder: Path) -> Path:
        return checkpoint(folder, {"fc.weight": tensor(), "extra": value})

    says = says or ("fc", "2")
    return Hostile(f"pickle-{name}", what, build, 0, says, row=row, plain="torch")


def _outside_in(depth: int) -> bytes:
    """Return lists that are put into their parents before they are filled: none looks deep."""
    lists = b"".join(b"]r" + struct.pack("<I", at) for at in range(depth))
    joined = b"".join(
        b"j" + struct.pack("<I", at) + b"j" + struct.pack("<I", at + 1) + b"a0"
        for at in range(depth - 1)
    )
    return _PROTOCOL + lists + joined + b"j" + struct.pack("<I", 0) + STOP


def _doubled(times: int) -> Raw:
    """Return a tuple that holds the one of before twice, and so on: 2^times leaves."""
    return Raw(b"N\x85" + b"2\x86" * times)


def _colliding_keys() -> bytes:
    """Integers of equal hash: to insert them one by one takes the square of their number."""
    step = (1 << 61) - 1
    keys = b"".join(
        b"\x8a\x0a" + (at * step).to_bytes(10, "little", signed=True) + b"N"
        for at in range(1, 40_000)
    )
    return _PROTOCOL + b"}(" + keys + b"u" + STOP


def _shared_pairs() -> bytes:
    """Return one list of pairs that thousands of dictionaries are made of."""
    pairs = b"](" + b"".join(opcodes((f"k{at}", None)) for at in range(20_000)) + b"e\x85q\x01"
    ordered = opcodes(Name("collections", "OrderedDict")) + b"q\x020"
    return _PROTOCOL + pairs + b"0" + ordered + b"](" + b"h\x02h\x01R" * 20_000 + b"e" + STOP


def _module_bomb() -> object:
    """Return a module that holds the one of before twice, forty times over."""

    def module(children: dict[str, object]) -> Call:
        return Call(Name("mine", "Net"), (), {"_modules": children, "_parameters": {}})

    code = opcodes(module({})) + b"q\x070"
    for _ in range(40):
        code += opcodes(module({"a": Raw(b"h\x07"), "b": Raw(b"h\x07")})) + b"q\x070"
    return Raw(code + b"h\x07")


def _long_paths() -> bytes:
    """Return a key of a megabyte above thirty thousand tensors."""
    one = opcodes(tensor()) + b"q\x05"
    names = b"".join(opcodes(f"t{at}") + b"h\x05" for at in range(30_000))
    return _PROTOCOL + one + b"0}" + opcodes("k" * _MEGABYTE) + b"}(" + names + b"us" + STOP


REFUSED = {
    "ext1": (b"\x82\x01", "opcode 0x82"),
    "ext2": (b"\x83\x01\x00", "opcode 0x83"),
    "ext4": (b"\x84\x01\x00\x00\x00", "opcode 0x84"),
    "inst": (b"(ios\nsystem\n", "opcode 0x69"),
    "obj": (b"(cos\nsystem\no", "opcode 0x6f"),
    "next-buffer": (b"\x97", "opcode 0x97"),
    "read-only": (b"N\x98", "opcode 0x98"),
    "unknown": (b"\xff", "opcode 0xff"),
    "newline": (b"\n", "opcode 0x0a"),
}
BROKEN = {
    "protocol-6": ("protocol 6", b"\x80\x06N.", "protocol 6"),
    "empty": ("no opcodes at all", b"", "ends before its STOP"),
    "no-stop": ("no STOP", _PROTOCOL + b"N", "ends before its STOP"),
    "stop-of-nothing": ("STOP with nothing to return", _PROTOCOL + b".", "broken at byte 3"),
    "no-mark": ("TUPLE without MARK", _PROTOCOL + b"Nt.", "mark is missing"),
    "pop-of-nothing": ("POP of an empty stack", _PROTOCOL + b"0.", "broken at byte"),
    "get-of-nothing": ("BINGET of what is not there", _PROTOCOL + b"h\x07.", "broken at byte"),
    "get-of-letters": ("GET of a place that is no number", b"gx\n.", "no place in the memo"),
    "put-of-letters": ("PUT to a place that is no number", b"Npx\n.", "no place in the memo"),
    "put-of-digits": ("PUT to a place of 5,000 digits", b"Np" + b"9" * 5000 + b"\n.",
                      "no place in the memo"),
    "integer-of-letters": ("INT that is no number", b"Ix\n.", "broken at byte"),
    "integer-of-digits": ("LONG of 5,000 digits", b"L" + b"9" * 5000 + b"L\n.", "5,000 digits"),
    "float-of-letters": ("FLOAT that is no number", b"Fx\n.", "broken at byte"),
    "line-without-end": ("GLOBAL without a line end", _PROTOCOL + b"cos.", "a line has no end"),
    "string-unquoted": ("STRING without quotes", b"Sx\n.", "string without quotes"),
    "text-not-utf8": ("BINUNICODE that is no UTF-8", _PROTOCOL + b"X\x01\0\0\0\xff.", "broken"),
    "long4-huge": ("LONG4 of 2 GB", _PROTOCOL + b"\x8b\xff\xff\xff\x7f.", "2,147,483,647 bytes"),
    "long4-negative": ("LONG4 of -1 bytes", _PROTOCOL + b"\x8b\xff\xff\xff\xff.", "-1 bytes"),
    "binstring-negative": ("BINSTRING of -1", _PROTOCOL + b"T\xff\xff\xff\xff.", "-1 bytes"),
    "bytes-4gb": ("BINBYTES of 4 GB", _PROTOCOL + b"B\xff\xff\xff\xff.", "4,294,967,295 bytes"),
    "bytes8": ("BINBYTES8 of 2^64 bytes", _NEWEST + b"\x8e" + b"\xff" * 8 + b".", "bytes, 1 left"),
    "text8": ("BINUNICODE8 of 1 TB", _NEWEST + b"\x8d" + struct.pack("<Q", 1 << 40) + b".",
              "1,099,511,627,776 bytes, 1 left"),
    "set-on-list": ("SETITEM on a list", _PROTOCOL + b"]NNs.", "items for a list"),
    "set-on-tuple": ("SETITEMS on a tuple", _PROTOCOL + b")(NNu.", "items for a tuple"),
    "set-on-none": ("SETITEM on None", _PROTOCOL + b"NNNs.", "items for a NoneType"),
    "set-odd": ("SETITEMS with a key alone", _PROTOCOL + b"}(NNNu.", "key without a value"),
    "append-to-dict": ("APPEND to a dictionary", _PROTOCOL + b"}Na.", "elements for a dict"),
    "append-to-text": ("APPENDS to a text", _PROTOCOL + b"X\x01\0\0\0a(Ne.", "elements for a str"),
    "build-on-list": ("BUILD on a list", _PROTOCOL + b"]}b.", "a state for a list"),
    "key-list": ("a list as key", _PROTOCOL + b"}]Ns.", "a list as dictionary key"),
    "key-dict": ("a dictionary as key", _PROTOCOL + b"}}Ns.", "a dict as dictionary key"),
    "key-tuple-of-list": ("a tuple of a list as key", _PROTOCOL + b"}]\x85Ns.", "a tuple as dict"),
    "key-mark": ("a mark as key", _PROTOCOL + b"}(Ns.", "a Mark as dictionary key"),
    "global-of-numbers": ("STACK_GLOBAL of numbers", b"\x80\x04K\x01K\x02\x93.", "without a name"),
    "trailing-frame": ("a frame longer than the file", b"\x80\x04\x95" + b"\xff" * 8 + b"}.",
                       "no weight tensors found"),
}  # fmt: skip
KEYS: dict[str, tuple[object, str]] = {
    "huge": (1 << 8_000, "an integer key of 2,400 digits"),
    "negative": (-(1 << 70), "an integer key of -2^70"),
    "float": (float("nan"), "NaN as key"),
    "tuple": ((1, "a", 2.5), "a flat tuple as key"),
    "bytes": (b"\xff\x1b", "bytes as key"),
    "object": (Call(Name("mine", "Key"), (_doubled(60),)),
               "an object of 2^60 leaves as key"),
}  # fmt: skip


def _keyed(name: str, what: str, key: object) -> Hostile:
    def build(folder: Path) -> Path:
        pair = b"}" + opcodes(key) + opcodes({"weight": tensor()}) + b"s"
        return archive(folder, _PROTOCOL + pair + STOP, {"0": FOUR})

    return Hostile(f"pickle-key-{name}", what, build, 0, ("weight",), row=32, plain="torch")


CASES = (
    *(
        _stream(f"opcode-{name}", f"opcode {name}", _PROTOCOL + b"}" + code + STOP, says)
        for name, (code, says) in REFUSED.items()
    ),
    *(_stream(name, what, code, says) for name, (what, code, says) in BROKEN.items()),
    *(_keyed(name, what, key) for name, (key, what) in KEYS.items()),
    _stream("deep-key", "2 M-deep tuple as dict key",
            lambda: _PROTOCOL + b"})" + b"\x85" * 2_000_000 + b"Ns.",
            "pickle nested deeper than 500", row=24),
    _stream("deep-tuple", "2,000-deep tuple", _PROTOCOL + b")" + b"\x85" * 2_000 + STOP,
            "pickle nested deeper than 500"),
    _stream("deep-outside-in", "50,000-deep list, filled from outside",
            lambda: _outside_in(50_000), "pickle nested deeper than 500"),
    _stream("deep-calls", "2,000 calls of calls",
            _PROTOCOL + b"cmine\nf\nq\x00N\x85q\x02" + b"h\x00h\x02R\x85q\x02" * 2_000 + STOP,
            "pickle nested deeper than 500"),
    _stream("bytearray8", "BYTEARRAY8 of 1 TB",
            _NEWEST + b"\x96" + struct.pack("<Q", 1 << 40) + STOP,
            "pickle asks for 1,099,511,627,776 bytes, 1 left", row=25),
    _stream("unicode-4gb", "BINUNICODE of 4 GB", _PROTOCOL + b"X\xfc\xff\xff\xff.",
            "pickle asks for 4,294,967,292 bytes, 1 left", row=25),
    _stream("lists", "4 million empty lists", lambda: _PROTOCOL + b"]" * 4_000_000 + STOP,
            "MB of values"),
    _stream("sets", "2 million empty sets", lambda: _NEWEST + b"\x8f" * 2_000_000 + STOP,
            "MB of values"),
    _stream("stack", "a stack of 8 million", lambda: _PROTOCOL + b"N" * 8_000_000 + STOP,
            "stacks more than 1,000,000 values"),
    _stream("opcodes", "6 million opcodes", lambda: _PROTOCOL + b"N0" * 3_000_000 + b"}.",
            "more than 5,000,000 opcodes"),
    _stream("colliding-keys", "40,000 integer keys of one hash", _colliding_keys,
            "keys of numbers"),
    _stream("shared-pairs", "one list of pairs in 20,000 dictionaries", _shared_pairs, "pairs"),
    _stream("module-bomb", "a module of 2^40 modules",
            lambda: program(_module_bomb()), "modules within modules"),
    _stream("long-paths", "30,000 tensors below a key of a megabyte", _long_paths,
            "names without end"),
    _stream("memo-huge-put", "LONG_BINPUT to place 2^32 - 1, nothing else",
            _PROTOCOL + b"}r\xff\xff\xff\xff.", "no weight tensors found"),
    _read("memo-huge", "LONG_BINPUT to place 2^32 - 1", Raw(b"Nr\xff\xff\xff\xff")),
    _read("doubled", "a tuple of 2^200 leaves", _doubled(200)),
    _read("cyclic-list", "a list that holds itself", Raw(b"]q\x00h\x00a")),
    _read("cyclic-dict", "a dictionary that holds itself", Raw(b"}q\x00X\x01\0\0\0ah\x00s")),
    _read("cyclic-tuple", "a tuple that holds itself", Raw(b"]q\x00h\x00\x85a")),
    _read("cyclic-object", "an object that holds itself",
          Raw(opcodes(Call(Name("mine", "A"))) + b"q\x00h\x00b")),
    _read("deep-allowed", "a tuple 450 deep",
          Raw(b"N" + b"\x85" * 450)),
    _read("call-of-nothing", "a call of None", Call(None, (1, 2))),
    _read("call-with-text", "a call whose arguments are a text", Call(Name("mine", "f"), "abc")),
    _read("build-not-a-dict", "BUILD with a number", Call(Name("mine", "A"), (), 7)),
    _read("set-state", "BUILD of a class with __setstate__",
          Call(Name("copyreg", "__newobj__"), (Name("mine", "A"),), {"__setstate__": 1})),
    _read("newobj-ex", "NEWOBJ_EX", Raw(opcodes(Name("mine", "A")) + b")}\x92")),
    _read("marks", "marks of which none is taken", Raw(b"((N11N")),
    _read("long1-zero", "LONG1 of no bytes", Raw(b"\x8a\x00")),
    _read("persistent-line", "PERSID with a text", Raw(b"Pstorage\n")),
    _read("unknown-class", "an object of an unknown package",
          Call(Name("their.package", "Config"), (), {"lr": 0.1}), "their.package.Config"),
)  # fmt: skip
