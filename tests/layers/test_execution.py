"""The graph runs: every model by other people yields what onnxruntime yields."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch

from lipaudit.errors import LipauditError, NotCertified, UsageError
from lipaudit.formats.onnx_file import OnnxFormat
from lipaudit.formats.source import Source
from lipaudit.graph.constant import computed
from lipaudit.graph.node import Edge, Graph, Node
from lipaudit.layers.execution import run
from tests import shared_models
from tests.layers.runtime import jacobian

Array = npt.NDArray[np.generic]

NUMPY_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    **{
        f"tensor({name})": name
        for name in ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
    },
}

NOT_LOADED_BY_ONNXRUNTIME = {
    "burn_onnx/if_linear.onnx": "type inference of the branches fails",
    "burn_onnx/opset_01.onnx": "BatchNormalization in a form it does not read",
    "burn_onnx/opset_03.onnx": "no GRU of opset 3",
    "burn_onnx/opset_07.onnx": "BatchNormalization in a form it does not read",
    "onnx_backend/test_AvgPool2d__model.onnx": "no AveragePool of opset 1",
    "onnx_backend/test_AvgPool3d_stride__model.onnx": "no AveragePool of opset 1",
    "onnx_backend/test_BatchNorm1d_3d_input_eval__model.onnx": "no BatchNormalization of opset 6",
    "onnx_backend/test_BatchNorm2d_eval__model.onnx": "no BatchNormalization of opset 6",
    "onnx_backend/test_BatchNorm3d_eval__model.onnx": "no BatchNormalization of opset 6",
    "onnx_backend/test_GLU__model.onnx": "no Mul of opset 6",
    "onnx_backend/test_Linear__model.onnx": "no Gemm of opset 6",
    "onnx_backend/test_PReLU_2d_multiparam__model.onnx": "no PRelu of opset 6",
    "onnx_backend/test_Softsign__model.onnx": "no Add of opset 6",
    "onnx_backend/test_gradient_of_add_and_mul__model.onnx": "the Gradient operation of training",
    "onnx_backend/test_operator_addmm__model.onnx": "no Gemm of opset 6",
    "onnx_backend/test_operator_mm__model.onnx": "no Gemm of opset 6",
    "onnx_backend/test_strnorm_model_monday_empty_output__model.onnx": "a locale of this machine",
}
NOT_RUN_BY_ONNXRUNTIME = {
    "onnx_backend/test_expand_shape_model4__model.onnx": "a shape that cannot be expanded to",
    "onnxruntime_go/example_float16.onnx": "bfloat16 has no numpy type",
}
NOT_NUMERIC = {"pykeio_ort/overridable_initializer.onnx": "some of its inputs are strings"}
OPEN_SIZES = {"tract/qtdnn_10x5_101_i32_biases__model.onnx": 40}
"""What a size that is not stated is taken as, where 2 is too small."""
REFUSED_OUTPUTS = {"burn_onnx/opset_13.onnx": {"mod_output"}}
"""Outputs that keep onnxruntime from running the model: Mod of floats without fmod."""
OPAQUE_OUTPUTS = {
    "burn_onnx/opset_15.onnx": {"bernoulli_output": "the output of Bernoulli is random"},
    "burn_onnx/opset_19.onnx": {"deformconv_output": "operation DeformConv is not known"},
}
"""Outputs that lipaudit does not run, and what it says; the others of the model are compared."""


@dataclass(frozen=True)
class Truth:
    """What onnxruntime makes of a model."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


def without(path: Path, outputs: set[str]) -> bytes:
    """Return the model without the nodes that make some outputs, nor what only they use."""
    model = onnx.load(path)
    graph = model.graph
    for node in [node for node in graph.node if outputs & set(node.output)]:
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for unused in [given for given in graph.input if given.name not in used]:
        graph.input.remove(unused)
    for refused in [made for made in graph.output if made.name in outputs]:
        graph.output.remove(refused)
    stored: bytes = model.SerializeToString()
    return stored


def session(model: Path | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options)


