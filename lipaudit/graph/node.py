"""The graph itself: nodes, edges and constants, frozen.

The vocabulary is ONNX's at its newest opset: a format whose operations have other names, or
an older opset, translates while reading, so that each operation has one meaning from here on.
What torch has and ONNX lacks is in the domain `TORCH_DOMAIN`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeAlias

from lipaudit.graph.constant import Constant, Shape
from lipaudit.graph.stated import NOTHING, Axes, Stated

ONNX_DOMAIN = ""
TORCH_DOMAIN = "torch"

Attribute: TypeAlias = (
    "int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | Constant | Graph"
)

_NO_ATTRIBUTES: Mapping[str, Attribute] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Edge:
    """A named value that flows through the graph, with as much of its shape as is known."""

    name: str
    shape: Axes | None = None
    """None: not even the rank is known. An entry is a size, a symbol's name, or None."""
    dtype: str = "float32"

    @property
    def known_shape(self) -> Shape | None:
        """The shape when every size is a number."""
        if self.shape is None or not all(isinstance(size, int) for size in self.shape):
            return None
        return tuple(size for size in self.shape if isinstance(size, int))


@dataclass(frozen=True, slots=True)
class Node:
    """One operation: what it is called, what it reads, what it makes."""

    op: str
    name: str
    inputs: tuple[str, ...]
    """Edge or constant names in order; "" marks an omitted optional input, as in ONNX."""
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=lambda: _NO_ATTRIBUTES)
    domain: str = ONNX_DOMAIN
    sources: tuple[str, ...] = ()
    """Names of the file's own nodes that a rewrite made this one of; empty: itself."""
    declared: float | None = None
    """Lipschitz constant that the user states for an operation lipaudit does not know. Readers
    never set it: a file cannot vouch for itself."""

    @property
    def origin(self) -> tuple[str, ...]:
        """Names of the file's nodes this one stands for."""
        return self.sources or (self.name,)

    @property
    def captures(self) -> tuple[str, ...]:
        """Names that its subgraphs (branches, loop bodies) read from the graph around it."""
        inner = [value for value in self.attributes.values() if isinstance(value, Graph)]
        return tuple(dict.fromkeys(name for graph in inner for name in graph.captures))


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in an order in which each reads only what came before, and the constants they use.

    `spec.check` verifies exactly that. A node whose data input is "" belongs to a network
    whose wiring is not known (a bare state dict): see `model.Topology`.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Constant]
    inputs: tuple[Edge, ...] = ()
    outputs: tuple[Edge, ...] = ()
    stated: Stated = NOTHING
    """What the file says of the edges; `layers.network.build` holds it against what follows."""

    @property
    def captures(self) -> tuple[str, ...]:
        """Names that are read here and made nowhere here: a subgraph takes them from outside."""
        made = {name for node in self.nodes for name in node.outputs}
        made |= {"", *self.constants, *(edge.name for edge in self.inputs)}
        read = [name for node in self.nodes for name in (*node.inputs, *node.captures)]
        read += [edge.name for edge in self.outputs]
        return tuple(dict.fromkeys(name for name in read if name not in made))

    def with_nodes(self, nodes: tuple[Node, ...]) -> "Graph":
        """Return the graph with other nodes."""
        return replace(self, nodes=nodes)
