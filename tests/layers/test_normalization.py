"""Normalizations: batch norm to the last digit, the others where they are steepest."""

import math
from dataclasses import replace
from typing import Any

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipaudit.device import Compute
from lipaudit.enclosure import Rigor
from lipaudit.graph.constant import Constant, computed
from lipaudit.graph.node import Attribute, Node
from lipaudit.layers import catalog
from lipaudit.layers.base import AbstractGainLayer, Call, Gain, Unbounded, UnsupportedNode
from lipaudit.layers.normalization import BatchNormalization
from tests.layers.runtime import jacobian

CPU = Compute(torch.device("cpu"))


def _batch_norm(
    scale: torch.Tensor | Constant,
    variance: torch.Tensor,
    epsilon: float = 1e-5,
    **attributes: Attribute,
) -> BatchNormalization:
    zero = torch.zeros(len(variance))
    constants = {
        1: scale if isinstance(scale, Constant) else computed("g", scale),
        2: computed("b", zero),
        3: computed("m", zero),
        4: computed("v", variance),
    }
    node = Node(
        "BatchNormalization",
        "bn",
        ("x", "g", "b", "m", "v"),
        ("y",),
        {"epsilon": epsilon, **attributes},
    )
    return BatchNormalization.from_node(Call(node, constants))


