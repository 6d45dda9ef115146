"""A branch that lists what it reads as its inputs: the network depends on it all the same."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lipaudit


@pytest.mark.parametrize("listed", [True, False])
def test_what_a_branch_reads_moves_the_output(tmp_path: Path, *, listed: bool) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    branches = []
    for name, factor in (("then_branch", 1000.0), ("else_branch", 2.0)):
        weight = numpy_helper.from_array(np.eye(4, dtype=np.float32) * factor, f"w{name}")
        made = helper.make_tensor_value_info(f"y{name}", TensorProto.FLOAT, [1, 4])
        node = helper.make_node("MatMul", ["x", f"w{name}"], [f"y{name}"])
        inputs = [x] if listed else []
        branches.append(helper.make_graph([node], name, inputs, [made], [weight]))
    chosen = helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph([chosen], "g", [condition, x], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "if.onnx")
    bound = lipaudit.bound(tmp_path / "if.onnx").models[0].bound
    assert bound is not None
    assert bound.measure.upper >= 1000.0
    assert not bound.certified
