"""The supremum of a symbol over all frequencies: the norm for every input size at once.

A convolution with zero padding on a finite grid is a compression of the one on the infinite
grid, whose norm is sup_θ ‖P(θ)‖; no size is needed.
"""

from dataclasses import dataclass
from typing import final

import torch

from lipaudit.device import Compute
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.operators.ascent import Peak, climb
from lipaudit.operators.batches import one_thread
from lipaudit.operators.cells import TURN, Diamonds
from lipaudit.operators.search import TOLERANCE, Search, crude_bound, fits
from lipaudit.operators.symbol import Symbol

_FIRST_ANGLE = 1.1
"""Cells are no larger than this (radians; below π/2 with room for cos to be useful)."""
_FREE_FLOPS = 1e6
"""Work that costs no more than the overhead of one level: cells may start that much smaller."""
_FIRST_FLOPS = 1e12
"""Beyond this work for the first cells alone there is no search (very large kernels)."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Supremum:
    """The largest norm of a symbol over a set of frequencies, and where it is nearly attained."""

    enclosure: Enclosure
    peak: Peak


def supremum(symbol: Symbol, compute: Compute) -> Supremum:
    """Enclose sup_θ ‖P(θ)‖ within `search.TOLERANCE` if the work allows, proved in any case.

    The taps must be of moderate size (`scaling`).
    """
    origin = torch.zeros(len(symbol.radii), dtype=torch.int64)
    any_vector = torch.zeros(symbol.taps.shape[3], dtype=torch.complex128)
    any_vector[:1] = 1.0
    lowest = Peak(0.0, origin, TURN, 0, any_vector)
    if not bool(symbol.taps.any()):
        return Supremum(Enclosure.exactly(0), lowest)
    each = 16.0 * symbol.side**3 / 3.0 + 100.0 * symbol.side**2
    with one_thread():
        count = Diamonds.expected(symbol.radii, symbol.groups, _FIRST_ANGLE)
        if count * each > _FIRST_FLOPS or not fits(count, compute):
            group = int(torch.linalg.vector_norm(symbol.taps.sum(0), dim=(-2, -1)).argmax())
            return _between(climb(symbol, origin, group), crude_bound(symbol))
        cells, angle = Diamonds.covering(symbol.radii, symbol.groups, _FIRST_ANGLE), _FIRST_ANGLE
        while cells.can_split and 4 * len(cells) * each <= _FREE_FLOPS:
            angle /= 2.0
            cells = Diamonds.covering(symbol.radii, symbol.groups, angle)
        search = Search(symbol, compute, lowest, expected=100 + 2 * len(cells))
        search.run(cells)
    upper = search.upper
    if upper > search.peak.value * (1.0 + TOLERANCE):
        upper = min(upper, crude_bound(symbol))
    return _between(search.peak, upper)


def _between(peak: Peak, upper: float) -> Supremum:
    return Supremum(Enclosure.of(peak.value, max(upper, peak.value), Rigor.PROVED), peak)
