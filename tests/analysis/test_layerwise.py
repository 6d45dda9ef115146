"""Measured layers: what a weight that was computed, not stored, leaves of a proof."""

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import nn

import lipaudit
from lipaudit.analysis import layerwise
from lipaudit.device import choose
from lipaudit.enclosure import Rigor
from lipaudit.graph.constant import computed
from lipaudit.graph.node import Edge, Graph, Node
from lipaudit.layers import network
from lipaudit.results import LayerResult

ERROR = 1e-3


def measured(weight: torch.Tensor, error: float) -> LayerResult:
    """Measure x -> W x where the entries of W are known up to a relative error."""
    constant = replace(computed("w", weight), entry_error=error)
    node = Node("MatMul", "layer", ("w", "x"), ("y",))
    graph = Graph(
        inputs=(Edge("x", (weight.shape[1],), "float64"),),
        outputs=(Edge("y", (weight.shape[0],), "float64"),),
        nodes=(node,),
        constants={"w": constant},
    )
    (found,) = layerwise.measure(network.build(graph), choose("cpu"))
    assert isinstance(found.result, LayerResult)
    return found.result


def test_norm_and_spectrum_hold_every_weight_that_may_be_meant() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    result = measured(weight, ERROR)
    assert result.spectrum is not None
    assert result.spectrum.rigor is Rigor.PROVED
    exact = measured(weight, 0.0)
    assert exact.spectrum is not None
    for _ in range(50):
        signs = torch.randint(0, 2, weight.shape, generator=generator) * 2.0 - 1.0
        values = torch.linalg.svdvals(weight * (1.0 + ERROR * signs)).tolist()
        assert result.norm.lower <= values[0] <= result.norm.upper
        stated = torch.linalg.svdvals(weight).tolist()
        off = max(abs(a - b) for a, b in zip(values, stated, strict=True))
        assert exact.spectrum.radius < off <= result.spectrum.radius


def test_nothing_is_proved_of_a_weight_of_unknown_error() -> None:
    result = measured(torch.eye(3, dtype=torch.float64), math.inf)
    assert result.norm.rigor is Rigor.NUMERICAL
    assert result.spectrum is not None
    assert (result.spectrum.rigor, result.spectrum.radius) == (Rigor.NUMERICAL, 0.0)


@pytest.mark.parametrize("hook", [nn.utils.spectral_norm, nn.utils.weight_norm])
@pytest.mark.parametrize("shape", [None, (3,)])
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weights_that_hooks_compute(hook: object, shape: tuple[int, ...] | None) -> None:
    assert callable(hook)
    net = nn.Sequential(hook(nn.Linear(3, 3))).eval()
    (model,) = lipaudit.inspect(net, device="cpu", input_shape=shape).models
    # A number that is proved, or a name in the list of those without one; never silence.
    assert model.layers or model.skipped


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
def test_a_padding_that_is_a_node_of_its_own_is_said(
    mode: Literal["zeros", "circular", "reflect", "replicate"],
) -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1, padding_mode=mode)
    (model,) = lipaudit.inspect(nn.Sequential(conv), device="cpu", input_shape=(2, 5, 5)).models
    said = [note for note in model.notes if "without the padding" in note]
    assert len(said) == (mode != "zeros")
