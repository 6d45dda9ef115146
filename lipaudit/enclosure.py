"""Intervals that hold the truth: non-negative, outward rounded, labelled with their rigor.

The endpoints are decimal numbers of 40 digits, added, multiplied and rooted with directed
rounding by the standard library (`decimal` rounds each of these operations correctly). That
makes every step rounding-proof without a word about ulps, and the exponent range of 10^18
digits means that a product over 400 layers neither overflows nor underflows, so there is no
second code path in logarithms.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from enum import IntEnum
from functools import reduce

# 40 digits: a float64 product is exact in 34, so short chains of exact factors stay exact.
_DOWN = Context(prec=40, rounding=ROUND_FLOOR, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
_UP = Context(prec=40, rounding=ROUND_CEILING, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
_ZERO = Decimal(0)
_INFINITY = Decimal("Infinity")


class Rigor(IntEnum):
    """How far a number may be trusted; of several, the weakest counts."""

    ESTIMATED = 0
    """A heuristic or sampled value: says nothing for certain."""
    NUMERICAL = 1
    """Floating-point linear algebra whose rounding errors are small but not bounded."""
    PROVED = 2
    """True for the real numbers the file stores, rounding errors included."""

    @property
    def label(self) -> str:
        """The word the reports print."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Enclosure:
    """A closed interval [lo, hi] of non-negative numbers, infinity allowed, that holds the truth.

    There is deliberately no conversion to one float: which end is meant must be said
    (`lower`, `upper`).
    """

    lo: Decimal
    hi: Decimal
    rigor: Rigor

    def __post_init__(self) -> None:
        if self.lo.is_nan() or self.hi.is_nan() or not _ZERO <= self.lo <= self.hi:
            raise ValueError(f"not an enclosure: [{self.lo}, {self.hi}]")

    @classmethod
    def of(cls, lo: float | Decimal, hi: float | Decimal, rigor: Rigor) -> "Enclosure":
        """Enclose what lies between two numbers, taken exactly as they are."""
        return cls(Decimal(lo), Decimal(hi), rigor)

    @classmethod
    def exactly(cls, value: float | Decimal, rigor: Rigor = Rigor.PROVED) -> "Enclosure":
        """Enclose one number that is known exactly."""
        return cls.of(value, value, rigor)

    @classmethod
    def at_most(cls, value: float | Decimal, rigor: Rigor = Rigor.PROVED) -> "Enclosure":
        """Enclose a quantity of which only an upper bound is known."""
        return cls.of(0, value, rigor)

    @classmethod
    def unknown(cls) -> "Enclosure":
        """Enclose a quantity of which nothing is known."""
        return cls(_ZERO, _INFINITY, Rigor.PROVED)

    @classmethod
    def sqrt_of(cls, value: float | Decimal) -> "Enclosure":
        """Enclose the square root of a number that is known exactly."""
        return cls.exactly(value).sqrt()

    @property
    def lower(self) -> float:
        """The lower end as a float, rounded down."""
        return _float_below(self.lo)

    @property
    def upper(self) -> float:
        """The upper end as a float, rounded up; infinite past the float range."""
        return _float_above(self.hi)

    @property
    def log10_lower(self) -> float:
        """log10 of the lower end, rounded down; minus infinity for 0."""
        return _log10(self.lo, -math.inf)

    @property
    def log10_upper(self) -> float:
        """log10 of the upper end, rounded up; finite where `upper` already overflows."""
        return _log10(self.hi, math.inf)

    @property
    def is_finite(self) -> bool:
        """Whether the upper end says anything."""
        return self.hi.is_finite()

    @property
    def is_zero(self) -> bool:
        """Whether the quantity is known to be 0."""
        return self.hi == _ZERO

    def times(self, other: "Enclosure") -> "Enclosure":
        """Enclose the product; 0 times unknown is 0, since 0 here means "does not depend"."""
        lo = _ZERO if self.lo.is_zero() or other.lo.is_zero() else _DOWN.multiply(self.lo, other.lo)
        hi = _ZERO if self.is_zero or other.is_zero else _UP.multiply(self.hi, other.hi)
        return Enclosure(lo, hi, min(self.rigor, other.rigor))

    def plus(self, other: "Enclosure") -> "Enclosure":
        """Enclose the sum."""
        return Enclosure(
            _DOWN.add(self.lo, other.lo),
            _UP.add(self.hi, other.hi),
            min(self.rigor, other.rigor),
        )

    def over(self, other: "Enclosure") -> "Enclosure":
        """Enclose the quotient; a divisor that may be 0 makes it unbounded."""
        lo = _ZERO if not other.hi.is_finite() else _divide(_DOWN, self.lo, other.hi)
        hi = _divide(_UP, self.hi, other.lo)
        return Enclosure(lo, hi, min(self.rigor, other.rigor))

    def sqrt(self) -> "Enclosure":
        """Enclose the square root."""
        return Enclosure(_root(self.lo, _DOWN), _root(self.hi, _UP), self.rigor)

    def larger(self, other: "Enclosure") -> "Enclosure":
        """Enclose the larger of the two quantities."""
        return Enclosure(
            max(self.lo, other.lo), max(self.hi, other.hi), min(self.rigor, other.rigor)
        )

    def widened(self, slack: "Enclosure") -> "Enclosure":
        """Enclose any quantity that differs from this one by at most `slack`."""
        lo = max(_DOWN.subtract(self.lo, slack.hi), _ZERO) if slack.is_finite else _ZERO
        return Enclosure(lo, _UP.add(self.hi, slack.hi), min(self.rigor, slack.rigor))

    def without_lower(self) -> "Enclosure":
        """Forget the lower end: what is left is only an upper bound."""
        return Enclosure(_ZERO, self.hi, self.rigor)

    def holds(self, value: float | Decimal) -> bool:
        """Tell whether a number lies inside."""
        return self.lo <= Decimal(value) <= self.hi


