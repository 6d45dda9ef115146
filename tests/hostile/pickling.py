"""Pickles and torch archives written by hand, so that they can say what no torch would say."""

import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from tests.hostile.case import MARKER

TOP = "m"
FOUR = struct.pack("<4f", 1.0, 0.0, 0.0, 2.0)
"""A 2 x 2 float32 matrix of norm 2."""
STOP = b"."


@final
@dataclass(frozen=True, slots=True)
class Name:
    """Something in a module, written as the opcode GLOBAL."""

    module: str
    name: str


@final
@dataclass(frozen=True, slots=True)
class Call:
    """A call, written as REDUCE, with the state that BUILD hands to its result."""

    made_by: object
    args: object = ()
    state: object = None


@final
@dataclass(frozen=True, slots=True)
class Away:
    """An object outside of the pickle, written as BINPERSID."""

    identity: object


@final
@dataclass(frozen=True, slots=True)
class Raw:
    """Opcodes as they are."""

    code: bytes


def opcodes(value: object) -> bytes:
    """Return the opcodes of protocol 2 that leave a value on the stack."""
    return _WRITERS[type(value)](value)


def _all(values: Iterable[object]) -> bytes:
    return b"".join(map(opcodes, values))


def _integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(data)) + data


def _sized(code: bytes, data: bytes) -> bytes:
    return code + struct.pack("<I", len(data)) + data


def _call(value: Call) -> bytes:
    made = opcodes(value.made_by) + opcodes(value.args) + b"R"
    return made if value.state is None else made + opcodes(value.state) + b"b"


_WRITERS: Mapping[type, Callable[[Any], bytes]] = {
    Raw: lambda value: value.code,
    type(None): lambda _: b"N",
    bool: lambda value: b"\x88" if value else b"\x89",
    int: _integer,
    float: lambda value: b"G" + struct.pack(">d", value),
    str: lambda value: _sized(b"X", value.encode("utf-8", "surrogatepass")),
    bytes: lambda value: _sized(b"B", value),
    tuple: lambda value: b"(" + _all(value) + b"t",
    list: lambda value: b"](" + _all(value) + b"e",
    dict: lambda value: b"}(" + _all(part for pair in value.items() for part in pair) + b"u",
    Name: lambda value: f"c{value.module}\n{value.name}\n".encode(),
    Call: _call,
    Away: lambda value: opcodes(value.identity) + b"Q",
}


def program(value: object, *, protocol: int = 2) -> bytes:
    """Return a whole pickle."""
    return bytes([0x80, protocol]) + opcodes(value) + STOP


def storage(kind: object = "FloatStorage", key: object = "0", items: object = 4) -> Away:
    """Return what stands for a storage."""
    named = Name("torch", kind) if isinstance(kind, str) else kind
    return Away(("storage", named, key, "cpu", items))


HOOKS = Call(Name("collections", "OrderedDict"))


def tensor(
    shape: object = (2, 2),
    strides: object = (2, 1),
    first: object = 0,
    *,
    of: object = None,
    call: str = "_rebuild_tensor_v2",
    more: tuple[object, ...] = (),
) -> Call:
    """Return the call that rebuilds a tensor, whatever its arguments."""
    base = storage() if of is None else of
    return Call(Name("torch._utils", call), (base, first, shape, strides, False, HOOKS, *more))


def touches(folder: Path) -> Call:
    """Return the call that would make the marker file."""
    return Call(Name("os", "system"), (f"touch {folder / MARKER}",))


def archive(
    folder: Path,
    pickle: bytes,
    data: Mapping[str, bytes] | None = None,
    *,
    others: Mapping[str, bytes] | None = None,
    name: str = "m.pt",
) -> Path:
    """Write a zip as torch does, around a pickle."""
    path = folder / name
    members = {"data.pkl": pickle, "byteorder": b"little", "version": b"3\n"}
    members |= {f"data/{key}": items for key, items in (data or {}).items()}
    members |= others or {}
    with zipfile.ZipFile(path, "w") as made:
        for member, content in members.items():
            made.writestr(f"{TOP}/{member}", content)
    return path


def checkpoint(folder: Path, value: object, data: Mapping[str, bytes] | None = None) -> Path:
    """Write a value as torch.save does; storage "0" is a 2 x 2 matrix unless others are given."""
    return archive(folder, program(value), {"0": FOUR} if data is None else data)
