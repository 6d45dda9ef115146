"""Softmax and its kin: activations that look at one axis."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch

from lipaudit.enclosure import ZERO, Enclosure
from lipaudit.graph.constant import Shape
from lipaudit.graph.node import Node
from lipaudit.layers.base import (
    AbstractGainLayer,
    Call,
    Example,
    Examples,
    Gain,
    Unbounded,
    unary,
)
from lipaudit.layers.operands import axis_of, operand
from lipaudit.layers.pointwise import jump
from lipaudit.layers.registry import layer
from lipaudit.layers.values import Values


def _axis_examples(op: str, exact: dict[int, float | None]) -> Callable[[], Examples]:
    def examples() -> Examples:
        for axis, known in exact.items():
            yield Example(Node(op, op, ("x",), ("y",), {"axis": axis}), ((2, 3, 4),), {}, known)

    return examples


@layer("Softmax", summary="1/2", examples=_axis_examples("Softmax", {-1: 0.5, 1: 0.5}))
@final
@dataclass(frozen=True, slots=True)
class Softmax(AbstractGainLayer):
    """exp x_i / Σ exp x_j along one axis."""

    axis: int

    @classmethod
    def from_node(cls, call: Call) -> "Softmax":
        """Take the axis."""
        return cls(call.attribute("axis", -1))

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Normalize the exponentials along the axis."""
        x = operand(inputs)
        # On its meta device torch does not look whether the axis is there.
        return (torch.softmax(x, axis_of(self.axis, x.dim())),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return 1/2.

        The Jacobian diag(p) - ppᵀ has rows of absolute sum 2p_i(1 - p_i) <= 1/2 and is
        symmetric, so its norm is at most 1/2 (Gershgorin), approached at p = (1/2, 1/2, 0, ...).
        Over one item softmax is constant.
        """
        (shape,) = shapes
        if shape is None:
            return unary(Enclosure.at_most(0.5), "1/2 for any number of classes")
        if not shape[self.axis] > 1:
            return unary(ZERO, "softmax over one class is constant")
        return unary(Enclosure.exactly(0.5), "1/2 for any number of classes")

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Return [0, 1]; what adds up to 1 has at most that length."""
        x = inputs[0]
        if x is None:
            return ()
        made = Values(torch.zeros_like(x.lo), torch.ones_like(x.hi))
        axis = self.axis if self.axis < 0 else self.axis - x.lo.dim()
        return (made.with_row(1.0, axis) if axis < 0 else made,)


@layer(
    "LogSoftmax", summary="√n", examples=_axis_examples("LogSoftmax", {-1: 2.0, 0: math.sqrt(2)})
)
@final
@dataclass(frozen=True, slots=True)
class LogSoftmax(AbstractGainLayer):
    """The logarithm of softmax along one axis."""

    axis: int

    @classmethod
    def from_node(cls, call: Call) -> "LogSoftmax":
        """Take the axis."""
        return cls(call.attribute("axis", -1))

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Subtract the log-sum-exp along the axis."""
        return (torch.log_softmax(operand(inputs), self.axis),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return √n over n > 1 classes.

        The Jacobian I - 1pᵀ is an oblique projection, whose norm is that of its complement:
        ‖1pᵀ‖ = √n·‖p‖ <= √n, approached where p tends to one class. Over one class it is 0.
        """
        (shape,) = shapes
        if shape is None:
            return Unbounded("needs-shape", "√n of n classes: the number of classes is not known")
        classes = shape[self.axis]
        if not classes > 1:
            return unary(ZERO, "log-softmax over one class is constant")
        return unary(Enclosure.sqrt_of(classes), f"√n of n = {classes} classes")


@layer("Hardmax", summary="none", examples=_axis_examples("Hardmax", {-1: None, 1: None}))
@final
@dataclass(frozen=True, slots=True)
class Hardmax(AbstractGainLayer):
    """1 at the first largest item along one axis, 0 elsewhere."""

    axis: int

    @classmethod
    def from_node(cls, call: Call) -> "Hardmax":
        """Take the axis."""
        return cls(call.attribute("axis", -1))

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Mark the first largest item along the axis."""
        x = operand(inputs)
        first = torch.argmax(x, dim=self.axis, keepdim=True)
        return (torch.zeros_like(x).scatter(self.axis, first, 1),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """State that there is no finite constant."""
        del shapes
        return jump("it jumps where the largest item changes")
