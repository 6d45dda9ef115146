"""Slope: between which numbers the slope of a function of one number lies."""

import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from lipaudit.enclosure import Enclosure, Rigor


@dataclass(frozen=True, slots=True)
class Slope:
    """The infimum and the supremum of a function's slope, rounded outward."""

    lo: Decimal
    hi: Decimal
    slack: Decimal = Decimal(0)
    """The ends lie outside of the truth by at most this much."""

    @property
    def stretch(self) -> Enclosure:
        """Enclose the supremum of |slope|."""
        # copy_abs, since abs() would round to the ambient decimal context.
        steepest = max(self.lo.copy_abs(), self.hi.copy_abs())
        around = Enclosure.exactly(steepest).widened(Enclosure.exactly(self.slack))
        return Enclosure(around.lo, steepest, Rigor.PROVED)

    @property
    def centre(self) -> float:
        """A number about half way, exactly representable."""
        return float((Fraction(self.lo) + Fraction(self.hi)) / 2)

    @property
    def radius(self) -> Enclosure:
        """Bound |slope - centre|: the function is centre·x plus a part stretched by no more."""
        middle = Fraction(self.centre)
        exact = max(Fraction(self.hi) - middle, middle - Fraction(self.lo))
        above = float(exact)
        return Enclosure.at_most(
            above if Fraction(above) >= exact else math.nextafter(above, math.inf)
        )


def slope(lo: float | str, hi: float | str, *, slack: str = "0") -> Slope:
    """Return the slope range between two numbers, taken exactly as they are written."""
    return Slope(Decimal(lo), Decimal(hi), Decimal(slack))


def slopes_among(*values: float) -> Slope:
    """Return the range of a piecewise slope whose pieces have (or approach) these values."""
    return slope(min(values), max(values))
