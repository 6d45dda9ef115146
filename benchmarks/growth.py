"""Growth: time and memory of whole commands against channels, image size, layers and workers.

Each point is one `lipaudit inspect` on a file made for it, in a process of its own and without the
cache. Time is that of the work (a run on a file of one tiny layer, start-up, is taken away), memory
the most that the process, or all processes where there are several, held beyond that run. The
exponent p of y ~ x^p is that between the last two points, set beside the one that the count of
operations gives.
"""

import itertools
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from cases import Options
from report import table
from safetensors.torch import save_file

TITLE = "Growth: whole commands"
_LAYERS_EACH = 256
_NORMS = ("--no-spectra",)
_BETWEEN_LOOKS = 0.02
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Row:
    """One point of one curve."""

    curve: str
    against: str
    size: int
    seconds: float
    megabytes: float
    power: float
    """Expected exponent of the time."""
    memory_power: float
    """Expected exponent of the memory."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What grows, and how the file of one point is made."""

    name: str
    against: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    tensors: Callable[[int], dict[str, torch.Tensor]]
    options: Callable[[int], tuple[str, ...]]
    power: float
    memory_power: float


def _dense(size: int) -> dict[str, torch.Tensor]:
    return {"fc.weight": _random(size, size)}


def _convolution(size: int) -> dict[str, torch.Tensor]:
    return {"conv.weight": _random(size, size, 3, 3)}


def _many(size: int) -> dict[str, torch.Tensor]:
    # No two fit one after the other, so that no chain is assumed.
    return {
        f"block{index}.fc.weight": _random(_LAYERS_EACH, _LAYERS_EACH + 1) for index in range(size)
    }


def _random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).div(math.sqrt(shape[1]))


CURVES = (
    Curve(
        "dense layer, norm",
        "side",
        (1024, 2048, 4096, 8192),
        (512, 1024),
        _dense,
        lambda _: _NORMS,
        3,
        2,
    ),
    Curve(
        "dense layer, spectrum", "side", (512, 1024, 2048), (256, 512), _dense, lambda _: (), 3, 2
    ),
    Curve(
        "3x3 convolution, norm for any size",
        "channels",
        (64, 128, 256, 512),
        (32, 64),
        _convolution,
        lambda _: _NORMS,
        3,
        2,
    ),
    Curve(
        "3x3 convolution of 32 channels, norm on an image",
        "image side",
        (32, 64, 128, 256),
        (16, 32),
        lambda _: _convolution(32),
        lambda size: (*_NORMS, "--input-shape", f"32x{size}x{size}", "--padding", "circular"),
        0,
        0,
    ),
    Curve(
        "3x3 convolution of 32 channels, circular spectrum",
        "image side",
        (32, 64, 128, 256),
        (16, 32),
        lambda _: _convolution(32),
        lambda size: ("--input-shape", f"32x{size}x{size}", "--padding", "circular"),
        2,
        0,
    ),
    Curve(
        f"dense layers of {_LAYERS_EACH}x{_LAYERS_EACH + 1}, norms",
        "layers",
        (25, 50, 100, 200),
        (5, 10),
        _many,
        lambda _: _NORMS,
        1,
        0,
    ),
)


def measure(options: Options) -> list[Row]:
    """Run every point of every curve, and the layers over workers."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        idle = _median(_written(place, "idle", _dense(2)), (), 3)
        for curve in CURVES:
            for size in curve.quick if options.quick else curve.sizes:
                path = _written(place, "point", curve.tensors(size))
                rows.append(_row(curve, size, _median(path, curve.options(size), 3), idle))
                print(_cells(rows[-1]), flush=True)
        path = _written(place, "workers", _many(10 if options.quick else 400))
        for workers in (1, 2):
            curve = Curve(
                f"{10 if options.quick else 400} such layers in processes",
                "workers",
                (),
                (),
                _many,
                lambda _: (),
                -1,
                1,
            )
            told = (*_NORMS, "--workers", str(workers))
            rows.append(_row(curve, workers, _median(path, told, 1 if options.quick else 3), idle))
            print(_cells(rows[-1]), flush=True)
    return rows


def markdown(rows: list[Row]) -> str:
    """Return the table, with the fitted exponents beside the expected ones."""
    header = (
        "what",
        "against",
        "at",
        "seconds",
        "MB",
        "x^p: time",
        "expected",
        "memory",
        "expected",
    )
    lines = []
    for _, found in itertools.groupby(rows, lambda row: row.curve):
        points = list(found)
        lines += [_line(points, index) for index in range(len(points))]
    return (
        f"{table(header, lines)}\n\n"
        "Whole commands in processes of their own, less start-up; p is fitted to the last two "
        "points. Where a point takes less than a tenth of a second more than start-up, p says "
        "little. A norm on an image takes the same search whatever its size; the spectrum of a "
        "convolution is summarized, not kept."
    )


def _line(points: Sequence[Row], index: int) -> tuple[str, ...]:
    row = points[index]
    last = index == len(points) - 1 and index > 0
    before = points[index - 1]
    return (
        row.curve if index == 0 else "",
        row.against if index == 0 else "",
        str(row.size),
        f"{row.seconds:.2f}",
        f"{row.megabytes:.0f}",
        _exponent(before.seconds, row.seconds, before.size, row.size) if last else "",
        f"{row.power:g}" if last else "",
        _exponent(before.megabytes, row.megabytes, before.size, row.size) if last else "",
        f"{row.memory_power:g}" if last else "",
    )


def _exponent(before: float, after: float, size: int, larger: int) -> str:
    if before <= 0 or after <= 0:
        return "-"
    return f"{math.log(after / before) / math.log(larger / size):.2f}"


def _cells(row: Row) -> str:
    return f"{row.curve} | {row.size} | {row.seconds:.2f} s | {row.megabytes:.0f} MB"


def _row(curve: Curve, size: int, found: tuple[float, float], idle: tuple[float, float]) -> Row:
    return Row(
        curve=curve.name,
        against=curve.against,
        size=size,
        seconds=max(found[0] - idle[0], 0.0),
        megabytes=max(found[1] - idle[1], 0.0),
        power=curve.power,
        memory_power=curve.memory_power,
    )


def _written(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> Path:
    path = folder / f"{name}.safetensors"
    save_file(tensors, path)
    return path


def _median(path: Path, options: tuple[str, ...], repeats: int) -> tuple[float, float]:
    """Return the median seconds, and the most megabytes, of one command."""
    found = [_run(path, options) for _ in range(repeats)]
    return statistics.median(each[0] for each in found), max(each[1] for each in found)


def _run(path: Path, options: tuple[str, ...]) -> tuple[float, float]:
    command = [sys.executable, "-m", "lipaudit", "inspect", str(path), "-f", "json", *options]
    start = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603 - our own command
        command, stdout=subprocess.DEVNULL, env={**os.environ, "LIPAUDIT_CACHE": "off"}
    )
    most = 0.0
    while process.poll() is None:
        most = max(most, _held(process.pid))
        time.sleep(_BETWEEN_LOOKS)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return time.perf_counter() - start, most


def _held(process: int) -> float:
    """Return the megabytes that a process and all below it hold, shared pages counted once."""
    try:
        stated = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
        below = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0.0  # it ended meanwhile
    (own,) = [int(line.split()[1]) for line in stated.splitlines() if line.startswith("Pss:")]
    return own / 1024 + sum(_held(int(child)) for child in below.split())
