"""Gram matrices of a symbol at many frequencies, each with a bound on its rounding error.

Two ways, and the cheaper one is taken: as a polynomial with coefficients worked out once
(a few additions an entry for each frequency, good for small kernels looked at often), or as a
matrix product at every frequency.
"""

import abc
import math
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import final

import torch

from lipaudit.device import Compute
from lipaudit.operators import lapack
from lipaudit.operators.batches import interruptible
from lipaudit.operators.certify import (
    ROOM,
    SQRT2,
    UNDERFLOW,
    UNIT,
    frobenius_above,
    gamma,
    product_constant,
)
from lipaudit.operators.symbol import ROOT_ERROR, Offset, Symbol, roots

_PAIR_OVERHEAD = 2e5
"""What one product of two taps costs at least, in operations."""


class AbstractGrams(abc.ABC):
    """G(θ) = P(θ)P(θ)ᴴ, or PᴴP if that is smaller."""

    def __init__(self, symbol: Symbol, compute: Compute) -> None:
        """Remember the symbol and where its tensors go."""
        self.symbol = symbol
        self._compute = compute
        self._copies: dict[torch.device, tuple[torch.Tensor, ...]] = {}

    @property
    @abc.abstractmethod
    def error(self) -> float:
        """Bound on ‖computed G(θ) - G(θ)‖ at every frequency."""

    @property
    @abc.abstractmethod
    def variation(self) -> float:
        """At least ‖G(θ + δ) - G(θ)‖ / Σ r_i|δ_i|, infinite when that is not known."""

    @property
    @abc.abstractmethod
    def ripple(self) -> float:
        """At least ‖G(θ) - C‖ at every θ for some constant C, infinite when that is not known."""

    @property
    @abc.abstractmethod
    def flops_each(self) -> float:
        """About the work for one matrix."""

    @property
    @abc.abstractmethod
    def bytes_each(self) -> int:
        """About the memory for one matrix and a factorization of it."""

    @property
    @abc.abstractmethod
    def constants(self) -> tuple[torch.Tensor, ...]:
        """The tensors that the evaluation needs on its device."""

    @abc.abstractmethod
    def at(
        self, frequencies: torch.Tensor, period: int, groups: torch.Tensor, device: torch.device
    ) -> torch.Tensor:
        """Evaluate G at 2π·m/period, for one group a frequency: (frequencies, side, side)."""

    @abc.abstractmethod
    def on_lines(
        self, frequencies: torch.Tensor, period: int, device: torch.device
    ) -> torch.Tensor:
        """Evaluate G for all groups: (frequencies, groups, side, side), without an error bound.

        Quickest where consecutive frequencies share their last coordinate.
        """

    def on(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Return the constants on a device; they are copied there once."""
        if device.type == "cpu":
            return self.constants
        if device not in self._copies:
            move = self._compute.move
            self._copies[device] = tuple(move(tensor, device) for tensor in self.constants)
        return self._copies[device]


def choose_grams(symbol: Symbol, expected: int, compute: Compute) -> AbstractGrams:
    """Return the cheaper way for about so many matrices."""
    direct = DirectGrams(symbol, compute)
    each = 4.0 * _offsets(symbol) * symbol.side**2
    saved = expected * (direct.flops_each - each)
    return grams_of_known_variation(symbol, compute, saved) or direct


def grams_of_known_variation(
    symbol: Symbol, compute: Compute, flops: float
) -> "PolynomialGrams | None":
    """Return them where they are worked out with less work than that; None also beyond memory."""
    taps, groups, *shape = symbol.taps.shape
    setup = taps**2 * (groups * symbol.side**2 * max(shape) + _PAIR_OVERHEAD)
    memory = 16 * groups * _offsets(symbol) * symbol.side**2
    room = min(compute.max_memory, compute.memory_on(compute.device)) // 2
    return PolynomialGrams(symbol, compute) if setup < flops and memory <= room else None


def _offsets(symbol: Symbol) -> int:
    """Bound the terms of the polynomial."""
    return math.prod(int(4 * r) + 1 for r in symbol.radii) // 2 + 1


@final
class DirectGrams(AbstractGrams):
    """The product P Pᴴ, formed at every frequency."""

    @property
    def error(self) -> float:
        """See `AbstractGrams.error`.

        The computed P is wrong by e = `Symbol.error`, which changes P Pᴴ by at most
        2e‖P‖ + e²; the product of the computed P is wrong by c‖|P||P|ᴴ‖; ‖P‖_F is at most
        `Symbol.magnitude` + e.
        """
        largest = self.symbol.magnitude + self.symbol.error
        constant = product_constant(max(self.symbol.taps.shape[2:]), is_complex=True)
        own = constant * largest * largest * ROOM
        return (own + 2.0 * self.symbol.error * largest) * ROOM + UNDERFLOW

    @property
    def variation(self) -> float:
        """See `AbstractGrams.variation`: it would take the coefficients."""
        return math.inf

    @property
    def ripple(self) -> float:
        """See `AbstractGrams.ripple`: likewise."""
        return math.inf

    @cached_property
    def flops_each(self) -> float:
        """See `AbstractGrams.flops_each`."""
        taps, _, rows, columns = self.symbol.taps.shape
        return 4.0 * taps * rows * columns + 8.0 * self.symbol.side * rows * columns

    @cached_property
    def bytes_each(self) -> int:
        """See `AbstractGrams.bytes_each`."""
        taps, groups, rows, columns = self.symbol.taps.shape
        gathered = 8 * taps * rows * columns if groups > 1 else 0
        return gathered + 32 * rows * columns + 64 * self.symbol.side**2

    @property
    def constants(self) -> tuple[torch.Tensor, ...]:
        """See `AbstractGrams.constants`."""
        return (self.symbol.taps,)

    def at(
        self, frequencies: torch.Tensor, period: int, groups: torch.Tensor, device: torch.device
    ) -> torch.Tensor:
        """See `AbstractGrams.at`."""
        move = self._compute.move
        matrices = self._there(device).at(move(frequencies, device), period, move(groups, device))
        wide = _wide(matrices)
        return wide @ wide.mH

    def on_lines(
        self, frequencies: torch.Tensor, period: int, device: torch.device
    ) -> torch.Tensor:
        """See `AbstractGrams.on_lines`."""
        there = self._there(device)
        matrices = there.on_lines(self._compute.move(frequencies, device), period)
        return lapack.gram(_wide(matrices))

    def _there(self, device: torch.device) -> Symbol:
        """Return the symbol on a device."""
        (taps,) = self.on(device)
        return self.symbol if taps is self.symbol.taps else Symbol(taps, self.symbol.offsets)


def _wide(matrices: torch.Tensor) -> torch.Tensor:
    return matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mH


@final
class PolynomialGrams(AbstractGrams):
    """The Gram matrices as a trigonometric polynomial of their own.

    Its coefficients are worked out once: C_δ = Σ K_p K_qᵀ over o_p - o_q = δ. After that one
    Gram matrix costs a few additions an entry instead of a matrix product. Since C_-δ = C_δᵀ,
    G = Σ_{δ>=0} S_δ cos(δ·θ) + i A_δ sin(δ·θ) with S = C + Cᵀ (C alone for δ = 0), A = Cᵀ - C.
    """

    def __init__(self, symbol: Symbol, compute: Compute) -> None:
        """Work out the coefficients."""
        super().__init__(symbol, compute)
        rows, columns = symbol.taps.shape[2:]
        places = sorted(range(len(symbol.offsets)), key=lambda place: symbol.offsets[place])
        offsets = [symbol.offsets[place] for place in places]
        taps = symbol.taps if places == list(range(len(places))) else symbol.taps[places]
        taps = taps if rows <= columns else taps.mT
        # For every tap, the steps to it and to those behind it.
        steps = [
            [tuple(a - b for a, b in zip(later, offset, strict=True)) for later in offsets[at:]]
            for at, offset in enumerate(offsets)
        ]
        self.offsets = tuple(sorted(set(chain.from_iterable(steps))))
        coefficients = interruptible(
            lambda: _correlated(taps, steps, self.offsets),
            flops=float(len(taps)) * taps.numel() * taps.shape[2],
        )
        # PᴴP = Σ K_pᵀ K_q e^{i(o_p - o_q)θ}: the same sum with the offsets' signs turned around.
        coefficients = coefficients if rows <= columns else coefficients.mT
        # Contiguous, or every evaluation would copy them.
        self._even = (coefficients + coefficients.mT).contiguous()
        # Offset 0 comes first, and its coefficient is its own transpose.
        self._even[0] = coefficients[0]
        self._odd = (coefficients.mT - coefficients).contiguous()

    @cached_property
    def error(self) -> float:
        """See `AbstractGrams.error`.

        Every entry of a computed G is a sum of products with relative errors of at most
        γ_L + γ_D + 2·ROOT_ERROR + 4u, L = taps·columns products and D offsets, so that
        |Ĝ - G| <= √2·(that)·S Sᵀ with S = Σ|K_t|, and ‖S Sᵀ‖ <= ‖S‖_F².
        """
        terms = len(self.symbol.offsets) * max(self.symbol.taps.shape[2:])
        known = gamma(terms + 4) + gamma(len(self.offsets) + 4)
        relative = SQRT2 * (known + 2.0 * ROOT_ERROR + 4.0 * UNIT)
        return relative * self.symbol.magnitude * self.symbol.magnitude * ROOM + UNDERFLOW

    @cached_property
    def variation(self) -> float:
        """See `AbstractGrams.variation`.

        A term turns by |δ·Δ| <= max(|δ_i|/r_i) Σ r_i|Δ_i|, and turning it by so much changes it
        by at most its size times that.
        """
        speeds = [
            max(abs(step) / r for step, r in zip(offset, self.symbol.radii, strict=True) if step)
            for offset in self.offsets[1:]
        ]
        return self._total(torch.tensor(speeds, dtype=torch.float64))

    @cached_property
    def ripple(self) -> float:
        """See `AbstractGrams.ripple`: what is added to the coefficient of offset 0."""
        return self._total(torch.ones(len(self.offsets) - 1, dtype=torch.float64))

    def _total(self, weights: torch.Tensor) -> float:
        """Return at least the weighted sum of the terms' sizes, for the group with the largest.

        ‖S cos + iA sin‖_F² = ‖S‖_F² cos² + ‖A‖_F² sin², as S and A are real, and so for the
        derivative. The computed coefficients are off by less than `error` each.
        """
        sizes = torch.maximum(frobenius_above(self._even[1:]), frobenius_above(self._odd[1:]))
        totals = (weights[:, None] * (sizes + 2.0 * self.error)).sum(0)
        return float(totals.max()) * (1.0 + gamma(len(weights) + 8)) * ROOM

    @cached_property
    def flops_each(self) -> float:
        """See `AbstractGrams.flops_each`."""
        return 4.0 * len(self.offsets) * self.symbol.side**2

    @cached_property
    def bytes_each(self) -> int:
        """See `AbstractGrams.bytes_each`."""
        gathered = 2 * len(self.offsets) if self.symbol.groups > 1 else 0
        return 8 * gathered * self.symbol.side**2 + 80 * self.symbol.side**2

    @property
    def constants(self) -> tuple[torch.Tensor, ...]:
        """See `AbstractGrams.constants`."""
        return self._even, self._odd

    def at(
        self, frequencies: torch.Tensor, period: int, groups: torch.Tensor, device: torch.device
    ) -> torch.Tensor:
        """See `AbstractGrams.at`."""
        even, odd = self.on(device)
        cosines, sines = roots(self.offsets, self._compute.move(frequencies, device), period)
        side = even.shape[-1]
        if even.shape[1] == 1:
            parts = cosines @ even.flatten(1), sines @ odd.flatten(1)
        else:
            groups = self._compute.move(groups, device)
            parts = (
                torch.einsum("fo,ofe->fe", cosines, even[:, groups].flatten(2)),
                torch.einsum("fo,ofe->fe", sines, odd[:, groups].flatten(2)),
            )
        return torch.complex(*parts).reshape(-1, side, side)

    def on_lines(
        self, frequencies: torch.Tensor, period: int, device: torch.device
    ) -> torch.Tensor:
        """See `AbstractGrams.on_lines`."""
        even, odd = self.on(device)
        cosines, sines = roots(self.offsets, self._compute.move(frequencies, device), period)
        flat = torch.complex(cosines @ even.flatten(1), sines @ odd.flatten(1))
        return flat.reshape(-1, *even.shape[1:])


def _correlated(
    taps: torch.Tensor, steps: Sequence[Sequence[Offset]], offsets: tuple[Offset, ...]
) -> torch.Tensor:
    """Return Σ K_p K_qᵀ over o_p - o_q = δ for every offset δ; tap q has those steps from it on."""
    index = {offset: at for at, offset in enumerate(offsets)}
    total = taps.new_zeros((len(offsets), taps.shape[1], taps.shape[2], taps.shape[2]))
    for q, ahead in enumerate(steps):
        products = taps[q:] @ taps[q].mT
        total.index_add_(0, torch.tensor([index[step] for step in ahead]), products)
    return total
