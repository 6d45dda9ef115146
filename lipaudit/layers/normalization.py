"""Normalization by stored statistics: batch norm at inference, a diagonal linear map."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch.nn import functional

from lipaudit.device import Compute
from lipaudit.graph.constant import Constant, Shape
from lipaudit.graph.node import Node
from lipaudit.layers.base import (
    AbstractLinearLayer,
    Call,
    Example,
    Examples,
    UnsupportedNode,
)
from lipaudit.layers.operands import operands
from lipaudit.layers.registry import layer
from lipaudit.layers.values import Values, enclosing
from lipaudit.operators.base import AbstractLinearOperator
from lipaudit.operators.certify import UNIT
from lipaudit.operators.clipped import Clipped
from lipaudit.operators.diagonal import DiagonalOperator


def _batch_examples() -> Examples:
    parameters = {
        1: torch.tensor([1.0, -2.0, 0.5]),
        2: torch.tensor([0.0, 1.0, -1.0]),
        3: torch.tensor([0.5, 0.0, -0.25]),
        4: torch.tensor([1.0, 0.25, 0.0625]),
    }
    node = Node("BatchNormalization", "bn", ("x", "g", "b", "m", "v"), ("y",), {"epsilon": 1e-3})
    for shape in ((2, 3, 4, 5), (4, 3)):
        yield Example(node, (shape,), parameters, 2 / math.sqrt(0.25 + 1e-3))


@layer("BatchNormalization", summary="max |γ|/√(var + ε)", examples=_batch_examples)
@final
@dataclass(frozen=True, slots=True)
class BatchNormalization(AbstractLinearLayer):
    """(x - mean)·γ/√(var + ε) + β with stored statistics, one a channel (axis 1)."""

    scale: Constant
    variance: Constant
    epsilon: float

    @classmethod
    def from_node(cls, call: Call) -> "BatchNormalization":
        """Take the stored statistics; refuse what has no finite gain."""
        if call.attribute("training_mode", 0):
            raise UnsupportedNode("it normalizes by the statistics of the batch", slug="training")
        scale = call.weight(1, "the scale")
        for position, what in ((2, "the offset"), (3, "the running mean")):
            call.weight(position, what)
        variance = call.weight(4, "the running variance")
        epsilon = call.attribute("epsilon", 1e-5)
        _check_statistics(variance, epsilon)
        return cls(scale, variance, epsilon)

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Apply the stored statistics."""
        x, scale, offset, mean, variance = operands(inputs)
        return (functional.batch_norm(x, mean, variance, scale, offset, eps=self.epsilon),)

    def weights(self) -> tuple[Constant, ...]:
        """Return the scale and the running variance."""
        return (self.scale, self.variance)

    def with_weight(self, weight: Constant) -> "BatchNormalization":
        """See `AbstractLinearLayer.with_weight`."""
        return replace(self, scale=weight)

    def clipped(self, shape: Shape | None, limit: float, compute: Compute) -> Clipped:
        """See `AbstractLinearLayer.clipped`."""
        del shape, compute
        scale = self.scale.values()
        largest = limit * (self.variance.values() + self.epsilon).sqrt()
        nearest = scale.clamp(-largest, largest)
        return Clipped(nearest, limit, float((nearest - scale).norm()), 0.0).unknown()

    def operator(self, shape: Shape | None, compute: Compute) -> AbstractLinearOperator:
        """Return the diagonal map γ/√(var + ε)."""
        del compute
        factors = self.scale.values() / (self.variance.values() + self.epsilon).sqrt()
        # The sum is off by u relatively, the root by half of that and u, the quotient by u: less
        # than 3u together. The sum does not cancel, so it passes on the error of the variance.
        error = 4 * UNIT + 2 * (self.scale.entry_error + self.variance.entry_error)
        if shape is None:
            return DiagonalOperator(factors, entry_error=error)
        placed = factors.reshape(-1, *(1,) * (len(shape) - 2))
        return DiagonalOperator(placed, shape[1:], error)

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Return the ends after the stored map, which rises or falls channel by channel."""
        if any(value is None for value in inputs):
            return ()
        x, *stored = (value for value in inputs if value is not None)
        still = [value.lo for value in stored]
        ends = [self.forward([end, *still])[0] for end in (x.lo, x.hi)]
        # The mean may cancel with the offset β; neither is larger than these.
        offset = self.forward([torch.zeros_like(x.lo), *still])[0].abs()
        moduli = ends[0].abs() + ends[1].abs() + 2.0 * offset + float(still[1].abs().max())
        return (enclosing(torch.minimum(*ends), torch.maximum(*ends), moduli),)

    def geometry(self) -> Mapping[str, str]:
        """Return ε, which is part of the map."""
        return {"epsilon": f"{self.epsilon:g}"}


def _check_statistics(variance: Constant, epsilon: float) -> None:
    """Raise `UnsupportedNode` for statistics that no training can have left."""
    try:
        values = variance.values()
    except TypeError as error:  # a dtype that torch has no name for
        raise UnsupportedNode(str(error), slug="dtype") from error
    if bool((values < 0).any()):
        raise UnsupportedNode(f"{variance.name!r}: negative variance", slug="negative-variance")
    if bool((values + epsilon <= 0).any()):
        raise UnsupportedNode(
            f"{variance.name!r}: infinite gain, variance + epsilon is 0", slug="infinite-gain"
        )
