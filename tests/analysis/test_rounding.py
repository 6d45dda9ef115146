"""The error of single layers, against sums in the worst order and exact numbers."""

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lipaudit.analysis.rounding import items
from lipaudit.analysis.rounding.arithmetic import Arithmetic
from lipaudit.enclosure import Enclosure
from lipaudit.graph.constant import computed
from lipaudit.graph.node import Attribute, Edge, Graph, Node
from lipaudit.layers.execution import run
from lipaudit.layers.network import Network, build
from lipaudit.layers.pointwise import SLOPES
from tests.analysis.runs import (
    DTYPES,
    asked,
    bound_of,
    graph_of,
    inputs_within,
    lengths,
    linear,
    network_of,
)


def in_sequence(
    terms: Iterable[tuple[float, float]], kind: type[np.floating[Any]], start: float = 0.0
) -> float:
    """Add up products one after the other, each operation rounded to a format."""
    held = kind(start)
    for left, right in terms:
        held = kind(held + kind(kind(left) * kind(right)))
    return float(held)


def one_row(entry: float, size: int, bias: float | None = None) -> Network:
    offset = None if bias is None else torch.tensor([bias])
    return network_of(nn.Sequential(linear(torch.full((1, size), entry), offset)), size)


def sequential_error(entry: float, item: float, size: int, kind: type[np.floating[Any]]) -> float:
    weight, x = float(kind(entry)), float(kind(item))
    exact = Fraction(weight) * Fraction(x) * size
    return abs(float(Fraction(in_sequence([(weight, x)] * size, kind)) - exact))


