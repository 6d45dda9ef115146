"""Tensors in layouts and types that are seldom met: read as the numbers they mean, or refused."""

import struct
from collections.abc import Callable
from pathlib import Path

import torch

from tests.hostile.case import Hostile
from tests.hostile.pickling import Away, Call, Name, checkpoint, tensor

_JSON = ("-f", "json")
_INT8 = b"\x01\x02\x03\x04"


def _saved(
    name: str,
    what: str,
    made: Callable[[], object],
    code: int,
    *says: str,
    row: int | None = None,
    command: str = "inspect",
    options: tuple[str, ...] = (),
) -> Hostile:
    """Return a case of what torch itself writes."""

    def build(folder: Path) -> Path:
        torch.save(made(), folder / "m.pt")
        return folder / "m.pt"

    return Hostile(f"layout-{name}", what, build, code, says, row=row, command=(command,),
                   options=options, plain="torch")  # fmt: skip


def _vector(key: str, numbers: list[float], kind: str = "LongStorage") -> tuple[Call, bytes]:
    """Return a stored vector and its bytes."""
    layout = {"LongStorage": "q", "DoubleStorage": "d", "FloatStorage": "f"}[kind]
    plain = [int(n) if layout == "q" else n for n in numbers]
    data = struct.pack(f"<{len(plain)}{layout}", *plain)
    base = Away(("storage", Name("torch", kind), key, "cpu", len(plain)))
    return tensor((len(plain),), (1,), of=base), data


def _sparse(
    name: str,
    what: str,
    layout: str,
    first: list[int],
    second: list[int],
    *says: str,
    values: int | None = None,
    size: object = (4, 4),
    code: int = 2,
    row: int | None = 27,
    indices: str = "LongStorage",
) -> Hostile:
    """Return a case of a sparse tensor: rows and columns, or starts and columns."""

    def build(folder: Path) -> Path:
        count = len(second) if values is None else values
        if layout == "sparse_coo":
            both, data = _vector("0", [*first, *second], indices)
            both = tensor((2, len(second)), (len(second), 1), of=_base(both))
            parts: tuple[object, ...] = (both,)
            stored = {"0": data}
        else:
            starts, data = _vector("0", list(first), indices)
            places, more = _vector("2", list(second), indices)
            parts, stored = (starts, places), {"0": data, "2": more}
        numbers, data = _vector("1", [1.0] * count, "FloatStorage")
        stored["1"] = data
        kind = Call(Name("torch.serialization", "_get_layout"), (f"torch.{layout}",))
        made = (*parts, numbers, size, *((True,) if layout == "sparse_coo" else ()))
        value = Call(Name("torch._utils", "_rebuild_sparse_tensor"), (kind, made))
        return checkpoint(folder, {"w": value}, stored)

    command = ("bound",) if code == 3 else ("inspect",)
    return Hostile(f"sparse-{name}", what, build, code, says, row=row, command=command,
                   plain="torch")  # fmt: skip


def _base(vector: Call) -> object:
    return vector.args[0] if isinstance(vector.args, tuple) else None


def _quantized(name: str, what: str, scheme: object, *says: str, code: int = 2) -> Hostile:
    """Return a case of a quantized 2 x 2 matrix under a scheme."""

    def build(folder: Path) -> Path:
        base = Away(("storage", Name("torch", "QInt8Storage"), "0", "cpu", 4))
        args = (base, 0, (2, 2), (2, 1), scheme, False, Call(Name("collections", "OrderedDict")))
        value = Call(Name("torch._utils", "_rebuild_qtensor"), args)
        return checkpoint(folder, {"fc.weight": value}, {"0": _INT8})

    return Hostile(f"quantized-{name}", what, build, code, says, plain="torch")


_TENSOR, _CHANNEL = Name("torch", "per_tensor_affine"), Name("torch", "per_channel_affine")
SCHEMES: dict[str, tuple[str, object, str]] = {
    "scheme-unknown": ("an unknown scheme", (Name("torch", "nn"), 0.1, 0), "of scheme nn"),
    "scheme-none": ("no scheme", None, "of scheme unknown"),
    "scheme-short": ("a scheme without zero point", (_TENSOR, 0.1), "per_tensor_affine"),
}
BAD_SCHEMES: dict[str, tuple[str, object, str]] = {
    "scale-text": ("a scale that is a text", (_TENSOR, "0.1", 0), "scale or zero point that is no"),
    "scale-digits": ("a scale of 2,400 digits", (_TENSOR, 1 << 8_000, 0), "that is no number"),
    "zero-float": ("a zero point of 0.5", (_TENSOR, 0.1, 0.5), "zero points that do not fit"),
    "zero-huge": ("a zero point of 2^40", (_TENSOR, 0.1, 1 << 40), "zero points that do not fit"),
    "scales-few": ("one scale for two channels", (_CHANNEL, [0.1], [0], 0),
                   "1 scales for 2 channels"),
    "zeros-few": ("one zero point for two scales", (_CHANNEL, [0.1, 0.2], [0], 0), "do not fit"),
    "axis-past": ("channels along axis 7", (_CHANNEL, [0.1, 0.2], [0, 0], 7), "an axis that"),
    "axis-negative": ("channels along axis -1", (_CHANNEL, [0.1, 0.2], [0, 0], -1), "an axis that"),
    "axis-text": ("an axis that is a text", (_CHANNEL, [0.1, 0.2], [0, 0], "0"), "an axis that"),
}  # fmt: skip


