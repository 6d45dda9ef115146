"""Numbers as people read them: bounds rounded outward, six digits, never NaN."""

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal

from lipaudit.enclosure import Enclosure, product
from lipaudit.report.text import short
from lipaudit.results import Measure

DIGITS = 6
NONE = "none"
"""What stands where there is no number."""
_PLAIN_BELOW = 10**DIGITS
_PLAIN_ABOVE = 1e-4


def upper(value: float, log10: float) -> str:
    """Write an upper bound, rounded up; as a power of ten when a float cannot hold it."""
    if math.isnan(value) or math.isnan(log10) or log10 == math.inf:
        return NONE
    if math.isinf(value):
        return f"10^{_ceiling(log10)}"
    return _rounded(value, ROUND_CEILING)


def lower(value: float, log10: float) -> str:
    """Write a lower bound, rounded down."""
    if math.isnan(value) or math.isnan(log10):
        return "0"
    if math.isfinite(value) and value < 1e308:
        return _rounded(value, ROUND_FLOOR)
    return f"10^{math.floor(log10 * 100) / 100:.2f}"


def measured(value: float | None) -> str:
    """Write what a rule measured, rounded up as the upper ends it is made of; "" for nothing."""
    if value is None or math.isnan(value):
        return ""
    return upper(value, math.log10(value) if value > 0 else -math.inf)


def exponent(log10: float) -> str:
    """Write the logarithm of an upper bound, rounded up to hundredths."""
    if math.isnan(log10) or log10 == math.inf:
        return NONE
    return "-" if log10 == -math.inf else _ceiling(log10)


def ratio(measure: Measure) -> str:
    """Write upper over lower, rounded up: by how much the upper end can be loose."""
    if math.isfinite(measure.upper) and measure.lower > 0:
        quotient = Enclosure.exactly(measure.upper).over(Enclosure.exactly(measure.lower))
        return upper(quotient.upper, quotient.log10_upper)
    # Past the float range; the two logarithms are off by far less than the hundredth shown.
    return upper(math.inf, measure.log10_upper - measure.log10_lower)


def product_of_uppers(measures: Sequence[Measure]) -> str:
    """Write the product of the upper ends, rounded up."""
    if any(math.isinf(measure.upper) for measure in measures):
        # A norm past the float range, or none at all: only the logarithms are left, and the
        # sum of a few hundred of them is off by far less than the hundredth it is rounded to.
        return upper(math.inf, math.fsum(measure.log10_upper for measure in measures))
    whole = product(Enclosure.at_most(measure.upper) for measure in measures)
    return upper(whole.upper, whole.log10_upper)


def nearest(value: float | None) -> str:
    """Write a computed value, rounded to the nearest."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return NONE
    return _rounded(value, ROUND_HALF_EVEN)


def limit(value: float) -> str:
    """Write a limit with as many digits as the user gave: it must not be rounded at all."""
    return repr(value).removesuffix(".0")


def count(value: int) -> str:
    """Write a count with its thousands apart."""
    return f"{value:,}"


def counted(value: int, noun: str) -> str:
    """Write a count with its noun: 1 layer, 2 layers."""
    return f"{count(value)} {noun}{'' if value == 1 else 's'}"


def shape(sizes: tuple[int, ...] | None) -> str:
    """Write a shape as 64x3x3x3."""
    if sizes is None:
        return "any"
    return "x".join(map(str, sizes)) if sizes else "scalar"


def inputs(sizes: Mapping[str, tuple[int, ...]]) -> str:
    """Write the shapes of inputs with their names; a lone one that is called "input" needs none."""
    named = {"" if name == "input" and len(sizes) == 1 else name: sizes[name] for name in sizes}
    return ", ".join(f"{short(name, 48)} {shape(size)}".lstrip() for name, size in named.items())


def change(share: float) -> str:
    """Write by how much something was changed."""
    return f"{100 * share:.3g}%" if math.isfinite(share) else "-"


def percent(share: float | None) -> str:
    """Write a share as whole percent."""
    return "-" if share is None or not math.isfinite(share) else f"{100 * share:.0f}%"


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
