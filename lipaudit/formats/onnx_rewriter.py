"""Rewriter: one old node, and the means to write down what it says in the newest opset."""

from collections.abc import Mapping, Sequence

import torch

from lipaudit.formats.onnx_rank import Ranks
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.constant import Constant, computed
from lipaudit.graph.node import Attribute, Node


class Inexpressible(Exception):
    """Raised by a rewriting of an old node whose meaning cannot be said in the newest opset."""


class Rewriter:
    """The node to rewrite, what is known about its inputs, and the graph being written."""

    def __init__(self, node: Node, opset: int, builder: GraphBuilder, ranks: Ranks) -> None:
        self.node = node
        self.opset = opset
        self._builder = builder
        self._ranks = ranks

    def input(self, position: int) -> str:
        """Return the name of an input, "" when it is omitted."""
        return self.node.inputs[position] if position < len(self.node.inputs) else ""

    def integer(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        value = self.node.attributes.get(name, default)
        if not isinstance(value, int):
            raise Inexpressible(f"attribute {name!r} is no integer")
        return value

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Return an attribute that lists integers, None when it is not there."""
        value = self.node.attributes.get(name)
        if value is None:
            return None
        if not isinstance(value, tuple):
            raise Inexpressible(f"attribute {name!r} is no list")
        numbers = tuple(item for item in value if isinstance(item, int))
        if len(numbers) != len(value):
            raise Inexpressible(f"attribute {name!r} is no list of integers")
        return numbers

    def number(self, name: str, default: float) -> float:
        """Return a real attribute."""
        value = self.node.attributes.get(name, default)
        if not isinstance(value, int | float):
            raise Inexpressible(f"attribute {name!r} is no number")
        return float(value)

    def text(self, name: str, default: str) -> str:
        """Return a text attribute."""
        value = self.node.attributes.get(name, default)
        if not isinstance(value, str):
            raise Inexpressible(f"attribute {name!r} is no text")
        return value

    def attributes(self, *without: str, **changed: Attribute) -> dict[str, Attribute]:
        """Return the node's attributes without some, and with others changed or added."""
        kept = {key: value for key, value in self.node.attributes.items() if key not in without}
        return {**kept, **changed}

    def rank(self, position: int) -> int:
        """Return how many axes an input has; raise when that is not known."""
        rank = self._ranks.of(self.input(position))
        if rank is None:
            raise Inexpressible(f"the number of axes of {self.input(position)!r} is not known")
        return rank

    def has_rank(self, position: int) -> bool:
        """Tell whether it is known how many axes an input has."""
        return self._ranks.of(self.input(position)) is not None

    def constant(self, position: int) -> Constant | None:
        """Return an input that is a constant."""
        return self._builder.lookup(self.input(position))

    def list_constant(self, values: Sequence[int], stem: str) -> str:
        """Make a list of integers and return its name."""
        numbers = torch.tensor(list(values), dtype=torch.int64)
        return self._hold(computed(self._stem(stem), numbers))

    def real_constant(self, value: float | Sequence[float], stem: str) -> str:
        """Make a real number, or a list of them, and return its name."""
        values = torch.tensor(value, dtype=torch.float32)
        return self._hold(computed(self._stem(stem), values))

    def truth(self, stem: str) -> str:
        """Make a boolean "true" and return its name."""
        return self._hold(computed(self._stem(stem), torch.tensor(data=True)))

    def alias(self, constant: Constant) -> str:
        """Make a changed view of a constant available and return its name."""
        return self._hold(constant)

    def step(self, op: str, inputs: Sequence[str], **attributes: Attribute) -> str:
        """Add a node of the replacement whose result another one of them reads."""
        return self._add(op, inputs, attributes, (self._builder.fresh(self._stem(op)),))

    def finish(
        self,
        op: str,
        inputs: Sequence[str],
        attributes: Mapping[str, Attribute],
        outputs: Sequence[str] | None = None,
    ) -> None:
        """Add the node of the replacement that makes what the old node made."""
        self._add(op, inputs, attributes, outputs if outputs is not None else self.node.outputs)

    def _add(
        self,
        op: str,
        inputs: Sequence[str],
        attributes: Mapping[str, Attribute],
        outputs: Sequence[str],
    ) -> str:
        trimmed = list(inputs)
        while trimmed and not trimmed[-1]:
            trimmed.pop()
        self._ranks.see(Node(op, self.node.name, tuple(trimmed), tuple(outputs), attributes))
        return self._builder.add(
            op, trimmed, name=self.node.name, attributes=attributes, outputs=outputs
        )

    def _hold(self, constant: Constant) -> str:
        name = self._builder.constant(constant)
        self._ranks.hold(name, constant)
        return name

    def _stem(self, what: str) -> str:
        made = next((name for name in self.node.outputs if name), self.node.name)
        return f"{made}.{what}"
