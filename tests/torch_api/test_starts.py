"""Weights that start at zero, become NaN for a step, or have norms near the ends of their dtype."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from lipaudit.errors import NotCertified
from lipaudit.torch import Clipper, Monitor, certify_, clip_, settle_, spectral_norm
from tests.oracles import conv_matrix, frequency_maximum, singular_values
from tests.torch_api.modules import geometry_of

SHAPE = (2, 6, 6)


def made(kind: str) -> tuple[Any, tuple[int, ...] | None]:
    torch.manual_seed(1)
    if kind == "dense":
        return nn.Linear(5, 4), None
    return nn.Conv2d(2, 4, 3, padding=1, groups=2), SHAPE if kind == "sized" else None


def norm(layer: Any, weight: torch.Tensor, shape: tuple[int, ...] | None) -> float:
    exact = weight.detach().double()
    if not isinstance(layer, nn.Conv2d):
        return float(singular_values(exact).max())
    if shape is None:
        return frequency_maximum(exact, geometry_of(layer), 200)
    return float(singular_values(conv_matrix(exact, geometry_of(layer), shape)).max())


@pytest.mark.parametrize("kind", ["dense", "symbol", "sized"])
@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
@pytest.mark.parametrize("late", [False, True])
def test_a_monitor_recovers_from_zeros_and_nan(kind: str, bad: float, late: bool) -> None:
    layer, shape = made(kind)
    kept = layer.weight.detach().clone()
    monitor = Monitor(layer, print, input_shape=shape, power_steps=100)
    name = f"{type(layer).__name__}/norm_at_least"
    if late:
        monitor.measure()
    with torch.no_grad():
        layer.weight.fill_(bad)
        seen = monitor.measure()[name]
        assert seen == 0.0 if bad == 0.0 else not math.isfinite(seen)
        layer.weight.copy_(kept)
    for _ in range(3):
        found = monitor.measure()[name]
    assert math.isclose(found, norm(layer, kept, shape), rel_tol=1e-3)


def test_one_group_of_zeros_may_grow() -> None:
    layer, _ = made("symbol")
    kept = layer.weight.detach().clone()
    kept[:2] *= 3.0
    monitor = Monitor(layer, print, power_steps=100)
    with torch.no_grad():
        layer.weight.copy_(kept)
        layer.weight[:2] = 0.0
        monitor.measure()
        layer.weight.copy_(kept)
    found = [monitor.measure()["Conv2d/norm_at_least"] for _ in range(2)][-1]
    assert math.isclose(found, norm(layer, kept, None), rel_tol=1e-3)


@pytest.mark.parametrize("kind", ["dense", "symbol", "sized"])
@pytest.mark.parametrize(("size", "tolerance"), [(5e34, 1e-3), (5e-36, 1e-3), (5e-42, 1e-2)])
def test_a_monitor_reaches_the_ends_of_single_precision(
    kind: str, size: float, tolerance: float
) -> None:
    layer, shape = made(kind)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.double() * size)
    monitor = Monitor(layer, print, input_shape=shape, power_steps=200)
    (found,) = monitor.measure().values()
    scaled = layer.weight.detach().double() / size
    assert math.isclose(found / size, norm(layer, scaled, shape), rel_tol=tolerance)


def test_a_monitor_sees_a_new_geometry() -> None:
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Conv2d(3, 3, 3, stride=4, padding=1))
    monitor = Monitor(net, print, input_shape="3x12x12", power_steps=200)
    monitor.measure()
    weight = net[0].weight
    net[0] = nn.Conv2d(3, 3, 3, padding=1)
    net[0].weight = weight
    expected = norm(net[0], weight, (3, 12, 12))
    assert math.isclose(monitor.measure()["0/norm_at_least"], expected, rel_tol=1e-3)


@pytest.mark.parametrize("kind", ["dense", "symbol", "sized"])
@pytest.mark.parametrize("only_above", [False, True])
def test_training_from_zeros_is_normalized(kind: str, only_above: bool) -> None:
    layer, shape = made(kind)
    nn.init.zeros_(layer.weight)
    spectral_norm(layer, input_shape=shape, only_above=only_above)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    inputs = torch.randn(16, *(shape or SHAPE)) if kind != "dense" else torch.randn(16, 5)
    for _ in range(40):
        optimizer.zero_grad()
        (-layer(inputs).square().mean() - 0.1 * layer(inputs).mean()).backward()
        stored = layer.parametrizations.weight.original
        assert float(stored.grad.abs().max()) < 1e6
        optimizer.step()
    with torch.no_grad():
        stored.mul_(100.0 / norm(layer, stored, shape))
        for _ in range(150):
            layer(inputs)
    layer.eval()
    # A point that climbs may stay on the second highest of near peaks.
    assert math.isclose(norm(layer, layer.weight, shape), 1.0, rel_tol=2e-2)


def test_below_eps_nothing_is_enlarged_beyond_the_limit() -> None:
    layer: Any = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3) * 1e-3)
    spectral_norm(layer, eps=1e-2, to=1e-4)
    assert 0.0 < float(layer.weight.detach().abs().max()) <= 1e-4


@pytest.mark.parametrize("kind", ["dense", "symbol"])
@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float32, 3e38), (torch.float32, 1e9), (torch.float64, 1e300)]
)
def test_huge_weights_are_clipped_near_the_limit(
    kind: str, dtype: torch.dtype, size: float
) -> None:
    layer: Any = nn.Linear(4, 4) if kind == "dense" else nn.Conv2d(3, 3, 3, padding=1)
    layer = nn.Sequential(layer.to(dtype))
    with torch.no_grad():
        layer[0].weight.fill_(size)
    for _ in range(40):
        (done, *_) = clip_(layer, to=1.0) or ()
        assert math.isfinite(done.change)
    assert 0.5 < norm(layer[0], layer[0].weight, None) < 1.1


def test_the_change_of_a_huge_weight_is_its_share() -> None:
    layer: Any = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([3e38, 3e38, 3e38, 3e38])))
    (done,) = clip_(layer, to=1.0) or ()
    assert math.isclose(done.change, 1.0, rel_tol=1e-6)
    torch.testing.assert_close(layer.weight.detach(), torch.eye(4))


@pytest.mark.parametrize("shape", [None, "3x12x12"])
def test_a_layer_of_another_geometry_is_looked_at(shape: str | None) -> None:
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Conv2d(3, 3, 3, stride=4, padding=1))
    clipper = Clipper(net, to=0.5, input_shape=shape)
    for _ in range(30):
        clipper.clip()
    weight = net[0].weight
    net[0] = nn.Conv2d(3, 3, 3, stride=1, padding=1)
    net[0].weight = weight
    assert norm(net[0], weight, None) > 0.6
    for _ in range(60):
        clipper.clip()
    sized = None if shape is None else (3, 12, 12)
    assert norm(net[0], weight, sized) < 0.5 * 1.05


def test_a_weight_that_is_not_finite_is_named() -> None:
    bare: Any = nn.Linear(3, 3)
    normed: Any = parametrizations.weight_norm(nn.Linear(3, 3))
    with torch.no_grad():
        bare.weight[1, 1] = math.nan
        chain = normed.parametrizations.weight
        chain.original0[0] = 0.0
        chain.original1[0] = 0.0
    for layer in (bare, normed, spectral_norm(bare)):
        net = nn.Sequential(nn.ReLU(), layer)
        with pytest.raises(NotCertified, match=r"layer '1' .* not finite"):
            certify_(net, to=0.05)
    with pytest.raises(NotCertified, match="not finite"):
        settle_(bare)


def test_a_scale_of_zero_that_cannot_be_kept_is_said() -> None:
    torch.manual_seed(0)
    normed: Any = parametrizations.weight_norm(nn.Linear(3, 3))
    with torch.no_grad():
        normed.parametrizations.weight.original0[0] = 0.0
    with pytest.raises(NotCertified, match=r"does not keep|not finite"):
        certify_(normed, to=0.05)


@pytest.mark.parametrize("wrap", [parametrizations.spectral_norm, parametrizations.orthogonal])
def test_what_does_not_keep_its_value_is_said(wrap: Any) -> None:
    layer = wrap(nn.Linear(4, 4))
    with pytest.raises(NotCertified, match="does not keep what it is given"):
        certify_(layer, to=0.05)
