"""DenseOperator and BlockDiagonalOperator: matrices, one or many side by side."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import numpy as np
import torch

from lipaudit.device import CPU, Compute
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.operators import krylov, leading
from lipaudit.operators.base import AbstractLinearOperator, Norm, Shape
from lipaudit.operators.batches import in_batches, interruptible
from lipaudit.operators.certify import (
    ROOM,
    UNDERFLOW,
    attained,
    check_finite,
    crude_upper,
    frobenius_above,
    gamma,
    gram,
    norm_from_gram,
    proved_norm,
    raised_until_proved,
    svd_radius,
    widened,
)
from lipaudit.operators.factors import decomposed, largest_eigenvalues
from lipaudit.operators.lapack import NotConverged
from lipaudit.operators.scaled import scaled_leading, scaled_spectrum
from lipaudit.operators.scaling import in_double, normalised, rescaled
from lipaudit.operators.spectrum import Leading, Spectrum, gram_accuracy
from lipaudit.operators.tall import TallMatrix

SVD_FLOPS = 2e11
"""A decomposition with vectors that needs more than this is not worth its seconds by default."""
FLOPS_PER_ENTRY = 20.0
"""A thin SVD with vectors takes about 20·m·n·min(m, n) operations (Golub & Van Loan 8.6)."""
_EIGENVALUE_SIDE = 256
"""Up to this side the largest eigenvalue of a Gram matrix comes from LAPACK, then from Krylov."""
_KRYLOV_STEPS = 300
"""At most: where many singular values lie close below the largest, as in random matrices of a few
thousand rows, it takes a hundred to tell them apart."""
_KRYLOV_GAIN = 1e-9
"""Relative gain of some steps below which the largest value is taken to be found."""
GRAM_FLOPS = 5e11
"""Eigenvalues of a Gram matrix that need more than this are not worth their seconds either."""
SVD_COPIES = 6
"""Work space of an SVD with vectors and of its certificate, in copies of the matrix."""


@final
@dataclass(frozen=True, eq=False)
class DenseOperator(AbstractLinearOperator):
    """x -> A x for one real matrix; maps tensors of shape (columns,) to (rows,)."""

    matrix: torch.Tensor
    """(rows, columns); kept in float64."""
    compute: Compute

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", in_double(self.matrix))

    @property
    def in_shape(self) -> Shape:
        """See `AbstractLinearOperator.in_shape`."""
        return (self.matrix.shape[1],)

    @property
    def out_shape(self) -> Shape:
        """See `AbstractLinearOperator.out_shape`."""
        return (self.matrix.shape[0],)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """See `AbstractLinearOperator.apply`."""
        return x @ self.matrix.mT

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """See `AbstractLinearOperator.adjoint`."""
        return y @ self.matrix

    def norm(self) -> Norm:
        """See `AbstractLinearOperator.norm`."""
        return self._measured.norm

    def spectrum(self) -> Spectrum | None:
        """See `AbstractLinearOperator.spectrum`."""
        return self._measured.spectrum

    def leading(self) -> Leading | None:
        """See `AbstractLinearOperator.leading`."""
        return self._measured.leading

    def frobenius(self) -> float:
        """See `AbstractLinearOperator.frobenius`."""
        return _frobenius(self.matrix)

    def reshaped_norm(self) -> float:
        """Return the norm of the weight itself: a matrix needs no reshaping."""
        return self._measured.norm.enclosure.lower

    @cached_property
    def _measured(self) -> "Measured":
        return measure(self.matrix.unsqueeze(0), self.compute)


@final
@dataclass(frozen=True, eq=False)
class BlockDiagonalOperator(AbstractLinearOperator):
    """Matrices that act side by side: (blocks, columns) -> (blocks, rows).

    The norm is the largest of the blocks' norms, the spectrum the union of their spectra.
    """

    blocks: torch.Tensor
    """(blocks, rows, columns); kept in float64."""
    compute: Compute

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", in_double(self.blocks))

    @property
    def in_shape(self) -> Shape:
        """See `AbstractLinearOperator.in_shape`."""
        return (self.blocks.shape[0], self.blocks.shape[2])

    @property
    def out_shape(self) -> Shape:
        """See `AbstractLinearOperator.out_shape`."""
        return (self.blocks.shape[0], self.blocks.shape[1])

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """See `AbstractLinearOperator.apply`."""
        return torch.einsum("bij,nbj->nbi", self.blocks, x)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """See `AbstractLinearOperator.adjoint`."""
        return torch.einsum("bij,nbi->nbj", self.blocks, y)

    def norm(self) -> Norm:
        """See `AbstractLinearOperator.norm`."""
        return self._measured.norm

    def spectrum(self) -> Spectrum | None:
        """See `AbstractLinearOperator.spectrum`."""
        return self._measured.spectrum

    def leading(self) -> Leading | None:
        """See `AbstractLinearOperator.leading`."""
        return self._measured.leading

    def frobenius(self) -> float:
        """See `AbstractLinearOperator.frobenius`."""
        return _frobenius(self.blocks)

    def reshaped_norm(self) -> None:
        """Return None: the weight is a stack of matrices, not one."""

    @cached_property
    def _measured(self) -> "Measured":
        return measure(self.blocks, self.compute)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found out about a stack of matrices."""

    norm: Norm
    spectrum: Spectrum | None
    leading: Leading | None = None


