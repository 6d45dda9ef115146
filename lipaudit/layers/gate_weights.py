"""Gate weights: the norms of the matrices of one direction, alone and with others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lipaudit.device import CPU, Compute
from lipaudit.enclosure import ZERO, Enclosure, Rigor, root_sum_of_squares, total
from lipaudit.operators.certify import UNDERFLOW, UNIT, frobenius_above
from lipaudit.operators.dense import DenseOperator


def norm_of(matrix: torch.Tensor, entry_error: float) -> Enclosure:
    """Enclose the norm of a matrix whose entries have at most that relative error."""
    if not bool(torch.isfinite(matrix).all()):
        return Enclosure.unknown()
    found = DenseOperator(matrix, Compute(CPU, full_spectra=False)).norm().enclosure
    if entry_error == 0:
        return found
    if math.isinf(entry_error):
        return Enclosure(found.lo, found.hi, min(found.rigor, Rigor.NUMERICAL))
    # ‖E‖ <= ‖E‖_F <= ε‖A‖_F; the factor 2 covers that A is the computed matrix, for ε <= 1/2.
    frobenius = Enclosure.exactly(float(frobenius_above(matrix)))
    return found.widened(frobenius.times(Enclosure.exactly(2 * entry_error)))


@dataclass(frozen=True, slots=True)
class Stack:
    """Matrices W_k of the same shape, whose results are added after a scaling entry by entry."""

    norms: tuple[Enclosure, ...]
    scales: tuple[Enclosure, ...]
    """s_k, about 1/‖W_k‖."""
    together: Enclosure
    """‖[s_1 W_1; s_2 W_2; ...]‖."""

    @classmethod
    def of(cls, matrices: Sequence[torch.Tensor], entry_error: float) -> "Stack":
        """Measure matrices whose entries have at most that relative error."""
        norms = tuple(norm_of(matrix, entry_error) for matrix in matrices)
        scales = tuple(_reciprocal(norm) for norm in norms)
        scaled = torch.cat([m * scale for m, scale in zip(matrices, scales, strict=True)])
        # Each entry is rounded once more, and may underflow.
        together = norm_of(scaled, entry_error + UNIT)
        underflow = Enclosure.at_most(UNDERFLOW)
        return cls(norms, tuple(map(Enclosure.exactly, scales)), together.widened(underflow))

    def weighted(self, weights: Sequence[Enclosure]) -> Enclosure:
        """Bound ‖Σ D_k W_k‖ over all diagonal matrices D_k with entries up to weights[k].

        By the triangle inequality Σ w_k‖W_k‖; and by Cauchy's in every row,
        |Σ d_k y_k| <= √Σ (w_k/s_k)² √Σ (s_k y_k)². The less of the two.
        """
        present = [
            ZERO if norm.is_zero else weight
            for weight, norm in zip(weights, self.norms, strict=True)
        ]
        apart = total(w.times(norm) for w, norm in zip(present, self.norms, strict=True))
        ratios = [w.over(scale) for w, scale in zip(present, self.scales, strict=True)]
        joint = self.together.times(root_sum_of_squares(ratios))
        return least(apart, joint)


def least(first: Enclosure, second: Enclosure) -> Enclosure:
    """Return the smaller of two upper bounds of the same quantity."""
    return (first if first.hi <= second.hi else second).without_lower()


def _reciprocal(norm: Enclosure) -> float:
    upper = norm.upper
    scale = 1 / upper if upper > 0 else 1.0
    return scale if 0 < scale < math.inf else 1.0
