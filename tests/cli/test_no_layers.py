"""A model without a layer that has a norm: why that is so, and what can be asked instead."""

import json
import math
from pathlib import Path

import onnx
import torch

from tests.cli.gated import fill, run


def recurrent(path: Path) -> None:
    """Write a network whose only weights are an LSTM's: there is no linear map in it."""
    shapes = {"w": (1, 8, 3), "r": (1, 8, 2)}
    weights = [
        onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, shape, [0.1] * math.prod(shape))
        for name, shape in shapes.items()
    ]
    value = onnx.helper.make_tensor_value_info
    lstm = onnx.helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2)
    graph = onnx.helper.make_graph(
        [lstm, onnx.helper.make_node("Relu", ["y"], ["z"])],
        "g",
        [value("x", onnx.TensorProto.FLOAT, (4, 1, 3))],
        [value("z", onnx.TensorProto.FLOAT, (4, 1, 1, 2))],
        weights,
    )
    opset = [onnx.helper.make_opsetid("", 14)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def test_why_no_layer_was_measured_is_said(tmp_path: Path) -> None:
    recurrent(tmp_path / "lstm.onnx")
    done = run("inspect", tmp_path / "lstm.onnx", "--max-norm", "10", "-f", "json")
    report = json.loads(done.out)
    finding, recurrence = report["findings"]
    assert "its matrices have no norm of their own" in recurrence["message"]
    assert (done.code, finding["rule"]) == (3, "LIP004")
    assert (
        "no layer was measured: the graph has LSTM, Relu, but no linear map" in finding["message"]
    )
    assert "lipaudit bound --max" in finding["message"]
    assert "the graph has LSTM, Relu" in run("inspect", tmp_path / "lstm.onnx").out
    # And that is true: the bound is there.
    done = run("bound", tmp_path / "lstm.onnx", "--max", "1000")
    assert done.code == 0
    assert "no layer" not in done.out
    torch.save({"table": torch.ones(3, 3)}, tmp_path / "t.pt")
    done = run("inspect", tmp_path / "t.pt", "--max-norm", "10", "-f", "json")
    message = json.loads(done.out)["findings"][0]["message"]
    assert "tensor (1)" in message
    assert "'table': by its name it is not a layer's weight" in message
    assert "lipaudit explain no-layer" in message
    fill(tmp_path)
    done = run(
        "inspect", tmp_path / "half.pt", "--layers", "nosuch", "--max-norm", "1", "-f", "json"
    )
    message = json.loads(done.out)["findings"][0]["message"]
    assert message.endswith("no layer was measured: no layer is called 'nosuch'")
