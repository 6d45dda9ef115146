"""The layout before torch 1.6: pickles in a row and raw storages, cut and contradicted."""

import io
import struct
import tarfile
from pathlib import Path

import torch

from tests.hostile.case import MARKER, Hostile
from tests.hostile.pickling import (
    FOUR,
    STOP,
    Away,
    Call,
    Name,
    Raw,
    opcodes,
    program,
    tensor,
    touches,
)
from tests.hostile.zip_building import write

MAGIC = 0x1950A86A20F9469CFC6C
_HEAD = b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."
_SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}
_STORED = struct.pack("<q", 4) + FOUR


def _base(items: object = 4, key: object = "0", view: object = None) -> Away:
    return Away(("storage", Name("torch", "FloatStorage"), key, "cpu", items, view))


def _parts(
    value: object = None, keys: object = None, data: bytes = _STORED, head: bytes = _HEAD
) -> list[bytes]:
    """Return the pickles and the storages of a file, one after the other."""
    tree = {"fc.weight": tensor(of=_base())} if value is None else value
    return [
        head,
        program(1001),
        program(_SYSTEM),
        program(tree),
        program(["0"] if keys is None else keys),
        data,
    ]


def _case(name: str, what: str, parts: list[bytes], *says: str, code: int = 2) -> Hostile:
    def build(folder: Path) -> Path:
        return write(folder, b"".join(parts))

    return Hostile(f"legacy-{name}", what, build, code, says, plain="torch")