def measure(blocks: torch.Tensor, compute: Compute, error: float = 0.0) -> Measured:
    """Measure the block-diagonal matrix of a stack (blocks, rows, columns).

    `error` bounds ‖stored - true‖ where the entries are themselves computed.
    """
    check_finite(blocks)
    if blocks.numel() == 0:
        return Measured(Norm(Enclosure.exactly(0), "empty"), _zero(blocks))
    if error == 0 and not bool(blocks.any()):
        return Measured(Norm(Enclosure.exactly(0), "all entries are 0"), _zero(blocks))
    moderate, factor = normalised(blocks)
    error = error / factor * (1.0 + 2.0**-50) + (UNDERFLOW if error else 0.0)

    def work(_: slice, device: torch.device) -> Measured:
        local = compute.move(moderate, device)
        there = compute.there(device)
        found = _with_spectrum(local, there, error) or _norm_only(local, there, error)
        if compute.full_spectra and found.spectrum is None:
            return replace(found, leading=_leading(local, there, error))
        return found

    there = compute.memory_on(compute.device)
    if min(SVD_COPIES * 8 * blocks.numel(), _proof_bytes(blocks, compute.device)) > there:
        compute = replace(compute, device=CPU)  # where less proves a norm
    # A single item: it is done elsewhere if the device has no memory for it.
    (found,) = in_batches(
        work,
        1,
        bytes_each=SVD_COPIES * 8 * blocks.numel(),
        flops_each=FLOPS_PER_ENTRY * blocks.numel() * min(blocks.shape[1:]),
        compute=compute,
    )
    norm = Norm(rescaled(found.norm.enclosure, factor), found.norm.method)
    spectrum = found.spectrum
    if spectrum is not None and factor != 1.0:
        spectrum = scaled_spectrum(spectrum, factor)
    return Measured(norm, spectrum, scaled_leading(found.leading, factor))


def largest_singular_value(matrix: torch.Tensor) -> float:
    """Return ‖A‖ as computed, without proof."""
    if matrix.numel() == 0:
        return 0.0
    moderate, factor = normalised(matrix)
    wide = moderate if moderate.shape[0] <= moderate.shape[1] else moderate.mT
    if wide.shape[0] > _EIGENVALUE_SIDE:
        return _krylov_lower(moderate, 1 << 30)[0] * factor
    top = float(largest_eigenvalues(wide @ wide.mT))
    return math.sqrt(max(top, 0.0)) * factor