@given(
    st.lists(
        st.tuples(
            st.floats(-1e3, 1e3, width=32), st.floats(0, 1e4, width=32), st.floats(1e-12, 1e-2)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_batch_norm_encloses_its_gain_to_the_last_digit(
    channels: list[tuple[float, float, float]],
) -> None:
    scale = torch.tensor([g for g, _, _ in channels])
    variance = torch.tensor([v for _, v, _ in channels])
    epsilon = channels[0][2]
    enclosure = _batch_norm(scale, variance, epsilon).operator(None, CPU).norm().enclosure
    with mpmath.workdps(50):
        truth = max(
            abs(mpmath.mpf(g)) / mpmath.sqrt(mpmath.mpf(v) + mpmath.mpf(epsilon))
            for g, v in zip(scale.tolist(), variance.tolist(), strict=True)
        )
        assert mpmath.mpf(str(enclosure.lo)) <= truth <= mpmath.mpf(str(enclosure.hi))
        assert mpmath.mpf(str(enclosure.hi)) <= truth * (1 + mpmath.mpf("1e-14"))
    assert enclosure.rigor is Rigor.PROVED


def test_batch_norm_whose_scale_is_zero_passes_nothing_on() -> None:
    norm = _batch_norm(torch.zeros(2), torch.ones(2)).operator((1, 2, 3), CPU).norm()
    assert norm.enclosure.is_zero


def test_the_rounding_of_computed_statistics_is_covered() -> None:
    scale = computed("g", torch.tensor([3.0]))
    rough = _batch_norm(replace(scale, entry_error=1e-6), torch.tensor([0.25]), 0.0)
    enclosure = rough.operator(None, CPU).norm().enclosure
    assert enclosure.lower <= 6 * (1 - 1e-6)
    assert enclosure.upper >= 6 * (1 + 1e-6)
    unknown = _batch_norm(replace(scale, entry_error=math.inf), torch.tensor([0.25]), 0.0)
    assert unknown.operator(None, CPU).norm().enclosure.rigor is Rigor.NUMERICAL
    spectrum = unknown.operator(None, CPU).spectrum()
    assert spectrum is not None
    assert spectrum.rigor is Rigor.NUMERICAL


@pytest.mark.parametrize(
    ("variance", "epsilon", "attributes", "slug"),
    [
        ([-1e-3, 1.0], 1e-5, {}, "negative-variance"),
        ([0.0, 1.0], 0.0, {}, "infinite-gain"),
        ([1e-5, 1.0], -1.0, {}, "infinite-gain"),
        ([1.0, 1.0], 1e-5, {"training_mode": 1}, "training"),
    ],
)
def test_statistics_that_no_training_leaves_are_refused(
    variance: list[float], epsilon: float, attributes: dict[str, Attribute], slug: str
) -> None:
    with pytest.raises(UnsupportedNode) as refusal:
        _batch_norm(torch.ones(2), torch.tensor(variance), epsilon, **attributes)
    assert refusal.value.slug == slug


def _gain(op: str, constants: dict[int, torch.Tensor], **attributes: Attribute) -> Any:
    known = {at: computed(f"c{at}", value) for at, value in constants.items()}
    names = ("x", *(f"c{at}" for at in sorted(known)))
    kind = catalog.find(op, "")
    assert kind is not None
    layer = kind.layer.from_node(Call(Node(op, op, names, ("y",), attributes), known))
    assert isinstance(layer, AbstractGainLayer)
    return layer, layer.gain((None,))


# op, shape, attributes, items in one statistic
STANDARDIZED = [
    ("LayerNormalization", (2, 6), {}, 6),
    ("LayerNormalization", (2, 2, 3), {"axis": 1}, 6),
    ("RMSNormalization", (2, 6), {}, 6),
    ("GroupNormalization", (1, 6, 2), {"num_groups": 3}, 4),
    ("InstanceNormalization", (1, 6, 2), {}, 2),
]


@pytest.mark.parametrize(("op", "shape", "attributes", "items"), STANDARDIZED)
@pytest.mark.parametrize("epsilon", [1e-5, 0.5])
def test_standardizations_are_steepest_at_a_constant_signal(
    op: str, shape: tuple[int, ...], attributes: dict[str, Attribute], items: int, epsilon: float
) -> None:
    scale = torch.tensor([0.5, -1.0, 2.5, 1.0, 0.25, 2.5])
    parameters = {1: scale.reshape(2, 3) if attributes.get("axis") == 1 else scale}
    if op != "RMSNormalization":
        parameters[2] = torch.zeros_like(parameters[1])
    layer, gain = _gain(op, parameters, epsilon=epsilon, **attributes)
    assert isinstance(gain, Gain)
    bound = gain.factors[0]
    with mpmath.workdps(40):
        exact = mpmath.mpf("2.5") / mpmath.sqrt(mpmath.mpf(epsilon))
        assert exact <= mpmath.mpf(str(bound.hi)) <= exact * (1 + mpmath.mpf("1e-30"))
    steepest = 0.0
    for spread in (0.0, 1e-4, 1e-2, 1.0, 100.0):
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        at = spread * noise + (0.0 if op == "RMSNormalization" else 3.0)
        matrix = jacobian(
            lambda x: layer.forward([x, *(p.double() for p in parameters.values())])[0], at
        )
        steepest = max(steepest, float(torch.linalg.matrix_norm(matrix, 2)))
    assert steepest <= bound.upper * (1 + 1e-9)
    assert steepest >= bound.lower * (1 - 1e-9)
    # Centring loses at most √(1 - 1/n), so the bound is no looser than that.
    assert steepest >= bound.upper * math.sqrt(1 - 1 / items) * (1 - 1e-9)


@pytest.mark.parametrize(("op", "shape", "attributes", "items"), STANDARDIZED)
def test_without_an_epsilon_there_is_no_constant(
    op: str, shape: tuple[int, ...], attributes: dict[str, Attribute], items: int
) -> None:
    del shape, items
    _, gain = _gain(op, {1: torch.ones(6)}, epsilon=0.0, **attributes)
    assert isinstance(gain, Unbounded)
    with pytest.raises(UnsupportedNode):
        _gain(op, {1: torch.ones(6)}, epsilon=-1e-5, **attributes)


def test_a_layer_norm_without_a_scale_has_scale_one() -> None:
    layer, gain = _gain("LayerNormalization", {}, epsilon=0.25)
    assert isinstance(gain, Gain)
    assert gain.factors[0].upper == 2.0
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        layer.forward([x])[0], torch.nn.functional.layer_norm(x, (4,), eps=0.25)
    )


def test_a_scale_that_is_a_signal_is_no_stored_scale() -> None:
    kind = catalog.find("LayerNormalization", "")
    assert kind is not None
    with pytest.raises(UnsupportedNode):
        kind.layer.from_node(Call(Node("LayerNormalization", "n", ("x", "g"), ("y",)), {}))


def test_returning_the_statistics_is_refused() -> None:
    kind = catalog.find("LayerNormalization", "")
    assert kind is not None
    node = Node("LayerNormalization", "n", ("x",), ("y", "mean"))
    with pytest.raises(UnsupportedNode):
        kind.layer.from_node(Call(node, {}))


def test_half_precision_is_standardized_in_single() -> None:
    layer, _ = _gain("LayerNormalization", {})
    x = (torch.randn(2, 64, generator=torch.Generator().manual_seed(1)) * 300).half()
    ours = layer.forward([x])[0]
    assert ours.dtype == torch.float16
    truth = torch.nn.functional.layer_norm(x.double(), (64,))
    torch.testing.assert_close(ours.double(), truth, rtol=2e-3, atol=2e-3)


@given(
    st.integers(1, 5),
    st.floats(0.01, 10),
    st.floats(0.05, 3),
    st.floats(0.1, 4),
    st.integers(0, 50),
)
def test_local_response_norm_never_exceeds_its_bound(
    size: int, alpha: float, beta: float, bias: float, seed: int
) -> None:
    layer, gain = _gain("LRN", {}, size=size, alpha=alpha, beta=beta, bias=bias)
    assert isinstance(gain, Gain)
    generator = torch.Generator().manual_seed(seed)
    for scale in (0.0, 0.5, 2.0, 10.0):
        x = scale * torch.randn(1, 5, 1, generator=generator, dtype=torch.float64)
        matrix = jacobian(lambda v: layer.forward([v])[0], x)
        assert float(torch.linalg.matrix_norm(matrix, 2)) <= gain.factors[0].upper * (1 + 1e-9)


@pytest.mark.parametrize("attributes", [{"bias": 0.0}, {"alpha": -1.0}, {"beta": -0.5}])
def test_local_response_norm_without_a_floor_has_no_constant(
    attributes: dict[str, Attribute],
) -> None:
    _, gain = _gain("LRN", {}, size=3, **attributes)
    assert isinstance(gain, Unbounded)
