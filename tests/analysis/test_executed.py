"""The statement about running networks, against their runs in each format and in float64."""

import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lipaudit.analysis.executed import executed
from lipaudit.analysis.propagate import StepGain
from lipaudit.enclosure import Rigor
from lipaudit.errors import UsageError
from lipaudit.graph.constant import computed
from lipaudit.graph.node import TORCH_DOMAIN, Edge, Graph, Node
from lipaudit.layers.execution import run
from lipaudit.layers.network import Network, build
from tests.analysis.runs import (
    DTYPES,
    asked,
    bound_of,
    constant_of,
    gains_of,
    graph_of,
    inputs_within,
    lengths,
    linear,
    network_of,
    one_ulp_away,
)


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        fan = max(parameter[0].numel(), 1) if parameter.dim() > 1 else 4
        parameter.data = torch.randn(parameter.shape, generator=generator) / fan**0.5
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
            part.running_mean.normal_(generator=generator)
            assert part.running_var is not None
            part.running_var.uniform_(0.05, 2.0, generator=generator)
    return module.eval()


class Skip(nn.Module):
    """Convolutions with a skip, a pool and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = x + torch.tanh(self.second(x)) - 0.1
        x = torch.cat([nn.functional.max_pool2d(x, 2), nn.functional.avg_pool2d(x, 2)], 1)
        made: torch.Tensor = self.last(x.mean((2, 3))) * 0.3
        return made


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "tanh": (
        lambda: nn.Sequential(
            nn.Linear(24, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 5)
        ),
        (24,),
    ),
    "relu": (
        lambda: nn.Sequential(
            nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 30, bias=False), nn.LeakyReLU(0.1)
        ),
        (40,),
    ),
    "conv": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 4, 3, dilation=2, padding=2, padding_mode="reflect"),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(64, 4),
        ),
        (3, 8, 8),
    ),
    "batch norm": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.SiLU(), nn.AvgPool2d(2)
        ),
        (2, 6, 6),
    ),
    "upwards": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 3, 3), nn.Sigmoid(), nn.ConvTranspose1d(3, 4, 4, stride=2, padding=1)
        ),
        (2, 9),
    ),
    "skip": (Skip, (2, 6, 6)),
}


@functools.cache
def prepared(name: str) -> tuple[Network, tuple[StepGain, ...], float]:
    make, shape = MODULES[name]
    network = network_of(seeded(make()), *shape)
    return network, gains_of(network), constant_of(network)


@pytest.mark.parametrize("radius", [0.01, 5.0])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODULES)
def test_the_running_network_obeys_the_statement(name: str, dtype: str, radius: float) -> None:
    make, shape = MODULES[name]
    network, gains, stretch = prepared(name)
    (source,), (target,) = network.graph.inputs, network.graph.outputs
    found = executed(
        network, gains, dtype=dtype, radius=radius, sources=(source.name,), targets=(target.name,)
    )
    assert found.reasons == ()
    assert found.error.rigor is Rigor.PROVED
    error = found.error.upper
    x = inputs_within(radius, DTYPES[dtype], *shape, count=150)
    near, far = one_ulp_away(x), x.roll(1, 0)
    ran = seeded(make()).to(DTYPES[dtype])
    with torch.no_grad():
        exact = seeded(make()).double()(x.double())
        made, from_near, from_far = ran(x), ran(near), ran(far)
    deviation = lengths(made.double() - exact)
    assert float(deviation.max()) <= error
    for other, result in ((near, from_near), (far, from_far)):
        moved = lengths(made.double() - result.double())
        assert bool((moved <= stretch * lengths(x.double() - other.double()) + 2 * error).all())
    # The file's own graph, node by node, is another way to round.
    for one, wanted in zip(x[:20], exact, strict=False):
        again = run(network, {source.name: one[None]}, DTYPES[dtype])[target.name]
        assert float(lengths(again.double() - wanted[None])) <= error
    if dtype == "float32" and name in {"tanh", "relu"}:
        assert error <= 1e4 * float(deviation.max()), "true but of no use"


def test_a_matrix_jumps_between_neighbours_and_still_obeys() -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) / 8
    network = network_of(nn.Sequential(linear(weight)), 64)
    x = inputs_within(8.0, torch.float32, 64, count=400)[1:]
    near = one_ulp_away(x)
    moved = torch.stack([weight @ one for one in near]) - torch.stack([weight @ one for one in x])
    quotients = lengths(moved) / lengths(near.double() - x.double())
    norm = float(torch.linalg.matrix_norm(weight.double(), 2))
    assert float(quotients.max()) > 5 * norm, "nothing jumps: the example is too tame"
    error = bound_of(network, "float32", 8.0)
    steps = lengths(near.double() - x.double())
    assert bool((lengths(moved) <= norm * steps + 2 * error).all())


def test_outputs_and_inputs_are_taken_together() -> None:
    matrices = {"a": torch.full((1, 3), 0.1), "b": torch.full((1, 3), 0.7)}
    nodes = tuple(
        Node("Linear", name, (source, name), (f"y{name}",), {}, TORCH_DOMAIN)
        for name, source in (("a", "x"), ("b", "z"))
    )
    edges = (Edge("x", (1, 3)), Edge("z", (1, 3)))
    known = {name: computed(name, value, sources=(name,)) for name, value in matrices.items()}
    network = build(Graph(nodes, known, edges, (Edge("ya"), Edge("yb"))))
    alone = []
    for name in ("ya", "yb"):
        found = executed(
            network, gains_of(network), dtype="float32", radius=2.0, sources=("x", "z"),
            targets=(name,),
        )  # fmt: skip
        alone.append(found.error.upper)
    assert bound_of(network, "float32", 2.0) == pytest.approx(math.hypot(*alone), rel=1e-12)


class Attending(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, 1)


class Gated(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x).flip(1)


REFUSED: dict[str, tuple[nn.Module, str, float, str | None, tuple[str, ...]]] = {
    "softmax": (Attending(), "float32", 1.0, None, ("Softmax 'softmax'", "not modelled")),
    "layer norm": (nn.LayerNorm(300), "float32", 1.0, None, ("LayerNormalization", "not modelled")),
    "a gate": (Gated(), "float32", 1.0, None, ("two signals",)),
    "long sums of bfloat16": (
        nn.Sequential(nn.Linear(300, 2)), "bfloat16", 1.0, "same", ("Linear '0'", "300 terms"),
    ),
    "values past float16": (
        nn.Sequential(nn.Tanh(), linear(torch.full((2, 300), 1e4))), "float16", 10.0, None,
        ("Linear '1'", "overflow float16"),
    ),
    "weights past float16": (
        nn.Sequential(linear(torch.full((2, 300), 1e5))), "float16", 1e-6, None,
        ("Linear '0'", "does not fit float16"),
    ),
    "nan": (
        nn.Sequential(linear(torch.full((2, 300), math.nan))), "float32", 1.0, None,
        ("Linear '0'",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_stated_is_refused_by_name(name: str) -> None:
    module, dtype, radius, accumulate, words = REFUSED[name]
    found = asked(network_of(module, 300), dtype, radius, accumulate)
    assert not found.error.is_finite
    assert len(found.reasons) == 1
    assert all(word in found.reasons[0] for word in words), found.reasons
    if accumulate == "same":
        assert asked(network_of(module, 300), dtype, radius).error.is_finite


def test_only_nodes_that_an_output_depends_on_can_stop_the_statement() -> None:
    nodes = (Node("Softmax", "aside", ("x",), ("s",)), Node("Relu", "relu", ("x",), ("y",)))
    network = build(Graph(nodes, {}, (Edge("x", (4,)),), (Edge("y"),)))
    assert bound_of(network, "float32", 1.0) == 0
    wanted = build(Graph(nodes, {}, (Edge("x", (4,)),), (Edge("y"), Edge("s"))))
    assert [text.split(":")[0] for text in asked(wanted, "float32", 1.0).reasons] == [
        "Softmax 'aside'"
    ]


def test_a_shape_that_is_not_known_is_asked_for() -> None:
    edge = Edge("x", None)
    network = build(Graph((Node("Tanh", "t", ("x",), ("y",)),), {}, (edge,), (Edge("y"),)))
    found = asked(network, "float32", 1.0)
    assert not found.error.is_finite
    assert "--input-shape" in found.reasons[0]


@pytest.mark.parametrize("radius", [-1.0, math.nan, math.inf])
def test_a_radius_is_a_length(radius: float) -> None:
    with pytest.raises(UsageError, match="norm at most"):
        asked(build(graph_of("Relu")), "float32", radius)


@pytest.mark.parametrize(("dtype", "accumulate"), [("float8", None), ("float16", "float64")])
def test_formats_are_those_that_are_modelled(dtype: str, accumulate: str | None) -> None:
    with pytest.raises(UsageError, match=r"executed in|accumulate in"):
        asked(build(graph_of("Relu")), dtype, 1.0, accumulate)
