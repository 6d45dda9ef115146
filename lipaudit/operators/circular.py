"""Convolutions on a torus: the circular operator at one size, block diagonal in frequency.

The singular values are those of P at the frequencies of the grid (Sedghi, Gupta & Long 2019,
theorem 6). P(-θ) is the conjugate of P(θ) for real kernels, so half of the frequencies do.
"""

import math

import numpy as np
import torch

from lipaudit.device import Compute
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.operators.base import Shape
from lipaudit.operators.certify import ROOM, attained, check_finite, proves_below
from lipaudit.operators.size_free import (
    CHUNK,
    TURN,
    Supremum,
    estimated_norms,
    leading_vector,
    runs,
)
from lipaudit.operators.spectrum import Spectrum
from lipaudit.operators.symbol import Symbol

NORM_FLOPS = 2e10
"""Work that the proof of one torus norm is worth; beyond it the size-free norm stands in."""
SPECTRUM_FLOPS = 1e11
"""Work that the spectrum of one torus is worth: a few seconds on two cores."""
_EIGENVALUE_FLOPS = 60.0
"""All eigenvalues of a complex Hermitian matrix take about 60·side³ (measured at 64 to 512)."""
_OVERHEAD = 2e5
_GRAM_IS_ENOUGH = 1e-3
"""Above this share of σ1 a singular value from Gram eigenvalues is good to about 1e-12 σ1: its
square is wrong by some ten u σ1², and dividing by 2σ makes 5000 u of that. A matrix with smaller
ones is decomposed itself."""
_RAISES = (1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5)


