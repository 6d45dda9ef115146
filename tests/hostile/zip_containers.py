"""Zips that readers disagree on, or that are larger than they look."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path

import torch

from tests.hostile.case import Hostile
from tests.hostile.pickling import FOUR, TOP, archive, program, tensor
from tests.hostile.zip_building import End, Member, changed, honest, packed, write

_GOOD = packed(honest())
_DATA = 2
"""Where the matrix stands among the good members."""
_DEFLATED = zlib.compress(bytes(1 << 24), 9)[2:-4]


def _case(
    name: str,
    what: str,
    made: Callable[[], bytes],
    *says: str,
    row: int | None = None,
    code: int = 2,
) -> Hostile:
    def build(folder: Path) -> Path:
        return write(folder, made())

    return Hostile(f"zip-{name}", what, build, code, says, row=row, plain="torch")


def _cut(folder: Path) -> Path:
    torch.save({"fc.weight": torch.ones(16, 16)}, folder / "whole.pt")
    data = (folder / "whole.pt").read_bytes()
    (folder / "whole.pt").unlink()
    return write(folder, data[: len(data) // 2])


def _flipped(folder: Path) -> Path:
    torch.save({"fc.weight": torch.full((4, 4), 1.25)}, folder / "m.pt")
    data = (folder / "m.pt").read_bytes()
    old = struct.pack("<f", 1.25)
    return write(folder, data.replace(old, struct.pack("<f", 1.5), 1))


def _streamed() -> list[Member]:
    crc = zlib.crc32(FOUR)
    trailer = b"PK\x07\x08" + struct.pack("<III", crc, 16, 17)
    return changed(_DATA, flags=8, trailer=trailer, local_crc=0, local_size=0)


def _without_checksums() -> list[Member]:
    return [
        Member(member.name, member.data, crc=0) for member in honest()
    ]  # as torch writes them when it is told to write none


def _twice() -> list[Member]:
    return [*honest(), Member(f"{TOP}/data/0", bytes(16))]


def _end64(count: int) -> bytes:
    """Return a zip64 end record that contradicts the other one."""
    start = len(_GOOD) - 22
    directory = _GOOD.rindex(b"PK\x05\x06") - _GOOD.index(b"PK\x01\x02")
    record = struct.pack(
        "<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, directory,
        _GOOD.index(b"PK\x01\x02"),
    )  # fmt: skip
    return record + struct.pack("<4sIQI", b"PK\x06\x07", 0, start, 1)


def _many(count: int) -> bytes:
    """Return entries that all point to one member: forty-seven bytes each."""
    entry = struct.pack(
        "<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0
    )
    body = struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    directory = (entry + b"a") * count
    end64 = struct.pack(
        "<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(directory), len(body)
    )
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(body) + len(directory), 1)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, *[0xFFFF] * 2, *[0xFFFFFFFF] * 2, 0)
    return body + directory + end64 + locator + end


def _bomb(folder: Path) -> Path:
    # A megabyte of zeros packs into the same thousand bytes each time: packed once, repeated.
    megabyte, times = bytes(1 << 20), 2048
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    piece = packer.compress(megabyte) + packer.flush(zlib.Z_FULL_FLUSH)
    crc = reduce(lambda crc, _: zlib.crc32(megabyte, crc), range(times), 0)
    bomb = Member(
        f"{TOP}/data/0", piece * times + packer.flush(), method=8, crc=crc, unpacked=times << 20
    )
    members = [Member(f"{TOP}/data.pkl", program({"w": tensor((times << 18,), (1,))})), bomb]
    return write(folder, packed([*members, Member(f"{TOP}/version", b"3\n")]))


def _long_name(folder: Path) -> Path:
    return archive(folder, program({"w": tensor()}), {"0": FOUR}, others={"a" * 60_000: b"x"})


def _with(name: str) -> bytes:
    return packed([*honest(), Member(name, b"x")])


def _inside_out() -> bytes:
    """Return a whole good archive in front of another one that counts from its own start."""
    return _GOOD + _GOOD


def _nested_end() -> bytes:
    """Return a comment that is itself the end of another archive."""
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as made:
        made.writestr(f"{TOP}/data.pkl", program({}))
    return packed(honest(), End(comment=other.getvalue()))


NAMES = {
    "leaves": ("../../x", "'../../x'"),
    "absolute": ("/etc/x", "'/etc/x'"),
    "drive": ("C:/x", "'C:/x'"),
    "backslash": ("m\\..\\x", "unsafe member name"),
    "inner-dots": ("m/data/../../x", "'m/data/../../x'"),
    "nul": ("m/data/1\0.txt", "unsafe member name"),
    "escape": ("m/\x1b[31m/../x", "\\x1b"),
}
CASES = (
    Hostile("zip-half", "truncated .pt (half)", _cut, 2, ("truncated zip: no end record",),
            row=10, plain="torch"),
    Hostile("zip-bit-flip", "one bit flipped in a weight", _flipped, 2,
            ("CRC mismatch in member data/0",), row=11, plain="torch"),
    Hostile("zip-bomb", "2 MB deflated storage = 2 GB", _bomb, 2,
            ("member data/0 is compressed", "torch never writes this"), row=18, plain="torch"),
    Hostile("zip-long-member-name", "a member name of 60,000 letters", _long_name, 0,
            ("w",), plain="torch"),
    _case("twice", "duplicate zip member", lambda: packed(_twice()), "member data/0 appears twice",
          row=22),
    _case("twice-pickle", "two data.pkl",
          lambda: packed([*honest(), Member(f"{TOP}/data.pkl", program({}))]), "appears twice"),
    _case("twice-without-folder", "data.pkl in the folder and beside it",
          lambda: packed([*honest(), Member("data.pkl", program({}))]), "data.pkl appears twice"),
    *(
        _case(f"name-{key}", f"member {name!r}",
              partial(_with, name), "unsafe member name", said,
              row=23 if key == "leaves" else None)
        for key, (name, said) in NAMES.items()
    ),
    _case("encrypted", "an encrypted member", lambda: packed(changed(_DATA, flags=1)),
          "member data/0 is encrypted"),
    _case("encrypted-locally", "encrypted by its own header only",
          lambda: packed(changed(_DATA, local_flags=1)), "member data/0 is encrypted"),
    _case("encrypted-strongly", "strong encryption", lambda: packed(changed(_DATA, flags=0x40)),
          "member data/0 is encrypted"),
    _case("deflated-pickle", "a compressed data.pkl",
          lambda: packed(changed(0, method=8, data=_DEFLATED, size=1 << 24)),
          "member data.pkl is compressed"),
    _case("deflated-locally", "compressed by its own header only",
          lambda: packed(changed(_DATA, local_method=8)), "member data/0 is compressed"),
    _case("bzip2", "bzip2 in the directory", lambda: packed(changed(_DATA, method=12)),
          "member data/0 is compressed"),
    _case("method-unknown", "an unknown method", lambda: packed(changed(_DATA, method=99)),
          "member data/0 is compressed"),
    _case("two-folders", "two top folders",
          lambda: packed([*honest(), Member("other/data/1", b"x")]), "2 top folders"),
    _case("local-name", "another name in the member's own header",
          lambda: packed(changed(_DATA, local_name=f"{TOP}/data/1")), "data/0 contradicts its"),
    _case("local-size", "another size in the member's own header",
          lambda: packed(changed(_DATA, local_size=8)), "data/0 contradicts its header"),
    _case("local-crc", "another checksum in the member's own header",
          lambda: packed(changed(_DATA, local_crc=1)), "data/0 contradicts its header"),
    _case("central-size", "a stored member larger than itself",
          lambda: packed(changed(_DATA, size=1 << 30)), "data/0 contradicts its header"),
    _case("descriptor", "a false size behind a streamed member", lambda: packed(_streamed()),
          "data/0 contradicts its header"),
    _case("flag-streamed", "streamed in one header only",
          lambda: packed(changed(_DATA, local_flags=8)), "data/0 contradicts its header"),
    _case("zip64-missing", "a size that is in a zip64 field that is not there",
          lambda: packed(changed(_DATA, size=0xFFFFFFFF)), "data/0 lacks its zip64 sizes"),
    _case("zip64-huge", "a zip64 size of 2^63",
          lambda: packed(changed(_DATA, size=0xFFFFFFFF,
                                 extra=struct.pack("<HHQ", 1, 8, 1 << 63))),
          "data/0 contradicts its header"),
    _case("zip64-offset", "a zip64 offset far behind the end",
          lambda: packed(changed(_DATA, offset=0xFFFFFFFF,
                                 extra=struct.pack("<HHQ", 1, 8, 1 << 62))),
          "member data/0 is cut short"),
    _case("zip64-end", "two end records that contradict each other",
          lambda: packed(honest(), End(before=_end64(3))), "two end records"),
    _case("zip64-locator", "a zip64 locator without its record",
          lambda: packed(honest(), End(before=struct.pack("<4sIQI", b"PK\x06\x07", 0, 7, 1))),
          "zip64 end record is not where"),
    _case("overlap", "two members over the same bytes",
          lambda: packed(changed(_DATA, offset=0)), "contradicts its header"),
    _case("within", "an archive in the data of a member",
          lambda: packed([*honest()[:3], Member(f"{TOP}/data/1", _GOOD[:200])]), "fc", code=0),
    _case("hidden-between", "another data/0 between two that the directory names",
          lambda: packed([*honest()[:2], Member(f"{TOP}/data/0", FOUR, hidden=True),
                          *honest()[2:]]), "54 bytes before member data/0 that belong to no"),
    _case("hidden-last", "another data/0 that the directory leaves out",
          lambda: packed([*honest(), Member(f"{TOP}/data/0", FOUR, hidden=True)]),
          "54 bytes before its directory that belong to no member"),
    _case("hidden-byte", "one byte between two members",
          lambda: packed(changed(0, trailer=b"x")), "1 bytes before member byteorder"),
    _case("offset-past-end", "a member behind the end",
          lambda: packed(changed(_DATA, offset=1 << 20)),
          "member data/0 is cut short"),
    _case("offset-nowhere", "a member where no header is",
          lambda: packed(changed(_DATA, offset=5)), "has no header"),
    _case("prepended", "a whole archive in front", _inside_out, "directory at byte"),
    _case("hidden-first", "a first member that the directory leaves out",
          lambda: packed([Member("evil/data.pkl", b"x", hidden=True), *honest()]),
          "bytes before member data.pkl that belong to no member"),
    _case("appended", "bytes behind the end", lambda: _GOOD + bytes(10), "10 bytes behind its end"),
    _case("appended-much", "100 KB behind the end", lambda: _GOOD + bytes(100_000),
          "no end record"),
    _case("comment", "a comment", lambda: packed(honest(), End(comment=b"hello")),
          "bytes behind its end"),
    _case("comment-end", "a comment that ends another archive", _nested_end, "directory at byte"),
    _case("comment-promised", "a comment that is not there",
          lambda: _GOOD[:-2] + b"\x05\x00", "promises a comment"),
    _case("count-small", "more members than the end counts",
          lambda: packed(honest(), End(count=2)), "does not count"),
    _case("count-large", "fewer members than the end counts",
          lambda: packed(honest(), End(count=9)), "zip directory is damaged"),
    _case("directory-offset", "a directory that is elsewhere",
          lambda: packed(honest(), End(offset=3)), "directory at byte"),
    _case("disks", "a part of several", lambda: _GOOD[:-18] + b"\x01\x00" + _GOOD[-16:],
          "part of several"),
    _case("many", "300,000 entries", lambda: _many(300_000), "300,000 members, more than 200,000"),
    _case("many-crowded", "150,000 entries for one member", lambda: _many(150_000),
          "appears twice"),
    _case("crc-one-zero", "a changed weight whose checksum is 0",
          lambda: packed(changed(_DATA, crc=0)), "CRC mismatch in member data/0"),
    _case("crc-none", "no checksums at all, as torch can write it",
          lambda: packed(_without_checksums()), "fc", "the file has no checksums", code=0),
    _case("big-endian", "big-endian storages", lambda: packed(changed(1, data=b"big")),
          "fc", code=0),
    _case("byteorder-strange", "a byte order of its own",
          lambda: packed(changed(1, data=b"middle")),
          "byte order b'middle' is neither little nor big"),
    _case("byteorder-large", "a byte order of a megabyte",
          lambda: packed(changed(1, data=bytes(1 << 20))), "byteorder has 1,048,576 bytes"),
    _case("no-pickle", "no data.pkl", lambda: packed(honest()[1:]), "zip without data.pkl"),
    _case("no-storage", "no data/0", lambda: packed([*honest()[:2], *honest()[3:]]),
          "no member data/0"),
    _case("head-only", "the first bytes of a zip and zeros", lambda: b"PK\x03\x04" + bytes(600),
          "no end record at byte 604"),
)  # fmt: skip
