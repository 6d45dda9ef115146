"""Axis maps: linear maps that act along one axis, each result on a few items.

Pooling by averages, resizing and padding are tensor products of such maps; the norm of a
tensor product is the product of the norms.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lipaudit.enclosure import Enclosure, Rigor, product
from lipaudit.operators.certify import ROOM, UNDERFLOW, UNIT, gamma, proved_norm

_DENSE_SIDE = 384
"""Up to this size a map is measured as a matrix, at the cost of one Cholesky factorization."""
_SWEEPS = 40
"""Steps of the power method for the trial vector of larger maps."""
_LEAST_TRIAL = 1e-6
"""Keeps the trial vector positive where the map has no tap at all."""


MOST_TAPS = 1 << 22
"""Maps with more taps are not built: a file may ask for any number of them."""


class TooManyTaps(RuntimeError):
    """Raised where a map would not fit in memory."""

    def __init__(self, taps: int) -> None:
        super().__init__(f"out of memory for an interpolation or pooling map of {taps:,} taps")


def check_taps(results: int, taps: int) -> None:
    """Raise `TooManyTaps` before a map of so many results, with so many taps each, is built."""
    if results * taps > MOST_TAPS:
        raise TooManyTaps(results * taps)


@dataclass(frozen=True, slots=True, eq=False)
class AxisMap:
    """y_i = Σ_k weight_ik·x_index_ik on an axis of `size` items."""

    index: torch.Tensor
    """int64, (results, taps)."""
    weight: torch.Tensor
    """float64, (results, taps); 0 where a result has fewer taps."""
    size: int
    entry_error: float = 0.0
    """Largest absolute error of a weight; 0 when the weights are exact."""

    def along(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        """Apply the map along one axis, counted from the front."""
        if x.shape[axis] != self.size:
            raise ValueError(f"axis {axis} has {x.shape[axis]} items, not {self.size}")
        weight = self.weight.to(device=x.device, dtype=x.dtype)
        behind = (1,) * (x.dim() - axis - 1)
        taken = x.index_select(axis, self.index.flatten().to(x.device))
        taps = taken.reshape(*x.shape[:axis], *weight.shape, *x.shape[axis + 1 :])
        return (taps * weight.reshape(*weight.shape, *behind)).sum(axis + 1)

    def most_copies(self) -> int:
        """Return how many results use the item that most of them use."""
        used = self.index[self.weight != 0]
        return int(torch.bincount(used).max()) if used.numel() else 0

    def norm(self) -> Enclosure:
        """Enclose the largest singular value, proved."""
        if max(self.size, *self.index.shape) <= _DENSE_SIDE:
            found = self._from_matrix()
        else:
            found = self._from_trial_vector()
        # ‖E‖ <= ‖E‖_F; at worst all k taps of a result meet in one entry, k times as wrong.
        error = self.entry_error * math.sqrt(self.weight.numel() * self.index.shape[1]) * ROOM
        return found.widened(Enclosure.exactly(error))

    def _from_matrix(self) -> Enclosure:
        matrix = torch.zeros(self.index.shape[0], self.size, dtype=torch.float64)
        matrix.scatter_add_(1, self.index, self.weight)
        # Taps of one result on one item are added up, off by at most γ times their moduli.
        doubt = gamma(self.index.shape[1]) * float(self.weight.abs().sum()) * ROOM
        return proved_norm(matrix, doubt if self._repeats() else 0.0)

    def _repeats(self) -> bool:
        ordered = self.index.sort(dim=1).values
        return bool((ordered[:, 1:] == ordered[:, :-1]).any())

    def _from_trial_vector(self) -> Enclosure:
        """Bound the norm by a positive trial vector v, without forming a matrix.

        For M = |A|ᵀ|A| and every v > 0, ‖A‖² <= λ_max(M) <= max_i (Mv)_i/v_i (Collatz 1942;
        Horn & Johnson, "Matrix Analysis", 8.1.26): tight for weights of one sign.
        """
        if not self.weight.numel():
            return Enclosure.exactly(0)
        moduli = self.weight.abs()
        trial = torch.ones(self.size, dtype=torch.float64)
        best = math.inf
        for _ in range(_SWEEPS):
            image = self._normal(moduli, trial)
            best = min(best, float((image / trial).max()))
            trial = (image / image.max()).nan_to_num().clamp(min=_LEAST_TRIAL)
        # Two sums of non-negative terms and a quotient: nothing cancels, the error is relative.
        terms = self.index.shape[1] + int(torch.bincount(self.index.flatten()).max()) + 8
        upper = best * (1.0 + 2.0 * gamma(terms)) * ROOM + UNDERFLOW
        return Enclosure.at_most(upper, Rigor.PROVED).sqrt()

    def _normal(self, moduli: torch.Tensor, trial: torch.Tensor) -> torch.Tensor:
        """Return |A|ᵀ|A| v."""
        image = (moduli * trial[self.index]).sum(1, keepdim=True)
        made = torch.zeros(self.size, dtype=torch.float64)
        return made.scatter_add_(0, self.index.flatten(), (moduli * image).flatten())


def selecting(index: Sequence[int], size: int) -> AxisMap:
    """Return the map that copies one item to each place."""
    places = torch.tensor(index, dtype=torch.int64).reshape(-1, 1)
    return AxisMap(places, torch.ones(places.shape, dtype=torch.float64), size)


def means(sums: AxisMap, divisors: torch.Tensor) -> AxisMap:
    """Return the map that divides each sum by its own whole number."""
    if bool((divisors == 0).any()):
        raise ValueError("a window lies in the padding alone")
    return replace(sums, weight=sums.weight / divisors[:, None], entry_error=UNIT)


def along(x: torch.Tensor, maps: Sequence[AxisMap], first: int) -> torch.Tensor:
    """Apply one map along each axis from `first` on."""
    for axis, one in enumerate(maps, start=first):
        x = one.along(x, axis)
    return x


def norm_of(maps: Sequence[AxisMap]) -> Enclosure:
    """Enclose the norm of the tensor product."""
    return product(one.norm() for one in maps)


def copies_of(maps: Sequence[AxisMap]) -> int:
    """Return in how many results of the tensor product one item is at most."""
    return math.prod(one.most_copies() for one in maps)
