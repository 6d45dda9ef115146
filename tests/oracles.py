"""Slow independent truth: torch's own operations written out as matrices, mpmath and fractions.

Nothing here uses lipaudit's mathematics; only the description of a convolution is shared.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import mpmath
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lipaudit.operators.geometry import ConvGeometry, PaddingMode

_CONV = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)
_TRANSPOSED = (
    nn.functional.conv_transpose1d,
    nn.functional.conv_transpose2d,
    nn.functional.conv_transpose3d,
)


def dense(
    function: Callable[[torch.Tensor], torch.Tensor], in_shape: tuple[int, ...]
) -> torch.Tensor:
    """Write a linear function of one batched tensor out as a matrix, column by column."""
    count = math.prod(in_shape)
    identity = torch.eye(count, dtype=torch.float64).reshape(count, *in_shape)
    return function(identity).reshape(count, -1).mT


def conv_matrix(
    kernel: torch.Tensor, geometry: ConvGeometry, in_shape: tuple[int, ...]
) -> torch.Tensor:
    """Write torch's own convolution out as a matrix."""
    return dense(lambda x: run_conv(kernel, geometry, x), in_shape)


def run_conv(kernel: torch.Tensor, geometry: ConvGeometry, x: torch.Tensor) -> torch.Tensor:
    """Run a convolution the way torch.nn does."""
    g = geometry
    if g.transposed:
        pads = tuple(low for low, _ in g.padding)
        assert pads == tuple(high for _, high in g.padding)
        return _TRANSPOSED[g.rank - 1](
            x, kernel, None, g.stride, pads, g.output_padding or 0, g.groups, g.dilation
        )
    if g.mode is PaddingMode.ZEROS and all(low == high for low, high in g.padding):
        pads = tuple(low for low, _ in g.padding)
        return _CONV[g.rank - 1](x, kernel, None, g.stride, pads, g.dilation, g.groups)
    flat = [size for pad in reversed(g.padding) for size in pad]
    mode = "constant" if g.mode is PaddingMode.ZEROS else g.mode.value
    padded = nn.functional.pad(x, flat, mode=mode)
    return _CONV[g.rank - 1](padded, kernel, None, g.stride, 0, g.dilation, g.groups)


