"""What can be asked besides the bound: parts, pairs, ranges, the run, samples, advice."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import lipaudit
from lipaudit.enclosure import Rigor
from lipaudit.errors import UsageError
from lipaudit.results import ModelReport
from tests import shared_models


def norm(matrix: torch.Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix.double(), 2))


class Stages(nn.Module):
    """Two stages and a skip around the second."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 5)
        self.second = nn.Linear(5, 5)
        self.last = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = x + torch.tanh(self.second(x))
        made: torch.Tensor = self.last(x)
        return made


@pytest.fixture(scope="module")
def stages() -> nn.Module:
    return Stages().eval()


def asked(module: nn.Module, *shape: int, **wishes: object) -> ModelReport:
    return lipaudit.bound(module, input_shape=shape, **wishes).models[0]  # type: ignore[arg-type]


def upper(report: ModelReport) -> float:
    assert report.bound is not None
    return report.bound.measure.upper


def test_a_part_of_a_network(stages: nn.Module) -> None:
    assert isinstance(stages, Stages)
    second, last = norm(stages.second.weight.detach()), norm(stages.last.weight.detach())
    only = asked(stages, 4, start="second", end="second")
    assert upper(only) == pytest.approx(second, rel=1e-6)
    assert "second" in only.part
    assert [layer.name for layer in only.layers] == ["second"]
    tail = asked(stages, 4, start="last")
    assert upper(tail) == pytest.approx(last, rel=1e-6)
    head = asked(stages, 4, end="first")
    assert upper(head) == pytest.approx(norm(stages.first.weight.detach()), rel=1e-6)
    # What goes around the second layer is held: only its own way counts.
    through = asked(stages, 4, start="second", end="last")
    graph = {bound.method: bound.measure.upper for bound in through.bounds}["graph"]
    assert graph == pytest.approx((1 + second) * last, rel=1e-6)


def test_a_part_that_runs_backwards_is_refused(stages: nn.Module) -> None:
    """Its constant is 0, which would pass any gate; nobody means it."""
    with pytest.raises(UsageError, match="'last' does not lead to 'first'"):
        asked(stages, 4, start="last", end="first")


def test_a_name_that_is_not_there_is_named(stages: nn.Module) -> None:
    with pytest.raises(UsageError, match="there is no node 'thrid'"):
        asked(stages, 4, start="thrid")


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.a(x) + self.b(y), self.c(x)


def test_every_pair_of_input_and_output_has_a_bound() -> None:
    module = Two().eval()
    model = lipaudit.load(module, input_shape={"x": (3,), "y": (2,)})
    report = lipaudit.bound(model).models[0]
    weights = {name: norm(getattr(module, name).weight.detach()) for name in "abc"}
    outputs = [edge.name for edge in model.graph.outputs]
    found = {(pair.source, pair.target): pair.measure.upper for pair in report.pairs}
    assert found["x", outputs[0]] == pytest.approx(weights["a"], rel=1e-9)
    assert found["y", outputs[0]] == pytest.approx(weights["b"], rel=1e-9)
    assert found["x", outputs[1]] == pytest.approx(weights["c"], rel=1e-9)
    assert found["y", outputs[1]] == 0
    joint = torch.zeros(6, 5)
    joint[:4, :3], joint[:4, 3:] = module.a.weight.detach(), module.b.weight.detach()
    joint[4:, :3] = module.c.weight.detach()
    assert norm(joint) * (1 - 1e-9) <= upper(report) <= norm(joint) * 1.01


class Excitation(nn.Module):
    """A squeeze-and-excitation gate."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.down, self.up = nn.Conv2d(2, 4, 3), nn.Linear(4, 2), nn.Linear(2, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        gate = torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class Attending(nn.Module):
    """Attention after a normalization, fused or spelled out."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.fused = fused
        self.norm, self.mix, self.out = nn.LayerNorm(6), nn.Linear(6, 18), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, size = x.shape
        split = self.mix(self.norm(x)).reshape(batch, length, 3, 2, 3).permute(2, 0, 3, 1, 4)
        q, k, v = split.unbind(0)
        if self.fused:
            made = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            made = torch.softmax(q @ k.transpose(-1, -2) / 3**0.5, -1) @ v
        yielded: torch.Tensor = x + self.out(made.transpose(1, 2).reshape(batch, length, size))
        return yielded


CASES: list[tuple[nn.Module, tuple[int, ...], tuple[float, float] | None]] = [
    (Excitation(), (2, 5, 5), (-1.0, 2.0)),
    (Attending(fused=True), (4, 6), None),
    (Attending(fused=False), (4, 6), None),
]


