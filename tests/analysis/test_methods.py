"""The methods beside each other: averaged, closed form and sdp against patterns and matrices.

Truth: a network with slopes in [a, b] moves by W_m D_{m-1} ... D_1 W_1 for diagonal D with
entries in [a, b]. Every such product is covered by the quadratic constraints, so that no sound
bound built on them is below the largest norm over all corners D, whether an input attains it
or not.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from onnx.helper import (
    make_graph,
    make_model,
    make_node,
    make_opsetid,
    make_tensor_value_info,
)
from onnx.numpy_helper import from_array
from torch import nn

import lipaudit
from lipaudit.analysis import linear_parts, sampling
from lipaudit.analysis.bounds import multipliers
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.layers.base import AbstractGainLayer, Example
from lipaudit.layers.slope import Slope
from lipaudit.operators import lmi
from lipaudit.results import Bound
from tests import shared_models
from tests.contracts.test_layers import STATING
from tests.layers.runtime import drawn, layer_of

RELU = (0.0, 1.0)


@pytest.fixture(autouse=True)
def unsampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "largest_jacobian", lambda *_, **__: None)


def bounds(source: str | nn.Module, *shape: int) -> dict[str, Bound]:
    report = lipaudit.bound(source, input_shape=shape or None).models[0]
    return {bound.method: bound for bound in report.bounds}


def uppers(source: str | nn.Module, *shape: int) -> dict[str, float]:
    return {name: bound.measure.upper for name, bound in bounds(source, *shape).items()}


def chain(seed: int, widths: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for into, out in itertools.pairwise(widths):
        layer = nn.Linear(into, out)
        layer.weight.data = torch.randn(out, into, generator=generator)
        layers += [layer, activation()]
    return nn.Sequential(*layers[:-1]).eval()


def matrices(network: nn.Sequential) -> list[torch.Tensor]:
    return [m.weight.detach().double() for m in network if isinstance(m, nn.Linear)]


def norm(matrix: torch.Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


def worst_corner(weights: Sequence[torch.Tensor], slopes: tuple[float, float]) -> float:
    """Return the largest norm over all diagonal D with every entry at one of two slopes."""
    hidden = [weight.shape[0] for weight in weights[:-1]]
    worst = 0.0
    for pattern in itertools.product(slopes, repeat=sum(hidden)):
        made, at = weights[0], 0
        for weight, count in zip(weights[1:], hidden, strict=True):
            made = weight @ (torch.tensor(pattern[at : at + count]).double().unsqueeze(1) * made)
            at += count
        worst = max(worst, norm(made))
    return worst


def theta(weights: Sequence[torch.Tensor], slopes: tuple[float, float]) -> float:
    """Return the recurrence of Combettes & Pesquet, written with c and r for any slopes."""
    centre, radius = (slopes[1] + slopes[0]) / 2, (slopes[1] - slopes[0]) / 2
    found = [1.0]
    for end in range(1, len(weights) + 1):
        total = 0.0
        for start in range(end):
            stretch = functools.reduce(lambda a, b: b @ a, weights[start:end])
            share = found[start] * (radius if start else 1.0)
            total += share * abs(centre) ** (end - start - 1) * norm(stretch)
        found.append(total)
    return found[-1]


ACTIVATIONS: list[tuple[Callable[[], nn.Module], tuple[float, float]]] = [
    (nn.ReLU, RELU),
    (nn.Tanh, RELU),
    (lambda: nn.LeakyReLU(0.3), (0.3, 1.0)),
    (nn.Sigmoid, (0.0, 0.25)),
    (nn.Hardswish, (-0.5, 1.5)),
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("activation", "slopes"), ACTIVATIONS)
def test_chains(
    seed: int, activation: Callable[[], nn.Module], slopes: tuple[float, float]
) -> None:
    network = chain(seed, (3, 4, 3, 2), activation)
    found, weights = uppers(network, 3), matrices(network)
    worst = worst_corner(weights, slopes)
    assert found["averaged"] == pytest.approx(theta(weights, slopes), rel=1e-9)
    for name in ("product", "graph", "averaged", "closed-form", "sdp"):
        assert found[name] >= worst * (1 - 1e-12), name
    assert found["sdp"] <= min(found["averaged"], found["closed-form"]) * (1 + 1e-6)
    assert found["averaged"] <= found["graph"] * (1 + 1e-12)


@pytest.mark.parametrize("share", [0.9, 0.99])
def test_a_radius_that_is_too_small_proves_what_is_false(
    monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    true_radius = vars(Slope)["radius"]
    less = Enclosure.exactly(share)
    monkeypatch.setattr(Slope, "radius", property(lambda s: true_radius.__get__(s).times(less)))
    for widths, method in (((1, 1, 1), "averaged"), ((1, 6, 1), "sdp")):
        network = chain(3, widths, nn.ReLU)
        for parameter in network.parameters():
            parameter.data.abs_()
        assert uppers(network, 1)[method] < worst_corner(matrices(network), RELU)


def test_weights_of_one_sign_are_bounded_without_loss() -> None:
    """With no negative weight all corners are below D = 1, which an input attains."""
    network = chain(5, (2, 10, 8, 2), nn.ReLU)
    for parameter in network.parameters():
        parameter.data.abs_()
    truth = norm(functools.reduce(lambda a, b: b @ a, matrices(network)))
    assert truth * (1 - 1e-12) <= uppers(network, 2)["sdp"] <= truth * (1 + 1e-5)


def test_a_linear_network_meets_its_norm() -> None:
    """Linear maps in a row and side by side are one matrix, however their norms multiply."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(12, 3)
            self.conv = nn.Conv1d(1, 2, 3, padding=1)
            self.pool = nn.AvgPool1d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inner = x - 0.5 * self.b(self.a(x))
            side = self.pool(self.conv(x.unsqueeze(1))).flatten(1)
            made: torch.Tensor = self.c(torch.cat([inner, side], dim=1))
            return made

    module = Linear().eval()
    found = bounds(module, 6)
    with torch.no_grad():
        module = module.double()
        columns = torch.stack(
            [(module(e[None]) - module(e[None] * 0))[0] for e in torch.eye(6).double()]
        )
    truth = norm(columns)
    for name in ("averaged", "closed-form", "sdp"):
        assert truth * (1 - 1e-12) <= found[name].measure.upper <= truth * (1 + 1e-4), name
        assert found[name].measure.rigor is Rigor.PROVED
    assert found["graph"].measure.upper > 1.05 * truth