def _with_spectrum(blocks: torch.Tensor, compute: Compute, error: float) -> Measured | None:
    """Decompose every block, or its Gram matrix; None when that is too much or not wanted."""
    count, rows, columns = blocks.shape
    if not is_worth_its_time(count, rows, columns, compute):
        return None
    needed = SVD_COPIES * blocks.numel() * blocks.element_size()
    if needed > compute.max_memory:
        compute.warn(
            f"no singular values of a {rows} x {columns} matrix: --max-memory {needed} "
            "has them computed"
        )
        return None
    flops = FLOPS_PER_ENTRY * blocks.numel() * min(rows, columns)
    if flops > SVD_FLOPS and not compute.by_svd:
        return _from_gram(blocks, error)
    factors = interruptible(lambda: decomposed(blocks), flops=flops)
    if factors is None:
        return _from_gram(blocks, error)
    values, method = factors.values, factors.method
    radius = svd_radius(blocks, factors.left, values, factors.right) + error
    if not math.isfinite(radius):
        return _from_gram(blocks, error)
    top = float(values.max())
    # Adding and subtracting is rounded once, outward.
    enclosure = Enclosure.of(
        max(math.nextafter(top - radius, -math.inf), 0.0),
        math.nextafter(top + radius, math.inf),
        Rigor.PROVED,
    )
    spectrum = _spectrum(blocks, values, Rigor.PROVED, math.nextafter(radius, math.inf), method)
    return Measured(Norm(enclosure, f"{method}, proved by its residual"), spectrum)


def is_worth_its_time(count: int, rows: int, columns: int, compute: Compute) -> bool:
    """Tell whether so many matrices are to be decomposed, or their Gram matrices."""
    side, entries = min(rows, columns), float(count * rows * columns)
    # The Gram matrix, and a reduction to tridiagonal form half of which is slow.
    quickly = 2.0 * entries * side + 4.0 * count * float(side) ** 3
    affordable = FLOPS_PER_ENTRY * entries * side <= SVD_FLOPS or quickly <= GRAM_FLOPS
    return compute.full_spectra and (affordable or compute.by_svd)


def _from_gram(blocks: torch.Tensor, error: float) -> Measured:
    """Measure by Gram eigenvalues: a proved norm, and values good to `gram_accuracy`."""
    grams, gram_error = gram(blocks)
    try:
        eigenvalues = torch.linalg.eigvalsh(grams)
    except NotConverged:
        upper = widened(Enclosure.at_most(crude_upper(blocks)), error)
        return Measured(Norm(upper, "√(‖A‖₁‖A‖∞) (LAPACK did not converge)"), None)
    found = widened(norm_from_gram(blocks, grams, gram_error, eigenvalues[:, -1]), error)
    values = eigenvalues.clamp(min=0).sqrt()
    spectrum = _spectrum(blocks, values, Rigor.NUMERICAL, 0.0, "Gram eigenvalues")
    accuracy = gram_accuracy(max(blocks.shape[1:]), spectrum.largest)
    spectrum = replace(spectrum, accuracy=accuracy)
    return Measured(Norm(found, "Cholesky proof"), spectrum)


def _norm_only(blocks: torch.Tensor, compute: Compute, error: float) -> Measured:
    """Prove the norm of every block by one Cholesky factorization, without a spectrum."""
    side, copies = min(blocks.shape[1:]), SVD_COPIES * blocks.numel() * blocks.element_size()
    if side <= _EIGENVALUE_SIDE and copies <= compute.max_memory:
        return Measured(Norm(proved_norm(blocks, error), "Cholesky proof"), None)
    parts = [_block_norm(block, compute) for block in blocks]
    enclosure = parts[0].enclosure
    for part in parts[1:]:
        enclosure = enclosure.larger(part.enclosure)
    method = max(parts, key=lambda part: part.enclosure.hi).method
    return Measured(Norm(widened(enclosure, error), method), None)