@pytest.mark.parametrize(("module", "shape", "span"), CASES)
def test_gates_and_attention_are_finite_on_bounded_values(
    module: nn.Module, shape: tuple[int, ...], span: tuple[float, float] | None
) -> None:
    module = module.eval()
    report = asked(module, *shape, input_range=span)
    assert report.bound is not None
    assert report.bound.certified
    said = any("every item of the input lies in [-1, 2]" in t for t in report.bounds[0].assumptions)
    assert said == (span is not None)
    double, worst = module.double(), 0.0
    generator = torch.Generator().manual_seed(0)
    for point in range(12):
        x = torch.rand(1, *shape, generator=generator, dtype=torch.float64)
        low, high = span or (-1.0, 1.0)
        x = (low + (high - low) * x) * (1.0 if span else 4.0 ** -(point % 6))
        rows = torch.autograd.functional.jacobian(double, x)  # type: ignore[no-untyped-call]
        worst = max(worst, norm(rows.reshape(-1, x.numel())))
    module.float()
    assert worst <= upper(report)
    assert report.bound.measure.lower <= upper(report)
    assert report.bound.measure.lower >= 0.5 * worst


def test_a_gate_on_an_unbounded_input_has_no_bound() -> None:
    report = asked(Excitation().eval(), 2, 5, 5)
    assert report.bound is not None
    assert not report.bound.measure.is_finite
    assert "multiplies two signals" in report.bound.reasons[0]


def test_the_running_network_is_stated_with_its_error(stages: nn.Module) -> None:
    report = asked(stages, 4, executed="float32", input_radius=3.0)
    assert report.running is not None
    error = report.running.error.upper
    assert report.running.error.rigor is Rigor.PROVED
    bound, double = upper(report), Stages().eval().double()
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        x = torch.randn(1, 4, generator=generator)
        x = 3.0 * x / x.norm() * 0.999
        y = torch.nextafter(x, torch.full_like(x, torch.inf))
        with torch.no_grad():
            exact = double(x.double())
            ran, moved = stages(x).double(), stages(y).double()
        assert float((ran - exact).norm()) <= error
        assert float((ran - moved).norm()) <= bound * float((x - y).double().norm()) + 2 * error
    assert error < 1e-3


def test_the_running_network_is_the_one_before_batch_norms_are_folded() -> None:
    torch.manual_seed(4)
    norm_layer = nn.BatchNorm1d(4)
    norm_layer.running_var = torch.rand(4) + 0.5
    module = nn.Sequential(nn.Linear(3, 4), norm_layer, nn.ReLU(), nn.Linear(4, 2)).eval()
    report = asked(module, 3, executed="float32", input_radius=1.0)
    assert report.running is not None
    assert report.running.error.is_finite
    assert any("+" in layer.name for layer in report.layers)


def test_samples_give_radii_that_hold(tmp_path: Path, stages: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 4, generator=generator) * 5
    with torch.no_grad():
        labels = stages(x).argmax(1)
    path = tmp_path / "data.npz"
    np.savez(path, inputs=x.numpy(), labels=labels.numpy())
    report = asked(stages, 4, data=path, eps=(0.0, 0.5))
    found = report.certificates
    assert found is not None
    assert found.correct == found.count == 20
    assert found.accuracy[0.0] == 1.0
    with torch.no_grad():
        for row, label, radius in zip(x, labels, found.radii, strict=True):
            steps = torch.randn(200, 4, generator=generator)
            steps = steps / steps.norm(dim=1, keepdim=True) * radius * 0.9999
            assert bool((stages(row + steps).argmax(1) == label).all())
    stretched = {layer.name: layer.expected_stretch for layer in report.layers}
    with torch.no_grad():
        first = nn.functional.linear(x, stages.get_parameter("first.weight"))
    truth = float((first.square().sum() / x.square().sum()).sqrt())
    assert stretched["first"] == pytest.approx(truth, rel=1e-5)
    assert all(
        0 < value <= layer.norm.upper
        for layer in report.layers
        if (value := layer.expected_stretch)
    )


@pytest.mark.parametrize("limit", [0.5, 0.9, 2.0])
def test_the_advice_meets_the_limit(stages: nn.Module, limit: float) -> None:
    report = asked(stages, 4, limit=limit)
    if upper(report) <= limit:
        assert not report.advice
        return
    assert report.advice.startswith("lipaudit clip --to ")
    to = float(report.advice.split()[3])
    clipped = Stages().eval()
    for layer in (clipped.first, clipped.second, clipped.last):
        layer.weight.data *= min(1.0, to / norm(layer.weight.detach()))
    assert upper(asked(clipped, 4)) <= limit * (1 + 1e-6)


