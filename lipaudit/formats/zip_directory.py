"""The directory of a zip file, read strictly: what torch never writes is refused.

Readers of zip files disagree on files that contradict themselves: one goes by the end record,
one by the first that it finds, one by the members' own headers. Here there is one way to read a
file, or none. Layouts: PKWARE, APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lipaudit.errors import LipauditError, MalformedFile, UnsafeFile

MAX_MEMBERS = 200_000
_MAX_DIRECTORY = 64 << 20
"""Bytes of a directory: 300 a member, if there are as many as there may be."""
STORED = 0
ENCRYPTED = 0x1 | 0x40 | 0x2000
"""Flags of the ways in which a member, or its header, can be encrypted."""
STREAMED = 0x8
"""Flag of a member whose sizes and checksum stand behind it."""
_UTF8 = 0x800
_END = struct.Struct("<4sHHHHIIH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_FIELD = struct.Struct("<HH")
_LONGEST_COMMENT = 0xFFFF
_IN_EXTRA = 0xFFFFFFFF
"""Stands for a number that is in the zip64 extra field."""
_ZIP64 = 1


class Readable(Protocol):
    """Bytes that can be read by position: a file, or a part of one."""

    @property
    def path(self) -> Path:
        """The file, for messages."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly these bytes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the directory says of a member."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    """Bytes that it takes in the file."""
    size: int
    header: int
    """Where its own header starts."""
    place: int
    """Where this entry of the directory starts."""


@dataclass(frozen=True, slots=True)
class _End:
    """What the end of the file says of the directory: where it is, and of how many entries."""

    count: int
    offset: int
    length: int


def entries(source: Readable) -> tuple[list[Entry], int]:
    """Return the entries of the directory in its order, and where the directory starts."""
    end = _end(source)
    if end.count > MAX_MEMBERS:
        raise _unsafe(f"zip has {end.count:,} members, more than {MAX_MEMBERS:,}", source)
    if end.length > _MAX_DIRECTORY:
        raise _unsafe(f"zip has a directory of {end.length:,} bytes", source)
    data = source.read(end.offset, end.length)
    return list(_walk(data, end, source)), end.offset


def _end(source: Readable) -> _End:
    """Read the end record, which must be the last thing in the file."""
    start = source.size - _END.size
    record = source.read(start, _END.size) if start >= 0 else b""
    if record[:4] != b"PK\x05\x06":
        raise _no_end(source)
    _, disk, first_disk, here, count, length, offset, comment = _END.unpack(record)
    if comment:
        raise _unsafe("zip promises a comment behind its end", source)
    if disk or first_disk or here != count:
        raise _unsafe("zip is a part of several", source)
    end = _End(count, offset, length)
    behind = start
    locator = source.read(start - _LOCATOR.size, _LOCATOR.size) if start >= 20 else b""
    if locator[:4] == b"PK\x06\x07":
        end, behind = _end64(source, locator, end)
    if end.offset + end.length != behind:
        raise _unsafe(
            f"zip has its directory at byte {behind - end.length:,}, its end says {end.offset:,}",
            source,
        )
    return end


def _end64(source: Readable, locator: bytes, short: _End) -> tuple[_End, int]:
    """Read the zip64 end record, hold the short one against it, and say where it starts."""
    _, disk, start, disks = _LOCATOR.unpack(locator)
    expected = source.size - _END.size - _LOCATOR.size - _END64.size
    if disk or disks > 1 or start != expected:
        raise _unsafe("zip64 end record is not where the file says", source)
    magic, length, _, _, disk, first, here, count, size, offset = _END64.unpack(
        source.read(start, _END64.size)
    )
    if magic != b"PK\x06\x06" or length != _END64.size - 12 or disk or first or here != count:
        raise _unsafe("zip64 end record is damaged", source)
    pairs = (
        (short.count, count, 0xFFFF),
        (short.length, size, _IN_EXTRA),
        (short.offset, offset, _IN_EXTRA),
    )
    if any(told not in {true, marker} for told, true, marker in pairs):
        raise _unsafe("zip has two end records that contradict each other", source)
    return _End(count, offset, size), start


def _no_end(source: Readable) -> LipauditError:
    """Tell a file that was cut from one with something behind its end."""
    length = min(source.size, _END.size + _LONGEST_COMMENT)
    tail = source.read(source.size - length, length)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or length - at < _END.size:
        return MalformedFile(
            f"truncated zip: no end record at byte {source.size:,}",
            slug="zip",
            path=str(source.path),
            hint="download or save it again",
        )
    return _unsafe(f"zip has {length - at - _END.size:,} bytes behind its end", source)


def _walk(data: bytes, end: _End, source: Readable) -> Iterator[Entry]:
    at = 0
    for _ in range(end.count):
        fixed = data[at : at + _CENTRAL.size]
        if len(fixed) < _CENTRAL.size or fixed[:4] != b"PK\x01\x02":
            raise MalformedFile("zip directory is damaged", slug="zip", path=str(source.path))
        fields = _CENTRAL.unpack(fixed)
        flags, method, crc, packed, size = fields[3], fields[4], *fields[7:10]
        name_length, extra_length, comment_length, disk = fields[10:14]
        header = fields[16]
        body = at + _CENTRAL.size
        raw_name = data[body : body + name_length]
        extra = data[body + name_length : body + name_length + extra_length]
        name = decoded(raw_name, flags)
        size, packed, header = wide((size, packed, header), extra, name, source)
        if disk:
            raise _unsafe("zip is a part of several", source)
        yield Entry(name, raw_name, flags, method, crc, packed, size, header, end.offset + at)
        at = body + name_length + extra_length + comment_length
    if at != len(data):
        raise _unsafe("zip directory has entries that its end does not count", source)


def decoded(raw: bytes, flags: int) -> str:
    """Return a member's name as text; what is no text is written with backslashes."""
    return raw.decode("utf-8" if flags & _UTF8 else "cp437", "backslashreplace")


def wide(numbers: tuple[int, ...], extra: bytes, name: str, source: Readable) -> list[int]:
    """Return the numbers, those that are in the zip64 extra field taken from there."""
    if _IN_EXTRA not in numbers:
        return list(numbers)
    long = _zip64_field(extra)
    found = []
    for number in numbers:
        if number == _IN_EXTRA:
            if len(long) < 8:
                raise _unsafe(f"member {name} lacks its zip64 sizes", source)
            number, long = int.from_bytes(long[:8], "little"), long[8:]  # noqa: PLW2901
        found.append(number)
    return found


def _zip64_field(extra: bytes) -> bytes:
    at = 0
    while at + _FIELD.size <= len(extra):
        kind, length = _FIELD.unpack_from(extra, at)
        at += _FIELD.size
        if kind == _ZIP64:
            return extra[at : at + length]
        at += length
    return b""


def _unsafe(cause: str, source: Readable) -> UnsafeFile:
    return UnsafeFile(cause, slug="zip", path=str(source.path))
