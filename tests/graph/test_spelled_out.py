"""Functions spelled out by exporters: joined where they are what they seem, and only there.

Truth: the graph as it was, run in float64; torch's own functions; the constants that the
literature and mpmath give for the functions.
"""

import contextlib
import io
import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from lipaudit import api
from lipaudit.enclosure import Rigor
from lipaudit.errors import ShapeError
from lipaudit.graph.constant import computed
from lipaudit.graph.node import Edge, Graph, Node
from lipaudit.graph.rewrites.spelled_out import join_spelled_out
from lipaudit.layers import network
from lipaudit.layers.execution import run
from tests.graph import spelled
from tests.graph.spellings import CASES, GELU, NEAR_MISSES, SILU

COMMUTATIVE = {"Add", "Mul", "Max"}


def _joined(graph: Graph, shape: tuple[int | str, ...] = (2, 3, 4)) -> tuple[Graph, Graph]:
    """Return the folded graph before and after."""
    sizes = tuple(2 if isinstance(size, str) else size for size in shape)
    built = network.build(graph, {edge.name: sizes for edge in graph.inputs})
    return built.graph, join_spelled_out(built.graph, built.shapes)


def _text_joined(text: str, folder: Path, outputs: tuple[str, ...] = ("y",)) -> tuple[Graph, Graph]:
    # Constants are read when they are needed, so that no file may take another's place.
    path = folder / f"{len(list(folder.iterdir()))}.onnx"
    return _joined(spelled.read(spelled.write(text, path, outputs=outputs)).graph)


