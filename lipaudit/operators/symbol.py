"""Symbol: a convolution seen at one frequency, where it is an ordinary matrix.

P(θ) = Σ_t K_t e^{-i o_t·θ} with real taps K_t at integer offsets o_t. Translation-invariant
operators are block diagonal in these matrices (Sedghi, Gupta & Long 2019, section 2). The sum
is evaluated term by term, not by an FFT, because its rounding error is then easy to bound
(as in local Fourier analysis, van Betteray et al. 2025).

Frequencies are exact: θ = 2π·m/period with integers m, so that the argument of every root of
unity is reduced modulo one turn before anything is rounded.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import final

import torch

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


@final
@dataclass(frozen=True, eq=False)
class Symbol:
    """A matrix-valued trigonometric polynomial, one for each group of channels."""

    taps: torch.Tensor
    """float64, (taps, groups, rows, columns)."""
    offsets: tuple[Offset, ...]
    """Where each tap sits, one integer a spatial axis."""

    @property
    def groups(self) -> int:
        """How many matrices there are at each frequency."""
        return self.taps.shape[1]

    @property
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
        cosines, sines = roots(self.offsets, frequencies, period)
        return _expanded(self.taps, cosines, -sines, groups)

    @cached_property
    def gram(self) -> "GramSymbol":
        """The polynomial of the Gram matrices."""
        return gram_symbol(self)


@final
@dataclass(frozen=True, eq=False, slots=True)
class GramSymbol:
    """G(θ) = P(θ)P(θ)ᴴ, or PᴴP if that is smaller, as a polynomial of its own.

    Its coefficients are worked out once: C_δ = Σ K_p K_qᵀ over o_p - o_q = δ. After that one
    Gram matrix costs a few additions an entry instead of a matrix product. Since C_-δ = C_δᵀ,
    G = Σ_{δ>=0} S_δ cos(δ·θ) + i A_δ sin(δ·θ) with S = C + Cᵀ (C alone for δ = 0), A = Cᵀ - C.
    """

    even: torch.Tensor
    """S: float64, (offsets, groups, side, side)."""
    odd: torch.Tensor
    """A: the same shape."""
    offsets: tuple[Offset, ...]
    error: float
    """Bound on ‖computed G(θ) - G(θ)‖ at every frequency."""

    def at(self, frequencies: torch.Tensor, period: int, groups: torch.Tensor) -> torch.Tensor:
        """Evaluate G at 2π·m/period, for one group a frequency: (frequencies, side, side)."""
        cosines, sines = roots(self.offsets, frequencies, period)
        side = self.even.shape[-1]
        if self.even.shape[1] == 1:
            parts = cosines @ self.even.flatten(1), sines @ self.odd.flatten(1)
        else:
            even = self.even[:, groups].flatten(2)
            odd = self.odd[:, groups].flatten(2)
            parts = (
                torch.einsum("fo,ofe->fe", cosines, even),
                torch.einsum("fo,ofe->fe", sines, odd),
            )
        return torch.complex(*parts).reshape(-1, side, side)

    def quotients(
        self, frequencies: torch.Tensor, period: int, group: int, vector: torch.Tensor
    ) -> torch.Tensor:
        """Return xᴴG(θ)x for one vector at many frequencies: a scalar polynomial, cheap."""
        cosines, sines = roots(self.offsets, frequencies, period)
        x, y = vector.real, vector.imag
        # S is symmetric and A antisymmetric: only these parts of xᴴSx and xᴴ(iA)x are left.
        even = self.even[:, group] @ torch.stack([x, y], dim=-1)
        odd = self.odd[:, group] @ y
        return cosines @ (even[..., 0] @ x + even[..., 1] @ y) - sines @ (2.0 * (odd @ x))


def gram_symbol(symbol: Symbol) -> GramSymbol:
    """Work out the Gram polynomial.

    Every entry of a computed G is a sum of products with relative errors of at most
    γ_L + γ_D + 2·ROOT_ERROR + 4u, L = taps·columns products and D offsets, so that
    |Ĝ - G| <= √2·(that)·S Sᵀ with S = Σ|K_t|, and ‖S Sᵀ‖ <= ‖S‖_F².
    """
    rows, columns = symbol.taps.shape[2:]
    taps = symbol.taps if rows <= columns else symbol.taps.mT
    # PᴴP = Σ K_pᵀ K_q e^{i(o_p - o_q)θ}: the same sum with the offsets' signs turned around.
    sign = 1 if rows <= columns else -1
    pairs: dict[Offset, list[tuple[int, int]]] = defaultdict(list)
    for (p, first), (q, second) in product(enumerate(symbol.offsets), repeat=2):
        offset = tuple(sign * (a - b) for a, b in zip(first, second, strict=True))
        if offset >= (0,) * len(offset):
            pairs[offset].append((p, q))
    offsets = tuple(sorted(pairs))
    coefficients = torch.stack([_correlated(taps, pairs[offset]) for offset in offsets])
    # Contiguous, or every evaluation would copy them.
    even = (coefficients + coefficients.mT).contiguous()
    # Offset 0 comes first, and its coefficient is its own transpose.
    even[0] = coefficients[0]
    odd = (coefficients.mT - coefficients).contiguous()
    terms = len(symbol.offsets) * max(rows, columns)
    relative = SQRT2 * (gamma(terms + 4) + gamma(len(offsets) + 4) + 2.0 * ROOT_ERROR + 4.0 * UNIT)
    error = relative * symbol.magnitude * symbol.magnitude * ROOM + UNDERFLOW
    return GramSymbol(even, odd, offsets, error)


def _correlated(taps: torch.Tensor, pairs: list[tuple[int, int]]) -> torch.Tensor:
    """Return Σ K_p K_qᵀ over the pairs, as one product of wide matrices for each group."""
    first = torch.cat([taps[p] for p, _ in pairs], dim=-1)
    second = torch.cat([taps[q] for _, q in pairs], dim=-1)
    return first @ second.mT


def roots(
    offsets: tuple[Offset, ...], frequencies: torch.Tensor, period: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos and sin of 2π·(m·o)/period: (frequencies, offsets), the argument exact.

    Integer arithmetic stays below 2^62: frequencies and period are below 2^41, offsets are
    reduced modulo the period and summed over at most 8 axes.
    """
    if period > 1 << 41:
        raise ValueError(f"period {period} is too long for exact arguments")
    steps = torch.tensor(offsets, dtype=torch.int64, device=frequencies.device)
    turns = torch.zeros(
        (frequencies.shape[0], steps.shape[0]), dtype=torch.int64, device=frequencies.device
    )
    for axis in range(steps.shape[1]):
        turns = (turns + frequencies[:, axis, None] * steps[None, :, axis]) % period
    centred = torch.where(turns > period // 2, turns - period, turns)
    angle = centred.to(torch.float64) / period * (2.0 * math.pi)
    return torch.cos(angle), torch.sin(angle)


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