def test_gradients_grow_as_the_waterfall_says() -> None:
    """Norms of 1.2 over fifty layers amplify a gradient 1.2^50 = 9,100 times (issue 4)."""
    layers: list[nn.Module] = []
    for _ in range(50):
        layer = nn.Linear(3, 3, bias=False)
        layer.weight.data = 1.2 * torch.eye(3)
        layers += [layer, nn.ReLU()]
    report = asked(nn.Sequential(*layers[:-1]).eval(), 3)
    graph = next(bound for bound in report.bounds if bound.method == "graph")
    assert graph.factors[0].remaining.upper == pytest.approx(1.2**49, rel=1e-4)
    assert graph.factors[-1].running.upper == pytest.approx(1.2**50, rel=1e-4)
    assert graph.factors[-1].remaining.upper == 1
    linear = [factor for factor in graph.factors if factor.kind == "Linear"]
    assert all(factor.expected == pytest.approx(1.2, rel=1e-6) for factor in linear)
    # A ReLU passes half of the squares of a random movement.
    assert graph.factors[-1].typical == pytest.approx(1.2**50 * 0.5 ** (49 / 2), rel=1e-4)
    assert graph.factors[0].typical_back == pytest.approx(1.2**49 * 0.5 ** (49 / 2), rel=1e-4)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"input_range": (1.0, 0.0)}, "no input lies between"),
        ({"input_range": {"z": (0.0, 1.0)}}, "no input 'z'"),
        ({"executed": "float32"}, "go together"),
        ({"executed": "float7", "input_radius": 1.0}, "float7"),
        ({"executed": "float32", "input_radius": -1.0}, "norm at most"),
        ({"eps": (0.1,)}, "needs samples"),
        ({"data": "/nowhere/at/all.npz"}, "at/all.npz"),
    ],
)
def test_wishes_that_make_no_sense(
    stages: nn.Module, wishes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        asked(stages, 4, **wishes)


def test_a_real_file_from_one_node_to_another() -> None:
    path = str(shared_models.path("wonnx/opt-mnist.onnx"))
    whole = lipaudit.bound(path).models[0]
    part = lipaudit.bound(path, start="Convolution110").models[0]
    assert upper(part) < upper(whole)
    assert len(part.layers) == 2


def test_the_range_that_an_image_model_states_is_taken(tmp_path: Path) -> None:
    """x·x on [0, 1] has slope 2; ONNX's "Optional Metadata" says where pixels lie."""
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3])
    value.type.denotation = "IMAGE"
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Mul", ["x", "x"], ["y"])],
        "square",
        [value],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    onnx.save(model, tmp_path / "open.onnx")
    onnx.helper.set_model_props(model, {"Image.NominalPixelRange": "Normalized_0_1"})
    onnx.save(model, tmp_path / "stated.onnx")
    assert upper(lipaudit.bound(tmp_path / "open.onnx").models[0]) == math.inf
    report = lipaudit.bound(tmp_path / "stated.onnx").models[0]
    assert upper(report) == pytest.approx(2.0, rel=1e-6)
    assert any("[0, 1], as the file says" in text for text in report.bounds[0].assumptions)
    # What the user says counts more, and a part has other inputs.
    wider = lipaudit.bound(tmp_path / "stated.onnx", input_range=(0.0, 3.0)).models[0]
    assert upper(wider) == pytest.approx(6.0, rel=1e-6)
    part = lipaudit.bound(tmp_path / "stated.onnx", start="y", end="y").models[0]
    assert upper(part) == pytest.approx(2.0, rel=1e-6)


def saved(path: Path, nodes: list[onnx.NodeProto], shape: list[int | str], **stored: object) -> str:
    """Write an ONNX file with one input x and one output y."""
    graph = onnx.helper.make_graph(
        nodes,
        path.stem,
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset), path)
    return str(path)


node = onnx.helper.make_node


@pytest.mark.parametrize("low", [0.3, 0.7, 0.013])
def test_casts_round_no_bound_of_values(tmp_path: Path, low: float) -> None:
    """1/x on [low, 1] has slope 1/low², whatever type the file computes in."""
    cast = node("Cast", ["x"], ["a"], to=onnx.TensorProto.FLOAT16)
    back = node("Cast", ["a"], ["b"], to=onnx.TensorProto.FLOAT)
    path = saved(tmp_path / "c.onnx", [cast, back, node("Reciprocal", ["b"], ["y"])], [1, 3])
    assert upper(lipaudit.bound(path, input_range=(low, 1.0)).models[0]) >= low**-2


def test_a_bound_for_all_items_is_no_scalar_factor(tmp_path: Path) -> None:
    """tanh(x)·max tanh(x) stretches by about √N at N equal items: no number for every N."""
    nodes = [
        node("Tanh", ["x"], ["a"]),
        node("ReduceMax", ["a"], ["b"], axes=[1], keepdims=1),
        node("Mul", ["a", "b"], ["y"]),
    ]
    report = lipaudit.bound(saved(tmp_path / "m.onnx", nodes, [1, "N"])).models[0]
    assert upper(report) == math.inf
    sized = lipaudit.bound(saved(tmp_path / "n.onnx", nodes, [1, 100])).models[0]
    assert upper(sized) >= 9.9


