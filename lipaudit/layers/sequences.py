"""Sequences: lists of tensors, resolved while the graph is read.

A sequence that is built, indexed and joined at known positions is only a way to write a graph
down: no sequence is left when it runs.
"""

from collections.abc import Callable, Mapping, MutableMapping
from collections.abc import Set as AbstractSet

import torch

from lipaudit.graph.constant import Constant, Shape, computed
from lipaudit.graph.node import Node
from lipaudit.layers.base import Call, UnsupportedNode

Names = tuple[str, ...]

_LONGEST = 10_000
"""A sequence that is longer is left alone."""


class Sequences:
    """The sequences met so far, each as the names of its elements."""

    def __init__(
        self,
        constants: MutableMapping[str, Constant],
        shapes: Mapping[str, Shape | None],
        exposed: AbstractSet[str],
    ) -> None:
        """Share the caller's tables; an `exposed` sequence must be left as it is."""
        self._exposed = exposed
        self._constants = constants
        self._shapes = shapes
        self._elements: dict[str, Names] = {}
        self._lowerings: dict[str, Callable[[Call], tuple[Node, ...] | None]] = {
            "SequenceConstruct": self._construct,
            "SequenceEmpty": self._construct,
            "SequenceInsert": self._insert,
            "SequenceErase": self._erase,
            "SequenceAt": self._at,
            "SequenceLength": self._length,
            "SplitToSequence": self._split,
            "ConcatFromSequence": self._concat,
            "Identity": self._alias,
        }

    def lowered(self, call: Call) -> tuple[Node, ...] | None:
        """Return plain nodes that do the same; None when the node is plain, or not resolvable."""
        lowering = self._lowerings.get(call.node.op)
        try:
            return None if lowering is None or call.node.domain else lowering(call)
        except UnsupportedNode:
            return None

    def _construct(self, call: Call) -> tuple[Node, ...]:
        return self._define(call, call.node.inputs)

    def _define(self, call: Call, elements: Names) -> tuple[Node, ...]:
        name = call.node.outputs[0]
        if name in self._exposed:
            raise UnsupportedNode("the sequence is used as a whole")
        self._elements[name] = elements
        return ()

    def _position(self, call: Call, at: int, count: int) -> int | None:
        """Return the position an input names, counted from the front."""
        stated = call.integers(at)
        if stated is None or len(stated) != 1 or not -count <= stated[0] <= count:
            return None
        return stated[0] + count if stated[0] < 0 else stated[0]

    def _insert(self, call: Call) -> tuple[Node, ...] | None:
        known = self._elements.get(call.node.inputs[0])
        if known is None:
            return None
        at = self._position(call, 2, len(known)) if call.given(2) else len(known)
        if at is None:
            return None
        return self._define(call, (*known[:at], call.node.inputs[1], *known[at:]))

    def _erase(self, call: Call) -> tuple[Node, ...] | None:
        known = self._elements.get(call.node.inputs[0])
        if not known:
            return None
        at = self._position(call, 1, len(known)) if call.given(1) else len(known) - 1
        if at is None or at == len(known):
            return None
        return self._define(call, (*known[:at], *known[at + 1 :]))

    def _at(self, call: Call) -> tuple[Node, ...] | None:
        known = self._elements.get(call.node.inputs[0])
        at = self._position(call, 1, len(known)) if known else None
        if known is None or at is None or at == len(known):
            return None
        return (Node("Identity", call.node.name, (known[at],), call.node.outputs),)

    def _length(self, call: Call) -> tuple[Node, ...] | None:
        known = self._elements.get(call.node.inputs[0])
        if known is None:
            return None
        name = call.node.outputs[0]
        self._constants[name] = computed(name, torch.tensor(len(known)))
        return ()

    def _alias(self, call: Call) -> tuple[Node, ...] | None:
        known = self._elements.get(call.node.inputs[0]) if call.node.inputs else None
        return None if known is None else self._define(call, known)

    def _split(self, call: Call) -> tuple[Node, ...] | None:
        node = call.node
        constant = call.constant(0)
        shape = constant.shape if constant is not None else self._shapes.get(node.inputs[0])
        if not shape:
            return None
        axis = call.attribute("axis", 0) % len(shape)
        size = shape[axis]
        stated = call.integers(1)
        by_one = stated is None
        if stated is None or call.weight(1, "the sizes").shape == ():
            step = 1 if stated is None else max(stated[0], 1)
            if size // step > _LONGEST:
                return None
            stated = tuple(min(step, size - start) for start in range(0, size, step))
        elements = tuple(f"{node.outputs[0]}/{at}" for at in range(len(stated)))
        sizes = self._integers(f"{node.outputs[0]}/sizes", stated)
        parts = Node("Split", node.name, (node.inputs[0], sizes), elements, {"axis": axis})
        if not by_one or call.attribute("keepdims", 1):
            return (parts, *self._define(call, elements))
        axes = self._integers(f"{node.outputs[0]}/axis", (axis,))
        flat = tuple(f"{name}/squeezed" for name in elements)
        squeezed = (
            Node("Squeeze", node.name, (name, axes), (thin,))
            for name, thin in zip(elements, flat, strict=True)
        )
        return (parts, *squeezed, *self._define(call, flat))

    def _concat(self, call: Call) -> tuple[Node, ...] | None:
        node = call.node
        known = self._elements.get(node.inputs[0])
        if not known:
            return None
        axis = call.attribute("axis", 0)
        if not call.attribute("new_axis", 0):
            return (Node("Concat", node.name, known, node.outputs, {"axis": axis}),)
        axes = self._integers(f"{node.outputs[0]}/axis", (axis,))
        wide = tuple(f"{node.outputs[0]}/{at}" for at in range(len(known)))
        widened = (
            Node("Unsqueeze", node.name, (name, axes), (made,))
            for name, made in zip(known, wide, strict=True)
        )
        return (*widened, Node("Concat", node.name, wide, node.outputs, {"axis": axis}))

    def _integers(self, name: str, values: tuple[int, ...]) -> str:
        self._constants[name] = computed(name, torch.tensor(values, dtype=torch.int64))
        return name
