"""Factors: singular values and vectors from LAPACK, whatever it takes.

The divide-and-conquer SVD fails to converge on rare matrices, and then usually not on the
transpose. Behind it stand the eigenvalues of the Gram matrix. The method is always named.
"""

from dataclasses import dataclass
from typing import final

import torch

from lipaudit.operators import lapack

NotConverged = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # documented, not in the stubs
"""What LAPACK's wrappers raise when an iteration does not converge."""


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
    """Return √ of the eigenvalues of Gram matrices, None when LAPACK does not converge."""
    try:
        return lapack.eigenvalues(grams).clamp(min=0).sqrt()
    except NotConverged:
        return None


def values_directly(matrices: torch.Tensor) -> torch.Tensor | None:
    """Return singular values without vectors, None when LAPACK converges neither on A nor on Aᴴ."""
    for candidate in (matrices, matrices.mH.contiguous()):
        try:
            values: torch.Tensor = torch.linalg.svdvals(candidate)
        except NotConverged:
            continue
        return values
    return None
