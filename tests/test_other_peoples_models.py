"""Real models by other people: every figure of the independent reference is met.

The reference holds float64 norms from dense matrices and attained lower bounds, worked out
elsewhere by other code.
"""

import json
import math
from functools import cache
from typing import Any

import pytest

import lipaudit
from lipaudit.enclosure import Rigor
from lipaudit.errors import LipauditError
from lipaudit.layers.network import Opaque, build
from lipaudit.results import ModelReport
from tests import shared_models

# Files that are meant to be refused, and the word the refusal must contain.
REFUSED = {
    "burn_store/broken.pt": "3 bytes",
    "burn_onnx/external_data.bin": "",
    "burn_onnx/external_data_offset.bin": "",
    "burn_onnx/multi_external_bias.bin": "",
    "burn_onnx/multi_external_weights.bin": "",
    "burn_store/tar_weight_bias.tar": "tar archive",
    "tch_rs/foo1.pt": "no weight tensors",
    "tch_rs/foo7.pt": "no weight tensors",
    "lipsdp/random_weights.mat": "MATLAB",
    "local_lipschitz_uwaa/mnist__global.npz": "NumPy archive",
    "local_lipschitz_uwaa/mnist__local.npz": "NumPy archive",
}
DATA = [
    name
    for name in shared_models.every("")
    if not name.endswith((".md", ".json")) and not name.startswith("external")
]


# ImageNet-sized: minutes on two cores together. Their graphs are built in every run, their
# bounds in `make slow`.
LARGE = [name for name in DATA if "/light_" in name]


@cache
def reference() -> dict[str, Any]:
    path = shared_models.FOLDER / "REFERENCE.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@cache
def audited(name: str) -> ModelReport:
    return lipaudit.bound(shared_models.path(name)).models[0]


@cache
def inspected(name: str) -> ModelReport:
    return lipaudit.inspect(shared_models.path(name)).models[0]


def with_key(section: str, key: str) -> list[str]:
    return [name for name, entry in reference().items() if entry.get(section, {}).get(key)]


@pytest.mark.parametrize("name", LARGE)
def test_every_node_of_the_large_models_is_known(name: str) -> None:
    network = build(lipaudit.load(shared_models.path(name)).graph)
    assert not [step.node.op for step in network.steps if isinstance(step.layer, Opaque)]
    assert all(network.shapes[edge.name] for edge in network.graph.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_the_large_models_get_a_bound(name: str) -> None:
    test_every_file_gets_a_report_or_a_reason(name)


@pytest.mark.parametrize("name", sorted({*DATA} - {*REFUSED} - {*LARGE}))
def test_every_file_gets_a_report_or_a_reason(name: str) -> None:
    report = audited(name)
    assert report.bound is not None
    measure = report.bound.measure
    assert measure.is_finite or report.bound.reasons
    assert measure.log10_lower <= measure.log10_upper


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_no_model_is_refused_by_name(name: str) -> None:
    with pytest.raises(LipauditError, match=REFUSED[name]):
        audited(name)


@pytest.mark.parametrize("name", with_key("onnx", "layers"))
def test_layer_norms_hold_the_reference(name: str) -> None:
    layers = [
        entry
        for entry in reference()[name]["onnx"]["layers"]
        if entry[0] in {"Conv", "ConvTranspose", "dense", "BN-scale"}
    ]
    report = inspected(name)
    kinds = ("Conv", "Gemm", "MatMul", "BatchNormalization", "Linear")
    ours = [layer for layer in report.layers if layer.kind.startswith(kinds)]
    assert len(ours) == len(layers)
    for layer, (_, _, truth) in zip(ours, layers, strict=True):
        assert layer.norm.lower <= truth * (1 + 1e-6), layer.name
        assert truth <= layer.norm.upper * (1 + 1e-9), layer.name
        assert layer.norm.upper <= truth * 1.03, layer.name
        assert layer.norm.rigor is Rigor.PROVED


@pytest.mark.parametrize("name", with_key("state_dict_matrix_norms", "mats"))
def test_reshaped_norms_equal_the_reference(name: str) -> None:
    report = inspected(name)
    ours = {layer.tensors[0]: layer for layer in report.layers if len(layer.tensors) == 1}
    found = 0
    for key, shape, truth in reference()[name]["state_dict_matrix_norms"]["mats"]:
        layer = ours.get(key)
        if layer is None:
            continue
        found += 1
        assert list(layer.shape) == shape
        assert layer.reshaped_norm == pytest.approx(truth, rel=1e-6)
        if len(shape) == 2:
            assert layer.norm.lower <= truth * (1 + 1e-9)
            assert truth <= layer.norm.upper * (1 + 1e-9)
    assert found, "no tensor of the reference was found under its key"


@pytest.mark.parametrize(
    "name", sorted({*with_key("onnx", "jac_lb"), *with_key("onnx", "secant_lb")})
)
def test_the_bound_is_above_every_attained_slope(name: str) -> None:
    entry = reference()[name]["onnx"]
    attained = max(entry.get("jac_lb") or 0.0, entry.get("secant_lb") or 0.0)
    report = audited(name)
    assert report.bound is not None
    assert report.bound.measure.upper >= attained * (1 - 1e-6)
    if report.bound.measure.is_finite:
        assert report.bound.measure.lower <= report.bound.measure.upper


@pytest.mark.parametrize("name", with_key("onnx", "prod_linear"))
def test_the_product_is_near_the_reference_product(name: str) -> None:
    entry = reference()[name]["onnx"]
    if set(entry["acts"]) - {"Relu", "Tanh"}:
        pytest.skip("the reference counts other activations as 1")
    report = audited(name)
    assert report.bound is not None
    product = next(bound for bound in report.bounds if bound.method == "product")
    if not product.measure.is_finite:
        pytest.fail(f"no finite product: {product.reasons}")
    assert product.measure.upper <= entry["prod_linear"] * 1.05 ** len(report.layers) * (1 + 1e-9)
    assert math.isfinite(product.measure.log10_upper)