class Residual(nn.Module):
    """Two blocks with skips, a max pool between them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.inner = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.norm.running_var.uniform_(0.3, 2.0)  # type: ignore[union-attr]
        self.norm.running_mean.uniform_(-1.0, 1.0)  # type: ignore[union-attr]
        self.pool = nn.MaxPool2d(2)
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = self.pool(x + torch.relu(self.norm(self.inner(x))))
        made: torch.Tensor = self.last(nn.functional.gelu(x).flatten(1))
        return made


@pytest.mark.parametrize("seed", range(5))
def test_skips_pools_and_convolutions(seed: int) -> None:
    module = Residual(seed).eval()
    found = uppers(module, 1, 4, 4)
    module = module.double()
    worst = 0.0
    for point in range(40):
        x = torch.randn(1, 1, 4, 4, dtype=torch.float64) * 3.0 ** (point % 4 - 1)
        jacobian = torch.autograd.functional.jacobian(module, x).reshape(3, 16)  # type: ignore[no-untyped-call]
        worst = max(worst, norm(jacobian))
    for name in ("graph", "averaged", "closed-form", "sdp"):
        assert found[name] >= worst, name
    assert found["sdp"] < found["averaged"] < found["graph"]


def test_several_inputs_and_outputs_are_bounded_together() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.left, self.right, self.out = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            hidden = torch.tanh(self.left(x) + self.right(y))
            return self.out(hidden), hidden

    module = Two().eval()
    model = lipaudit.load(module, input_shape={"x": (3,), "y": (2,)})
    found = {b.method: b.measure.upper for b in lipaudit.bound(model).models[0].bounds}
    module = module.double()
    inner = torch.cat([module.left.weight, module.right.weight], dim=1).detach()
    corner = torch.cat([module.out.weight.detach(), torch.eye(4).double()]) @ inner
    for name in ("graph", "averaged", "closed-form", "sdp"):
        assert found[name] >= norm(corner) * (1 - 1e-12), name
    assert found["sdp"] <= norm(corner) * 1.2


def test_what_is_too_large_to_write_out_is_left_to_the_other_methods(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear_parts, "FLOPS", 0.0)
    assert set(uppers(chain(0, (3, 4, 2), nn.ReLU), 3)) == {"product", "graph"}


def test_parts_that_are_only_partly_written_out_still_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = chain(0, (3, 40, 4, 3), nn.ReLU)
    full = uppers(network, 3)
    monkeypatch.setattr(linear_parts, "FLOPS", 2e4)
    part = uppers(network, 3)
    assert "sdp" not in part
    assert full["averaged"] < part["averaged"] <= part["graph"]


def test_matrices_that_are_off_by_more_than_they_say_are_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The proof must rest on the stated error: without it a false figure gets through."""
    network = chain(2, (3, 5, 2), nn.ReLU)
    true = uppers(network, 3)["closed-form"]
    old = multipliers._rows

    def off(*arguments: object) -> tuple[torch.Tensor, float]:
        rows, _ = old(*arguments)  # type: ignore[arg-type]
        return rows * 0.9, float(rows.norm()) * 0.1

    monkeypatch.setattr(multipliers, "_rows", off)
    assert uppers(network, 3).get("closed-form", math.inf) > true


