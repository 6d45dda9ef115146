"""Lower bounds: attained, never above the truth, and near it where the truth is known."""

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import nn

import lipaudit
from lipaudit import api
from lipaudit.analysis import sampling
from lipaudit.analysis.ascent import Domain, Peaks, witnessed
from lipaudit.enclosure import Rigor
from lipaudit.errors import UsageError
from lipaudit.formats.live import from_module
from lipaudit.layers import network as networks
from lipaudit.layers.network import Network
from lipaudit.results import Measure
from tests import shared_models
from tests.layers.runtime import jacobian


def network_of(module: nn.Module, *shape: int) -> Network:
    """Export for a batch of one."""
    graph = api.load(module.double().eval(), input_shape=shape).graph
    return networks.build(graph, {edge.name: (1, *shape) for edge in graph.inputs})


def lower(
    network: Network,
    *,
    starts: Mapping[str, torch.Tensor] | None = None,
    box: tuple[float, float] | None = None,
    seed: int = 0,
) -> Measure | None:
    graph = network.graph
    return sampling.largest_jacobian(
        network,
        tuple(edge.name for edge in graph.inputs),
        tuple(edge.name for edge in graph.outputs),
        starts=starts,
        box=None if box is None else {edge.name: box for edge in graph.inputs},
        seed=seed,
    )


def value(module: nn.Module, *shape: int, box: tuple[float, float] | None = None) -> float:
    found = lower(network_of(module, *shape), box=box)
    assert found is not None
    assert found.rigor is Rigor.NUMERICAL
    return found.lower


def largest_of_random(module: nn.Module, width: int, count: int) -> float:
    """Return the largest dense Jacobian norm over random inputs, by torch alone."""
    torch.manual_seed(5)
    points = [
        torch.randn(1, width, dtype=torch.float64) * 10 ** torch.randn(1) for _ in range(count)
    ]
    norms = [torch.linalg.matrix_norm(jacobian(module, x), 2) for x in points]
    return float(torch.stack(norms).max())


