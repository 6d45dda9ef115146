"""Slopes of pointwise functions, derived again with mpmath from their definitions."""

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import mpmath
import pytest
import torch

from lipaudit.graph.constant import computed
from lipaudit.graph.node import ONNX_DOMAIN, TORCH_DOMAIN, Attribute, Node
from lipaudit.layers import catalog
from lipaudit.layers.activation import Clip, PRelu
from lipaudit.layers.base import Call, Gain, Unbounded, UnsupportedNode
from lipaudit.layers.pointwise import SLOPES, Pointwise
from lipaudit.layers.slope import Slope
from lipaudit.layers.softmax import LogSoftmax, Softmax

Number = Any  # mpmath has no types
Derivative = Callable[[Number], Number]


def _sigmoid(x: Number) -> Number:
    return 1 / (1 + mpmath.exp(-x)) if x > 0 else mpmath.exp(x) / (1 + mpmath.exp(x))


def _gelu_tanh(x: Number) -> Number:
    c, k = mpmath.sqrt(2 / mpmath.pi), mpmath.mpf("0.044715")
    inner = c * (x + k * x**3)
    return (1 + mpmath.tanh(inner)) / 2 + x / 2 * mpmath.sech(inner) ** 2 * c * (1 + 3 * k * x**2)


def _angled_gelu(alpha: float, cubic: float) -> Derivative:
    a, k = mpmath.mpf(alpha), mpmath.mpf(cubic)

    def derivative(x: Number) -> Number:
        inner = a * (x + k * x**3)
        turn = x / 2 * mpmath.sech(inner) ** 2 * a * (1 + 3 * k * x**2)
        return (1 + mpmath.tanh(inner)) / 2 + turn

    return derivative


def _erf_gelu(alpha: float) -> Derivative:
    a = mpmath.mpf(alpha)
    return lambda x: (
        (1 + mpmath.erf(a * x)) / 2 + x * a * mpmath.exp(-((a * x) ** 2)) / mpmath.sqrt(mpmath.pi)
    )


def _mish(x: Number) -> Number:
    soft = mpmath.log1p(mpmath.exp(x)) if x < 30 else x + mpmath.exp(-x)
    return mpmath.tanh(soft) + x * mpmath.sech(soft) ** 2 * _sigmoid(x)


def _silu(x: Number) -> Number:
    return _sigmoid(x) + x * _sigmoid(x) * _sigmoid(-x)


def _selu(alpha: str, gamma: str) -> Derivative:
    a, g = mpmath.mpf(alpha), mpmath.mpf(gamma)
    return lambda x: g if x > 0 else g * a * mpmath.exp(x)


def _elu(alpha: float) -> Derivative:
    return lambda x: mpmath.mpf(1) if x > 0 else alpha * mpmath.exp(x)


def _step(outer: float, inner: float, low: float, high: float) -> Derivative:
    return lambda x: mpmath.mpf(inner if low < x < high else outer)


