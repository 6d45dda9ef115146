"""Unit length: vectors divided by their length, finite only through the least divisor ε.

x/max(‖x‖, ε) is the projection of x/ε onto the unit ball: where ‖x‖ <= ε it is x/ε itself, and
elsewhere x/‖x‖. Projections onto convex sets do not stretch, so that 1/ε is a Lipschitz constant,
and the least one, since inside the ball of radius ε it is attained everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from lipaudit.enclosure import ONE, Enclosure
from lipaudit.graph.constant import Shape
from lipaudit.graph.node import TORCH_DOMAIN, Node
from lipaudit.layers.base import (
    AbstractGainLayer,
    Call,
    Example,
    Examples,
    Gain,
    Unbounded,
    UnsupportedNode,
    unary,
)
from lipaudit.layers.operands import Inputs, Outputs, operand
from lipaudit.layers.pointwise import steep
from lipaudit.layers.registry import layer
from lipaudit.layers.values import Values


def _examples() -> Examples:
    for axes, epsilon in (((-1,), 0.5), ((1, 2), 4.0), ((), 0.25)):
        node = Node(
            "Normalize", "norm", ("x",), ("y",), {"axes": axes, "epsilon": epsilon}, TORCH_DOMAIN
        )
        yield Example(node, ((2, 3, 4),), {}, 1 / epsilon)


@layer("Normalize", summary="1/ε; none for ε = 0", examples=_examples, domain=TORCH_DOMAIN)
@final
@dataclass(frozen=True, slots=True)
class Normalize(AbstractGainLayer):
    """x/max(‖x‖, ε) for each vector along some axes, as torch.nn.functional.normalize has it."""

    axes: tuple[int, ...]
    """Empty: all of them."""
    epsilon: float

    @classmethod
    def from_node(cls, call: Call) -> "Normalize":
        """Take the axes and ε."""
        epsilon = call.attribute("epsilon", 1e-12)
        if not epsilon >= 0:
            raise UnsupportedNode(f"epsilon = {epsilon:g} is negative")
        return cls(call.whole_numbers("axes"), epsilon)

    def forward(self, inputs: Inputs) -> Outputs:
        """Divide by the length, or by ε if that is more."""
        x = operand(inputs)
        axes = self.axes or tuple(range(x.dim()))
        length = torch.linalg.vector_norm(x, dim=axes, keepdim=True)
        return (x / length.clamp_min(self.epsilon),)

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Return [-1, 1]: no vector is longer than 1."""
        x = inputs[0]
        if x is None:
            return ()
        made = Values(-torch.ones_like(x.lo), torch.ones_like(x.hi))
        if len(self.axes) != 1 or not x.lo.dim():
            return (made,)
        axis = self.axes[0]
        return (made.with_row(1.0, axis if axis < 0 else axis - x.lo.dim()),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return 1/ε; the vectors are disjoint, so that it is the constant of all together."""
        del shapes
        if self.epsilon == 0:
            return steep("without an epsilon opposite signals near 0 are torn apart")
        return unary(ONE.over(Enclosure.exactly(self.epsilon)), "1/ε at signals shorter than ε")
