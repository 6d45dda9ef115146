"""NumPy's LAPACK beside torch's, where it is the quicker one.

The wheels of torch bring MKL, which is slow on AMD's processors; those of NumPy bring OpenBLAS
(`openblas`). There eigenvalues take two thirds of the time, and a factorization, which torch
copies and clears besides, a quarter to a half of it at sides of 64 to 256.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch

from lipaudit.operators.openblas import OpenBlas, openblas

NotConverged = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # documented, not in the stubs
"""What LAPACK's wrappers raise when an iteration does not converge."""
_LEAST_SIDE = 96
"""Below, both take as long."""
_LEAST_SIDE_FOR_VALUES = 56
"""The same where only eigenvalues are wanted."""
_LEAST_SIDE_WITH_VECTORS = 48
"""The same where eigenvectors are wanted too."""
_LEAST_SIDE_TO_FACTORIZE = 28
"""The same for Cholesky's factorization."""


@contextmanager
def numpy_on_one_thread() -> Iterator[None]:
    """Keep NumPy's library from starting threads, if it is to be used at all."""
    library = _quicker()
    if library is None:
        yield
        return
    with library.on_one_thread():
        yield


def eigenvalues(matrices: torch.Tensor) -> torch.Tensor:
    """Return the eigenvalues of Hermitian matrices, which may be overwritten, in increasing order.

    Raises `NotConverged` where they do not converge.
    """
    library = _chosen(matrices, _LEAST_SIDE_FOR_VALUES)
    if library is None or matrices.dtype != torch.complex128:
        values: torch.Tensor = torch.linalg.eigvalsh(matrices)
        return values
    found = library.eigenvalues(matrices.resolve_conj().resolve_neg().contiguous())
    if found is None:
        raise NotConverged("the eigenvalues of a tridiagonal matrix did not converge")
    return found


def have_factors(matrices: torch.Tensor) -> torch.Tensor:
    """Tell for which Hermitian matrices Cholesky's factorization comes to its end.

    They may be overwritten. A pivot that is NaN is no end.
    """
    library = _chosen(matrices, _LEAST_SIDE_TO_FACTORIZE)
    if library is None:
        factors, failed = torch.linalg.cholesky_ex(matrices)
    else:
        factors = matrices.resolve_conj().resolve_neg().contiguous()
        failed = library.factorize(factors)
    pivots = factors.diagonal(dim1=-2, dim2=-1).real
    finished: torch.Tensor = (failed == 0) & torch.isfinite(pivots).all(-1)
    return finished


def eigensystem(matrices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the eigenvalues of Hermitian matrices, in increasing order, and the vectors.

    Raises `NotConverged` where they do not converge. In single precision torch's library is the
    quicker one everywhere.
    """
    if matrices.dtype != torch.complex128 or not _chosen(matrices, _LEAST_SIDE_WITH_VECTORS):
        values, vectors = torch.linalg.eigh(matrices)
        return values, vectors
    try:
        found = np.linalg.eigh(matrices.resolve_conj().resolve_neg().numpy())
    except np.linalg.LinAlgError:
        values, vectors = torch.linalg.eigh(matrices)
        return values, vectors
    return torch.from_numpy(found.eigenvalues), torch.from_numpy(found.eigenvectors)


def gram(wide: torch.Tensor) -> torch.Tensor:
    """Return A Aᴴ of complex matrices, without a bound on its rounding.

    With A = X + iY it is XXᵀ + YYᵀ + i(Z - Zᵀ), Z = YXᵀ: half the operations, since
    NumPy forms a matrix times its own transpose as the symmetric product it is.
    """
    if wide.dtype != torch.complex128 or not _chosen(wide, _LEAST_SIDE):
        return wide @ wide.mH
    # The imaginary part of a conjugate is a view that still has to be negated.
    real, imaginary = wide.real.numpy(), wide.imag.resolve_neg().numpy()
    beside = np.concatenate([real, imaginary], axis=-1)
    found = np.empty(wide.shape[:-1] + wide.shape[-2:-1], dtype=np.complex128)
    for index in np.ndindex(*wide.shape[:-2]):
        found.real[index] = beside[index] @ beside[index].T
        turned = imaginary[index] @ real[index].T
        found.imag[index] = turned - turned.T
    return torch.from_numpy(found)


def _chosen(matrices: torch.Tensor, least: int) -> OpenBlas | None:
    """Return NumPy's library where it is the quicker one for these matrices."""
    if not matrices.is_complex() or matrices.device.type != "cpu" or matrices.shape[-2] < least:
        return None
    return _quicker()


@cache
def _quicker() -> OpenBlas | None:
    """Return NumPy's library; None where torch's is as good."""
    if "mkl" not in torch.__config__.show().lower() or not _is_amd():
        return None
    return openblas()


def _is_amd() -> bool:
    """Tell whether the processor is one on which that was measured."""
    description = platform.processor()
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        description += listed.read_text(errors="replace")
    return "AuthenticAMD" in description
