"""ONNX files read as graphs: structure, functions, subgraphs, order, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from lipaudit.errors import MalformedFile, UnsafeFile, WriteRefused
from lipaudit.formats.onnx_file import OnnxFormat
from lipaudit.formats.source import Source
from lipaudit.graph.constant import Constant
from lipaudit.graph.model import Topology
from lipaudit.graph.node import Graph
from tests import shared_models
from tests.formats import onnx_export
from tests.formats.applied import apply

N = helper.make_node
RNG = np.random.default_rng(2)
W = RNG.standard_normal((3, 3)).astype(np.float32)
ROW = RNG.standard_normal((2, 3)).astype(np.float32)


def chain(*nodes: onnx.NodeProto, opset: int = 17, **more: Any) -> onnx.ModelProto:
    return onnx_export.old_model(opset, nodes, {"x": [2, 3]}, {"W": W}, **more)


def same_as_runtime(model: onnx.ModelProto, folder: Path) -> list[str]:
    """Compare the read graph with the model itself in onnxruntime; return our operations."""
    graph = onnx_export.read(model, folder).graph
    feed = {"x": ROW}
    (expected,), (actual,) = (
        onnx_export.run(model, feed),
        onnx_export.run(onnx_export.to_onnx(graph), feed),
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    return [node.op for node in graph.nodes]


def test_a_chain(tmp_path: Path) -> None:
    model = onnx_export.read(
        chain(N("MatMul", ["x", "W"], ["m"], name="fc"), N("Relu", ["m"], ["y"])), tmp_path
    )
    assert model.topology is Topology.STATED
    assert [(node.op, node.name) for node in model.graph.nodes] == [("MatMul", "fc"), ("Relu", "y")]
    assert list(model.tensors) == ["W"]
    assert model.tensors["W"].scaled_by == "W"
    assert model.digest is not None
    assert len(model.digest()) == 64


def test_edges_say_what_the_file_declares(tmp_path: Path) -> None:
    old = onnx_export.old_model(
        17, [N("Relu", ["x"], ["y"])], {"x": ["batch", 3, None, 0, 7]}, dtype=TensorProto.FLOAT16
    )
    (edge,) = onnx_export.read(old, tmp_path).graph.inputs
    assert (edge.shape, edge.dtype) == (("batch", 3, None, None, 7), "float16")


def test_weights_listed_as_inputs_are_weights(tmp_path: Path) -> None:
    old = chain(N("MatMul", ["x", "W"], ["y"]))
    old.graph.input.append(helper.make_tensor_value_info("W", 1, [3, 3]))
    old.ir_version = 3
    model = onnx_export.read(old, tmp_path)
    assert [edge.name for edge in model.graph.inputs] == ["x"]
    assert model.assumptions == ()
    old.ir_version = 8
    assert "overridable initializers taken at their stored value: 'W'" in (
        onnx_export.read(old, tmp_path).assumptions
    )


def test_constant_nodes_in_all_forms(tmp_path: Path) -> None:
    forms: dict[str, tuple[dict[str, Any], Any]] = {
        "t": ({"value": numpy_helper.from_array(W)}, W),
        "f": ({"value_float": 0.5}, np.float32(0.5)),
        "fs": ({"value_floats": [0.5, 1.5]}, np.array([0.5, 1.5], np.float32)),
        "i": ({"value_int": 7}, np.int64(7)),
        "is": ({"value_ints": [7, 8]}, np.array([7, 8])),
        "s": (
            {
                "sparse_value": helper.make_sparse_tensor(
                    numpy_helper.from_array(np.array([2.5], np.float32), "v"),
                    numpy_helper.from_array(np.array([1])),
                    [3],
                )
            },
            np.array([0, 2.5, 0], np.float32),
        ),
    }
    nodes = [N("Constant", [], [name], **attributes) for name, (attributes, _) in forms.items()]
    model = onnx_export.read(chain(*nodes, N("Relu", ["x"], ["y"])), tmp_path)
    for name, (_, expected) in forms.items():
        np.testing.assert_array_equal(model.graph.constants[name].read().numpy(), expected)
    assert [node.op for node in model.graph.nodes] == ["Relu"]


def test_unsorted_nodes_are_sorted_with_a_note(tmp_path: Path) -> None:
    nodes = [N("Relu", ["m"], ["y"]), N("Neg", ["x"], ["n"]), N("MatMul", ["n", "W"], ["m"])]
    model = onnx_export.read(chain(*nodes), tmp_path)
    assert [node.op for node in model.graph.nodes] == ["Neg", "MatMul", "Relu"]
    assert any("sorted" in note for note in model.notes)


def function(name: str, *nodes: onnx.NodeProto, **more: Any) -> onnx.FunctionProto:
    return helper.make_function(
        "local", name, ["a", "w"], ["r"], nodes, [helper.make_opsetid("", 17)], **more
    )


def with_functions(model: onnx.ModelProto, *functions: onnx.FunctionProto) -> onnx.ModelProto:
    model.functions.extend(functions)
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


def test_functions_are_written_out(tmp_path: Path) -> None:
    inner = function("scaled", N("MatMul", ["a", "w"], ["t"]), N("Tanh", ["t"], ["r"]))
    outer = helper.make_function(
        "local",
        "twice",
        ["a", "w"],
        ["r"],
        [
            N("scaled", ["a", "w"], ["t"], domain="local"),
            N("scaled", ["t", "w"], ["r"], domain="local"),
        ],
        [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)],
    )
    model = chain(
        N("twice", ["x", "W"], ["m"], domain="local"),
        N("twice", ["m", "W"], ["y"], domain="local"),
    )
    ops = same_as_runtime(with_functions(model, inner, outer), tmp_path)
    assert ops == ["MatMul", "Tanh"] * 4


def test_function_attributes_are_bound(tmp_path: Path) -> None:
    leaky = N("LeakyRelu", ["a"], ["r"])
    leaky.attribute.append(
        onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    )
    given_or_not = helper.make_function(
        "local",
        "leaky",
        ["a"],
        ["r"],
        [leaky],
        [helper.make_opsetid("", 17)],
        attributes=[],
        attribute_protos=[helper.make_attribute("slope", 0.25)],
    )
    model = chain(
        N("leaky", ["x"], ["m"], domain="local", slope=0.5),
        N("leaky", ["m"], ["y"], domain="local"),
    )
    with_functions(model, given_or_not)
    same_as_runtime(model, tmp_path)
    nodes = onnx_export.read(model, tmp_path).graph.nodes
    assert [node.attributes["alpha"] for node in nodes] == [0.5, 0.25]


def test_recursive_function_is_refused(tmp_path: Path) -> None:
    again = function("again", N("again", ["a", "w"], ["r"], domain="local"))
    model = with_functions(chain(N("again", ["x", "W"], ["y"], domain="local")), again)
    with pytest.raises(MalformedFile, match="'again' calls itself"):
        onnx_export.read(model, tmp_path)


def test_functions_that_multiply_are_refused(tmp_path: Path) -> None:
    """Thirty functions that each call the next one twice are two to the thirty nodes."""
    functions = [
        function(
            f"f{level}",
            N(f"f{level + 1}", ["a", "w"], ["t"], domain="local"),
            N(f"f{level + 1}", ["t", "w"], ["r"], domain="local"),
        )
        for level in range(30)
    ]
    functions.append(function("f30", N("MatMul", ["a", "w"], ["r"])))
    model = with_functions(chain(N("f0", ["x", "W"], ["y"], domain="local")), *functions)
    with pytest.raises(UnsafeFile, match="exceed the limit 500,000"):
        onnx_export.read(model, tmp_path)


def branches() -> onnx.ModelProto:
    then_graph = helper.make_graph(
        [N("MatMul", ["x", "V"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", 1, [2, 3])],
        [numpy_helper.from_array(W * 2, "V")],
    )
    else_graph = helper.make_graph(
        [N("Softmax", ["x"], ["e"], axis=1)],
        "else",
        [],
        [helper.make_tensor_value_info("e", 1, [2, 3])],
    )
    condition = N("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))
    choice = N("If", ["c"], ["y"], name="if", then_branch=then_graph, else_branch=else_graph)
    return chain(condition, choice, opset=11)


def test_subgraphs_are_graphs_and_upgraded(tmp_path: Path) -> None:
    model = branches()
    assert same_as_runtime(model, tmp_path) == ["If"]
    read = onnx_export.read(model, tmp_path)
    (node,) = read.graph.nodes
    assert node.captures == ("x",)
    body = node.attributes["then_branch"]
    assert isinstance(body, Graph)
    assert [inner.op for inner in body.nodes] == ["MatMul"]
    assert sorted(read.tensors) == ["W", "c", "if/then_branch/V"]


def test_subgraph_that_reads_what_nothing_makes(tmp_path: Path) -> None:
    model = branches()
    model.graph.node[1].attribute[0].g.node[0].input[0] = "nowhere"
    with pytest.raises(MalformedFile, match=r"'if' \(If\) uses 'nowhere'"):
        onnx_export.read(model, tmp_path)


def test_tensor_attributes_become_constants(tmp_path: Path) -> None:
    fill = N("ConstantOfShape", ["s"], ["y"], value=numpy_helper.from_array(np.array([0.5])))
    shape = N("Shape", ["x"], ["s"])
    (_, node) = onnx_export.read(chain(shape, fill), tmp_path).graph.nodes
    value = node.attributes["value"]
    assert isinstance(value, Constant)
    assert value.read().tolist() == [0.5]


def test_other_domains_stay_what_they_are(tmp_path: Path) -> None:
    model = chain(
        N("FusedMatMul", ["x", "W"], ["m"], domain="com.microsoft"),
        N("Relu", ["m"], ["y"], domain="ai.onnx"),
    )
    nodes = onnx_export.read(model, tmp_path).graph.nodes
    assert [(node.op, node.domain) for node in nodes] == [
        ("FusedMatMul", "com.microsoft"),
        ("Relu", ""),
    ]


def test_training_information_is_ignored_with_a_note(tmp_path: Path) -> None:
    model = chain(N("Relu", ["x"], ["y"]))
    model.training_info.add().algorithm.node.append(N("Gradient", ["x"], ["g"]))
    assert "training information ignored" in onnx_export.read(model, tmp_path).notes


BROKEN: dict[str, tuple[onnx.ModelProto, str]] = {
    "cycle": (
        chain(
            N("Add", ["x", "b"], ["a"], name="n1"),
            N("Relu", ["a"], ["b"], name="n2"),
            N("Relu", ["a"], ["y"], name="n3"),
        ),
        "before it is made: the graph has a cycle",
    ),
    "missing input": (
        chain(N("Relu", ["nowhere"], ["y"], name="n3")),
        "node 'n3' (Relu) uses 'nowhere' before it is made",
    ),
    "made twice": (
        chain(N("Relu", ["x"], ["y"], name="n1"), N("Neg", ["x"], ["y"], name="n2")),
        "node 'n2' (Neg) makes 'y', which exists already",
    ),
    "makes an initializer": (chain(N("Relu", ["x"], ["W"]), N("Relu", ["x"], ["y"])), "makes 'W'"),
    "makes its input": (chain(N("Relu", ["x"], ["x"]), N("Neg", ["x"], ["y"])), "'x'"),
    "output not made": (chain(N("Relu", ["x"], ["z"])), "output 'y' is made by no node"),
    "no operation": (chain(N("", ["x"], ["y"])), "'y' has no operation"),
    "constant without value": (
        chain(N("Constant", [], ["c"]), N("Relu", ["x"], ["y"])),
        "(Constant) has no single value",
    ),
    "no opset": (helper.make_model(chain(N("Relu", ["x"], ["y"])).graph), "of no opset"),
}
BROKEN["duplicate initializer"] = (chain(N("Relu", ["x"], ["y"])), "duplicate initializer 'W'")
BROKEN["duplicate initializer"][0].graph.initializer.append(numpy_helper.from_array(W, "W"))
BROKEN["unnamed initializer"] = (chain(N("Relu", ["x"], ["y"])), "has no name")
BROKEN["unnamed initializer"][0].graph.initializer.append(numpy_helper.from_array(W, ""))
BROKEN["duplicate input"] = (chain(N("Relu", ["x"], ["y"])), "duplicate input 'x'")
BROKEN["duplicate input"][0].graph.input.append(helper.make_tensor_value_info("x", 1, [2]))
BROKEN["attribute twice"] = (chain(N("Elu", ["x"], ["y"], alpha=1.0)), "'alpha' twice")
BROKEN["attribute twice"][0].graph.node[0].attribute.append(helper.make_attribute("alpha", 2.0))
BROKEN["opset twice"] = (chain(N("Relu", ["x"], ["y"])), "stated twice, as 17 and 9")
BROKEN["opset twice"][0].opset_import.append(helper.make_opsetid("ai.onnx", 9))
del BROKEN["no opset"][0].opset_import[:]


@pytest.mark.parametrize("case", BROKEN)
def test_broken_graph_is_refused_by_name(case: str, tmp_path: Path) -> None:
    model, cause = BROKEN[case]
    with pytest.raises(MalformedFile) as caught:
        onnx_export.read(model, tmp_path)
    assert cause in str(caught.value)


def test_changed_bytes_are_those_of_the_tensor(tmp_path: Path) -> None:
    model = onnx_export.read(chain(N("MatMul", ["x", "W"], ["y"])), tmp_path)
    new = torch.from_numpy(W * 0.5)
    output = tmp_path / "clipped.onnx"
    apply(OnnxFormat().changed(model, {"W": new}), output)
    before, after = onnx.load(model.path), onnx.load(output)
    np.testing.assert_array_equal(numpy_helper.to_array(after.graph.initializer[0]), new.numpy())
    after.graph.initializer[0].CopyFrom(before.graph.initializer[0])
    assert after == before
    apply(OnnxFormat().changed(model, {}), output)
    assert output.read_bytes() == Path(model.path).read_bytes()


def test_tensor_without_a_slot_cannot_be_changed(tmp_path: Path) -> None:
    old = chain(N("Relu", ["x"], ["y"]))
    half = helper.make_tensor("H", TensorProto.INT32, [2], [1, 2])
    old.graph.initializer.append(half)
    model = onnx_export.read(old, tmp_path)
    with pytest.raises(WriteRefused, match="'H' is not stored in a way"):
        OnnxFormat().changed(model, {"H": torch.zeros(2, dtype=torch.int32)})


@pytest.mark.parametrize("relative", shared_models.every(".onnx"))
def test_models_by_other_people(relative: str) -> None:
    path = shared_models.path(relative)
    model = OnnxFormat().read(Source(path))
    truth = onnx.load(path)
    for tensor in truth.graph.initializer:
        expected = numpy_helper.to_array(tensor)
        np.testing.assert_array_equal(model.tensors[tensor.name].read().numpy(), expected)
    stored = {tensor.name for tensor in truth.graph.initializer}
    assert [e.name for e in model.graph.inputs] == [
        value.name for value in truth.graph.input if value.name not in stored
    ]
    assert [edge.name for edge in model.graph.outputs] == [v.name for v in truth.graph.output]
    # Every operation that is left opaque is named in a note.
    left = [node for node in model.graph.nodes if node.domain.startswith("onnx-")]
    assert all(any(repr(node.name) in note for note in model.notes) for node in left)
