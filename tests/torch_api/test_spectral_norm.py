"""The parametrization: torch's own on dense layers, dense matrices for convolutions."""

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import lipaudit
from lipaudit.errors import UsageError
from lipaudit.operators.geometry import ConvGeometry
from lipaudit.torch import SpectralNorm, certify_, settle_, spectral_norm
from tests.oracles import conv_matrix, dense, frequency_maximum, singular_values
from tests.torch_api.modules import geometry_of

CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "1-D": lambda: nn.Conv1d(3, 4, 3, padding=1),
    "2-D": lambda: nn.Conv2d(3, 4, 3, padding=1),
    "strided": lambda: nn.Conv2d(3, 4, 3, padding=1, stride=2),
    "stride 3, 2 taps": lambda: nn.Conv1d(3, 4, 2, stride=3),
    "dilated": lambda: nn.Conv2d(2, 3, 3, padding=2, dilation=2),
    "strided and dilated": lambda: nn.Conv1d(2, 3, 4, dilation=2, stride=2),
    "groups": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, (3, 2), groups=4),
    "transposed": lambda: nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1),
    "transposed groups": lambda: nn.ConvTranspose1d(4, 2, 4, stride=2, groups=2),
    "1x1": lambda: nn.Conv2d(5, 3, 1),
    "even": lambda: nn.Conv2d(2, 2, (4, 2), padding="same"),
    "3-D": lambda: nn.Conv3d(2, 3, 2, padding=1),
    "circular": lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
}


def made(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return CONVOLUTIONS[name]().to(torch.float64)


def supremum(module: Any) -> float:
    """Return the largest norm on a fine grid of frequencies, of the effective weight."""
    geometry = geometry_of(module)
    assert isinstance(geometry, ConvGeometry)
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    points = {1: 2000, 2: 200, 3: 40}[geometry.rank]
    return frequency_maximum(weight.detach(), geometry, points)


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Linear(3, 9), nn.Embedding(7, 5)])
def test_dense_layers_get_the_numbers_that_torch_gives(layer: Any) -> None:
    ours, theirs = copy.deepcopy(layer), copy.deepcopy(layer)
    torch.manual_seed(3)
    spectral_norm(ours, n_power_iterations=2)
    torch.manual_seed(3)
    parametrizations.spectral_norm(theirs, n_power_iterations=2)
    for _ in range(3):
        got, expected = ours.weight, theirs.weight
        torch.testing.assert_close(got, expected)
        target = torch.arange(got.numel()).reshape(got.shape).cos()
        torch.autograd.backward((got * target).sum() + (expected * target).sum())
        mine, other = ours.parametrizations.weight.original, theirs.parametrizations.weight.original
        torch.testing.assert_close(mine.grad, other.grad)
        with torch.no_grad():
            for parameter in (mine, other):
                parameter.sub_(0.1 * parameter.grad)
                parameter.grad = None


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_dim_counts_rows_as_in_torch(dim: int) -> None:
    torch.manual_seed(0)
    layer: Any = nn.Bilinear(3, 4, 5)
    ours, theirs = copy.deepcopy(layer), copy.deepcopy(layer)
    torch.manual_seed(3)
    spectral_norm(ours, dim=dim)
    torch.manual_seed(3)
    parametrizations.spectral_norm(theirs, dim=dim)
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_vectors_are_divided_by_their_length() -> None:
    layer: Any = nn.LayerNorm(5)
    nn.init.uniform_(layer.weight)
    spectral_norm(layer)
    assert math.isclose(float(layer.weight.detach().norm()), 1.0, rel_tol=1e-6)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_get_their_true_norm(name: str) -> None:
    to = 0.3
    module: Any = spectral_norm(made(name), to=to, n_power_iterations=10)
    for _ in range(12):
        _ = module.weight
    found = supremum(module)
    assert to * (1 - 3e-3) <= found <= to * (1 + 2e-3)
    # The divisor is a lower bound of the norm over the limit.
    original = module.parametrizations.weight.original
    fine = frequency_maximum(original.detach(), geometry_of(module), 64)
    assert float(module.parametrizations.weight[0]._divisor) * to <= fine * (1 + 5e-3)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("2-D", (3, 6, 5)), ("strided", (3, 6, 6)), ("transposed", (4, 4, 3)), ("groups", (4, 5, 5))],
)
def test_a_size_makes_it_the_operator_of_that_size(name: str, shape: tuple[int, ...]) -> None:
    module: Any = spectral_norm(made(name), n_power_iterations=400, input_shape=shape)
    _ = module.weight
    geometry = geometry_of(module)
    truth = singular_values(conv_matrix(module.weight.detach(), geometry, shape)).max()
    assert math.isclose(float(truth), 1.0, rel_tol=1e-3)


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_padding_that_copies_counts_on_a_stated_size(mode: Literal["reflect", "replicate"]) -> None:
    torch.manual_seed(1)
    layer: Any = nn.Conv2d(2, 2, 3, padding=1, padding_mode=mode).double()
    module: Any = spectral_norm(layer, n_power_iterations=300, input_shape="2x5x5")
    _ = module.weight
    bare: Any = nn.Conv2d(2, 2, 3, padding=1, padding_mode=mode, bias=False).double()
    bare.weight = nn.Parameter(module.weight.detach())
    matrix = dense(lambda x: bare(x).detach(), (2, 5, 5))
    assert math.isclose(float(singular_values(matrix).max()), 1.0, rel_tol=1e-3)


