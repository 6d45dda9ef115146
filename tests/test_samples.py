"""The sample models: what truth.py found out with torch alone lies in what lipaudit proves."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import lipaudit
from lipaudit.enclosure import Rigor

FOLDER = Path(__file__).resolve().parents[1] / "sample_models"
TRUTH: dict[str, Any] = tomllib.loads((FOLDER / "expected.toml").read_text(encoding="utf-8"))
FILES = {
    "mlp.pt": "mlp",
    "mlp.safetensors": "mlp",
    "mlp_sharded": "mlp",
    "mlp.onnx": "mlp",
    "cnn.onnx": "cnn",
    "cnn.pt2": "cnn",
    "resnet.onnx": "resnet",
    "attention.onnx": "attention",
    "sequential.pt": "sequential",
    "sequential.onnx": "sequential",
}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    subprocess.run([sys.executable, FOLDER / "build.py", folder], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_every_norm_holds_the_truth(built: Path, name: str) -> None:
    entry = TRUTH[FILES[name]]
    shape = tuple(entry["input_shape"])
    model = lipaudit.inspect(built / name, input_shape=shape).models[0]
    found = {layer.tensors[0].removesuffix(".weight"): layer for layer in model.layers}
    assert set(found) == set(entry["norms"])
    for key, truth in entry["norms"].items():
        norm = found[key].norm
        assert norm.rigor is Rigor.PROVED
        # expected.toml keeps 12 digits.
        assert norm.lower <= truth * (1 + 1e-11)
        assert truth <= norm.upper * (1 + 1e-11)
        assert norm.upper <= truth * (1 + 1e-6), "small operators are measured exactly"


@pytest.mark.parametrize("name", ["mlp.onnx", "cnn.onnx", "cnn.pt2", "resnet.onnx"])
def test_stated_graphs_are_certified(built: Path, name: str) -> None:
    headline = lipaudit.bound(built / name).models[0].bound
    assert headline is not None
    assert headline.certified
    assert 0 < headline.measure.lower <= headline.measure.upper


def test_a_bare_state_dict_is_assumed_and_says_so(built: Path) -> None:
    model = lipaudit.bound(built / "mlp.pt").models[0]
    assert model.topology == "assumed"
    assert model.assumptions
    assert model.bound is not None
    assert not model.bound.certified
    assert model.bound.measure.is_finite


def test_attention_has_no_global_bound_and_names_the_node(built: Path) -> None:
    headline = lipaudit.bound(built / "attention.onnx").models[0].bound
    assert headline is not None
    assert not headline.measure.is_finite
    assert any("MatMul" in reason for reason in headline.reasons)


def test_formats_agree(built: Path) -> None:
    products = {
        bound.measure.upper
        for name in ("mlp.pt", "mlp.safetensors", "mlp_sharded", "mlp.onnx")
        for bound in lipaudit.bound(built / name, input_shape=(12,)).models[0].bounds
        if bound.method == "product"
    }
    assert len(products) == 1
