"""Input shapes: what the user may write, and how it meets what the file says."""

import pytest
import torch

from lipaudit.analysis.shapes import parse, resolve
from lipaudit.errors import UsageError
from lipaudit.graph.constant import computed
from lipaudit.graph.node import Edge, Graph, Node

OPEN = ("N", None, "H", "W")


def graph(*edges: Edge) -> Graph:
    return Graph((), {}, edges, ())


@pytest.mark.parametrize("text", ["3x32x32", "3X32X32", "3,32,32", "3×32×32"])
def test_a_shape_is_written_with_an_x(text: str) -> None:
    assert parse(text) == (3, 32, 32)


@pytest.mark.parametrize("text", ["", "x", "3x", "3x-1", "3x0", "three", "3.5x2"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a shape"):
        parse(text)


@pytest.mark.parametrize("wanted", ["3x32x32", (3, 32, 32), "1x3x32x32", {"x": "3x32x32"}])
def test_the_batch_axis_may_be_left_out(wanted: str | tuple[int, ...]) -> None:
    found = resolve(graph(Edge("x", OPEN)), wanted)
    assert found.known == {"x": (1, 3, 32, 32)}
    assert found.source == "command line"


def test_a_stated_batch_is_kept() -> None:
    assert resolve(graph(Edge("x", (2, 3, 8, 8))), "3x9x9").known == {"x": (2, 3, 9, 9)}


def test_without_a_declared_rank_the_first_convolution_tells() -> None:
    weight = computed("w", torch.zeros(4, 3, 5))
    node = Node("Conv", "conv", ("x", "w"), ("y",))
    loose = Graph((node,), {"w": weight}, (Edge("x"),), ())
    assert resolve(loose, "3x20").known == {"x": (1, 3, 20)}
    assert resolve(loose, "2x3x20").known == {"x": (2, 3, 20)}


def test_the_file_speaks_when_the_user_does_not() -> None:
    found = resolve(graph(Edge("x", ("batch", 12))), None)
    assert found.known == {"x": (1, 12)}
    assert found.source == "file"
    assert "one sample at a time" in found.notes[0]


def test_open_sizes_stay_open_and_are_named() -> None:
    found = resolve(graph(Edge("x", OPEN)), None)
    assert found.known == {}
    assert found.source == "unknown"
    assert "--input-shape" in found.notes[-1]


def test_several_inputs_want_names() -> None:
    both = graph(Edge("a", (1, 4)), Edge("b", (1, 5)))
    with pytest.raises(UsageError, match="2 inputs"):
        resolve(both, "4")
    assert resolve(both, {"a": "6"}).known == {"a": (1, 6), "b": (1, 5)}
    with pytest.raises(UsageError, match="no input 'c'"):
        resolve(both, {"c": "6"})
