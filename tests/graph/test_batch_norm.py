"""Folding batch norms: the same function, one linear map, its rounding accounted for."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import lipaudit
from lipaudit.formats.detect import read_model
from lipaudit.graph.constant import Constant, put_of, rescale_of
from lipaudit.graph.rewrites.batch_norm import fold_batch_norms
from lipaudit.layers import network
from lipaudit.layers.execution import run
from tests.formats.putting import write


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


@pytest.mark.parametrize("name", CASES)
def test_a_wanted_composite_arrives_in_the_file(name: str, tmp_path: Path) -> None:
    """The stored weight changes, so that layer and norm together are what is wanted."""
    torch.manual_seed(3)
    layer, rank, shape = CASES[name]
    norm = normalized(4, rank)
    norm.state_dict()["weight"][1] = 0.0
    module = nn.Sequential(layer, norm).eval().double()
    state = norm.state_dict()
    path, out = tmp_path / "m.pt", tmp_path / "out.pt"
    torch.save(module, path)
    before = composite(path, shape)
    wanted = torch.randn(before.shape, dtype=torch.float64)
    axis = 1 if name == "transposed" else 0
    wanted.select(axis, 1).zero_()
    put = put_of(before)
    assert put is not None
    patch = put(wanted)
    assert list(patch) == ["0.weight"]
    kept = patch["0.weight"].select(axis, 1)
    assert torch.equal(kept, layer.state_dict()["weight"].select(axis, 1))
    write(read_model(str(path)), patch, out)
    torch.testing.assert_close(composite(out, shape).values(), wanted, rtol=1e-12, atol=1e-12)
    loaded = torch.load(out, weights_only=False)
    along = [1] * wanted.dim()
    along[axis] = -1
    factors = state["weight"] / torch.sqrt(state["running_var"] + 1e-5)
    torch.testing.assert_close(
        loaded[0].weight * factors.reshape(along), wanted, rtol=1e-12, atol=1e-12
    )


def test_a_factor_goes_into_the_scale_where_the_weight_cannot_be_written(tmp_path: Path) -> None:
    torch.manual_seed(4)
    path = tmp_path / "m.pt"
    torch.save(nn.Sequential(nn.Conv2d(2, 4, 3), normalized(4, 2)).eval().double(), path)
    model = read_model(str(path))
    before = composite(path, (1, 2, 5, 5))
    rescale = rescale_of(before)
    assert rescale is not None
    assert list(rescale(0.5)) == ["0.weight"]
    weight = replace(model.graph.constants["0.weight"], slot=None)
    constants = {**model.graph.constants, "0.weight": weight}
    built = network.build(replace(model.graph, constants=constants), {"input": (1, 2, 5, 5)})
    folded = fold_batch_norms(built.graph, built.shapes)
    made = folded.constants[folded.nodes[0].inputs[1]]
    assert put_of(made) is None
    rescale = rescale_of(made)
    assert rescale is not None
    patch = rescale(0.5)
    assert list(patch) == ["1.weight"]
    write(model, patch, tmp_path / "out.pt")
    after = composite(tmp_path / "out.pt", (1, 2, 5, 5)).values()
    torch.testing.assert_close(after, before.values() / 2, rtol=1e-12, atol=0)


def test_a_normalized_weight_under_a_batch_norm(tmp_path: Path) -> None:
    torch.manual_seed(5)
    conv = nn.utils.weight_norm(nn.Conv2d(2, 4, 3))
    path, out = tmp_path / "m.pt", tmp_path / "out.pt"
    torch.save(nn.Sequential(conv, normalized(4, 2)).eval().double(), path)
    before = composite(path, (1, 2, 5, 5))
    wanted = torch.randn(before.shape, dtype=torch.float64)
    put = put_of(before)
    assert put is not None
    patch = put(wanted)
    assert set(patch) == {"0.weight_g", "0.weight_v"}
    write(read_model(str(path)), patch, out)
    torch.testing.assert_close(
        composite(out, (1, 2, 5, 5)).values(), wanted, rtol=1e-12, atol=1e-12
    )


def composite(path: Path, shape: tuple[int, ...]) -> Constant:
    """Return the weight of the one linear map that layer and batch norm make together."""
    built = network.build(read_model(str(path)).graph, {"input": shape})
    (node,) = fold_batch_norms(built.graph, built.shapes).nodes
    return fold_batch_norms(built.graph, built.shapes).constants[node.inputs[1]]
