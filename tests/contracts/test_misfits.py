"""A node that cannot run on what reaches it has no function, and therefore no bound.

Every registered kind is tried on its own examples with another shape of the first signal. Truth
is the runtime: where it refuses, nothing finite may come out here.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from lipaudit.errors import LipauditError
from lipaudit.graph.constant import Shape, computed
from lipaudit.graph.node import Attribute, Edge, Graph
from lipaudit.layers import network
from lipaudit.layers.base import AbstractGainLayer, Example, Gain
from lipaudit.layers.network import Network, Opaque
from tests.contracts.test_layers import CASES, _truth
from tests.layers.runtime import drawn

RUNTIME_ONLY = {
    "LRN",  # ONNX: any rank, the runtime 4 axes
    "Pad",  # ONNX: numpy's reflect, which turns round as often as it takes
    "Resize",  # ONNX: any axes, the runtime has kernels for some
}


AXES = ("axis", "dim", "axes")
AXIS_IGNORED = {"DequantizeLinear", "QuantizeLinear"}  # with one scale for all


def _signals(example: Example) -> list[int]:
    names = enumerate(example.node.inputs)
    return [at for at, name in names if name and at not in example.constants]


def _broken(shape: Shape) -> Iterator[Shape]:
    """Yield the shape with each size one larger, an axis less, and an axis more."""
    for axis in range(len(shape)):
        yield (*shape[:axis], shape[axis] + 1, *shape[axis + 1 :])
    if shape:
        yield shape[1:]
        yield shape[:-1]
    yield (*shape, 2)
    yield (3, *shape)


def _built(example: Example, shapes: tuple[Shape, ...]) -> Network:
    """Give the node inputs of those shapes, its parameters as constants."""
    names = {at: example.node.inputs[at] for at in _signals(example)}
    dtypes = example.dtypes or ("float32",) * len(shapes)
    edges = zip(names.values(), shapes, dtypes, strict=True)
    constants = {
        example.node.inputs[at]: computed(example.node.inputs[at], value)
        for at, value in example.constants.items()
    }
    outputs = tuple(Edge(name) for name in example.node.outputs if name)
    graph = Graph((example.node,), constants, tuple(Edge(*edge) for edge in edges), outputs)
    return network.build(graph)


def _runs(example: Example, shapes: tuple[Shape, ...]) -> bool:
    inputs = drawn(Example(example.node, shapes, example.constants, None, example.dtypes))
    try:
        _truth(example.node, inputs)
    except Exception:  # noqa: BLE001 - a runtime refuses in many ways
        return False
    return True


def _is_bounded(found: Network) -> bool:
    (step,) = found.steps
    if isinstance(step.layer, Opaque):
        return False
    if isinstance(step.layer, AbstractGainLayer):
        return isinstance(step.layer.gain(found.signal_shapes(step)), Gain)
    return True


@pytest.mark.parametrize("example", CASES)
def test_what_cannot_run_has_no_bound(example: Example) -> None:
    for broken in _broken(example.shapes[0]) if example.shapes else ():
        shapes = (broken, *example.shapes[1:])
        try:
            found = _built(example, shapes)
        except LipauditError:
            continue
        if found.steps and _is_bounded(found) and example.node.op not in RUNTIME_ONLY:
            assert _runs(example, shapes), f"{shapes} does not run"


@pytest.mark.parametrize("example", CASES)
def test_what_has_no_such_axis_has_no_bound(example: Example) -> None:
    stated = [name for name in AXES if name in example.node.attributes]
    if not stated or example.node.op in AXIS_IGNORED:
        return
    (name,) = stated
    axis: Attribute = 9 if isinstance(example.node.attributes[name], int) else (9,)
    node = replace(example.node, attributes={**example.node.attributes, name: axis})
    try:
        found = _built(replace(example, node=node), example.shapes)
    except LipauditError:
        return
    assert not found.steps or not _is_bounded(found)
