"""Samples: files read or refused, radii that no attack breaks, stretches that torch confirms."""

import io
import math
import pickle
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lipaudit import api
from lipaudit.analysis.samples import (
    Samples,
    expected_stretch,
    load_samples,
    margins,
    starts,
)
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.errors import ExitCode, UsageError
from lipaudit.formats.live import from_module
from lipaudit.layers import network as networks
from lipaudit.layers.network import Network

X = np.arange(12, dtype=np.float32).reshape(4, 3)


def network_of(module: nn.Module, *shape: int) -> Network:
    graph = api.load(module.eval(), input_shape=shape).graph
    return networks.build(graph, {edge.name: (1, *shape) for edge in graph.inputs})


def saved(folder: Path, **arrays: Any) -> Path:
    path = folder / "samples.npz"
    np.savez(path, **arrays)
    return path


def test_inputs_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    samples = load_samples(tmp_path / "x.npy")
    assert samples.count == 4
    assert samples.labels is None
    assert samples.inputs.dtype == torch.float64
    assert samples.inputs.tolist() == X.tolist()


@pytest.mark.parametrize(("x", "y"), [("inputs", "labels"), ("x", "y"), ("X", "y")])
def test_inputs_and_labels(tmp_path: Path, x: str, y: str) -> None:
    samples = load_samples(saved(tmp_path, **{x: X, y: np.array([[0], [1], [2], [0]])}))
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 2, 0]
    wide = load_samples(saved(tmp_path, **{x: X, y: np.array([0.0, 1.0, 2.0, 0.0])}))
    assert wide.labels is not None
    assert wide.labels.tolist() == [0, 1, 2, 0]


def pickled() -> bytes:
    return pickle.dumps({"inputs": [1.0, 2.0]})


