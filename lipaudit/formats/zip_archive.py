"""Archive: a zip file as torch writes it, read strictly.

The standard library finds the central directory; everything it lets pass and torch never
writes is refused here: compressed or encrypted members, names that appear twice or leave the
archive, members that overlap or contradict their own headers.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from lipaudit.errors import MalformedFile, UnsafeFile
from lipaudit.formats.base import Edit
from lipaudit.formats.source import Source

MAX_MEMBERS = 200_000
EAGER_CHECK = 256 << 20
"""Archives up to this size have every checksum verified when opened, larger ones when read."""
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL_CRC = 16
_LOCAL_CRC = 14
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class Member:
    """One stored file: its bytes lie in the archive as they are."""

    name: str
    """Without the archive's own top folder."""
    offset: int
    length: int
    crc: int
    crc_places: tuple[int, ...]
    """Where in the archive its checksum is written."""


class Archive:
    """The members of a strict zip by name, and their bytes on demand."""

    def __init__(self, source: Source, members: Mapping[str, Member], *, check: bool) -> None:
        self.source = source
        self.members = members
        if check:
            for member in members.values():
                self.verify(member)

    @classmethod
    def open(cls, source: Source) -> "Archive":
        """Read the directory and hold every member against its own header."""
        path = str(source.path)
        try:
            directory = zipfile.ZipFile(_View(source))
        except (zipfile.BadZipFile, struct.error, ValueError, OverflowError) as error:
            raise MalformedFile(
                f"truncated or damaged zip: {error} (file has {source.size:,} bytes)",
                slug="zip",
                path=path,
                hint="download or save it again",
            ) from error
        infos = directory.infolist()
        if len(infos) > MAX_MEMBERS:
            raise UnsafeFile(
                f"zip has {len(infos):,} members, more than {MAX_MEMBERS:,}", slug="zip", path=path
            )
        central = _central_places(source, directory)
        members: dict[str, Member] = {}
        end_of_last = 0
        for info in sorted(infos, key=lambda info: info.header_offset):
            member = _member(source, info, central[info.filename])
            if member.name in members:
                raise UnsafeFile(f"member {member.name} appears twice", slug="zip", path=path)
            if info.header_offset < end_of_last:
                raise UnsafeFile(f"member {member.name} overlaps another", slug="zip", path=path)
            end_of_last = member.offset + member.length
            members[member.name] = member
        total = sum(member.length for member in members.values())
        return cls(source, _without_top(members, path), check=total <= EAGER_CHECK)

    def read(self, name: str) -> bytes:
        """Return a member's bytes, its checksum verified."""
        member = self.members.get(name)
        if member is None:
            raise MalformedFile(f"zip has no member {name}", slug="zip", path=str(self.source.path))
        self.verify(member)
        return self.source.read(member.offset, member.length)

    def verify(self, member: Member) -> None:
        """Raise unless the member's bytes match its checksum; 0 means none was written."""
        if member.crc == 0:
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
        crc = struct.pack("<I", zlib.crc32(data) if member.crc else 0)
        return (Edit(member.offset, data), *(Edit(place, crc) for place in member.crc_places))


class _View(io.RawIOBase):
    """A source as the file object that the standard library wants."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._source.size - self._at)
        length = left if size is None or size < 0 else min(size, left)
        data = self._source.read(self._at, length)
        self._at += length
        return data


def _central_places(source: Source, directory: zipfile.ZipFile) -> dict[str, int]:
    """Return where each name's entry of the central directory starts."""
    places: dict[str, int] = {}
    at = directory.start_dir
    for info in directory.infolist():
        entry = source.read(at, 46)
        if entry[:4] != b"PK\x01\x02":
            raise MalformedFile("zip directory is damaged", slug="zip", path=str(source.path))
        name, extra, comment = struct.unpack_from("<HHH", entry, 28)
        places[info.filename] = at
        at += 46 + name + extra + comment
    return places


def _member(source: Source, info: zipfile.ZipInfo, central: int) -> Member:
    path = str(source.path)
    parts = info.filename.split("/")
    if info.filename.startswith("/") or ".." in parts or "\\" in info.filename:
        raise UnsafeFile(f"unsafe member name {info.filename!r}", slug="zip-name", path=path)
    header = source.read(info.header_offset, _LOCAL.size)
    magic, _, flags, method, _, _, crc, packed, size, name_length, extra = _LOCAL.unpack(header)
    if magic != b"PK\x03\x04":
        raise MalformedFile(f"member {info.filename} has no header", slug="zip", path=path)
    if (flags | info.flag_bits) & 0x1:
        raise UnsafeFile(f"member {info.filename} is encrypted", slug="zip", path=path)
    packed_code = not _is_data(info.filename)
    if not packed_code and method | info.compress_type != zipfile.ZIP_STORED:
        ratio = info.file_size / max(info.compress_size, 1)
        raise UnsafeFile(
            f"member {info.filename} is compressed ({ratio:,.0f}x): torch never writes this",
            slug="zip-compressed",
            path=path,
        )
    name = source.read(info.header_offset + _LOCAL.size, name_length)
    streamed = bool(flags & 0x8)
    same = name == info.orig_filename.encode("utf-8" if flags & 0x800 else "cp437", "replace")
    told = streamed or 0xFFFFFFFF in {packed, size} or (size == info.file_size and crc == info.CRC)
    if not same or not told or (info.compress_size != info.file_size and not packed_code):
        raise UnsafeFile(f"member {info.filename} contradicts its header", slug="zip", path=path)
    offset = info.header_offset + _LOCAL.size + name_length + extra
    if offset + info.compress_size > source.size:
        raise MalformedFile(f"member {info.filename} is cut short", slug="truncated", path=path)
    places = [central + _CENTRAL_CRC]
    if not streamed or crc:
        places.append(info.header_offset + _LOCAL_CRC)
    if streamed:
        descriptor = offset + info.compress_size
        signed = source.read(descriptor, 4) == b"PK\x07\x08"
        places.append(descriptor + (4 if signed else 0))
    crc = info.CRC if method == zipfile.ZIP_STORED else 0  # packed code is never read
    return Member(info.filename, offset, info.compress_size, crc, tuple(places))


def _is_data(name: str) -> bool:
    """Tell members that hold tensors or say where they are; TorchScript packs its code."""
    return "/code/" not in name and not name.endswith(".debug_pkl")


def _without_top(members: Mapping[str, Member], path: str) -> dict[str, Member]:
    """Drop the one top folder that torch puts everything into."""
    tops = {name.split("/", 1)[0] for name in members if "/" in name}
    if len(tops) > 1:
        raise UnsafeFile(
            f"zip has {len(tops)} top folders, torch writes one", slug="zip-layout", path=path
        )
    return {name.split("/", 1)[-1]: member for name, member in members.items()}


def nested(data: bytes, name: str) -> bytes:
    """Return a stored member of a zip that is itself a member; b"" when there is none."""
    try:
        inner = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, struct.error, ValueError):
        return data
    for info in inner.infolist():
        if info.filename.rpartition("/")[2] == name and info.compress_size == info.file_size:
            return data[info.header_offset :][_data_start(data, info.header_offset) :][
                : info.file_size
            ]
    return b""


def _data_start(data: bytes, header: int) -> int:
    name_length, extra = struct.unpack_from("<HH", data, header + 26)
    return _LOCAL.size + int(name_length) + int(extra)
