"""Invocation: one node run on tensors, with its failures named."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lipaudit.errors import NotCertified, ShapeError
from lipaudit.graph.constant import Shape, computed
from lipaudit.graph.node import Node
from lipaudit.layers import registry
from lipaudit.layers.base import (
    COMPUTED_PARAMETER,
    AbstractGainLayer,
    AbstractLayer,
    AbstractRetypable,
    Call,
    Gain,
    Unbounded,
    UnsupportedNode,
    ValuesNeeded,
)

Tensors = Sequence[torch.Tensor | None]


def invoke(
    node: Node, layer: AbstractLayer, inputs: Tensors, dtype: torch.dtype | None
) -> tuple[torch.Tensor, ...]:
    """Run a node; with a dtype, every floating result is of that type.

    Raise `ShapeError` naming the node when its inputs do not fit.
    """
    if dtype is not None and isinstance(layer, AbstractRetypable):
        layer = layer.in_dtype(dtype)
    try:
        made = layer.forward(inputs)
    except UnsupportedNode as problem:
        raise NotCertified(
            f"node {node.name!r} ({node.op}): {problem.reason}", slug=problem.slug
        ) from problem
    # ArithmeticError: an axis of a tensor without axes.
    except (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError) as error:
        raise _explained(node, inputs, error) from error
    if dtype is None:
        return made
    return tuple(value.to(dtype) if value.is_floating_point() else value for value in made)


def _explained(node: Node, inputs: Tensors, error: Exception) -> NotCertified | ShapeError:
    lines = str(error).strip().splitlines() or ["it failed"]
    seen = ", ".join("x".join(map(str, v.shape)) or "scalar" for v in inputs if v is not None)
    if "allocate memory" in str(error) or "out of memory" in str(error):
        return NotCertified(
            f"node {node.name!r} ({node.op}) on inputs {seen} needs more memory than there is",
            slug="memory",
        )
    if isinstance(error, NotImplementedError) or "not implemented for" in str(error):
        return NotCertified(
            f"node {node.name!r} ({node.op}) cannot be run on these types: {lines[0]}",
            slug="dtype",
        )
    return ShapeError(
        f"shapes break at node {node.name!r} ({node.op}) on inputs {seen}: {lines[0]}",
        slug="shape",
        hint="check the input's shape (--input-shape)",
    )


@dataclass(frozen=True, slots=True)
class Deferred(AbstractRetypable, AbstractGainLayer):
    """A layer whose weight, axes or sizes the network computes: it is built anew in each run."""

    call: Call
    reason: str
    dtype: torch.dtype | None = None

    @classmethod
    def from_node(cls, call: Call) -> AbstractLayer:
        """Defer any node of a registered kind."""
        return cls(call, "a parameter is computed by the network, not stored")

    def in_dtype(self, dtype: torch.dtype) -> AbstractLayer:
        """Build the layer for that type when its parameters arrive."""
        return Deferred(self.call, self.reason, dtype)

    def forward(self, inputs: Tensors) -> tuple[torch.Tensor, ...]:
        """Take everything but a real-valued first input as a parameter; build the layer, run it."""
        if any(value is not None and value.is_meta for value in inputs):
            raise ValuesNeeded
        node = self.call.node
        arrived = {
            position: computed(node.inputs[position], value)
            for position, value in enumerate(inputs)
            if value is not None and (position or not value.is_floating_point())
        }
        kind = registry.find(node.op, node.domain)
        if kind is None:
            raise UnsupportedNode(self.reason, slug=COMPUTED_PARAMETER)
        layer = kind.layer.from_node(Call(node, arrived))
        if self.dtype is not None and isinstance(layer, AbstractRetypable):
            layer = layer.in_dtype(self.dtype)
        return layer.forward(inputs)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Nothing can be said of a map that is itself made by the network."""
        del shapes
        return Unbounded(COMPUTED_PARAMETER, self.reason)