def test_terms_that_cancel_inside_a_function_are_allowed_for(tmp_path: Path) -> None:
    """0.2·x + 0.5 near x = -2.5 is tiny; 1/that is as uncertain as the sum was rounded."""
    nodes = [
        node("HardSigmoid", ["x"], ["a"], alpha=0.2, beta=0.5),
        node("Reciprocal", ["a"], ["y"]),
    ]
    path = saved(tmp_path / "h.onnx", nodes, [1, 1])
    span = (-2.4999999627470966, 0.0)
    # What the file holds are the float32 roundings of 0.2 and 0.5.
    alpha = float(np.float32(0.2))
    least = Fraction(alpha) * Fraction(span[0]) + Fraction(1, 2)
    found = upper(lipaudit.bound(path, input_range=span).models[0])
    assert least > 0
    assert found >= float(Fraction(alpha) / least**2)


def test_positions_have_no_bound_in_any_pair(tmp_path: Path) -> None:
    nodes = [
        node("TopK", ["x", "k"], ["values", "places"]),
        node("Cast", ["places"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    path = tmp_path / "t.onnx"
    saved(path, nodes, [1, 4], k=np.array([2], dtype=np.int64))
    model = onnx.load(path)
    values = onnx.helper.make_tensor_value_info("values", onnx.TensorProto.FLOAT, None)
    model.graph.output.append(values)
    onnx.save(model, path)
    report = lipaudit.bound(path).models[0]
    assert upper(report) == math.inf
    pairs = {pair.target: pair.measure.upper for pair in report.pairs}
    assert pairs == {"y": math.inf, "values": 1.0}


def test_a_part_does_not_end_inside_of_a_folded_node() -> None:
    linear, norm_layer = nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3)
    linear.weight.data, norm_layer.weight.data = torch.eye(3), torch.full((3,), 0.1)
    module = nn.Sequential(linear, norm_layer).eval()
    with pytest.raises(UsageError, match="merged"):
        asked(module, 3, end="0")
    with pytest.raises(UsageError, match="merged"):
        asked(module, 3, start="1")
    assert upper(asked(module, 3, start="0", end="1")) == pytest.approx(0.1, rel=1e-4)


def test_radii_are_about_the_inputs_on_which_the_bound_holds(tmp_path: Path) -> None:
    path = saved(tmp_path / "s.onnx", [node("Mul", ["x", "x"], ["y"])], [1, 2])
    samples = tmp_path / "data.npy"
    np.save(samples, np.array([[10.0, 0.0], [1.0, 0.0]], dtype=np.float32))
    report = lipaudit.bound(path, input_range=(0.0, 1.0), data=samples).models[0]
    assert report.certificates is not None
    assert report.certificates.radii[0] == 0
    assert report.certificates.radii[1] == pytest.approx(1 / (2 * 2**0.5), rel=1e-6)
    assert "in [0, 1]" in report.certificates.of


def test_radii_of_the_running_network_are_about_its_radius(
    tmp_path: Path, stages: nn.Module
) -> None:
    samples = tmp_path / "far.npy"
    np.save(samples, np.full((1, 4), 1e6, dtype=np.float32))
    report = asked(stages, 4, executed="float16", input_radius=1.0, data=samples)
    assert report.certificates is not None
    assert report.certificates.radii == (0.0,)


def test_a_named_range_also_holds_the_lower_bound(tmp_path: Path) -> None:
    path = saved(tmp_path / "q.onnx", [node("Mul", ["x", "x"], ["y"])], [1, 3])
    report = lipaudit.bound(path, input_range={"x": (0.0, 1.0)}).models[0]
    assert report.bound is not None
    assert 1.9 <= report.bound.measure.lower <= report.bound.measure.upper <= 2.0001


def test_advice_folds_batch_norms_where_the_bound_does() -> None:
    norm_layer = nn.BatchNorm1d(2)
    norm_layer.weight.data.fill_(3.0)
    module = nn.Sequential(nn.Linear(2, 2), norm_layer, nn.Linear(2, 2)).eval()
    report = asked(module, 2, limit=1e-3)
    assert "lipaudit clip --fold-bn --to" in report.advice


def test_a_dropout_passes_the_bounds_of_values_on() -> None:
    class Gated(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = nn.functional.dropout(torch.tanh(x), 0.5, training=self.training)
            return kept * torch.where(torch.tensor([True, False, True]), torch.sigmoid(x), kept)

    assert upper(asked(Gated().eval(), 3)) <= 2.0001
