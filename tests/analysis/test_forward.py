"""Forward: many inputs run as one by one, and kinks that are rounded off a little."""

import pytest
import torch
from torch import nn

from lipaudit.analysis.forward import Forward, observed, softened
from lipaudit.formats.live import from_module
from lipaudit.layers import network as networks
from lipaudit.layers.network import Network


class Mixed(nn.Module):
    """Its reshape repeats a batch size of one, and its norm would mix a batch's samples."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3, padding=1)
        self.norm = nn.LayerNorm((1, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = torch.relu(self.conv(x)).reshape(1, 12)
        made: torch.Tensor = self.norm(flat)
        return made


def network_of(module: nn.Module, *shape: int) -> Network:
    return networks.build(from_module(module.eval(), [(1, *shape)]).graph)


def name_of(network: Network) -> str:
    return network.graph.inputs[0].name


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randn(5, 1, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_rows_run_side_by_side_are_what_torch_says_of_each(rows: torch.Tensor) -> None:
    module = Mixed()
    network = network_of(module, 2, 4)
    forward = Forward(network)
    (made,) = forward({name_of(network): rows}).values()
    truth = torch.stack([module.double()(row) for row in rows])
    assert forward.side_by_side
    torch.testing.assert_close(made, truth)


def test_what_cannot_run_side_by_side_runs_one_by_one(
    rows: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no batching rule")

    monkeypatch.setattr(torch, "vmap", refuse)
    module = Mixed()
    network = network_of(module, 2, 4)
    forward = Forward(network)
    (made,) = forward({name_of(network): rows}).values()
    assert not forward.side_by_side
    torch.testing.assert_close(made, torch.stack([module.double()(row) for row in rows]))


def test_any_edge_can_be_observed(rows: torch.Tensor) -> None:
    module = Mixed()
    network = network_of(module, 2, 4)
    edge = next(step.node.outputs[0] for step in network.steps if step.node.op == "Conv")
    made = Forward(observed(network, (edge,)))({name_of(network): rows})
    assert list(made) == [edge]
    torch.testing.assert_close(made[edge], torch.stack([module.double().conv(r) for r in rows]))


@pytest.mark.parametrize(
    "module", [nn.ReLU(), nn.LeakyReLU(0.2), nn.LeakyReLU(-0.5), nn.PReLU(init=0.3)]
)
def test_a_softened_kink_is_close_and_bends(module: nn.Module) -> None:
    network = network_of(module, 6)
    soft = softened(network, 0.01)
    assert soft is not None
    x = torch.tensor([[[-2.0, -1.0, -0.5, 0.5, 1.0, 2.0]]], dtype=torch.float64).requires_grad_()
    (made,) = Forward(soft)({name_of(network): x}).values()
    torch.testing.assert_close(made, module.double()(x), atol=1e-9, rtol=0)
    wide = softened(network, 1.0)
    assert wide is not None
    (made,) = Forward(wide)({name_of(network): x}).values()
    (slope,) = torch.autograd.grad(made.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    assert float(bend.detach().abs().min()) > 0


def test_a_smooth_network_has_nothing_to_soften() -> None:
    assert softened(network_of(nn.Tanh(), 3), 0.1) is None
