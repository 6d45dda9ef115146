"""Numbers as people read them: bounds rounded outward, six digits, never NaN."""

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal

DIGITS = 6
NONE = "none"
"""What stands where there is no number."""
_PLAIN_BELOW = 10**DIGITS
_PLAIN_ABOVE = 1e-4


def upper(value: float, log10: float) -> str:
    """Write an upper bound, rounded up; as a power of ten when a float cannot hold it."""
    if log10 == math.inf:
        return NONE
    if math.isinf(value):
        return f"10^{_ceiling(log10)}"
    return _rounded(value, ROUND_CEILING)


def lower(value: float, log10: float) -> str:
    """Write a lower bound, rounded down."""
    if math.isfinite(value) and value < 1e308:
        return _rounded(value, ROUND_FLOOR)
    return f"10^{math.floor(log10 * 100) / 100:.2f}"


def nearest(value: float | None) -> str:
    """Write a computed value, rounded to the nearest."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return NONE
    return _rounded(value, ROUND_HALF_EVEN)


def count(value: int) -> str:
    """Write a count with its thousands apart."""
    return f"{value:,}"


def shape(sizes: tuple[int, ...] | None) -> str:
    """Write a shape as 64x3x3x3."""
    if sizes is None:
        return "any"
    return "x".join(map(str, sizes)) if sizes else "scalar"


def percent(share: float | None) -> str:
    """Write a share as whole percent."""
    return "-" if share is None else f"{100 * share:.0f}%"


def _ceiling(log10: float) -> str:
    return f"{math.ceil(log10 * 100) / 100:.2f}"


def _rounded(value: float, direction: str) -> str:
    if value == 0:
        return "0"
    kept = Context(prec=DIGITS, rounding=direction).plus(Decimal(value))
    if _PLAIN_ABOVE <= abs(kept) < _PLAIN_BELOW:
        plain = f"{kept:f}"
        return plain.rstrip("0").rstrip(".") if "." in plain else plain
    mantissa, exponent = f"{kept:.{DIGITS - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent):+03d}"
