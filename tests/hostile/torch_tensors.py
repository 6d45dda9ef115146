"""Tensors whose fields contradict their storage, one field at a time."""

from collections.abc import Mapping
from pathlib import Path

import torch

from tests.hostile.case import Hostile
from tests.hostile.pickling import (
    FOUR,
    HOOKS,
    Away,
    Call,
    Name,
    checkpoint,
    storage,
    tensor,
)

_BIG = 1 << 70
_MEGA = 1_000_000


def _refused(
    name: str,
    what: str,
    value: object,
    *says: str,
    row: int | None = None,
    data: Mapping[str, bytes] | None = None,
) -> Hostile:
    def build(folder: Path) -> Path:
        return checkpoint(folder, {"fc.weight": value}, data)

    return Hostile(f"tensor-{name}", what, build, 2, says or ("'fc.weight'",), row=row,
                   plain="torch")  # fmt: skip


def _read(
    name: str, what: str, value: object, *says: str, data: Mapping[str, bytes] | None = None
) -> Hostile:
    def build(folder: Path) -> Path:
        return checkpoint(folder, value, data)

    return Hostile(f"tensor-{name}", what, build, 0, says, plain="torch")


def _saved(
    name: str, what: str, value: object, code: int, *says: str, row: int, command: str = "inspect"
) -> Hostile:
    """Return a case of what torch itself writes."""

    def build(folder: Path) -> Path:
        made = value() if callable(value) else value
        torch.save(made, folder / "m.pt")
        return folder / "m.pt"

    return Hostile(f"tensor-{name}", what, build, code, says, row=row, command=(command,),
                   plain="torch")  # fmt: skip


def _identity(*parts: object) -> Call:
    return tensor(of=Away(parts))


def _typed(kind: Name, shape: tuple[int, ...] = (2, 2)) -> Call:
    """Return the call that rebuilds a tensor with attributes."""
    inner = tensor(shape)
    args = (inner.made_by, kind, inner.args, {"mine": 1})
    return Call(Name("torch._tensor", "_rebuild_from_type_v2"), args)


_FLOAT = Name("torch", "FloatStorage")
SHAPES = {
    "negative": ((-2, 2), "has size -2", 26),
    "2-62": ((1 << 62, 1 << 62), "size that overflows", 26),
    "2-70": ((_BIG, 1), "size that overflows", 26),
    "digits": ((1 << 8_000, 1), "size that overflows", None),
    "empty-huge": ((0, _BIG), "size that overflows", None),
    "text": (("2", 2), "size that is no number", None),
    "float": ((2.0, 2), "size that is no number", None),
    "bool": ((True, 2), "size that is no number", None),
    "none": (None, "size that is no number", None),
    "number": (4, "size that is no number", None),
    "nested": (((2, 2), 2), "size that is no number", None),
    "large": ((3, 2), "reaches item 5 of 4", None),
    "rank": ((2, 2, 1), "3 sizes and 2 strides", None),
}
STRIDES = {
    "past": ((333_333, 333_333), "reaches item 666,666 of 4", 21),
    "negative": ((-2, 1), "negative offset or stride", None),
    "2-70": ((_BIG, 1), "size that overflows", None),
    "text": (("2", 1), "size that is no number", None),
    "float": ((2.0, 1), "size that is no number", None),
    "bool": ((True, 1), "size that is no number", None),
    "missing": ((2,), "2 sizes and 1 strides", None),
    "none": (None, "size that is no number", None),
}
OFFSETS = {
    "negative": (-1, "negative offset"),
    "past": (2, "reaches item 5 of 4"),
    "huge": (_BIG, "'fc.weight'"),
    "text": ("0", "offset that is no number"),
    "float": (0.0, "offset that is no number"),
    "bool": (False, "offset that is no number"),
    "none": (None, "offset that is no number"),
}
IDENTITIES: dict[str, tuple[object, str]] = {
    "type-unknown": (_identity("storage", Name("torch", "QuadStorage"), "0", "cpu", 4),
                     "unknown type torch.QuadStorage"),
    "type-foreign": (_identity("storage", Name("mine", "FloatStorage"), "0", "cpu", 4),
                     "unknown type mine.FloatStorage"),
    "type-text": (_identity("storage", "FloatStorage", "0", "cpu", 4), "no storage"),
    "word": (_identity("module", _FLOAT, "0", "cpu", 4), "no storage"),
    "identity-short": (_identity("storage", _FLOAT, "0"), "no storage"),
    "empty": (_identity(), "no storage"),
    "not-a-tuple": (tensor(of=Away("0")), "no storage"),
    "not-persistent": (tensor(of=Call(_FLOAT, (4,))), "not rebuilt from a storage"),
    "items-negative": (_identity("storage", _FLOAT, "0", "cpu", -4), "storage of no size"),
    "items-text": (_identity("storage", _FLOAT, "0", "cpu", "4"), "storage of no size"),
    "items-bool": (_identity("storage", _FLOAT, "0", "cpu", True), "storage of no size"),
    "items-huge": (_identity("storage", _FLOAT, "0", "cpu", _BIG), "storage of no size"),
    "items-digits": (_identity("storage", _FLOAT, "0", "cpu", 1 << 8_000), "storage of no size"),
    "items-fewer": (_identity("storage", _FLOAT, "0", "cpu", 3), "the pickle claims 12"),
    "key-missing": (_identity("storage", _FLOAT, "9", "cpu", 4), "no member data/9"),
    "key-number": (_identity("storage", _FLOAT, 0, "cpu", 4), "storage without a key"),
    "key-leaves": (_identity("storage", _FLOAT, "../data.pkl", "cpu", 4), "no member data/../"),
    "key-record": (_identity("storage", _FLOAT, Call(Name("a", "b")), "cpu", 4), "without a key"),
    "view": (_identity("storage", _FLOAT, "0", "cpu", 4, ("1", 0, 2)), "part of a storage"),
    "few-arguments": (Call(Name("torch._utils", "_rebuild_tensor_v2"), (storage(),)),
                      "not rebuilt from a storage"),
    "no-arguments": (Call(Name("torch._utils", "_rebuild_tensor_v2"), ()), "not rebuilt"),
}  # fmt: skip