def _cut(count: int) -> Hostile:
    """Return a case of a file that ends in the middle of its n-th part."""
    parts = _parts()
    part = parts[count]
    says = "cut" if count == len(parts) - 1 else ""
    return _case(
        f"cut-{count}",
        f"cut in part {count + 1} of {len(parts)}",
        [*parts[:count], part[: len(part) // 2]],
        says,
    )


def _missing(count: int) -> Hostile:
    parts = _parts()
    return _case(
        f"without-{count}", f"without part {count + 1}", [*parts[:count], *parts[count + 1 :]]
    )


def _saved(folder: Path) -> Path:
    made = {"fc.weight": torch.eye(2), "half.weight": torch.eye(2).half()}
    torch.save(made, folder / "m.pt", _use_new_zipfile_serialization=False)
    return folder / "m.pt"


def _payload_in(at: int) -> Hostile:
    """Return a case of a call in one of the pickles beside the value's."""

    def build(folder: Path) -> Path:
        parts = _parts()
        call = opcodes(touches(folder)) + b"0"
        parts[at] = parts[at][:2] + call + parts[at][2:]
        return write(folder, b"".join(parts))

    return Hostile(f"legacy-payload-{at}", f"os.system in pickle {at + 1}", build, 1,
                   ("LIP005", "os.system", "fc"), plain="torch")  # fmt: skip


def _source_payload(folder: Path) -> Path:
    """Return a module stored with its class's source text, as old torch kept it."""
    kind = Away(("module", Name("mine", "Net"), "net.py", f"open({str(folder / MARKER)!r}, 'w')"))
    state = {"_modules": {}, "_parameters": {"weight": tensor(of=_base())}, "_buffers": {}}
    made = Call(Name("copy_reg", "_reconstructor"), (kind, Name("__builtin__", "object"), None))
    value = Call(made.made_by, made.args, state)
    return write(folder, b"".join(_parts(value)))


def _tar(folder: Path) -> Path:
    """Return the layout before torch 0.4."""
    path = folder / "m.pt"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as made:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            data = program(touches(folder)) if name == "pickle" else program(0)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return path


def _bytes(view: object) -> Away:
    return Away(("storage", Name("torch", "UntypedStorage"), "0", "cpu", 16, view))


VIEWS: dict[str, object] = {
    "outside": ("1", 1, 4), "short": ("1", 0), "negative": ("1", -1, 2), "text": "100",
    "huge": ("1", 1 << 70, 2), "worded": ("1", "0", 2),
}  # fmt: skip
CASES = (
    Hostile("legacy-good", "a good legacy file", _saved, 0, ("fc", "half"), plain="torch"),
    *(_cut(count) for count in range(1, 6)),
    *(_missing(count) for count in range(1, 6)),
    *(_payload_in(at) for at in (1, 2, 4)),
    _case("tail-zeros", "a storage count of 0", _parts(data=bytes(8)),
          "0 items, the pickle claims"),
    _case("count-negative", "a storage of -1 items", _parts(data=struct.pack("<q", -1) + FOUR),
          "-1 items, the pickle claims 4"),
    _case("count-huge", "a storage of 2^62 items", _parts(data=struct.pack("<q", 1 << 62) + FOUR),
          "storage 0 has 4,611,686,018,427,387,904 items, the pickle claims 4"),
    _case("count-more", "a storage of more items than the pickle claims",
          _parts({"w": tensor((1,), (1,), of=_base(1))}), "has 4 items, the pickle claims 1"),
    _case("claims-huge", "a pickle that claims 2^62 items as the storage does",
          _parts({"w": tensor((1,), (1,), of=_base(1 << 62))},
                 data=struct.pack("<q", 1 << 62) + FOUR), "storage 0 is cut short"),
    _case("keys-missing", "no key for a storage", _parts(keys=[], data=b""),
          "storage 0 is missing"),
    _case("keys-foreign", "a key of no tensor", _parts(keys=["0", "9"]), "storage 9 belongs to no"),
    _case("keys-twice", "a key twice", _parts(keys=["0", "0"], data=_STORED * 2), "appears twice"),
    _case("keys-text", "keys that are a text", _parts(keys="0"), "legacy header is damaged"),
    _case("keys-dict", "keys that are a dictionary", _parts(keys={"0": 1}), "header is damaged"),
    _case("view", "a part of a storage", _parts({"fc.weight": tensor(of=_base(view=("1", 0, 4)))}),
          "fc", code=0),
    _case("view-past", "a tensor past the part of a storage that it lies in",
          _parts({"w": tensor(of=_base(view=("1", 0, 2)))}), "reaches item 3 of 2"),
    _case("view-before", "a tensor before the part of a storage that it lies in",
          _parts({"w": tensor((1,), (1,), -1, of=_base(view=("1", 2, 2)))}), "negative offset"),
    *(_case(f"view-{name}", f"a part of a storage that is {name}",
            _parts({"w": tensor(of=_base(view=view))}), "starts or ends nowhere")
      for name, view in VIEWS.items()),
    _case("view-of-bytes", "a part of a storage of bytes",
          _parts({"w": tensor((2,), (1,), of=_bytes(("1", 0, 8)), call="_rebuild_tensor_v3",
                              more=(Name("torch", "float32"),))},
                 data=struct.pack("<q", 16) + FOUR), "storage of another type"),
    _case("two-types", "one storage of two types",
          _parts({"a": tensor(of=_base()), "b": tensor(
              of=Away(("storage", Name("torch", "IntStorage"), "0", "cpu", 4, None)))}),
          "two things at once"),
    _case("past", "a tensor past its storage", _parts({"w": tensor((3, 2), of=_base())}),
          "reaches item 5 of 4"),
    _case("deep", "2 M-deep tuple in the value", _parts(Raw(b")" + b"\x85" * 2_000_000)),
          "nested deeper than 500"),
    _case("other-magic", "another magic number",
          _parts(head=b"\x80\x02\x8a\x0a" + (MAGIC + 1).to_bytes(10, "little") + b"."),
          "not a known model format"),
    _case("magic-later", "the magic number in a text",
          _parts(head=b"\x80\x02U" + bytes([len(_HEAD) - 2]) + _HEAD[2:] + STOP),
          "header is damaged"),
    _case("no-end", "a text of 4 GB in the keys", [*_parts()[:4], b"\x80\x02X\xff\xff\xff\xff"],
          "pickle asks for 4,294,967,295 bytes"),
    Hostile("legacy-source", "a module stored with source text", _source_payload, 0, ("mine.Net",),
            plain="torch"),
    Hostile("legacy-tar", "tar of torch 0.3", _tar, 2, ("tar archive",), row=6, plain="torch"),
)  # fmt: skip
