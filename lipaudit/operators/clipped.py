"""Clipped weights: of a matrix, a stack of matrices, a kernel, those of norm at most c.

The nearest matrix is U min(Σ, c) Vᵀ (Fan & Hoffman). The nearest kernel keeps its support, which
takes an iteration (`nearest`). What comes out meets the limit about; only a proof of the stored
tensor can say that it does.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch

from lipaudit.device import Compute
from lipaudit.operators import support
from lipaudit.operators.ball import beyond
from lipaudit.operators.base import Shape
from lipaudit.operators.convolution import convolution
from lipaudit.operators.correlation import Correlation
from lipaudit.operators.entries import Entries
from lipaudit.operators.geometry import ConvGeometry, PaddingMode
from lipaudit.operators.nearest import fits, nearest_kernel
from lipaudit.operators.padded import is_torus
from lipaudit.operators.scaling import normalised
from lipaudit.operators.single_pass import single_pass
from lipaudit.operators.strided import polyphase, reduced
from lipaudit.operators.symbol import Symbol

_SIMILAR = 0.9
"""From this share of the norm on a limit is close to it."""
_SAME = 2e-3
"""Norms that differ by less are not told apart."""
_LOOKS = 4
"""How often the limit for every size is adapted to one size."""
_TINY = 1e-12
"""Below this share of its size a weight is not projected: rounding would be all that is left."""
_MANY = 4


@final
@dataclass(frozen=True, slots=True, eq=False)
class Clipped:
    """New values of a weight, of norm about the limit."""

    weight: torch.Tensor
    """float64, of the old shape."""
    limit: float
    """That was aimed at."""
    least: float
    """No weight that meets it is nearer than this (Frobenius); computed, 0 if unknown. For
    convolutions that is: meets it at every input size, or on their torus."""
    slope: float
    """Size of what was taken away in the dual norm: half of how fast least² falls with a limit."""

    def least_for(self, limit: float) -> float:
        """Return what `least` says of another limit: the dual is linear in it."""
        square = self.least**2 - 2.0 * (limit - self.limit) * self.slope
        return math.sqrt(max(square, 0.0))

    def times(self, factor: float) -> "Clipped":
        """Return the same for a weight in other units."""
        return Clipped(
            self.weight * factor, self.limit * factor, self.least * factor, self.slope * factor
        )

    def unknown(self) -> "Clipped":
        """Return the same without a claim of nearness."""
        return replace(self, least=0.0, slope=0.0)


def clipped_matrices(matrices: torch.Tensor, limit: float, compute: Compute) -> Clipped:
    """Return the nearest matrices (..., rows, columns) of which none is above the limit."""
    moderate, factor = normalised(matrices)
    if limit / factor < _TINY:
        # Nothing but the size is left of it.
        return Clipped(matrices * 0.0, limit, 0.0, 0.0)
    stack = moderate.reshape(-1, *moderate.shape[-2:])
    found = beyond(stack, limit / factor, compute)
    weight = moderate - found.excess.reshape(moderate.shape)
    least = float(found.excess.norm())
    return Clipped(weight, limit / factor, least, float(found.sizes.sum())).times(factor)


def clipped_kernel(
    kernel: torch.Tensor,
    geometry: ConvGeometry,
    in_shape: Shape | None,
    limit: float,
    compute: Compute,
) -> Clipped | None:
    """Return the nearest kernel of the same support whose convolution is not above the limit.

    On the torus where padding is circular; else the limit is met at every input size. Where the
    layer's own norm is far from that one, on small images or with padding that repeats pixels, the
    own norm is brought to the limit. Taps that never touch data stay as they are. None where
    there is no work space for it.
    """
    moderate, factor = normalised(kernel)
    scaled = limit / factor
    if scaled < _TINY:
        return None
    at = in_shape if geometry.stated else None
    operator = _Operator(moderate, geometry, at, compute)
    torus = operator.torus
    if torus is not None:
        found = _nearest(moderate, lambda k: polyphase(k, geometry), torus, scaled, compute)
    elif operator.is_like_any_size(scaled):
        found = operator.anywhere(moderate, scaled)
    else:
        found = operator.adapted(scaled)
    return None if found is None else found.times(factor)


def passed_kernel(
    kernel: torch.Tensor,
    geometry: ConvGeometry,
    shape: Shape | None,
    limit: float,
    compute: Compute,
) -> torch.Tensor:
    """Return the kernel after the paper's single pass, on the torus of the input's size.

    `shape` is the batch of inputs; None takes a torus of the pass's own, and so does an input whose
    size the stride does not divide: there the next multiple.
    """
    moderate, factor = normalised(kernel)
    if not geometry.stated:
        geometry = replace(ConvGeometry.unstated(geometry.rank), stated=True)
        shape = None
    points = None
    if shape is not None:
        conv = Correlation(moderate, geometry, shape[1:])
        points = tuple(-(-n // s) * s for n, s in zip(conv.wide, geometry.stride, strict=True))
    return single_pass(moderate, geometry, points, limit / factor, compute) * factor


def _nearest(
    kernel: torch.Tensor,
    arrange: Callable[[torch.Tensor], Symbol],
    torus: Shape | None,
    limit: float,
    compute: Compute,
) -> Clipped | None:
    entries = Entries.of(kernel.shape, arrange)
    if torus is not None and not fits(entries, torus, compute):
        # At every input size there are fewer frequencies to look at; what is met there is met on
        # this torus too, but a nearer kernel may do.
        found = _nearest(kernel, arrange, None, limit, compute)
        return None if found is None else found.unknown()
    if len(entries.offsets) == 1:
        taps = entries.taps(kernel)
        found = clipped_matrices(taps[0], limit, compute)
        return replace(found, weight=entries.kernel(found.weight.unsqueeze(0)))
    if not fits(entries, torus, compute):
        return None
    nearest = nearest_kernel(kernel, entries, torus, limit, compute)
    return Clipped(nearest.kernel, limit, nearest.least, nearest.slope)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Operator:
    """A convolution whose norm need not be the one at every size without padding."""

    kernel: torch.Tensor
    geometry: ConvGeometry
    in_shape: Shape | None
    compute: Compute

    @property
    def torus(self) -> Shape | None:
        """The sizes of the torus after strides; None where the operator is not exactly one."""
        if self.in_shape is None:
            return None
        conv = Correlation(self.kernel, self.geometry, self.in_shape)
        if not is_torus(conv):
            return None
        return tuple(n // s for n, s in zip(conv.wide, self.geometry.stride, strict=True))

    def is_like_any_size(self, limit: float) -> bool:
        """Tell whether the norm at every size may stand for this one.

        So it is with zeros around images on which the borders are a small part, unless there is
        so little to take away that they matter all the same.
        """
        if self.geometry.mode is not PaddingMode.ZEROS:
            return False
        if self.in_shape is None:
            return True
        conv = Correlation(self.kernel, self.geometry, self.in_shape)
        if any(n < _MANY * reach for n, reach in zip(conv.wide, conv.reach, strict=True)):
            return False
        return limit < _SIMILAR * self._norm(self.kernel, self.geometry, None)

    def adapted(self, limit: float) -> Clipped | None:
        """Clip by the norm at every size, allowing as much more as the operator's is below it.

        A small image does not feel all of a kernel: to meet the limit at every size could move it
        farther than to scale it. Where padding repeats pixels it is the other way round.
        """
        best, norm = self._lowered(self.kernel, limit)
        plain = replace(self.geometry, mode=PaddingMode.ZEROS)
        ratio = self._norm(self.kernel, plain, None) / norm if 0 < norm < math.inf else 1.0
        allowed = limit * ratio
        for _ in range(1 if abs(ratio - 1.0) < _SAME else _LOOKS):
            found = self.anywhere(self.kernel, allowed)
            if found is None:
                return None
            weight, norm = self._lowered(found.weight, limit)
            if (weight - self.kernel).norm() < (best - self.kernel).norm():
                best = weight
            if not norm > 0 or abs(norm / limit - 1.0) < _SAME:
                break
            allowed *= limit / norm
        # Of nearer kernels that meet the limit only here nothing is known.
        return Clipped(best, limit, 0.0, 0.0)

    def anywhere(self, kernel: torch.Tensor, limit: float) -> Clipped | None:
        """Clip the taps that touch data by the norm at every size."""
        whole, box = kernel.clone(), self._box
        if not whole[box].numel():
            return Clipped(whole, limit, 0.0, 0.0)
        found = _nearest(whole[box], lambda k: reduced(k, self.geometry), None, limit, self.compute)
        if found is None:
            return None
        whole[box] = found.weight
        return replace(found, weight=whole)

    def _lowered(self, kernel: torch.Tensor, limit: float) -> tuple[torch.Tensor, float]:
        """Return another kernel scaled down to the limit, and the norm it had."""
        norm = self._norm(kernel, self.geometry, self.in_shape)
        lowered = kernel.clone()
        if norm > 0:
            lowered[self._box] *= min(limit / norm, 1.0)
        return lowered, norm

    @property
    def _box(self) -> tuple[slice, ...]:
        """Where the taps that touch data are; with padding that repeats pixels all of them."""
        if self.in_shape is None or self.geometry.mode is not PaddingMode.ZEROS:
            return (slice(None),)
        conv = Correlation(self.kernel, self.geometry, self.in_shape)
        return (slice(None), slice(None), *support.touching(conv))

    def _norm(self, kernel: torch.Tensor, geometry: ConvGeometry, at: Shape | None) -> float:
        only_norm = replace(self.compute, full_spectra=False, enough=None)
        return convolution(kernel, geometry, at, only_norm).norm().enclosure.upper
