"""safetensors values: every item type, shapes at the edge, no numbers, and hostile names."""

import math
import struct
from collections.abc import Mapping
from typing import Any

from tests.hostile.case import Hostile
from tests.hostile.paths import JSON
from tests.hostile.safetensors_headers import W
from tests.hostile.written import VALUES, entry, file, packed

_NAME = "model.safetensors"


def _case(
    name: str, what: str, header: Mapping[str, Any], data: bytes, code: int, *says: str, **more: Any
) -> Hostile:
    more = {"plain": "safetensors", **more}
    return Hostile(f"values-{name}", what, file(_NAME, packed(header, data)), code, says, **more)


def _matrix(dtype: str, data: bytes, shape: tuple[int, ...] = (2, 2)) -> dict[str, Any]:
    return {W: entry(dtype, shape, (0, len(data)))}


# [[3, 0], [0, 1]], or for E8M0, which has no zero, [[4, 2^-127], [2^-127, 1]]: type, bytes,
# what reports call it, norm.
_TYPES: tuple[tuple[str, bytes, str, str], ...] = (
    ("F64", struct.pack("<4d", 3, 0, 0, 1), "float64", "3.0"),
    ("F16", struct.pack("<4e", 3, 0, 0, 1), "float16", "3.0"),
    ("BF16", struct.pack("<4H", 0x4040, 0, 0, 0x3F80), "bfloat16", "3.0"),
    ("F8_E4M3", b"\x44\0\0\x38", "float8_e4m3fn", "3.0"),
    ("F8_E5M2", b"\x42\0\0\x3c", "float8_e5m2", "3.0"),
    ("F8_E4M3FNUZ", b"\x4c\0\0\x40", "float8_e4m3fnuz", "3.0"),
    ("F8_E5M2FNUZ", b"\x46\0\0\x40", "float8_e5m2fnuz", "3.0"),
    ("F8_E8M0", b"\x81\0\0\x7f", "float8_e8m0fnu", "4.0"),
    ("C64", struct.pack("<8f", 0, 3, 0, 0, 0, 0, 0, 1), "complex64", "3.0"),
)
# Types whose numbers say nothing without a scale, or that have none.
_UNSCALED: tuple[tuple[str, int, str], ...] = (
    ("F4", 2, "F4"),
    ("F6_E2M3", 3, "F6_E2M3"),
    ("F6_E3M2", 3, "F6_E3M2"),
    ("BOOL", 4, "bool"),
    ("I8", 4, "int8"),
    ("U8", 4, "uint8"),
    ("I16", 8, "int16"),
    ("U16", 8, "uint16"),
    ("I64", 32, "int64"),
    ("U64", 32, "uint64"),
)
_NANS: tuple[tuple[str, bytes, str], ...] = (
    ("F32", struct.pack("<4f", *[math.nan] * 4), "4 of 4 values are NaN"),
    ("F64", struct.pack("<4d", 1, 2, 3, math.inf), "1 of 4 values are infinite"),
    ("F16", struct.pack("<4e", 1, -math.inf, math.nan, 1), "2 of 4 values are NaN or infinite"),
    ("BF16", struct.pack("<4H", 0x4040, 0x7FC1, 0, 0), "1 of 4 values are NaN"),
    ("F8_E4M3", b"\x7f\x7f\0\0", "2 of 4 values are NaN"),
    ("F8_E5M2", b"\x7c\0\0\0", "1 of 4 values are infinite"),
    ("F8_E4M3FNUZ", b"\x80\0\0\0", "1 of 4 values are NaN"),
    ("F8_E8M0", b"\xff\0\0\0", "1 of 4 values are NaN"),
    ("C64", struct.pack("<8f", 1, math.nan, 0, 0, 0, 0, 0, 0), "1 of 4 values are NaN"),
)
# Shapes without a number in them or almost; norm, or None where there is no layer.
_SHAPES: tuple[tuple[tuple[int, ...], str | None], ...] = (
    ((0, 5), "0.0"),
    ((5, 0), "0.0"),
    ((0, 0), "0.0"),
    ((2, 2, 0, 3), "0.0"),
    ((), None),
    ((4,), None),
    ((1, 1, 1, 1, 1, 1, 1), None),
)
_ESC = "\x1b[31mred\x1b]0;owned\x07"


def _called(
    name: str, what: str, tensor: str, *says: str, silent: tuple[str, ...] = (), **more: Any
) -> Hostile:
    return _case(
        f"name-{name}",
        what,
        {tensor: entry()},
        VALUES,
        0,
        *says,
        silent=silent,
        row=35,
        **more,
    )


def _format(name: str) -> dict[str, Any]:
    return {"options": ("-f", name)}


_LONG = "n" * 1_000_000 + ".weight"

