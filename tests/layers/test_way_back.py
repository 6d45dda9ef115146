"""The way back: values wanted of a folded constant become values of the stored tensor."""

from dataclasses import replace

import pytest
import torch

from lipaudit.graph.constant import Constant, Put, computed, put_of, rescale_of
from lipaudit.graph.node import Attribute, Edge, Graph, Node
from lipaudit.layers import registry
from lipaudit.layers.network import build

MOVES = [
    ("Identity", {}, {}),
    ("Transpose", {"perm": (2, 0, 1)}, {}),
    ("Transpose", {}, {}),
    ("Reshape", {}, {1: [6, -1]}),
    ("Flatten", {"axis": 2}, {}),
    ("Unsqueeze", {}, {1: [0, -1]}),
    ("Squeeze", {}, {}),
    ("Cast", {"to": 11}, {}),
    ("Cast", {"to": 10}, {}),
    ("Dropout", {}, {}),
    ("ReverseSequence", {"batch_axis": 1, "time_axis": 0}, {1: [1, 2, 1]}),
]


def writable(name: str, value: torch.Tensor) -> Constant:
    put: Put = lambda wanted: {name: wanted}  # noqa: E731 - the least that is one
    made = computed(name, value, sources=(name,), scaled_by=name)
    return replace(made, put=put, rescale=lambda factor: {name: made.values() * factor})


def folded(nodes: list[Node], constants: dict[str, Constant], name: str = "y") -> Constant:
    return build(Graph(tuple(nodes), constants, (), (Edge(name),))).graph.constants[name]


def evaluated(nodes: list[Node], values: dict[str, torch.Tensor]) -> torch.Tensor:
    known = {name: computed(name, value) for name, value in values.items()}
    return folded(nodes, known).values()


@pytest.mark.parametrize(("op", "attributes", "others"), MOVES)
def test_every_item_goes_back_to_its_place(
    op: str, attributes: dict[str, Attribute], others: dict[int, list[int]]
) -> None:
    torch.manual_seed(0)
    known = {f"c{at}": torch.tensor(value) for at, value in others.items()}
    nodes = [Node(op, "node", ("w", *known), ("y",), attributes)]
    constants = {name: computed(name, value) for name, value in known.items()}
    weight = writable("w", torch.randn(2, 3, 4))
    result = folded(nodes, {"w": weight, **constants})
    wanted = torch.randn(result.shape, dtype=torch.float64).half().double()
    put = put_of(result)
    assert put is not None
    (stored,) = put(wanted).values()
    assert stored.shape == (2, 3, 4)
    assert torch.equal(evaluated(nodes, {"w": stored, **known}), wanted)
    rescale = rescale_of(result)
    assert rescale is not None
    assert torch.equal(rescale(0.5)["w"], weight.values() / 2)


def test_every_kind_that_moves_items_is_tried() -> None:
    kinds = {kind.op for kind in registry.KINDS.values() if kind.layer.folding.same_weight}
    # These differ from the ones above in name, or need four axes: see the next test.
    assert kinds - {op for op, *_ in MOVES} == {"CastLike", "DepthToSpace", "SpaceToDepth"}


def test_a_row_of_moves() -> None:
    torch.manual_seed(1)
    nodes = [
        Node("DepthToSpace", "a", ("w",), ("a",), {"blocksize": 2}),
        Node("Transpose", "b", ("a",), ("b",), {"perm": (1, 3, 0, 2)}),
        Node("SpaceToDepth", "c", ("b",), ("c",), {"blocksize": 2}),
        Node("CastLike", "d", ("c", "half"), ("y",)),
    ]
    half = torch.zeros(1, dtype=torch.float16)
    weight = writable("w", torch.randn(2, 8, 2, 3))
    result = folded(nodes, {"w": weight, "half": computed("half", half)})
    wanted = torch.randn(result.shape, dtype=torch.float64).half().double()
    put = put_of(result)
    assert put is not None
    stored = put(wanted)["w"]
    assert torch.equal(evaluated(nodes, {"w": stored, "half": half}), wanted)


