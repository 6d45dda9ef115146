"""Whole ONNX files run: what comes out is what onnxruntime makes of the same file.

Every registered kind of ONNX node, in a file of its own with its constants as initializers, so
that the reader is held to it and not the layer alone; and the models by other people.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from lipaudit.errors import NotCertified
from lipaudit.formats.detect import read_model
from lipaudit.graph.node import ONNX_DOMAIN
from lipaudit.layers import catalog
from lipaudit.layers.base import Example
from lipaudit.layers.execution import run
from tests import shared_models
from tests.layers.runtime import drawn, model_of

Arrays = Mapping[str, np.ndarray[Any, Any]]

CASES = [
    pytest.param(example, id=f"{kind.op}-{number}")
    for kind in catalog.all_kinds()
    if kind.domain == ONNX_DOMAIN
    for number, example in enumerate(kind.examples())
]
# Newest first; onnxruntime 1.31 has no kernels of opset 25 yet, and lost a few older ones.
OPSETS = (24, 23, 21)
REFUSALS = (
    "NOT_IMPLEMENTED",
    "No Op registered",
    "size_ % 2 == 1 was false",  # LRN over an even number of channels
    "beta_ > 0.0f was false",  # LRN without a power
)


def session(model: bytes | str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def file_of(example: Example, opset: int) -> tuple[onnx.ModelProto, Arrays]:
    """Return the model with the example's constants stored in it, and its inputs."""
    inputs = drawn(example)
    model, given = model_of(example.node, inputs, opset)
    stored = {example.node.inputs[at] for at in example.constants} & set(given)
    signals = [value for value in model.graph.input if value.name not in stored]
    del model.graph.input[:]
    model.graph.input.extend(signals)
    model.graph.initializer.extend(numpy_helper.from_array(given[n], n) for n in sorted(stored))
    return model, {name: value for name, value in given.items() if name not in stored}


def truth(example: Example) -> tuple[onnx.ModelProto, Arrays, list[Any]]:
    """Return the newest form of the file that onnxruntime runs, and what comes out."""
    for opset in OPSETS:
        model, feed = file_of(example, opset)
        try:
            return model, feed, list(session(model.SerializeToString()).run(None, feed))
        except Exception as error:
            if not any(word in str(error) for word in REFUSALS):
                raise
    model, feed = file_of(example, OPSETS[0])
    made: Any = ReferenceEvaluator(model).run(None, dict(feed))
    return model, feed, list(made)


def results(path: Path | str, feed: Arrays) -> list[torch.Tensor]:
    graph = read_model(str(path)).graph
    given = {name: torch.from_numpy(np.array(value)) for name, value in feed.items()}
    return list(run(graph, given, None).values())


def as_tensor(value: np.ndarray[Any, Any]) -> torch.Tensor:
    held = np.array(value)  # a copy, in rows, that may be written
    if value.dtype.name == "bfloat16":
        return torch.from_numpy(held.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(held)


def assert_close(ours: list[torch.Tensor], theirs: list[Any], tolerance: float) -> None:
    assert len(ours) == len(theirs)
    for mine, value in zip(ours, theirs, strict=True):
        right = as_tensor(np.asarray(value))
        assert mine.dtype == right.dtype
        scale = float(right.double().nan_to_num(0, 0, 0).abs().max()) if right.numel() else 0.0
        torch.testing.assert_close(
            mine, right, rtol=tolerance, atol=tolerance * max(scale, 1.0), equal_nan=True
        )


@pytest.mark.parametrize("example", CASES)
def test_a_file_of_one_node(example: Example, tmp_path: Path) -> None:
    model, feed, theirs = truth(example)
    path = tmp_path / "one.onnx"
    path.write_bytes(model.SerializeToString())
    assert_close(results(path, feed), theirs, 1e-5)


# What lipaudit does not run, and says so.
NOT_RUN = {
    "burn_onnx/opset_15.onnx": "the output of Bernoulli is random",
    "burn_onnx/opset_19.onnx": "operation DeformConv is not known",
}
SIZES = {"tract/qtdnn_10x5_101_i32_biases__model.onnx": 40}
"""What a size is that the file leaves open; 1 in the others."""
VALUES: dict[str, Arrays] = {
    "onnx_backend/test_expand_shape_model4__model.onnx": {"shape": np.array([2, 1, 3, 4])},
}


def feed_of(name: str) -> Arrays:
    """Draw the inputs that a file asks for."""
    model = onnx.load(shared_models.path(name))
    rng = np.random.default_rng(0)
    feed = {}
    stored = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in stored:
            continue
        about = value.type.tensor_type
        stated = [size.dim_value for size in about.shape.dim]
        shape = [size if size > 0 else SIZES.get(name, 1) for size in stated]
        dtype = helper.tensor_dtype_to_np_dtype(about.elem_type)
        if dtype == np.dtype(object):
            pytest.skip("an input of it is text")
        drawn_values = rng.standard_normal(shape)
        if np.issubdtype(dtype, np.integer):
            drawn_values = rng.integers(0, 3, shape).astype(np.float64)
        feed[value.name] = drawn_values.astype(dtype)
    return feed | dict(VALUES.get(name, {}))


def judged(name: str, feed: Arrays) -> list[Any]:
    """Run a file in onnxruntime, or in the reference implementation where that has no kernel."""
    path = str(shared_models.path(name))
    try:
        return list(session(path).run(None, dict(feed)))
    except Exception as error:  # noqa: BLE001 - its own errors have no common class
        refusal = str(error)
    try:
        made: Any = ReferenceEvaluator(path).run(None, dict(feed))
    except Exception as error:  # noqa: BLE001 - the same
        pytest.skip(f"no judge: onnxruntime: {refusal[:100]!r}, reference: {str(error)[:100]!r}")
    return list(made)


def others() -> list[Any]:
    """Return the files; the largest of them takes seconds."""
    return [
        pytest.param(name, marks=pytest.mark.slow) if "vgg19" in name else name
        for name in shared_models.every(".onnx") or ["none of them"]
    ]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the reference, at the ends of domains
@pytest.mark.parametrize("name", others())
def test_a_model_by_other_people(name: str) -> None:
    feed = feed_of(name)
    if name in NOT_RUN:
        with pytest.raises(NotCertified, match=NOT_RUN[name]):
            results(shared_models.path(name), feed)
        return
    theirs = judged(name, feed)
    assert_close(results(shared_models.path(name), feed), theirs, 1e-4)
