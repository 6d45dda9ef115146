"""Bounds of random networks against the Jacobians that torch itself finds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lipaudit
from lipaudit.results import ModelReport
from tests.layers.runtime import jacobian


class Branches(nn.Module):
    """A random graph of sums, skips and concatenations."""

    def __init__(self, seed: int, width: int, depth: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.plan = torch.randint(0, 4, (depth,), generator=generator).tolist()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.merge = nn.Linear(2 * width, width)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / width**0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for kind, layer in zip(self.plan, self.layers, strict=True):
            inner = torch.relu(layer(x))
            if kind == 0:
                x = inner
            elif kind == 1:
                x = x + inner
            elif kind == 2:
                x = self.merge(torch.cat([x, torch.tanh(inner)], dim=1))
            else:
                x = torch.sigmoid(x) - inner
        return x


def report(module: nn.Module, *shape: int) -> ModelReport:
    return lipaudit.bound(module, input_shape=shape).models[0]


def jacobian_norm(module: nn.Module, *shape: int) -> float:
    module = module.double()
    best = 0.0
    for _ in range(4):
        x = torch.randn(1, *shape, dtype=torch.float64) * 2
        rows = jacobian(module, x)
        best = max(best, float(torch.linalg.matrix_norm(rows, 2)))
    return best


@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), width=st.integers(1, 5), depth=st.integers(1, 4))
def test_no_jacobian_exceeds_the_bound(seed: int, width: int, depth: int) -> None:
    module = Branches(seed, width, depth).eval()
    found = report(module, width)
    assert found.bound is not None
    assert found.bound.certified
    attained = jacobian_norm(module, width)
    assert attained <= found.bound.measure.upper * (1 + 1e-12)
    assert found.bound.measure.lower <= found.bound.measure.upper
    methods = {bound.method: bound.measure.upper for bound in found.bounds}
    assert methods["graph"] <= methods["product"] * (1 + 1e-12)
    assert found.bound.measure.upper == min(methods.values())


def test_a_skip_counts_one_plus_l() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2, bias=False)
            self.inner.weight.data = torch.tensor([[3.0, 0.0], [0.0, 1.0]])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = x + self.inner(x)
            return made

    found = report(Skip(), 2)
    graph = next(bound for bound in found.bounds if bound.method == "graph")
    assert graph.measure.upper == pytest.approx(4, rel=1e-9)
    assert graph.measure.upper >= 4


def test_an_unknown_operation_has_no_bound_and_is_named() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumprod(x, dim=1)

    found = report(Odd(), 3)
    assert found.bound is not None
    assert not found.bound.measure.is_finite
    assert "cumprod" in found.bound.reasons[0]


def test_an_output_that_ignores_the_input_has_constant_zero() -> None:
    class Still(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.value * 2 + (x * 0.0).sum() * 0.0
            return made

    found = report(Still(), 3)
    assert found.bound is not None
    assert found.bound.measure.upper == 0


def test_nan_weights_are_named_and_never_bounded() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    next(module[2].parameters()).data[0, 1] = torch.nan
    found = report(module, 3)
    assert [skipped.slug for skipped in found.skipped] == ["non-finite"]
    assert "1 of 6 values are NaN" in found.skipped[0].reason
    assert found.bound is not None
    assert not found.bound.measure.is_finite


def test_a_nan_bias_is_no_less_a_nan() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    list(module.parameters())[1].data[1] = torch.nan
    found = report(module, 3)
    assert [skipped.slug for skipped in found.skipped] == ["non-finite"]
    assert found.bound is not None
    assert not found.bound.measure.is_finite
