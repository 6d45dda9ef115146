"""Zips: archives written field by field, so that any field can be a lie."""

import struct
import zlib
from dataclasses import dataclass, replace
from random import Random

from tests.fuzz.case import Case
from tests.fuzz.corpus import good
from tests.fuzz.mutations import edge, mutated
from tests.fuzz.pickles import members_of

_NAMES = (
    "archive/../x", "/etc/passwd", "..", "", "/", "archive/", "archive/data/0", "archive\\data\\0",
    "C:\\x", "archive/data/\x00", "archive/data/\xe9", "archive/data/\u4e2d", "other/data.pkl",
    "data.pkl", "archive/data.pkl", "archive/constants.pkl", "archive/code/x.py",
    "archive/x.debug_pkl", "archive/byteorder", "archive_format", "archive/archive_format",
    "serialized_exported_program.json", "x" * 300, "archive/\x1b[31m",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """What one of a member's two headers says."""

    name: bytes
    crc: int
    packed: int
    size: int
    flags: int = 0
    method: int = 0
    extra: bytes = b""
    comment: bytes = b""
    version: int = 20
    offset: int | None = None
    """Of the local header, as the directory has it; None: where it is."""
    magic: bytes = b""


@dataclass(frozen=True, slots=True)
class Written:
    """A member: its bytes, and what the two headers say of them."""

    data: bytes
    local: Header
    central: Header
    descriptor: bytes = b""


def members(rng: Random) -> Case:
    """Return a good archive whose members hold other bytes, or have other names."""
    held, suffix = _contents(rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice(sorted(held))
        way = rng.randrange(5)
        if way == 0:
            del held[name]
        elif way == 1:
            held[rng.choice(_NAMES)] = held[name]
        elif way == 2:
            held[rng.choice(sorted(held))] = held[name]
        else:
            held[name] = mutated(rng, held[name])
        if not held:
            break
    return _case([written(name.encode(), data) for name, data in held.items()], suffix)


def headers(rng: Random) -> Case:
    """Return an archive with a few fields of its headers changed."""
    held, suffix = _contents(rng)
    made = [written(name.encode(), data) for name, data in held.items()]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(made))
        way = rng.randrange(8)
        one = made[at]
        if way < 3:
            changed = _odd(rng, one.central if way else one.local)
            both = rng.random() < 0.3
            one = replace(
                one,
                local=changed if both or not way else one.local,
                central=changed if both or way else one.central,
            )
        elif way == 3:
            made.insert(rng.randrange(len(made) + 1), one)
        elif way == 4:
            one = _renamed(rng, one)
        elif way == 5:
            one = _streamed(rng, one)
        elif way == 6:
            one = _packed(one)
        else:
            rng.shuffle(made)
        made[min(at, len(made) - 1)] = one
    return _case(made, suffix, rng)


def written(name: bytes, data: bytes) -> Written:
    """Return a member as an honest writer writes it."""
    header = Header(name, zlib.crc32(data), len(data), len(data), flags=0x800)
    return Written(data, header, header)


def archive(parts: list[Written], rng: Random | None = None) -> bytes:
    """Return the bytes of an archive; with `rng` its end record may lie, too."""
    out = bytearray()
    directory = bytearray()
    for part in parts:
        place = len(out) if part.central.offset is None else part.central.offset
        out += _local(part.local) + part.data + part.descriptor
        directory += _central(part.central, place)
    start = len(out)
    out += directory
    counts = [0, 0, len(parts), len(parts), len(directory), start]
    comment = b""
    if rng is not None and rng.random() < 0.3:
        counts[rng.randrange(6)] = edge(rng)
        comment = rng.choice((b"", b"", b"PK\x05\x06", bytes(70)))
        if rng.random() < 0.3:
            out += _end64(rng, len(directory), start)
    fields = [counts[at] & ((1 << (16 if at < 4 else 32)) - 1) for at in range(6)]
    out += struct.pack("<4sHHHHIIH", b"PK\x05\x06", *fields, len(comment)) + comment
    return bytes(out)


def _contents(rng: Random) -> tuple[dict[str, bytes], str]:
    kind = rng.choice(("pt", "pt", "module", "torchscript", "pt2"))
    (data,) = good()[kind].files.values()
    return members_of(data), ".pt2" if kind == "pt2" else ".pt"


def _case(parts: list[Written], suffix: str, rng: Random | None = None) -> Case:
    name = f"model{suffix}"
    return Case({name: archive(parts, rng)}, name)


def _odd(rng: Random, header: Header) -> Header:
    field = rng.choice(
        ("name", "crc", "packed", "size", "flags", "method", "extra", "comment", "version",
         "offset", "magic")
    )  # fmt: skip
    if field == "name":
        return replace(header, name=_name(rng))
    if field in {"extra", "comment"}:
        zip64 = struct.pack("<HHQQ", 1, 16, edge(rng) & (1 << 64) - 1, header.size)
        said = rng.choice((zip64, rng.randbytes(5), b"\x01\x00\xff\xff", bytes(4)))
        return replace(header, extra=said) if field == "extra" else replace(header, comment=said)
    if field == "magic":
        return replace(header, magic=rng.choice((b"PK\x01\x03", b"PK\x03\x04", b"\0\0\0\0")))
    if field == "flags":
        return replace(header, flags=rng.choice((0, 1, 8, 9, 0x20, 0x40, 0x800, 0x2000, 0xFFFF)))
    if field == "method":
        return replace(header, method=rng.choice((1, 8, 9, 12, 14, 93, 99, 0xFFFF)))
    if field == "version":
        return replace(header, version=rng.choice((0, 45, 63, 0xFFFF)))
    if field == "offset":
        return replace(header, offset=edge(rng) & 0xFFFFFFFF)
    value = edge(rng) & 0xFFFFFFFF
    if field == "crc":
        return replace(header, crc=rng.choice((0, value)))
    if field == "packed":
        return replace(header, packed=value)
    return replace(header, size=value)


def _renamed(rng: Random, part: Written) -> Written:
    name = _name(rng)
    return replace(
        part, local=replace(part.local, name=name), central=replace(part.central, name=name)
    )


def _name(rng: Random) -> bytes:
    text = rng.choice(_NAMES)
    return text.encode("utf-8") if rng.random() < 0.9 else rng.randbytes(rng.randint(0, 20))


def _streamed(rng: Random, part: Written) -> Written:
    """Write the sizes behind the data, as a writer does that cannot go back."""
    signature = rng.choice((b"PK\x07\x08", b""))
    sizes = struct.pack("<III", part.local.crc, part.local.packed, part.local.size)
    said = replace(part.local, crc=0, packed=0, size=0, flags=part.local.flags | 8)
    flags = part.central.flags | 8
    tail = signature + sizes if rng.random() < 0.9 else b""
    return replace(part, local=said, central=replace(part.central, flags=flags), descriptor=tail)


def _packed(part: Written) -> Written:
    """Compress a member."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = engine.compress(part.data) + engine.flush()
    header = replace(part.central, packed=len(data), method=8)
    return Written(data, header, header)


def _local(said: Header) -> bytes:
    head = struct.pack(
        "<4sHHHHHIIIHH", said.magic or b"PK\x03\x04", said.version & 0xFFFF, said.flags,
        said.method, 0, 0x21, said.crc, said.packed, said.size, len(said.name), len(said.extra),
    )  # fmt: skip
    return head + said.name + said.extra


def _central(said: Header, offset: int) -> bytes:
    head = struct.pack(
        "<4sHHHHHHIIIHHHHHII", said.magic or b"PK\x01\x02", 20, said.version & 0xFFFF, said.flags,
        said.method, 0, 0x21, said.crc, said.packed, said.size, len(said.name), len(said.extra),
        len(said.comment), 0, 0, 0, offset,
    )  # fmt: skip
    return head + said.name + said.extra + said.comment


def _end64(rng: Random, length: int, start: int) -> bytes:
    fields = [44, 45, 45, 0, 0, 1, 1, length, start]
    if rng.random() < 0.7:
        fields[rng.choice((0, 5, 6, 7, 8))] = edge(rng) & (1 << 64) - 1
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", *fields)
    place = rng.choice((start + length, start, 0, edge(rng) & (1 << 64) - 1))
    return record + struct.pack("<4sIQI", b"PK\x06\x07", 0, place, 1)