@pytest.mark.parametrize(
    ("size", "kind", "dtype"), [(4096, np.float32, "float32"), (1024, np.float16, "float16")]
)
def test_a_long_sum_needs_the_whole_gamma(
    size: int, kind: type[np.floating[Any]], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, item = float(kind(0.1)), float(kind(0.3))
    network, radius = one_row(entry, size), item * math.sqrt(size) * (1 + 1e-12)
    seen = sequential_error(entry, item, size, kind)
    error = bound_of(network, dtype, radius, "same")
    assert seen <= error
    unit = float(np.finfo(kind).eps) / 2
    monkeypatch.setattr(Arithmetic, "kappa", lambda *_args, **_named: Enclosure.exactly(2 * unit))
    assert bound_of(network, dtype, radius, "same") < seen, "the test would not see a wrong κ"


def test_the_error_of_one_matrix_is_that_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(5)
    weight, bias = torch.randn(20, 30, generator=generator), torch.randn(20, generator=generator)
    error = bound_of(network_of(nn.Sequential(linear(weight, bias)), 30), "float32", 3.0)
    unit = Fraction(1, 2**24)
    gamma = 30 * unit / (1 - 30 * unit)
    moduli = np.linalg.norm(np.abs(weight.numpy().astype(np.float64)), 2)
    wanted = float(gamma + unit * (1 + gamma)) * (moduli * 3 + np.linalg.norm(bias.numpy()))
    assert wanted * (1 - 1e-6) <= error <= 1.3 * wanted


def test_a_sum_may_start_with_the_bias() -> None:
    size, entry, item, bias = 2000, 0.01, 0.01, 1000.0
    weight, x = float(np.float32(entry)), float(np.float32(item))
    exact = Fraction(weight) * Fraction(x) * size + Fraction(bias)
    seen = abs(float(Fraction(in_sequence([(weight, x)] * size, np.float32, bias)) - exact))
    unit = 2.0**-24
    assert seen > 100 * unit * bias, "the example is too tame"
    assert seen <= bound_of(one_row(entry, size, bias), "float32", x * math.sqrt(size) * 1.001)


def test_products_that_underflow_are_counted() -> None:
    generator = np.random.default_rng(1)
    weight = np.float32(1e-30)
    x = (generator.random(64) * 1e-13).astype(np.float32)
    exact = sum((Fraction(float(weight)) * Fraction(float(item)) for item in x), Fraction())
    made = in_sequence([(float(weight), float(item)) for item in x], np.float32)
    seen = abs(float(Fraction(made) - exact))
    radius = float(np.linalg.norm(x.astype(np.float64))) * 1.0001
    assert seen > 100 * 2.0**-24 * float(exact), "nothing underflows"
    assert seen <= bound_of(one_row(float(weight), 64), "float32", radius)


def test_weights_that_the_format_cannot_hold_are_counted() -> None:
    network = one_row(1e-8, 1)
    x = torch.tensor([[1000.0]], dtype=torch.float16)
    ran = run(network, {network.graph.inputs[0].name: x}, torch.float16)
    (made,) = ran.values()
    assert float(made) == 0, "1e-8 is below half the least float16"
    exact = float(torch.tensor(1e-8, dtype=torch.float32).double()) * 1000.0
    found = asked(network, "float16", 1000.0)
    assert exact <= found.error.upper <= 1.1 * exact
    assert any("stored tensors are rounded" in text for text in found.assumptions)
    assert not any("stored tensors" in text for text in asked(network, "float32", 1.0).assumptions)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_norm_may_cancel(dtype: str) -> None:
    def make() -> nn.Module:
        layer = nn.BatchNorm2d(1)
        layer.running_mean = torch.tensor([1000.3])
        layer.running_var = torch.tensor([0.9])
        layer.bias.data = torch.tensor([1000.3 / math.sqrt(0.9)])
        return layer.eval()

    x = inputs_within(1.0, DTYPES[dtype], 1, 3, 3, count=50)
    with torch.no_grad():
        exact, made = make().double()(x.double()), make().to(DTYPES[dtype])(x)
    seen = float(lengths(made.double() - exact).max())
    unit = float(torch.finfo(DTYPES[dtype]).eps) / 2
    assert seen > 100 * unit * float(lengths(exact).max()), "the example is too tame"
    assert seen <= bound_of(network_of(make(), 1, 3, 3), dtype, 1.0)


def test_an_error_is_stretched_by_the_layers_behind_it() -> None:
    size, doubling = 4096, 10
    entry = float(np.float32(0.1))
    parts = [linear(torch.full((1, size), entry))]
    parts += [linear(torch.tensor([[2.0]])) for _ in range(doubling)]
    item = float(np.float32(0.3))
    seen = sequential_error(entry, item, size, np.float32) * 2.0**doubling
    network = network_of(nn.Sequential(*parts), size)
    assert seen <= bound_of(network, "float32", item * math.sqrt(size) * (1 + 1e-12))


POINTWISE = {
    (op, domain): [case.attributes for case in row.cases]
    for (domain, op), row in SLOPES.items()
    if op in items.ROUNDED_FUNCTIONS
}
EXTRA: dict[str, list[dict[str, Attribute]]] = {
    "HardSigmoid": [{"alpha": 0.3, "beta": -0.7}, {"alpha": 1e-7, "beta": 0.1}],
    "Hardtanh": [{"min_val": -0.1, "max_val": 0.3}],
    "LeakyRelu": [{"alpha": 1e-7}],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("op", "domain"), POINTWISE, ids=str)
def test_functions_of_one_number_stay_within_their_error(op: str, domain: str, dtype: str) -> None:
    sizes = torch.tensor([0.0, 1e-6, 1e-3, 0.11, 0.3, 0.9, 2.9, 3.1, 7.0, 21.0, 90.0, 300.0])
    x = torch.cat([sizes, -sizes]).to(DTYPES[dtype])
    ran = 0
    for attributes in [*POINTWISE[op, domain], *EXTRA.get(op, [])]:
        network = build(graph_of(op, (1,), domain, **attributes))
        exact = run(network, {"x": x.double()}, torch.float64)["y"]
        made = run(network, {"x": x}, DTYPES[dtype])["y"].double()
        for one, wanted, seen in zip(x.tolist(), exact.tolist(), made.tolist(), strict=True):
            found = asked(network, dtype, abs(one))
            if not found.reasons:  # ThresholdedRelu, Shrink, Threshold may jump
                assert abs(seen - wanted) <= found.error.upper, (attributes, one)
                ran += 1
    assert ran


@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_with_stored_numbers_stay_within_their_error(dtype: str) -> None:
    numbers = torch.tensor([0.1, -2.3, 1 / 3, 7.7, 1e-3])
    several = {
        "Add": "x c", "Sub": "c x", "Mul": "c x", "Div": "x c", "Max": "x c", "Concat": "c x",
        "Mean": "x c x", "Sum": "c x x", "PRelu": "x c", "Clip": "x low high",
    }  # fmt: skip
    stored = {"c": numbers, "low": torch.tensor(-0.1), "high": torch.tensor(1e39).double()}
    x = inputs_within(6.0, DTYPES[dtype], 5, count=60)
    for op, names in several.items():
        node = Node(op, "node_3", tuple(names.split()), ("y",), {"axis": 0})
        known = {name: computed(name, stored[name], sources=(name,)) for name in stored}
        network = build(Graph((node,), known, (Edge("x", (5,)),), (Edge("y"),)))
        error = bound_of(network, dtype, 6.0)
        worst = 0.0
        for one in x:
            exact = run(network, {"x": one.double()}, torch.float64)["y"]
            made = run(network, {"x": one}, DTYPES[dtype])["y"]
            worst = max(worst, float(torch.linalg.vector_norm(made.double() - exact)))
        assert worst <= error <= 200 * max(worst, float(torch.finfo(DTYPES[dtype]).eps)), op
