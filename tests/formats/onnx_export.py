"""Our graph written back as an ONNX model of a new opset, so that onnxruntime can run it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from lipaudit.formats.onnx_file import OnnxFormat
from lipaudit.formats.source import Source
from lipaudit.graph.constant import Constant
from lipaudit.graph.dtypes import ONNX_DTYPES
from lipaudit.graph.model import Model
from lipaudit.graph.node import Edge, Graph, Node

OPSET = 21  # from here to the newest no form changes that the tests use, and onnxruntime has it all
Arrays = Mapping[str, np.ndarray[Any, Any]]


def to_onnx(graph: Graph) -> onnx.ModelProto:
    """Return the model; every node must be one of the newest opset."""
    model = helper.make_model(
        _graph(graph), opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10
    )
    context = onnx.checker.C.CheckerContext()
    context.ir_version, context.opset_imports = model.ir_version, {"": OPSET}
    for node in model.graph.node:
        if not any(attribute.HasField("g") for attribute in node.attribute):
            onnx.checker.check_node(node, context)
    return model


def run(model: onnx.ModelProto, feed: Arrays) -> list[np.ndarray[Any, Any]]:
    """Return what onnxruntime makes of the inputs, unoptimized."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(value) for value in session.run(None, dict(feed))]


def read(model: onnx.ModelProto, folder: Path) -> Model:
    """Read the model with our reader, through a file."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return OnnxFormat().read(Source(path))


def old_model(
    opset: int,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str | None]],
    constants: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = ("y",),
    *,
    dtype: int = TensorProto.FLOAT,
    **model: Any,
) -> onnx.ModelProto:
    """Write down a model of an old opset without the library's help or checks."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **model
    )


def _graph(graph: Graph) -> onnx.GraphProto:
    return helper.make_graph(
        [_node(node) for node in graph.nodes],
        "g",
        [_value(edge) for edge in graph.inputs],
        [helper.make_empty_tensor_value_info(edge.name) for edge in graph.outputs],
        [_tensor(constant, name) for name, constant in graph.constants.items()],
    )


def _node(node: Node) -> onnx.NodeProto:
    made = helper.make_node(node.op, list(node.inputs), list(node.outputs), domain=node.domain)
    for name, value in node.attributes.items():
        stated = value
        if isinstance(value, Graph):
            stated = _graph(value)
        elif isinstance(value, Constant):
            stated = _tensor(value, "")
        made.attribute.append(helper.make_attribute(name, stated))
    return made


def _value(edge: Edge) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(edge.name, _number(edge.dtype), edge.shape)


def _tensor(constant: Constant, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(constant.read().numpy(), name)


def _number(dtype: str) -> int:
    return next(number for number, name in ONNX_DTYPES.items() if name == dtype)