def wrapped_matrix(
    kernel: torch.Tensor, geometry: ConvGeometry, sizes: tuple[int, ...]
) -> torch.Tensor:
    """Write the circular convolution out entry by entry, with indices modulo the size.

    No padding is involved, so the kernel may be larger than the torus.
    """
    out, inner, *taps = kernel.shape
    groups = geometry.groups
    counts = [n // s for n, s in zip(sizes, geometry.stride, strict=True)]
    matrix = np.zeros((out, *counts, inner * groups, *sizes))
    for position in np.ndindex(*counts):
        for tap in np.ndindex(*taps):
            source = tuple(
                (j * s + d * p) % n
                for j, s, d, p, n in zip(
                    position, geometry.stride, geometry.dilation, tap, sizes, strict=True
                )
            )
            for group in range(groups):
                rows = slice(group * out // groups, (group + 1) * out // groups)
                columns = slice(group * inner, (group + 1) * inner)
                matrix[(rows, *position, columns, *source)] += kernel.numpy()[
                    (rows, slice(None), *tap)
                ]
    return torch.from_numpy(matrix.reshape(out * math.prod(counts), -1))


def singular_values(matrix: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return the singular values of a matrix, largest first."""
    values: npt.NDArray[np.float64] = torch.linalg.svdvals(matrix).numpy()
    return values


def exact_singular_values(matrix: torch.Tensor, digits: int = 50) -> list[mpmath.mpf]:
    """Return the singular values of a small matrix to many digits, largest first."""
    with mpmath.workdps(digits):
        entries = mpmath.matrix(matrix.tolist())
        values = mpmath.svd_r(entries, compute_uv=False)
        return sorted((mpmath.mpf(value) for value in values), reverse=True)


@dataclass(frozen=True)
class ExactNorm:
    """The spectral norm of a matrix of floats, compared with numbers in integer arithmetic.

    No digit is ever rounded: ‖A‖ <= t exactly when t²I - AᵀA has no negative eigenvalue, which
    an elimination in integers decides.
    """

    gram: npt.NDArray[np.object_]
    """AᵀA or AAᵀ, whichever is smaller, in units of `unit`, as Python integers."""
    unit: Fraction

    @classmethod
    def of(cls, *parts: torch.Tensor) -> "ExactNorm":
        """Take the sum of real matrices exactly; of a complex one, alone, its real form."""
        (first, *_) = parts
        if first.is_complex():
            # [[X, -Y], [Y, X]] has the singular values of X + iY, each of them twice.
            rows = [torch.cat([first.real, -first.imag], 1), torch.cat([first.imag, first.real], 1)]
            return cls.of(torch.cat(rows))
        entries = [_as_integers(part) for part in parts]
        least = min(exponent for _, exponent in entries)
        matrix = sum(integers * (1 << (exponent - least)) for integers, exponent in entries)
        wide = matrix if first.shape[0] <= first.shape[1] else matrix.T
        return cls(wide @ wide.T, Fraction(2) ** (2 * least))

    def is_at_most(self, bound: float | Decimal | Fraction) -> bool:
        """Tell whether the norm is at most the bound."""
        return self._eliminated(bound) is not None

    def is_at_least(self, bound: float | Decimal | Fraction) -> bool:
        """Tell whether the norm is at least the bound."""
        return self._eliminated(bound) in {None, 0}

    def _eliminated(self, bound: float | Decimal | Fraction) -> int | None:
        """Eliminate t²I - AᵀA without fractions (Bareiss 1968).

        None: it has a negative eigenvalue. 0: it is singular. 1: it is positive definite.
        """
        square = Fraction(bound) ** 2 / self.unit
        size = len(self.gram)
        left = self.gram * -square.denominator
        left[np.diag_indices(size)] += square.numerator
        previous, sign = 1, 1
        for _ in range(size):
            pivot, row = left[0, 0], left[0, 1:]
            if pivot < 0 or (pivot == 0 and any(row)):
                return None
            if pivot == 0:
                left, sign = left[1:, 1:], 0
                continue
            left = (left[1:, 1:] * pivot - np.outer(row, row)) // previous
            previous = pivot
        return sign


def _as_integers(matrix: torch.Tensor) -> tuple[npt.NDArray[np.object_], int]:
    """Return whole numbers and an exponent of 2 that together are the matrix."""
    mantissas, exponents = np.frexp(matrix.numpy())
    # Zeros have no exponent of their own.
    least = int(exponents[mantissas != 0].min(initial=0))
    shifts = np.where(mantissas != 0, exponents - least, 0)
    whole = (mantissas * 2.0**53).astype(np.int64).astype(object)
    return whole * np.vectorize(lambda shift: 1 << int(shift), otypes=[object])(shifts), least - 53


def exact_conv_parts(
    kernel: torch.Tensor, geometry: ConvGeometry, in_shape: tuple[int, ...]
) -> list[torch.Tensor]:
    """Return matrices whose exact sum is the matrix of the convolution.

    With zero padding one is enough: every entry is one tap. Other paddings add taps up, and of
    taps of few bits that adds up exactly.
    """
    if geometry.mode is PaddingMode.ZEROS:
        return [conv_matrix(kernel, geometry, in_shape)]
    return [conv_matrix(part, geometry, in_shape) for part in _of_few_bits(kernel)]


def _of_few_bits(kernel: torch.Tensor, bits: int = 24) -> Iterator[torch.Tensor]:
    """Cut a kernel into terms whose entries are multiples of one number, below 2^bits times it."""
    yield torch.zeros_like(kernel)
    rest = kernel.clone()
    while bool(rest.any()):
        step = math.ldexp(1.0, math.frexp(float(rest.abs().max()))[1] - bits)
        top = (rest / step).trunc() * step
        yield top
        rest = rest - top


def exact_svd_of_sum(parts: Sequence[torch.Tensor], digits: int = 50) -> list[mpmath.mpf]:
    """Return the singular values of the exact sum of real matrices, largest first."""
    with mpmath.workdps(digits):
        total = mpmath.matrix(parts[0].tolist())
        for part in parts[1:]:
            total += mpmath.matrix(part.tolist())
        try:
            values = mpmath.svd_r(total, compute_uv=False)
        except RuntimeError:  # its iteration does not converge on some matrices of small integers
            values = mpmath.svd_r(total.T, compute_uv=False)
        return sorted(map(mpmath.mpf, values), reverse=True)


def values_outside(values: Sequence[float], radius: float, parts: Sequence[torch.Tensor]) -> int:
    """Count the true singular values that are farther than the radius from the stated ones."""
    truth = exact_svd_of_sum(parts)
    with mpmath.workdps(50):
        return sum(
            abs(mpmath.mpf(stated) - exact) > radius
            for stated, exact in zip(values, truth, strict=True)
        )


def frequency_maximum(kernel: torch.Tensor, geometry: ConvGeometry, points: int) -> float:
    """Return the largest norm of the symbol on a grid of so many points an axis.

    By FFT of the dilated kernel. A stride s folds the frequencies (θ + 2πj)/s onto θ: the
    symbol of the strided map is their symbols side by side, over √s on each axis.
    """
    rank = geometry.rank
    out, inner, *taps = kernel.shape
    reach = [d * (k - 1) + 1 for d, k in zip(geometry.dilation, taps, strict=True)]
    spread = np.zeros((out, inner, *reach))
    steps = tuple(slice(None, None, d) for d in geometry.dilation)
    spread[(slice(None), slice(None), *steps)] = kernel.numpy()
    fine = [s * max(points, size) for s, size in zip(geometry.stride, reach, strict=True)]
    symbols = np.fft.fftn(spread, fine, axes=tuple(range(2, 2 + rank)))
    # Index j·coarse + m of each axis becomes (j, m): j goes to the columns, m to the batch.
    folded = symbols.reshape(
        out, inner, *(n for f, s in zip(fine, geometry.stride, strict=True) for n in (s, f // s))
    )
    aliases, frequencies = range(2, 2 + 2 * rank, 2), range(3, 3 + 2 * rank, 2)
    side_by_side = folded.transpose(*frequencies, 0, 1, *aliases)
    matrices = side_by_side.reshape(
        -1, geometry.groups, out // geometry.groups, inner * math.prod(geometry.stride)
    ) / math.sqrt(math.prod(geometry.stride))
    return float(np.linalg.svd(matrices, compute_uv=False).max(initial=0.0))


def appendix_a(kernel: torch.Tensor, sizes: Sequence[int], limit: float) -> torch.Tensor:
    """Return what the function in appendix A of Sedghi, Gupta & Long (2019) returns."""
    turned = kernel.permute(2, 3, 0, 1).numpy()
    coefficients = np.fft.fft2(turned, tuple(sizes), axes=(0, 1))
    U, D, V = np.linalg.svd(coefficients, compute_uv=True, full_matrices=False)
    D_clipped = np.minimum(D, limit)
    if turned.shape[2] > turned.shape[3]:
        clipped = np.matmul(U, D_clipped[..., None] * V)
    else:
        clipped = np.matmul(U * D_clipped[..., None, :], V)
    found = np.fft.ifft2(clipped, axes=(0, 1)).real
    cut = found[np.ix_(*[range(d) for d in turned.shape])]
    return torch.from_numpy(np.ascontiguousarray(cut)).permute(2, 3, 0, 1)


def clipped_matrix(matrix: torch.Tensor, limit: float) -> torch.Tensor:
    """Return the nearest matrix of norm at most the limit, by NumPy's SVD."""
    left, values, right = np.linalg.svd(matrix.numpy(), full_matrices=False)
    return torch.from_numpy((left * np.minimum(values, limit)) @ right)


def clipped_once(
    kernel: torch.Tensor, geometry: ConvGeometry, sizes: tuple[int, ...], limit: float
) -> torch.Tensor:
    """Clip the matrix of a circular convolution and return the kernel whose matrix is nearest.

    Of several that are as near, the one nearest to the old kernel; by least squares.
    """
    basis = torch.eye(kernel.numel(), dtype=torch.float64).reshape(-1, *kernel.shape)
    columns = [wrapped_matrix(one, geometry, sizes).flatten() for one in basis]
    matrix = wrapped_matrix(kernel, geometry, sizes)
    change = clipped_matrix(matrix, limit) - matrix
    step = np.linalg.lstsq(torch.stack(columns, 1).numpy(), change.flatten().numpy(), rcond=1e-10)
    return kernel + torch.from_numpy(step[0]).reshape(kernel.shape)


@dataclass(frozen=True)
class SymbolMap:
    """The symbol of a convolution at the frequencies of a torus, as a matrix on the kernel.

    A stride s folds the frequencies (θ + 2πj)/s onto θ, as in `frequency_maximum`.
    """

    matrix: npt.NDArray[np.complex128]
    """(entries of all symbols, numbers of the kernel)."""
    blocks: tuple[int, int, int]
    """Matrices, rows, columns."""
    weights: npt.NDArray[np.float64]
    """Of the matrices: which share of the frequencies each of them stands for."""

    @classmethod
    def of(cls, shape: Sequence[int], geometry: ConvGeometry, sizes: Sequence[int]) -> "SymbolMap":
        """Write Σ K[p] e^{-i p·θ} out at one of each pair ±θ; `sizes` are those after strides."""
        _, inner, *taps = shape
        rows, folds = shape[0] // geometry.groups, list(np.ndindex(*geometry.stride))
        blocks, weights = [], []
        for point in np.ndindex(*sizes):
            mirrored = tuple(-at % n for at, n in zip(point, sizes, strict=True))
            if point > mirrored:
                continue
            share = (1 + (point != mirrored)) / math.prod(sizes)
            turns = (np.array(point) / sizes + np.array(folds)) / geometry.stride
            spread = np.stack(list(np.ndindex(*taps))) * geometry.dilation
            waves = np.exp(-2j * np.pi * turns @ spread.T) / math.sqrt(len(folds))
            for group in range(geometry.groups):
                block = np.zeros((rows, len(folds), inner, *shape[:2], len(spread)), complex)
                for row, column in np.ndindex(rows, inner):
                    block[row, :, column, group * rows + row, column] = waves
                blocks.append(block)
                weights.append(share)
        matrix = np.stack(blocks).reshape(-1, math.prod(shape))
        return cls(matrix, (len(blocks), rows, len(folds) * inner), np.array(weights))

    def values(self, kernel: npt.NDArray[np.float64]) -> npt.NDArray[np.complex128]:
        """Return P at every frequency, for every group."""
        made: npt.NDArray[np.complex128] = (self.matrix @ kernel.ravel()).reshape(self.blocks)
        return made

    def norm(self, kernel: torch.Tensor) -> float:
        """Return the largest norm at these frequencies."""
        values = np.linalg.svd(self.values(kernel.numpy()), compute_uv=False)
        return float(values.max())

    @property
    def back(self) -> npt.NDArray[np.complex128]:
        """The adjoint, with the weights; of its products the real part counts."""
        size = math.prod(self.blocks[1:])
        made: npt.NDArray[np.complex128] = self.matrix.conj().T * self.weights.repeat(size)
        return made


def nearest_by_dykstra(
    kernel: torch.Tensor,
    at: SymbolMap,
    limit: float,
    norm: Callable[[torch.Tensor], float],
    accuracy: float = 2e-3,
) -> tuple[float, float]:
    """Return the distance of the nearest kernel, between two numbers.

    By clipping the symbol and cutting it to the support in turns, with Dykstra's correction,
    until weak duality shows the distance to the accuracy. `norm` is that of the operator; the
    map from kernels to symbols must keep the lengths that it does not lose, but for one factor.
    """
    start, back = kernel.numpy().ravel(), at.back
    square = (back @ at.matrix).real
    factor = float(np.linalg.eigvalsh(square).max())
    assert np.allclose(square @ square, factor * square, atol=1e-9 * factor**2)
    lost = start - square @ start / factor
    found, correction, least, distance = start, np.zeros(at.blocks, complex), 0.0, math.inf
    for round_ in range(20_000):
        pushed = at.values(found) + correction
        left, values, right = np.linalg.svd(pushed, full_matrices=False)
        over = np.maximum(values - limit, 0.0)
        correction = (left * over[..., None, :]) @ right
        found = lost + (back @ (pushed - correction).ravel()).real / factor
        if round_ % 50 == 49:
            # ½d² >= ½‖K₀‖² - ½‖K‖² - c Σ w ‖Y‖_* for Dykstra's K and corrections Y.
            nuclear = float(over.sum(-1) @ at.weights) / factor
            dual = start @ start - found @ found - 2.0 * limit * nuclear
            least = max(least, math.sqrt(max(dual, 0.0)))
            inside = torch.from_numpy(found).reshape(kernel.shape)
            inside = inside * min(limit / norm(inside), 1.0)
            distance = min(distance, float((inside - kernel).norm()))
            if distance <= (1.0 + accuracy) * least:
                return least, distance
    raise AssertionError(f"between {least} and {distance} after all rounds")
