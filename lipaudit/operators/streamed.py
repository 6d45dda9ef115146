"""StreamedOperator: a dense matrix that is too large to be turned into float64 as a whole.

Its entries stay as they are stored, two bytes each in bfloat16, and are converted piece by piece:
see `tall`. A GPU gets the matrix as it is stored.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch

from lipaudit.device import CPU, Compute
from lipaudit.enclosure import Enclosure
from lipaudit.operators import tall
from lipaudit.operators.base import AbstractLinearOperator, Norm, Shape
from lipaudit.operators.batches import in_batches
from lipaudit.operators.certify import check_finite
from lipaudit.operators.dense import SVD_COPIES, is_worth_its_time
from lipaudit.operators.scaling import exponent_of, in_double, rescaled, scaled
from lipaudit.operators.tall import TallMatrix

_PIECE = 1 << 27
"""Bytes of one piece in float64."""
_FLOAT64 = 8


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
        """Return nothing: decomposing it takes it whole. Say so where that is worth its time."""
        rows, columns = self.stored.shape
        if is_worth_its_time(1, rows, columns, self.compute):
            self.compute.warn(
                f"no singular values of a {rows} x {columns} matrix: "
                f"--max-memory {SVD_COPIES * _FLOAT64 * rows * columns} has them computed"
            )

    def leading(self) -> None:
        """Return nothing, likewise."""

    def frobenius(self) -> float:
        """See `AbstractLinearOperator.frobenius`."""
        parts = (scaled(in_double(part), self._exponent) for part in self._split(self._tall))
        sizes = [float(torch.linalg.vector_norm(part)) for part in parts]
        return math.ldexp(math.hypot(*sizes), self._exponent)

    def reshaped_norm(self) -> float:
        """Return the norm of the weight itself: a matrix needs no reshaping."""
        return self._norm.enclosure.lower

    @cached_property
    def _largest(self) -> torch.Tensor:
        """The largest entry of each piece, without its sign: their exponent is that of all."""
        parts = self._split(self._tall)
        return torch.stack([torch.linalg.vector_norm(part, math.inf) for part in parts])

    @property
    def _exponent(self) -> int:
        """Power of two by which the pieces are smaller than what is stored."""
        return exponent_of(in_double(self._largest))

    @property
    def _tall(self) -> torch.Tensor:
        """The matrix with its longer side first, which has the same singular values."""
        rows, columns = self.stored.shape
        return self.stored if rows >= columns else self.stored.mT

    def _split(self, matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
        room = min(_PIECE, self.compute.max_memory // 8)
        return torch.split(matrix, max(1, room // (_FLOAT64 * max(matrix.shape[1], 1))))

    @cached_property
    def _norm(self) -> Norm:
        if self.stored.numel() == 0:
            return Norm(Enclosure.exactly(0), "empty")
        check_finite(self._largest)
        if not bool(self._largest.any()):
            return Norm(Enclosure.exactly(0), "all entries are 0")
        rows, columns = self._tall.shape
        taken = self.stored.numel() * self.stored.element_size()
        compute, exponent = self.compute, self._exponent

        def work(_: slice, device: torch.device) -> Norm:
            local = compute.move(self._tall, device)

            def runs(size: int) -> Iterator[torch.Tensor]:
                return (scaled(in_double(run), exponent) for run in torch.split(local, size))

            # With this machine's budget: the factorization takes place here.
            return TallMatrix(rows, columns, runs, local.device).norm(compute)

        proof = tall.room(columns)
        if proof > compute.max_memory or taken + proof > compute.memory_on(compute.device):
            compute = replace(compute, device=CPU)
        if compute.on_cpu:
            norm = work(slice(0, 1), CPU)
        else:
            flops = float(rows) * columns * columns
            (norm,) = in_batches(work, 1, bytes_each=proof, flops_each=flops, compute=compute)
        enclosure = rescaled(norm.enclosure, math.ldexp(1.0, exponent))
        return Norm(enclosure, norm.method)