def truth(model: Path | bytes, open_size: int = 2) -> Truth:
    """Run a model on random inputs, sizes that are not stated taken as `open_size`."""
    loaded = session(model)
    random = np.random.default_rng(0)
    inputs: dict[str, Array] = {}
    for given in loaded.get_inputs():
        shape = [size if isinstance(size, int) and size > 0 else open_size for size in given.shape]
        dtype = np.dtype(NUMPY_TYPES[given.type])
        drawn = random.standard_normal(shape) if dtype.kind == "f" else random.integers(0, 2, shape)
        inputs[given.name] = np.asarray(drawn).astype(dtype)
    names = [made.name for made in loaded.get_outputs()]
    return Truth(inputs, dict(zip(names, loaded.run(None, inputs), strict=True)))


def load(path: Path) -> Graph:
    return OnnxFormat().read(Source(path)).graph


def assert_close(mine: torch.Tensor, theirs: Array) -> None:
    """Compare to 1e-5 of the largest value."""
    assert tuple(mine.shape) == theirs.shape
    expected = theirs.astype(np.float64)
    finite = np.abs(expected[np.isfinite(expected)])
    np.testing.assert_allclose(
        mine.to(torch.float64).numpy(),
        expected,
        rtol=1e-5,
        atol=1e-5 * float(finite.max(initial=0.0)),
        equal_nan=True,
    )


NOT_COMPARED = NOT_LOADED_BY_ONNXRUNTIME | NOT_RUN_BY_ONNXRUNTIME | NOT_NUMERIC
COMPARED = [name for name in shared_models.every(".onnx") if name not in NOT_COMPARED]


@pytest.mark.parametrize("name", COMPARED)
def test_a_model_yields_what_onnxruntime_yields(name: str) -> None:
    path = shared_models.path(name)
    refused = REFUSED_OUTPUTS.get(name, set())
    expected = truth(without(path, refused) if refused else path, OPEN_SIZES.get(name, 2))
    graph = load(path)
    left_out = {*OPAQUE_OUTPUTS.get(name, {}), *refused}
    kept = tuple(edge for edge in graph.outputs if edge.name not in left_out)
    assert {edge.name for edge in kept} == set(expected.outputs) - left_out
    used = tuple(edge for edge in graph.inputs if edge.name in expected.inputs)
    inputs = {name: torch.from_numpy(value) for name, value in expected.inputs.items()}
    made = run(replace(graph, inputs=used, outputs=kept), inputs, None)
    for edge in kept:
        assert_close(made[edge.name], expected.outputs[edge.name])
        assert str(made[edge.name].numpy().dtype) == str(expected.outputs[edge.name].dtype)


@pytest.mark.parametrize("name", sorted(NOT_LOADED_BY_ONNXRUNTIME))
def test_models_that_cannot_be_compared_still_cannot_be_loaded(name: str) -> None:
    with pytest.raises(Exception, match=r"ONNXRuntimeError"):
        session(shared_models.path(name))


@pytest.mark.parametrize("name", sorted(NOT_RUN_BY_ONNXRUNTIME | REFUSED_OUTPUTS))
def test_models_that_cannot_be_compared_still_cannot_be_run(name: str) -> None:
    with pytest.raises(Exception, match=r"ONNXRuntimeError|No corresponding Numpy type"):
        truth(shared_models.path(name))


@pytest.mark.parametrize("name", sorted(NOT_NUMERIC))
def test_models_of_strings_still_have_no_numbers(name: str) -> None:
    types = {given.type for given in session(shared_models.path(name)).get_inputs()}
    assert not types <= set(NUMPY_TYPES)


@pytest.mark.parametrize("name", sorted(OPAQUE_OUTPUTS))
def test_outputs_that_are_not_run_are_refused_by_name(name: str) -> None:
    path = shared_models.path(name)
    inputs = {name: torch.from_numpy(value) for name, value in truth(path).inputs.items()}
    graph = load(path)
    for output, reason in OPAQUE_OUTPUTS[name].items():
        with pytest.raises(NotCertified, match=reason):
            run(replace(graph, outputs=(Edge(output),)), inputs, None)


