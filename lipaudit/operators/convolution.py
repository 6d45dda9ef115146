"""Convolution operators: at one input size, or for every size at once.

`convolution` chooses; how a norm is found depends on the padding mode and on what is small
enough, and the `method` of the `Norm` says which way it went.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NoReturn, final

import torch

from lipaudit.device import Compute
from lipaudit.enclosure import Enclosure
from lipaudit.errors import ShapeError
from lipaudit.operators import dense, krylov, leading, padded
from lipaudit.operators.base import AbstractLinearOperator, Norm, Shape
from lipaudit.operators.batches import one_thread
from lipaudit.operators.certify import check_finite
from lipaudit.operators.correlation import Correlation
from lipaudit.operators.geometry import ConvGeometry, PaddingMode
from lipaudit.operators.scaled import ScaledOperator
from lipaudit.operators.scaling import normalised
from lipaudit.operators.size_free import supremum
from lipaudit.operators.spectrum import Leading, Spectrum
from lipaudit.operators.strided import polyphase, reduced
from lipaudit.operators.torus_spectrum import OWN_FLOPS, STAND_IN_FLOPS, torus_spectrum

_DENSE_SIDE = 1600
_DENSE_ENTRIES = 1 << 23
_DENSE_FLOPS = 2e11
"""The real operator is written out as a matrix when its smaller side, its entries and the work
of decomposing it stay below these: about two seconds and 64 MB."""
_REFERENCE_SIZES = (16, 8)
"""Points an axis of the torus that stands for all sizes when ranks are asked without a size."""


def convolution(
    kernel: torch.Tensor, geometry: ConvGeometry, in_shape: Shape | None, compute: Compute
) -> AbstractLinearOperator:
    """Return the operator of a kernel (out, in / groups, *sizes), float64.

    `in_shape` is (channels, *sizes); None means every size at once, and so does a geometry
    that is not stated.
    """
    if kernel.dim() != geometry.rank + 2 or kernel.shape[0] % geometry.groups:
        raise ShapeError(
            f"a kernel of shape {_by(tuple(kernel.shape))} is no {geometry.rank}-D convolution "
            f"of {geometry.groups} groups",
            slug="shape",
        )
    with one_thread():
        check_finite(kernel)
        moderate, factor = normalised(kernel)
    inner: AbstractLinearOperator
    if in_shape is None or not geometry.stated:
        inner = SizeFreeConvolution(moderate, geometry, compute)
    else:
        inner = SizedConvolution(Correlation(moderate, geometry, in_shape), compute)
    return inner if factor == 1.0 else ScaledOperator(inner, factor)


def as_circular(operator: AbstractLinearOperator) -> AbstractLinearOperator:
    """Return the circular convolution of the same kernel at the same input size.

    That is the operator of Sedghi, Gupta & Long (2019). Other operators, and convolutions for
    every size at once, whose supremum is that of all tori, are returned as they are.
    """
    if isinstance(operator, ScaledOperator):
        return replace(operator, inner=as_circular(operator.inner))
    if isinstance(operator, SizeFreeConvolution):
        return replace(operator, geometry=replace(operator.geometry, mode=PaddingMode.ZEROS))
    if not isinstance(operator, SizedConvolution):
        return operator
    conv = operator.conv
    for n, s in zip(conv.in_shape[1:], conv.geometry.stride, strict=True):
        if n % s and not conv.geometry.transposed:
            raise ShapeError(
                f"a stride of {s} does not divide {n}: there is no circular convolution",
                slug="circular",
            )
    wrapped = replace(
        conv.geometry,
        mode=PaddingMode.CIRCULAR,
        padding=tuple((reach // 2, reach - reach // 2) for reach in conv.reach),
        # A transposed one then makes exactly stride times as many points.
        output_padding=tuple(s - 1 for s in conv.geometry.stride),
    )
    return SizedConvolution(replace(conv, geometry=wrapped), operator.compute)


def reshaped_norm(kernel: torch.Tensor, *, transposed: bool) -> float:
    """Return the norm of the kernel as an (outputs x rest) matrix.

    For a transposed convolution outputs are axis 1, as torch's spectral_norm takes them.
    """
    turned = kernel.transpose(0, 1) if transposed else kernel
    return dense.largest_singular_value(turned.flatten(1))


@final
@dataclass(frozen=True, eq=False)
class SizeFreeConvolution(AbstractLinearOperator):
    """A convolution on inputs of any size; its norm bounds all of them."""

    kernel: torch.Tensor
    geometry: ConvGeometry
    compute: Compute

    @property
    def in_shape(self) -> None:
        """See `AbstractLinearOperator.in_shape`."""

    @property
    def out_shape(self) -> None:
        """See `AbstractLinearOperator.out_shape`."""

    def apply(self, x: torch.Tensor) -> NoReturn:
        """Refuse: there is no one map."""
        raise _no_size(x)

    def adjoint(self, y: torch.Tensor) -> NoReturn:
        """Refuse: there is no one map."""
        raise _no_size(y)

    def norm(self) -> Norm:
        """Enclose the supremum of the norms over all input sizes, reached in the limit.

        When the geometry is not stated only an upper bound is left. The symbol with stride 1
        and one group covers every case: a stride and zero padding delete rows and columns of
        the operator on the infinite grid, dilation keeps the supremum over θ, the adjoint has
        the same norm, and the kernels of several groups are row blocks of the one-group kernel.
        """
        return self._norm

    @cached_property
    def _norm(self) -> Norm:
        if not bool(self.kernel.any()):
            return Norm(Enclosure.exactly(0), "zero kernel")
        if not self.geometry.stated:
            widest = reduced(self.kernel, ConvGeometry.unstated(self.geometry.rank))
            found = supremum(widest, self.compute).enclosure
            return Norm(found.without_lower(), "sup over frequencies, any geometry")
        found = supremum(reduced(self.kernel, self.geometry), self.compute).enclosure
        if self.geometry.mode is PaddingMode.ZEROS:
            return Norm(found, "sup over frequencies, any input size")
        # Large inputs are mostly interior, so the lower end stands for every padding mode.
        upper = padded.size_free(self.kernel, self.geometry, found, self.compute)
        method = f"sup over frequencies x {self.geometry.mode.value} padding, any input size"
        return Norm(Enclosure(found.lo, max(upper.hi, found.lo), upper.rigor), method)

    def spectrum(self) -> Spectrum | None:
        """Return the spectrum on a small torus, None when even that is too much work."""
        if not self.compute.full_spectra or not self.kernel.numel():
            return None
        symbol = polyphase(self.kernel, self.geometry)
        for size in _REFERENCE_SIZES:
            points = self._reference(size)
            sizes = tuple(n // s for n, s in zip(points, self.geometry.stride, strict=True))
            of = f"circular {_by(points)}"
            spectrum = torus_spectrum(symbol, sizes, self.compute, of=of, most=STAND_IN_FLOPS)
            if spectrum is not None:
                return _turned(spectrum, self.geometry)
        return None

    def _reference(self, size: int) -> Shape:
        """Return a torus at least as large as the kernel; one point where the kernel has one."""
        g = self.geometry
        return tuple(
            _multiple(1 if k == 1 else max(size, d * (k - 1) + 1), s)
            for k, d, s in zip(self.kernel.shape[2:], g.dilation, g.stride, strict=True)
        )

    def leading(self) -> None:
        """Return None: there is no one map."""

    def frobenius(self) -> None:
        """Return None: it grows with the input."""

    def reshaped_norm(self) -> float:
        """See `AbstractLinearOperator.reshaped_norm`."""
        return reshaped_norm(self.kernel, transposed=self.geometry.transposed)


@final
@dataclass(frozen=True, eq=False)
class SizedConvolution(AbstractLinearOperator):
    """A convolution on inputs of one size, with its own padding mode, stride and groups."""

    conv: Correlation
    compute: Compute

    @property
    def in_shape(self) -> Shape:
        """See `AbstractLinearOperator.in_shape`."""
        return self.conv.in_shape

    @property
    def out_shape(self) -> Shape:
        """See `AbstractLinearOperator.out_shape`."""
        return self.conv.out_shape

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """See `AbstractLinearOperator.apply`."""
        return self.conv.apply(x)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """See `AbstractLinearOperator.adjoint`."""
        return self.conv.adjoint(y)

    def norm(self) -> Norm:
        """See `AbstractLinearOperator.norm`."""
        return self._norm

    def spectrum(self) -> Spectrum | None:
        """Return the operator's own spectrum, or that of the circular one of the same size."""
        return self._spectrum

    def leading(self) -> Leading | None:
        """See `AbstractLinearOperator.leading`."""
        is_own = self._spectrum is not None and not self._spectrum.of
        if not self.compute.full_spectra or is_own or not bool(self.conv.kernel.any()):
            return None
        return leading.leading(
            lambda x: self.conv.apply(x.unsqueeze(0)).squeeze(0),
            lambda y: self.conv.adjoint(y.unsqueeze(0)).squeeze(0),
            krylov.scrambled(self.in_shape, self.conv.kernel.device),
            doubt=padded.apply_doubt(self.conv),
            flops_each=2.0 * self.conv.multiplications,
            max_memory=self.compute.max_memory,
        )

    @cached_property
    def _spectrum(self) -> Spectrum | None:
        if not self.compute.full_spectra or not self.conv.kernel.numel():
            return None
        if self._is_torus or self._exact is None:
            points = tuple(map(_multiple, self.conv.wide, self.conv.geometry.stride))
            of = "" if self._is_torus else f"circular {_by(points)}"
            sizes = tuple(n // s for n, s in zip(points, self.conv.geometry.stride, strict=True))
            with one_thread():
                symbol = polyphase(self.conv.kernel, self.conv.geometry)
            most = OWN_FLOPS if self._is_torus else STAND_IN_FLOPS
            spectrum = torus_spectrum(symbol, sizes, self.compute, of=of, most=most)
            return spectrum and _turned(spectrum, self.conv.geometry)
        return self._exact.spectrum

    def frobenius(self) -> float:
        """See `AbstractLinearOperator.frobenius`."""
        return self.conv.frobenius()

    def reshaped_norm(self) -> float:
        """See `AbstractLinearOperator.reshaped_norm`."""
        return reshaped_norm(self.conv.kernel, transposed=self.conv.geometry.transposed)

    @property
    def _is_torus(self) -> bool:
        return padded.is_torus(self.conv)

    @cached_property
    def _exact(self) -> dense.Measured | None:
        """What the matrix of the operator says; None when it is too large to write out."""
        blocks, rows, columns = self.conv.block_shape
        entries, side = blocks * rows * columns, min(rows, columns)
        work = dense.FLOPS_PER_ENTRY * entries * side
        small = side <= _DENSE_SIDE and entries <= _DENSE_ENTRIES and work <= _DENSE_FLOPS
        if (
            not (small or self.compute.by_svd)
            or dense.SVD_COPIES * 8 * entries > self.compute.max_memory
        ):
            return None
        return dense.measure(self.conv.matrix(), self.compute, self.conv.matrix_error)

    @cached_property
    def _norm(self) -> Norm:
        size = f"{self.conv.geometry.mode.value}-padded {_by(self.conv.wide)}"
        size = size.replace("zeros", "zero")
        if not bool(self.conv.kernel.any()):
            return Norm(Enclosure.exactly(0), "zero kernel")
        if self._is_torus:
            return padded.on_torus(self.conv, self.compute)
        if self._exact is not None:
            return Norm(self._exact.norm.enclosure, f"{size}, exact matrix")
        return padded.bounded(self.conv, self.compute, size)


def _turned(spectrum: Spectrum, geometry: ConvGeometry) -> Spectrum:
    """Return the spectrum of a plain convolution as that of the operator it describes."""
    if not geometry.transposed:
        return spectrum
    return replace(spectrum, rows=spectrum.columns, columns=spectrum.rows)


def _no_size(signal: torch.Tensor) -> ShapeError:
    return ShapeError(
        f"an operator for every input size cannot be applied to one of {_by(tuple(signal.shape))}",
        slug="needs-shape",
        hint="give the input's shape",
    )


def _by(sizes: Shape) -> str:
    return "x".join(map(str, sizes))


def _multiple(size: int, step: int) -> int:
    """Return the least multiple of the step that is not below the size."""
    return math.ceil(size / step) * step
