"""ONNX numbers: statistics, scales and sizes without a sensible answer, and sizes of nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.hostile.case import UNATTACKED, Hostile
from tests.hostile.onnx_graphs import EYE, FC, IMAGE, N, bounded, made

FEW = np.ones(2, dtype=np.float32)


def _batch_norm(mean: Any = 0.0, variance: Any = 1.0, **attributes: Any) -> Callable[[Path], Path]:
    stored = {"s": 1.0, "b": 0.0, "m": mean, "v": variance}
    node = N("BatchNormalization", ["x", *stored], ["y"], name="bn1", **attributes)
    weights = {key: np.full(2, one, np.float32) for key, one in stored.items()}
    return made([node], weights, inputs=IMAGE)


def _quantized(scale: Any, zero: Any = 0, weight: Any = ((3, 0), (0, 1))) -> Callable[[Path], Path]:
    nodes = [
        N("DequantizeLinear", ["Q", "s", "z"], ["W"], name="dq"),
        N("MatMul", ["x", "W"], ["y"], name="fc"),
    ]
    stored = {
        "Q": np.asarray(weight, np.int8),
        "s": np.asarray(scale, np.float32),
        "z": np.asarray(zero, np.int8),
    }
    return made(nodes, stored)


def _filled(*sizes: int) -> Callable[[Path], Path]:
    """Return a weight that the graph makes of nothing, of any size."""
    nodes = [N("ConstantOfShape", ["n"], ["W"], name="fill"), FC]
    return made(nodes, {"n": np.array(sizes, np.int64)}, inputs={"x": [1, abs(sizes[0])]})


def _copied(model: onnx.ModelProto) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.INT8, [7, 7]))


CASES: tuple[Hostile, ...] = (
    bounded(
        "variance-negative",
        "BatchNorm with a negative variance",
        _batch_norm(variance=-1),
        3,
        "'bn1'",
        "negative variance",
        row=51,
    ),
    bounded(
        "variance-0",
        "BatchNorm without variance and epsilon",
        _batch_norm(variance=0, epsilon=0.0),
        3,
        "bn1",
        row=51,
    ),
    bounded(
        "variance-nan",
        "BatchNorm with a variance that is NaN",
        _batch_norm(variance=np.nan),
        3,
        "bn1",
        "NaN",
        row=51,
    ),
    bounded(
        "epsilon-negative", "BatchNorm with epsilon -2", _batch_norm(epsilon=-2.0), 3, "bn1", row=51
    ),
    bounded(
        "epsilon-nan",
        "BatchNorm with epsilon NaN",
        _batch_norm(epsilon=float("nan")),
        3,
        "bn1",
        row=51,
    ),
    bounded(
        "mean-infinite",
        "BatchNorm with an infinite mean",
        _batch_norm(mean=np.inf),
        3,
        "bn1",
        row=51,
    ),
    bounded(
        "weight-nan",
        "weight that is NaN",
        made([FC], {"W": EYE * np.nan}),
        3,
        "'W'",
        "NaN",
        row=34,
    ),
    bounded(
        "bias-nan",
        "bias that is NaN",
        made(
            [N("MatMul", ["x", "W"], ["m"]), N("Add", ["m", "b"], ["y"])],
            {"W": EYE, "b": FEW * np.nan},
        ),
        3,
        "NaN",
        row=34,
    ),
    bounded(
        "divided-by-0",
        "division by a constant 0",
        made([N("Div", ["x", "z"], ["y"], name="d")], {"z": FEW * 0}),
        3,
        "d",
    ),
    bounded(
        "root", "square root of the input", made([N("Sqrt", ["x"], ["y"], name="s")], {}), 3, "s"
    ),
    bounded(
        "no-input",
        "graph without an input",
        made([N("Relu", ["W"], ["y"])], inputs={}),
        3,
        "no input",
    ),
    bounded("no-output", "graph without an output", made([FC], outputs=()), 3, "no output"),
    bounded(
        "input-of-integers",
        "input of integers",
        made([N("Relu", ["x"], ["y"])], {}, dtype=TensorProto.INT64),
        3,
        "no input is real-valued",
    ),
    bounded(
        "input-of-texts",
        "input of texts",
        made([N("Identity", ["x"], ["y"])], {}, dtype=TensorProto.STRING),
        3,
        "no input is real-valued",
    ),
    bounded(
        "size-unknown",
        "sizes that are not stated",
        made(
            [N("ReduceSum", ["x", "axes"], ["y"])],
            {"axes": np.array([2, 3])},
            inputs={"x": [1, 2, "H", "W"]},
        ),
        3,
        "--input-shape",
        row=50,
    ),
    bounded(
        "value-info-lies",
        "value_info that contradicts the graph",
        made([FC], more=_copied),
        0,
        "3.",
    ),
    bounded("quantized", "int8 weight with a scale", _quantized(0.5), 0, "1.5", row=29),
    bounded("quantized-nan", "int8 weight with scale NaN", _quantized(np.nan), 3, "NaN", row=34),
    bounded(
        "quantized-infinite",
        "int8 weight with an infinite scale",
        _quantized(np.inf),
        3,
        "fc",
        row=34,
    ),
    bounded(
        "quantized-scales", "int8 weight with three scales for two", _quantized([1, 1, 1]), 2, "dq"
    ),
    bounded(
        "filled",
        "weight of 10^6 x 10^6 made of nothing",
        _filled(10**6, 10**6),
        3,
        "fill",
        row=20,
        warns=UNATTACKED,
    ),
    bounded(
        "filled-overflow",
        "weight of 2^40 x 2^40 made of nothing",
        _filled(2**40, 2**40),
        2,
        "fill",
        row=20,
    ),
    bounded("filled-negative", "weight of -2 x 2 made of nothing", _filled(-2, 2), 3, "fill"),
    bounded(
        "range",
        "range of 2^40 numbers",
        made(
            [N("Range", ["a", "b", "c"], ["r"], name="r1"), N("Mul", ["x", "r"], ["y"])],
            {"a": np.float32(0), "b": np.float32(2**40), "c": np.float32(1)},
            inputs={"x": [1, 2**40]},
        ),
        3,
        "r1",
        row=20,
        warns=r"lipaudit: error: .*model\.onnx: node 'r1' .* items\n",
    ),
    bounded(
        "range-of-0",
        "range of steps of 0",
        made(
            [N("Range", ["a", "b", "c"], ["r"], name="r1"), N("Mul", ["x", "r"], ["y"])],
            {"a": np.float32(0), "b": np.float32(1), "c": np.float32(0)},
        ),
        3,
        "r1",
    ),
    bounded(
        "expanded",
        "weight expanded to 10^6 x 10^6",
        made(
            [N("Expand", ["W", "n"], ["V"], name="e1"), N("MatMul", ["x", "V"], ["y"])],
            {"W": np.ones((1, 1), np.float32), "n": np.array([10**6, 10**6])},
            inputs={"x": [1, 10**6]},
        ),
        3,
        "--max-memory",
        row=20,
        warns=UNATTACKED,
    ),
    bounded(
        "tiled",
        "weight tiled to 10^12 numbers",
        made(
            [N("Tile", ["W", "n"], ["V"], name="t1"), N("MatMul", ["x", "V"], ["y"])],
            {"W": EYE, "n": np.array([10**6, 10**6])},
            inputs={"x": [1, 2 * 10**6]},
        ),
        3,
        "--max-memory",
        row=20,
        warns=UNATTACKED,
    ),
    bounded(
        "einsum",
        "Einsum that makes no sense",
        made([N("Einsum", ["x", "W"], ["y"], name="e1", equation="ij,??->&")]),
        3,
        "e1",
    ),
    bounded(
        "doubled",
        "x + x, 1,100 times",
        made(
            [N("Add", [f"v{at}"] * 2, [f"v{at + 1}"]) for at in range(1100)],
            {},
            inputs={"v0": [1, 2]},
            outputs=["v1100"],
        ),
        0,
        "10^",
    ),
    bounded(
        "names",
        "names with escapes and [/red]",
        made([N("MatMul", ["x", "W"], ["y"], name="\x1b[2Jfc[/red]\n::error::x")]),
        0,
        "\\x1b[2Jfc",
        silent=("\n::error",),
        row=35,
    ),
)
