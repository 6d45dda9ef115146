"""Archive: a zip file as torch writes it, read strictly.

Everything that torch never writes is refused: compressed or encrypted members, names that
appear twice or leave the archive, members that overlap or contradict their own headers, and
bytes that belong to no member: a reader that goes from header to header would find others there.
"""

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lipaudit.errors import MalformedFile, UnsafeFile
from lipaudit.formats.base import Edit
from lipaudit.formats.source import Source
from lipaudit.formats.zip_directory import (
    ENCRYPTED,
    STORED,
    STREAMED,
    Entry,
    Readable,
    entries,
    wide,
)

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL_CRC = 16
_LOCAL_CRC = 14
_DESCRIPTORS = (struct.Struct("<III"), struct.Struct("<IQQ"))
"""Checksum and sizes behind a streamed member, the sizes short or long."""
_SIGNATURE = b"PK\x07\x08"
_CHUNK = 1 << 22
_UNVERIFIED = "the file has no checksums: whether its bytes changed after saving is not known"


@dataclass(frozen=True, slots=True)
class Member:
    """One stored file: its bytes lie in the archive as they are."""

    name: str
    """Without the archive's own top folder."""
    offset: int
    length: int
    crc: int
    is_packed: bool
    """Whether it is compressed, and therefore never read."""
    crc_places: tuple[int, ...]
    """Where in the archive its checksum is written."""


