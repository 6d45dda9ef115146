"""Elementary functions: exp, log, roots and trigonometry, item by item."""

import math

import torch

from lipaudit.layers.pointwise import Case, Row, Trend, always, steep, tabulate, trend
from lipaudit.layers.slope import slope

# d/dx erf = 2/√π · exp(-x²), largest at 0; 2/√π = 1.128379167095512573896..., digits by
# mpmath and checked there again in the tests.
_ERF = slope(0, "1.128379167095512573897", slack="1e-21")


def _positive(x: torch.Tensor) -> torch.Tensor:
    """Return x where it is positive, else 0, at which the slopes here are infinite."""
    return x.clamp(min=0.0)


def _nearest(lo: torch.Tensor, hi: torch.Tensor) -> torch.Tensor:
    """Return the least |x| between two numbers."""
    return torch.where((lo > 0) | (hi < 0), torch.minimum(lo.abs(), hi.abs()), 0.0)


# Each row: where the slope is extreme, and why that is so if it takes more than a look.
tabulate(
    {
        # ±1 everywhere but at 0.
        "Abs": Row(
            "1", always(slope(-1, 1), torch.abs), (Case(exact=1.0),), aten="abs", trend=trend(0.0)
        ),
        "Neg": Row("1", always(slope(-1, -1), torch.neg), (Case(exact=1.0),), aten="neg"),
        "Erf": Row("2/√π", always(_ERF, torch.erf), (Case(exact=1.1283791670955126),), aten="erf"),
        # cos x and -sin x attain ±1.
        "Sin": Row(
            "1",
            always(slope(-1, 1), torch.sin),
            (Case(exact=1.0),),
            aten="sin",
            trend=lambda _: Trend(None, within=(-1.0, 1.0)),
        ),
        "Cos": Row(
            "1",
            always(slope(-1, 1), torch.cos),
            (Case(exact=1.0),),
            aten="cos",
            trend=lambda _: Trend(None, within=(-1.0, 1.0)),
        ),
        # 1/(1 + x²) and 1/√(1 + x²): 1 at 0, towards 0 far out.
        "Atan": Row("1", always(slope(0, 1), torch.atan), (Case(exact=1.0),), aten="atan"),
        "Asinh": Row("1", always(slope(0, 1), torch.asinh), (Case(exact=1.0),), aten="asinh"),
        "Exp": Row(
            "none; on bounded values its slope there",
            always(steep("exp grows ever steeper"), torch.exp),
            aten="exp",
            trend=trend(-math.inf, within=(0.0, math.inf)),
            steepest=lambda _, hi: hi.exp(),
        ),
        "Log": Row(
            "none; on bounded values its slope there",
            always(steep("log is vertical at 0"), torch.log),
            aten="log",
            trend=trend(-math.inf),
            steepest=lambda lo, _: _positive(lo).reciprocal(),
        ),
        "Sqrt": Row(
            "none; on bounded values its slope there",
            always(steep("√ is vertical at 0"), torch.sqrt),
            aten="sqrt",
            trend=trend(-math.inf, within=(0.0, math.inf)),
            steepest=lambda lo, _: 0.5 * _positive(lo).rsqrt(),
        ),
        "Reciprocal": Row(
            "none; on bounded values its slope there",
            always(steep("1/x has a pole at 0"), torch.reciprocal),
            aten="reciprocal",
            trend=trend(math.inf, pole=True),
            steepest=lambda lo, hi: _nearest(lo, hi).reciprocal().square(),
        ),
        "Tan": Row("none", always(steep("tan has poles"), torch.tan), aten="tan"),
        "Sinh": Row(
            "none; on bounded values its slope there",
            always(steep("sinh grows ever steeper"), torch.sinh),
            aten="sinh",
            trend=trend(-math.inf),
            steepest=lambda lo, hi: torch.maximum(lo.abs(), hi.abs()).cosh(),
        ),
        "Cosh": Row(
            "none; on bounded values its slope there",
            always(steep("cosh grows ever steeper"), torch.cosh),
            aten="cosh",
            trend=trend(0.0),
            steepest=lambda lo, hi: torch.maximum(lo.abs(), hi.abs()).sinh(),
        ),
        "Asin": Row("none", always(steep("asin is vertical at ±1"), torch.asin), aten="asin"),
        "Acos": Row("none", always(steep("acos is vertical at ±1"), torch.acos), aten="acos"),
        "Acosh": Row("none", always(steep("acosh is vertical at 1"), torch.acosh), aten="acosh"),
        "Atanh": Row("none", always(steep("atanh is vertical at ±1"), torch.atanh), aten="atanh"),
    }
)