def _assert_same_values(before: Graph, after: Graph, tolerance: float = 1e-12) -> None:
    generator = torch.Generator().manual_seed(3)
    for scale in (0.01, 1.0, 5.0):
        x = scale * torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
        given = {edge.name: x + number for number, edge in enumerate(before.inputs)}
        old, new = (run(graph, given, torch.float64) for graph in (before, after))
        for name, value in old.items():
            torch.testing.assert_close(new[name], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_a_spelled_out_function_is_joined_and_computes_the_same(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = spelled.write(case.text, tmp_path / "m.onnx", shape=case.shape)
    before, after = _joined(spelled.read(path).graph, case.shape)
    assert sorted(node.op for node in after.nodes) == sorted((case.op, *case.left))
    joined = next(node for node in after.nodes if node.op == case.op)
    kept = {node.outputs[0] for node in after.nodes if node.op in case.left}
    if case.op not in case.left:
        # Every node of the file is either there still, or named by the one it went into.
        assert set(joined.sources) == {node.name for node in before.nodes} - kept
    _assert_same_values(before, after)


@pytest.mark.parametrize("name", CASES)
def test_its_constant_is_the_known_one(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = spelled.write(case.text, tmp_path / "m.onnx", shape=case.shape)
    headline = api.bound(path).models[0].bound
    assert headline is not None
    assert headline.measure.rigor is Rigor.PROVED
    assert case.constant * (1 - 1e-12) <= headline.measure.upper <= case.constant * (1 + 1e-9)
    assert headline.measure.lower <= headline.measure.upper


@pytest.mark.parametrize("name", CASES)
def test_the_order_of_operands_does_not_matter(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    graph = spelled.read(spelled.write(case.text, tmp_path / "m.onnx", shape=case.shape)).graph
    built = network.build(graph, {"x": (2, 3, 4)})
    turning = [at for at, node in enumerate(built.graph.nodes) if node.op in COMMUTATIVE]
    for turned in itertools.product((False, True), repeat=len(turning)):
        nodes = list(built.graph.nodes)
        for at, is_turned in zip(turning, turned, strict=True):
            if is_turned:
                nodes[at] = replace(nodes[at], inputs=nodes[at].inputs[::-1])
        after = join_spelled_out(built.graph.with_nodes(tuple(nodes)), built.shapes)
        assert sorted(node.op for node in after.nodes) == sorted((case.op, *case.left)), turned
    _assert_same_values(built.graph, after)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", ["gelu of torch", "gelu by tanh", "gelu by tanh, x taken out"])
def test_the_rounded_constants_of_a_file_are_covered(name: str, dtype: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = spelled.write(case.text, tmp_path / "m.onnx", dtype=dtype)
    before, after = _joined(spelled.read(path).graph)
    assert [node.op for node in after.nodes] == ["Gelu"]
    _assert_same_values(before, after)
    headline = api.bound(path).models[0].bound
    assert headline is not None
    # The steepest slope of the function as the file states it, on a fine grid around the bend.
    x = torch.linspace(1.3, 1.5, 20001, dtype=torch.float64).requires_grad_()
    made = run(_flat(before, len(x)), {"x": x}, torch.float64)["y"]
    (slopes,) = torch.autograd.grad(made.sum(), x)
    steepest = float(slopes.max())
    assert steepest <= headline.measure.upper <= steepest * (1 + 5e-3)
    if dtype == "float32":
        assert headline.measure.upper <= steepest * (1 + 1e-6)


def _flat(graph: Graph, items: int) -> Graph:
    """Return the graph of pointwise operations for a vector."""
    edge = replace(graph.inputs[0], shape=(items,))
    return replace(graph, inputs=(edge,))


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_what_only_looks_like_it_is_left_alone(name: str, tmp_path: Path) -> None:
    before, after = _text_joined(NEAR_MISSES[name], tmp_path)
    assert after is before


READ_ELSEWHERE = {
    "silu": ("s = Sigmoid(x); y = Mul(x, s)", ["s"]),
    "gelu": (CASES["gelu of torch"].text, ["a", "e", "p"]),
    "hard swish": (CASES["hard swish"].text, ["a", "g", "b"]),
    "RMS norm": (CASES["RMS norm"].text, ["q", "v", "w", "s", "r"]),
    "normalize": (CASES["normalize without expanding"].text, ["n", "f"]),
    "softmax": (CASES["softmax"].text, ["e", "s"]),
    "log-sum-exp": (CASES["log-sum-exp"].text, ["e", "s"]),
}

# What is x times a gate already, before it is multiplied by a number.
PARTS = {"b"}


@pytest.mark.parametrize("name", READ_ELSEWHERE)
def test_what_is_read_elsewhere_is_still_made(name: str, tmp_path: Path) -> None:
    text, inner = READ_ELSEWHERE[name]
    for edge in inner:
        for more, outputs in (("", ("y", edge)), (f"; k2 = Neg({edge})", ("y", "k2"))):
            before, after = _text_joined(text + more, tmp_path, outputs)
            assert edge in {made for node in after.nodes for made in node.outputs}
            _assert_same_values(before, after)
            if edge not in PARTS:
                assert after is before


def _rewired(graph: Graph) -> Iterator[Graph]:
    """Yield the graph with one input of one node exchanged for each earlier edge."""
    known = [edge.name for edge in graph.inputs]
    for at, node in enumerate(graph.nodes):
        for position, name in enumerate(node.inputs):
            for other in known:
                if other != name and graph.constants.get(name) is None:
                    inputs = (*node.inputs[:position], other, *node.inputs[position + 1 :])
                    turned = replace(node, inputs=inputs)
                    yield graph.with_nodes((*graph.nodes[:at], turned, *graph.nodes[at + 1 :]))
        known.extend(node.outputs)


@pytest.mark.parametrize("name", CASES)
def test_whatever_is_joined_in_a_rewired_graph_computes_the_same(name: str, tmp_path: Path) -> None:
    whole = network.build(spelled.read(spelled.write(CASES[name].text, tmp_path / "m.onnx")).graph)
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for graph in _rewired(whole.graph):
        try:
            built = network.build(graph)
        except ShapeError:
            continue
        after = join_spelled_out(built.graph, built.shapes)
        if after is not built.graph:
            old, new = (run(one, {"x": x}, torch.float64)["y"] for one in (built.graph, after))
            torch.testing.assert_close(new, old, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_the_difference_from_the_mean_may_be_read_elsewhere(tmp_path: Path) -> None:
    # It is then the signal of an RMS norm.
    before, after = _text_joined(CASES["layer norm"].text, tmp_path, outputs=("y", "d"))
    assert [node.op for node in after.nodes] == ["ReduceMean", "Sub", "RMSNormalization"]
    _assert_same_values(before, after)


def test_a_softmax_of_what_is_read_elsewhere_starts_there(tmp_path: Path) -> None:
    before, after = _text_joined(
        CASES["softmax less the largest"].text, tmp_path, outputs=("y", "d")
    )
    assert [node.op for node in after.nodes] == ["ReduceMax", "Sub", "Softmax"]
    _assert_same_values(before, after)


def test_a_graph_without_any_is_the_same_object(tmp_path: Path) -> None:
    before, after = _text_joined("a = Relu(x); y = Mul(a, 2.0)", tmp_path)
    assert after is before


def test_a_scalar_with_more_axes_than_the_signal_is_no_scalar() -> None:
    # It would give the result an axis that the joined node does not make.
    nodes = (
        Node("Mul", "a", ("x", "two"), ("a",)),
        Node("Sigmoid", "s", ("a",), ("s",)),
        Node("Mul", "y", ("x", "s"), ("y",)),
    )
    for shape, expected in (((1,), 1), ((1, 1), 1), ((1, 1, 1), 3)):
        two = computed("two", torch.full(shape, 2.0))
        graph = Graph(nodes, {"two": two}, (Edge("x", (3, 4)),), (Edge("y"),))
        assert len(_joined(graph, (3, 4))[1].nodes) == expected


def test_without_shapes_a_number_alone_is_a_scalar(tmp_path: Path) -> None:
    model = spelled.read(spelled.write(CASES["quick gelu"].text, tmp_path / "m.onnx", shape=("N",)))
    built = network.build(model.graph)
    assert built.shapes["x"] is None
    assert [n.op for n in join_spelled_out(built.graph, built.shapes).nodes] == ["Swish"]


def test_malformed_nodes_are_passed_by() -> None:
    nodes = (
        Node("Sigmoid", "s", (), ("s",)),
        Node("Sub", "d", ("x",), ("d",)),
        Node("Mul", "m", ("s",), ("m",)),
        Node("Mul", "n", (), ()),
        Node("Div", "y", ("d", "s"), ("y",)),
    )
    graph = Graph(nodes, {}, (Edge("x", (3, 4)),), (Edge("y"),))
    assert join_spelled_out(graph, {"x": (3, 4)}) is graph


def test_a_long_chain_of_products_takes_no_time(tmp_path: Path) -> None:
    lines = ["a0 = Sigmoid(x)", *(f"a{k + 1} = Mul(a{k}, z)" for k in range(1000))]
    before, after = _text_joined("; ".join(lines), tmp_path, outputs=("a1000",))
    assert after is before


class _Applied(torch.nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


EXPORTED: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], float]] = {
    "LayerNormalization": (lambda x: functional.layer_norm(x, (4,), eps=0.25), 2.0),
    "RMSNormalization": (
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.25),
        2.0,
    ),
    "Normalize": (lambda x: functional.normalize(x, dim=1, eps=0.5), 2.0),
    "Gelu": (functional.gelu, GELU),
    "Swish": (functional.silu, SILU),
    "Mish": (functional.mish, 1.0884981612517279),
    "HardSwish": (functional.hardswish, 1.5),
    "Softsign": (functional.softsign, 1.0),
}


@pytest.mark.parametrize("op", EXPORTED)
def test_what_torch_exports_to_an_old_opset_is_joined(op: str, tmp_path: Path) -> None:
    function, constant = EXPORTED[op]
    path = tmp_path / "m.onnx"
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(5))
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(_Applied(function), (x,), str(path), opset_version=11, dynamo=False)
    model = spelled.read(path)
    built = network.build(model.graph)
    after = join_spelled_out(built.graph, built.shapes)
    assert [node.op for node in after.nodes] == [op]
    (made,) = run(after, {model.graph.inputs[0].name: x.double()}, torch.float64).values()
    torch.testing.assert_close(made, function(x.double()), rtol=1e-6, atol=1e-6)
    headline = api.bound(path).models[0].bound
    assert headline is not None
    assert headline.measure.upper == pytest.approx(constant, rel=1e-6)
