"""Networks: constants folded, shapes worked out, and nothing guessed."""

import contextlib
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

import lipaudit
from lipaudit.errors import LipauditError, ShapeError
from lipaudit.formats.onnx_file import OnnxFormat
from lipaudit.formats.source import Source
from lipaudit.graph.constant import Constant, Shape, computed
from lipaudit.graph.model import Model, Topology
from lipaudit.graph.node import Attribute, Edge, Graph, Node
from lipaudit.layers.base import AbstractGainLayer, Unbounded
from lipaudit.layers.execution import run
from lipaudit.layers.network import Network, Opaque, build
from tests import shared_models


def node(op: str, inputs: str, outputs: str = "y", **attributes: Attribute) -> Node:
    """Write a node down: `node("Add", "a b", "c")`; "_" is an omitted input."""
    names = tuple("" if name == "_" else name for name in inputs.split())
    return Node(op, op.lower(), names, tuple(outputs.split()), attributes)


def graph(
    nodes: Sequence[Node],
    constants: dict[str, torch.Tensor] | None = None,
    inputs: Sequence[Edge] = (Edge("x", (2, 3)),),
    outputs: str = "y",
) -> Graph:
    known = {name: stored(name, value) for name, value in (constants or {}).items()}
    return Graph(tuple(nodes), known, tuple(inputs), tuple(map(Edge, outputs.split())))


def stored(name: str, value: torch.Tensor) -> Constant:
    return computed(name, value, sources=(name,), scaled_by=name)


def only_constant(network: Network, name: str) -> Constant:
    assert name in network.graph.constants
    return network.graph.constants[name]


def test_shapes_and_types_are_inferred() -> None:
    nodes = [
        node("Transpose", "x", "t"),
        node("Shape", "t", "s"),
        node("Cast", "t", "i", to=7),
        node("Greater", "t zero", "g"),
    ]
    network = build(graph(nodes, {"zero": torch.tensor(0.0)}, outputs="g"))
    assert network.shapes["t"] == (3, 2)
    assert network.dtypes["i"] == "int64"
    assert network.dtypes["g"] == "bool"
    assert only_constant(network, "s").integers() == (3, 2)
    assert [step.node.op for step in network.steps] == ["Transpose", "Cast", "Greater"]


def test_arithmetic_on_shapes_folds_away() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "rows"),
        node("Unsqueeze", "rows zeros", "row"),
        node("Concat", "row rest", "target", axis=0),
        node("Reshape", "x target"),
    ]
    constants = {
        "zero": torch.tensor(0),
        "zeros": torch.tensor([0]),
        "rest": torch.tensor([-1]),
    }
    network = build(graph(nodes, constants, [Edge("x", (4, 3, 5))]))
    assert network.shapes["y"] == (4, 15)
    assert len(network.steps) == 1


def test_an_unknown_shape_stays_unknown_and_names_the_reason() -> None:
    nodes = [node("Shape", "x", "s"), node("Reshape", "x s")]
    network = build(graph(nodes, inputs=[Edge("x", ("batch", 3))]))
    assert network.shapes["y"] is None
    layer = network.steps[1].layer
    assert isinstance(layer, AbstractGainLayer)
    gain = layer.gain([None, None])
    assert isinstance(gain, Unbounded)
    assert gain.slug == "computed-parameter"
    x = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(run(network, {"x": x}, None)["y"], x)


def test_shapes_that_do_not_fit_name_the_node() -> None:
    broken = graph([node("Reshape", "x s")], {"s": torch.tensor([5, 5])})
    with pytest.raises(ShapeError, match=r"'reshape' \(Reshape\) on inputs 2x3, 2"):
        build(broken)
    assert build(broken, {"x": (5, 5)}).shapes["y"] == (5, 5)


def test_unknown_operations_are_opaque_and_hide_what_follows() -> None:
    nodes = [Node("Frob", "f", ("x",), ("z",), {}, "com.acme"), node("Neg", "z")]
    network = build(graph(nodes))
    layer = network.steps[0].layer
    assert isinstance(layer, Opaque)
    assert "com.acme.Frob" in layer.reason
    assert network.shapes["y"] is None


