"""Gates: x times a function of x, with the numbers that a file states.

Files that spell an activation out state its constants rounded, so that what they define is not
quite the function of the literature. Most of the constants do not matter: the slope of x·g(αx) is
a function of αx alone, so that its range is the same for every α but 0.
"""

import math
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction

import torch

from lipaudit.graph.node import TORCH_DOMAIN
from lipaudit.layers.activation import GELU, GELU_TANH
from lipaudit.layers.base import Call, UnsupportedNode
from lipaudit.layers.pointwise import Case, Function, Row, Trend, tabulate
from lipaudit.layers.slope import Slope

_ALPHA_ERF = 1 / math.sqrt(2)
_ALPHA_TANH = math.sqrt(2 / math.pi)
_CUBIC = 0.044715

# With t = αx the argument of the tanh is u = t + κt³, κ = cubic/α²; here that of `GELU_TANH`,
# 0.044715·π/2, with digits by mpmath, checked there again in the tests.
_KAPPA = Fraction("0.07023815775263380232892855")
_KAPPA_ERROR = Fraction("1e-26")
_LARGEST_KAPPA = Fraction(1, 10)
_UP = Context(prec=30, rounding=ROUND_CEILING)


def _gelu(call: Call) -> tuple[Slope, Function]:
    kind = call.attribute("approximate", "none")
    if kind == "none":
        alpha = _nonzero(call.attribute("alpha", _ALPHA_ERF))
        return GELU, lambda x: 0.5 * x * (1 + torch.erf(alpha * x))
    if kind != "tanh":
        raise UnsupportedNode(f"Gelu approximated by {kind!r} is not known")
    alpha = _nonzero(call.attribute("alpha", _ALPHA_TANH))
    cubic = call.attribute("cubic", _CUBIC)
    return _tanh_slope(
        alpha, cubic
    ), lambda x: 0.5 * x * (1 + torch.tanh(alpha * (x + cubic * x.pow(3))))


def _tanh_slope(alpha: float, cubic: float) -> Slope:
    """Return the slopes of t/2·(1 + tanh u), u = t + κt³, for κ close to the usual one.

    The slope S = (1 + tanh u + t·sech² u·(1 + 3κt²))/2 has the derivative
    ∂S/∂κ = t³·sech² u·(2 - t·tanh u·(1 + 3κt²)). Since sech² u <= 4·exp(-2|t|) for κ >= 0, that
    is at most 8|t|³·exp(-2|t|) <= 27/e³ or 4(t⁴ + 3κt⁶)·exp(-2|t|) <= 64/e⁴ + 8748κ/e⁶, both
    below 4 for κ <= 1/10.
    """
    kappa = Fraction(cubic) / Fraction(alpha) ** 2
    if not 0 <= kappa <= _LARGEST_KAPPA:
        raise UnsupportedNode(f"the tanh of {alpha:g}·(x + {cubic:g}·x³) is not that of a Gelu")
    drift = 4 * (abs(kappa - _KAPPA) + _KAPPA_ERROR)
    moved = _UP.divide(Decimal(drift.numerator), Decimal(drift.denominator))
    slack = _UP.add(_UP.multiply(moved, Decimal(2)), GELU_TANH.slack)
    below = _UP.add(GELU_TANH.lo.copy_negate(), moved).copy_negate()
    return Slope(below, _UP.add(GELU_TANH.hi, moved), slack)


def _hard_swish(call: Call) -> tuple[Slope, Function]:
    # The slope of x·clip(αx + 1/2, 0, 1) is 0, 1, or 2αx + 1/2 between them, where αx lies in
    # (-1/2, 1/2): from -1/2 to 3/2.
    alpha, scale = _nonzero(call.attribute("alpha", 1 / 6)), call.attribute("scale", 1.0)
    size = Decimal(scale).copy_abs()
    short, long = _UP.multiply(size, Decimal("0.5")), _UP.multiply(size, Decimal("1.5"))
    lo, hi = (short, long) if scale > 0 else (long, short)
    # The products are rounded outward in the 30th digit.
    range_ = Slope(lo.copy_negate(), hi, slack=_UP.multiply(long, Decimal("1e-29")))
    return range_, lambda x: scale * x * torch.clamp(alpha * x + 0.5, 0, 1)


def _gelu_trend(call: Call) -> Trend | None:
    # Substituting t = αx, the dip of x·g(αx) is that of t·g(t) over α. The tanh form is allowed to
    # differ by 2^-9 from the usual one, whose dip is the larger of the two, 0.170041.
    usual = _ALPHA_TANH if call.attribute("approximate", "none") == "tanh" else _ALPHA_ERF
    alpha = call.attribute("alpha", usual)
    return Trend(0.0, 0.172 * usual / alpha) if alpha > 0 else None


def _hard_swish_trend(call: Call) -> Trend | None:
    # x·(αx + 1/2) is least at -1/(4α).
    alpha, scale = call.attribute("alpha", 1 / 6), call.attribute("scale", 1.0)
    return Trend(-0.25 / alpha) if alpha > 0 and scale > 0 else None


def _nonzero(alpha: float) -> float:
    if alpha == 0:
        raise UnsupportedNode("alpha = 0: its gate does not turn")
    return alpha


tabulate(
    {
        # x·(1 + erf(αx))/2; x·(1 + tanh(α·(x + cubic·x³)))/2.
        "Gelu": Row(
            "1.12891 (erf, any α), 1.12900 (tanh, α and the cubic factor as usual)",
            _gelu,
            (
                Case(exact=1.1289041451851548),
                Case({"alpha": -1.5}, 1.1289041451851548),
                Case({"approximate": "tanh"}, 1.1289930686587718),
                Case({"approximate": "tanh", "alpha": 0.8, "cubic": 0.045}),
            ),
            trend=_gelu_trend,
        ),
        # scale·x·clip(αx + 1/2, 0, 1).
        "HardSwish": Row(
            "3/2·|scale|",
            _hard_swish,
            (Case(exact=1.5), Case({"alpha": 0.25, "scale": -2.0}, 3.0)),
            trend=_hard_swish_trend,
        ),
    },
    TORCH_DOMAIN,
)
