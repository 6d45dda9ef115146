"""Folding batch norms: the same function, one linear map, its rounding accounted for."""

from pathlib import Path

import pytest
import torch
from torch import nn

import lipaudit
from lipaudit.formats.detect import read_model
from lipaudit.graph.rewrites.batch_norm import fold_batch_norms
from lipaudit.layers import network
from lipaudit.layers.execution import run


def normalized(features: int, rank: int) -> nn.Module:
    layer = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[rank](
        features
    )
    nn.init.uniform_(layer.weight, -2, 2)
    nn.init.normal_(layer.bias)
    for buffer, low in ((layer.running_mean, -1.0), (layer.running_var, 0.2)):
        assert buffer is not None
        nn.init.uniform_(buffer, low, 2.0)
    return layer


CASES = {
    "linear": (nn.Linear(5, 4), 0, (3, 5)),
    "conv1d": (nn.Conv1d(2, 4, 3, padding=1), 1, (1, 2, 9)),
    "grouped": (nn.Conv2d(4, 4, 3, groups=2, stride=2, bias=False), 2, (1, 4, 7, 7)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3, stride=2), 2, (1, 3, 4, 5)),
    "conv3d": (nn.Conv3d(2, 4, 2), 3, (1, 2, 4, 4, 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_folded_network_computes_the_same(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    layer, rank, shape = CASES[name]
    module = nn.Sequential(layer, normalized(4, rank), nn.ReLU()).eval().double()
    torch.save(module, tmp_path / "m.pt")
    model = read_model(str(tmp_path / "m.pt"))
    built = network.build(model.graph, {"input": shape})
    folded = fold_batch_norms(built.graph, built.shapes)
    assert [node.op for node in folded.nodes][-1:] == ["Relu"]
    assert len(folded.nodes) == 2
    assert len(folded.nodes[0].sources) == 2
    x = torch.randn(shape, dtype=torch.float64)
    made = run(network.build(folded, {"input": shape}), {"input": x}, dtype=torch.float64)
    torch.testing.assert_close(next(iter(made.values())), module(x), rtol=1e-12, atol=1e-12)
    weight = folded.constants[folded.nodes[0].inputs[1]]
    assert 0 < weight.entry_error < 1e-14


def test_a_map_that_is_used_twice_is_not_folded() -> None:
    torch.manual_seed(2)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3)
            self.bn = normalized(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = self.conv(x)
            both: torch.Tensor = self.bn(made) + made
            return both

    from lipaudit.formats.live import from_module  # noqa: PLC0415 - only this test exports

    model = from_module(Twice().eval(), [(1, 2, 6, 6)])
    built = network.build(model.graph)
    folded = fold_batch_norms(built.graph, built.shapes)
    assert len(folded.nodes) == len(built.graph.nodes)


def test_a_batch_norm_over_another_axis_than_the_outputs_is_not_folded() -> None:
    """Linear(3, 5) on (B, 5, 3) yields (B, 5, 5): the norm's channels are axis 1, not the last."""
    linear, norm = nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5)
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[0, 0], linear.weight[1, 1] = 10.0, 0.1
        norm.weight.copy_(torch.tensor([0.01, 1.0, 1.0, 1.0, 1.0]))
    module = nn.Sequential(linear, norm).eval()
    report = lipaudit.bound(module, input_shape=(5, 3)).models[0]
    assert report.bound is not None
    # γ/√(1 + ε) = 1 for all channels but the first, so that the map stretches by 10.
    assert report.bound.measure.upper >= 10 * (1 - 1e-5)