# Derivative of each function, written down from its definition, not from the table.
DERIVATIVES: Mapping[tuple[str, str], list[tuple[Mapping[str, Attribute], Derivative]]] = {
    ("", "Abs"): [({}, mpmath.sign)],
    ("", "Asinh"): [({}, lambda x: 1 / mpmath.sqrt(1 + x**2))],
    ("", "Atan"): [({}, lambda x: 1 / (1 + x**2))],
    ("", "Celu"): [({"alpha": 0.5}, lambda x: 1 if x > 0 else mpmath.exp(x / mpmath.mpf("0.5")))],
    ("", "Cos"): [({}, lambda x: -mpmath.sin(x))],
    ("", "Elu"): [({}, _elu(1)), ({"alpha": 2.5}, _elu(2.5)), ({"alpha": -3.0}, _elu(-3))],
    ("", "Erf"): [({}, lambda x: 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-(x**2)))],
    ("", "Gelu"): [
        ({}, lambda x: mpmath.ncdf(x) + x * mpmath.npdf(x)),
        ({"approximate": "tanh"}, _gelu_tanh),
    ],
    ("", "HardSigmoid"): [({"alpha": -0.75, "beta": 0.25}, _step(0, -0.75, -1, mpmath.mpf(1) / 3))],
    ("", "HardSwish"): [({}, lambda x: 0 if x < -3 else 1 if x > 3 else (2 * x + 3) / 6)],
    ("", "LeakyRelu"): [
        ({"alpha": -2.5}, lambda x: 1 if x > 0 else mpmath.mpf("-2.5")),
        ({"alpha": 0.25}, lambda x: 1 if x > 0 else mpmath.mpf("0.25")),
    ],
    ("", "Mish"): [({}, _mish)],
    ("", "Neg"): [({}, lambda _: mpmath.mpf(-1))],
    ("", "Relu"): [({}, lambda x: mpmath.mpf(x > 0))],
    ("", "Selu"): [
        ({}, _selu("1.67326319217681884765625", "1.05070102214813232421875")),
        ({"alpha": 0.5, "gamma": -2.0}, _selu("0.5", "-2")),
    ],
    ("", "Shrink"): [({"bias": 0.5, "lambd": 0.5}, _step(1, 0, -0.5, 0.5))],
    ("", "Sigmoid"): [({}, lambda x: _sigmoid(x) * _sigmoid(-x))],
    ("", "Sin"): [({}, mpmath.cos)],
    ("", "Softplus"): [({}, _sigmoid)],
    ("", "Softsign"): [({}, lambda x: 1 / (1 + abs(x)) ** 2)],
    ("", "Swish"): [
        ({}, _silu),
        ({"alpha": -1.75}, lambda x: _silu(mpmath.mpf("-1.75") * x)),
        ({"alpha": 0.0}, lambda _: mpmath.mpf("0.5")),
    ],
    ("", "Tanh"): [({}, lambda x: mpmath.sech(x) ** 2)],
    ("", "ThresholdedRelu"): [({"alpha": 0.0}, lambda x: mpmath.mpf(x > 0))],
    ("torch", "Gelu"): [
        ({}, _erf_gelu(math.sqrt(0.5))),
        ({"alpha": -1.41}, _erf_gelu(-1.41)),
        ({"approximate": "tanh"}, _angled_gelu(math.sqrt(2 / math.pi), 0.044715)),
    ],
    ("torch", "HardSwish"): [
        ({"alpha": 1 / 6}, lambda x: 0 if x < -3 else 1 if x > 3 else (2 * x + 3) / 6),
        (
            {"alpha": 0.25, "scale": -2.0},
            lambda x: 0 if x < -2 else -2 if x > 2 else -(x + 1),
        ),
    ],
    ("torch", "Hardsigmoid"): [({}, _step(0, mpmath.mpf(1) / 6, -3, 3))],
    ("torch", "Hardtanh"): [({}, _step(0, 1, -1, 1))],
    ("torch", "LogSigmoid"): [({}, lambda x: _sigmoid(-x))],
    ("torch", "ReLU6"): [({}, _step(0, 1, 0, 6))],
    ("torch", "Softplus"): [({"beta": 2.0}, lambda x: _sigmoid(2 * x))],
    ("torch", "Tanhshrink"): [({}, lambda x: mpmath.tanh(x) ** 2)],
    ("torch", "Threshold"): [({}, lambda x: mpmath.mpf(x > 0))],
}
FAR = [mpmath.mpf(sign) * 10**power for power in range(1, 15) for sign in (-1, 1)]
CASES = [
    pytest.param(*key, attributes, derivative, id=f"{key[1]}-{number}")
    for key, functions in DERIVATIVES.items()
    for number, (attributes, derivative) in enumerate(functions)
]


def _pointwise(op: str, domain: str = ONNX_DOMAIN, **attributes: Attribute) -> Pointwise:
    return Pointwise.from_node(Call(Node(op, op, ("x",), ("y",), attributes, domain), {}))


def _extremes(derivative: Derivative) -> tuple[Number, Number]:
    """Return the least and the largest derivative: a fine grid, then ternary search around it."""
    grid = sorted([*FAR, *(mpmath.mpf(k) / 16 + mpmath.mpf("1e-20") for k in range(-160, 161))])
    values = [derivative(x) for x in grid]

    def refined(sign: int) -> Number:
        best = max(range(len(grid)), key=lambda k: sign * values[k])
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        for _ in range(160):
            third = (high - low) / 3
            if sign * derivative(low + third) < sign * derivative(high - third):
                low += third
            else:
                high -= third
        inside = sign * derivative((low + high) / 2)
        return sign * max(inside, sign * values[best])

    return refined(-1), refined(1)