def archive_with(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an array",
        b"\x93NUMPY\x01\x00",
        b"PK\x03\x04 cut off",
        pickled(),
        archive_with("inputs.npy", b"\x93NUMPY"),
        archive_with("inputs.npy", b"no array at all"),
        archive_with("readme.txt", b"hello"),
    ],
    ids=["empty", "text", "cut", "cut-zip", "pickle", "cut-member", "member", "other"],
)
def test_files_that_are_no_samples_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_samples(path)
    assert caught.value.slug == "data"
    assert caught.value.exit_code is ExitCode.ERROR
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert "numpy.savez" in caught.value.hint


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": X}, "no array is called 'inputs' or 'x' (there is: 'pictures')"),
        ({"x": np.array(["a", "b"])}, "not real numbers"),
        ({"x": X.astype(complex)}, "not real numbers"),
        ({"x": np.array([{"a": 1}], dtype=object)}, "without pickle"),
        ({"x": np.array([[1.0, np.nan]])}, "NaN or infinity"),
        ({"x": X[:0]}, "no samples"),
        ({"x": np.float64(3)}, "no samples"),
        ({"x": X, "y": np.array([0, 1])}, "labels of shape 2 for 4 samples"),
        ({"x": X, "y": np.eye(4)}, "labels of shape 4x4"),
        ({"x": X, "y": np.array([0, 1, 2, -1])}, "no class numbers"),
        ({"x": X, "y": np.array([0, 1, 2, 0.5])}, "no class numbers"),
    ],
)
def test_arrays_that_make_no_sense_are_refused(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load_samples(saved(tmp_path, **arrays))
    assert caught.value.slug == "data"
    assert message in caught.value.cause


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load_samples(tmp_path / "none.npz")
    with pytest.raises(UsageError, match="directory"):
        load_samples(tmp_path)


def test_shapes_fit_with_and_without_the_batch_axis() -> None:
    network = network_of(nn.ReLU(), 3)
    name = network.graph.inputs[0].name
    for shape in ((4, 3), (4, 1, 3)):
        assert starts(network, Samples(torch.ones(shape), None))[name].shape == (4, 1, 3)
    for misfit in ([4, 2], [4], [4, 2, 3], [4, 3, 1]):
        with pytest.raises(UsageError, match="do not fit input") as caught:
            starts(network, Samples(torch.ones(misfit), None))
        assert caught.value.slug == "data"


def test_networks_with_two_inputs_take_no_samples() -> None:
    class Sum(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    network = networks.build(from_module(Sum(), [(1, 3), (1, 3)]).graph)
    with pytest.raises(UsageError, match="2 inputs"):
        starts(network, Samples(torch.ones(4, 3), None))


def classifier(seed: int, *widths: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def product_of_norms(module: nn.Module) -> float:
    """Return Szegedy's bound, by LAPACK."""
    return math.prod(
        float(torch.linalg.matrix_norm(weight.detach().double(), 2))
        for weight in module.parameters()
        if weight.dim() == 2
    )


def test_a_linear_binary_classifier_has_the_distance_to_its_boundary() -> None:
    """√2·L is attained when W's rows are opposite: the radius is |<w, x> + b| / ‖w‖."""
    w, b = torch.tensor([3.0, 4.0]), 5.0
    module = nn.Linear(2, 2)
    module.weight.data = torch.stack([w, -w])
    module.bias.data = torch.tensor([b, -b])
    x = torch.tensor([[1.0, 2.0], [-3.0, 0.0], [0.0, 0.0]])
    truth = [(3 + 8 + 5) / 5, 4 / 5, 5 / 5]
    upper = Enclosure.exactly(math.nextafter(math.sqrt(50), math.inf))
    found = margins(
        network_of(module, 2), Samples(x, torch.tensor([0, 1, 1])), upper, distances=(0, 0.79, 3.3)
    )
    assert found.count == 3
    assert found.labelled
    assert found.correct == 2
    assert found.radii[0] == pytest.approx(truth[0], rel=1e-8)
    assert found.radii[1] == pytest.approx(truth[1], rel=1e-7)
    assert found.radii[2] == 0, "a wrong class has no radius"
    assert all(mine <= true for mine, true in zip(found.radii, truth, strict=True))
    assert found.median == found.radii[1]
    assert found.accuracy == {0: 2 / 3, 0.79: 2 / 3, 3.3: 0}
    assert found.rigor is Rigor.NUMERICAL


def test_without_labels_the_predicted_class_is_certified() -> None:
    module = classifier(0, 5, 8, 3)
    found = margins(network_of(module, 5), Samples(torch.randn(6, 5), None), Enclosure.exactly(10))
    assert not found.labelled
    assert found.correct == found.count == 6
    assert min(found.radii) > 0


@pytest.mark.parametrize("seed", range(3))
def test_no_step_within_the_radius_changes_the_class(seed: int) -> None:
    module = classifier(seed, 6, 12, 12, 4)
    upper = product_of_norms(module) * (1 + 1e-9)
    x = torch.randn(20, 6)
    found = margins(network_of(module, 6), Samples(x, None), Enclosure.exactly(upper))
    exact = module.double()
    for point, radius in zip(x.double(), found.radii, strict=True):
        scores = exact(point).detach()
        best = int(scores.argmax())
        assert radius <= float(scores.max() - scores.topk(2).values[1]) / (2**0.5 * upper)
        attacked = point.clone().requires_grad_()
        for _ in range(10):
            made = exact(attacked)
            other = int(torch.cat([made[:best], made[best + 1 :]]).argmax())
            other += other >= best
            (slope,) = torch.autograd.grad(made[other] - made[best], attacked)
            moved = attacked.detach() + slope / slope.norm().clamp(min=1e-12)
            step = moved - point
            attacked = (point + step * (radius / step.norm()) * (1 - 1e-9)).requires_grad_()
            assert int(exact(attacked).argmax()) == best


def test_the_running_networks_error_is_taken_off_once() -> None:
    """Two outputs, each off by E/√2 against one another: the worst that ‖f̂ - f‖ <= E allows."""
    module = nn.Linear(1, 2, bias=False)
    module.weight.data = torch.tensor([[1.0], [-1.0]])
    error = 0.1
    found = margins(
        network_of(module, 1),
        Samples(torch.tensor([[1.0]]), None),
        Enclosure.sqrt_of(2),
        executed_error=Enclosure.exactly(error),
    )
    # f̂ = f - (E/√2)(1, -1) has its boundary where 2x = 2·E/√2.
    assert found.radii[0] == pytest.approx(1 - error / 2**0.5, rel=1e-7)
    assert found.radii[0] <= 1 - error / 2**0.5
    lost = margins(
        network_of(module, 1),
        Samples(torch.tensor([[0.05]]), None),
        Enclosure.sqrt_of(2),
        executed_error=Enclosure.exactly(error),
    )
    assert lost.radii == (0.0,)


def test_an_unknown_bound_certifies_nothing_and_a_zero_one_everything() -> None:
    network = network_of(classifier(0, 5, 8, 3), 5)
    samples = Samples(torch.randn(3, 5), None)
    assert margins(network, samples, Enclosure.unknown()).radii == (0.0, 0.0, 0.0)
    assert margins(network, samples, Enclosure.exactly(0)).radii == (math.inf,) * 3
    unknown = margins(network, samples, Enclosure.exactly(1), executed_error=Enclosure.unknown())
    assert unknown.radii == (0.0, 0.0, 0.0)


def test_ties_and_broken_outputs_are_not_certified() -> None:
    module = nn.Linear(1, 2, bias=False)
    module.weight.data = torch.tensor([[1.0], [1.0]])
    samples = Samples(torch.tensor([[1.0]]), torch.tensor([0]))
    tied = margins(network_of(module, 1), samples, Enclosure.exactly(1), distances=(0,))
    assert (tied.correct, tied.radii, tied.accuracy) == (0, (0.0,), {0: 0.0})
    module.weight.data = torch.tensor([[1.0], [torch.nan]])
    broken = margins(network_of(module, 1), samples, Enclosure.exactly(1))
    assert (broken.correct, broken.radii) == (0, (0.0,))


def test_outputs_that_are_no_classes_are_refused() -> None:
    with pytest.raises(UsageError, match="no row of classes"):
        margins(
            network_of(nn.Linear(3, 1), 3), Samples(torch.ones(2, 3), None), Enclosure.unknown()
        )
    samples = Samples(torch.ones(2, 3), torch.tensor([0, 7]))
    with pytest.raises(UsageError, match="label 7, but the network has 4 classes"):
        margins(network_of(nn.Linear(3, 4), 3), samples, Enclosure.unknown())


def test_the_expected_stretch_of_each_layer() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5), nn.Tanh()
    )
    x = torch.randn(70, 2, 4, 4)  # more than are run together
    found = expected_stretch(network_of(module, 2, 4, 4), Samples(x, None))
    exact = module.double()
    conv, dense = exact[0], exact[3]
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(dense, nn.Linear)
    with torch.no_grad():
        hidden = torch.relu(conv(x.double())).flatten(1)
        after = nn.functional.conv2d(x.double(), conv.weight, padding=1)
        truth = [
            float(after.norm() / x.double().norm()),
            float((hidden @ dense.weight.T).norm() / hidden.norm()),
        ]
    assert list(found) == ["0", "3"]
    assert list(found.values()) == pytest.approx(truth, rel=1e-9)


def test_a_step_that_only_zeros_reach_stretches_nothing() -> None:
    module = nn.Sequential(nn.ReLU(), nn.Linear(3, 2))
    found = expected_stretch(network_of(module, 3), Samples(-torch.ones(4, 3), None))
    assert list(found.values()) == [0.0]
