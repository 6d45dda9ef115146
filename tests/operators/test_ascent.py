"""The climb to a local maximum of σ1(θ), against plain evaluation around where it ends."""

import math

import numpy as np
import pytest
import torch

from lipaudit.operators import newton
from lipaudit.operators.ascent import climb, climb_above
from lipaudit.operators.geometry import ConvGeometry
from lipaudit.operators.strided import reduced


def kernel(rows: int, columns: int, *sizes: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, *sizes, generator=generator, dtype=torch.float64)


def norm_at(
    weights: torch.Tensor, theta: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> float:
    """Evaluate ‖Σ K[p] e^{-ip·θ}‖ as the definition says."""
    positions = np.stack(np.meshgrid(*map(np.arange, weights.shape[2:]), indexing="ij"), -1)
    phases = np.exp(-1j * (positions @ theta))
    axes = tuple(range(2, weights.dim()))
    symbol = (weights.numpy() * phases).sum(axis=axes)
    return float(np.linalg.norm(symbol, 2))


@pytest.mark.parametrize(
    "shape", [(3, 4, 3, 3), (5, 2, 4, 2), (4, 4, 7), (2, 3, 2, 3, 2), (60, 50, 3, 3)]
)
def test_it_ends_on_top(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for seed in range(4):
        weights = kernel(*shape, seed=seed)
        axes = len(shape) - 2
        symbol = reduced(weights, ConvGeometry((1,) * axes, ((0, 0),) * axes, (1,) * axes))
        peak = climb(symbol, torch.tensor(rng.integers(1 << 40, size=axes)), 0)
        top = 2 * math.pi * peak.turns.numpy()
        found = norm_at(weights, top)
        assert peak.value == pytest.approx(found, rel=1e-9)
        nearby = [norm_at(weights, top + 1e-2 * rng.standard_normal(axes)) for _ in range(100)]
        assert max(nearby) <= found * (1 + 1e-7)


def test_large_symbols_climb_too() -> None:
    # They alternate, and stop where a round gains less than a thousandth of the tolerance.
    weights = kernel(170, 165, 3, 3, seed=1) + 10.0
    symbol = reduced(weights, ConvGeometry((1, 1), ((0, 0), (0, 0)), (1, 1)))
    # All entries have one sign, nearly: the top is at frequency 0.
    peak = climb(symbol, torch.tensor([1 << 36, 1 << 35]), 0)
    assert peak.value == pytest.approx(norm_at(weights, np.zeros(2)), rel=1e-6)


def test_newton_needs_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the second derivatives are for: without them as many steps end far from the top.
    weights = kernel(8, 8, 3, 3, seed=5)
    flat = weights.flatten(2).permute(2, 0, 1)
    offsets = np.array([(i, j) for i in range(3) for j in range(3)], dtype=np.float64) - 1.0
    start = np.array([0.4, 1.3])
    best = newton.climbed(flat, offsets, start, reach=0.5, rival=None)
    monkeypatch.setattr(newton, "_STEPS", 7)
    few = newton.climbed(flat, offsets, start, reach=0.5, rival=None)
    assert best is not None
    assert few is not None
    assert norm_at(weights, few[0]) >= norm_at(weights, best[0]) * (1 - 1e-9)


def test_a_way_that_leads_nowhere_is_left() -> None:
    weights = kernel(6, 6, 3, 3, seed=2)
    symbol = reduced(weights, ConvGeometry((1, 1), ((0, 0), (0, 0)), (1, 1)))
    starts = torch.tensor(np.random.default_rng(1).integers(1 << 40, size=(20, 2)))
    tops = sorted((climb(symbol, start, 0) for start in starts), key=lambda peak: peak.value)
    assert tops[0].value < 0.99 * tops[-1].value
    # From the lowest top there is something to gain; from the highest there is not.
    found = [climb_above(symbol, start, 0, tops[0]) for start in starts]
    best = max(peak.value for peak in found if peak is not None)
    assert best == pytest.approx(tops[-1].value, rel=1e-9)
    assert not any(climb_above(symbol, start, 0, tops[-1]) for start in starts)