def seeded(module_of_layers: list[nn.Module], scale: float = 1.0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(3)
    module = nn.Sequential(*module_of_layers).double()
    for parameter in module.parameters():
        parameter.data = scale * torch.randn(
            parameter.shape, generator=generator, dtype=torch.float64
        )
    return module


def test_a_linear_network_meets_its_singular_value() -> None:
    module = seeded([nn.Linear(40, 60), nn.Linear(60, 30)])
    weights = [weight.detach() for weight in module.parameters() if weight.dim() == 2]
    truth = float(torch.linalg.matrix_norm(weights[1] @ weights[0], 2))
    found = value(module, 40)
    assert found <= truth
    assert found == pytest.approx(truth, rel=1e-6)


def test_a_convolution_meets_its_singular_value() -> None:
    module = seeded([nn.Conv2d(2, 3, 3, padding=1), nn.AvgPool2d(2)])
    truth = float(torch.linalg.matrix_norm(jacobian(module, torch.zeros(1, 2, 6, 6).double()), 2))
    found = value(module, 2, 6, 6)
    assert found <= truth
    assert found == pytest.approx(truth, rel=1e-6)


class Kinked(nn.Module):
    """10x - 10 relu(x) + 10 relu(-x): zero everywhere, with the formal derivative 10 at 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 10 * x - 10 * torch.relu(x) + 10 * torch.relu(-x)


def test_the_formal_derivative_on_a_kink_is_not_believed() -> None:
    at_zero = jacobian(Kinked(), torch.zeros(1, 3, dtype=torch.float64))
    assert float(at_zero.abs().max()) == 10, "or this test tests nothing"
    network = network_of(Kinked(), 3)
    name = network.graph.inputs[0].name
    for box in (None, (0.0, 1.0), (-1.0, 0.0)):
        found = lower(network, starts={name: torch.zeros(2, 3)}, box=box)
        assert found is not None
        assert found.lower == 0


def test_two_inputs_refute_a_formal_derivative() -> None:
    """What the search hands over sits on the kink itself, with its formal slope of 10."""
    ones = torch.ones(3, dtype=torch.float64)
    right = ones[None] / 3**0.5
    peak = Peaks(torch.zeros_like(right), torch.tensor([10.0]), right, right)
    domain = Domain(sources=ones, moves=ones)
    assert witnessed(Kinked(), peak, domain) == 0
    assert witnessed(lambda x: 3 * x, peak, domain) == pytest.approx(3, rel=1e-8)
    # And a quotient above the derivative is not believed either: here it is all rounding.
    flat = Peaks(right, torch.tensor([1.0]), right, right)
    assert witnessed(lambda x: x + 1e15 - 1e15, flat, domain) <= 1


def test_all_positive_weights_are_met_by_positive_inputs() -> None:
    path = shared_models.path("lipsdp/derived_random_weights_f64.onnx")
    found = lower(networks.build(api.load(path).graph))
    assert found is not None
    # The published truth (LipSDP, Fazlyab et al. 2019): every weight is non-negative.
    assert 36.4822 * 0.999 <= found.lower <= 36.48223


def test_ascent_finds_more_than_random_points() -> None:
    module = seeded([nn.Linear(8, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 5)])
    found = value(module, 8)
    assert found >= 1.3 * largest_of_random(module, 8, 300)
    weights = [weight.detach() for weight in module.parameters() if weight.dim() == 2]
    norms = [float(torch.linalg.matrix_norm(weight, 2)) for weight in weights]
    assert found <= math.prod(norms)


def test_kinks_are_crossed_where_gradients_vanish() -> None:
    """One hidden layer as wide as the input: every pattern occurs, so the truth is known."""
    module = seeded([nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 4)])
    first, last = (weight.detach() for weight in module.parameters() if weight.dim() == 2)
    patterns = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 10)
    truth = float(torch.linalg.svdvals(last * patterns[:, None, :] @ first)[:, 0].max())
    found = value(module, 10)
    assert found <= truth
    assert found >= 0.99 * truth
    assert found > largest_of_random(module, 10, 300)


def test_a_saturated_network_is_entered_through_the_users_samples() -> None:
    """tanh(10 (x - c)): flat everywhere but within a tenth of one far corner."""
    linear = nn.Linear(3, 3)
    corner = torch.tensor([-700.0, 300.0, -500.0])
    linear.weight.data, linear.bias.data = 10 * torch.eye(3), -10 * corner
    network = network_of(nn.Sequential(linear, nn.Tanh()), 3)
    alone = lower(network)
    assert alone is not None
    assert alone.lower < 1
    helped = lower(network, starts={network.graph.inputs[0].name: corner[None] + 0.05})
    assert helped is not None
    assert 9.99 <= helped.lower <= 10


def test_a_box_is_not_left() -> None:
    """relu(x - 2) has slope 0 on [0, 1] and 1 beyond 2."""

    class Late(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x - 2) + 0.5 * x

    assert value(Late(), 4) == pytest.approx(1.5, rel=1e-6)
    inside = value(Late(), 4, box=(0.0, 1.0))
    assert inside <= 0.5
    assert inside == pytest.approx(0.5, rel=1e-6)
    assert value(Late(), 4, box=(1.0, 1.0)) == 0
    assert value(Late(), 4, box=(-math.inf, 1.0)) == pytest.approx(0.5, rel=1e-6)
    assert value(Late(), 4, box=(3.0, math.inf)) == pytest.approx(1.5, rel=1e-6)
    with pytest.raises(UsageError, match="between 2 and 1"):
        value(Late(), 4, box=(2.0, 1.0))


def test_an_output_that_ignores_the_input_yields_zero() -> None:
    class Still(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(x) + 3

    assert value(Still(), 3) == 0


def test_each_pair_of_input_and_output_is_asked_apart() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return 2 * x + 3 * y, torch.tanh(5 * y)

    graph = from_module(Two(), [(1, 3), (1, 3)]).graph
    network = networks.build(graph)
    (x, y), (first, second) = (
        [edge.name for edge in network.graph.inputs],
        [edge.name for edge in network.graph.outputs],
    )
    for source, target, truth in ((x, first, 2), (y, first, 3), (x, second, 0), (y, second, 5)):
        found = sampling.largest_jacobian(network, (source,), (target,))
        assert found is not None
        assert found.lower <= truth
        assert found.lower == pytest.approx(truth, rel=1e-3)


def test_a_node_without_a_forward_pass_yields_none() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumprod(x, dim=1)

    assert lower(network_of(Odd(), 3)) is None


def test_open_shapes_yield_none() -> None:
    network = network_of(nn.ReLU(), 3)
    shapes = dict.fromkeys(network.shapes)
    assert lower(replace(network, shapes=shapes)) is None


def test_the_same_seed_finds_the_same() -> None:
    network = network_of(seeded([nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)]), 4)
    assert lower(network, seed=7) == lower(network, seed=7)


def test_starts_that_do_not_fit_are_refused() -> None:
    network = network_of(nn.ReLU(), 3)
    name = network.graph.inputs[0].name
    with pytest.raises(UsageError, match="samples of shape 4 do not fit"):
        lower(network, starts={name: torch.zeros(5, 4)})
    with pytest.raises(UsageError, match="no input 'other'"):
        lower(network, starts={"other": torch.zeros(5, 3)})


@pytest.mark.parametrize("batch", [1, 2])
def test_a_reshape_that_repeats_the_batch_size_is_run_as_it_is_written(batch: int) -> None:
    class Flat(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x.reshape(batch, 6)).reshape(-1)

    found = lower(networks.build(from_module(Flat(), [(batch, 2, 3)]).graph))
    assert found is not None
    assert found.lower == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(
    "name", ["marabou/fc1.onnx", "sisl_nnet/TestNetwork2.onnx", "marabou/cifar_base_kw_simp.onnx"]
)
def test_no_lower_bound_exceeds_a_proved_upper_one(name: str) -> None:
    headline = lipaudit.bound(shared_models.path(name)).models[0].bound
    assert headline is not None
    assert 0 < headline.measure.lower <= headline.measure.upper
