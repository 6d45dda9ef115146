"""Graphs: random networks of the registry's own examples, node by node.

An example's inputs are the network's, or come from dense layers; its results go on. Integers
and truth values are inputs that stand still.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from lipaudit.graph.dtypes import ONNX_DTYPES
from lipaudit.graph.node import ONNX_DOMAIN, Edge, Graph, Node
from lipaudit.layers import catalog
from lipaudit.layers.base import Example
from tests.analysis.grower import INPUTS, Grower
from tests.layers.runtime import drawn, layer_of
from tests.soundness.weights import Chance, offsets, weights

_ITEMS = 300
"""Items that the signals of an example may have together."""
_WIDE = 40
"""Items above which a dense layer makes few of a result."""
_OPEN = frozenset({"Loop", "NonZero", "Range", "Scan", "Unique"})
"""Operations whose results have no shape before they run."""
_NUMBERS = {name: number for number, name in ONNX_DTYPES.items()}
_FIRST = Edge("x", (1, INPUTS), "float32")
_ACTIVATIONS = ("Relu", "Relu", "Tanh", "Sigmoid", "LeakyRelu", "Gelu", "Softplus", "Abs", "Elu")


@functools.cache
def examples(domain: str) -> Sequence[Example]:
    """Return the small examples of every registered kind of a domain."""
    kinds = [kind for kind in catalog.all_kinds() if kind.domain == domain]
    found = [one for kind in kinds for one in kind.examples()]
    return tuple(one for one in found if sum(map(math.prod, one.shapes)) <= _ITEMS)


@dataclass(frozen=True)
class DrawnGraph:
    """A graph, and the values of those inputs that stand still."""

    graph: Graph
    held: Mapping[str, torch.Tensor]


class Drawer(Grower):
    """Grows a graph of all kinds, with weights of all kinds."""

    def __init__(self, chance: Chance, among: Sequence[Example]) -> None:
        super().__init__(0, among)
        self.chance = chance
        self.generator = chance.generator
        self.inputs: list[Edge] = [_FIRST]
        self.held: dict[str, torch.Tensor] = {}
        self.outputs: list[str] = []

    def dense(self, items: int) -> str:
        """Make an edge of that many items from an earlier one, bent or not."""
        name = self.chance.of(list(self.flat))
        stored = self.constant(weights(self.chance, items, self.flat[name]).mT.contiguous())
        made = self.add("MatMul", name, stored, items=items)
        if self.chance.flag(0.4):
            made = self.add("Add", made, self.constant(offsets(self.chance, items)), items=items)
        if self.chance.flag(0.5):
            made = self.add(self.chance.of(_ACTIVATIONS), made, items=items)
        return made

    def drawn_graph(self) -> DrawnGraph:
        """Grow a graph; every third is one operation on the inputs themselves."""
        if self.chance.flag(0.33):
            self.flat = {}
            self.inputs = []
            self.op(self.chance.of(self.examples))
        else:
            for _ in range(1 + self.chance.pick(3)):
                self._grow()
        late = list(self.flat)[-3:]
        if late:
            self.outputs.append(self._joined(late))
        elif not self.outputs:
            self.inputs = self.inputs or [_FIRST]
            self.outputs.append(self.add("Identity", self.inputs[0].name))
        dtypes = {edge.name: edge.dtype for edge in self.inputs}
        outputs = tuple(Edge(name, None, dtypes.get(name, "float32")) for name in self.outputs)
        graph = Graph(tuple(self.nodes), self.constants, tuple(self.inputs), outputs)
        return DrawnGraph(graph, self.held)

    def _grow(self) -> None:
        kind = self.chance.pick(10)
        if kind == 0:
            self.square()
        elif kind == 1:
            self.normalized()
        else:
            self.op(self.chance.of(self.examples))

    def _joined(self, late: Sequence[str]) -> str:
        first, second = self.chance.of(late), self.chance.of(late)
        if len(late) == 1:
            return self._narrow(first)
        if self.flat[first] == self.flat[second] and self.chance.flag():
            joined = self.add(self.chance.of(("Add", "Sub", "Max")), first, second)
            return self._narrow(joined, self.flat[first])
        joined = self.add("Concat", first, second, axis=1)
        return self._narrow(joined, self.flat[first] + self.flat[second])

    def _narrow(self, name: str, items: int | None = None) -> str:
        """Put a dense layer behind a wide result, as it stands before others most times."""
        count = self.flat[name] if items is None else items
        if count <= _WIDE and self.chance.flag(0.7):
            return name
        made = 1 + self.chance.pick(8)
        stored = self.constant(weights(self.chance, made, count).mT.contiguous())
        return self.add("MatMul", name, stored)

    def op(self, example: Example) -> None:
        """Feed one registered operation, and flatten what it yields."""
        node = example.node
        taken = {made for one in self.nodes for made in one.outputs}
        if set(node.captures) & (taken | {edge.name for edge in self.inputs}):
            return  # its subgraph reads names that are taken
        given = drawn(example, self.chance.pick(1000))
        names = [self._fed(example, at, value) for at, value in enumerate(given)]
        name = f"e{len(self.nodes)}"
        outputs = tuple(
            (f"{name}_{at}" if at else name) if output else ""
            for at, output in enumerate(node.outputs)
        )
        title = f"{node.op}_{name}"
        self.nodes.append(Node(node.op, title, tuple(names), outputs, node.attributes, node.domain))
        if node.op in _OPEN:
            self.outputs.append(name)
            return
        for output, value in zip(outputs, layer_of(example).forward(given), strict=False):
            if output and value.numel() and not value.is_complex():
                self._flattened(output, value)

    def _flattened(self, name: str, value: torch.Tensor) -> None:
        if value.dtype != torch.float32:
            name = self.add("Cast", name, to=_NUMBERS["float32"])
        self.add("Reshape", name, self.constant(torch.tensor([1, -1])), items=value.numel())

    def _fed(self, example: Example, at: int, value: torch.Tensor | None) -> str:
        """Return the name of an input of an example: stored, held still, or from before."""
        stated = example.node.inputs[at]
        if value is None:
            return ""
        if at in example.constants:
            name = self.constant(self._weight(example, value))
        elif value.is_floating_point():
            name = self._signal(value)
        else:
            name = f"held{len(self.held)}"
            self.held[name] = value
            self.inputs.append(Edge(name, tuple(value.shape), str(value.dtype)[6:]))
        if stated in example.node.captures:
            self.nodes.append(Node("Identity", f"Identity_{stated}", (name,), (stated,)))
            return stated
        return name

    def _weight(self, example: Example, value: torch.Tensor) -> torch.Tensor:
        """Draw the weights of a linear layer anew now and then; what else is stored stays."""
        linear = example.node.op in {"Conv", "ConvTranspose", "Gemm", "MatMul", "Linear"}
        if linear and value.dim() > 1 and value.is_floating_point() and self.chance.flag(0.7):
            return weights(self.chance, *value.shape).to(value.dtype)
        return value

    def _signal(self, value: torch.Tensor) -> str:
        """Make a real signal of that shape, of earlier ones or as an input of its own."""
        shape, items = tuple(value.shape), value.numel()
        dtype = str(value.dtype)[6:]
        if not self.flat or not items:
            name = f"x{len(self.inputs)}"
            self.inputs.append(Edge(name, shape, dtype))
            return name
        flat = self.dense(items)
        made = self.add("Reshape", flat, self.constant(torch.tensor(shape, dtype=torch.int64)))
        return made if dtype == "float32" else self.add("Cast", made, to=_NUMBERS[dtype])


def graph(chance: Chance, domain: str = ONNX_DOMAIN, op: str | None = None) -> DrawnGraph:
    """Draw a graph of the kinds of a domain, or of one of them."""
    among = [one for one in examples(domain) if op in {None, one.node.op}]
    found = Drawer(chance, among).drawn_graph()
    return replace(found, graph=_without_unread(found.graph))


def _without_unread(graph: Graph) -> Graph:
    """Drop inputs that no node reads: onnxruntime and torch know no such inputs."""
    read = {name for node in graph.nodes for name in (*node.inputs, *node.captures)}
    read |= {edge.name for edge in graph.outputs}
    return replace(graph, inputs=tuple(edge for edge in graph.inputs if edge.name in read))