@pytest.mark.parametrize("op", ["RandomNormal", "RandomUniformLike", "Bernoulli"])
def test_random_results_are_never_folded(op: str) -> None:
    inputs = "" if op == "RandomNormal" else "c"
    network = build(graph([node(op, inputs, shape=(2,))], {"c": torch.ones(2)}))
    layer = network.steps[0].layer
    assert isinstance(layer, Opaque)
    assert layer.slug == "random"


def test_dropout_in_training_mode_is_random() -> None:
    network = build(graph([node("Dropout", "x _ on")], {"on": torch.tensor(data=True)}))
    layer = network.steps[0].layer
    assert isinstance(layer, Opaque)
    assert layer.slug == "random"


def test_loose_weights_are_steps_and_not_constants() -> None:
    network = build(graph([node("MatMul", "_ w")], {"w": torch.ones(3, 3)}, []))
    assert [step.signals for step in network.steps] == [()]
    assert network.shapes["y"] is None


def test_moved_weights_stay_the_same_weight() -> None:
    nodes = [
        node("Transpose", "w", "t"),
        node("Cast", "t", "c", to=10),
        node("Slice", "c a b", "s"),
    ]
    constants = {"w": torch.rand(3, 4), "a": torch.tensor([0]), "b": torch.tensor([2])}
    network = build(graph(nodes, constants, [], "s"))
    cast, cut = only_constant(network, "c"), only_constant(network, "s")
    assert (cast.name, cast.scaled_by, cast.sources, cast.entry_error) == ("w", "w", ("w",), 0.0)
    assert torch.equal(cast.values(), constants["w"].T.half().double())
    assert cast.dtype == "float16"
    assert torch.equal(cast.read(), constants["w"].T.half())
    assert (cut.scaled_by, cut.shape) == ("w", (2, 3))


def test_a_quantized_weight_scales_with_its_scale() -> None:
    constants = {
        "q": torch.tensor([[1, -2], [3, 4]], dtype=torch.int8),
        "scale": torch.tensor(0.1),
    }
    network = build(graph([node("DequantizeLinear", "q scale")], constants, []))
    weight = only_constant(network, "y")
    assert weight.scaled_by == "scale"
    assert torch.equal(weight.values(), constants["q"].double() * constants["scale"].double())
    assert weight.dtype == "float32"
    assert 0 < weight.entry_error < 1e-15


def test_products_are_folded_with_a_bound_of_their_error() -> None:
    constants = {"w": torch.rand(5), "a": torch.tensor(3.7), "b": torch.tensor(0.1)}
    network = build(graph([node("Mul", "w a", "c"), node("Div", "c b")], constants, []))
    weight = only_constant(network, "y")
    for index, value in enumerate(weight.values().tolist()):
        w, a, b = (
            Fraction(constants[name].flatten()[i].item())
            for name, i in (("w", index), ("a", 0), ("b", 0))
        )
        exact = w * a / b
        assert abs(Fraction(value) - exact) <= Fraction(weight.entry_error) * exact
    assert weight.entry_error < 1e-15
    assert weight.scaled_by == "w"


def test_sums_are_folded_in_float64_and_claim_no_precision() -> None:
    a, b = torch.tensor([1.0]), torch.tensor([2.0**-30])
    network = build(graph([node("Add", "a b")], {"a": a, "b": b}, []))
    total = only_constant(network, "y")
    assert total.read().item() == 1.0
    assert total.values().item() == 1.0 + 2.0**-30
    assert total.entry_error == float("inf")
    assert total.scaled_by is None


def test_a_tensor_used_twice_is_not_linear_in_its_key() -> None:
    index = {"w": torch.rand(3), "i": torch.tensor([0])}
    network = build(graph([node("Concat", "w w", axis=0)], index, []))
    assert only_constant(network, "y").scaled_by is None


def test_chains_of_doublings_are_evaluated_once_each() -> None:
    # 2^200 evaluations if each use of a folded constant evaluated it anew.
    size = 1 << 17
    nodes = [node("Add", f"c{at} c{at}", f"c{at + 1}") for at in range(200)]
    network = build(graph(nodes, {"c0": torch.full((size,), 2.0**-100)}, [], "c200"))
    assert only_constant(network, "c200").read()[0].item() == 2.0**100