def _quantize_channels() -> object:
    scales, points = torch.tensor([0.1, 0.2]), torch.tensor([0, 3])
    return {"fc.weight": torch.quantize_per_channel(torch.eye(2), scales, points, 0, torch.quint8)}


def _of_type(dtype: torch.dtype) -> Callable[[], object]:
    return lambda: {"fc.weight": torch.eye(2).to(dtype)}


REAL = (torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2,
        torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)  # fmt: skip
WHOLE = (torch.bool, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint16)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _not_finite(dtype: torch.dtype, value: float, word: str) -> Hostile:
    return _saved(
        f"{word}-{_name(dtype)}".replace("_", "-").lower(), f"{word} in {_name(dtype)}",
        lambda: {"fc.weight": torch.full((3, 3), value).to(dtype)}, 3,
        f"'fc.weight': 9 of 9 values are {'NaN' if word == 'NaN' else 'infinite'}", row=34,
    )  # fmt: skip


def _named(name: str, what: str, key: str, *says: str, command: tuple[str, ...] = ()) -> Hostile:
    def build(folder: Path) -> Path:
        torch.save({f"{key}.weight": torch.eye(2)}, folder / "m.pt")
        return folder / "m.pt"

    return Hostile(f"name-{name}", what, build, 0, says, silent=("\x1b", "\n::error", "\u202e"),
                   options=command, row=35, plain="torch")  # fmt: skip


def _tied(folder: Path) -> Path:
    shared = torch.eye(3)
    torch.save({"head.weight": shared, "out.weight": shared}, folder / "m.pt")
    return folder / "m.pt"


def _views(folder: Path) -> Path:
    base = torch.arange(12.0).reshape(3, 4)
    torch.save({"a.weight": base, "b.weight": base.t(), "c.weight": base[1:]}, folder / "m.pt")
    return folder / "m.pt"


def _nested() -> object:
    return {"w": torch.nested.nested_tensor([torch.eye(2), torch.eye(3)])}