def _v3(dtype: object) -> Call:
    base = storage("UntypedStorage", items=16)
    return tensor((2, 2), (2, 1), of=base, call="_rebuild_tensor_v3", more=(dtype,))


TYPES: dict[str, tuple[object, str]] = {
    "none": (None, "unknown type"),
    "unknown": (Name("torch", "float128"), "unknown type float128"),
    "no-type": (Name("torch", "nn"), "unknown type nn"),
    "foreign": (Name("mine", "float32"), "unknown type"),
    "dotted": (Name("torch", "Tensor.__class__"), "unknown type"),
}
PACKED = ("qint8", "quint4x2", "bits8", "int4", "uint2", "float4_e2m1fn_x2")
"""Types that torch has as names only; on the first it crashes."""


def _packed(dtype: str) -> Hostile:
    def build(folder: Path) -> Path:
        return checkpoint(folder, {"fc.weight": _v3(Name("torch", dtype))}, {"0": bytes(16)})

    title = dtype.replace("_", "-")
    return Hostile(f"tensor-type-{title}", f"items of type {dtype}", build, 3,
                   (f"dtype {dtype} not supported", "not certified"), row=30, command=("bound",),
                   plain="torch")  # fmt: skip


CASES = (
    *(
        _refused(f"size-{name}", f"sizes: {name}", tensor(shape), says, row=row)
        for name, (shape, says, row) in SHAPES.items()
    ),
    *(
        _refused(f"stride-{name}", f"strides: {name}", tensor(strides=strides), says, row=row)
        for name, (strides, says, row) in STRIDES.items()
    ),
    *(
        _refused(f"offset-{name}", f"offset: {name}", tensor(first=first), says)
        for name, (first, says) in OFFSETS.items()
    ),
    *(
        _refused(f"storage-{name}", f"storage: {name}", value, says)
        for name, (value, says) in IDENTITIES.items()
    ),
    *(
        _refused(f"stated-type-{name}", f"stated type: {name}", _v3(dtype), says)
        for name, (dtype, says) in TYPES.items()
    ),
    *(_packed(dtype) for dtype in PACKED),
    _refused("storage-short", "storage 400 B for 10^6 floats",
             tensor((1000, 1000), (1000, 1), of=storage(items=_MEGA)),
             "data/0 has 400 bytes, the pickle claims 4,000,000", row=19, data={"0": bytes(400)}),
    _refused("expanded", "1 float expanded to 10^6 x 10^6",
             tensor((_MEGA, _MEGA), (0, 0), of=storage(items=1)),
             "'fc.weight' declares 1,000,000,000,000 items, the file stores 1", row=20,
             data={"0": bytes(4)}),
    _refused("strides-past", "strides past the storage", tensor((4, 2), (333_333, 0)),
             "'fc.weight' reaches item 999,999 of 4", row=21),
    _refused("overlapping-more", "windows over each other, of more items than there are",
             tensor((3, 2), (1, 1)), "declares 6 items, the file stores 4"),
    _refused("dims-many", "1,000 axes of 2^62", tensor((1 << 62,) * 1000, (1,) * 1000),
             "has 1,000 dimensions"),
    _refused("dims-most", "128 axes of 2^62", tensor((1 << 62,) * 128, (1,) * 128),
             "size that overflows"),
    _refused("same-name", "two entries of one name",
             {1: tensor(), "1": tensor()}, "two entries are called 'fc.weight/1'"),
    _read("overlapping", "windows over each other", {"fc.weight": tensor((2, 2), (1, 1))}, "fc"),
    _read("axes-100", "100 axes of size 1",
          {"fc.weight": tensor((2,) + (1,) * 99, (1,) * 100)}, "fc.weight"),
    _read("empty-wide", "no rows of 2^50 columns", {"fc.weight": tensor((0, 1 << 50))}, "fc"),
    _read("negated", "a tensor with the negative bit",
          {"fc.weight": tensor(more=({"neg": True},))}, "fc"),
    _read("conjugate-real", "a real tensor with the conjugate bit",
          {"fc.weight": tensor(more=({"conj": True},))}, "conj of float32"),
    _read("negated-whole", "a tensor of bytes with the negative bit",
          {"fc.weight": tensor(of=storage("ByteStorage"), more=({"neg": True},))}, "neg of uint8",
          data={"0": bytes(4)}),
    _read("seen-unknown", "a tensor with a bit that torch does not have",
          {"fc.weight": tensor(more=({"own": True},))}, "to be seen as another"),
    _read("typed-foreign", "a tensor with attributes, of a class of its own",
          {"fc.weight": tensor(), "x": _typed(Name("mine", "Tensor"))}, "from_type_v2"),
    _refused("typed-past", "a tensor with attributes, past its storage",
             _typed(Name("torch", "Tensor"), (3, 2)), "reaches item 5 of 4"),
    _read("other-module", "_rebuild_tensor_v2 of another package",
          {"fc.weight": tensor(), "x": Call(Name("mine", "_rebuild_tensor_v2"), ())},
          "mine._rebuild_tensor_v2"),
    _read("parameter-of-parameter", "a parameter of a parameter",
          {"fc.weight": Call(Name("torch._utils", "_rebuild_parameter"),
                             (Call(Name("torch._utils", "_rebuild_parameter"),
                                   (tensor(), True, HOOKS)), True, HOOKS))}, "fc"),
    _read("parameter-of-text", "a parameter that is a text",
          {"fc.weight": tensor(),
           "x": Call(Name("torch._utils", "_rebuild_parameter"), ("x", True, HOOKS))}, "fc"),
    _read("shared-many", "one storage under two names",
          {"a.weight": tensor(), "b.weight": tensor()}, "b has the weight of a",
          data={"0": FOUR}),
    _saved("zero-size", "(0, 5) tensor", {"fc.weight": torch.zeros(0, 5)}, 0, "fc", "empty",
           row=33),
    _saved("zero-columns", "(5, 0) tensor", {"fc.weight": torch.zeros(5, 0)}, 0, "fc", row=33),
    _saved("scalar", "scalar", {"fc.weight": torch.tensor(3.0)}, 0, row=33),
    _saved("meta", "meta tensor 10^6 x 10^6",
           lambda: {"fc.weight": torch.empty(_MEGA, _MEGA, device="meta")}, 3,
           "'fc.weight'"[1:-1], "it has no data (meta tensor)", row=28, command="bound"),
    _saved("bare", "bare tensor", torch.eye(2), 0, "tensor", row=32),
    _saved("list", "a list of tensors", [torch.eye(2), torch.eye(3)], 0, "[0]", "[1]", row=32),
    _saved("keys", "non-string keys", {1: torch.eye(2), (2, "b"): torch.eye(2)}, 0, "1", "(2, b)",
           row=32),
    _saved("optimizer-only", "optimizer only", {"optimizer": {"state": {0: torch.eye(2)}}}, 2,
           "no weight tensors found (optimizer state only)", row=32),
    _saved("nothing", "empty dictionary", {}, 2, "no weight tensors found", row=32),
    _saved("none", "None", None, 2, "no weight tensors found", row=32),
    _saved("text", "a text", "weights", 2, "no weight tensors found", row=32),
)  # fmt: skip
