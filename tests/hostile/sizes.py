"""Layers too large for this machine: measured without their matrix, or left out by name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import helper

from tests.hostile import written
from tests.hostile.case import UNATTACKED, Hostile
from tests.hostile.onnx_graphs import N, made
from tests.hostile.onnx_wire import field, graph, model, number, tensor
from tests.hostile.paths import JSON
from tests.hostile.written import VALUES, entry, packed

_SIDE = 20_000
_OVER = "over --max-memory"


def _large(folder: Path) -> Path:
    """Write a weight of 400 MB and a small one; the large one is a hole."""
    size = _SIDE**2
    header = {
        "large.weight": entry("F8_E4M3", (_SIDE, _SIDE), (0, size)),
        "small.weight": entry(span=(size, size + 16)),
    }
    head = packed(header, b"")
    path = folder / "model.safetensors"
    with path.open("wb") as out:
        out.write(head)
        out.seek(len(head) + size)
        out.write(VALUES)
    return path


def _large_beside(folder: Path) -> Path:
    """Write an ONNX model whose weight of 400 MB lies beside it."""
    written.sparse("model.bin", b"", 4 * 10**8)(folder)
    said = field(13, field(1, "location") + field(2, "model.bin"))
    weight = tensor(said, number(14, 1), dims=number(1, 10**4) * 2)
    path = folder / "model.onnx"
    path.write_bytes(model(graph(weight, ends=_ends(10**4))))
    return path


def _ends(width: int) -> bytes:
    return b"".join(
        field(at, helper.make_tensor_value_info(name, 1, [1, width]).SerializeToString())
        for at, name in ((11, "x"), (12, "y"))
    )


def _image(side: int, channels: int) -> Callable[[Path], Path]:
    """Return what writes a convolution whose matrix would take terabytes."""
    kernel = np.zeros((channels, channels, 3, 3), np.float32)
    kernel[range(channels), range(channels), 1, 1] = 2.0
    node = N("Conv", ["x", "K"], ["y"], name="c", pads=[1] * 4)
    return made([node], {"K": kernel}, inputs={"x": [1, channels, side, side]})


CASES: tuple[Hostile, ...] = (
    Hostile(
        "size-over-the-memory",
        "weight of 400 MB, 300 allowed",
        _large,
        3,
        ("'large.weight' takes 400,000,000 bytes", _OVER, '"name": "small"', '"upper": 3.0'),
        options=("--max-memory", "300M", *JSON),
        row=52,
    ),
    Hostile(
        "size-over-the-memory-bound",
        "bound of a weight of 400 MB, 300 allowed",
        _large,
        3,
        ("large.weight", "not certified"),
        command=("bound",),
        options=("--max-memory", "300M"),
        row=52,
    ),
    Hostile(
        "size-beside-the-model",
        "bound of external data of 400 MB, 300 allowed",
        _large_beside,
        3,
        ("'W' takes 400,000,000 bytes", _OVER),
        command=("bound",),
        options=("--max-memory", "300M", *JSON),
        row=52,
        warns=UNATTACKED,
    ),
    Hostile(
        "size-over-a-limit",
        "weight of 16 bytes, 8 allowed",
        written.file("model.safetensors", written.tensors()),
        3,
        ("'fc.weight' takes 16 bytes", _OVER),
        options=("--max-memory", "8", *JSON),
        row=52,
    ),
    Hostile(
        "size-of-a-matrix",
        "convolution whose matrix takes 140 TB",
        _image(512, 16),
        0,
        ('"upper": 2.0',),
        options=("--no-spectra", *JSON),
        row=52,
    ),
    Hostile(
        "size-of-a-spectrum",
        "convolution with four million singular values",
        _image(512, 16),
        0,
        ('"upper": 2.0',),
        options=JSON,
        row=52,
    ),
)