CASES: tuple[Hostile, ...] = (
    *(
        _case(
            f"of-{dtype.lower()}",
            f"weight of {dtype}",
            _matrix(dtype, data),
            data,
            0,
            f'"dtype": "{called}"',
            f'"upper": {norm}',
            options=JSON,
            row=29,
        )
        for dtype, data, called, norm in _TYPES
    ),
    *(
        _case(
            f"unscaled-{dtype.lower()}{'-gated' if gate else ''}",
            f"weight of {dtype}, {'layers gated' if gate else 'bound wanted'}",
            _matrix(dtype, bytes(size)),
            bytes(size),
            3,
            W,
            called,
            "not certified",
            command=("inspect",) if gate else ("bound",),
            options=("--max-norm", "10") if gate else (),
            row=30,
        )
        for dtype, size, called in _UNSCALED
        for gate in ((False, True) if dtype in {"F4", "I8"} else (False,))
    ),
    *(
        _case(
            f"not-finite-{dtype.lower()}",
            f"NaN or Inf in {dtype}",
            _matrix(dtype, data),
            data,
            3,
            f"'{W}'",
            said,
            "LIP003",
            row=34,
        )
        for dtype, data, said in _NANS
    ),
    _case(
        "not-finite-under-a-limit",
        "NaN under a limit",
        _matrix("F32", _NANS[0][1]),
        _NANS[0][1],
        3,
        "LIP003",
        command=("bound",),
        options=("--max", "100", "--assume-sequential"),
        row=34,
    ),
    *(
        _case(
            f"shape-{'x'.join(map(str, shape)) or 'scalar'}",
            f"weight of shape {list(shape)}",
            _matrix("F32", bytes(4 * math.prod(shape)), shape),
            bytes(4 * math.prod(shape)),
            0,
            '"layers": []' if norm is None else f'"upper": {norm}',
            options=JSON,
            row=33,
        )
        for shape, norm in _SHAPES
    ),
    _case(
        "all-zero",
        "weight of zeros",
        _matrix("F32", bytes(16)),
        bytes(16),
        0,
        '"upper": 0.0',
        '"stable_rank": 0.0',
        '"entropy_rank": 0.0',
        '"numerical_rank": 0',
        options=JSON,
        row=33,
    ),
    _called("escapes", "name with escapes", f"{_ESC}.weight", "\\x1b[31mred", silent=("\x07",)),
    _called("markup", "name with [red]", "[red]x[bold].weight", "[red]x[bold]"),
    _called(
        "end-of-markup", "name with [/red]", "x[/red].weight", '"x[/red].weight"', options=JSON
    ),
    _called("forges-a-log", "name with ::error::", "a\n::error::x.weight", silent=("\n::error",)),
    _called(
        "forges-a-log-github",
        "name with ::error::, for GitHub",
        "a\n::error::x.weight",
        silent=("\n::error::x",),
        **_format("github"),
    ),
    _called(
        "is-a-script",
        "name with a tag",
        "<img src=x onerror=alert(1)>.weight",
        "&lt;img src=x",
        silent=("<img src=x",),
        **_format("html"),
    ),
    _called(
        "is-a-formula",
        "name that is a formula",
        "=cmd|'calc'!A0.weight",
        "'=cmd",
        **_format("csv"),
    ),
    _called(
        "breaks-a-table",
        "name with | and `",
        "a|b`c.weight",
        silent=("a|b", "b`c"),
        **_format("markdown"),
    ),
    _called("of-a-megabyte", "name of 1 MB", _LONG, "nnn...nnn", silent=("n" * 200,)),
    _called("of-a-megabyte-json", "name of 1 MB, as JSON", _LONG, "n" * 1_000_000, options=JSON),
    _called("is-empty", "empty name", ""),
    _called("is-a-dot", "name of dots", "..weight", '"name": "', options=JSON),
    _called("is-a-path", "name that is a path", "../../etc/passwd.weight", '"name"', options=JSON),
    _case(
        "name-of-half-a-pair",
        "name with half a surrogate",
        {"a\ud800.weight": entry()},
        VALUES,
        2,
        "half of a character",
        row=35,
    ),
    _called("of-nul", "name with NUL", "a\0b.weight", "a\\x00b"),
    _called("turned-round", "name with a right-to-left override", "a\u202eb.weight", "a\\u202eb"),
    _case(
        "hundred-thousand-tensors",
        "100,000 empty tensors",
        {f"{at}.weight": entry(shape=(0,), span=(0, 0)) for at in range(100_000)},
        b"",
        0,
        '"layers": []',
        options=JSON,
        seconds=4,
    ),
    _case(
        "ten-thousand-owners-of-one-name",
        "10,000 layers that share a short name",
        {
            f"{'module.' * (at % 3)}{at // 3}.bias": entry(shape=(0,), span=(0, 0))
            for at in range(10_000)
        },
        b"",
        0,
        '"layers": []',
        options=JSON,
    ),
)
