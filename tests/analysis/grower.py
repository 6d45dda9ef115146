"""Random graphs, grown from the examples of registered kinds."""

import math
from collections.abc import Sequence

import torch

from lipaudit.graph.constant import Constant, computed
from lipaudit.graph.node import Edge, Graph, Node
from lipaudit.layers.base import Example
from tests.layers.runtime import layer_of

INPUTS = 6


class Grower:
    """Grows one graph."""

    def __init__(self, seed: int, examples: Sequence[Example]) -> None:
        self.examples = examples
        self.generator = torch.Generator().manual_seed(seed)
        self.nodes: list[Node] = []
        self.constants: dict[str, Constant] = {}
        self.flat: dict[str, int] = {"x": INPUTS}
        """Edges of shape (1, items) that can be read, with their items."""

    def pick(self, count: int) -> int:
        return int(torch.randint(0, count, (), generator=self.generator))

    def constant(self, values: torch.Tensor) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = computed(name, values)
        return name

    def add(self, op: str, *inputs: str, items: int = 0, **attributes: int) -> str:
        name = f"e{len(self.nodes)}"
        self.nodes.append(Node(op, f"{op}_{name}", inputs, (name,), attributes))
        if items:
            self.flat[name] = items
        return name

    def dense(self, items: int) -> str:
        """Make an edge of that many items from an earlier one."""
        name = list(self.flat)[self.pick(len(self.flat))]
        weight = torch.randn(self.flat[name], items, generator=self.generator)
        stored = self.constant(weight / math.sqrt(self.flat[name]))
        return self.add("MatMul", name, stored, items=items)

    def square(self) -> None:
        """Multiply a square signal from either side, where sizes do not tell the axes apart."""
        signal = self.add("Reshape", self.dense(9), self.constant(torch.tensor([3, 3])))
        weight = self.constant(torch.randn(3, 3, generator=self.generator))
        mask = self.constant((torch.rand(3, 3, generator=self.generator) > 0.5).float())
        kind = self.pick(4)
        if kind == 0:
            made = self.add("MatMul", weight, signal)
        elif kind == 1:
            made = self.add("Gemm", signal, weight, transA=1)
        elif kind == 2:
            made = self.add("Gemm", weight, signal, transB=1)
        else:
            made = self.add("MatMul", signal, weight)
        made = self.add("Mul", made, mask)
        self.add("Reshape", made, self.constant(torch.tensor([1, -1])), items=9)

    def normalized(self) -> None:
        """Put a batch norm behind a dense layer, over its outputs or over another axis."""
        rows = self.add("Reshape", self.dense(6), self.constant(torch.tensor([2, 3])))
        weight = self.constant(torch.randn(3, 4, generator=self.generator))
        made = self.add("Gemm", rows, weight)
        if self.pick(2):
            made = self.add("Reshape", made, self.constant(torch.tensor([1, 4, 2])))
        scale, offset, mean = (torch.randn(4, generator=self.generator) for _ in range(3))
        spread = torch.rand(4, generator=self.generator) + 0.1
        stored = [self.constant(values) for values in (scale, offset, mean, spread)]
        made = self.add("BatchNormalization", made, *stored)
        self.add("Reshape", made, self.constant(torch.tensor([1, -1])), items=8)

    def op(self, example: Example) -> None:
        """Feed one registered operation, and flatten what it yields."""
        signals = [
            self.add("Reshape", self.dense(math.prod(shape)), self.constant(torch.tensor(shape)))
            for shape in example.shapes
        ]
        arriving = iter(signals)
        inputs = []
        for at, name in enumerate(example.node.inputs):
            known = example.constants.get(at)
            if known is not None:
                inputs.append(self.constant(known))
            else:
                inputs.append(next(arriving) if name else "")
        name = f"e{len(self.nodes)}"
        outputs = (name, *(f"{name}_{at}" for at, _ in enumerate(example.node.outputs[1:])))
        node = example.node
        self.nodes.append(
            Node(node.op, f"{node.op}_{name}", tuple(inputs), outputs, node.attributes, node.domain)
        )
        zeros = iter([torch.zeros(shape) for shape in example.shapes])
        arguments = [
            example.constants[at] if at in example.constants else next(zeros) if given else None
            for at, given in enumerate(node.inputs)
        ]
        values = layer_of(example).forward(arguments)[0]
        if not values.is_floating_point() or not values.numel():
            return
        self.add("Reshape", name, self.constant(torch.tensor([1, -1])), items=values.numel())

    def graph(self) -> Graph:
        """Join two late edges into the output."""
        for _ in range(1 + self.pick(3)):
            kind = self.pick(6)
            if kind == 0:
                self.square()
            elif kind == 1:
                self.normalized()
            else:
                self.op(self.examples[self.pick(len(self.examples))])
        late = list(self.flat)[-3:]
        first, second = late[self.pick(len(late))], late[self.pick(len(late))]
        if self.flat[first] == self.flat[second] and self.pick(2):
            out = self.add("Add", first, second)
        else:
            out = self.add("Concat", first, second, axis=1)
        inputs = (Edge("x", (1, INPUTS), "float32"),)
        return Graph(tuple(self.nodes), self.constants, inputs, (Edge(out, None, "float32"),))
