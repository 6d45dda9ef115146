"""Rounding: how the arithmetic of a running network rounds, and by how much one layer is off.

The model of the machine is the textbook's (Higham, "Accuracy and Stability of Numerical
Algorithms", 2nd ed., 2.2 and 2.5): an operation returns (exact result)·(1 + δ) + ε with |δ| <= u,
where ε is 0 unless a product or quotient underflows, and then |ε| <= η/2 with η the least
subnormal number; a sum never underflows inexactly. Of n operations, Π(1 + δ_i)^±1 lies within
1 ± γ_n, γ_n = n·u/(1 - n·u), if n·u < 1 (lemma 3.1).

An affine layer y = Wx + b, one row of it: n products and the entry of b are n + 1 terms. In
whatever order they are added up, each takes part in at most n additions, so that a product is
rounded at most n + 1 times and b at most n times, in the accumulators' format. The result may
be rounded to the tensors' format besides, `stores` times. With κ the bound of all of these,

    κ = (1 + γ_n)(1 + u) - 1 = γ_n + u(1 + γ_n),   then κ <- κ + u(1 + κ) for each store,

|computed - exact| <= κ(|W||x̂| + |b̂|) + (1 + κ)·n·η/2 (an underflow is rounded on with its term)
+ (1 + κ)·η/2 for each store. Now let x̂ = x + d be what arrives, ‖x‖ <= r and ‖d‖ <= D, and let
Ŵ, b̂ be the tensors as they are held in the format, the stored W, b rounded to it. Then

    ŷ - y = W d + (Ŵ - W)x̂ + (b̂ - b) + (rounding),
    ‖ŷ - y‖ <= ‖W‖D + (‖|Ŵ - W|‖ + κ‖|Ŵ|‖)(r + D) + ‖b̂ - b‖ + κ‖b̂‖ + √m·tiny,

m the number of outputs: D_l = α_l D_{l-1} + β_l with α = ‖W‖ + κ‖|W|‖ and
β = κ(‖|W|‖r + ‖b‖) + √m·tiny where the tensors are held exactly. (An implementation that adds b
last needs only u‖b‖; one that starts its sum with b needs what stands here.)
"""

from dataclasses import dataclass
from types import MappingProxyType

import torch

from lipaudit.enclosure import ONE, ZERO, Enclosure, total
from lipaudit.errors import UsageError