def grid(sizes: Shape) -> tuple[torch.Tensor, int, torch.Tensor]:
    """Return half of the grid's frequencies, their period, and how often each stands."""
    period = math.lcm(*sizes)
    lines = [torch.arange(n) * (period // n) for n in sizes[:-1]]
    last = sizes[-1]
    lines.append(torch.arange(last // 2 + 1) * (period // last))
    frequencies = torch.cartesian_prod(*lines).reshape(-1, len(sizes))
    mirrored = (frequencies[:, -1] != 0) & (2 * frequencies[:, -1] != period)
    return frequencies, period, 1 + mirrored.to(torch.int64)


def frequencies_of(sizes: Shape) -> int:
    """Count the frequencies of `grid` without making them."""
    return math.prod(sizes[:-1]) * (sizes[-1] // 2 + 1)


def norm_flops(symbol: Symbol, sizes: Shape) -> float:
    """Return about the work of `torus_norm`."""
    side, offsets = symbol.side, 2 * len(symbol.offsets)
    each = 4.0 * offsets * side**2 + 12.0 * side**3 + _OVERHEAD
    return symbol.groups * frequencies_of(sizes) * each


def spectrum_flops(symbol: Symbol, sizes: Shape) -> float:
    """Return about the work of `torus_spectrum`."""
    rows, columns = symbol.taps.shape[2:]
    each = _EIGENVALUE_FLOPS * symbol.side**3 + 8.0 * rows * columns * symbol.side + _OVERHEAD
    return symbol.groups * frequencies_of(sizes) * each


def torus_norm(symbol: Symbol, sizes: Shape, compute: Compute) -> Enclosure:
    """Enclose the norm on a torus of so many points an axis, proved."""
    if not bool(symbol.taps.any()):
        return Enclosure.exactly(0)
    frequencies, period, _ = grid(sizes)
    groups = torch.arange(symbol.groups).repeat_interleave(len(frequencies))
    points = frequencies.repeat(symbol.groups, 1)
    each = 16 * symbol.side**2 * 6 + (32 * symbol.side**2 * len(symbol.gram.offsets))
    size = max(1, min(compute.max_memory, CHUNK) // each)
    estimates = torch.cat(
        [
            estimated_norms(symbol.gram.at(points[run], period, groups[run]))
            for run in runs(len(points), size)
        ]
    )
    winner = int(estimates.argmax())
    lower = attained_at(symbol, points[winner], period, int(groups[winner]))
    upper = lower
    left = torch.arange(len(points))
    for raise_by in _RAISES:
        upper = max(upper, float(estimates.max()) * (1.0 + raise_by))
        proved = torch.cat(
            [
                proves_below(
                    symbol.gram.at(points[run], period, groups[run]), symbol.gram.error, upper
                )
                for run in (left[piece] for piece in runs(len(left), size))
            ]
        )
        left = left[~proved]
        if not len(left):
            return Enclosure.of(lower, upper, Rigor.PROVED)
    # ‖P(θ)‖ <= ‖Σ|K_t|‖_F always.
    return Enclosure.of(lower, max(symbol.magnitude, lower), Rigor.PROVED)


def attained_at(symbol: Symbol, frequency: torch.Tensor, period: int, group: int) -> float:
    """Return a proved lower bound of ‖P‖ at one frequency, close to it."""
    picked = torch.tensor([group])
    matrix = symbol.at(frequency[None], period, picked)[0]
    vector = leading_vector(symbol.gram.at(frequency[None], period, picked)[0])
    right = vector if matrix.shape[0] > matrix.shape[1] else matrix.mH @ vector
    return max(0.0, attained(matrix, right) - symbol.error * ROOM)


def attained_near(symbol: Symbol, sizes: Shape, best: Supremum) -> float:
    """Return a proved lower bound of the torus norm from the grid point next to the supremum."""
    period = math.lcm(*sizes)
    turns = best.frequency.to(torch.float64) / TURN
    points = [
        round(float(turn) * n) % n * (period // n) for turn, n in zip(turns, sizes, strict=True)
    ]
    return attained_at(symbol, torch.tensor(points), period, best.group)


def torus_spectrum(symbol: Symbol, sizes: Shape, compute: Compute, of: str) -> Spectrum | None:
    """Return all singular values on a torus, None when that is too much work or memory."""
    count = symbol.groups * symbol.side * math.prod(sizes)
    if spectrum_flops(symbol, sizes) > SPECTRUM_FLOPS or 32 * count > compute.max_memory:
        return None
    check_finite(symbol.taps)
    rows, columns = symbol.taps.shape[2:]
    local = Symbol(symbol.taps.to(compute.device), symbol.offsets)
    frequencies, period, multiplicity = grid(sizes)
    each = 16 * symbol.groups * (6 * rows * columns + 4 * symbol.side**2) + 32 * len(symbol.offsets)
    values = []
    for run in runs(len(frequencies), max(1, compute.max_memory // 4 // each)):
        matrices = local.at(frequencies[run].to(compute.device), period)
        found = singular_values(matrices).cpu()
        values.append(found.repeat_interleave(multiplicity[run], dim=0).flatten())
    points = symbol.groups * math.prod(sizes)
    return Spectrum(
        values=np.sort(torch.cat(values).numpy())[::-1].copy(),
        rows=points * rows,
        columns=points * columns,
        rigor=Rigor.NUMERICAL,
        radius=0.0,
        method="SVD at every frequency",
        of=of,
    )


def singular_values(matrices: torch.Tensor) -> torch.Tensor:
    """Return the singular values of each matrix, by Gram eigenvalues where they are good enough."""
    rows, columns = matrices.shape[-2:]
    wide = matrices if rows <= columns else matrices.mH
    flat = wide.reshape(-1, *wide.shape[-2:])
    values: torch.Tensor = torch.linalg.eigvalsh(flat @ flat.mH).clamp(min=0).sqrt()
    largest = values.max() if values.numel() else values.new_zeros(())
    small = (
        values[:, 0] < _GRAM_IS_ENOUGH * largest if values.shape[-1] else values.new_zeros(0) > 0
    )
    if bool(small.any()):
        values[small] = torch.linalg.svdvals(flat[small]).flip(-1)
    return values.reshape(*matrices.shape[:-2], -1)