ZERO = Enclosure.exactly(0)
ONE = Enclosure.exactly(1)


def product(factors: Iterable[Enclosure]) -> Enclosure:
    """Enclose the product of all factors; 1 for none."""
    return reduce(Enclosure.times, factors, ONE)


def total(terms: Iterable[Enclosure]) -> Enclosure:
    """Enclose the sum of all terms; 0 for none."""
    return reduce(Enclosure.plus, terms, ZERO)


def root_sum_of_squares(terms: Iterable[Enclosure]) -> Enclosure:
    """Enclose √Σ t²: the norm of a vector of which each entry is enclosed."""
    known = tuple(terms)
    return known[0] if len(known) == 1 else total(t.times(t) for t in known).sqrt()


def largest(terms: Iterable[Enclosure]) -> Enclosure:
    """Enclose the largest of the terms; 0 for none."""
    return reduce(Enclosure.larger, terms, ZERO)


def _root(value: Decimal, direction: Context) -> Decimal:
    # Decimal's square root rounds to even whatever the context says (its documentation), so
    # the last digit is moved outward by hand when the root is inexact.
    if not value.is_finite() or value.is_zero():
        return value
    nearest = direction.sqrt(value)
    if _DOWN.multiply(nearest, nearest) == value == _UP.multiply(nearest, nearest):
        return nearest
    return direction.next_minus(nearest) if direction is _DOWN else direction.next_plus(nearest)


def _divide(direction: Context, numerator: Decimal, divisor: Decimal) -> Decimal:
    if numerator.is_zero():
        return _ZERO
    if divisor.is_zero() or not numerator.is_finite():
        return _INFINITY if direction is _UP else _ZERO
    return direction.divide(numerator, divisor)


def _float_below(value: Decimal) -> float:
    nearest = float(value)
    if math.isinf(nearest):
        return math.inf if value.is_infinite() else math.nextafter(math.inf, 0.0)
    return nearest if Decimal(nearest) <= value else math.nextafter(nearest, -math.inf)


def _float_above(value: Decimal) -> float:
    nearest = float(value)
    if math.isinf(nearest) or Decimal(nearest) >= value:
        return nearest
    return math.nextafter(nearest, math.inf)


def _log10(value: Decimal, outward: float) -> float:
    if value.is_zero():
        return -math.inf
    if value.is_infinite():
        return math.inf
    nearest = float(_UP.log10(value))
    # log10 is correctly rounded to 40 digits; the one float rounding is undone outward.
    return (
        nearest
        if nearest == int(nearest) and Decimal(10) ** int(nearest) == value
        else (math.nextafter(nearest, outward))
    )
