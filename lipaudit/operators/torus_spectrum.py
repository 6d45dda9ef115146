"""All singular values of a circular convolution, and how much of that is proved.

Two ways. The **decomposition** of every P(θ) with its singular vectors is proved by its
residual (`certify.svd_radius`). **Gram eigenvalues** take a quarter of the time and prove
nothing: a value is good to about 1e-15·σ1²/σ, so to 1e-11 σ1 where it is above 1e-4 σ1, and to
2e-8 σ1 below. The first is taken when it is quick and when it is asked for.
"""

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch

from lipaudit.device import Compute
from lipaudit.enclosure import Rigor
from lipaudit.operators.base import Shape
from lipaudit.operators.batches import in_batches, one_thread
from lipaudit.operators.certify import check_finite, svd_radius
from lipaudit.operators.factors import decomposed, values_directly, values_from_gram
from lipaudit.operators.grams import choose_grams
from lipaudit.operators.spectrum import Spectrum, gram_accuracy
from lipaudit.operators.symbol import Symbol

Floats = npt.NDArray[np.float64]

OWN_FLOPS = 2e13
"""Work that the layer's own spectrum is worth: minutes, with a progress bar."""
STAND_IN_FLOPS = 3e11
"""Work that the spectrum of a stand-in (another size or padding) is worth: a few seconds."""
_QUICK = 1e8
"""Work up to which every matrix is decomposed and proved unasked: a few hundredths of a second.
A proof needs vectors, and with them a decomposition takes four times as long."""
_VALUES_FLOPS = 12.0
"""Eigenvalues of a complex Hermitian matrix take as long as 12·side³ operations of a matrix
product (measured at 64 to 512: half of LAPACK's reduction runs at the speed of memory)."""
_VECTORS_FLOPS = 70.0
"""A decomposition with vectors and its proof, likewise."""
_OVERHEAD = 2e5


def torus_spectrum(
    symbol: Symbol, sizes: Shape, compute: Compute, *, of: str = "", most: float = OWN_FLOPS
) -> Spectrum | None:
    """Return all singular values on a torus, None when that is too much work or memory."""
    rows, columns = symbol.taps.shape[2:]
    matrices = symbol.groups * half_count(sizes)
    count = symbol.groups * symbol.side * math.prod(sizes)
    size = float(symbol.side) ** 2 * max(rows, columns)
    proving = matrices * (_VECTORS_FLOPS * size + _OVERHEAD)
    quickly = matrices * (_VALUES_FLOPS * size + _OVERHEAD)
    proves = compute.by_svd or proving <= _QUICK
    lifted = compute.by_svd and not of
    if not lifted and (proving if proves else quickly) > most:
        return None
    if 40 * count > compute.max_memory:
        return None
    # Threads of torch's own would spin for a while after each small operation, and take the
    # cores from those that decompose.
    with one_thread():
        check_finite(symbol.taps)
        found = _decomposed(symbol, sizes, compute) if proves else None
        found = found or _values(symbol, sizes, compute)
    if found is None:
        return None
    points = symbol.groups * math.prod(sizes)
    return Spectrum(
        values=found.values,
        rows=points * rows,
        columns=points * columns,
        rigor=Rigor.NUMERICAL if found.radius is None else Rigor.PROVED,
        radius=found.radius or 0.0,
        method=found.method,
        of=of,
        accuracy=found.accuracy,
    )


def half_grid(sizes: Shape) -> tuple[torch.Tensor, int, torch.Tensor]:
    """Return one of each pair ±θ of the grid's frequencies, their period, and 1 or 2 for each."""
    period = math.lcm(*sizes)
    lines = [torch.arange(n) * (period // n) for n in sizes[:-1]]
    last = sizes[-1]
    lines.append(torch.arange(last // 2 + 1) * (period // last))
    frequencies = torch.cartesian_prod(*lines).reshape(-1, len(sizes))
    mirror = -frequencies % period
    # Where the last coordinate is its own mirror, both of a pair are still there.
    kept = torch.ones(len(frequencies), dtype=torch.bool)
    same = torch.ones(len(frequencies), dtype=torch.bool)
    for axis in reversed(range(len(sizes))):
        kept &= ~same | (frequencies[:, axis] <= mirror[:, axis])
        same &= frequencies[:, axis] == mirror[:, axis]
    return frequencies[kept], period, 2 - same[kept].to(torch.int64)


def half_count(sizes: Shape) -> int:
    """Count the frequencies of `half_grid` without making them."""
    alone = math.prod(2 if n % 2 == 0 else 1 for n in sizes)
    return (math.prod(sizes) + alone) // 2


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    values: Floats
    radius: float | None
    method: str
    accuracy: float = 0.0


def _decomposed(symbol: Symbol, sizes: Shape, compute: Compute) -> _Found | None:
    """Decompose P at every frequency; None when LAPACK fails or a radius is infinite."""
    frequencies, period, multiplicity = half_grid(sizes)
    rows, columns = symbol.taps.shape[2:]

    def work(run: slice, device: torch.device) -> tuple[torch.Tensor, float] | None:
        local = Symbol(compute.move(symbol.taps, device), symbol.offsets)
        matrices = local.at(compute.move(frequencies[run], device), period)
        factors = decomposed(matrices)
        if factors is None:
            return None
        radius = svd_radius(matrices, factors.left, factors.values, factors.right)
        return factors.values.cpu(), radius

    parts = in_batches(
        work,
        len(frequencies),
        bytes_each=16 * symbol.groups * 8 * rows * columns,
        flops_each=_VECTORS_FLOPS * symbol.groups * symbol.side**2 * max(rows, columns),
        compute=compute,
    )
    if any(part is None or not math.isfinite(part[1]) for part in parts):
        return None
    known = [part for part in parts if part is not None]
    # The computed P is itself off by `error`, and so is every singular value (Weyl).
    radius = (max(part[1] for part in known) + symbol.error) * (1.0 + 2.0**-50)
    values = _counted([part[0] for part in known], multiplicity)
    return _Found(values, radius, "SVD at every frequency, proved by its residual")


def _values(symbol: Symbol, sizes: Shape, compute: Compute) -> _Found | None:
    """Take Gram eigenvalues at every frequency; where they fail, singular values."""
    frequencies, period, multiplicity = half_grid(sizes)
    # Neighbours in this order share their last coordinate, and with it partial sums.
    order = frequencies[:, -1].argsort(stable=True)
    frequencies, multiplicity = frequencies[order], multiplicity[order]
    grams = choose_grams(symbol, len(frequencies), compute)

    def work(run: slice, device: torch.device) -> torch.Tensor | None:
        values = values_from_gram(grams.on_lines(frequencies[run], period, device))
        if values is None:
            values = values_directly(symbol.at(frequencies[run], period))
        return None if values is None else values.cpu()

    parts = in_batches(
        work,
        len(frequencies),
        bytes_each=symbol.groups * grams.bytes_each,
        flops_each=symbol.groups * (grams.flops_each + _VALUES_FLOPS * symbol.side**3),
        compute=compute,
    )
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    counted = _counted(known, multiplicity)
    terms = len(symbol.offsets) * max(symbol.taps.shape[2:])
    accuracy = gram_accuracy(terms, float(counted[0]))
    return _Found(counted, None, "Gram eigenvalues at every frequency", accuracy)


def _counted(parts: list[torch.Tensor], multiplicity: torch.Tensor) -> Floats:
    """Return all values, largest first, each as often as its frequency stands."""
    values = np.repeat(torch.cat(parts).numpy(), multiplicity.numpy(), axis=0).ravel()
    values.sort()
    return values[::-1].copy()