def _block_norm(block: torch.Tensor, compute: Compute) -> Norm:
    side = min(block.shape)
    if _proof_bytes(block, block.device) > compute.max_memory:
        return _in_runs(block, compute)
    if side <= _EIGENVALUE_SIDE:
        return Norm(proved_norm(block.unsqueeze(0)), "Cholesky proof")
    lower, candidate = _krylov_lower(block, compute.max_memory)
    grams, gram_error = gram(block.unsqueeze(0))
    proved = raised_until_proved(grams, gram_error, candidate)
    if proved is None:
        upper = max(crude_upper(block), lower)
        method = "√(‖A‖₁‖A‖∞) or ‖A‖_F (every Cholesky proof failed)"
        return Norm(Enclosure.of(lower, upper, Rigor.PROVED), method)
    return Norm(Enclosure.of(lower, max(proved, lower), Rigor.PROVED), "Cholesky proof")


def _proof_bytes(blocks: torch.Tensor, device: torch.device) -> int:
    """Return what a Cholesky proof of one block takes beside it.

    Gram matrix, shifted copy and factor; elsewhere than on the CPU as much again for the residual.
    """
    return (3 if device.type == "cpu" else 7) * min(blocks.shape[-2:]) ** 2 * 8


def _in_runs(block: torch.Tensor, compute: Compute) -> Norm:
    """Prove the norm with a third of the memory."""
    long = block if block.shape[0] >= block.shape[1] else block.mT

    def runs(size: int) -> Iterator[torch.Tensor]:
        return iter(torch.split(long, size))

    rows, columns = long.shape
    return TallMatrix(rows, columns, runs, block.device).norm(compute)


def _krylov_lower(matrix: torch.Tensor, max_memory: int) -> tuple[float, float]:
    """Return a proved lower bound of the norm, and the bare quotient it comes from."""
    start = krylov.scrambled((matrix.shape[1],), matrix.device)
    vector = krylov.top_vector(
        lambda x: matrix @ x,
        lambda y: matrix.mT @ y,
        start,
        steps=_KRYLOV_STEPS,
        max_memory=max_memory,
        gain=_KRYLOV_GAIN,
    )
    return attained(matrix, vector), float(torch.linalg.vector_norm(matrix @ vector))


def _leading(blocks: torch.Tensor, compute: Compute, error: float) -> Leading | None:
    """Bound the largest singular values of the block-diagonal matrix from below."""
    rows, columns = blocks.shape[-2:]
    known = gamma(columns + 2) * float(frobenius_above(blocks).max()) * ROOM + UNDERFLOW
    return leading.leading(
        lambda x: (blocks @ x.unsqueeze(-1)).squeeze(-1),
        lambda y: (blocks.mT @ y.unsqueeze(-1)).squeeze(-1),
        krylov.scrambled((len(blocks), columns), blocks.device),
        doubt=(known + error) * ROOM,
        flops_each=2.0 * len(blocks) * rows * columns,
        max_memory=compute.max_memory,
    )


def _spectrum(
    blocks: torch.Tensor, values: torch.Tensor, rigor: Rigor, radius: float, method: str
) -> Spectrum:
    count, rows, columns = blocks.shape
    return Spectrum(
        values=np.sort(values.flatten().cpu().numpy())[::-1].copy(),
        rows=count * rows,
        columns=count * columns,
        rigor=rigor,
        radius=radius,
        method=method,
    )


def _zero(blocks: torch.Tensor) -> Spectrum:
    values = torch.zeros(blocks.shape[0] * min(blocks.shape[1:]), dtype=torch.float64)
    return _spectrum(blocks, values, Rigor.PROVED, 0.0, "all entries are 0")


def _frobenius(values: torch.Tensor) -> float:
    moderate, factor = normalised(values)
    return float(torch.linalg.vector_norm(moderate)) * factor
