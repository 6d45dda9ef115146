"""Instances of torch's layers that are not what their class is: none of them gets a bound."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import lipaudit
from lipaudit.formats.module_attributes import CLASSES
from lipaudit.layers.registry import all_kinds
from lipaudit.results import ModelReport

Change = Callable[[nn.Sequential], object]


def network(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), *layers).eval()


def saved(module: nn.Module, folder: Path) -> Path:
    torch.save(module, folder / "m.pt")
    return folder / "m.pt"


def upper(report: ModelReport) -> float:
    return report.bounds[0].measure.upper if report.bounds else float("inf")


def of_file(module: nn.Module, folder: Path) -> ModelReport:
    return lipaudit.bound(saved(module, folder)).models[0]


def both(module: nn.Module, folder: Path) -> list[ModelReport]:
    """Return the reports on the file and on the module at hand."""
    return [of_file(module, folder), lipaudit.bound(module).models[0]]


ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    lambda: nn.LeakyReLU(torch.tensor(9.0)),  # type: ignore[arg-type]
    lambda: nn.ELU(torch.tensor(9.0)),  # type: ignore[arg-type]
    lambda: nn.Hardtanh(0.0, torch.tensor(1.0)),  # type: ignore[arg-type]
    lambda: nn.CELU(-0.5),
    lambda: nn.CELU(torch.tensor(0.5)),  # type: ignore[arg-type]
    lambda: nn.Softplus(0.5, 0.01),
    lambda: nn.Softplus(2, -5),
    lambda: nn.Softplus(torch.tensor(1.0)),  # type: ignore[arg-type]
    lambda: nn.BatchNorm1d(3, eps=torch.tensor(1e-5)),  # type: ignore[arg-type]
)


@pytest.mark.parametrize("made", ACTIVATIONS)
def test_a_parameter_that_is_not_read_is_not_replaced_by_a_default(
    made: Callable[[], nn.Module], tmp_path: Path
) -> None:
    for report in both(network(made()), tmp_path):
        assert upper(report) == float("inf")


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (lambda: nn.LeakyReLU(9.0), 9.0),
        (lambda: nn.ELU(-3.0), 3.0),
        (lambda: nn.CELU(0.5), 1.0),
        (lambda: nn.Softplus(0.5), 1.0),
    ],
)
def test_honest_parameters_are_read(
    made: Callable[[], nn.Module], wanted: float, tmp_path: Path
) -> None:
    module = nn.Sequential(made()).eval()
    x = torch.linspace(-30, 30, 60_002, dtype=torch.float64).reshape(-1, 2)
    with torch.no_grad():
        y = module.double()(x).flatten()
    report = lipaudit.bound(saved(module, tmp_path)).models[0]
    steps = (y[1:] - y[:-1]).abs().max() / float(x.flatten()[1] - x.flatten()[0])
    assert float(steps) <= upper(report) * (1 + 1e-9) <= wanted * (1 + 1e-6)


@pytest.mark.parametrize("where", [2.0, -5.0, 19.0])
def test_softplus_jumps_where_its_threshold_is_low(where: float, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Softplus(1.0, where)).double()
    two = torch.tensor([where - 1e-12, where + 1e-12], dtype=torch.float64)
    y = module(two)
    assert float((y[1] - y[0]).abs()) / 2e-12 > 1.1
    assert upper(lipaudit.bound(saved(module, tmp_path)).models[0]) == float("inf")
    assert upper(lipaudit.bound(module, input_shape=(2,)).models[0]) == float("inf")


def weight(m: nn.Sequential) -> torch.Tensor:
    first = m[0]
    assert isinstance(first, nn.Linear)
    return first.weight.detach()


def _shadow_weight(m: nn.Sequential) -> None:
    m[0].__dict__["weight"] = weight(m) * 100


def _shadow_forward(m: nn.Sequential) -> None:
    m[1].__dict__["forward"] = nn.Linear(3, 3)


def _function_forward(m: nn.Sequential) -> None:
    m[1].__dict__["forward"] = torch.exp


def _root_forward(m: nn.Sequential) -> None:
    m.__dict__["forward"] = torch.exp


def _method(m: nn.Sequential) -> None:
    m[0].__dict__["_slow_forward"] = torch.exp


def _buffer_of_the_same_name(m: nn.Sequential) -> None:
    m[0]._buffers["weight"] = weight(m) * 0.01


def _parameter_and_buffer_of_eps(m: nn.Sequential) -> None:
    del m[1].__dict__["inplace"]
    m[1]._buffers["inplace"] = torch.tensor(1.0)


def _part_that_is_a_function(m: nn.Sequential) -> None:
    m._modules["1"] = torch.exp  # type: ignore[assignment]


def _part_by_number(m: nn.Sequential) -> None:
    m._modules[5] = nn.Linear(3, 3)  # type: ignore[index]


def _odd_dictionary(m: nn.Sequential) -> None:
    m.__dict__["_modules"] = Counter(m._modules)


CHANGES: dict[str, Change] = {
    "weight": _shadow_weight,
    "forward-linear": _shadow_forward,
    "forward": _function_forward,
    "root-forward": _root_forward,
    "method": _method,
    "buffer": _buffer_of_the_same_name,
    "buffer-attribute": _parameter_and_buffer_of_eps,
    "function": _part_that_is_a_function,
    "number": _part_by_number,
    "counter": _odd_dictionary,
    "hook": lambda m: m[0].register_forward_hook(os.path.join),  # type: ignore[arg-type]
    "pre-hook": lambda m: m[1].register_forward_pre_hook(os.path.join),  # type: ignore[arg-type]
    "root-hook": lambda m: m.register_forward_hook(os.path.join),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_instance_is_not_certified(name: str, tmp_path: Path) -> None:
    module = network(nn.ReLU())
    CHANGES[name](module)
    # Torch itself has no state dict of a module with such parts.
    is_live = name not in {"function", "number"}
    for report in both(module, tmp_path) if is_live else [of_file(module, tmp_path)]:
        assert upper(report) == float("inf")


@pytest.mark.parametrize("name", ["hook", "pre-hook", "root-hook"])
def test_the_function_of_a_hook_is_named(name: str, tmp_path: Path) -> None:
    module = network(nn.ReLU())
    CHANGES[name](module)
    for report in both(module, tmp_path):
        assert any("join" in note for note in report.notes)


@pytest.mark.parametrize(
    ("name", "key"),
    [("weight", "0.weight"), ("forward-linear", "1.forward"), ("buffer", "0.weight"),
     ("number", "_modules"), ("hook", "0.weight")],
)  # fmt: skip
def test_the_tensors_of_a_changed_instance_are_listed(name: str, key: str, tmp_path: Path) -> None:
    module = network(nn.ReLU())
    CHANGES[name](module)
    report = lipaudit.inspect(saved(module, tmp_path)).models[0]
    assert (key, "hidden-tensor") in {(one.name, one.slug) for one in report.skipped}


def test_a_module_that_stands_twice_counts_twice(tmp_path: Path) -> None:
    linear = nn.Linear(3, 3)
    module = nn.Sequential(linear, nn.ReLU(), linear).eval()
    norm = float(torch.linalg.matrix_norm(linear.weight.detach().double(), 2))
    for report in both(module, tmp_path):
        assert upper(report) >= norm**2 * (1 - 1e-9)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(3)])
def test_training_mode_is_an_assumption(layer: nn.Module, tmp_path: Path) -> None:
    module = network(layer).train()
    path = saved(module, tmp_path)
    reports = [*both(module, tmp_path), lipaudit.inspect(path).models[0]]
    reports.append(lipaudit.bound(module, input_shape=(3,)).models[0])
    for report in reports:
        assert any("taken at inference: it was saved in training" in t for t in report.assumptions)
    assert module.training
    module.eval()
    for report in both(module, tmp_path):
        assert not report.assumptions


@pytest.mark.parametrize("layer", [nn.Dropout(0.0), nn.ReLU()])
def test_training_mode_that_changes_nothing_is_none(layer: nn.Module, tmp_path: Path) -> None:
    for report in both(network(layer).train(), tmp_path):
        assert not report.assumptions
        assert upper(report) < float("inf")


def test_old_weight_and_spectral_norm_are_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    one = nn.utils.weight_norm(nn.Linear(3, 3))
    two = nn.utils.spectral_norm(nn.Linear(3, 3))
    module = nn.Sequential(one, two).double().eval()
    module(torch.ones(1, 3, dtype=torch.float64))
    matrices = [layer.weight.detach() for layer in (one, two)]
    truth = float(torch.linalg.matrix_norm(matrices[1] @ matrices[0], 2))
    product = 1.0
    for matrix in matrices:
        product *= float(torch.linalg.matrix_norm(matrix, 2))
    report = lipaudit.bound(saved(module, tmp_path)).models[0]
    assert truth <= upper(report) <= product * (1 + 1e-9)
    assert not report.skipped


def test_a_spectral_norm_along_another_axis_than_is_read_is_none(tmp_path: Path) -> None:
    module = nn.Sequential(nn.utils.spectral_norm(nn.ConvTranspose1d(3, 3, 1))).eval()
    module(torch.ones(1, 3, 4))
    assert upper(lipaudit.bound(saved(module, tmp_path)).models[0]) == float("inf")


def test_every_class_has_its_attributes() -> None:
    """What torch puts into an instance is what the table says it may hold."""
    of_all = {*vars(nn.Module())}
    needed = {
        "Linear": (1, 1), "PReLU": (), "LayerNorm": (1,), "Softmax": (0,), "LogSoftmax": (0,),
    }  # fmt: skip
    for name, known in CLASSES.items():
        count = 3 if "Conv" in name else 1 if "Norm" in name or "Pool" in name else 0
        module = getattr(nn, name)(*needed.get(name, (1,) * count))
        assert {*vars(module)} - of_all <= known.attributes, name
        assert {*module.state_dict()} <= known.tensors, name
    assert {kind.module for kind in all_kinds() if kind.module} <= {*CLASSES}
