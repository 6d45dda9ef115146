"""Zip files written field by field, so that their headers can contradict each other."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from tests.hostile.pickling import FOUR, TOP, program, tensor

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")


@final
@dataclass(frozen=True, slots=True)
class Member:
    """One member: what is stored, and what its two headers say where they do not say the truth."""

    name: str
    data: bytes
    local_name: str = ""
    flags: int = 0
    local_flags: int | None = None
    method: int = 0
    local_method: int | None = None
    crc: int | None = None
    """In both headers."""
    local_crc: int | None = None
    unpacked: int | None = None
    """Bytes of what `data` is when it is decompressed, in both headers."""
    local_size: int | None = None
    size: int | None = None
    """In the directory: of what would be unpacked."""
    extra: bytes = b""
    """In the directory."""
    local_extra: bytes = b""
    trailer: bytes = b""
    """Behind the data."""
    offset: int | None = None
    """What the directory says."""
    hidden: bool = False
    """Whether the directory leaves it out."""


@final
@dataclass(frozen=True, slots=True)
class End:
    """What the end record says where it does not say the truth."""

    count: int | None = None
    offset: int | None = None
    comment: bytes = b""
    before: bytes = b""
    """Between the directory and the end record."""


def honest() -> list[Member]:
    """Return the members of a good checkpoint of one 2 x 2 matrix."""
    return [
        Member(f"{TOP}/data.pkl", program({"fc.weight": tensor()})),
        Member(f"{TOP}/byteorder", b"little"),
        Member(f"{TOP}/data/0", FOUR),
        Member(f"{TOP}/version", b"3\n"),
    ]


def changed(at: int, **fields: object) -> list[Member]:
    """Return the good members, one of them with other fields."""
    members = honest()
    members[at] = replace(members[at], **fields)  # type: ignore[arg-type]  # checked by the names
    return members


def packed(members: Sequence[Member], end: End | None = None) -> bytes:
    """Return the bytes of the zip."""
    end = end or End()
    body, directory, count = bytearray(), bytearray(), 0
    for member in members:
        crc = zlib.crc32(member.data) if member.crc is None else member.crc
        length = len(member.data)
        unpacked = length if member.unpacked is None else member.unpacked
        local_name = (member.local_name or member.name).encode()
        start = len(body)
        body += _LOCAL.pack(
            b"PK\x03\x04",
            20,
            member.flags if member.local_flags is None else member.local_flags,
            member.method if member.local_method is None else member.local_method,
            0,
            0,
            crc if member.local_crc is None else member.local_crc,
            length if member.local_size is None else member.local_size,
            unpacked if member.local_size is None else member.local_size,
            len(local_name),
            len(member.local_extra),
        )
        body += local_name + member.local_extra + member.data + member.trailer
        if member.hidden:
            continue
        name = member.name.encode()
        count += 1
        size = unpacked if member.size is None else member.size
        offset = start if member.offset is None else member.offset
        directory += _CENTRAL.pack(
            b"PK\x01\x02", 20, 20, member.flags, member.method, 0, 0, crc, length, size,
            len(name), len(member.extra), 0, 0, 0, 0, offset,
        )  # fmt: skip
        directory += name + member.extra
    stated = count if end.count is None else end.count
    where = len(body) if end.offset is None else end.offset
    record = struct.pack(
        "<4sHHHHIIH", b"PK\x05\x06", 0, 0, stated, stated, len(directory), where, len(end.comment)
    )
    return bytes(body + directory + end.before + record + end.comment)


def write(folder: Path, data: bytes, name: str = "m.pt") -> Path:
    """Write the bytes of a file."""
    path = folder / name
    path.write_bytes(data)
    return path