@pytest.mark.parametrize("size", [5, 40])
def test_a_square_that_is_too_small_is_never_proved(size: int) -> None:
    """With y = W x and no bend, P is ρ - WᵀW, which is semidefinite from ‖W‖² on."""
    torch.manual_seed(size)
    matrix = torch.randn(size, size, dtype=torch.float64)
    problem = lmi.Inequality(size, (), matrix, 0.0)
    square = norm(matrix) ** 2
    assert problem.proves((), square * (1 + 1e-11))
    for below in (1e-15, 1e-14, 1e-13, 1e-10):
        assert not problem.proves((), square * (1 - below))
    assert not lmi.Inequality(size, (), matrix, 1e-6).proves((), square * (1 + 1e-11))


def says_affine(example: Example) -> bool:
    layer = layer_of(example)
    real = all(dtype.startswith("float") for dtype in example.dtypes)
    return isinstance(layer, AbstractGainLayer) and layer.is_affine and real


@pytest.mark.parametrize("example", [p for p in STATING if says_affine(p.values[0])])
def test_layers_that_say_they_are_affine_are(example: Example) -> None:
    layer = layer_of(example)
    inputs = [v.double() if v is not None and v.is_floating_point() else v for v in drawn(example)]
    at = [n for n, v in enumerate(inputs) if v is not None and n not in example.constants]
    shapes = [v.shape for n, v in enumerate(inputs) if v is not None and n in at]

    def run(*signals: torch.Tensor) -> torch.Tensor:
        arguments = list(inputs)
        for n, signal in zip(at, signals, strict=True):
            arguments[n] = signal
        return torch.cat([made.reshape(-1).double() for made in layer.forward(arguments)])

    generator = torch.Generator().manual_seed(0)
    first, second = (
        [torch.randn(shape, generator=generator).double() for shape in shapes] for _ in range(2)
    )
    zero = run(*(torch.zeros_like(x) for x in first))
    both = run(*(x - 3 * y for x, y in zip(first, second, strict=True)))
    linear = (run(*first) - zero) - 3 * (run(*second) - zero)
    torch.testing.assert_close(both - zero, linear, rtol=1e-10, atol=1e-10)


def test_the_random_network_of_lipsdp() -> None:
    """Published: product 43.306, LipSDP-Layer 39.839, LipSDP-Neuron 36.482 (which is attained)."""
    found = uppers(str(shared_models.path("lipsdp/derived_random_weights_f64.onnx")))
    assert found["product"] == pytest.approx(43.305574, rel=1e-7)
    assert found["averaged"] == pytest.approx(39.860916, rel=1e-7)
    assert 36.4822296 * (1 - 1e-7) <= found["sdp"] <= 36.4822296 * (1 + 1e-5)


def test_a_controller_network_is_bounded_hundreds_of_times_lower() -> None:
    found = uppers(str(shared_models.path("sisl_nnet/TestNetwork2.onnx")))
    assert found["product"] == pytest.approx(1.71295e9, rel=1e-5)
    assert found["sdp"] < found["product"] / 100


def test_the_measured_figure_says_how_it_was_proved() -> None:
    found = bounds(chain(0, (3, 4, 2), nn.ReLU), 3)
    assert "Cholesky" in found["sdp"].measure.method


Swapped = tuple[str, list[onnx.NodeProto], dict[str, list[object]], tuple[int, ...], float]
SWAPPED: list[Swapped] = [
    (
        "left",
        [make_node("MatMul", ["w", "x"], ["a"]), make_node("Mul", ["a", "m"], ["y"])],
        {"w": [[0, 0], [3, 0]], "m": [[1, 0], [1, 0]]},
        (2, 2),
        3.0,
    ),
    (
        "turned",
        [
            make_node("Mul", ["x", "d"], ["a"]),
            make_node("Gemm", ["a", "w"], ["y"], transA=1),
        ],
        {"w": [[0, 0], [3, 0]], "d": [[1, 0], [1, 0]]},
        (2, 2),
        3.0,
    ),
    (
        "einsum",
        [
            make_node("Einsum", ["x", "w"], ["a"], equation="ij,jk->ki"),
            make_node("Mul", ["a", "m"], ["y"]),
        ],
        {"w": [[0, 3], [0, 0]], "m": [[0, 0], [1, 0]]},
        (2, 2),
        3.0,
    ),
    (
        "stacked",
        [make_node("MatMul", ["x", "w"], ["a"]), make_node("Mul", ["a", "m"], ["y"])],
        {"w": [[[5, 0], [0, 5]], [[0.1, 0], [0, 0.1]]], "m": [[[0], [1]], [[1], [1]]]},
        (2, 2, 2),
        5.0,
    ),
]


