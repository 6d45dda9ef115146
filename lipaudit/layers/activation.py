"""Activations: rows of slopes, and the two that take stored tensors.

The suprema that are not read off are roots of a derivative; their digits were computed with
mpmath and are derived again, independently, in tests/layers/test_activation.py.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import final

import torch
from torch.nn import functional

from lipaudit.enclosure import ONE, Enclosure
from lipaudit.graph.constant import Constant, Shape
from lipaudit.graph.node import TORCH_DOMAIN, Node
from lipaudit.layers.base import (
    AbstractGainLayer,
    Call,
    Example,
    Examples,
    Gain,
    Unbounded,
    UnsupportedNode,
    unary,
)
from lipaudit.layers.magnitude import largest_magnitude
from lipaudit.layers.operands import operand, operands, optional
from lipaudit.layers.pointwise import (
    Case,
    Function,
    Row,
    Trend,
    always,
    jump,
    tabulate,
    trend,
)
from lipaudit.layers.registry import layer
from lipaudit.layers.slope import Slope, slope, slopes_among
from lipaudit.layers.values import Values, enclosing

# Φ(x) + xφ(x): extreme where its derivative (2 - x²)φ(x) vanishes, at x = ±√2. The two
# extremes add up to 1, since g(x) - x/2 is even for each of these g(x) = x·s(x), s(-x) = 1 - s(x).
GELU = slope("-0.1289041451851547864", "1.1289041451851547864", slack="1e-19")
# The tanh form of Hendrycks & Gimpel (arXiv:1606.08415): extreme at x = ±1.418504...
GELU_TANH = slope("-0.1289930686587717655", "1.1289930686587717655", slack="1e-19")
# x·sigmoid(x): extreme at x = ±2.399357...
_SILU = slope("-0.0998393201288669170", "1.0998393201288669170", slack="1e-19")
# x·tanh(softplus(x)), not symmetric: extreme at x = 1.490571... and x = -2.256376...
_MISH = slope("-0.1125261223894625565", "1.0884981612517278623", slack="1e-19")
# One sixth, rounded up.
_SIXTH = "0.16666666666666666667"
_UNIT = slope(0, 1)
# How far x·Φ(x), x·sigmoid(x) and x·tanh(softplus(x)) dip below 0, rounded up. All fall to that,
# left of 0, and rise from there.
# From this βx on torch's softplus returns x unless it is told otherwise. The jump there is 1e-10 of
# the value, below float32's resolution: it is taken for a rounding error.
_SAME = 20.0
_GELU_DIP, _SILU_DIP, _MISH_DIP = 0.17005, 0.27847, 0.30885


def _leaky_relu(call: Call) -> tuple[Slope, Function]:
    alpha = call.attribute("alpha", 0.01)
    return slopes_among(alpha, 1), lambda x: functional.leaky_relu(x, alpha)


def _elu(call: Call) -> tuple[Slope, Function]:
    # 1 right of 0; α·exp(x) left of it, between α and 0.
    alpha = call.attribute("alpha", 1.0)
    return slopes_among(alpha, 0, 1), lambda x: functional.elu(x, alpha)


def _celu(call: Call) -> tuple[Slope, Function]:
    # exp(x/α) left of 0 is at most 1 for α > 0 and grows without bound for α < 0.
    alpha = call.attribute("alpha", 1.0)
    if not alpha > 0:
        raise UnsupportedNode(f"Celu with alpha = {alpha} is not a bounded activation")
    return _UNIT, lambda x: functional.celu(x, alpha)


def _selu(call: Call) -> tuple[Slope, Function]:
    # γ right of 0; γα·exp(x) left of it. ONNX's default constants are the float32 roundings
    # of those of Klambauer et al. (arXiv:1706.02515); their product is the larger one, so the
    # default also bounds torch.nn.SELU, which has them in float64.
    alpha = call.attribute("alpha", 1.67326319217681884765625)
    gamma = call.attribute("gamma", 1.05070102214813232421875)
    # The product of two float32 numbers is exact in float64; for others one step outward is.
    steep = math.nextafter(gamma * alpha, math.copysign(math.inf, gamma * alpha))
    range_ = slopes_among(gamma, steep, 0)
    # Wide enough for the other rounding of the constants, and for the step outward.
    slack = Decimal(max(1e-8, abs(steep) * 1e-15))

    def selu(x: torch.Tensor) -> torch.Tensor:
        below = alpha * torch.expm1(torch.minimum(x, torch.zeros_like(x)))
        return gamma * torch.where(x > 0, x, below)

    return replace(range_, slack=slack), selu


def _hard_sigmoid(call: Call) -> tuple[Slope, Function]:
    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    return slopes_among(0, alpha), lambda x: torch.clamp(alpha * x + beta, 0, 1)


def _gelu(call: Call) -> tuple[Slope, Function]:
    kind = call.attribute("approximate", "none")
    if kind not in {"none", "tanh"}:
        raise UnsupportedNode(f"Gelu approximated by {kind!r} is not known")
    return (
        GELU_TANH if kind == "tanh" else GELU,
        functools.partial(functional.gelu, approximate=kind),
    )


def _swish(call: Call) -> tuple[Slope, Function]:
    # The slope of x·sigmoid(αx) is a function of αx alone, so its range is that of α = 1.
    alpha = call.attribute("alpha", 1.0)
    range_ = _SILU if alpha != 0 else slope("0.5", "0.5")
    return range_, lambda x: x * torch.sigmoid(alpha * x)


def _swish_trend(call: Call) -> Trend | None:
    alpha = call.attribute("alpha", 1.0)
    return Trend(0.0, _SILU_DIP / alpha) if alpha > 0 else None


def _thresholded_relu(call: Call) -> tuple[Slope | Unbounded, Function]:
    alpha = call.attribute("alpha", 1.0)
    verdict = _UNIT if alpha == 0 else jump(f"it jumps at x = {alpha:g}")
    return verdict, lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


def _shrink(call: Call) -> tuple[Slope | Unbounded, Function]:
    bias, lambd = call.attribute("bias", 0.0), call.attribute("lambd", 0.5)
    # The outer pieces end at ∓(λ - bias) and meet 0 there; for λ < 0 they meet each other
    # at |λ|, with values |λ| ± bias.
    continuous = bias == lambd if lambd >= 0 else bias == 0
    verdict = _UNIT if continuous else jump(f"it jumps at x = {abs(lambd):g}")

    def shrink(x: torch.Tensor) -> torch.Tensor:
        inner = torch.where(x > lambd, x - bias, torch.zeros_like(x))
        return torch.where(x < -lambd, x + bias, inner)

    return verdict, shrink


_ONE = Case(exact=1.0)

tabulate(
    {
        "Relu": Row("1", always(_UNIT, torch.relu), (_ONE,), "ReLU", "relu"),
        "LeakyRelu": Row(
            "max(1, |α|)",
            _leaky_relu,
            (_ONE, Case({"alpha": -2.5}, 2.5), Case({"alpha": 1.5}, 1.5)),
            "LeakyReLU",
        ),
        "Elu": Row(
            "max(1, |α|)",
            _elu,
            (_ONE, Case({"alpha": 2.0}, 2.0), Case({"alpha": -3.0}, 3.0)),
            "ELU",
        ),
        "Celu": Row("1", _celu, (_ONE, Case({"alpha": 0.5}, 1.0)), "CELU"),
        "Selu": Row(
            "|γ|·max(1, |α|)",
            _selu,
            # DESIGN's constant of the float64 parameters, which the default must cover.
            (Case(exact=1.75809934084737686), Case({"alpha": 0.5, "gamma": -2.0}, 2.0)),
            "SELU",
            "selu",
        ),
        "Sigmoid": Row(
            "1/4",
            always(slope(0, "0.25"), torch.sigmoid),
            (Case(exact=0.25),),
            "Sigmoid",
            "sigmoid",
        ),
        "HardSigmoid": Row(
            "|α|", _hard_sigmoid, (Case(exact=0.2), Case({"alpha": -0.75, "beta": 0.25}, 0.75))
        ),
        # x·clip(x/6 + 1/2, 0, 1): slope (2x + 3)/6 on (-3, 3), so from -1/2 to 3/2.
        "HardSwish": Row(
            "3/2",
            always(slope("-0.5", "1.5"), functional.hardswish),
            (Case(exact=1.5),),
            "Hardswish",
            "hardswish",
            trend=trend(-1.5),
        ),
        "Tanh": Row("1", always(_UNIT, torch.tanh), (_ONE,), "Tanh", "tanh"),
        # The ideal log(1 + exp x), slope sigmoid(x); torch's own switches to x at x = 20 and
        # jumps there by 2e-9.
        "Softplus": Row("1", always(_UNIT, functional.softplus), (_ONE,), "Softplus"),
        # Slope 1/(1 + |x|)².
        "Softsign": Row("1", always(_UNIT, functional.softsign), (_ONE,), "Softsign"),
        "Gelu": Row(
            "1.12891 (erf), 1.12900 (tanh)",
            _gelu,
            (Case(exact=1.1289041451851548), Case({"approximate": "tanh"}, 1.1289930686587718)),
            trend=trend(0.0, _GELU_DIP),
        ),
        "Mish": Row(
            "1.08850",
            always(_MISH, functional.mish),
            (Case(exact=1.0884981612517279),),
            "Mish",
            "mish",
            trend=trend(0.0, _MISH_DIP),
        ),
        "Swish": Row(
            "1.09984 (1/2 for α = 0)",
            _swish,
            (
                Case(exact=1.0998393201288669),
                Case({"alpha": -1.702}, 1.0998393201288669),
                Case({"alpha": 0.0}, 0.5),
            ),
            "SiLU",
            "silu",
            trend=_swish_trend,
        ),
        "ThresholdedRelu": Row(
            "none, 1 for α = 0", _thresholded_relu, (Case(), Case({"alpha": 0.0}, 1.0))
        ),
        "Shrink": Row(
            "1 if continuous",
            _shrink,
            (
                Case(),
                Case({"bias": 0.5, "lambd": 0.5}, 1.0),
                Case({"bias": 0.0, "lambd": -1.0}, 1.0),
            ),
        ),
    }
)


def _torch_softplus(call: Call) -> tuple[Slope | Unbounded, Function]:
    # (1/β)·log(1 + exp(βx)) has slope sigmoid(βx) for either sign of β.
    beta, threshold = call.attribute("beta", 1.0), call.attribute("threshold", _SAME)
    if beta == 0:
        raise UnsupportedNode("Softplus with beta = 0 divides by 0")
    if threshold < _SAME:
        # Past it torch returns x, which is smaller by log(1 + exp(-threshold)) / β.
        verdict = jump(f"it jumps at x = {threshold / beta:g}")
        return verdict, lambda x: functional.softplus(x, beta, threshold)
    return _UNIT, lambda x: functional.softplus(beta * x) / beta


def _threshold(call: Call) -> tuple[Slope | Unbounded, Function]:
    threshold, value = call.attribute("threshold", 0.0), call.attribute("value", 0.0)
    verdict = _UNIT if threshold == value else jump(f"it jumps at x = {threshold:g}")
    return verdict, lambda x: functional.threshold(x, threshold, value)


def _hardtanh(call: Call) -> tuple[Slope, Function]:
    low, high = call.attribute("min_val", -1.0), call.attribute("max_val", 1.0)
    if not low < high:
        raise UnsupportedNode(f"Hardtanh from {low:g} to {high:g} is empty")
    return _UNIT, lambda x: torch.clamp(x, low, high)


# What torch has a name for and ONNX has not.
tabulate(
    {
        "ReLU6": Row("1", always(_UNIT, functional.relu6), (_ONE,), "ReLU6", "relu6"),
        "Hardtanh": Row(
            "1", _hardtanh, (_ONE, Case({"min_val": -2.0, "max_val": 0.5}, 1.0)), "Hardtanh"
        ),
        "Hardsigmoid": Row(
            "1/6",
            always(slope(0, _SIXTH, slack="1e-20"), lambda x: functional.relu6(x + 3) / 6),
            (Case(exact=1 / 6),),
            "Hardsigmoid",
            "hardsigmoid",
        ),
        # Slope sigmoid(-x).
        "LogSigmoid": Row(
            "1", always(_UNIT, functional.logsigmoid), (_ONE,), "LogSigmoid", "log_sigmoid"
        ),
        # Slope 1 - sech² x = tanh² x.
        "Tanhshrink": Row("1", always(_UNIT, functional.tanhshrink), (_ONE,), "Tanhshrink"),
        "Softplus": Row(
            "1 if continuous",
            _torch_softplus,
            (_ONE, Case({"beta": 2.0}, 1.0), Case({"beta": 2.0, "threshold": -5.0})),
        ),
        "Threshold": Row(
            "1 if continuous", _threshold, (_ONE, Case({"threshold": 0.5, "value": 0.25}))
        ),
    },
    TORCH_DOMAIN,
)


def _prelu_examples() -> Examples:
    node = Node("PRelu", "PRelu", ("x", "slope"), ("y",))
    yield Example(node, ((2, 3, 4),), {1: torch.tensor([[0.25], [-1.5], [0.5]])}, 1.5)
    yield Example(node, ((2, 3),), {1: torch.tensor([0.25])}, 1.0)


@layer("PRelu", summary="max(1, max |slope|)", examples=_prelu_examples)
@final
@dataclass(frozen=True, slots=True)
class PRelu(AbstractGainLayer):
    """A rectifier with a stored slope for negative items, broadcast over the signal."""

    slope: Constant

    @classmethod
    def from_node(cls, call: Call) -> "PRelu":
        """Take the slope, which must be stored."""
        return cls(call.weight(1, "the slope of PRelu"))

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Multiply the negative items by the slope."""
        x, slopes = operands(inputs)
        made = torch.where(x < 0, x * slopes, x)
        if made.shape != x.shape:
            raise ValueError("the slope has more items than the signal")
        return (made,)

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Return what the ends become, and 0 where they lie on both sides of it."""
        x, slopes = inputs[0], inputs[1]
        if x is None or slopes is None:
            return ()
        (low,), (high,) = self.forward((x.lo, slopes.lo)), self.forward((x.hi, slopes.lo))
        inside = torch.where((x.lo < 0) & (x.hi > 0), 0.0, low)
        least, most = torch.minimum(torch.minimum(low, high), inside), torch.maximum(low, high)
        return (enclosing(least, torch.maximum(most, inside)),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return the steeper of the two pieces, over all stored slopes."""
        del shapes
        steepest = largest_magnitude(self.slope)
        if isinstance(steepest, Unbounded):
            return steepest
        return unary(ONE.larger(steepest), "supremum of the slope")