@pytest.mark.parametrize(("domain", "op", "attributes", "derivative"), CASES)
def test_the_table_encloses_every_slope_tightly(
    domain: str, op: str, attributes: Mapping[str, Attribute], derivative: Derivative
) -> None:
    stated = _pointwise(op, domain, **attributes).slope
    assert isinstance(stated, Slope)
    with mpmath.workdps(40):
        least, largest = _extremes(derivative)
        lo, hi = mpmath.mpf(str(stated.lo)), mpmath.mpf(str(stated.hi))
        assert lo <= least
        assert hi >= largest
        # Slopes that are only approached are missed by what the grid's far end leaves.
        assert least - lo <= 1e-12
        assert hi - largest <= 1e-12
        steepest = max(abs(least), abs(largest))
        assert mpmath.mpf(str(stated.stretch.lo)) <= steepest * (1 + mpmath.mpf("1e-16"))


def test_every_finite_row_is_derived_here() -> None:
    bounded = {
        key
        for key in SLOPES
        for kind in [catalog.find(key[1], key[0])]
        if kind is not None
        for example in kind.examples()
        if isinstance(Pointwise.from_node(Call(example.node, {})).slope, Slope)
    }
    assert bounded == set(DERIVATIVES)


@pytest.mark.parametrize(
    ("domain", "op", "attributes"),
    [
        ("", "ThresholdedRelu", {"alpha": 0.5}),
        ("", "ThresholdedRelu", {"alpha": -0.5}),
        ("", "Shrink", {"bias": 0.25, "lambd": 0.5}),
        ("", "Shrink", {"bias": 0.5, "lambd": -0.5}),
        ("torch", "Threshold", {"threshold": 1.0, "value": 0.0}),
    ],
)
def test_a_jump_has_no_constant(domain: str, op: str, attributes: Mapping[str, Attribute]) -> None:
    layer = _pointwise(op, domain, **attributes)
    gain = layer.gain((None,))
    assert isinstance(gain, Unbounded)
    assert gain.slug == "discontinuous"
    x = torch.linspace(-1.5, 1.5, 3001, dtype=torch.float64)
    (y,) = layer.forward([x])
    assert float((y[1:] - y[:-1]).abs().max()) > 0.2, "the example does not jump"


@pytest.mark.parametrize(
    ("alpha", "cubic"),
    [
        (0.7978845834732056, 0.044714998453855515),  # float32
        (0.7978515625, 0.044708251953125),  # float16
        (0.796875, 0.044677734375),  # bfloat16
        (1.0, 0.0),
        (1.0, 0.0999),
        (-2.0, 0.25),
    ],
)
def test_other_constants_of_the_tanh_gelu_are_covered(alpha: float, cubic: float) -> None:
    stated = _pointwise("Gelu", TORCH_DOMAIN, approximate="tanh", alpha=alpha, cubic=cubic).slope
    assert isinstance(stated, Slope)
    with mpmath.workdps(40):
        # A multiple of x has the same slopes; this one puts the bends where the grid is fine.
        least, largest = _extremes(_angled_gelu(1.0, cubic / alpha**2))
        usual = mpmath.mpf("0.044715") * mpmath.pi / 2
        drift = abs(mpmath.mpf(cubic) / mpmath.mpf(alpha) ** 2 - usual)
        # The sensitivity really is below the 4 of the derivation, and not far below.
        assert abs(largest - mpmath.mpf("1.1289930686587717655")) <= 4 * drift
        lo, hi = mpmath.mpf(str(stated.lo)), mpmath.mpf(str(stated.hi))
        assert lo <= least
        assert hi >= largest
        assert hi - largest <= 8 * drift + mpmath.mpf("1e-18")
        steepest = max(abs(least), abs(largest))
        assert mpmath.mpf(str(stated.stretch.lo)) <= steepest * (1 + mpmath.mpf("1e-16"))


@pytest.mark.parametrize("op", ["Exp", "Log", "Sqrt", "Reciprocal", "Tan", "Acosh", "Asin"])
def test_an_unbounded_slope_is_said(op: str) -> None:
    gain = _pointwise(op).gain((None,))
    assert isinstance(gain, Unbounded)
    assert gain.slug == "unbounded-slope"


