"""What every layer says about values: points drawn between bounds never leave the results' bounds.

And the stretch it states for such values is never exceeded by a Jacobian at such points.
"""

import math
from typing import Any

import pytest
import torch

from lipaudit.analysis import ranges
from lipaudit.device import Compute
from lipaudit.graph.constant import computed
from lipaudit.graph.node import Edge, Graph
from lipaudit.layers.base import AbstractGainLayer, AbstractLinearLayer, Example, Gain
from lipaudit.layers.network import build
from lipaudit.layers.values import Values
from tests.contracts.test_layers import CASES
from tests.layers.runtime import drawn, layer_of

SPANS = ((0.0, 1.0), (-1.0, 1.0), (0.5, 3.0), (-3.0, -0.25), (-20.0, 30.0))


def is_real(example: Example) -> bool:
    return all(dtype.startswith("float") for dtype in example.dtypes) and bool(example.shapes)


REAL = [case for case in CASES if is_real(case.values[0])]


def signals_of(example: Example) -> list[int]:
    inputs = drawn(example)
    return [n for n, v in enumerate(inputs) if v is not None and n not in example.constants]


def boxes(example: Example, span: tuple[float, float], seed: int) -> list[Values]:
    """Draw for each signal a box inside of the span, some items fixed and some over all of it."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for at in signals_of(example):
        shape = drawn(example)[at].shape  # type: ignore[union-attr]
        ends = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
        ends = span[0] + (span[1] - span[0]) * ends
        lo, hi = ends.amin(0), ends.amax(0)
        kind = torch.randint(0, 3, shape, generator=generator)
        lo = torch.where(kind == 0, span[0], lo)
        hi = torch.where(kind == 0, span[1], torch.where(kind == 1, lo, hi))
        found.append(Values(lo, hi))
    return found


def run(example: Example, signals: list[torch.Tensor]) -> list[torch.Tensor]:
    layer, arriving = layer_of(example), iter(signals)
    inputs = [
        next(arriving)
        if n in signals_of(example)
        else v.double()
        if v is not None and v.is_floating_point()
        else v
        for n, v in enumerate(drawn(example))
    ]
    return list(layer.forward(inputs))


def stated(example: Example, signals: list[Values]) -> tuple[Values, ...]:
    """Ask as the analysis does, linear layers included."""
    node = example.node
    names = iter(n for n in signals_of(example))
    inputs = {node.inputs[n]: v for n, v in zip(names, signals, strict=True)}
    edges = tuple(Edge(name, tuple(v.lo.shape), "float64") for name, v in inputs.items())
    constants = {
        node.inputs[at]: computed(node.inputs[at], c.double() if c.is_floating_point() else c)
        for at, c in example.constants.items()
    }
    graph = Graph((node,), constants, edges, ())
    network = build(graph)
    (step,) = network.steps
    gain: Any = None
    if isinstance(step.layer, AbstractLinearLayer):
        compute = Compute(torch.device("cpu"), full_spectra=False)
        gain = Gain((step.layer.operator(tuple(signals[0].lo.shape), compute).norm().enclosure,))
    return ranges.step_values(network, step, gain, inputs, 1 << 30)


def corners(values: Values, generator: torch.Generator) -> torch.Tensor:
    """Draw a point of a box, every second time one of its corners."""
    share = torch.rand(values.lo.shape, generator=generator, dtype=torch.float64)
    if bool(torch.randint(0, 2, (), generator=generator)):
        share = share.round()
    return values.lo + (values.hi - values.lo) * share


@pytest.mark.parametrize("example", REAL)
def test_results_stay_between_the_stated_values(example: Example) -> None:
    for seed, span in enumerate(SPANS):
        signals = boxes(example, span, seed)
        try:
            bounds = stated(example, signals)
        except (RuntimeError, ValueError, IndexError, TypeError, KeyError):
            # As in the analysis, nothing is bounded; but what claims to rise can be run.
            layer = layer_of(example)
            assert not (isinstance(layer, AbstractGainLayer) and layer.is_rising)
            continue
        generator = torch.Generator().manual_seed(seed)
        for _ in range(6):
            made = run(example, [corners(v, generator) for v in signals])
            for result, bound in zip(made, bounds, strict=False):
                if not result.is_floating_point():
                    continue
                # One more rounding than the stated exact values have.
                room = 1e-12 * (1.0 + result.abs())
                assert bool((result >= bound.lo - room)[~torch.isnan(result)].all()), span
                assert bool((result <= bound.hi + room)[~torch.isnan(result)].all()), span
                if math.isfinite(bound.row):
                    lengths = torch.linalg.vector_norm(result, dim=bound.axis)
                    assert float(lengths.max()) <= bound.row * (1 + 1e-12)


GAINS = [case for case in REAL if isinstance(layer_of(case.values[0]), AbstractGainLayer)]


@pytest.mark.parametrize("example", GAINS)
def test_no_jacobian_between_the_values_exceeds_the_stated_stretch(example: Example) -> None:
    layer = layer_of(example)
    assert isinstance(layer, AbstractGainLayer)
    for seed, span in enumerate(SPANS):
        signals = boxes(example, span, seed)
        try:
            gain = layer.gain_within(example.shapes, signals)
        except (RuntimeError, ValueError, IndexError, TypeError):
            continue
        if not isinstance(gain, Gain) or not all(f.is_finite for f in gain.factors):
            continue
        generator = torch.Generator().manual_seed(seed)
        for _ in range(3):
            points = [corners(v, generator) for v in signals]
            check(example, layer, gain, points)


def check(
    example: Example, layer: AbstractGainLayer, gain: Gain, points: list[torch.Tensor]
) -> None:
    jumping = layer.discrete_outputs
    for at in range(len(example.node.outputs)):
        if at in jumping or not run(example, points)[at].is_floating_point():
            continue
        norms = []
        for position in range(len(points)):

            def one(x: torch.Tensor, at: int = at, position: int = position) -> torch.Tensor:
                return run(example, [*points[:position], x, *points[position + 1 :]])[at]

            rows = torch.autograd.functional.jacobian(one, points[position])  # type: ignore[no-untyped-call]
            matrix = rows.reshape(-1, max(points[position].numel(), 1))
            if not bool(torch.isfinite(matrix).all()) or not matrix.numel():
                return
            norms.append(float(torch.linalg.matrix_norm(matrix, 2)))
        for norm, factor in zip(norms, gain.factors, strict=True):
            assert norm <= factor.upper * (1 + 1e-9) + 1e-12
