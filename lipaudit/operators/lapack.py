"""NumPy's LAPACK beside torch's, where it is the quicker one.

The wheels of torch bring MKL, which is slow on AMD's processors; those of NumPy bring OpenBLAS,
which takes two thirds of the time there for eigenvalues, if it is kept from starting threads of
its own: the work is shared among threads already. Doing that takes
threadpoolctl (the extra `fast`); without it everything is left to torch.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

_LEAST_SIDE = 96
"""Below, both take as long."""
_LEAST_SIDE_WITH_VECTORS = 48
"""The same where eigenvectors are wanted."""


@contextmanager
def numpy_on_one_thread() -> Iterator[None]:
    """Keep NumPy's library from starting threads, if it is to be used at all."""
    library = _openblas()
    if library is None:
        yield
        return
    with library.limit(limits=1):
        yield


def eigenvalues(matrices: torch.Tensor) -> torch.Tensor:
    """Return the eigenvalues of Hermitian matrices, in increasing order.

    Raises `torch.linalg.LinAlgError` where they do not converge.
    """
    if _prefers_torch(matrices):
        values: torch.Tensor = torch.linalg.eigvalsh(matrices)
        return values
    try:
        return torch.from_numpy(np.linalg.eigvalsh(matrices.resolve_conj().resolve_neg().numpy()))
    except np.linalg.LinAlgError:
        second_try: torch.Tensor = torch.linalg.eigvalsh(matrices)
        return second_try


def eigensystem(matrices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the eigenvalues of Hermitian matrices, in increasing order, and the vectors.

    Raises `torch.linalg.LinAlgError` where they do not converge. In single precision torch's
    library is the quicker one everywhere.
    """
    single = matrices.dtype != torch.complex128
    if single or _prefers_torch(matrices, _LEAST_SIDE_WITH_VECTORS):
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
    if _prefers_torch(wide):
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


def _prefers_torch(matrices: torch.Tensor, least: int = _LEAST_SIDE) -> bool:
    return (
        _openblas() is None
        or matrices.device.type != "cpu"
        or matrices.shape[-2] < least
        or not matrices.is_complex()
    )


@cache
def _openblas() -> Any:
    """Return the handle of NumPy's OpenBLAS; None where torch's library is as good."""
    if "mkl" not in torch.__config__.show().lower() or not _is_amd():
        return None
    try:
        from threadpoolctl import ThreadpoolController  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    found = ThreadpoolController().select(internal_api="openblas")
    return found if found.lib_controllers else None


def _is_amd() -> bool:
    """Tell whether the processor is one on which that was measured."""
    description = platform.processor()
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        description += listed.read_text(errors="replace")
    return "AuthenticAMD" in description