def test_selu_covers_both_roundings_of_its_constants() -> None:
    stated = _pointwise("Selu").slope
    assert isinstance(stated, Slope)
    x = torch.tensor([-1e-12, 1.0], dtype=torch.float64, requires_grad=True)
    torch.nn.SELU()(x).sum().backward()
    assert x.grad is not None
    assert float(stated.hi) >= float(x.grad.max())


def test_parameters_that_make_no_sense_are_refused() -> None:
    for op, domain, attributes in (
        ("Celu", ONNX_DOMAIN, {"alpha": -1.0}),
        ("Celu", ONNX_DOMAIN, {"alpha": 0.0}),
        ("Gelu", ONNX_DOMAIN, {"approximate": "magic"}),
        ("Gelu", TORCH_DOMAIN, {"approximate": "magic"}),
        ("Gelu", TORCH_DOMAIN, {"alpha": 0.0}),
        ("Gelu", TORCH_DOMAIN, {"approximate": "tanh", "alpha": 0.5}),
        ("Gelu", TORCH_DOMAIN, {"approximate": "tanh", "cubic": -0.044715}),
        ("HardSwish", TORCH_DOMAIN, {"alpha": 0.0}),
        ("Softplus", TORCH_DOMAIN, {"beta": 0.0}),
        ("Hardtanh", TORCH_DOMAIN, {"min_val": 1.0, "max_val": 1.0}),
    ):
        with pytest.raises(UnsupportedNode):
            _pointwise(op, domain, **attributes)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_parameter_that_is_no_number_gives_no_bound(bad: float) -> None:
    for op in ("LeakyRelu", "Elu", "HardSigmoid", "Selu"):
        with pytest.raises(UnsupportedNode):
            _pointwise(op, alpha=bad)


def _prelu(slopes: torch.Tensor) -> Gain | Unbounded:
    node = Node("PRelu", "act", ("x", "s"), ("y",))
    return PRelu.from_node(Call(node, {1: computed("s", slopes)})).gain((None,))


def test_prelu_takes_its_steepest_slope() -> None:
    gain = _prelu(torch.tensor([[0.25], [-1.75]]))
    assert isinstance(gain, Gain)
    assert gain.factors[0].holds(1.75)
    assert gain.factors[0].upper == 1.75


def test_prelu_with_a_broken_slope_has_no_constant() -> None:
    gain = _prelu(torch.tensor([0.25, float("nan")]))
    assert isinstance(gain, Unbounded)
    assert gain.slug == "non-finite"


def test_prelu_whose_slope_is_a_signal_is_no_layer() -> None:
    with pytest.raises(UnsupportedNode):
        PRelu.from_node(Call(Node("PRelu", "act", ("x", "s"), ("y",)), {}))


def test_clip_between_signals_is_no_layer() -> None:
    with pytest.raises(UnsupportedNode):
        Clip.from_node(Call(Node("Clip", "clip", ("x", "low", ""), ("y",)), {}))


def test_softmax_and_log_softmax_over_one_class_are_constant() -> None:
    call = Call(Node("Softmax", "s", ("x",), ("y",), {"axis": 1}), {})
    for layer in (Softmax.from_node(call), LogSoftmax.from_node(call)):
        gain = layer.gain(((5, 1, 2),))
        assert isinstance(gain, Gain)
        assert gain.factors[0].is_zero


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_softmax_family_attains_its_constants_in_the_limit(classes: int) -> None:
    call = Call(Node("Softmax", "s", ("x",), ("y",)), {})
    even = torch.full((classes,), -60.0, dtype=torch.float64)
    even[:2] = 0.0
    peaked = torch.zeros(classes, dtype=torch.float64)
    peaked[0] = 60.0
    for layer, at in ((Softmax.from_node(call), even), (LogSoftmax.from_node(call), peaked)):
        jacobian: Any = torch.autograd.functional.jacobian(  # type: ignore[no-untyped-call] # published without types
            lambda x, layer=layer: layer.forward([x])[0], at
        )
        gain = layer.gain(((classes,),))
        assert isinstance(gain, Gain)
        assert gain.factors[0].upper == pytest.approx(
            float(torch.linalg.matrix_norm(jacobian, 2)), rel=1e-9
        )


def test_a_slope_with_more_digits_than_the_decimal_context_is_not_rounded() -> None:
    third = 1 / 3
    stated = _pointwise("LeakyRelu", alpha=-third - 1).slope
    assert isinstance(stated, Slope)
    assert stated.stretch.hi == Decimal(third + 1)
