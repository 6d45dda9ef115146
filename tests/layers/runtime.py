"""onnxruntime as the judge of one node: the same node, the same inputs, its outputs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator

from lipaudit.graph.constant import Constant, computed
from lipaudit.graph.dtypes import ONNX_DTYPES, dtype_name
from lipaudit.graph.node import Attribute, Edge, Graph, Node
from lipaudit.layers import registry
from lipaudit.layers.base import AbstractLayer, Call, Example

OPSET = 23
_NUMBERS = {name: number for number, name in ONNX_DTYPES.items()}


def outputs_of(
    node: Node, inputs: Sequence[torch.Tensor | None], opset: int = OPSET
) -> list[torch.Tensor]:
    """Run one node in onnxruntime on inputs by position."""
    model, given = model_of(node, inputs, opset)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return _tensors(session.run(None, given))


def reference_outputs_of(
    node: Node, inputs: Sequence[torch.Tensor | None], opset: int
) -> list[torch.Tensor]:
    """Run one node in the reference implementation that comes with the ONNX specification."""
    model, given = model_of(node, inputs, opset)
    made: Any = ReferenceEvaluator(model).run(None, given)
    return _tensors(made)


def _tensors(made: Sequence[npt.NDArray[Any]]) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape)) for value in made]


def model_of(
    node: Node, inputs: Sequence[torch.Tensor | None], opset: int
) -> tuple[onnx.ModelProto, dict[str, npt.NDArray[Any]]]:
    """Return the model of one node, and its inputs by name."""
    given = {name: v for name, v in zip(node.inputs, inputs, strict=True) if v is not None}
    graph = helper.make_graph(
        [node_proto(node)],
        "one",
        [
            helper.make_tensor_value_info(name, _NUMBERS[dtype_name(v.dtype)], list(v.shape))
            for name, v in given.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in node.outputs if name],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return model, {name: value.numpy() for name, value in given.items()}


def node_proto(node: Node) -> onnx.NodeProto:
    """Write a node down for ONNX."""
    attributes: dict[str, Any] = {n: _attribute(value) for n, value in node.attributes.items()}
    # What a subgraph reads from outside is an input of ours, and found by name in ONNX.
    inputs = [name for name in node.inputs if name not in node.captures]
    return helper.make_node(node.op, inputs, list(node.outputs), **attributes)


def _attribute(value: Attribute) -> object:
    if isinstance(value, Constant):
        return _tensor("", value)
    if isinstance(value, Graph):
        return graph_proto(value, [_info(edge) for edge in value.outputs])
    return list(value) if isinstance(value, tuple) else value


def graph_proto(graph: Graph, outputs: Sequence[onnx.ValueInfoProto]) -> onnx.GraphProto:
    """Write a graph down for ONNX."""
    return helper.make_graph(
        [node_proto(node) for node in graph.nodes],
        "body",
        [_info(edge) for edge in graph.inputs],
        outputs,
        [_tensor(name, constant) for name, constant in graph.constants.items()],
    )


def _tensor(name: str, constant: Constant) -> onnx.TensorProto:
    values = constant.read().flatten().tolist()
    return helper.make_tensor(name, _NUMBERS[constant.dtype], list(constant.shape), values)


def _info(edge: Edge) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(edge.name, _NUMBERS[edge.dtype], edge.known_shape)


def drawn(example: Example, seed: int = 0) -> list[torch.Tensor | None]:
    """Return random inputs by position for an example, its constants in their places."""
    generator = torch.Generator().manual_seed(seed)
    shapes = iter(example.shapes)
    dtypes = iter(example.dtypes or ("float32",) * len(example.shapes))
    inputs: list[torch.Tensor | None] = []
    for position, name in enumerate(example.node.inputs):
        if position in example.constants:
            inputs.append(example.constants[position])
        elif not name:
            inputs.append(None)
        else:
            dtype = getattr(torch, next(dtypes))
            wide = torch.randn(next(shapes), generator=generator, dtype=torch.float64) * 3
            inputs.append((wide > 0) if dtype is torch.bool else wide.to(dtype))
    return inputs


def jacobian(function: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> torch.Tensor:
    """Return the Jacobian as a matrix, by autograd."""
    made: torch.Tensor = torch.autograd.functional.jacobian(function, at)  # type: ignore[no-untyped-call] # published without types
    return made.reshape(-1, at.numel())


def layer_of(example: Example) -> AbstractLayer:
    """Build the layer of an example."""
    kind = registry.find(example.node.op, example.node.domain)
    assert kind is not None, f"{example.node.op} is not registered"
    constants = {at: computed(f"c{at}", value) for at, value in example.constants.items()}
    return kind.layer.from_node(Call(example.node, constants))


def assert_equal_to_onnxruntime(example: Example, tolerance: float = 1e-5) -> None:
    """Compare the forward pass with onnxruntime's, values and types and shapes."""
    inputs = drawn(example)
    ours = layer_of(example).forward(inputs)
    theirs = outputs_of(example.node, inputs)
    for mine, truth in zip(ours, theirs, strict=False):
        assert mine.dtype == truth.dtype
        assert mine.shape == truth.shape
        torch.testing.assert_close(mine, truth, rtol=tolerance, atol=tolerance, equal_nan=True)
    assert len(ours) >= len(theirs)
