"""Symbol: a convolution seen at one frequency, where it is an ordinary matrix.

P(θ) = Σ_t K_t e^{-i o_t·θ} with real taps K_t at integer offsets o_t. Translation-invariant
operators are block diagonal in these matrices (Sedghi, Gupta & Long 2019, section 2). The sum
is evaluated term by term, not by an FFT, because its rounding error is then easy to bound
(as in local Fourier analysis, van Betteray et al. 2025).

Frequencies are exact: θ = 2π·m/period with integers m, so that the argument of every root of
unity is reduced modulo one turn before anything is rounded.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import final

import torch

from lipaudit.device import CPU
from lipaudit.errors import NotCertified
from lipaudit.operators.certify import (
    ROOM,
    SQRT2,
    UNDERFLOW,
    UNIT,
    frobenius_above,
    gamma,
)

Offset = tuple[int, ...]

ROOT_ERROR = 16.0 * UNIT
"""Bounds the error of one computed cosine or sine: the reduced argument lies in [-π, π] and is
wrong by at most 3u·π < 10u (quotient, 2π and product each round once); torch's sine and cosine
(SLEEF or the C library) are good to 1 ulp, which is 2u or less; 4u are left in reserve."""
_LONG_LINE = 4
"""Taps on the last axis from which it pays to sum over that axis first."""


@final
@dataclass(frozen=True, eq=False)
class Symbol:
    """A matrix-valued trigonometric polynomial, one for each group of channels."""

    taps: torch.Tensor
    """float64, (taps, groups, rows, columns); float32 where nothing is proved of the matrices."""
    offsets: tuple[Offset, ...]
    """Where each tap sits, one integer a spatial axis."""

    @property
    def groups(self) -> int:
        """How many matrices there are at each frequency."""
        return self.taps.shape[1]

    @cached_property
    def side(self) -> int:
        """The smaller side of the matrices: the size of their Gram matrices."""
        return min(self.taps.shape[2:])

    @cached_property
    def radii(self) -> tuple[float, ...]:
        """Half the width of the support on each axis: the degree of the polynomial there."""
        return tuple((max(axis) - min(axis)) / 2 for axis in zip(*self.offsets, strict=True))

    @cached_property
    def magnitude(self) -> float:
        """At least ‖Σ_t |K_t|‖_F, for the group where it is largest."""
        return float(frobenius_above(self.taps.abs().sum(0)).max()) * (
            1.0 + gamma(len(self.offsets) + 4)
        )

    @cached_property
    def error(self) -> float:
        """Bound on ‖computed P(θ) - P(θ)‖ at every frequency.

        Real and imaginary part of each entry are inner products of T terms with one factor
        wrong by ROOT_ERROR: off by at most (γ_T + 2·ROOT_ERROR) Σ|K_t|, and √2 for the pair.
        """
        relative = SQRT2 * (gamma(len(self.offsets) + 1) + 2.0 * ROOT_ERROR)
        return relative * self.magnitude * ROOM + UNDERFLOW

    def at(
        self, frequencies: torch.Tensor, period: int, groups: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Evaluate P at 2π·m/period for integer rows m.

        Without `groups` all groups at every frequency, (frequencies, groups, rows, columns);
        with one group index a frequency only that one, (frequencies, rows, columns).
        """
        cosines, sines = self._roots(self.offsets, frequencies, period)
        return _expanded(self.taps, cosines, -sines, groups)

    def on_lines(self, frequencies: torch.Tensor, period: int) -> torch.Tensor:
        """Evaluate P for all groups where consecutive frequencies share the last coordinate.

        The sum over the last axis is then done once for a line of frequencies. The result has
        one rounding more than that of `at`, and no error bound.
        """
        lines, line = self._lines
        if len(lines) * len(line) != len(self.offsets) or len(line) < _LONG_LINE:
            return self.at(frequencies, period)
        values, runs = _runs(frequencies)
        cosines, sines = self._roots(line, values, period)
        weights = torch.cat([cosines, -sines])
        # A batch of products of a few rows, so that the taps are read where they lie.
        both = torch.matmul(weights, self.taps.reshape(len(lines), len(line), -1))
        inner = torch.complex(both[:, : len(runs)], both[:, len(runs) :])
        cosines, sines = self._roots(lines, frequencies[:, :-1], period)
        outer = torch.complex(cosines, -sines)
        parts = [outer[run] @ inner[:, at] for at, run in enumerate(runs)]
        # A single part is not copied: these are the largest tensors there are.
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole.reshape(-1, *self.taps.shape[1:])

    def sum_back(
        self,
        matrices: torch.Tensor,
        frequencies: torch.Tensor,
        period: int,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """Return Σ_θ w(θ) Re(E(θ) e^{i o·θ}) for every offset o, shaped as the taps.

        That is the adjoint of `on_lines` for matrices E (frequencies, groups, rows, columns).
        """
        lines, line = self._lines
        whole = matrices.flatten(1)
        if len(lines) * len(line) != len(self.offsets) or len(line) < _LONG_LINE:
            cosines, sines = self._roots(self.offsets, frequencies, period)
            turned = torch.cat([cosines, -sines]) * weights.to(cosines).repeat(2)[:, None]
            parts = torch.cat([whole.real, whole.imag])
            return (turned.mT @ parts).reshape(-1, *matrices.shape[1:])
        values, runs = _runs(frequencies)
        cosines, sines = self._roots(lines, frequencies[:, :-1], period)
        outer = torch.complex(cosines, sines) * weights[:, None].to(cosines)
        inner = torch.stack([outer[run].mT @ whole[run] for run in runs], 1)
        cosines, sines = self._roots(line, values, period)
        both = torch.cat([cosines, -sines]).mT.contiguous()
        total = torch.matmul(both, torch.cat([inner.real, inner.imag], 1))
        return total.reshape(-1, *matrices.shape[1:])

    def _roots(
        self, offsets: tuple[Offset, ...], frequencies: torch.Tensor, period: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the `roots` in the precision of the taps."""
        cosines, sines = roots(offsets, frequencies, period)
        return cosines.to(self.taps.dtype), sines.to(self.taps.dtype)

    @cached_property
    def _lines(self) -> tuple[tuple[Offset, ...], tuple[Offset, ...]]:
        """The offsets on all axes but the last, and those on the last."""
        lines = dict.fromkeys(offset[:-1] for offset in self.offsets)
        return tuple(lines), tuple(dict.fromkeys(offset[-1:] for offset in self.offsets))


def _runs(frequencies: torch.Tensor) -> tuple[torch.Tensor, list[slice]]:
    """Return the last coordinates that consecutive frequencies share, and where each stands."""
    values, counts = torch.unique_consecutive(frequencies[:, -1], return_counts=True)
    ends = counts.cumsum(0).tolist()
    return values[:, None], [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]


def roots(
    offsets: tuple[Offset, ...], frequencies: torch.Tensor, period: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos and sin of 2π·(m·o)/period: (frequencies, offsets), the argument exact.

    Frequencies lie in [0, period); offsets beyond half a period are reduced to that at most.
    Raise `NotCertified` where their products might still exceed 64 bits.
    """
    steps, longest = _steps(offsets)
    if longest > period // 2:
        steps, longest = (steps + period // 2) % period - period // 2, period // 2
    if period > 1 << 53 or period * (longest + 1) > 1 << 62:
        raise NotCertified(
            f"frequencies of {period} steps a turn are too fine for exact arguments", slug="shape"
        )
    steps = steps.to(frequencies.device)
    turns = frequencies.new_zeros((len(frequencies), len(steps)))
    largest = 0
    for axis in range(steps.shape[1]):
        if largest + period * longest > 1 << 62:
            turns, largest = turns.remainder_(period), period
        turns.addcmul_(frequencies[:, axis, None], steps[:, axis])
        largest += period * longest
    # Next to 0; products are at most 2^62, so that there is room for half a period.
    half = period // 2
    turns.add_(half).remainder_(period).sub_(half)
    angle = turns.to(torch.float64).div_(period).mul_(2.0 * math.pi)
    return torch.cos(angle), torch.sin(angle)


@lru_cache(maxsize=8)
def _steps(offsets: tuple[Offset, ...]) -> tuple[torch.Tensor, int]:
    """Return the offsets as a tensor, and the largest modulus of any of their coordinates."""
    steps = torch.tensor(offsets, dtype=torch.int64, device=CPU)
    return steps, int(steps.abs().max()) if steps.numel() else 0


def _expanded(
    taps: torch.Tensor,
    real: torch.Tensor,
    imaginary: torch.Tensor,
    groups: torch.Tensor | None,
) -> torch.Tensor:
    """Return Σ_t taps_t (real + i·imaginary)_t for every frequency, as two real products."""
    count, *shape = taps.shape
    if groups is None or shape[0] == 1:
        flat = taps.reshape(count, -1)
        result = torch.complex(real @ flat, imaginary @ flat)
        one = groups is not None
        return result.reshape(-1, *shape[1:]) if one else result.reshape(-1, *shape)
    chosen = taps.movedim(1, 0)[groups].reshape(len(groups), count, -1)
    both = torch.stack([real, imaginary], dim=1) @ chosen
    return torch.complex(both[:, 0], both[:, 1]).reshape(-1, *shape[1:])
