"""Norms of 3x3 kernels: lipaudit's proved one for any input size, beside what holds at one size.

The two-liner and Gram iteration work on the n x n grid of the circular convolution; Gram
iteration runs until its bound is as tight as lipaudit's enclosure (or 1e-4, if that is
tighter), which is the only fair comparison of two upper bounds. Power iteration gives lower
bounds only.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
import trained
from baselines import gram_iteration, gram_steps_for, power_iteration, two_liner
from cases import Options, affordable_grid, gaussian, our_norm
from report import error_cell, ratio_cell, table, time_cell
from timing import Contestant, race, seconds

from lipaudit.device import Compute

TITLE = "Norms for any input size, 3x3 kernels"
_CHANNELS = (16, 64, 128, 256, 512)
_SIZES = (32, 56, 224)
_QUICK_CHANNELS, _QUICK_SIZES = (16, 32), (32,)
_POWER_STEPS = 100
_TIGHTEST = 1e-4


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel at one image size. Times are seconds."""

    kernel: str
    channels: str
    size: int
    grid: int
    """Points an axis that two-liner and Gram iteration were timed on; below `size` scaled up."""
    ours: float
    ours_least: float
    width: float
    """Upper over lower end of lipaudit's enclosure, less 1. It holds for every size."""
    rigor: str
    numpy: float
    numpy_least: float
    gram: float
    gram_least: float
    gram_steps: int
    gram_excess: float
    """Its bound over the true circular norm on the grid, less 1."""
    power: float
    power_least: float
    power_steps: int
    """Steps that were run; below 100 the time is scaled up."""
    power_shortfall: float
    """How far below lipaudit's lower end the zero-padded power iteration ended, relative."""
    circular_power: float
    circular_power_least: float


def measure(options: Options) -> list[Row]:
    """Time every kernel at every size."""
    channels = _QUICK_CHANNELS if options.quick else _CHANNELS
    sizes = _QUICK_SIZES if options.quick else _SIZES
    kernels = [] if options.models is None else trained.kernels(options.models)
    kernels = kernels[-1:] if options.quick else kernels
    kernels += [("Gaussian", gaussian(c, 3)) for c in channels]
    rows = []
    for name, kernel in kernels:
        for size in sizes:
            rows.append(_measured(name, kernel, size, options))
            print(markdown(rows[-1:]).splitlines()[2], flush=True)
    return rows


def markdown(rows: list[Row]) -> str:
    """Return the table and what its columns mean."""
    header = (
        "kernel",
        "channels",
        "n",
        "lipaudit s",
        "width",
        "two-liner s",
        "/ ours",
        "Gram iteration s",
        "/ ours",
        "T",
        "excess",
        "power 100 s",
        "/ ours",
        "shortfall",
        "circular power 100 s",
    )
    lines = table(header, map(_cells, rows))
    return (
        f"{lines}\n\n"
        "lipaudit's norm is proved and does not depend on n; width is upper/lower - 1 of its "
        "enclosure. The others hold at n only. Gram iteration has the fewest iterations T whose "
        "bound is within max(width, 1e-4) of the true circular norm on the same grid; excess is "
        "by how much it is above. Power iteration never gives an upper bound; shortfall is how "
        "far the zero-padded one ended below lipaudit's lower end (a little of that is the "
        "border of a finite image; empty: fewer than 100 steps were run)."
    )


def _cells(row: Row) -> tuple[str, ...]:
    """Return one line of the table."""
    coarse, short = row.grid < row.size, row.power_steps < _POWER_STEPS
    return (
        row.kernel,
        row.channels,
        str(row.size),
        time_cell(row.ours, row.ours_least),
        error_cell(row.width) + ("" if row.rigor == "proved" else f" {row.rigor}"),
        time_cell(row.numpy, row.numpy_least, scaled=coarse),
        ratio_cell(row.numpy, row.ours, scaled=coarse),
        time_cell(row.gram, row.gram_least, scaled=coarse),
        ratio_cell(row.gram, row.ours, scaled=coarse),
        str(row.gram_steps),
        error_cell(row.gram_excess),
        time_cell(row.power, row.power_least, scaled=short),
        ratio_cell(row.power, row.ours, scaled=short),
        "" if short else error_cell(row.power_shortfall),
        time_cell(row.circular_power, row.circular_power_least, scaled=short),
    )


def _measured(name: str, kernel: torch.Tensor, size: int, options: Options) -> Row:
    """Find out how long each method has to run, then time them all."""
    norm = our_norm(kernel, options.compute).enclosure
    width = norm.upper / norm.lower - 1.0
    grid = affordable_grid(kernel, size, options.limit)
    truth = float(two_liner(kernel, grid).max())
    on_device = kernel.to(options.compute.device)
    gram_steps, bound = gram_steps_for(on_device, grid, truth, max(width, _TIGHTEST))
    power_steps = _affordable_steps(on_device, size, options)
    contestants = _contestants(kernel, (size, grid), gram_steps, power_steps, options.compute)
    timings = race(contestants, device=options.device, repeats=options.repeats, limit=options.limit)
    return Row(
        kernel=name,
        channels="x".join(map(str, kernel.shape[:2])),
        size=size,
        grid=grid,
        ours=timings["ours"].median,
        ours_least=timings["ours"].least,
        width=width,
        rigor=norm.rigor.label,
        numpy=timings["numpy"].median,
        numpy_least=timings["numpy"].least,
        gram=timings["gram"].median,
        gram_least=timings["gram"].least,
        gram_steps=gram_steps,
        gram_excess=bound / truth - 1.0,
        power=timings["power"].median,
        power_least=timings["power"].least,
        power_steps=power_steps,
        power_shortfall=1.0 - timings["power"].result / norm.lower,
        circular_power=timings["circular"].median,
        circular_power_least=timings["circular"].least,
    )


def _contestants(
    kernel: torch.Tensor,
    sizes: tuple[int, int],
    gram_steps: int,
    power_steps: int,
    compute: Compute,
) -> list[Contestant]:
    """Return the five methods; `sizes` are those of the image and of the grid."""
    size, grid = sizes
    on_device = kernel.to(compute.device)
    contestants = [
        Contestant("ours", lambda: our_norm(kernel, compute)),
        Contestant("numpy", lambda: two_liner(kernel, grid), (size / grid) ** 2),
        Contestant(
            "gram", lambda: gram_iteration(on_device, grid, gram_steps), _half(size) / _half(grid)
        ),
    ]
    for name, circular in (("power", False), ("circular", True)):
        call = partial(power_iteration, on_device, size, steps=power_steps, circular=circular)
        contestants.append(Contestant(name, call, _POWER_STEPS / power_steps))
    return contestants


def _half(size: int) -> int:
    """Count the frequencies that a real kernel needs: one of each conjugate pair."""
    return size * (size // 2 + 1)


def _affordable_steps(kernel: torch.Tensor, size: int, options: Options) -> int:
    """Return how many power steps fit the limit, at most 100."""
    calls = (
        seconds(lambda: power_iteration(kernel, size, steps=1, circular=True), options.device)
        for _ in range(2)
    )
    each = min(taken for taken, _ in calls)
    return max(1, min(_POWER_STEPS, math.floor(options.limit / 2.0 / each)))
