"""StreamedOperator: a dense matrix that is too large to be turned into float64 as a whole.

Its entries stay as they are stored, two bytes each in bfloat16, and are converted piece by piece.
The Gram matrix of the smaller side is the sum over the pieces, and an inner product summed in
any order has the same error bound (Higham 2002, section 3.1), so that the proof is that of
`DenseOperator`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch

from lipaudit.device import Compute
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.operators import krylov
from lipaudit.operators.base import AbstractLinearOperator, Norm, Shape
from lipaudit.operators.certify import (
    ROOM,
    UNDERFLOW,
    attained,
    check_finite,
    frobenius_above,
    gamma,
    product_constant,
    raised_until_proved,
)
from lipaudit.operators.scaling import exponent_of, in_double, rescaled, scaled

_PIECE = 1 << 27
"""Bytes of one piece in float64."""
_STEPS = 60


@final
@dataclass(frozen=True, eq=False)
class StreamedOperator(AbstractLinearOperator):
    """x -> A x for one real matrix in the type in which it is stored; only its norm is measured."""

    stored: torch.Tensor
    """(rows, columns), floating point."""
    compute: Compute

    @property
    def in_shape(self) -> Shape:
        """See `AbstractLinearOperator.in_shape`."""
        return (self.stored.shape[1],)

    @property
    def out_shape(self) -> Shape:
        """See `AbstractLinearOperator.out_shape`."""
        return (self.stored.shape[0],)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """See `AbstractLinearOperator.apply`."""
        return torch.cat([x @ in_double(part).mT for part in self._split(self.stored)], dim=-1)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """See `AbstractLinearOperator.adjoint`."""
        parts = self._split(self.stored)
        shares = torch.split(y, [len(part) for part in parts], dim=-1)
        return sum(
            (share @ in_double(part) for share, part in zip(shares, parts, strict=True)),
            start=torch.zeros(*y.shape[:-1], self.stored.shape[1], dtype=y.dtype),
        )

    def norm(self) -> Norm:
        """See `AbstractLinearOperator.norm`."""
        return self._norm

    def spectrum(self) -> None:
        """Return nothing: decomposing it takes it whole."""

    def leading(self) -> None:
        """Return nothing, likewise."""

    def frobenius(self) -> float:
        """See `AbstractLinearOperator.frobenius`."""
        parts = [float(torch.linalg.vector_norm(part)) for part in self._pieces()]
        return math.ldexp(math.hypot(*parts), self._exponent)

    def reshaped_norm(self) -> float:
        """Return the norm of the weight itself: a matrix needs no reshaping."""
        return self._norm.enclosure.lower

    @cached_property
    def _exponent(self) -> int:
        """Power of two by which the pieces are smaller than what is stored."""
        return max((exponent_of(in_double(part)) for part in self._split(self._tall)), default=0)

    @property
    def _tall(self) -> torch.Tensor:
        """The matrix with its longer side first, which has the same singular values."""
        rows, columns = self.stored.shape
        return self.stored if rows >= columns else self.stored.mT

    def _split(self, matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
        room = min(_PIECE, self.compute.max_memory // 4)
        return torch.split(matrix, max(1, room // (8 * max(matrix.shape[1], 1))))

    def _pieces(self) -> Iterator[torch.Tensor]:
        """Yield runs of rows of the tall matrix in float64, scaled to a moderate size."""
        for part in self._split(self._tall):
            yield scaled(in_double(part), self._exponent)

    @cached_property
    def _norm(self) -> Norm:
        side = self._tall.shape[1]
        if self.stored.numel() == 0:
            return Norm(Enclosure.exactly(0), "empty")
        if 3 * side * side * 8 > self.compute.max_memory:
            return self._crude()
        total = torch.zeros(side, side, dtype=torch.float64)
        sizes = []
        for part in self._pieces():
            check_finite(part)
            total += part.mT @ part
            sizes.append(float(frobenius_above(part)))
        size = math.hypot(*sizes) * (1.0 + gamma(len(sizes) + 8)) * ROOM
        if size <= UNDERFLOW:
            return self._crude()
        constant = product_constant(len(self._tall), is_complex=False)
        error = torch.tensor([size * size * constant * ROOM + UNDERFLOW], dtype=torch.float64)
        start = krylov.scrambled((side,), total.device)
        memory = self.compute.max_memory
        vector = krylov.top_vector(
            lambda x: total @ x, lambda y: total @ y, start, steps=_STEPS, max_memory=memory
        )
        lower = self._attained(vector)
        candidate = max(lower, math.sqrt(max(float(vector @ (total @ vector)), 0.0)))
        upper = raised_until_proved(total.unsqueeze(0), error, candidate)
        if upper is None:
            return self._crude()
        enclosure = Enclosure.of(lower, max(upper, lower), Rigor.PROVED)
        return Norm(self._grown(enclosure), "Cholesky proof, piece by piece")

    def _attained(self, vector: torch.Tensor) -> float:
        """Return at most ‖A x‖/‖x‖ for the scaled tall matrix, and close to it."""
        parts = [attained(part, vector) for part in self._pieces()]
        return math.hypot(*parts) * (1.0 - gamma(len(parts) + 8))

    def _crude(self) -> Norm:
        """Enclose the norm by what takes no Gram matrix."""
        sizes, longest = [], 0.0
        for part in self._pieces():
            check_finite(part)
            sizes.append(float(frobenius_above(part)))
            longest = max(longest, float(torch.linalg.vector_norm(part, dim=1).max()))
        upper = math.hypot(*sizes) * (1.0 + gamma(len(sizes) + 8)) * ROOM + UNDERFLOW
        # The norm is at least that of the longest row.
        lower = max(longest * (1.0 - gamma(2 * self._tall.shape[1] + 8)) - UNDERFLOW, 0.0)
        enclosure = Enclosure.of(lower, upper, Rigor.PROVED)
        return Norm(self._grown(enclosure), "‖A‖_F (no memory for a Cholesky proof)")

    def _grown(self, enclosure: Enclosure) -> Enclosure:
        return rescaled(enclosure, math.ldexp(1.0, self._exponent))
