"""The single pass of Sedghi, Gupta & Long (2019), appendix A: clip the symbol, cut to the support.

One pair of projections: the convolution on a torus onto the ball of norm c, where the singular
values of every P(θ) are clipped, and the result onto the kernels of the same support. After it the
norm is nearer to c, not at most c.

P(-θ) is the conjugate of P(θ), so half of the frequencies do. With E(θ) = P(θ) - P_c(P(θ)), which
is zero wherever P(θ) lies inside the ball, the new taps are

    K_t - (1/N) Σ_θ Re(E(θ) e^{i o_t·θ})

the adjoint of the sum that makes P of the taps: neither a whole symbol nor its inverse transform
is ever formed. Taps that a small torus cannot tell apart share their correction.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch

from lipaudit.device import Compute
from lipaudit.errors import ShapeError
from lipaudit.operators.ball import COPIES, beyond
from lipaudit.operators.base import Shape
from lipaudit.operators.batches import in_batches, one_thread
from lipaudit.operators.geometry import ConvGeometry
from lipaudit.operators.strided import places, polyphase
from lipaudit.operators.symbol import Offset, Symbol
from lipaudit.operators.torus_spectrum import half_grid

_POINTS_EACH = 4
"""Points of the default torus for each tap of an axis: between two points of it the norm of a
symbol of degree r rises by a factor of at most 1/cos(π r/N) an axis, 1.08 at worst."""
_SINGLE_SIZE = 100.0
"""Up to this many times the limit single precision shows the singular values near the limit: to
2^-24·100², less than one part in a thousand."""
_FLOPS_EACH = 20.0
"""Eigenvalues and vectors of one matrix take as long as 20·side³ operations of a matrix product
(measured at 32 to 128)."""


def single_pass(
    kernel: torch.Tensor,
    geometry: ConvGeometry,
    points: Shape | None,
    limit: float,
    compute: Compute,
) -> torch.Tensor:
    """Return the kernel after one pair of projections, in its own dtype and on its device.

    The kernel is (out, in / groups, *sizes), float32 or float64; a transposed convolution is the
    adjoint of the one with the same kernel, so that it is clipped alike. `points` are the sizes of
    the torus, multiples of the stride: of the input, for a transposed convolution of the output.
    None takes a torus of four points a tap on which dilation does not matter, as it does not for
    the supremum over all sizes.
    """
    torus = Torus.of(tuple(kernel.shape), geometry, points)
    correction, _ = torus.correction(kernel, limit, compute)
    return kernel - correction


@final
@dataclass(frozen=True, eq=False)
class Torus:
    """The frequencies at which a kernel is looked at, and how taps lie in its symbol."""

    shape: Shape
    """Of the kernel."""
    geometry: ConvGeometry
    sizes: Shape
    """Points an axis, after strides: those of the plain convolution's output."""

    @classmethod
    def of(cls, shape: Shape, geometry: ConvGeometry, points: Shape | None) -> "Torus":
        """Return the torus of so many points, or the default one."""
        if points is not None:
            if any(n < 1 or n % s for n, s in zip(points, geometry.stride, strict=True)):
                raise ShapeError(
                    f"{'x'.join(map(str, points))} points are no multiple of the stride",
                    slug="circular",
                )
            sizes = tuple(n // s for n, s in zip(points, geometry.stride, strict=True))
            return cls(shape, geometry, sizes)
        strides = tuple(
            s // math.gcd(s, d) for s, d in zip(geometry.stride, geometry.dilation, strict=True)
        )
        reduced = replace(geometry, stride=strides, dilation=(1,) * geometry.rank)
        taps = (-(-k // s) for k, s in zip(shape[2:], strides, strict=True))
        return cls(shape, reduced, tuple(1 if n == 1 else _POINTS_EACH * n for n in taps))

    @property
    def matrices(self) -> int:
        """How many matrices there are: half of the frequencies, for each group."""
        return len(self.frequencies) * self.geometry.groups

    @property
    def frequencies(self) -> torch.Tensor:
        """One of each pair ±θ, in units of 2π/period."""
        return self._half[0]

    @property
    def angles(self) -> torch.Tensor:
        """The frequencies in radians, (frequencies, axes)."""
        frequencies, period, _ = self._half
        return frequencies.to(torch.float64) * (2.0 * math.pi / period)

    @property
    def taps(self) -> tuple[tuple[tuple[Offset, int], ...], int]:
        """Offset and phase of each tap, and how many phases there are."""
        return self._places, 1 + max(phase for _, phase in self._places)

    @cached_property
    def _half(self) -> tuple[torch.Tensor, int, torch.Tensor]:
        frequencies, period, multiplicity = half_grid(self.sizes)
        # Neighbours in this order share their last coordinate, and with it partial sums.
        order = frequencies[:, -1].argsort(stable=True)
        return frequencies[order], period, multiplicity[order]

    @cached_property
    def _places(self) -> tuple[tuple[Offset, int], ...]:
        g = self.geometry
        return places(self.shape[2:], g.stride, g.dilation)

    @cached_property
    def _offsets(self) -> tuple[Offset, ...]:
        return tuple(sorted({offset for offset, _ in self._places}))

    @cached_property
    def _sharing(self) -> torch.Tensor:
        """Of each tap, with how many others (and itself) it is one entry of the operator."""
        residues = [
            (tuple(o % n for o, n in zip(offset, self.sizes, strict=True)), phase)
            for offset, phase in self._places
        ]
        counted = Counter(residues)
        return torch.tensor([counted[residue] for residue in residues])

    def correction(
        self,
        kernel: torch.Tensor,
        limit: float,
        compute: Compute,
        chosen: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what one pass takes away from a kernel, and bounds of the norms it met.

        The norms, (frequencies, groups), are those of `Beyond.norms`. With `chosen` only these
        frequencies (indices) are looked at; the others must lie inside the ball.
        """
        with one_thread():
            symbol = polyphase(kernel.to(precision(kernel, limit)), self.geometry)
            whole, period, multiplicity = self._half
            frequencies = whole if chosen is None else whole[chosen]
            weights = multiplicity.to(torch.float64) / math.prod(self.sizes)
            weights = weights if chosen is None else weights[chosen]
            groups, rows, columns = symbol.taps.shape[1:]

            support = symbol.taps.new_zeros(len(self._offsets), groups, rows, columns)

            def work(run: slice, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
                there = compute.move(frequencies[run], device)
                local = Symbol(compute.move(symbol.taps, device), symbol.offsets)
                matrices = local.on_lines(there, period)
                found = beyond(matrices.flatten(0, 1), limit, compute)
                target = Symbol(compute.move(support, device), self._offsets)
                taps = target.sum_back(
                    found.excess.reshape(matrices.shape),
                    there,
                    period,
                    compute.move(weights[run], device),
                )
                return taps.to(kernel.device), found.norms.to(kernel.device)

            size = rows * columns * symbol.taps.element_size()
            parts = in_batches(
                work,
                len(frequencies),
                bytes_each=2 * (COPIES + 4) * groups * size,
                flops_each=_FLOPS_EACH * groups * symbol.side**2 * max(rows, columns),
                compute=compute,
            )
        norms = torch.cat([norms for _, norms in parts]).reshape(-1, groups)
        taps, *others = (taps for taps, _ in parts)
        for other in others:
            taps += other
        return self._as_kernel(taps).to(kernel.dtype), norms

    def _as_kernel(self, taps: torch.Tensor) -> torch.Tensor:
        """Lay taps of the symbol (offsets, groups, rows, columns) out as a kernel."""
        inner = self.shape[1]
        index = {offset: at for at, offset in enumerate(self._offsets)}
        placed = torch.stack(
            [
                taps[index[offset], :, :, phase * inner : (phase + 1) * inner].flatten(0, 1)
                for offset, phase in self._places
            ],
            dim=-1,
        )
        return (placed / self._sharing.to(taps)).reshape(self.shape)


def precision(kernel: torch.Tensor, limit: float) -> torch.dtype:
    """Return the precision in which the Gram matrices show singular values near the limit."""
    if kernel.dtype == torch.float64:
        return torch.float64
    taps = math.prod(kernel.shape[2:])
    # ‖P(θ)‖_F <= Σ‖K_t‖_F <= √taps ‖K‖_F, by Cauchy.
    size = math.sqrt(taps) * float(torch.linalg.vector_norm(kernel))
    return torch.float32 if size <= _SINGLE_SIZE * limit else torch.float64
