"""Convolution operators: at one input size, or for every size at once.

`convolution` chooses; how a norm is found depends on the padding mode and on what is small
enough, and the `method` of the `Norm` says which way it went.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NoReturn, final

import numpy as np
import torch

from lipaudit.device import Compute
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.errors import ShapeError
from lipaudit.operators import circular, dense, krylov, leading, padded, support
from lipaudit.operators.base import AbstractLinearOperator, Norm, Shape
from lipaudit.operators.batches import one_thread
from lipaudit.operators.certify import check_finite
from lipaudit.operators.correlation import Correlation
from lipaudit.operators.geometry import ConvGeometry, PaddingMode
from lipaudit.operators.scaled import ScaledOperator
from lipaudit.operators.scaling import normalised
from lipaudit.operators.size_free import supremum
from lipaudit.operators.spectrum import Leading, Spectrum
from lipaudit.operators.strided import reduced
from lipaudit.operators.symbol import Symbol

_DENSE_SIDE = 1600
_DENSE_ENTRIES = 1 << 23
_DENSE_FLOPS = 2e11
"""The real operator is written out as a matrix when its smaller side, its entries and the work
of decomposing it stay below these: about two seconds and 64 MB."""
_PAD_ROOM = {PaddingMode.CIRCULAR: 0, PaddingMode.REFLECT: -1}
"""By how much the padding of one side may exceed the size (as torch demands)."""
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
    if in_shape is not None and geometry.stated:
        stated = Correlation(kernel, geometry, in_shape)
        _check_padding(stated)
        return _sized(stated, compute)
    with one_thread():
        moderate, factor = normalised(kernel)
    inner = SizeFreeConvolution(moderate, geometry, _in_units(compute, factor))
    return inner if factor == 1.0 else ScaledOperator(inner, factor)


def _sized(stated: Correlation, compute: Compute) -> AbstractLinearOperator:
    with one_thread():
        conv = support.live(stated)
        moderate, factor = normalised(conv.kernel)
    local = _in_units(compute, factor)
    inner = SizedConvolution(replace(conv, kernel=moderate), local, stated, factor)
    return inner if factor == 1.0 else ScaledOperator(inner, factor)


def _in_units(compute: Compute, factor: float) -> Compute:
    """Say what is enough for an operator that is to be multiplied by a factor."""
    if compute.enough is None:
        return compute
    # A quotient and a product are rounded; the result must not pass what is enough.
    return replace(compute, enough=compute.enough / factor * (1.0 - 2.0**-48))


def _check_padding(conv: Correlation) -> None:
    """Refuse what torch refuses: a padding that shows more than the input once more."""
    mode, g = conv.geometry.mode, conv.geometry
    room = _PAD_ROOM.get(mode, math.inf)
    if any(max(pad) > n + room for n, pad in zip(conv.wide, g.padding, strict=True)):
        raise ShapeError(
            f"{mode.value} padding does not fit an input of {_by(conv.wide)}", slug="shape"
        )


def as_circular(operator: AbstractLinearOperator) -> AbstractLinearOperator:
    """Return the circular convolution of the same kernel at the same input size.

    That is the operator of Sedghi, Gupta & Long (2019). Other operators, and convolutions for
    every size at once, whose supremum is that of all tori, are returned as they are.
    """
    if isinstance(operator, ScaledOperator):
        # A sized convolution knows its own scale.
        inner = as_circular(operator.inner)
        sized = isinstance(operator.inner, SizedConvolution)
        return inner if sized else replace(operator, inner=inner)
    if isinstance(operator, SizeFreeConvolution):
        return replace(operator, geometry=replace(operator.geometry, mode=PaddingMode.ZEROS))
    if not isinstance(operator, SizedConvolution):
        return operator
    conv = operator.stated
    for n, s in zip(conv.in_shape[1:], conv.geometry.stride, strict=True):
        if n % s and not conv.geometry.transposed:
            raise ShapeError(
                f"a stride of {s} does not divide {n}: there is no circular convolution",
                slug="circular",
            )
    # Where a kernel goes around more than once, it meets the same pixels again.
    points = conv.in_shape[1:]
    if conv.geometry.transposed:
        points = tuple(n * s for n, s in zip(points, conv.geometry.stride, strict=True))
    dilation = tuple((d - 1) % n + 1 for d, n in zip(conv.geometry.dilation, points, strict=True))
    sizes = conv.kernel.shape[2:]
    reach = tuple(d * (k - 1) for d, k in zip(dilation, sizes, strict=True))
    wrapped = replace(
        conv.geometry,
        mode=PaddingMode.CIRCULAR,
        padding=tuple((r // 2, r - r // 2) for r in reach),
        dilation=dilation,
        # A transposed one then makes exactly stride times as many points.
        output_padding=tuple(s - 1 for s in conv.geometry.stride),
    )
    return _sized(replace(conv, geometry=wrapped), operator.compute)


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
            found = _everywhere(widest, self.compute)
            # A circular padding that reaches farther shows some outputs twice: times √copies.
            how = "sup over frequencies, any zero padding, circular up to the kernel's reach"
            return Norm(found.without_lower(), how)
        zeros = self.geometry.mode is PaddingMode.ZEROS
        # What padding multiplies is enough only when it is known by how much.
        compute = self.compute if zeros else replace(self.compute, enough=None)
        found = _everywhere(reduced(self.kernel, self.geometry), compute)
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
        for size in _REFERENCE_SIZES:
            points = self._reference(size)
            spectrum = circular.spectrum(self.kernel, self.geometry, points, self.compute)
            if spectrum is not None:
                return spectrum
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
    """Without taps that never touch data (`support`), and of moderate size."""
    compute: Compute
    stated: Correlation
    """As it was given: in its own scale, with all of its taps."""
    factor: float
    """What a `ScaledOperator` around this one multiplies by, to come to the scale of `stated`."""

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
        core = self._core
        if not padded.can_try(core, self.compute):
            return None
        return leading.leading(
            lambda x: core.apply(x.unsqueeze(0)).squeeze(0),
            lambda y: core.adjoint(y.unsqueeze(0)).squeeze(0),
            krylov.scrambled(core.in_shape, core.kernel.device),
            doubt=padded.apply_doubt(core),
            flops_each=2.0 * core.multiplications,
            max_memory=self.compute.max_memory,
        )

    @cached_property
    def _spectrum(self) -> Spectrum | None:
        if not self.compute.full_spectra or not self.conv.kernel.numel():
            return None
        shape = math.prod(self.out_shape), math.prod(self.in_shape)
        if not bool(self.conv.kernel.any()):
            nothing = Spectrum(np.zeros(0), 0, 0, Rigor.PROVED, 0.0, "zero operator")
            return support.completed(nothing, *shape, self.compute)
        if self._is_torus or self._exact is None:
            points = tuple(map(_multiple, self.conv.wide, self.conv.geometry.stride))
            kernel, geometry = self.conv.kernel, self.conv.geometry
            return circular.spectrum(kernel, geometry, points, self.compute, own=self._is_torus)
        if self._exact.spectrum is None:
            return None
        times = math.prod(self._core.narrow) if self._is_apart else 1
        return support.completed(self._exact.spectrum, *shape, self.compute, times=times)

    def frobenius(self) -> float:
        """See `AbstractLinearOperator.frobenius`."""
        return self._core.frobenius()

    def reshaped_norm(self) -> float:
        """See `AbstractLinearOperator.reshaped_norm`."""
        transposed = self.stated.geometry.transposed
        return reshaped_norm(self.stated.kernel, transposed=transposed) / self.factor

    @property
    def _is_torus(self) -> bool:
        return padded.is_torus(self.conv) and not self._is_apart

    @property
    def _is_apart(self) -> bool:
        return support.is_apart(self._core)

    @cached_property
    def _core(self) -> Correlation:
        """The map without what is zero for certain: the same singular values, but for zeros."""
        return support.core(self.conv)

    @cached_property
    def _exact(self) -> dense.Measured | None:
        """What the matrix of the core, or of one window, says; None when it is too large."""
        if self._is_apart:
            return dense.measure(_as_matrices(self._core), self.compute)
        blocks, rows, columns = self._core.block_shape
        entries, side = blocks * rows * columns, min(rows, columns)
        work = dense.FLOPS_PER_ENTRY * entries * side
        small = side <= _DENSE_SIDE and entries <= _DENSE_ENTRIES and work <= _DENSE_FLOPS
        if (
            not (small or self.compute.by_svd)
            or dense.SVD_COPIES * 8 * entries > self.compute.max_memory
        ):
            return None
        return dense.measure(self._core.matrix(), self.compute, self._core.matrix_error)

    @cached_property
    def _norm(self) -> Norm:
        size = f"{self.conv.geometry.mode.value}-padded {_by(self.conv.wide)}"
        size = size.replace("zeros", "zero")
        if not bool(self.conv.kernel.any()):
            why = "no tap ever touches data" if bool(self.stated.kernel.any()) else "zero kernel"
            return Norm(Enclosure.exactly(0), why)
        if self._is_torus:
            return padded.on_torus(self.conv, self.compute)
        if self._exact is not None:
            how = "one matrix at every window" if self._is_apart else "exact matrix"
            return Norm(self._exact.norm.enclosure, f"{size}, {how}")
        return padded.bounded(self._core, self.compute, size)


def _as_matrices(conv: Correlation) -> torch.Tensor:
    """Return what one window does, as a stack of matrices, one a group."""
    groups, outputs = conv.geometry.groups, conv.kernel.shape[0]
    return conv.kernel.reshape(groups, outputs // groups, -1)


def _everywhere(symbol: Symbol, compute: Compute) -> Enclosure:
    """Enclose sup_θ ‖P(θ)‖."""
    if len(symbol.offsets) > 1:
        return supremum(symbol, compute).enclosure
    # P(θ) is a number of modulus 1 times one matrix.
    return dense.measure(symbol.taps[0], replace(compute, full_spectra=False)).norm.enclosure


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