REAL = [
    "marabou/conv_mp1.onnx",
    "marabou/softmax-last-layer.onnx",
    "onnx_backend/light_squeezenet.onnx",
    "burn_onnx/lstm_bidirectional.onnx",
    "lipsdp/derived_random_weights_f64.onnx",
]


@pytest.mark.parametrize("name", REAL)
def test_a_run_in_float64_yields_the_same_in_float64(name: str) -> None:
    path = shared_models.path(name)
    expected = truth(path)
    inputs = {name: torch.from_numpy(value) for name, value in expected.inputs.items()}
    for output, value in run(load(path), inputs, torch.float64).items():
        assert value.dtype is torch.float64
        assert_close(value, expected.outputs[output])


def one(*nodes: Node, outputs: tuple[str, ...] = ("y",), **constants: torch.Tensor) -> Graph:
    known = {name: computed(name, value) for name, value in constants.items()}
    return Graph(nodes, known, (Edge("x", (2,)),), tuple(map(Edge, outputs)))


def test_casts_between_real_types_do_not_round_in_a_run_in_float64() -> None:
    to_half = Node("Cast", "down", ("x",), ("h",), {"to": 10})
    back = Node("Cast", "up", ("h",), ("y",), {"to": 1})
    x = torch.tensor([1 / 3, 1e6], dtype=torch.float64)
    assert torch.equal(run(one(to_half, back), {"x": x}, torch.float64)["y"], x)
    native = run(one(to_half, back), {"x": x.float()}, None)["y"]
    assert torch.equal(native, x.float().half().float())


def test_gradients_flow_through_a_run() -> None:
    graph = one(Node("Mul", "m", ("x", "w"), ("y",)), w=torch.tensor([2.0, 3.0]))
    slopes = jacobian(
        lambda x: run(graph, {"x": x}, torch.float64)["y"], torch.ones(2, dtype=torch.float64)
    )
    assert torch.equal(slopes, torch.diag(torch.tensor([2.0, 3.0], dtype=torch.float64)))


def test_only_what_an_output_needs_is_run() -> None:
    unknown = Node("Frob", "f", ("x",), ("z",), {}, "com.acme")
    neg = Node("Neg", "n", ("x",), ("y",))
    x = torch.tensor([1.0, 2.0])
    assert run(one(unknown, neg), {"x": x}, None)["y"].tolist() == [-1.0, -2.0]
    with pytest.raises(NotCertified, match=r"'f' \(Frob\).*com\.acme\.Frob"):
        run(one(unknown, neg, outputs=("y", "z")), {"x": x}, None)


def test_inputs_and_outputs_may_be_the_same_edge() -> None:
    x = torch.tensor([1.0, 2.0])
    neg = Node("Neg", "n", ("x",), ("y",))
    made = run(one(neg, outputs=("x", "y", "c"), c=torch.tensor(3)), {"x": x}, None)
    assert torch.equal(made["x"], x)
    assert made["c"].item() == 3


def test_a_missing_input_is_named() -> None:
    with pytest.raises(UsageError, match="'x'"):
        run(one(Node("Neg", "n", ("x",), ("y",))), {}, None)


def test_what_is_not_connected_is_not_run() -> None:
    loose = Node("MatMul", "m", ("", "w"), ("y",))
    with pytest.raises(LipauditError, match="not connected"):
        run(one(loose, w=torch.ones(2, 2)), {"x": torch.ones(2)}, None)


def test_a_loop_that_does_not_end_is_stopped() -> None:
    body = Graph(
        (Node("Identity", "i", ("going",), ("go_on",)), Node("Neg", "n", ("s",), ("t",))),
        {},
        (Edge("count", (), "int64"), Edge("going", (), "bool"), Edge("s", (2,))),
        (Edge("go_on", (), "bool"), Edge("t", (2,))),
    )
    loop = Node("Loop", "l", ("", "", "x"), ("y",), {"body": body})
    with pytest.raises(NotCertified, match="2,000 steps"):
        run(one(loop), {"x": torch.ones(2)}, None)
