"""Growth: time and memory of whole commands against channels, image size, layers and workers.

Each point is one `lipaudit inspect` on a file made for it, in a process of its own and without the
cache, in turn with one on a file of a single tiny layer. Time is that of the work: the median of
the first less that of the second, which is start-up. Memory is the most that the process, or all
processes where there are several, held beyond what start-up holds. The exponent p of y ~ x^p is
that between the last two points, set beside the one that the count of operations gives.
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
from torch import nn

TITLE = "Growth: whole commands"
_SIDE = 512
"""Of the matrices that there are many of."""
_MANY, _QUICK_MANY = 400, 10
"""How many of them are shared out among workers."""
_NORMS = ("--no-spectra",)
_REPEATS = 3
_BETWEEN_LOOKS = 0.02
"""Seconds."""


Content = dict[str, torch.Tensor] | nn.Module
"""What is saved: weights alone, or a module where the layer's geometry matters."""


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
    content: Callable[[int], Content]
    options: Callable[[int], tuple[str, ...]]
    power: float
    memory_power: float


def _dense(size: int) -> dict[str, torch.Tensor]:
    return {"fc.weight": _random(size, size)}


def _convolution(size: int) -> nn.Module:
    layer = nn.Conv2d(size, size, 3, padding=1, bias=False)
    layer.weight.data = _random(size, size, 3, 3)
    return nn.Sequential(layer)


def _many(size: int) -> dict[str, torch.Tensor]:
    # No two fit one after the other, so that no chain is assumed.
    return {f"block{index}.fc.weight": _random(_SIDE, _SIDE + 1) for index in range(size)}


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
        (64, 128, 256, 512),
        (16, 32),
        lambda _: _convolution(32),
        lambda size: ("--input-shape", f"32x{size}x{size}", "--padding", "circular"),
        2,
        2,
    ),
    Curve(
        f"dense layers of {_SIDE}x{_SIDE + 1}, norms",
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
        idle = _written(place, "idle", _dense(2))
        for curve in CURVES:
            for size in curve.quick if options.quick else curve.sizes:
                path = _written(place, "point", curve.content(size))
                rows.append(_row(curve, size, _beyond(path, curve.options(size), idle)))
                print(_cells(rows[-1]), flush=True)
        curve = _over_workers(_QUICK_MANY if options.quick else _MANY)
        path = _written(place, "workers", curve.content(1))
        for workers in curve.sizes:
            rows.append(_row(curve, workers, _beyond(path, curve.options(workers), idle)))
            print(_cells(rows[-1]), flush=True)
    return rows


def _over_workers(layers: int) -> Curve:
    return Curve(
        f"{layers} such layers in processes",
        "workers",
        (1, 2),
        (1, 2),
        lambda _: _many(layers),
        lambda workers: (*_NORMS, "--workers", str(workers)),
        -1,
        1,
    )


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
        "points. Start-up differs by some tenths of a second from run to run: where a point takes "
        "no more than that, p says little. A norm on an image takes the same search whatever its "
        "size; of a spectrum every value is held, one for each channel and frequency, until it is "
        "summarized. Two workers pay for starting, some two seconds."
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


def _row(curve: Curve, size: int, found: tuple[float, float]) -> Row:
    return Row(
        curve=curve.name,
        against=curve.against,
        size=size,
        seconds=max(found[0], 0.0),
        megabytes=max(found[1], 0.0),
        power=curve.power,
        memory_power=curve.memory_power,
    )


def _written(folder: Path, name: str, content: Content) -> Path:
    if isinstance(content, nn.Module):
        path = folder / f"{name}.pt"
        torch.save(content, path)
        return path
    path = folder / f"{name}.safetensors"
    save_file(content, path)
    return path


def _beyond(path: Path, options: tuple[str, ...], idle: Path) -> tuple[float, float]:
    """Return the median seconds and the most megabytes of one command, beyond those of start-up."""
    _run(idle, ())  # what a first run finds cold, all others find warm
    pairs = [(_run(path, options), _run(idle, ())) for _ in range(_REPEATS)]
    done, started = zip(*pairs, strict=True)
    seconds = [statistics.median(each[0] for each in runs) for runs in (done, started)]
    memory = [max(each[1] for each in runs) for runs in (done, started)]
    return seconds[0] - seconds[1], memory[0] - memory[1]


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
