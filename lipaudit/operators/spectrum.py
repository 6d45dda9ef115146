"""Spectrum: singular values, and the ranks that are read off them; Leading: only the largest."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lipaudit.enclosure import Rigor

Floats = npt.NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)
_DENSE = 24
_SPREAD = 52
"""At how many ranks a curve is known: the first ones all, then as many by ratio and by distance."""


def gram_accuracy(terms: int, largest: float) -> float:
    """Return about how far roots of Gram eigenvalues may be off, with sums of so many terms.

    By LAPACK's rule an eigenvalue λ of the Gram matrix is good to terms·eps·λ1, and where
    that is all there is, its root to √(terms·eps)·σ1.
    """
    return math.sqrt(terms * _EPS) * largest


@dataclass(frozen=True, slots=True)
class Leading:
    """Lower bounds of the largest singular values, of an operator too large for all of them."""

    values: tuple[float, ...]
    """Proved: the i-th is at most the i-th largest singular value. Largest first."""
    method: str


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """The singular values of one operator, largest first, each as often as it occurs."""

    values: Floats
    rows: int
    """Outputs of the operator."""
    columns: int
    """Inputs of the operator; min(rows, columns) values make the spectrum complete."""
    rigor: Rigor
    radius: float
    """Every value is within this distance of the truth, if `rigor` is PROVED; else 0."""
    method: str
    of: str = ""
    """Which operator it belongs to when that is not the layer's own: "circular 32x32"."""
    accuracy: float = 0.0
    """About how far a value may be from the truth by rounding, where nothing is proved and the
    method is worse than a decomposition (see `gram_accuracy`)."""

    @property
    def largest(self) -> float:
        """The largest value, 0 for an empty operator."""
        return float(self.values[0]) if self.values.size else 0.0

    @property
    def frobenius(self) -> float:
        """√Σσ²."""
        return self.largest * math.sqrt(float(np.sum(self._ratios**2)))

    @property
    def stable_rank(self) -> float:
        """‖A‖_F² / σ1² (Rudelson & Vershynin 2007); 0 for a zero operator."""
        return float(np.sum(self._ratios**2))

    @property
    def entropy_rank(self) -> float:
        """The exponential of the entropy of σ/Σσ (Roy & Vetterli 2007); 0 for a zero operator."""
        positive = self._ratios[self._ratios > 0]
        if not positive.size:
            return 0.0
        weights = positive / positive.sum()
        return float(np.exp(-np.sum(weights * np.log(weights))))

    @property
    def tolerance(self) -> float:
        """What counts as 0 in the numerical rank.

        That is max(rows, columns)·eps·σ1, as in LAPACK use, and never less than what a value
        may be off by: so a rank that is proved is at most the true one.
        """
        usual = max(self.rows, self.columns) * _EPS * self.largest
        return max(usual, self.radius, self.accuracy)

    @property
    def numerical_rank(self) -> int:
        """How many values exceed `tolerance`."""
        return int(np.count_nonzero(self.values > self.tolerance))

    def count_at_least(self, threshold: float) -> int:
        """Count the values that are at least the threshold."""
        return int(np.count_nonzero(self.values >= threshold))

    def count_ratio_at_least(self, ratio: float) -> int:
        """Count the values that are at least this share of the largest."""
        return int(np.count_nonzero(self._ratios >= ratio))

    def curve(self) -> tuple[tuple[int, float], ...]:
        """Return (rank from 1, value) at no more than 128 ranks, enough to draw the spectrum.

        All of the first 24 ranks, then 52 that are evenly spaced in the logarithm of the rank
        and 52 that are evenly spaced in the rank; the first and the last are always among them.
        """
        last = self.values.size
        if last <= _DENSE + 2 * _SPREAD:
            ranks = np.arange(1, last + 1)
        else:
            by_ratio = np.geomspace(_DENSE + 1, last, _SPREAD)
            by_distance = np.linspace(_DENSE + 1, last, _SPREAD)
            spread = np.concatenate([by_ratio, by_distance]).round().astype(int)
            ranks = np.concatenate([np.arange(1, _DENSE + 1), np.unique(spread)])
        return tuple((int(rank), float(self.values[rank - 1])) for rank in ranks)

    @property
    def _ratios(self) -> Floats:
        # Ratios to the largest value, so that squares neither overflow nor underflow.
        return self.values / self.largest if self.largest > 0 else np.zeros(0)
