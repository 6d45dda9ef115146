"""PackedGram: the lower triangle of a Gram matrix, and the proof by which it gives way.

A Gram matrix of side m, its shifted copy and its Cholesky factor take 24·m² bytes. Here only
the lower triangle is kept, in strips of rows, and the factor is written over it: 4·m² bytes,
1.1 GB for m = 16384, and half the operations. The factorization goes strip by strip,

    L_ij = (M_ij - Σ_{k<j} L_ik L_jkᵀ) L_jj^-T,

each block by a matrix product and a triangular solve. In whatever order and grouping the terms
of each entry are added up, the error bound is the textbook's (Higham 2002, lemma 8.4 and
theorem 10.3), so that the constants of `certify` hold.
"""

import math
from collections.abc import Iterator
from typing import final

import torch

from lipaudit.device import CPU, Move
from lipaudit.operators.certify import cholesky_constant, provable_shift

_HEIGHT = 512
"""Rows of a strip: enough for matrix products to run at full speed."""
_STRIPS = 16
"""Strips of a smaller matrix: what lies above the diagonal in them is a sixteenth."""
_FLOAT64 = 8


@final
class PackedGram:
    """AᵀA in float64, for a tall matrix A that is added run by run of its rows."""

    def __init__(self, side: int, device: torch.device) -> None:
        self._strips = [
            torch.zeros(last - first, last, dtype=torch.float64, device=device)
            for first, last in _spans(side)
        ]
        self._side = side

    def add(self, rows: torch.Tensor) -> None:
        """Add what these rows of A contribute."""
        for strip in self._strips:
            first, last = _span(strip)
            strip.addmm_(rows[:, first:last].mT, rows[:, :last])

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Return AᵀA x."""
        made = torch.zeros_like(x)
        for strip in self._strips:
            first, last = _span(strip)
            made[first:last] += strip @ x[:last]
            made[:first] += strip[:, :first].mT @ x[first:last]
        return made

    def proves_below(self, error: float, bound: float, move: Move) -> bool:
        """Tell whether √λ_max <= bound is proved, for all that lies within `error` of it.

        `certify.proves_below` without its copies: afterwards the matrix is no more. It is done
        on the CPU, where factorizations are known to be the textbook's.
        """
        strips, self._strips = [move(strip, CPU) for strip in self._strips], []
        constant = cholesky_constant(self._side, is_complex=False)
        shift, _ = provable_shift(bound * bound, error, self._side * constant)
        if not 0 < shift < math.inf:
            return False
        for strip in strips:
            strip.neg_()
            strip[:, strip.shape[1] - len(strip) :].diagonal().add_(shift)
        return _factorized(strips)


def strips_bytes(side: int) -> int:
    """Return how many bytes the strips take."""
    return _FLOAT64 * sum((last - first) * last for first, last in _spans(side))


def strip_height(side: int) -> int:
    """Return the rows of a strip."""
    return max(1, min(_HEIGHT, -(-side // _STRIPS)))


def _spans(side: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the last but one of every strip."""
    height = strip_height(side)
    return ((first, min(first + height, side)) for first in range(0, side, height))


def _span(strip: torch.Tensor) -> tuple[int, int]:
    height, last = strip.shape
    return last - height, last


def _factorized(strips: list[torch.Tensor]) -> bool:
    """Write the Cholesky factor over the strips; False where there is none."""
    for at, strip in enumerate(strips):
        first, last = _span(strip)
        for above in strips[:at]:
            left, right = _span(above)
            block = strip[:, left:right]
            block.addmm_(strip[:, :left], above[:, :left].mT, alpha=-1.0)
            upper = above[:, left:right].mT
            block.copy_(torch.linalg.solve_triangular(upper, block, upper=True, left=False))
        corner = strip[:, first:last]
        corner.addmm_(strip[:, :first], strip[:, :first].mT, alpha=-1.0)
        factor, info = torch.linalg.cholesky_ex(corner)
        if int(info) != 0 or not bool(torch.isfinite(factor.diagonal()).all()):
            return False
        corner.copy_(factor)
    return True
