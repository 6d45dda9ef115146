"""The ball of matrices of norm at most c, and what sticks out of it.

The nearest matrix of norm at most c (Frobenius) is U min(Σ, c) Vᴴ. What is taken away,
A - P_c(A) = U (Σ - c)₊ Vᴴ, has only the singular values above c. So matrices inside the ball are
recognized first, by norms that are quick to find (Frobenius, then Schatten 4 from the Gram matrix)
and by a Cholesky factorization of c²I - AAᴴ, which costs a thirtieth of eigenvectors; only the
others are decomposed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from lipaudit.device import Compute
from lipaudit.operators import lapack
from lipaudit.operators.batches import in_batches
from lipaudit.operators.factors import decomposed
from lipaudit.operators.lapack import NotConverged

_EIGEN_FLOPS = 100.0
"""Eigenvalues and vectors of a complex Hermitian matrix take about 100 n³ real operations."""
_HIDDEN = 100.0
COPIES = 5
"""Work space, in copies of the matrices."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Beyond:
    """What sticks out of the ball, and about how large the matrices are."""

    excess: torch.Tensor
    """A - P_c(A) of each matrix."""
    norms: torch.Tensor
    """At least the norm of each matrix, but for rounding; the norm itself beyond the ball."""
    sizes: torch.Tensor
    """Σ(σ - c)₊ of each matrix, the sum of the singular values of what is beyond."""


def excess(matrices: torch.Tensor, limit: float, compute: Compute) -> torch.Tensor:
    """Return A - P_c(A) of each matrix (batch, rows, columns), real or complex.

    In the precision of the matrices, without a bound on its error.
    """
    return beyond(matrices, limit, compute).excess


def beyond(matrices: torch.Tensor, limit: float, compute: Compute) -> Beyond:
    """Return the `excess` of each matrix with bounds of their norms, which cost nothing extra."""
    rows, columns = matrices.shape[-2:]
    norms = _frobenius(matrices)
    left = torch.nonzero(~(norms <= limit)).squeeze(-1)
    if not len(left):
        return Beyond(torch.zeros_like(matrices), norms, torch.zeros_like(norms))
    side = min(rows, columns)
    # The squares in a Gram matrix hide what is below √u of the largest singular value.
    hidden = limit < _HIDDEN * torch.finfo(norms.dtype).eps ** 0.5 * float(norms.max())

    def work(run: slice, device: torch.device) -> Beyond:
        there = compute.move(_picked(matrices, left)[run], device)
        part = _by_svd(there, limit) if hidden else _beyond(there, limit)
        home = matrices.device
        return Beyond(part.excess.to(home), part.norms.to(home), part.sizes.to(home))

    parts = in_batches(
        work,
        len(left),
        bytes_each=COPIES * rows * columns * matrices.element_size(),
        flops_each=_EIGEN_FLOPS * side**3 + 16.0 * side * rows * columns,
        compute=compute,
    )
    if len(left) == len(matrices):
        return parts[0] if len(parts) == 1 else _joined(parts)
    found = _joined(parts)
    return _spread(found, left, matrices, norms)


def _joined(parts: Sequence[Beyond]) -> Beyond:
    """Return the results of consecutive batches as one."""
    return Beyond(
        torch.cat([part.excess for part in parts]),
        torch.cat([part.norms for part in parts]),
        torch.cat([part.sizes for part in parts]),
    )


def _spread(
    found: Beyond, some: torch.Tensor, matrices: torch.Tensor, norms: torch.Tensor
) -> Beyond:
    """Put what was found of some matrices among the others, whose norms are known and inside."""
    taken, sizes = torch.zeros_like(matrices), torch.zeros_like(norms)
    norms = norms.clone()
    taken[some], norms[some], sizes[some] = found.excess, found.norms, found.sizes
    return Beyond(taken, norms, sizes)


def _beyond(matrices: torch.Tensor, limit: float) -> Beyond:
    """Decompose those whose Gram matrix does not show that they lie inside."""
    rows, columns = matrices.shape[-2:]
    wide = matrices if rows <= columns else matrices.mH
    gram = lapack.gram(wide) if wide.dtype == torch.complex128 else wide @ wide.mH
    # The Schatten norms decrease to the spectral one; ‖A‖_S4² = ‖AAᴴ‖_F.
    norms = _frobenius(gram).sqrt()
    # Where a vector shows that a matrix is outside, it need not be tried.
    outside = _stretch(gram) > limit
    tried = torch.nonzero(~(outside | (norms <= limit))).squeeze(-1)
    if len(tried):
        ceiling = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device) * limit**2
        fits = lapack.have_factors(ceiling - _picked(gram, tried))
        norms[tried[fits]] = limit
    some = torch.nonzero(~(norms <= limit)).squeeze(-1)
    if len(some) == len(matrices):
        return _excess(matrices, gram, limit)
    if not len(some):
        return Beyond(torch.zeros_like(matrices), norms, torch.zeros_like(norms))
    return _spread(_excess(matrices[some], gram[some], limit), some, matrices, norms)


def _stretch(gram: torch.Tensor) -> torch.Tensor:
    """Return lower bounds of the norms: one step of the power method from the longest row."""
    longest = gram.diagonal(dim1=-2, dim2=-1).real.argmax(-1)
    start = gram.take_along_dim(longest[:, None, None], -1)
    norms: torch.Tensor = _frobenius(gram @ start) / _frobenius(start)
    return norms.sqrt()


def _picked(matrices: torch.Tensor, some: torch.Tensor) -> torch.Tensor:
    """Return some of the matrices; all of them without a copy."""
    return matrices if len(some) == len(matrices) else matrices[some]


def _frobenius(matrices: torch.Tensor) -> torch.Tensor:
    """Return the Frobenius norms; of parts, since moduli of complex numbers take far longer."""
    parts = (
        torch.view_as_real(matrices.resolve_conj()).flatten(-2)
        if matrices.is_complex()
        else matrices
    )
    norms: torch.Tensor = torch.linalg.vector_norm(parts, dim=(-2, -1))
    return norms


def _excess(matrices: torch.Tensor, gram: torch.Tensor, limit: float) -> Beyond:
    """Take away (A V)(1 - c/σ)₊ Vᴴ, or the same from the left."""
    rows, columns = matrices.shape[-2:]
    try:
        values, vectors = lapack.eigensystem(gram)
    except NotConverged:
        return _by_svd(matrices, limit)
    norms = values.clamp(min=0).sqrt()
    # Eigenvalues increase: the last ones are beyond, in no matrix of the batch more than so many.
    most = max(int((norms > limit).sum(-1).max()), 1)
    share = (1.0 - limit / norms[..., -most:].clamp(min=limit)).unsqueeze(-2)
    basis = vectors[..., -most:]
    scaled = basis * share
    wide = rows <= columns
    taken: torch.Tensor = scaled @ (basis.mH @ matrices) if wide else (matrices @ scaled) @ basis.mH
    return Beyond(taken, norms[..., -1], (norms - limit).clamp(min=0.0).sum(-1))


def _by_svd(matrices: torch.Tensor, limit: float) -> Beyond:
    """Take away the same by singular vectors; scale the matrix down where LAPACK gives none."""
    factors = decomposed(matrices)
    if factors is None:
        norms = _frobenius(matrices)
        share = (1.0 - limit / norms).clamp(min=0.0)
        return Beyond(matrices * share[..., None, None], norms, (norms - limit).clamp(min=0.0))
    over = (factors.values - limit).clamp(min=0.0)
    taken = (factors.left * over.unsqueeze(-2)) @ factors.right
    return Beyond(taken, factors.values[..., 0], over.sum(-1))