class Archive:
    """The members of a strict zip by name, and their bytes on demand."""

    def __init__(self, source: Readable, members: Mapping[str, Member], *, check: bool) -> None:
        self.source = source
        self.members = members
        # torch can be told to write no checksums: then all are 0.
        self._has_checksums = any(member.crc for member in members.values())
        is_filled = any(member.length for member in members.values())
        self.notes = () if self._has_checksums or not is_filled else (_UNVERIFIED,)
        """What a reader should know of the file."""
        if check:
            for member in members.values():
                self.verify(member)

    @classmethod
    def open(cls, source: Readable, *, check: bool = True) -> "Archive":
        """Read the directory and hold every member against its own header, and its checksum."""
        path = str(source.path)
        listed, directory = entries(source)
        members: dict[str, Member] = {}
        end_of_last = 0
        gaps: list[tuple[int, str]] = []
        for entry in sorted(listed, key=lambda entry: entry.header):
            member, end = _member(source, entry, directory)
            if entry.name in members:
                raise UnsafeFile(f"member {member.name} appears twice", slug="zip", path=path)
            if entry.header < end_of_last:
                raise UnsafeFile(f"member {member.name} overlaps another", slug="zip", path=path)
            gaps.append((entry.header - end_of_last, f"member {member.name}"))
            end_of_last = end
            members[entry.name] = member
        _check_gaps([*gaps, (directory - end_of_last, "its directory")], path)
        return cls(source, _without_top(members, path), check=check)

    def read(self, name: str, *, limit: int | None = None) -> bytes:
        """Return a member's bytes, its checksum verified; refuse one of more than `limit`."""
        path = str(self.source.path)
        member = self.members.get(name)
        if member is None:
            raise MalformedFile(f"zip has no member {name}", slug="zip", path=path)
        if limit is not None and member.length > limit:
            raise UnsafeFile(
                f"member {name} has {member.length:,} bytes, more than {limit:,}",
                slug="pickle-size",
                path=path,
            )
        self.verify(member)
        return self.source.read(member.offset, member.length)

    def verify(self, member: Member) -> None:
        """Raise unless the member's bytes match its checksum."""
        if member.is_packed or not self._has_checksums:
            return
        crc = 0
        for start in range(0, member.length, _CHUNK):
            crc = zlib.crc32(
                self.source.read(member.offset + start, min(_CHUNK, member.length - start)), crc
            )
        if crc != member.crc:
            raise MalformedFile(
                f"CRC mismatch in member {member.name} (its bytes changed after saving)",
                slug="zip-crc",
                path=str(self.source.path),
            )

    def edits(self, name: str, data: bytes) -> tuple[Edit, ...]:
        """Return the edits that give a member other bytes and the checksum that goes with them."""
        member = self.members[name]
        crc = struct.pack("<I", zlib.crc32(data) if self._has_checksums else 0)
        return (Edit(member.offset, data), *(Edit(place, crc) for place in member.crc_places))


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of a file, readable by their position in the part."""

    source: Source
    start: int
    size: int

    @property
    def path(self) -> Path:
        """The file."""
        return self.source.path

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly these bytes; asking past the end is a malformed file."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise MalformedFile("data cut short", slug="truncated", path=str(self.path))
        return self.source.read(self.start + offset, length)


def _member(source: Readable, entry: Entry, directory: int) -> tuple[Member, int]:
    """Hold a member against its own header; return it and where it ends."""
    path = str(source.path)
    _check_name(entry.name, path)
    name = _bare(entry.name)
    if entry.header + _LOCAL.size > directory:
        raise MalformedFile(f"member {name} is cut short", slug="truncated", path=path)
    header = source.read(entry.header, _LOCAL.size)
    magic, _, flags, method, _, _, crc, packed, size, name_length, extra = _LOCAL.unpack(header)
    if magic != b"PK\x03\x04":
        raise MalformedFile(f"member {name} has no header", slug="zip", path=path)
    if (flags | entry.flags) & ENCRYPTED:
        raise UnsafeFile(f"member {name} is encrypted", slug="zip", path=path)
    is_packed = method != STORED or entry.method != STORED
    if is_packed and _is_data(entry.name):
        ratio = entry.size / max(entry.packed, 1)
        raise UnsafeFile(
            f"member {name} is compressed ({ratio:,.0f}x): torch never writes this",
            slug="zip-compressed",
            path=path,
        )
    offset = entry.header + _LOCAL.size + name_length + extra
    if offset + entry.packed > directory:
        raise MalformedFile(f"member {name} is cut short", slug="truncated", path=path)
    rest = source.read(entry.header + _LOCAL.size, name_length + extra)
    told_size, told_packed = wide((size, packed), rest[name_length:], name, source)
    told = (crc, told_packed, told_size)
    true = (entry.crc, entry.packed, entry.size)
    streamed = bool(flags & STREAMED)
    agrees = told == true or (streamed and told == (0, 0, 0))
    agrees &= rest[:name_length] == entry.raw_name and method == entry.method
    agrees &= streamed == bool(entry.flags & STREAMED)
    if not agrees or (entry.packed != entry.size and not is_packed):
        raise UnsafeFile(f"member {name} contradicts its header", slug="zip", path=path)
    places = [entry.place + _CENTRAL_CRC]
    if not streamed or crc:
        places.append(entry.header + _LOCAL_CRC)
    end = offset + entry.packed
    if streamed:
        place, end = _descriptor(source, entry, end, directory)
        places.append(place)
    return Member(name, offset, entry.packed, entry.crc, is_packed, tuple(places)), end


def _descriptor(source: Readable, entry: Entry, at: int, directory: int) -> tuple[int, int]:
    """Find the numbers behind a streamed member; return where its checksum is, and their end."""
    data = source.read(at, min(directory - at, len(_SIGNATURE) + _DESCRIPTORS[1].size))
    start = len(_SIGNATURE) if data.startswith(_SIGNATURE) else 0
    true = (entry.crc, entry.packed, entry.size)
    for layout in _DESCRIPTORS:
        if len(data) >= start + layout.size and layout.unpack_from(data, start) == true:
            return at + start, at + start + layout.size
    raise UnsafeFile(
        f"member {_bare(entry.name)} contradicts its header", slug="zip", path=str(source.path)
    )


def _check_gaps(gaps: Sequence[tuple[int, str]], path: str) -> None:
    """Raise unless all is a member's; torch's padding is, in a field of the member's header."""
    for length, before in gaps:
        if length:
            raise UnsafeFile(
                f"zip has {length:,} bytes before {before} that belong to no member",
                slug="zip",
                path=path,
            )


def _check_name(name: str, path: str) -> None:
    parts = name.split("/")
    outside = not parts[0] or parts[0].endswith(":") or ".." in parts
    if outside or "\\" in name or "\0" in name:
        raise UnsafeFile(f"unsafe member name {name!r}", slug="zip-name", path=path)


def _is_data(name: str) -> bool:
    """Tell members that hold tensors or say where they are; TorchScript packs its code."""
    return "/code/" not in name and not name.endswith(".debug_pkl")


def _bare(name: str) -> str:
    return name.split("/", 1)[-1]


def _without_top(members: Mapping[str, Member], path: str) -> dict[str, Member]:
    """Drop the one top folder that torch puts everything into."""
    tops = {name.split("/", 1)[0] for name in members if "/" in name}
    if len(tops) > 1:
        raise UnsafeFile(
            f"zip has {len(tops)} top folders, torch writes one", slug="zip-layout", path=path
        )
    found: dict[str, Member] = {}
    for member in members.values():
        if member.name in found:
            raise UnsafeFile(f"member {member.name} appears twice", slug="zip", path=path)
        found[member.name] = member
    return found
