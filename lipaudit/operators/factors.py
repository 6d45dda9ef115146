"""Factors: singular values and vectors from LAPACK, whatever it takes.

The divide-and-conquer SVD fails to converge on rare matrices, and then usually not on the
transpose. Behind it stand the eigenvalues of the Gram matrix. The method is always named.

Candidates, of which nothing is claimed, come from eigenvalues; where even these fail, from powers
of the matrix.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch

from lipaudit.operators import lapack
from lipaudit.operators.lapack import NotConverged

Floats = npt.NDArray[np.float64]

_SQUARINGS = 30
"""After so many an eigenvalue that is smaller by one part in 10^8 is gone."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """A thin decomposition left @ diag(values) @ right of each matrix of a batch."""

    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor
    method: str


def decomposed(matrices: torch.Tensor) -> Factors | None:
    """Return thin singular value factors, None when LAPACK converges neither on A nor on Aᴴ."""
    try:
        left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    except NotConverged:
        try:
            left, values, right = torch.linalg.svd(matrices.mH.contiguous(), full_matrices=False)
        except NotConverged:
            return None
        return Factors(right.mH, values, left.mH, "SVD of the transpose")
    return Factors(left, values, right, "SVD")


def values_from_gram(grams: torch.Tensor) -> torch.Tensor | None:
    """Return √ of the eigenvalues of Gram matrices, None when LAPACK does not converge.

    The matrices may be overwritten.
    """
    try:
        return lapack.eigenvalues(grams).clamp(min=0).sqrt()
    except NotConverged:
        return None


def largest_eigenvalues(matrices: torch.Tensor) -> torch.Tensor:
    """Return about the largest eigenvalue of each positive semidefinite matrix: candidates."""
    try:
        values: torch.Tensor = torch.linalg.eigvalsh(matrices)
    except NotConverged:
        return _quotients(matrices, _by_squaring(matrices))
    return values[..., -1]


def eigenvectors(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return about the eigenvalues of a positive semidefinite matrix, increasing, and vectors.

    Where LAPACK does not converge, only the last one is near an eigenvector; the others, and
    their quotients, complete the basis.
    """
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except NotConverged:
        top = _by_squaring(matrix)
        basis = torch.linalg.qr(torch.cat([top, torch.eye(len(matrix)).to(matrix)], -1)).Q
        quotients = _quotients(matrix.expand(len(matrix), -1, -1), basis.mT.unsqueeze(-1))
        order = quotients.argsort()
        return quotients[order], basis[:, order]
    return values, vectors


def _by_squaring(matrices: torch.Tensor) -> torch.Tensor:
    """Return about the first eigenvector of each matrix G as a column of G^(2^30).

    Products converge whatever LAPACK does. The powers are scaled on the way.
    """
    powers = matrices
    for _ in range(_SQUARINGS):
        sizes = torch.linalg.vector_norm(powers, dim=(-2, -1), keepdim=True)
        powers = powers / sizes.clamp(min=1e-300)
        powers = powers @ powers
    lengths = torch.linalg.vector_norm(powers, dim=-2, keepdim=True)
    largest = lengths.argmax(-1, keepdim=True)
    column = powers.take_along_dim(largest, -1)
    unit: torch.Tensor = column / lengths.take_along_dim(largest, -1).clamp(min=1e-300)
    return unit


def _quotients(matrices: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return vᴴGv for each matrix and column vector."""
    quotients: torch.Tensor = (columns.mH @ matrices @ columns).real[..., 0, 0]
    return quotients


def principal_axes(symmetric: Floats) -> tuple[Floats, Floats]:
    """Return about the eigenvalues and eigenvectors of a small symmetric matrix."""
    try:
        values, vectors = np.linalg.eigh(symmetric)
    except np.linalg.LinAlgError:
        return np.diag(symmetric).copy(), np.eye(len(symmetric))
    return values, vectors


def values_directly(matrices: torch.Tensor) -> torch.Tensor | None:
    """Return singular values without vectors, None when LAPACK converges neither on A nor on Aᴴ."""
    for candidate in (matrices, matrices.mH.contiguous()):
        try:
            values: torch.Tensor = torch.linalg.svdvals(candidate)
        except NotConverged:
            continue
        return values
    return None