CASES = (
    _sparse("coo", "a good COO tensor", "sparse_coo", [0, 1], [0, 3], "sparse tensors are not read",
            code=3, row=None),
    _sparse("coo-column", "COO with column 9,999,999 of 4", "sparse_coo", [0, 1], [0, 9_999_999],
            "sparse tensor 'w': column 9,999,999 of 4"),
    _sparse("coo-row", "COO with row -1", "sparse_coo", [0, -1], [0, 1], "'w': row -1 of 4"),
    _sparse("coo-values", "COO with too few values", "sparse_coo", [0, 1], [0, 1],
            "values that do not fit 2 places", values=1),
    _sparse("coo-size", "COO of a size that is a text", "sparse_coo", [0], [0],
            "a size that is no number", size=("4", 4)),
    _sparse("coo-size-negative", "COO of a negative size", "sparse_coo", [0], [0],
            "a size that is no number", size=(-4, 4)),
    _sparse("coo-rank", "COO of one axis and two indices", "sparse_coo", [0], [0],
            "axes that it does not have", size=(4,)),
    _sparse("coo-floats", "COO whose indices are floats", "sparse_coo", [0], [0],
            "indices that are no integers", indices="FloatStorage"),
    _sparse("csr", "a good CSR tensor", "sparse_csr", [0, 1, 2, 2, 2], [0, 3],
            "sparse tensors are not read", code=3, row=None),
    _sparse("csr-column", "CSR with column 9,999,999 of 4", "sparse_csr", [0, 1, 2, 2, 2],
            [0, 9_999_999], "sparse tensor 'w': column 9,999,999 of 4"),
    _sparse("csr-negative", "CSR with column -1", "sparse_csr", [0, 1, 2, 2, 2], [0, -1],
            "'w': column -1 of 4"),
    _sparse("csr-starts-past", "CSR whose rows end past the entries", "sparse_csr",
            [0, 1, 2, 2, 9_999], [0, 1], "row starts that do not fit"),
    _sparse("csr-starts-back", "CSR whose rows run backwards", "sparse_csr", [0, 2, 1, 2, 2],
            [0, 1], "row starts that do not fit"),
    _sparse("csr-starts-wrap", "CSR whose rows run backwards by more than 2^63", "sparse_csr",
            [0, (1 << 63) - 1, 4 - (1 << 63), 3], [0, 1, 2], "row starts that do not fit",
            size=(3, 4)),
    _sparse("csr-starts-few", "CSR of too few rows", "sparse_csr", [0, 2], [0, 1],
            "row starts that do not fit"),
    _sparse("csr-starts-none", "CSR without rows", "sparse_csr", [], [0, 1], "row starts"),
    _sparse("csr-values", "CSR with too many values", "sparse_csr", [0, 1, 2, 2, 2], [0, 1],
            "axes that it does not have", values=3),
    _sparse("csc-row", "CSC with row 77 of 4", "sparse_csc", [0, 1, 2, 2, 2], [0, 77],
            "'w': row 77 of 4"),
    _sparse("bsr-flat", "BSR whose values have no blocks", "sparse_bsr", [0, 1, 2, 2, 2], [0, 1],
            "axes that it does not have"),
    _sparse("layout-unknown", "an unknown layout", "sparse_magic", [0], [0], "an unknown layout"),
    _saved("bsr", "a good BSR tensor", lambda: {"w": torch.eye(4).to_sparse_bsr((2, 2))}, 3,
           "sparse tensors are not read", command="bound"),
    _saved("csr-batch", "a good batched CSR tensor",
           lambda: {"w": torch.eye(4).expand(2, 4, 4).contiguous().to_sparse_csr()}, 3,
           "sparse tensors are not read", command="bound"),
    _saved("nested", "a nested tensor", _nested, 3, "nested tensors are not read",
           command="bound"),
    _saved("quantized-tensor", "qint8 of one scale",
           lambda: {"fc.weight": torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8)}, 0,
           "fc", "qint8", row=29),
    _saved("quantized-channels", "quint8 of a scale a channel", _quantize_channels, 0, "fc",
           "quint8", row=29),
    *(_quantized(name, what, scheme, says, code=0)
      for name, (what, scheme, says) in SCHEMES.items()),
    *(_quantized(name, what, scheme, says) for name, (what, scheme, says) in BAD_SCHEMES.items()),
    _quantized("scale-nan", "a scale that is NaN", (_TENSOR, float("nan"), 0), "are NaN", code=3),
    _quantized("scale-tiny", "a subnormal scale", (_TENSOR, 5e-324, 0), "fc", code=0),
    _quantized("scale-negative", "a negative scale", (_TENSOR, -0.5, 0), "fc", code=0),
    *(_saved(_name(dtype).replace("_", "-"), f"{_name(dtype)} weights", _of_type(dtype), 0, "fc",
             f'"dtype": "{_name(dtype)}"', row=29, options=_JSON) for dtype in REAL),
    *(_saved(f"unscaled-{_name(dtype)}", f"{_name(dtype)} without scale", _of_type(dtype), 3,
             "fc.weight", _name(dtype), "not certified", row=30, command="bound")
      for dtype in WHOLE),
    *(_saved(_name(dtype), f"{_name(dtype)} weights", _of_type(dtype), 0, "fc.weight", _name(dtype),
             '"rigor": "proved"', row=29, options=_JSON)
      for dtype in (torch.complex64, torch.complex128)),
    *(_not_finite(dtype, float("nan"), "NaN") for dtype in
      (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2,
       torch.float8_e4m3fn)),
    *(_not_finite(dtype, float("inf"), "Inf") for dtype in
      (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2)),
    _named("escape", "a name with ESC", "\x1b[31mred", "\\x1b[31mred"),
    _named("markup", "a name with [/red]", "[/red]", "[/red].weight", command=_JSON),
    _named("newline", "a name that starts a line with ::error::", "x\n::error::y", "\\x0a"),
    _named("bidi", "a name that turns the reading direction", "a\u202eb", "\\u202e"),
    _named("surrogate", "a name with half a character", "a\ud800b", "\\ud800"),
    _named("megabyte", "a name of a megabyte", "n" * (1 << 20), "..."),
    _named("megabyte-json", "a name of a megabyte, as JSON", "n" * (1 << 20), "n" * (1 << 20),
           command=_JSON),
    _named("empty", "an empty name", "", '".weight"', command=_JSON),
    _named("dots", "a name of dots", "....", "...."),
    _named("slashes", "a name that leaves the folder", "../../etc/passwd",
           '"../../etc/passwd.weight"', command=_JSON),
    Hostile("tied", "tied weights", _tied, 0, ("out has the weight of head",), row=31,
            plain="torch"),
    Hostile("views", "three views of one storage", _views, 0, ("a", "b", "c"), row=31,
            plain="torch"),
)  # fmt: skip