class Unprovable(Exception):
    """Raised by the rule of a node about whose rounding nothing is proved; says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Format:
    """A binary floating-point format."""

    name: str
    unit: float
    """u: half the distance from 1 to the next larger number."""
    least: float
    """η: the least subnormal number."""
    normal: float
    """The least number of full precision."""
    largest: float

    @classmethod
    def of(cls, dtype: torch.dtype) -> "Format":
        """Return the format of a torch type."""
        known = torch.finfo(dtype)
        # Both products are of powers of two.
        return cls(
            str(dtype).removeprefix("torch."),
            known.eps / 2,
            known.smallest_normal * known.eps,
            known.smallest_normal,
            known.max,
        )

    @property
    def dtype(self) -> torch.dtype:
        """The torch type of this format."""
        found: torch.dtype = getattr(torch, self.name)
        return found


FORMATS = MappingProxyType(
    {form.name: form for form in map(Format.of, (torch.float32, torch.float16, torch.bfloat16))}
)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """In what a network keeps its tensors, and in what it adds up."""

    kept: Format
    summed: Format
    """Format of the accumulators, no coarser than `kept`."""

    @classmethod
    def of(cls, dtype: str, accumulate: str | None) -> "Arithmetic":
        """Read the names of the user; None accumulates the way CPUs and GPUs do."""
        if dtype not in FORMATS:
            raise UsageError(
                f"no statement for networks executed in {dtype!r}",
                slug="executed-dtype",
                hint="choose float32, float16 or bfloat16",
            )
        if accumulate not in {None, "same", "float32"}:
            raise UsageError(
                f"cannot accumulate in {accumulate!r}",
                slug="executed-dtype",
                hint='choose "same" or "float32"',
            )
        kept = FORMATS[dtype]
        return cls(kept, kept if accumulate == "same" else FORMATS["float32"])

    @property
    def is_mixed(self) -> bool:
        """Whether sums are rounded once more when they become tensors."""
        return self.kept != self.summed

    def kappa(self, terms: int, *, stores: int = 2) -> Enclosure:
        """Return κ of sums of so many terms and one more (module docstring).

        Where tensors have a format of their own, results are rounded to it `stores` times: two
        if a bias may be added after the product was stored.
        """
        rounded = terms * self.summed.unit
        if not rounded < 1:
            raise Unprovable(
                f"γ_n is not defined for sums of {terms:,} terms in {self.summed.name} "
                f"(n·u = {rounded:g} >= 1)"
            )
        # Both are exact: u is a power of two, and terms < 1/u <= 2^53.
        kappa = Enclosure.exactly(rounded).over(Enclosure.exactly(1 - rounded))
        kappa = _once_more(kappa, self.summed.unit)
        for _ in range(stores if self.is_mixed else 0):
            kappa = _once_more(kappa, self.kept.unit)
        return kappa.without_lower()

    def tiny(self, operations: int, kappa: Enclosure, *, stores: int = 2) -> Enclosure:
        """Bound what underflow adds to one item: so many operations, and the stores."""
        lost = Enclosure.exactly(operations).times(Enclosure.exactly(self.summed.least / 2))
        if self.is_mixed:
            kept = Enclosure.exactly(self.kept.least / 2)
            lost = lost.plus(Enclosure.exactly(stores).times(kept))
        return lost.times(ONE.plus(kappa))

    def check(self, bound: Enclosure, form: Format) -> None:
        """Raise `Unprovable` when values up to this bound may overflow a format."""
        if not bound.hi <= Enclosure.exactly(form.largest).hi:
            raise Unprovable(
                f"its values may reach 10^{bound.log10_upper:.1f} in size, and overflow "
                f"{form.name} (largest number {form.largest:.4g})"
            )


def _once_more(kappa: Enclosure, unit: float) -> Enclosure:
    """Return (1 + κ)(1 + u) - 1."""
    return kappa.plus(Enclosure.exactly(unit).times(ONE.plus(kappa)))


@dataclass(frozen=True, slots=True)
class Signal:
    """What is known of an edge: bounds of ‖exact value‖ and of ‖computed - exact‖."""

    value: Enclosure
    error: Enclosure

    @property
    def reach(self) -> Enclosure:
        """A bound of ‖computed value‖."""
        return self.value.plus(self.error)


@dataclass(frozen=True, slots=True)
class Affine:
    """y = Wx + b with its numbers; see the module docstring. Upper ends are what counts."""

    terms: int
    """n, the length of the longest inner product."""
    outputs: int
    norm: Enclosure
    """‖W‖ of the exact weights."""
    moduli: Enclosure
    """‖|Ŵ|‖ of the weights as they are held."""
    moved: Enclosure = ZERO
    """‖|Ŵ - W|‖."""
    offset: Enclosure = ZERO
    """‖b‖ over all outputs."""
    offset_moved: Enclosure = ZERO
    """‖b̂ - b‖ over all outputs."""
    further: int = 0
    """Roundings of a term beyond those of the sum (a factor α)."""
    scale: Enclosure = ONE
    """By how much an underflow can be magnified, or sums be larger than the result."""
    stores: int = 2

    def carry(self, signal: Signal, arithmetic: Arithmetic) -> Signal:
        """Return what leaves the layer."""
        kappa = arithmetic.kappa(self.terms + self.further, stores=self.stores)
        tiny = arithmetic.tiny(self.terms + self.further, kappa, stores=self.stores)
        tiny = tiny.times(Enclosure.sqrt_of(self.outputs)).times(self.scale)
        held = self.offset.plus(self.offset_moved)
        reach = signal.reach
        # What the accumulators hold at most, in any order.
        sums = self.moduli.times(reach).plus(held)
        largest = sums.times(self.scale).times(ONE.plus(kappa)).plus(tiny)
        arithmetic.check(largest, arithmetic.summed)
        error = total(
            (
                self.norm.times(signal.error),
                self.moved.times(reach),
                self.offset_moved,
                kappa.times(sums),
                tiny,
            )
        )
        return Signal(self.norm.times(signal.value).plus(self.offset), error)
