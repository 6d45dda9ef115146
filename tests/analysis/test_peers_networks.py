"""Networks that published tools were measured wrong on: our bound holds the truth.

The table "measured wrong" of the project's notes on its peers, one test a row that speaks of a
whole network, on the same input where it is public and on one of its kind where it is not.
"""

import itertools
import math

import pytest
import torch
from torch import nn

import lipaudit
from lipaudit.results import ModelReport
from tests import shared_models


def bound(module: nn.Module, *shape: int) -> ModelReport:
    report = lipaudit.bound(module.eval(), input_shape=shape).models[0]
    assert report.bound is not None
    return report


def upper(report: ModelReport) -> float:
    assert report.bound is not None
    return report.bound.measure.upper


def product(report: ModelReport) -> float:
    return next(b.measure.upper for b in report.bounds if b.method == "product")


def norm(matrix: torch.Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


def dense(module: nn.Module, *shape: int) -> torch.Tensor:
    """Write a linear module out."""
    double, count = module.double(), math.prod(shape)
    with torch.no_grad():
        eye = torch.eye(count, dtype=torch.float64).reshape(count, *shape)
        columns = torch.stack([(double(e[None]) - double(e[None] * 0)).reshape(-1) for e in eye])
    module.float()
    return columns.mT


class LeNet(nn.Module):
    """The MNIST network of local_lipschitz: two valid convolutions, max pools, three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(256, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2).flatten(1)
        made: torch.Tensor = self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
        return made


def test_the_product_of_local_lipschitz_is_not_below_the_truth() -> None:
    """Its global.npz has 103820.96, from norms after 100 power steps; it is >= 103955.717."""
    path = shared_models.path("local_lipschitz_uwaa/mnist__ckpt_99.ckpt")
    net = LeNet()
    stored = lipaudit.load(str(path)).tensors
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            key = next(k for k in stored if k.endswith(name))
            parameter.copy_(stored[key].values().float())
    report = bound(net, 1, 28, 28)
    assert 103955.717 * (1 - 1e-9) <= product(report) <= 103955.717 * 1.02
    # Their sampled lower bound of the whole network.
    assert upper(report) >= 46.523


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_scaling_a_convolution_scales_the_bound_of_a_convolution_and_a_layer(scale: float) -> None:
    """A peer's bound of conv + linear did not see the convolution's weights grow fifty times."""
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(3 * 25, 4)
    conv.weight.data *= scale
    net = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), linear)
    found = upper(bound(net, 1, 5, 5))
    x = torch.randn(1, 1, 5, 5, dtype=torch.float64) * 3
    rows = torch.autograd.functional.jacobian(net.double(), x).reshape(4, 25)  # type: ignore[no-untyped-call]
    assert found >= norm(rows)
    ideal = norm(dense(conv.float(), 1, 5, 5)) * norm(linear.weight.detach().double())
    assert found <= ideal * 1.02


def test_parallel_branches_add_and_do_not_multiply() -> None:
    """A peer multiplied the shortcut convolution into the product of the main branch."""
    torch.manual_seed(1)

    class Down(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.short = nn.Conv2d(2, 2, 3, 2, 1), nn.Conv2d(2, 2, 1, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.main(x) + self.short(x)
            return made

    net = Down()
    net.short.weight.data *= 0.01
    report = bound(net, 2, 6, 6)
    truth = norm(dense(net, 2, 6, 6))
    assert truth * (1 - 1e-9) <= upper(report) <= truth * (1 + 1e-4)
    assert truth > 10 * norm(dense(net.short, 2, 6, 6)) * norm(dense(net.main, 2, 6, 6))


def test_batch_norms_count_with_root_epsilon_and_sign() -> None:
    """A peer took weight / running_var: no root, no epsilon, no modulus."""
    torch.manual_seed(2)
    layer = nn.BatchNorm1d(3)
    layer.weight.data = torch.tensor([-4.0, 1.0, 0.5])
    layer.running_var = torch.tensor([0.25, 4.0, 1.0])
    net = nn.Sequential(layer)
    expected = 4.0 / math.sqrt(0.25 + 1e-5)
    assert upper(bound(net, 3)) == pytest.approx(expected, rel=1e-5)
    assert upper(bound(net, 3)) >= expected * (1 - 1e-9)


@pytest.mark.parametrize(
    ("pool", "shape", "least"),
    [
        (nn.MaxPool1d(2, 1), (1, 5), 1.2),
        (nn.MaxPool2d(3, 1), (1, 5, 5), 3.0),
        (nn.MaxPool2d(3, 2, 1), (1, 8, 8), 2.0),
    ],
)
def test_overlapping_max_pools_stretch(
    pool: nn.Module, shape: tuple[int, ...], least: float
) -> None:
    """Three peers count them as 1."""
    found = upper(bound(nn.Sequential(pool), *shape))
    assert found >= least
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        x = torch.rand(1, *shape, generator=generator)
        y = x + 0.01 * torch.randn(1, *shape, generator=generator)
        assert float((pool(x) - pool(y)).norm()) <= found * float((x - y).norm()) * (1 + 1e-5)


def test_the_peer_s_own_input_of_the_max_pool() -> None:
    x = torch.tensor([[[1.0, 2.0, 1.0, 2.0, 1.0]]], requires_grad=True)
    pool = nn.MaxPool1d(2, 1)
    y = x.detach().clone()
    y[0, 0, 1] += 1.0
    y[0, 0, 3] += 1.0
    stretch = float((pool(y) - pool(x.detach())).norm() / (y - x.detach()).norm())
    assert 1.2 < stretch <= upper(bound(nn.Sequential(pool), 1, 5))


def test_a_tiny_layer_keeps_its_norm() -> None:
    """A peer's normalization made 9.43e-06 of a single weight of 1e-5."""
    layer = nn.Linear(1, 1)
    layer.weight.data = torch.tensor([[1e-5]])
    true = float(layer.weight.detach().double())
    assert true <= upper(bound(nn.Sequential(layer), 1)) <= true * (1 + 1e-6)


def test_the_false_form_of_lipsdp_is_not_offered() -> None:
    """Multipliers that couple items would go below what corners of the slopes attain.

    For one hidden layer of ReLUs every corner W2 D W1, D with entries 0 or 1, is covered by the
    true forms; the coupled form of the LipSDP paper is below the largest one on some networks.
    """
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        first = torch.randn(5, 2, generator=generator)
        second = torch.randn(2, 5, generator=generator)
        into, out = nn.Linear(2, 5), nn.Linear(5, 2)
        into.weight.data, out.weight.data = first, second
        net = nn.Sequential(into, nn.ReLU(), out)
        corners = itertools.product((0.0, 1.0), repeat=5)
        worst = max(
            norm(second.double() @ torch.diag(torch.tensor(corner).double()) @ first.double())
            for corner in corners
        )
        found = {b.method: b.measure.upper for b in bound(net, 2).bounds}
        assert min(found.values()) >= worst * (1 - 1e-9)
        assert found["sdp"] <= found["averaged"] * (1 + 1e-6)
