"""Arithmetic of several tensors, item by item, with broadcasting."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import final

import torch

from lipaudit.enclosure import ONE, Enclosure
from lipaudit.graph.constant import Shape
from lipaudit.graph.node import Node
from lipaudit.layers.base import (
    AbstractGainLayer,
    Call,
    Combine,
    Example,
    Examples,
    Gain,
    Unbounded,
    UnsupportedNode,
)
from lipaudit.layers.broadcast import copying
from lipaudit.layers.operands import operands
from lipaudit.layers.registry import layer
from lipaudit.layers.values import Values, at_least, enclosing, rising

_NEEDS_SHAPE = Unbounded(
    "needs-shape", "how often broadcasting copies the signal depends on a shape that is not known"
)


@dataclass(frozen=True, slots=True)
class _Merger:
    """What one operation does with its operands."""

    function: Callable[[Sequence[torch.Tensor]], torch.Tensor]
    combine: Combine
    averages: bool = False


def _difference(operands: Sequence[torch.Tensor]) -> torch.Tensor:
    left, right = operands
    return left - right


def _mean(operands: Sequence[torch.Tensor]) -> torch.Tensor:
    return reduce(torch.add, operands) / len(operands)


# Two numbers and the larger of them: |max(a, b) - max(a', b')| <= max(|a - a'|, |b - b'|), at
# most the root of the sum of squares; item by item that is what ROOT_SUM_SQUARES states.
_MERGERS = {
    "Add": _Merger(lambda operands: reduce(torch.add, operands), Combine.SUM),
    "Sub": _Merger(_difference, Combine.SUM),
    "Sum": _Merger(lambda operands: reduce(torch.add, operands), Combine.SUM),
    "Mean": _Merger(_mean, Combine.SUM, averages=True),
    "Max": _Merger(lambda operands: reduce(torch.maximum, operands), Combine.ROOT_SUM_SQUARES),
    "Min": _Merger(lambda operands: reduce(torch.minimum, operands), Combine.ROOT_SUM_SQUARES),
}


def _merge_examples(op: str) -> Callable[[], Examples]:
    def examples() -> Examples:
        constant = torch.arange(12.0).reshape(4, 3) / 7
        share = 0.5 if op == "Mean" else 1.0
        exact = None if op in {"Max", "Min"} else share
        yield Example(Node(op, op, ("x", "y"), ("z",)), ((2, 3), (2, 3)), {}, exact)
        yield Example(Node(op, op, ("x", "y"), ("z",)), ((2, 3), (4, 1, 1)), {})
        copied = None if exact is None else 2 * share
        yield Example(Node(op, op, ("x", "c"), ("z",)), ((1, 3),), {1: constant}, copied)
        yield Example(Node(op, op, ("c", "x"), ("z",)), ((4, 3),), {0: constant}, exact)
        if op not in {"Add", "Sub"}:
            three = Node(op, op, ("x", "y", "c"), ("z",))
            yield Example(three, ((4, 3), (1,)), {2: constant})

    return examples


@final
@dataclass(frozen=True, slots=True)
class Merge(AbstractGainLayer):
    """A sum, difference, mean, maximum or minimum of broadcast tensors."""

    merger: _Merger
    stored: tuple[Shape | None, ...]
    """Shapes of the constant operands by position, None for a signal."""

    @classmethod
    def from_node(cls, call: Call) -> "Merge":
        """Note which operands are stored, and their shapes."""
        count = len(call.node.inputs)
        known = [call.constant(position) for position in range(count)]
        stored = tuple(None if constant is None else constant.shape for constant in known)
        if count == 0 or (call.node.op in {"Add", "Sub"} and count != 2):
            raise UnsupportedNode(f"{call.node.op} of {count} operands")
        return cls(_MERGERS[call.node.op], stored)

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Combine the operands."""
        return (self.merger.function(operands(inputs)),)

    @property
    def is_affine(self) -> bool:
        """See `AbstractGainLayer.is_affine`."""
        return self.merger.combine is Combine.SUM

    @property
    def is_rising(self) -> bool:
        """See `AbstractGainLayer.is_rising`."""
        return self.merger.function is not _difference

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Add the second operand of a difference with its ends exchanged."""
        there = [value for value in inputs if value is not None]
        if self.is_rising:
            (made,) = rising(self.forward, inputs)
        else:
            left, right = there
            made = enclosing(left.lo - right.hi, left.hi - right.lo)
        wide = all(v.lo.shape[-1:] == made.lo.shape[-1:] for v in there)
        if self.merger.combine is not Combine.SUM or not wide:
            return (made,)
        return (made.with_row(at_least(sum(value.length(-1) for value in there)).upper),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return the stretch by broadcasting of each signal, over n for a mean of n."""
        arriving = iter(shapes)
        signals = [position for position, shape in enumerate(self.stored) if shape is None]
        every = [next(arriving) if shape is None else shape for shape in self.stored]
        share = ONE.over(Enclosure.exactly(len(self.stored))) if self.merger.averages else ONE
        factors = []
        for position in signals:
            copied = copying(every, position)
            if copied is None:
                return _NEEDS_SHAPE
            factors.append(copied.times(share))
        plain = all(factor == ONE for factor in factors)
        method = "each signal enters once" if plain else "√copies made by broadcasting"
        return Gain(tuple(factors), self.merger.combine, method)


for _op in _MERGERS:
    layer(
        _op,
        summary="1 for each signal, √copies where broadcast"
        + (", over n" if _op == "Mean" else ""),
        examples=_merge_examples(_op),
    )(Merge)