def _clip_examples() -> Examples:
    node = Node("Clip", "Clip", ("x", "min", "max"), ("y",))
    yield Example(node, ((3, 4),), {1: torch.tensor(-0.5), 2: torch.tensor(0.75)}, 1.0)
    upper = Node("Clip", "Clip", ("x", "", "max"), ("y",))
    yield Example(upper, ((3, 4),), {2: torch.tensor(6.0)}, 1.0)
    yield Example(Node("Clip", "Clip", ("x",), ("y",)), ((3, 4),), {}, 1.0)


@layer("Clip", summary="1", examples=_clip_examples)
@final
@dataclass(frozen=True, slots=True)
class Clip(AbstractGainLayer):
    """A projection of every item onto an interval with stored ends."""

    @classmethod
    def from_node(cls, call: Call) -> "Clip":
        """Check that the ends are stored or omitted."""
        for position, what in ((1, "the least value"), (2, "the largest value")):
            if call.given(position):
                call.weight(position, what)
        return cls()

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Clamp every item."""
        x, low, high = operand(inputs), optional(inputs, 1), optional(inputs, 2)
        return (x if low is None and high is None else torch.clamp(x, low, high),)

    @property
    def slopes(self) -> Slope | None:
        """See `AbstractGainLayer.slopes`."""
        return _UNIT

    @property
    def is_rising(self) -> bool:
        """See `AbstractGainLayer.is_rising`."""
        return True

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return 1: a projection onto a convex set. An empty interval makes it a constant."""
        del shapes
        return unary(Enclosure.at_most(1), "projection onto an interval")
