"""Leftovers: no tensor of a state dict that could stretch a signal passes a gate unmentioned."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from lipaudit.api import inspect
from lipaudit.results import ModelReport
from tests.cli.gated import Done, run

SMALL = torch.eye(3)
BIG = torch.full((3, 3), 100.0)


def gated(tree: Mapping[Any, Any], folder: Path, suffix: str = ".pt") -> Done:
    """Run `inspect --max-norm 5` on a checkpoint."""
    path = folder / f"f{suffix}"
    if suffix == ".pt":
        torch.save(tree, path)
    else:
        safetensors.torch.save_file(dict(tree), path)
    return run("inspect", path, "--max-norm", "5", "--no-spectra", "--cache", "off")


def report(tree: Mapping[Any, Any], folder: Path) -> ModelReport:
    torch.save(tree, folder / "f.pt")
    return inspect(folder / "f.pt").models[0]


def skipped(tree: Mapping[Any, Any], folder: Path) -> dict[str, str]:
    return {item.name: item.slug for item in report(tree, folder).skipped}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: {"inner": [a]}], ids=["flat", "deep"])
def test_an_array_of_numpy_is_no_empty_space(wrap: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    array = BIG.to(dtype).numpy()
    done = gated({"a.weight": SMALL, "b.weight": wrap(array)}, tmp_path)
    assert done.code == 3
    assert "b.weight" in done.out
    assert "hidden-tensor" in skipped({"a.weight": SMALL, "b": wrap(array)}, tmp_path).values()


def test_a_matrix_of_integers_of_numpy_is_one_too(tmp_path: Path) -> None:
    found = skipped({"a.weight": SMALL, "b": np.full((3, 3), 100)}, tmp_path)
    assert found == {"b": "hidden-tensor"}


def test_a_random_state_is_no_weight(tmp_path: Path) -> None:
    state = np.random.RandomState(0).get_state()
    assert gated({"a.weight": SMALL, "rng": state, "best": np.float64(3.5)}, tmp_path).code == 0


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (3, 1)])
@pytest.mark.parametrize("name", ["a.weight_scale", "a.weight_scale_inv", "a.scale_weight"])
def test_a_scaled_weight_is_not_measured_without_its_scale(
    suffix: str, dtype: torch.dtype, shape: tuple[int, ...], name: str, tmp_path: Path
) -> None:
    tree = {"a.weight": SMALL.to(dtype), name: torch.full(shape, 100.0), "b.weight": SMALL.clone()}
    done = gated(tree, tmp_path, suffix)
    assert done.code == 3
    assert repr(name.removeprefix("a.")) in done.out
    if suffix == ".pt":
        found = report(tree, tmp_path)
        assert [layer.name for layer in found.layers] == ["b"]
        assert [(item.name, item.slug) for item in found.skipped] == [("a.weight", "weight-type")]


def test_a_scale_alone_is_no_layer(tmp_path: Path) -> None:
    tree = {"a.weight": SMALL, "b.weight_packed": BIG.int(), "b.weight_scale": BIG}
    found = report(tree, tmp_path)
    assert [layer.name for layer in found.layers] == ["a"]
    assert {item.name for item in found.skipped} == {"b.weight_packed", "b.weight_scale"}


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("b.bias", BIG),
        ("b.running_mean", BIG),
        ("b.running_var", torch.full((3,), 1e-9)),
        ("a.bias", torch.full((2, 3, 3), 100.0)),
        ("a.bias", torch.tensor(100.0)),
        ("a.bias", torch.full((7,), 100.0)),
        ("b.bias", torch.full((3,), 100.0)),
        ("b.weight", torch.full((1,) * 6, 100.0)),
        ("b.weight", torch.tensor(100.0)),
        ("b.weight", torch.tensor(100)),
        ("b.weight", torch.tensor([100.0])),
        ("b.gain", torch.tensor(1e6)),
        ("gain", torch.tensor(1e6)),
    ],
    ids=str,
)
def test_what_could_stretch_a_signal_is_listed(
    name: str, tensor: torch.Tensor, tmp_path: Path
) -> None:
    tree = {"a.weight": SMALL, name: tensor}
    done = gated(tree, tmp_path)
    assert done.code == 3
    assert name in skipped(tree, tmp_path)
    assert name in done.out


@pytest.mark.parametrize("name", ["bias", "running_mean", "running_var"])
def test_a_batch_norm_of_other_sizes_is_none(name: str, tmp_path: Path) -> None:
    tree = {f"a.{part}": value for part, value in nn.BatchNorm1d(3).state_dict().items()}
    assert not skipped(tree, tmp_path)
    assert {"a.weight", f"a.{name}"} <= {*skipped({**tree, f"a.{name}": BIG}, tmp_path)}


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(3, 1),
        nn.Conv2d(4, 8, 3, groups=2),
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        nn.ConvTranspose2d(4, 4, 3, groups=4),
        nn.LSTM(3, 5, num_layers=2, bidirectional=True),
        nn.GRU(3, 5),
        nn.MultiheadAttention(4, 2),
        nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
        nn.Bilinear(2, 3, 4),
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(1),
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)),
        nn.utils.parametrizations.spectral_norm(nn.Conv1d(3, 4, 2)),
    ],
    ids=str,
)
def test_the_biases_and_counters_of_torch_s_layers_are_none_of_it(
    module: nn.Module, tmp_path: Path
) -> None:
    tree = {f"a.{name}": value for name, value in module.state_dict().items()}
    assert not {name for name in skipped(tree, tmp_path) if not name.endswith("weight")}
    bare = skipped({"state_dict": module.state_dict()}, tmp_path)
    assert not {name for name in bare if "bias" in name}


def test_records_of_the_training_beside_the_weights_are_none_of_it(tmp_path: Path) -> None:
    tree = {"state_dict": {"a.weight": SMALL}, "best_acc1": torch.tensor(76.1), "epoch": 3}
    assert gated(tree, tmp_path).code == 0


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_names_may_be_bytes(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "f.pt"
    torch.save({b"a.weight": SMALL, b"b.weight": BIG}, path, pickle_protocol=protocol)
    found = inspect(path).models[0]
    assert [layer.name for layer in found.layers] == ["a", "b"]
    assert found.layers[1].norm.upper == pytest.approx(300.0)


@pytest.mark.parametrize("name", ["w", "b.scale", "b.weight"])
def test_nan_is_said_of_every_tensor(name: str, tmp_path: Path) -> None:
    torch.save({"a.weight": SMALL, name: torch.full((3,), torch.nan)}, tmp_path / "f.pt")
    done = run("inspect", tmp_path / "f.pt", "--cache", "off")
    assert done.code == 3
    assert "LIP003" in done.out
    assert "NaN" in done.out


def test_a_mask_may_be_infinite(tmp_path: Path) -> None:
    torch.save({"a.weight": SMALL, "mask": torch.full((3, 3), -torch.inf)}, tmp_path / "f.pt")
    assert run("inspect", tmp_path / "f.pt", "--cache", "off").code == 0