def test_long_chains_do_not_exhaust_the_stack() -> None:
    size = 1 << 17
    nodes = [node("Neg", f"c{at}", f"c{at + 1}") for at in range(3000)]
    network = build(graph(nodes, {"c0": torch.ones(size)}, [], "c3000"))
    assert only_constant(network, "c3000").values()[-1].item() == 1.0


def test_huge_constants_cost_nothing_until_they_are_read() -> None:
    nodes = [node("ConstantOfShape", "s", "w"), node("Transpose", "w", "t"), node("Shape", "t")]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    network = build(graph(nodes, {"s": torch.tensor([10**6, 10**7])}, []))
    assert only_constant(network, "t").shape == (10**7, 10**6)
    assert only_constant(network, "y").integers() == (10**7, 10**6)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_a_large_network_of_folded_weights_is_built_in_little_memory() -> None:
    path = shared_models.path("onnx_backend/light_vgg19.onnx")
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from lipaudit.formats.onnx_file import OnnxFormat\n"
        "from lipaudit.formats.source import Source\n"
        "from lipaudit.layers.network import build\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "network = build(OnnxFormat().read(Source(Path(sys.argv[1]))).graph)\n"
        "assert sum(c.items for c in network.graph.constants.values()) > 140_000_000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    made = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert int(made.stdout) < 100_000  # kilobytes


def test_building_it_takes_no_time() -> None:
    model = OnnxFormat().read(Source(shared_models.path("onnx_backend/light_vgg19.onnx")))
    start = time.perf_counter()
    build(model.graph)
    assert time.perf_counter() - start < 5  # about 0.1 s when idle


def test_constant_outputs_are_kept() -> None:
    network = build(graph([node("Neg", "c")], {"c": torch.tensor([2.0])}))
    assert not network.steps
    assert run(network, {"x": torch.zeros(2, 3)}, None)["y"].tolist() == [-2.0]


def branches(flag: str) -> Node:
    then = graph([node("Mul", "x two", "a")], {"two": torch.tensor(2.0)}, [], "a")
    other = graph([node("Neg", "x", "b")], None, [], "b")
    return node("If", flag, then_branch=then, else_branch=other)


@pytest.mark.parametrize(("flag", "op", "factor"), [(True, "Mul", 2.0), (False, "Neg", -1.0)])
def test_a_branch_that_is_always_taken_is_inlined(flag: bool, op: str, factor: float) -> None:
    network = build(graph([branches("flag")], {"flag": torch.tensor(flag)}))
    assert [step.node.op for step in network.steps] == [op, "Identity"]
    x = torch.rand(2, 3)
    assert torch.equal(run(network, {"x": x}, None)["y"], factor * x)


def test_a_branch_whose_names_are_taken_is_left_alone() -> None:
    nodes = [branches("flag"), node("Exp", "x", "a")]
    network = build(graph(nodes, {"flag": torch.tensor(data=True)}, outputs="y a"))
    assert [step.node.op for step in network.steps] == ["If", "Exp"]
    x = torch.rand(2, 3)
    made = run(network, {"x": x}, None)
    assert torch.equal(made["y"], 2 * x)
    assert torch.equal(made["a"], x.exp())


def test_parameters_that_make_no_sense_are_named() -> None:
    words = Constant("words", (2,), "string", unreadable, ("words",))
    known = replace(graph([node("Reshape", "x words")]), constants={"words": words})
    layer = build(known).steps[0].layer
    assert isinstance(layer, Opaque)
    assert layer.slug == "malformed-node"


def unreadable() -> torch.Tensor:
    raise TypeError("dtype string not supported")


def test_a_branch_that_depends_on_the_input_keeps_its_captures() -> None:
    inputs = [Edge("flag", (), "bool"), Edge("x", (2, 3))]
    network = build(graph([branches("flag")], None, inputs))
    (step,) = network.steps
    assert step.signals == ("flag", "x")
    assert network.shapes["y"] is None
    x = torch.rand(2, 3)
    for flag, factor in ((True, 2.0), (False, -1.0)):
        made = run(network, {"flag": torch.tensor(flag), "x": x}, torch.float64)["y"]
        assert torch.equal(made, factor * x.double())


