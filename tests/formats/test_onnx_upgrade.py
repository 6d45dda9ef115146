"""Old opsets: the upgraded graph, run by onnxruntime, does what the old model does.

From opset 7 on, onnxruntime itself runs the old model. Before that nothing does, and the truth
is written out in numpy from the text of the old specification.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lipaudit.formats.onnx_upgrade import NEWEST_OPSET
from tests.formats import onnx_export

Array = np.ndarray[Any, Any]
N = helper.make_node
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
FLAT = RNG.standard_normal((4, 6)).astype(np.float32)
C = RNG.uniform(0.5, 1.5, 3).astype(np.float32)


def floats(*values: float) -> Array:
    return np.array(values, dtype=np.float32)


def ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def x(op: str, *more: str, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> onnx.NodeProto:
    return N(op, ["x", *more], list(outputs), **attributes)


W1 = RNG.standard_normal((1, 12, 5)).astype(np.float32)
R1 = RNG.standard_normal((1, 12, 3)).astype(np.float32)
SEQUENCE = RNG.standard_normal((4, 2, 5)).astype(np.float32)

RUNNABLE: dict[str, tuple[int, list[onnx.NodeProto], Array, dict[str, Any]]] = {
    "clip": (7, [x("Clip", min=-0.5, max=0.25)], X, {}),
    "clip one side": (10, [x("Clip", max=0.25)], X, {}),
    "slice": (7, [x("Slice", starts=[1, 0], ends=[3, -1], axes=[2, 3])], X, {}),
    "slice without axes": (9, [x("Slice", starts=[0, 1], ends=[1, 100])], X, {}),
    "pad": (7, [x("Pad", pads=[0, 0, 1, 2, 0, 0, 0, 1], value=0.5)], X, {}),
    "pad reflect": (10, [x("Pad", pads=[0, 0, 1, 2, 0, 0, 0, 1], mode="reflect")], X, {}),
    "squeeze": (11, [x("Squeeze", axes=[0, -1])], X[:1, :, :, :1], {}),
    "squeeze all": (7, [x("Squeeze")], X[:1, :, :, :1], {}),
    "unsqueeze": (12, [x("Unsqueeze", axes=[0, -1])], FLAT, {}),
    "unsqueeze 7": (7, [x("Unsqueeze", axes=[0, 3])], FLAT, {}),
    "split sizes": (11, [x("Split", outputs=("y", "z"), axis=1, split=[2, 4])], FLAT, {}),
    "split equal": (7, [x("Split", outputs=("y", "z"), axis=-1)], FLAT, {}),
    "split equal 13": (13, [x("Split", outputs=("y", "z"), axis=1)], FLAT, {}),
    "split input": (13, [x("Split", "s", outputs=("y", "z"), axis=1)], FLAT, {"s": ints(1, 5)}),
    "dropout 7": (7, [x("Dropout", ratio=0.9)], X, {}),
    "dropout 10": (10, [x("Dropout", ratio=0.9)], X, {}),
    "dropout 12": (12, [x("Dropout", "r")], X, {"r": np.float32(0.9)}),
    "top k 7": (7, [x("TopK", outputs=("y", "i"), k=2, axis=1)], FLAT, {}),
    "top k 10": (10, [x("TopK", "k", outputs=("y", "i"))], FLAT, {"k": ints(3)}),
    "softmax default": (7, [x("Softmax")], X, {}),
    "softmax axis 2": (9, [x("Softmax", axis=2)], X, {}),
    "softmax last": (11, [x("Softmax", axis=-1)], X, {}),
    "softmax negative": (11, [x("Softmax", axis=-2)], X, {}),
    "softmax matrix": (12, [x("Softmax", axis=1)], FLAT, {}),
    "softmax axis 0": (12, [x("Softmax", axis=0)], FLAT, {}),
    "log softmax": (7, [x("LogSoftmax", axis=1)], X, {}),
    "hardmax": (11, [x("Hardmax", axis=1)], X, {}),
    "softmax 13": (13, [x("Softmax", axis=1)], X, {}),
    "batch norm 7": (
        7,
        [x("BatchNormalization", "s", "b", "m", "v", epsilon=1e-3)],
        X,
        {"s": C, "b": C - 1, "m": C / 2, "v": C},
    ),
    "batch norm 9": (
        9,
        [x("BatchNormalization", "s", "b", "m", "v")],
        X,
        {"s": C, "b": C - 1, "m": C / 2, "v": C},
    ),
    "gemm 7": (7, [x("Gemm", "w", "b", transB=1)], FLAT, {"w": FLAT[:3], "b": C}),
    "gemm 11 no bias": (11, [x("Gemm", "w", transB=1, alpha=0.5)], FLAT, {"w": FLAT[:3]}),
    "add": (7, [x("Add", "w")], X, {"w": C.reshape(3, 1, 1)}),
    "reduce sum": (11, [x("ReduceSum", axes=[1, -1], keepdims=0)], X, {}),
    "reduce sum all": (7, [x("ReduceSum")], X, {}),
    "reduce mean": (13, [x("ReduceMean", axes=[2, 3])], X, {}),
    "reduce max": (12, [x("ReduceMax", axes=[1], keepdims=0)], X, {}),
    "reduce l2": (7, [x("ReduceL2", axes=[1])], X, {}),
    "reduce log sum exp": (17, [x("ReduceLogSumExp", axes=[1])], X, {}),
    "reduce mean 18": (18, [x("ReduceMean", "a")], X, {"a": ints(1)}),
    "prelu": (7, [x("PRelu", "w")], X, {"w": C.reshape(3, 1, 1)}),
    "max pool": (7, [x("MaxPool", kernel_shape=[2, 2], pads=[1, 1, 0, 0])], X, {}),
    "average pool": (7, [x("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])], X, {}),
    "upsample 7 nearest": (7, [x("Upsample", scales=[1.0, 1.0, 2.0, 3.0])], X, {}),
    "upsample 7 linear": (7, [x("Upsample", scales=[1.0, 1.0, 2.0, 2.0], mode="linear")], X, {}),
    "upsample 9 nearest": (9, [x("Upsample", "s")], X, {"s": floats(1, 1, 2, 1.5)}),
    "upsample 9 linear": (9, [x("Upsample", "s", mode="linear")], X, {"s": floats(1, 1, 2, 3)}),
    "resize 10 up": (10, [x("Resize", "s")], X, {"s": floats(1, 1, 1.7, 2.3)}),
    "resize 10 down": (10, [x("Resize", "s")], X, {"s": floats(1, 1, 0.5, 0.6)}),
    "resize 10 linear": (10, [x("Resize", "s", mode="linear")], X, {"s": floats(1, 1, 0.5, 2)}),
    "resize 11 sizes": (
        11,
        [x("Resize", "r", "s", "n", mode="linear")],
        X,
        {"r": floats(), "s": floats(), "n": ints(2, 3, 7, 9)},
    ),
    "resize 11 scales": (
        11,
        [x("Resize", "r", "s", coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
        X,
        {"r": floats(), "s": floats(1, 1, 2, 2)},
    ),
    "lstm": (
        7,
        [x("LSTM", "w", "r", outputs=("y", "h"), hidden_size=3)],
        SEQUENCE,
        {"w": W1, "r": R1},
    ),
    "one hot": (
        9,
        [N("Cast", ["x"], ["i"], to=7), N("OneHot", ["i", "d", "v"], ["y"])],
        np.abs(FLAT),
        {"d": ints(3), "v": floats(0, 1)},
    ),
    "cast": (9, [x("Cast", to=7)], X, {}),
    "tile": (7, [x("Tile", "n")], FLAT, {"n": ints(2, 3)}),
    "reshape": (7, [x("Reshape", "s")], X, {"s": ints(0, -1)}),
    "depth to space": (7, [x("DepthToSpace", blocksize=2)], X[:, :1].repeat(4, axis=1), {}),
    "scatter": (
        9,
        [x("Scatter", "i", "u", axis=1)],
        FLAT,
        {"i": np.array([[0, 2]], dtype=np.int64), "u": floats(5, 6).reshape(1, 2)},
    ),
    "sum": (7, [N("Sum", ["x", "x"], ["y"])], X, {}),
    "instance norm": (7, [x("InstanceNormalization", "s", "b")], X, {"s": C, "b": C}),
    "quantized": (
        10,
        [
            x("QuantizeLinear", "s", "z", outputs=("q",)),
            N("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        X,
        {"s": np.float32(0.1), "z": np.uint8(128)},
    ),
    "dft": (
        17,
        [N("Reshape", ["x", "s"], ["r"]), N("DFT", ["r"], ["y"], onesided=1)],
        FLAT,
        {"s": ints(2, 12, 1)},
    ),
    "grid sample": (
        16,
        [x("GridSample", "g", mode="bilinear")],
        X,
        {"g": RNG.uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32)},
    ),
    "group norm": (
        18,
        [x("GroupNormalization", "s", "b", num_groups=2)],
        X[:, [0, 1, 2, 0]],
        {"s": floats(1, 2), "b": floats(3, 4)},
    ),
}


@pytest.mark.parametrize("case", RUNNABLE)
def test_upgraded_graph_computes_the_same(case: str, tmp_path: Path) -> None:
    opset, nodes, data, constants = RUNNABLE[case]
    outputs = [name for name in nodes[-1].output if name]
    old = onnx_export.old_model(opset, nodes, {"x": data.shape}, constants, outputs)
    upgraded = onnx_export.to_onnx(onnx_export.read(old, tmp_path).graph)
    expected = onnx_export.run(old, {"x": data})
    actual = onnx_export.run(upgraded, {"x": data})
    assert len(expected) == len(actual)
    for want, have in zip(expected, actual, strict=True):
        assert want.dtype == have.dtype
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)


def _spatial_0() -> Array:
    scale, bias, mean, variance = (PER_ITEM[name].astype(np.float64) for name in "sbmv")
    return np.asarray((X - mean) / np.sqrt(variance + 1e-3) * scale + bias)


PER_ITEM = {name: RNG.uniform(0.5, 1.5, (3, 4, 5)).astype(np.float32) for name in "sbmv"}
ROWS = np.arange(4, dtype=np.float32)
LEGACY: dict[str, tuple[int, list[onnx.NodeProto], Array, dict[str, Any], Callable[[], Array]]] = {
    "add from axis 1": (
        6,
        [x("Add", "w", broadcast=1, axis=1)],
        X,
        {"w": C},
        lambda: X + C.reshape(3, 1, 1),
    ),
    "mul from a negative axis": (
        1,
        [x("Mul", "w", broadcast=1, axis=-2, consumed_inputs=[0])],
        X,
        {"w": ROWS},
        lambda: X * ROWS.reshape(4, 1),
    ),
    "sub two axes": (
        6,
        [x("Sub", "w", broadcast=1, axis=1)],
        X,
        {"w": PER_ITEM["s"][:, :, 0]},
        lambda: X - PER_ITEM["s"][:, :, :1],
    ),
    "div over the last axes": (
        6,
        [x("Div", "w", broadcast=1)],
        X,
        {"w": PER_ITEM["s"]},
        lambda: X / PER_ITEM["s"],
    ),
    "pow by a number": (6, [x("Pow", "w", broadcast=1)], X, {"w": floats(2.0)}, lambda: X**2),
    "add after layers whose rank is known": (
        6,
        [
            x("Relu", outputs=("r",)),
            N("AveragePool", ["r"], ["p"], kernel_shape=[1, 1]),
            N("Add", ["p", "w"], ["y"], broadcast=1, axis=1),
        ],
        X,
        {"w": C},
        lambda: np.maximum(X, 0) + C.reshape(3, 1, 1),
    ),
    "prelu a channel": (
        6,
        [x("PRelu", "w")],
        X,
        {"w": C},
        lambda: np.where(X < 0, X * C.reshape(3, 1, 1), X),
    ),
    "prelu shared": (6, [x("PRelu", "w")], X, {"w": C[:1]}, lambda: np.where(X < 0, X * C[0], X)),
    "concat": (3, [N("Concat", ["x", "x"], ["y"])], X, {}, lambda: np.concatenate([X, X], 1)),
    "reshape": (1, [x("Reshape", shape=[0, -1])], X, {}, lambda: X.reshape(2, -1)),
    "pad": (
        1,
        [x("Pad", paddings=[0, 1, 2, 0], value=7.0)],
        FLAT,
        {},
        lambda: np.pad(FLAT, ((0, 2), (1, 0)), constant_values=7.0),
    ),
    "cast": (5, [x("Cast", to="INT64")], X, {}, lambda: X.astype(np.int64)),
    "selu": (
        1,
        [x("Selu")],
        X,
        {},
        lambda: np.float32(1.0507) * np.where(X > 0, X, np.float32(1.6732) * np.expm1(X)),
    ),
    "tile": (
        1,
        [x("Tile", "n", "a")],
        FLAT,
        {"n": np.int64(3), "a": np.int64(1)},
        lambda: np.tile(FLAT, (1, 3)),
    ),
    "upsample": (
        1,
        [x("Upsample", height_scale=2.0, width_scale=3.0)],
        X,
        {},
        lambda: X.repeat(2, axis=2).repeat(3, axis=3),
    ),
    "global lp pool": (
        1,
        [x("GlobalLpPool", p=1.0)],
        X,
        {},
        lambda: np.abs(X).sum(axis=(2, 3), keepdims=True),
    ),
    "batch norm an item": (
        7,
        [x("BatchNormalization", *"sbmv", epsilon=1e-3, spatial=0)],
        X,
        PER_ITEM,
        _spatial_0,
    ),
    "dropout at test": (6, [x("Dropout", is_test=1, ratio=0.7)], X, {}, lambda: X),
    "split": (
        1,
        [x("Split", outputs=("z", "y"), axis=1, split=[4, 2])],
        FLAT,
        {},
        lambda: FLAT[:, 4:],
    ),
    "gemm": (
        6,
        [x("Gemm", "w", "b", broadcast=1)],
        FLAT,
        {"w": FLAT.T.copy(), "b": ROWS},
        lambda: FLAT @ FLAT.T + ROWS,
    ),
    "relu with a hint": (1, [x("Relu", consumed_inputs=[0])], X, {}, lambda: np.maximum(X, 0)),
}


@pytest.mark.parametrize("case", LEGACY)
def test_upgraded_graph_computes_what_the_old_text_says(case: str, tmp_path: Path) -> None:
    opset, nodes, data, constants, expected = LEGACY[case]
    old = onnx_export.old_model(opset, nodes, {"x": data.shape}, constants)
    upgraded = onnx_export.to_onnx(onnx_export.read(old, tmp_path).graph)
    (actual,) = onnx_export.run(upgraded, {"x": data})
    np.testing.assert_allclose(actual, expected(), rtol=1e-5, atol=1e-6)


INEXPRESSIBLE: dict[str, tuple[int, onnx.NodeProto, str]] = {
    "training": (
        9,
        x("BatchNormalization", *"sbmv", outputs=("y", "1", "2", "3", "4")),
        "training mode",
    ),
    "rank unknown": (6, x("Add", "w", broadcast=1, axis=1), "number of axes of 'x'"),
    "later operation": (11, x("HardSwish"), "no operation of opset 11"),
    "no operation": (11, x("Frobnicate"), "no operation of ONNX"),
    "foreign attribute": (11, x("Relu", alpha=0.1), "no attribute 'alpha'"),
    "fractional power": (1, x("GlobalLpPool", p=2.5), "no integer"),
    "tensorflow coordinates": (
        11,
        x("Resize", "", "w", coordinate_transformation_mode="tf_half_pixel_for_nn"),
        "TensorFlow",
    ),
    "mixed nearest": (10, x("Resize", "m"), "not defined in opset 10"),
    "scan with batch": (
        8,
        x("Scan", body=helper.make_graph([], "b", [], []), num_scan_inputs=1),
        "batch axis",
    ),
}


@pytest.mark.parametrize("case", INEXPRESSIBLE)
def test_what_cannot_be_said_stays_opaque_with_its_reason(case: str, tmp_path: Path) -> None:
    opset, node, reason = INEXPRESSIBLE[case]
    constants = {**dict.fromkeys("sbmvw", C), "m": floats(1, 1, 0.5, 2)}
    old = onnx_export.old_model(opset, [node], {}, constants)
    old.graph.input.append(helper.make_empty_tensor_value_info("x"))
    model = onnx_export.read(old, tmp_path)
    (left,) = model.graph.nodes
    assert (left.op, left.domain) == (node.op_type, "onnx-old")
    assert left.outputs == tuple(node.output)
    assert any(reason in note for note in model.notes), model.notes


def test_newer_opset_is_noted_once_and_left_opaque(tmp_path: Path) -> None:
    nodes = [x("Relu", outputs=("r",)), N("Relu", ["r"], ["y"])]
    model = onnx_export.read(onnx_export.old_model(999, nodes, {"x": [2]}), tmp_path)
    assert [node.domain for node in model.graph.nodes] == ["onnx-newer", "onnx-newer"]
    assert model.notes == (
        f"opset 999 is newer than {NEWEST_OPSET}, the newest that lipaudit knows",
    )


def test_dropout_of_an_old_training_graph_is_not_taken_for_identity(tmp_path: Path) -> None:
    model = onnx_export.read(
        onnx_export.old_model(6, [x("Dropout", ratio=0.25)], {"x": [2, 3]}), tmp_path
    )
    (node,) = model.graph.nodes
    ratio, training = (model.graph.constants[name] for name in node.inputs[1:])
    assert (ratio.read().item(), training.read().item()) == (0.25, True)


def test_narrow_integers_reach_dequantization_in_a_byte_each(tmp_path: Path) -> None:
    values = np.array([[-8, 7, 3], [0, -1, 5]], dtype=np.int8)
    packed = helper.make_tensor("q", onnx.TensorProto.INT4, values.shape, values.flatten().tolist())
    old = onnx_export.old_model(
        21,
        [N("DequantizeLinear", ["q", "s"], ["w"]), x("Add", "w")],
        {"x": [2, 3]},
        {"s": np.float32(0.5)},
    )
    old.graph.initializer.append(packed)
    model = onnx_export.read(old, tmp_path)
    assert model.tensors["q"].dtype == "int4"
    upgraded = onnx_export.to_onnx(model.graph.with_nodes(model.graph.nodes))
    del upgraded.graph.initializer[[t.name for t in upgraded.graph.initializer].index("q")]
    (actual,) = onnx_export.run(upgraded, {"x": np.zeros((2, 3), np.float32)})
    np.testing.assert_array_equal(actual, values * 0.5)
    assert numpy_helper.to_array(packed).astype(np.int8).tolist() == values.tolist()
