"""Builder: how a reader of a foreign vocabulary writes a graph down, node after node."""

from collections.abc import Iterable, Mapping, Sequence

import torch

from lipaudit.graph.constant import Constant, computed
from lipaudit.graph.node import ONNX_DOMAIN, Attribute, Edge, Graph, Node


class GraphBuilder:
    """Collects nodes in order, gives edges fresh names, and keeps the constants.

    The one mutable object of the graph package: it lives inside a reader and is gone when
    `finish` returns the frozen graph.
    """

    def __init__(self, edges: Iterable[str] = ()) -> None:
        self._edges = frozenset(edges)  # names that are bound to come: no constant takes one
        self._nodes: list[Node] = []
        self._makers: dict[str, Node] = {}
        self._constants: dict[str, Constant] = {}
        self._inputs: list[Edge] = []
        self._names: set[str] = set(self._edges)

    def input(self, edge: Edge) -> str:
        """Declare an input of the graph and return its edge name."""
        self._inputs.append(edge)
        self._names.add(edge.name)
        return edge.name

    def constant(self, constant: Constant) -> str:
        """Make a constant available under its own name, or one like it, and return that name."""
        known = self._constants.get(constant.name)
        if known is constant:
            return constant.name
        is_taken = known is not None or constant.name in self._edges
        name = self.fresh(constant.name) if is_taken else constant.name
        self._constants[name] = constant
        self._names.add(name)
        return name

    def hold(self, edge: str, constant: Constant) -> None:
        """Let a constant stand where the foreign graph has the edge that a node makes."""
        self._constants[edge] = constant
        self._names.add(edge)

    def integers(self, values: Sequence[int], name: str = "integers") -> str:
        """Make a 1-D integer constant, as ONNX wants axes and shapes, and return its name."""
        return self.constant(
            computed(self.fresh(name), torch.tensor(list(values), dtype=torch.int64))
        )

    def scalar(self, value: float, dtype: torch.dtype = torch.float32, name: str = "scalar") -> str:
        """Make a 0-D constant and return its name."""
        return self.constant(computed(self.fresh(name), torch.tensor(value, dtype=dtype)))

    def lookup(self, name: str) -> Constant | None:
        """Return the constant of that name, or None when the name is an edge."""
        return self._constants.get(name)

    def maker(self, name: str) -> Node | None:
        """Return the node that makes an edge, None when there is none so far."""
        return self._makers.get(name)

    def add(
        self,
        op: str,
        inputs: Sequence[str],
        *,
        name: str,
        attributes: Mapping[str, Attribute] | None = None,
        outputs: Sequence[str] | None = None,
        domain: str = ONNX_DOMAIN,
        sources: Sequence[str] = (),
    ) -> str:
        """Append a node and return its first output's edge name.

        `name` is what reports show; several nodes may share it when one foreign operation
        needs several of ours.
        """
        made = tuple(outputs) if outputs is not None else (self.fresh(name),)
        self._names.update(made)
        node = Node(op, name, tuple(inputs), made, dict(attributes or {}), domain, tuple(sources))
        self._nodes.append(node)
        self._makers.update(dict.fromkeys(made, node))
        return made[0]

    def fresh(self, stem: str) -> str:
        """Return an edge name that is not taken."""
        name, count = stem, 1
        while name in self._names:
            count += 1
            name = f"{stem}#{count}"
        self._names.add(name)
        return name

    def finish(self, outputs: Sequence[Edge]) -> Graph:
        """Freeze what was collected."""
        return Graph(
            nodes=tuple(self._nodes),
            constants=dict(self._constants),
            inputs=tuple(self._inputs),
            outputs=tuple(outputs),
        )
