"""Convolutions on a torus: the circular operator at one size, block diagonal in frequency.

The singular values are those of P at the frequencies of the grid (Sedghi, Gupta & Long 2019,
theorem 6). P(-θ) is the conjugate of P(θ) for real kernels, so half of the frequencies do.
"""

import math

import torch

from lipaudit.device import Compute
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.operators.ascent import Peak, peak_at
from lipaudit.operators.base import Shape
from lipaudit.operators.batches import one_thread
from lipaudit.operators.cells import Grid, GridBlocks
from lipaudit.operators.geometry import ConvGeometry
from lipaudit.operators.search import Search, crude_bound
from lipaudit.operators.size_free import Supremum, supremum
from lipaudit.operators.spectrum import Spectrum
from lipaudit.operators.strided import polyphase
from lipaudit.operators.support import completed
from lipaudit.operators.symbol import Symbol
from lipaudit.operators.torus_spectrum import OWN_FLOPS, STAND_IN_FLOPS, torus_spectrum

EVERY_POINT = 200
"""On a grid of at most so many frequencies every one is tested, without a supremum first."""


def torus_norm(
    symbol: Symbol,
    grid: Grid,
    compute: Compute,
    best: Supremum | None = None,
    near: Peak | None = None,
) -> Supremum:
    """Enclose the norm on a torus, proved.

    `best` is the supremum over all frequencies where it is known already, of this symbol or of
    one with the same supremum; parts of the grid that stay well below it need no proof of
    their own. `near` is where to look first.
    """
    every_point = has_few_points(grid)
    if best is None and not every_point:
        best = supremum(symbol, compute)
    if best is None:
        above, start = crude_bound(symbol), _peak_near(symbol, grid, near)
    else:
        above, start = best.enclosure.upper, _peak_near(symbol, grid, near or best.peak)
    first = math.prod(grid.half) if every_point else EVERY_POINT // 4
    cells = GridBlocks.covering(grid, symbol.radii, symbol.groups, above, first)
    with one_thread():
        search = Search(symbol, compute, start, expected=len(cells))
        if bool(symbol.taps.any()):
            search.run(cells)
    upper = max(min(search.upper, above), search.peak.value)
    return Supremum(Enclosure.of(search.peak.value, upper, Rigor.PROVED), search.peak)


def spectrum(
    kernel: torch.Tensor,
    geometry: ConvGeometry,
    points: Shape,
    compute: Compute,
    *,
    own: bool = False,
) -> Spectrum | None:
    """Return the spectrum on a torus of so many points; None when that is too much work.

    It is the operator's `own`, or stands for it and says so.
    """
    sizes = tuple(n // s for n, s in zip(points, geometry.stride, strict=True))
    with one_thread():
        symbol = polyphase(kernel, geometry)
    of, most = (
        ("", OWN_FLOPS) if own else (f"circular {'x'.join(map(str, points))}", STAND_IN_FLOPS)
    )
    found = torus_spectrum(symbol, sizes, compute, of=of, most=most)
    if found is None:
        return None
    # Phases that no tap acts on are no part of the symbol: zeros.
    rows = kernel.shape[0] * math.prod(sizes)
    columns = kernel.shape[1] * geometry.groups * math.prod(points)
    return completed(found, *((columns, rows) if geometry.transposed else (rows, columns)), compute)


def has_few_points(grid: Grid) -> bool:
    """Tell whether testing every frequency is less work than knowing the supremum."""
    return math.prod(grid.half) <= EVERY_POINT


def attained_near(symbol: Symbol, grid: Grid, peak: Peak) -> float:
    """Return a proved lower bound of the torus norm from the grid point next to a peak."""
    return _peak_near(symbol, grid, peak).value


def _peak_near(symbol: Symbol, grid: Grid, peak: Peak | None) -> Peak:
    if peak is None:
        turns, group = torch.zeros(len(grid.sizes), dtype=torch.float64), 0
    else:
        turns, group = peak.turns, peak.group
    return peak_at(symbol, grid.nearest(turns), grid.period, group)
