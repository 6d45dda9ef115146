"""Random graphs of all registered kinds: no slope that is found exceeds any method's bound.

A graph is grown from the registry's own examples: what a node needs is made from earlier
edges by dense layers and reshapes, results are joined by sums and concatenations. The forward
pass is checked against onnxruntime elsewhere; derivatives are torch's.
"""

import math

import pytest
import torch

import lipaudit
from lipaudit.analysis import linear_parts, sampling
from lipaudit.analysis.bounds import multipliers
from lipaudit.graph.model import Model, Topology
from lipaudit.layers.base import AbstractShapeReader, Example
from lipaudit.layers.execution import run
from lipaudit.layers.network import Network, build
from tests.analysis.grower import INPUTS, Grower
from tests.contracts.test_layers import CASES
from tests.layers.runtime import layer_of

GRAPHS = 240
_ODD = {"If", "Loop", "Scan", "Range", "NonZero", "Compress", "RandomNormalLike"}


def usable(example: Example) -> bool:
    """Tell whether all signals are real and small."""
    real = all(dtype.startswith("float") for dtype in example.dtypes)
    small = sum(math.prod(shape) for shape in example.shapes) <= 80
    reader = isinstance(layer_of(example), AbstractShapeReader)
    return bool(example.shapes) and real and small and not reader and example.node.op not in _ODD


EXAMPLES = [case.values[0] for case in CASES if usable(case.values[0])]


def slopes(network: Network, span: float, seed: int) -> float:
    """Return the largest Jacobian norm, or difference quotient where there is no derivative."""
    generator = torch.Generator().manual_seed(seed)
    (target,) = (edge.name for edge in network.graph.outputs)

    def outcome(x: torch.Tensor) -> torch.Tensor:
        return run(network, {"x": x.reshape(1, -1)}, torch.float64)[target].reshape(-1)

    worst = 0.0
    for _ in range(4):
        x = (2 * torch.rand(INPUTS, generator=generator, dtype=torch.float64) - 1) * span
        y = (2 * torch.rand(INPUTS, generator=generator, dtype=torch.float64) - 1) * span
        quotient = float((outcome(x) - outcome(y)).norm() / (x - y).norm())
        worst = max(worst, quotient if math.isfinite(quotient) else 0.0)
        try:
            rows = torch.autograd.functional.jacobian(outcome, x)  # type: ignore[no-untyped-call]
        except RuntimeError:
            continue
        if bool(torch.isfinite(rows).all()):
            worst = max(worst, float(torch.linalg.matrix_norm(rows, 2)))
    return worst


@pytest.mark.parametrize("block", range(12))
def test_no_slope_exceeds_any_bound(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(sampling, "largest_jacobian", lambda *_, **__: None)
    monkeypatch.setattr(multipliers, "_ROUNDS", 25)
    monkeypatch.setattr(linear_parts, "FLOPS", 1e8)
    finite = 0
    for seed in range(block * GRAPHS // 12, (block + 1) * GRAPHS // 12):
        graph = Grower(seed, EXAMPLES).graph()
        model = Model("random", "test", (), {}, graph, Topology.STATED)
        span = 2.0
        report = lipaudit.bound(model, input_range=(-span, span)).models[0]
        known = [bound for bound in report.bounds if bound.measure.is_finite]
        finite += bool(known)
        found = slopes(build(graph), span, seed)
        for bound in known:
            assert found <= bound.measure.upper * (1 + 1e-9), (seed, bound.method)
    assert finite >= GRAPHS // 12 // 3
