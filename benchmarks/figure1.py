"""Figure 1 of Sedghi, Gupta & Long (2019): seconds for all singular values, by channels.

Every case is timed for lipaudit, for the paper's NumPy two-liner and for the same method in
torch, and lipaudit's values are compared with the two-liner's.
"""

import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from baselines import Floats, torch_svd, two_liner
from cases import Options, affordable_grid, gaussian, our_spectrum
from report import error_cell, ratio_cell, table, time_cell, times
from timing import Contestant, race

from lipaudit.device import choose

TITLE = "All singular values: Figure 1 of Sedghi, Gupta & Long (2019)"
_FULL = (
    *((3, 16, channels) for channels in (32, 64, 128, 256, 512, 1024)),
    *((11, 64, channels) for channels in (32, 64, 128, 256)),
)
_QUICK = ((3, 16, 16), (3, 16, 32), (3, 16, 64), (11, 32, 8), (11, 32, 16))
_SMALL = 1e-4
"""Below this share of σ1 a value counts as small."""


@dataclass(frozen=True, slots=True)
class Row:
    """One case: a kernel on an image. Times are seconds, None where lipaudit declined."""

    kernel: int
    size: int
    channels: int
    grid: int
    """Points an axis that the two-liner was timed on; below `size` its time is scaled up."""
    torch_grid: int
    """The same for torch; another grid only on a GPU."""
    ours: float | None
    ours_least: float | None
    numpy: float
    numpy_least: float
    torch: float
    torch_least: float
    error: float | None
    """Worst |ours - two-liner| / σ1 among the values of at least 1e-4 σ1 ..."""
    small_error: float | None
    """... and among the smaller ones; None when there are none."""
    peak_megabytes: float | None
    """What lipaudit's process grew by at its peak; measured for the largest case only."""


def measure(options: Options) -> list[Row]:
    """Time every case."""
    cases = _QUICK if options.quick else _FULL
    rows = []
    for case in cases:
        rows.append(_measured(*case, options, with_peak=case == cases[-1]))
        print(markdown(rows[-1:]).splitlines()[2], flush=True)
    return rows


def markdown(rows: list[Row]) -> str:
    """Return the table and what its columns mean."""
    header = (
        "kernel",
        "image",
        "channels",
        "lipaudit s",
        "two-liner s",
        "torch SVD s",
        "two-liner / ours",
        "torch / ours",
        "error",
        "error of small",
        "peak MB",
    )
    lines = table(header, map(_cells, rows))
    ratios = [row.numpy / row.ours for row in rows if row.ours]
    mean = f"{math.exp(sum(map(math.log, ratios)) / len(ratios)):.3g}" if ratios else "none"
    return (
        f"{lines}\n\n"
        f"Geometric mean of two-liner / ours: {mean}. What stands between this and more: LAPACK's "
        "reduction to tridiagonal form, half of which runs at the speed of memory. Its eigenvalue "
        "routine alone takes about 85 % of lipaudit's time at 256 channels, 60 % at 64 and 30 % at "
        "32, where Python and the hand-over to threads are the rest.\n\n"
        "Errors are the worst |lipaudit - two-liner| / σ1, over the values of at least 1e-4 σ1 "
        "and over the smaller ones (empty: there are none). Where times are marked `~` the "
        "baselines ran on a coarser grid of frequencies, all of them points of the full grid, and "
        "the errors are those of the whole spectrum on that grid. Peak is what the resident "
        "memory of a fresh process grows by."
    )


def _cells(row: Row) -> tuple[str, ...]:
    """Return one line of the table."""
    scaled, torch_scaled = row.grid < row.size, row.torch_grid < row.size
    return (
        f"{row.kernel}x{row.kernel}",
        f"{row.size}x{row.size}",
        str(row.channels),
        time_cell(row.ours, row.ours_least),
        time_cell(row.numpy, row.numpy_least, scaled=scaled),
        time_cell(row.torch, row.torch_least, scaled=torch_scaled),
        ratio_cell(row.numpy, row.ours, scaled=scaled),
        ratio_cell(row.torch, row.ours, scaled=torch_scaled),
        error_cell(row.error),
        error_cell(row.small_error),
        "" if row.peak_megabytes is None else f"{row.peak_megabytes:.0f}",
    )


def _measured(side: int, size: int, channels: int, options: Options, *, with_peak: bool) -> Row:
    """Time one case and compare its values."""
    kernel, compute = gaussian(channels, side), options.compute
    on_device = kernel.to(compute.device)
    grid = torch_grid = affordable_grid(kernel, size, options.limit)
    if on_device.is_cuda:
        torch_grid = affordable_grid(kernel, size, options.limit, options.device)
    timings = race(
        [
            Contestant("ours", lambda: our_spectrum(kernel, size, compute)),
            Contestant("numpy", lambda: two_liner(kernel, grid), (size / grid) ** 2),
            Contestant("torch", lambda: torch_svd(on_device, torch_grid), (size / torch_grid) ** 2),
        ],
        device=options.device,
        repeats=options.repeats,
        limit=options.limit,
    )
    on_grid = timings["ours"].result if grid == size else our_spectrum(kernel, grid, compute)
    declined = timings["ours"].result is None
    ours, least = times(None if declined else timings["ours"])
    errors = (None, None) if on_grid is None else _errors(on_grid.values, timings["numpy"].result)
    return Row(
        kernel=side,
        size=size,
        channels=channels,
        grid=grid,
        torch_grid=torch_grid,
        ours=ours,
        ours_least=least,
        numpy=timings["numpy"].median,
        numpy_least=timings["numpy"].least,
        torch=timings["torch"].median,
        torch_least=timings["torch"].least,
        error=errors[0],
        small_error=errors[1],
        peak_megabytes=_peak(side, size, channels, options) if with_peak and ours else None,
    )


def _errors(ours: Floats, theirs: Floats) -> tuple[float, float | None]:
    """Compare two spectra value by value; both errors are relative to σ1."""
    sorted_theirs = np.sort(theirs, axis=None)[::-1]
    errors = np.abs(ours - sorted_theirs) / sorted_theirs[0]
    small = sorted_theirs < _SMALL * sorted_theirs[0]
    return float(errors[~small].max()), float(errors[small].max()) if small.any() else None


def _peak(side: int, size: int, channels: int, options: Options) -> float | None:
    """Return the megabytes a fresh process needs for our spectrum, beyond its libraries."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_growth, side, size, channels, options.device).result()


def _growth(side: int, size: int, channels: int, device: str) -> float | None:
    """Measure in the process it is called in; None where the system does not tell."""
    compute = choose(device, full_spectra=True)
    # A tiny case first: libraries, their threads and the device are not what is measured.
    our_spectrum(gaussian(2, side), size, compute)
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    before = _resident("VmRSS", status)
    our_spectrum(gaussian(channels, side), size, compute)
    return (_resident("VmHWM", status) - before) / 1024.0


def _resident(field: str, status: Path) -> float:
    """Return kilobytes. Not from getrusage: its maximum begins with that of the parent."""
    lines = (line.split() for line in status.read_text().splitlines())
    return next(float(words[1]) for words in lines if words[0] == f"{field}:")