@pytest.mark.parametrize(
    ("op", "inputs"), [("Mul", ("w", "s")), ("Mul", ("s", "w")), ("Div", ("w", "s"))]
)
def test_a_scale_is_undone(op: str, inputs: tuple[str, str]) -> None:
    torch.manual_seed(2)
    scale = torch.tensor([[0.5], [-3.0], [7.0]])
    nodes = [Node(op, "node", inputs, ("y",))]
    result = folded(nodes, {"w": writable("w", torch.randn(3, 4)), "s": computed("s", scale)})
    wanted = torch.randn(3, 4, dtype=torch.float64)
    put = put_of(result)
    assert put is not None
    stored = put(wanted)
    assert list(stored) == ["w"]
    made = evaluated(nodes, {"w": stored["w"], "s": scale})
    torch.testing.assert_close(made, wanted, rtol=1e-15, atol=0)


def test_an_item_that_a_scale_makes_0_stays() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    nodes = [Node("Mul", "node", ("w", "s"), ("y",))]
    scale = computed("s", torch.tensor([[0.0], [2.0]]))
    put = put_of(folded(nodes, {"w": writable("w", weight), "s": scale}))
    assert put is not None
    stored = put(torch.full((2, 3), 8.0, dtype=torch.float64))["w"]
    assert stored.tolist() == [[0, 1, 2], [4, 4, 4]]


def test_the_weight_is_written_and_not_the_number_beside_it() -> None:
    constants = {"w": writable("w", torch.ones(2, 3)), "c": writable("c", torch.tensor(2.0))}
    result = folded([Node("Mul", "node", ("c", "w"), ("y",))], constants)
    put, rescale = put_of(result), rescale_of(result)
    assert put is not None
    assert rescale is not None
    assert list(put(torch.ones(2, 3, dtype=torch.float64))) == ["w"]
    assert list(rescale(0.5)) == ["w"]


@pytest.mark.parametrize(
    "node",
    [
        Node("Mul", "squared", ("w", "w"), ("y",)),
        Node("Mul", "spread", ("w", "wide"), ("y",)),
        Node("Add", "sum", ("w", "one"), ("y",)),
        Node("Slice", "part", ("w", "zero", "two"), ("y",)),
        Node("Concat", "twice", ("w", "w"), ("y",), {"axis": 0}),
        Node("Cast", "rounded", ("w",), ("y",), {"to": 6}),
        Node("Div", "divisor", ("one", "w"), ("y",)),
        Node("MatMul", "product", ("w", "wide"), ("y",)),
    ],
    ids=lambda node: node.name,
)
def test_where_there_is_no_way_back(node: Node) -> None:
    constants = {
        "w": writable("w", torch.rand(3, 1) + 1),
        "wide": computed("wide", torch.rand(1, 5)),
        "one": computed("one", torch.ones(3, 1)),
        "zero": computed("zero", torch.tensor([0])),
        "two": computed("two", torch.tensor([2])),
    }
    assert put_of(folded([node], constants)) is None


def test_dequantized_weights_have_no_way_back() -> None:
    constants = {
        "w": computed("w", torch.ones(2, 3, dtype=torch.int8), sources=("w",)),
        "s": writable("s", torch.tensor(0.25)),
    }
    result = folded([Node("DequantizeLinear", "dq", ("w", "s"), ("y",))], constants)
    assert put_of(result) is None
    rescale = rescale_of(result)
    assert rescale is not None
    assert rescale(0.5)["s"].item() == 0.125


def test_rows_of_thousands_do_not_exhaust_the_stack() -> None:
    nodes = [Node("Transpose", f"n{at}", (f"c{at}",), (f"c{at + 1}",)) for at in range(3001)]
    result = folded(nodes, {"c0": writable("w", torch.rand(2, 3))}, "c3001")
    put = put_of(result)
    assert put is not None
    wanted = torch.arange(6.0, dtype=torch.float64).reshape(3, 2)
    assert torch.equal(put(wanted)["w"], wanted.T)