def test_a_network_can_be_built_again_from_its_own_graph() -> None:
    inputs = [Edge("flag", (), "bool"), Edge("x", (2, 3))]
    nodes = [node("Shape", "x", "s"), node("Reshape", "x s", "z"), branches("flag")]
    once = build(graph(nodes, None, inputs))
    twice = build(once.graph)
    assert [step.node for step in twice.steps] == [step.node for step in once.steps]


def sequence_graph(*nodes: Node, outputs: str = "y") -> Graph:
    constants = {"one": torch.tensor(1), "sizes": torch.tensor([1, 2])}
    return graph(nodes, constants, [Edge("x", (3, 2)), Edge("z", (3, 2))], outputs)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node("SequenceConstruct", "x z", "s"), node("SequenceAt", "s one")], (3, 2)),
        (
            [node("SequenceConstruct", "x z", "s"), node("ConcatFromSequence", "s", axis=1)],
            (3, 4),
        ),
        (
            [
                node("SequenceConstruct", "x z", "s"),
                node("ConcatFromSequence", "s", axis=-1, new_axis=1),
            ],
            (3, 2, 2),
        ),
        (
            [
                node("SequenceEmpty", "", "e"),
                node("SequenceInsert", "e x", "s"),
                node("SequenceInsert", "s z", "t"),
                node("SequenceErase", "t", "u"),
                node("ConcatFromSequence", "u", axis=0),
            ],
            (3, 2),
        ),
        ([node("SplitToSequence", "x sizes", "s"), node("SequenceAt", "s one")], (2, 2)),
        ([node("SplitToSequence", "x one", "s"), node("SequenceAt", "s one")], (1, 2)),
        (
            [node("SplitToSequence", "x", "s", keepdims=0), node("SequenceAt", "s one")],
            (2,),
        ),
    ],
)
def test_sequences_are_resolved(nodes: list[Node], expected: Shape) -> None:
    network = build(sequence_graph(*nodes))
    assert network.shapes["y"] == expected
    assert not any(isinstance(step.layer, Opaque) for step in network.steps)


def test_a_sequence_that_leaves_the_graph_is_opaque() -> None:
    network = build(sequence_graph(node("SequenceConstruct", "x z")))
    assert [type(step.layer) for step in network.steps] == [Opaque]


def test_strings_are_not_numbers() -> None:
    words = Constant("words", (2,), "string", lambda: torch.empty(0), ("words",))
    known = Graph((node("Identity", "words"),), {"words": words}, (), (Edge("y"),))
    network = build(known)
    assert network.shapes["y"] is None


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ConstantOfShape", "huge", "i", value=stored("v", torch.tensor([1])))],
        [
            node("ConstantOfShape", "huge", "c", value=stored("v", torch.tensor([1]))),
            node("ReduceSum", "c _", "i", keepdims=0),
        ],
    ],
    ids=["long", "far"],
)
def test_parameters_that_would_exhaust_the_machine_are_not_read(nodes: list[Node]) -> None:
    huge = {"huge": torch.tensor([10**9, 10**8])}
    network = build(graph([*nodes, node("Reshape", "x i")], huge))
    layer = network.steps[-1].layer
    assert isinstance(layer, Opaque)
    assert layer.slug == "size"


@pytest.mark.parametrize("op", ["Gather", "ScatterElements", "Pad", "CumSum"])
def test_an_axis_of_a_number_without_axes_is_no_crash(op: str) -> None:
    """A file may say so, and values of an input of unknown shape are looked at as one number."""
    parameters = {
        "Gather": [torch.tensor([0])],
        "ScatterElements": [torch.tensor([0]), torch.ones(1)],
        "Pad": [torch.tensor([1, 1]), torch.tensor(0.0), torch.tensor([0])],
        "CumSum": [torch.tensor(0)],
    }[op]
    known = {f"c{at}": computed(f"c{at}", value) for at, value in enumerate(parameters)}
    nodes = (Node(op, "n", ("x", *known), ("y",)), Node("Exp", "e", ("y",), ("z",)))
    for shape in ((), None):
        drawn = Graph(nodes, known, (Edge("x", shape),), (Edge("z"),))
        model = Model("drawn", "test", (), {}, drawn, Topology.STATED)
        with contextlib.suppress(LipauditError):
            found = lipaudit.bound(model, input_range=(-1.0, 1.0)).models[0].bound
            assert found is not None