@pytest.mark.parametrize("case", SWAPPED, ids=lambda case: case[0])
def test_maps_of_square_signals_act_on_their_own_axis(tmp_path: Path, case: Swapped) -> None:
    """Where both axes have one size, shapes do not tell which of them a matrix acts on."""
    name, nodes, stored, shape, truth = case
    graph = make_graph(
        nodes,
        name,
        [make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [from_array(np.array(v, dtype=np.float32), k) for k, v in stored.items()],
    )
    path = tmp_path / f"{name}.onnx"
    onnx.save(make_model(graph, opset_imports=[make_opsetid("", 17)]), path)
    for method, upper in uppers(str(path)).items():
        assert upper >= truth * (1 - 1e-6), method


@pytest.mark.parametrize("mode", ["replicate", "circular"])
def test_taps_that_cancel_are_not_trusted(mode: Literal["replicate", "circular"]) -> None:
    """[2^60, 1, -2^60] on one pixel with copies: the large taps read it, and cancel."""
    conv = nn.Conv1d(1, 1, 3, padding=1, padding_mode=mode, bias=False)
    conv.weight.data = torch.tensor([[[2.0**60, 1.0, -(2.0**60)]]])
    for method, upper in uppers(nn.Sequential(conv).eval(), 1, 1).items():
        assert upper >= 1, method


def test_a_dropout_changes_nothing() -> None:
    plain = chain(1, (3, 4, 2), nn.ReLU)
    first, activation, last = plain
    dropped = nn.Sequential(first, activation, nn.Dropout(0.3), last).eval()
    assert uppers(dropped, 3) == pytest.approx(uppers(plain, 3))


def dense_weights(path: str) -> list[torch.Tensor]:
    """Read the matrices of a chain off the file with the onnx library, in the order they run."""
    graph = onnx.load(path).graph
    stored = {
        t.name: torch.tensor(onnx.numpy_helper.to_array(t)).double() for t in graph.initializer
    }
    found = []
    for node in graph.node:
        if node.op_type not in {"Gemm", "MatMul"}:
            continue
        turned = any(a.name == "transB" and a.i for a in node.attribute)
        left, right = (stored.get(name) for name in node.input[:2])
        weight = right if left is None else left
        assert weight is not None
        found.append(weight if left is not None or turned else weight.mT)
    return found


@pytest.mark.parametrize(
    "name",
    [
        "marabou/ACASXU_experimental_v2a_1_1.onnx",
        "sisl_nnet/TestNetwork2.onnx",
        "marabou/mnist2x10.onnx",
        "dnnv/mnist_relu_3_50.onnx",
        "marabou/fc1.onnx",
    ],
)
def test_dense_networks_of_other_people(name: str) -> None:
    """The product is that of the SVD norms to 1e-9, averaged is the recurrence to 1e-9."""
    path = str(shared_models.path(name))
    weights, found = dense_weights(path), uppers(path)
    norms = math.prod(norm(weight) for weight in weights)
    assert found["product"] == pytest.approx(norms, rel=1e-9)
    assert found["averaged"] == pytest.approx(theta(weights, RELU), rel=1e-9)
    if "ACASXU" in name:
        assert min(found.values()) <= found["product"] / 5


def test_the_inputs_that_nothing_sees_are_left_out_of_the_search() -> None:
    """Of 60 inputs in front of 4 units 4 directions count; the answer stays the same."""
    network = chain(4, (60, 4, 3, 2), nn.ReLU)
    found, weights = uppers(network, 60), matrices(network)
    left, values, right = torch.linalg.svd(weights[0], full_matrices=False)
    del right
    small = chain(4, (4, 4, 3, 2), nn.ReLU).double()
    first = small[0]
    assert isinstance(first, nn.Linear)
    first.weight.data = left * values
    for layer, weight in zip(list(small)[2::2], weights[1:], strict=True):
        assert isinstance(layer, nn.Linear)
        layer.weight.data = weight
    again = uppers(small, 4)
    assert found["sdp"] == pytest.approx(again["sdp"], rel=1e-4)
    assert found["closed-form"] == pytest.approx(again["closed-form"], rel=1e-6)
