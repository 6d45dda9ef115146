"""Declared: an operation that lipaudit does not know, whose constant the user states."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from lipaudit.enclosure import Enclosure
from lipaudit.errors import UsageError
from lipaudit.graph.constant import Shape
from lipaudit.graph.model import Model
from lipaudit.graph.node import Node
from lipaudit.layers import registry
from lipaudit.layers.base import (
    AbstractGainLayer,
    Call,
    Combine,
    Gain,
    Unbounded,
    UnsupportedNode,
)


@dataclass(frozen=True, slots=True)
class Declared(AbstractGainLayer):
    """An operation of which only a Lipschitz constant is known, and that by hearsay."""

    constant: float
    signals: int

    @classmethod
    def from_node(cls, call: Call) -> AbstractGainLayer:
        """Take the constant that is stated for the node."""
        if call.node.declared is None:
            raise UnsupportedNode("no constant is declared for it", slug="unknown-op")
        return cls(call.node.declared, len(call.signals))

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Refuse: what the operation computes is not known."""
        del inputs
        raise UnsupportedNode("what it computes is not known", slug="unknown-op")

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """|f(x) - f(y)| <= c |x - y|, all signals as one vector: c √(Σ |x_i - y_i|²)."""
        del shapes
        factor = Enclosure.at_most(self.constant)
        return Gain((factor,) * self.signals, Combine.ROOT_SUM_SQUARES, "as declared")


def declare(model: Model, constants: Mapping[str, float]) -> Model:
    """Return the model with the constants that the user states for operations, by their names.

    Each one that is used becomes an assumption of the model.
    """
    for name in constants:
        domain, _, op = name.rpartition(".")
        if registry.find(op, domain) is not None:
            raise UsageError(
                f"a constant is declared for {name}, which lipaudit knows itself",
                slug="declared",
                path=model.path,
                hint="only unknown operations can be declared",
            )
    used = {title(node) for node in model.graph.nodes} & set(constants)
    if not used:
        return model
    nodes = tuple(
        replace(node, declared=constants[title(node)]) if title(node) in used else node
        for node in model.graph.nodes
    )
    stated = tuple(
        f"{name} has a Lipschitz constant of at most {constants[name]:g}, as declared"
        for name in sorted(used)
    )
    graph = model.graph.with_nodes(nodes)
    return replace(model, graph=graph, assumptions=(*model.assumptions, *stated))


def declared(model: Model) -> dict[str, float]:
    """Return the constants that are stated for operations of the model, by their names."""
    return {title(node): node.declared for node in model.graph.nodes if node.declared is not None}


def title(node: Node) -> str:
    """Return the name of an operation as messages have it: domain.Op."""
    return f"{node.domain}.{node.op}" if node.domain else node.op