@pytest.mark.parametrize("name", ["1-D", "strided", "groups", "transposed", "1x1"])
def test_the_gradient_is_that_of_the_normalized_weight(name: str) -> None:
    """After the vectors have converged σ is the norm, whose derivative finite differences give."""
    module = made(name)
    part: Any = SpectralNorm(module.weight, geometry_of(module), n_power_iterations=40)
    for _ in range(10):
        part(module.weight)
    weight = module.weight.detach().clone().requires_grad_()
    target = torch.arange(weight.numel(), dtype=torch.float64).reshape(weight.shape).cos()
    torch.autograd.backward((part(weight) * target).sum())
    geometry = geometry_of(module)

    def value(kernel: torch.Tensor) -> float:
        # A probe of its own, converged at this kernel.
        again: Any = copy.deepcopy(part)
        again(kernel)
        return float((again(kernel) * target).sum())

    assert math.isclose(
        float(part._divisor), frequency_maximum(weight.detach(), geometry, 256), rel_tol=1e-3
    )
    for index in range(0, weight.numel(), weight.numel() // 3):
        step = torch.zeros_like(weight).flatten()
        step[index] = 1e-5
        step = step.reshape(weight.shape)
        slope = (value(weight.detach() + step) - value(weight.detach() - step)) / 2e-5
        assert math.isclose(slope, float(weight.grad.flatten()[index]), rel_tol=1e-3, abs_tol=1e-4)


def test_gradcheck_with_vectors_that_stand_still() -> None:
    module = made("2-D")
    part: Any = SpectralNorm(module.weight, geometry_of(module))
    direction = part.probe.step(module.weight.detach(), 5)

    def normalized(weight: torch.Tensor) -> torch.Tensor:
        frozen: Any = copy.deepcopy(part)
        frozen.probe.step = lambda *_: direction
        made_of: torch.Tensor = frozen(weight)
        return made_of

    weight = module.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(normalized, (weight,))


def test_it_may_leave_small_weights_alone() -> None:
    torch.manual_seed(0)
    small: Any = nn.Conv2d(3, 3, 3, padding=1)
    with torch.no_grad():
        small.weight.mul_(0.05)
    before = small.weight.detach().clone()
    spectral_norm(small, only_above=True)
    assert torch.equal(small.weight, before)
    plain: Any = nn.Conv2d(3, 3, 3, padding=1)
    with torch.no_grad():
        plain.weight.mul_(0.05)
    spectral_norm(plain)
    assert float(plain.weight.detach().norm()) > 5 * float(before.norm())


def test_a_zero_weight_stays_zero() -> None:
    layer: Any = nn.Conv2d(2, 2, 3)
    nn.init.zeros_(layer.weight)
    spectral_norm(layer)
    assert not layer.weight.any()


def test_inference_changes_nothing_and_survives_a_state_dict() -> None:
    net: Any = nn.Sequential(
        spectral_norm(made("strided")), nn.ReLU(), spectral_norm(made("1x1", 1))
    )
    _ = net[0].weight, net[2].weight
    net.eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    first = net[0].weight.detach().clone()
    assert torch.equal(net[0].weight, first)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    other: Any = nn.Sequential(
        spectral_norm(made("strided", 5)), nn.ReLU(), spectral_norm(made("1x1", 6))
    ).eval()
    other.load_state_dict(before)
    assert torch.equal(other[0].weight, first)
    other.train()
    net.train()
    assert torch.equal(other[0].weight, net[0].weight)


def test_it_is_copied_and_its_parts_are_pickled() -> None:
    module: Any = spectral_norm(made("2-D"))
    again: Any = copy.deepcopy(module)
    assert torch.equal(again.weight, module.weight)
    part = module.parametrizations.weight[0]
    loaded = pickle.loads(pickle.dumps(part))  # noqa: S301 - what was just written
    module.eval()
    loaded.eval()
    assert torch.equal(loaded(module.parametrizations.weight.original), module.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_coarse_types_are_computed_in_single_precision(dtype: torch.dtype) -> None:
    layer = made("2-D").to(dtype)
    module: Any = spectral_norm(layer)
    for _ in range(30):
        weight = module.weight
    assert weight.dtype == dtype
    assert module.parametrizations.weight[0]._divisor.dtype == torch.float32
    plain = frequency_maximum(weight.detach().double(), geometry_of(module), 64)
    assert math.isclose(plain, 1.0, rel_tol=2e-2)


@pytest.mark.parametrize("name", ["2-D", "strided", "transposed", "groups", "1-D"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_settled_weights_meet_the_limit(name: str, dtype: torch.dtype) -> None:
    module = made(name).to(dtype)
    net: Any = nn.Sequential(spectral_norm(module, to=0.7)).eval()
    (settled,) = settle_(net)
    weight = net[0].weight.detach().double()
    assert settled.after.upper <= 0.7
    points = {1: 2000, 2: 96, 3: 24}[weight.dim() - 2]
    assert frequency_maximum(weight, geometry_of(module), points) <= 0.7
    assert settled.after.upper > 0.7 * (1 - 1e-3)


def test_lipaudit_reads_the_effective_weight_of_a_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net: Any = nn.Sequential(spectral_norm(nn.Conv2d(3, 8, 3, padding=1)), nn.ReLU())
    net.add_module("head", spectral_norm(nn.Linear(8, 4), to=2.0))
    net.eval()
    settle_(net)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    (model,) = lipaudit.inspect(tmp_path / "net.pt").models
    layers = {layer.name: layer for layer in model.layers}
    assert set(layers) == {"0", "head"}
    assert not model.skipped
    truth = float(np.linalg.svd(net.head.weight.detach().double().numpy())[1].max())
    assert layers["head"].norm.lower <= truth * (1 + 1e-6)
    assert math.isclose(layers["head"].norm.upper, truth, rel_tol=1e-5)
    fine = frequency_maximum(net[0].weight.detach().double(), geometry_of(net[0]), 96)
    assert fine * (1 - 1e-6) <= layers["0"].norm.upper <= 1.0
    assert layers["head"].norm.upper <= 2.0


def test_lipaudit_reads_the_live_module() -> None:
    torch.manual_seed(0)
    net: Any = nn.Sequential(spectral_norm(nn.Conv2d(3, 8, 3, padding=1)), nn.ReLU()).eval()
    settle_(net)
    (model,) = lipaudit.inspect(net, input_shape="3x8x8").models
    assert 0.9 <= model.layers[0].norm.upper <= 1.0


def test_certificates_go_through_the_divisor() -> None:
    torch.manual_seed(0)
    net: Any = nn.Sequential(spectral_norm(nn.Conv2d(3, 8, 3, padding=1), to=4.0)).eval()
    (found,) = certify_(net, to=0.5)
    assert found.before.lower > 3.0
    assert found.after.upper <= 0.5
    assert frequency_maximum(net[0].weight.detach().double(), geometry_of(net[0]), 64) <= 0.5


def test_what_makes_no_sense_is_refused() -> None:
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UsageError):
            spectral_norm(nn.Linear(2, 2), to=bad)
    with pytest.raises(UsageError, match="no parameter"):
        spectral_norm(nn.ReLU())
    with pytest.raises(UsageError, match="n_power_iterations"):
        spectral_norm(nn.Linear(2, 2), n_power_iterations=0)
    with pytest.raises(UsageError, match="input_shape"):
        spectral_norm(nn.Conv2d(2, 2, 3), input_shape="5x5")
    assert not parametrize.is_parametrized(nn.Linear(2, 2))
