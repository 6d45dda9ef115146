"""The OpenBLAS inside of NumPy's wheels, asked for LAPACK directly and in place.

NumPy's own functions copy every matrix in and out. For eigenvalues they ask zheevd, which spends a
sixth of its time on the moduli of all entries, to find out whether to scale them, and which
reduces to tridiagonal form in one stage, where two are quicker from some size on. For a
factorization torch's copy theirs and clear a triangle, which takes longer than to factorize
matrices of a hundred rows.

Wheels carry the library with names of their own (`scipy_zpotrf_64_`), which say that its integers
have 64 bits. Where these names are not found there is no `OpenBlas`, and nothing is lost but time.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, final

import numpy as np
import torch

from lipaudit.device import CPU

_PREFIXES = ("scipy_", "")
"""Of the names in wheels of NumPy 2 and NumPy 1."""
_TWO_STAGES = 640
"""From this side on the reduction in two stages is quicker (a quarter to a third at 1024)."""
_COLUMNS = 64
"""What LAPACK is given to work in, in columns: twice as many as it reduces at a time."""


@final
class OpenBlas:
    """Routines for contiguous batches of complex matrices on the CPU, which they overwrite.

    They take row-major matrices for their transposes, the conjugates of Hermitian ones, which
    have the same eigenvalues and pivots.
    """

    def __init__(self, library: ctypes.CDLL, prefix: str) -> None:
        """Find the routines; AttributeError where one is missing."""

        def symbol(name: str) -> Any:
            return getattr(library, prefix + name)

        number, size = ctypes.c_void_p, ctypes.c_size_t
        letter = ctypes.c_char_p
        # Fortran takes everything by address, and the lengths of letters at the end.
        self._potrf = {
            dtype: _typed(symbol(name), letter, *[number] * 4, size)
            for dtype, name in (
                (torch.complex64, "cpotrf_64_"),
                (torch.complex128, "zpotrf_64_"),
            )
        }
        self._hetrd = _typed(symbol("zhetrd_64_"), letter, *[number] * 9, size)
        self._hetrd_2stage = _typed(
            symbol("zhetrd_2stage_64_"), letter, letter, *[number] * 11, size, size
        )
        self._sterf = _typed(symbol("dsterf_64_"), *[number] * 4)
        self._threads: Callable[[], int] = _typed(
            symbol("openblas_get_num_threads64_"), result=ctypes.c_int
        )
        self._allow = _typed(symbol("openblas_set_num_threads64_"), ctypes.c_int)
        self._lock = threading.Lock()
        self._limits = 0
        self._before = 1

    @property
    def threads(self) -> int:
        """How many threads the library may use."""
        return self._threads()

    @contextmanager
    def on_one_thread(self) -> Iterator[None]:
        """Keep the library from threads of its own, for the whole process."""
        with self._lock:
            self._limits += 1
            if self._limits == 1:
                self._before = self.threads
                self._allow(1)
        try:
            yield
        finally:
            with self._lock:
                self._limits -= 1
                if self._limits == 0:
                    self._allow(self._before)

    def factorize(self, matrices: torch.Tensor) -> torch.Tensor:
        """Overwrite a triangle of each matrix with its Cholesky factor.

        Return 0 for each that has one; of others the factor is not finished. A NaN is not noticed:
        it spreads to the last pivot.
        """
        failed = torch.zeros(matrices.shape[:-2], dtype=torch.int64, device=CPU)
        side, into = ctypes.byref(ctypes.c_int64(matrices.shape[-1])), failed.data_ptr()
        factorize = self._potrf[matrices.dtype]
        for index, matrix in enumerate(_addresses(matrices)):
            factorize(b"L", side, matrix, side, into + 8 * index, 1)
        return failed

    def eigenvalues(self, matrices: torch.Tensor) -> torch.Tensor | None:
        """Return the eigenvalues, in increasing order; None where they do not converge.

        Of complex128 only.
        """
        if matrices.dtype != torch.complex128:
            raise ValueError(f"eigenvalues are those of complex128 matrices, not {matrices.dtype}")
        side = matrices.shape[-1]
        found = _real(*matrices.shape[:-1])
        reduce = self._reduction(side)
        order, info = ctypes.c_int64(side), ctypes.c_int64(0)
        diagonal, beside = found.data_ptr(), _real(side)
        for matrix in _addresses(matrices):
            reduce(matrix, diagonal, beside.data_ptr(), ctypes.byref(info))
            if info.value == 0:
                self._sterf(ctypes.byref(order), diagonal, beside.data_ptr(), ctypes.byref(info))
            if info.value != 0:
                return None
            diagonal += 8 * side
        return found

    def _reduction(self, side: int) -> Callable[..., None]:
        """Return what reduces the matrix at an address to a tridiagonal one.

        It takes the matrix, the places for its diagonal and for what is beside it, and for a
        number that says how it went.
        """
        n, reflectors = ctypes.byref(ctypes.c_int64(side)), _complex(side)
        if side < _TWO_STAGES:
            work, room = _complex(_COLUMNS * side), ctypes.c_int64(_COLUMNS * side)

            def one(matrix: int, diagonal: int, beside: int, info: Any) -> None:
                tau, size = reflectors.data_ptr(), ctypes.byref(room)
                self._hetrd(
                    b"L", n, matrix, n, diagonal, beside, tau, work.data_ptr(), size, info, 1
                )

            return one
        rooms = [ctypes.c_int64(-1), ctypes.c_int64(-1)]
        spaces = [_complex(1), _complex(1)]

        def two(matrix: int, diagonal: int, beside: int, info: Any) -> None:
            tau = reflectors.data_ptr()
            (band, band_size), (work, work_size) = (
                (space.data_ptr(), ctypes.byref(room))
                for space, room in zip(spaces, rooms, strict=True)
            )
            self._hetrd_2stage(
                b"N", b"L", n, matrix, n, diagonal, beside, tau, band, band_size, work, work_size,
                info, 1, 1,
            )  # fmt: skip

        # Asked with room for -1 numbers it says how many it needs.
        nowhere = reflectors.data_ptr()
        two(nowhere, nowhere, nowhere, ctypes.byref(ctypes.c_int64(0)))
        for at, space in enumerate(spaces):
            rooms[at].value = int(space[0].real)
        spaces[:] = [_complex(room.value) for room in rooms]
        return two


@cache
def openblas() -> OpenBlas | None:
    """Return the library that NumPy's linear algebra is linked to, if it is one of those."""
    try:
        # On Linux and macOS names are looked up in what an extension module is linked to as well.
        linked = ctypes.CDLL(np.linalg._umath_linalg.__file__)
    except (OSError, AttributeError, TypeError):
        return None
    for prefix in _PREFIXES:
        try:
            return OpenBlas(linked, prefix)
        except AttributeError:
            continue
    return None


def _typed(routine: Any, *arguments: Any, result: Any = None) -> Any:
    routine.argtypes, routine.restype = arguments, result
    return routine


def _real(*shape: int) -> torch.Tensor:
    # Here, whatever device a program made its default: it is written to by address.
    return torch.empty(shape, dtype=torch.float64, device=CPU)


def _complex(count: int) -> torch.Tensor:
    return torch.empty(count, dtype=torch.complex128, device=CPU)


def _addresses(matrices: torch.Tensor) -> range:
    """Return where the matrices of a batch begin: all that LAPACK is told of them."""
    rows, columns = matrices.shape[-2:]
    fits = rows == columns > 0 and matrices.is_contiguous() and matrices.device == CPU
    if not fits:
        raise ValueError("square matrices are overwritten where they are, on the CPU")
    each = matrices.element_size() * rows * columns
    first = matrices.data_ptr()
    return range(first, first + each * matrices.shape[:-2].numel(), each)
