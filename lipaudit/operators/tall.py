"""TallMatrix: a matrix that is only ever seen as runs of its rows, and the proof of its norm.

No more of it need be in float64 at a time than one run. Inner products over its rows are summed
in another order then, which has the same error bound (Higham 2002, section 3.1).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch

from lipaudit.device import Compute, Move
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.operators import krylov
from lipaudit.operators.base import Norm
from lipaudit.operators.certify import (
    ROOM,
    UNDERFLOW,
    attained,
    frobenius_above,
    gamma,
    product_constant,
    rounding_share,
)
from lipaudit.operators.packed import PackedGram, strip_height, strips_bytes

_LARGEST_RUN = 1 << 27
"""Bytes of one run in float64: more gains nothing."""
_COPIES = 3
"""Of a run: as it is converted, as it is scaled, as it is multiplied."""
_STEPS = 100
"""Of the Krylov method on G = AᵀA, two products each. After k of them ‖G x‖/‖x‖ is below λ_max by
a share above ε with a probability of at most 1.648·√m·exp(-√(2ε)(2k - 1)), whatever the spectrum
(Kuczyński & Woźniakowski, SIAM J. Matrix Anal. Appl. 13, 1992): 7e-4 for m = 16384, ε = 2e-3."""
_LEAST_STEPS = 32
"""Of these, as many as there must be memory for at once."""
_CRUDE_STEPS = 20
"""Of the Krylov method on A itself, which is read twice in each."""
_GAPS = (2e-3, 0.2)
"""Relative gaps between λ_max and the Krylov value that are allowed for, one try after the other:
each takes a Gram matrix. A value that has converged is taken at its residual."""
_VECTOR = 4 * 8
"""Bytes of one number of a Krylov vector, with its copies (see `krylov`)."""
_LENIENCE = 4.0
"""How many of its own rounding allowances a bound is raised by."""


@final
@dataclass(frozen=True, slots=True)
class TallMatrix:
    """A real, finite matrix (rows >= columns > 0) of moderate size (see `scaling`)."""

    rows: int
    columns: int
    runs: Callable[[int], Iterator[torch.Tensor]]
    """Yields so many rows at a time, in float64, where the work is to be done."""
    device: torch.device

    def norm(self, compute: Compute) -> Norm:
        """Enclose the norm: by a Cholesky proof, or else by sums, with a warning."""
        enough = room(self.columns)
        if enough > compute.max_memory:
            compute.warn(
                f"the norm of a {self.rows} x {self.columns} matrix (or its transpose) is only "
                f"bounded by sums of its entries: --max-memory {enough} proves it"
            )
            return self._by_sums(compute, "no memory for a Cholesky proof")
        found = self._proved(compute.max_memory, compute.move)
        return found or self._by_sums(compute, "every Cholesky proof failed")

    def _proved(self, memory: int, move: Move) -> Norm | None:
        """Prove the norm by the factorization of the Gram matrix; None where no try succeeds."""
        gram, size = self._gram(memory)
        constant = product_constant(self.rows, is_complex=False)
        # |Ĝ - G| <= c|A|ᵀ|A| entry by entry, and ‖ |A|ᵀ|A| ‖ <= ‖A‖_F².
        error = size * size * constant * ROOM + UNDERFLOW
        vector = krylov.top_vector(
            gram.apply,
            gram.apply,
            krylov.scrambled((self.columns,), self.device),
            steps=min(_STEPS, self.columns),
            max_memory=memory - strips_bytes(self.columns),
        )
        image = gram.apply(vector)
        value = float(torch.linalg.vector_norm(image))
        residual = float(torch.linalg.vector_norm(image - value * vector))
        lower = self._attained(vector, memory)
        for gap in _GAPS:
            candidate = math.sqrt(max(value + min(residual, gap * value), lower * lower))
            residual = math.inf
            if not 0 < candidate < math.inf:
                return None
            share = rounding_share(self.columns, is_complex=False) + error / candidate**2
            upper = candidate * (1.0 + min(_LENIENCE * share, 0.5))
            if gram.proves_below(error, upper, move):
                enclosure = Enclosure.of(lower, max(upper, lower), Rigor.PROVED)
                return Norm(enclosure, "Cholesky proof, piece by piece")
            if gap != _GAPS[-1]:
                gram, _ = self._gram(memory)
        return None

    def _gram(self, memory: int) -> tuple[PackedGram, float]:
        """Return the Gram matrix and at least ‖A‖_F."""
        gram, sizes = PackedGram(self.columns, self.device), []
        for run in self.runs(self._run_rows(memory)):
            gram.add(run)
            sizes.append(float(frobenius_above(run)))
        return gram, _joined(sizes)

    def _run_rows(self, memory: int) -> int:
        """Return how many rows a run has beside the Gram matrix and its Krylov vectors."""
        left = memory - strips_bytes(self.columns) - _vectors(self.columns)
        return max(1, min(_LARGEST_RUN, left // _COPIES) // (8 * self.columns))

    def _attained(self, vector: torch.Tensor, memory: int) -> float:
        """Return at most ‖A x‖/‖x‖, and close to it."""
        parts = [attained(run, vector) for run in self.runs(self._run_rows(memory))]
        return math.hypot(*parts) * (1.0 - gamma(len(parts) + 8))

    def _by_sums(self, compute: Compute, why: str) -> Norm:
        """Enclose the norm by what takes no Gram matrix."""
        memory = compute.max_memory
        rows = max(1, min(_LARGEST_RUN, memory // 8) // (8 * self.columns))
        sizes, widest, longest = [], 0.0, 0.0
        heights = torch.zeros(self.columns, dtype=torch.float64, device=self.device)
        for run in self.runs(rows):
            sizes.append(float(frobenius_above(run)))
            longest = max(longest, float(torch.linalg.vector_norm(run, dim=1).max()))
            run = run.abs()  # noqa: PLW2901 - the run itself need not stay in memory
            widest = max(widest, float(run.sum(1).max()))
            heights += run.sum(0)
        # ‖A‖ <= √(‖A‖₁‖A‖∞) and <= ‖A‖_F (Golub & Van Loan 2.3); sums of n terms are off by γ_n.
        room = (1.0 + gamma(self.rows + self.columns + 16)) * ROOM
        upper = min(math.sqrt(float(heights.max()) * widest) * room + UNDERFLOW, _joined(sizes))
        # The norm is at least that of the longest row.
        least = max(longest * (1.0 - gamma(2 * self.columns + 8)) - UNDERFLOW, 0.0)
        vector = krylov.top_vector(
            lambda x: torch.cat([run @ x for run in self.runs(rows)]),
            lambda y: _turned(self.runs(rows), y),
            krylov.scrambled((self.columns,), self.device),
            steps=min(_CRUDE_STEPS, self.columns),
            max_memory=memory // 4,
        )
        parts = [attained(run, vector) for run in self.runs(rows)]
        lower = max(least, math.hypot(*parts) * (1.0 - gamma(len(parts) + 8)))
        enclosure = Enclosure.of(lower, max(upper, lower), Rigor.PROVED)
        return Norm(enclosure, f"√(‖A‖₁‖A‖∞) or ‖A‖_F ({why})")


def room(columns: int) -> int:
    """Return with how many bytes the norm of a matrix of so many columns is proved."""
    run = _COPIES * 8 * columns * strip_height(columns)
    return strips_bytes(columns) + _vectors(columns) + run


def _vectors(columns: int) -> int:
    return _VECTOR * columns * min(columns, _LEAST_STEPS)


def _joined(sizes: list[float]) -> float:
    """Return at least the length of a vector with parts that are at most so long."""
    return math.hypot(*sizes) * (1.0 + gamma(len(sizes) + 8)) * ROOM + UNDERFLOW


def _turned(runs: Iterator[torch.Tensor], y: torch.Tensor) -> torch.Tensor:
    """Return Aᵀ y."""
    first, made = 0, torch.zeros(0)
    for run in runs:
        share = y[first : first + len(run)] @ run
        made = made + share if first else share
        first += len(run)
    return made
