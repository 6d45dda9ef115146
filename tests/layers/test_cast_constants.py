"""Casts of stored constants: the numbers that onnxruntime makes of them, not the ones stored."""

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from lipaudit.api import bound, inspect

_INFINITE = 1e30


def saved(
    path: Path, weight: torch.Tensor, nodes: list[onnx.NodeProto], output: str = "c"
) -> onnx.ModelProto:
    """Write x @ c, where the nodes make c of the stored w."""
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["x", output], ["y"])],
        "casts",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, len(weight)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, len(weight)])],
        [numpy_helper.from_array(weight.numpy(), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return model


def there_and_back(to: int, saturate: int | None = None) -> list[onnx.NodeProto]:
    """Return the two casts."""
    first = helper.make_node("Cast", ["w"], ["half"], to=to)
    if saturate is not None:
        first.attribute.append(helper.make_attribute("saturate", saturate))
    return [
        first,
        helper.make_node("Cast", ["half"], ["c"], to=TensorProto.FLOAT),
    ]


def measured(model: onnx.ModelProto, size: int) -> float:
    """Return the largest singular value of what onnxruntime does to the unit vectors."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    rows = [
        np.asarray(session.run(None, {"x": row[None]})[0])[0]
        for row in np.eye(size, dtype=np.float32)
    ]
    matrix = np.array(rows, dtype=np.float64)
    if not np.isfinite(matrix).all():
        return math.inf
    return float(np.linalg.svd(matrix, compute_uv=False)[0])


@pytest.mark.parametrize("scale", [1.0, 1e6])
@pytest.mark.parametrize(
    "to", [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2, TensorProto.FLOAT16]
)
def test_a_cast_weight_is_what_the_type_makes_of_it(to: int, scale: float, tmp_path: Path) -> None:
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)) * 3 * scale
    model = saved(tmp_path / "m.onnx", weight, there_and_back(to))
    found = bound(tmp_path / "m.onnx").models[0].bound
    assert found is not None
    truth = measured(model, 4)
    if not math.isfinite(truth):
        assert not found.measure.is_finite
        return
    assert found.measure.lower <= truth * (1 + 1e-6)
    assert truth * (1 - 1e-6) <= found.measure.upper <= truth * (1 + 1e-4)


def test_a_bfloat16_weight_is_rounded(tmp_path: Path) -> None:
    weight = torch.full((1, 1), 1.0 + 2.0**-8 + 2.0**-12)  # just over the middle of two
    saved(tmp_path / "m.onnx", weight, there_and_back(TensorProto.BFLOAT16))
    (layer,) = inspect(tmp_path / "m.onnx").models[0].layers
    assert layer.norm.upper == pytest.approx(1.0 + 2.0**-7, rel=1e-12)


def test_what_is_not_saturated_is_no_number(tmp_path: Path) -> None:
    saved(tmp_path / "m.onnx", torch.eye(2) * 1e6, there_and_back(TensorProto.FLOAT8E4M3FN, 0))
    report = inspect(tmp_path / "m.onnx").models[0]
    assert not report.layers
    assert {skipped.slug for skipped in report.skipped} == {"non-finite"}


def test_a_product_that_overflows_is_no_number(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["w", "w"], ["c"])]
    model = saved(tmp_path / "m.onnx", torch.full((2, 2), _INFINITE), nodes)
    assert measured(model, 2) == math.inf
    report = inspect(tmp_path / "m.onnx").models[0]
    assert not report.layers
    assert {skipped.slug for skipped in report.skipped} == {"non-finite"}
    found = bound(tmp_path / "m.onnx").models[0].bound
    assert found is not None
    assert not found.measure.is_finite


def test_a_cast_of_a_computed_weight_proves_nothing(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["w", "w"], ["square"]),
        helper.make_node("Cast", ["square"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["c"], to=TensorProto.FLOAT),
    ]
    saved(tmp_path / "m.onnx", torch.full((2, 2), 1.0009766), nodes)
    (layer,) = inspect(tmp_path / "m.onnx").models[0].layers
    assert layer.norm.rigor.label != "proved"
