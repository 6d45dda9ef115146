"""Gathers: items of a signal copied to where a list of positions says."""

import abc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from lipaudit.enclosure import Enclosure
from lipaudit.graph.constant import Constant, Shape
from lipaudit.layers.base import (
    COPIED,
    AbstractGainLayer,
    Call,
    Examples,
    Folding,
    Gain,
    Unbounded,
    example,
    unary,
)
from lipaudit.layers.operands import Inputs, Outputs, axis_of, operand, within
from lipaudit.layers.registry import layer

_COUNTABLE_ITEMS = 1 << 24
"""Up to this size the copies of each item are counted one by one; past it they are bounded."""


class _AbstractGather(AbstractGainLayer):
    """A layer that copies items of its first input to where its second one says."""

    folding: ClassVar[Folding] = COPIED
    indices: Constant | None
    """None where the network computes them."""

    @abc.abstractmethod
    def pick(self, data: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Copy the items."""

    @abc.abstractmethod
    def most_copies(self, indices: torch.Tensor) -> int:
        """Bound how often one item is copied, whatever the shape of the data."""

    def forward(self, inputs: Inputs) -> Outputs:
        """Copy the items of the first input that the second one names."""
        data, places = operand(inputs), operand(inputs, 1).long()
        made = self.pick(data, places)
        stored = self.indices
        if data.is_meta and stored is not None and made.numel() <= _COUNTABLE_ITEMS:
            # Whether the places are there does not show without their values.
            self.pick(torch.zeros((), dtype=torch.int8).expand(data.shape), stored.read().long())
        return (made,)

    @property
    def is_rising(self) -> bool:
        """See `AbstractGainLayer.is_rising`."""
        return self.indices is not None

    @property
    def is_affine(self) -> bool:
        """See `AbstractGainLayer.is_affine`."""
        return self.indices is not None

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return √(copies of the item that is copied most often)."""
        if self.indices is None:
            return Unbounded("discontinuous", "the network computes which items are taken")
        copies = self._copies(self.indices, shapes[0] if shapes else None)
        method = f"one item is taken at most {copies} times" if copies > 1 else "takes items once"
        return unary(Enclosure.sqrt_of(copies).without_lower(), method)

    def _copies(self, stated: Constant, shape: Shape | None) -> int:
        if stated.items > _COUNTABLE_ITEMS:
            return stated.items
        indices = stated.read().long()
        most = self.most_copies(indices)
        return most if shape is None else min(most, self._counted(shape, indices))

    def _counted(self, shape: Shape, indices: torch.Tensor) -> int:
        """Count the copies of each item by sending its number through."""
        items = torch.Size(shape).numel()
        hollow = torch.empty(shape, device="meta")
        if max(items, self.pick(hollow, indices.to("meta")).numel()) > _COUNTABLE_ITEMS:
            return indices.numel()
        numbers = self.pick(torch.arange(items).reshape(shape), indices)
        return int(torch.bincount(numbers.flatten()).max()) if numbers.numel() else 0


def _gather_examples() -> Examples:
    yield example("Gather", (4, 5), constants={1: torch.tensor(1)}, exact_gain=1.0)
    yield example(
        "Gather", (4, 5), constants={1: torch.tensor([[0, 2], [-1, 3]])}, axis=1, exact_gain=1.0
    )
    yield example("Gather", (4, 5), constants={1: torch.tensor([0, -4, 1])}, exact_gain=2**0.5)


@layer("Gather", summary="√(copies of one item)", examples=_gather_examples)
@final
@dataclass(frozen=True, slots=True)
class Gather(_AbstractGather):
    """Slices of the data at listed positions of one axis (a table look-up)."""

    indices: Constant | None
    axis: int

    @classmethod
    def from_node(cls, call: Call) -> "Gather":
        """Take the positions and the axis."""
        return cls(call.constant(1), call.attribute("axis", 0))

    def pick(self, data: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Copy the slices."""
        axis = axis_of(self.axis, data.dim())
        flat = within(indices.flatten(), data.shape[axis])
        picked = data.index_select(axis, flat)
        return picked.reshape((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))

    def most_copies(self, indices: torch.Tensor) -> int:
        """Count equal positions; a negative one may be any of the others."""
        if not indices.numel():
            return 0
        counts = Counter(indices.flatten().tolist())
        negative = sum(count for position, count in counts.items() if position < 0)
        return max(counts.values()) + (negative if negative < indices.numel() else 0)


def _gather_elements_examples() -> Examples:
    yield example(
        "GatherElements",
        (3, 3),
        constants={1: torch.tensor([[0, 0, 2], [1, 0, -1]])},
        axis=0,
        exact_gain=2**0.5,
    )


@layer("GatherElements", summary="√(copies of one item)", examples=_gather_elements_examples)
@final
@dataclass(frozen=True, slots=True)
class GatherElements(_AbstractGather):
    """Single items, each taken at its own place with one coordinate replaced."""

    indices: Constant | None
    axis: int

    @classmethod
    def from_node(cls, call: Call) -> "GatherElements":
        """Take the coordinates and their axis."""
        return cls(call.constant(1), call.attribute("axis", 0))

    def pick(self, data: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Copy the items."""
        return data.gather(self.axis, within(indices, data.shape[self.axis]))

    def most_copies(self, indices: torch.Tensor) -> int:
        """Return the length of the axis: along the others all places differ."""
        return indices.shape[self.axis] if indices.numel() else 0


def _gather_nd_examples() -> Examples:
    yield example(
        "GatherND", (2, 3), constants={1: torch.tensor([[0, 1], [1, -1]])}, exact_gain=1.0
    )
    yield example("GatherND", (2, 3), constants={1: torch.tensor([[1], [1]])}, exact_gain=2**0.5)
    yield example(
        "GatherND", (2, 3, 2), constants={1: torch.tensor([[1], [0]])}, batch_dims=1, exact_gain=1.0
    )


@layer("GatherND", summary="√(copies of one item)", examples=_gather_nd_examples)
@final
@dataclass(frozen=True, slots=True)
class GatherND(_AbstractGather):
    """Slices of the data at listed tuples of coordinates."""

    indices: Constant | None
    batch_axes: int

    @classmethod
    def from_node(cls, call: Call) -> "GatherND":
        """Take the coordinates and how many leading axes both inputs share."""
        return cls(call.constant(1), call.attribute("batch_dims", 0))

    def pick(self, data: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Copy the slices, by advanced indexing on batch axes and coordinates together."""
        shared = data.shape[: self.batch_axes]
        around = indices.ndim - 1
        batch = [
            torch.arange(size, device=data.device).reshape(
                [-1 if axis == at else 1 for axis in range(around)]
            )
            for at, size in enumerate(shared)
        ]
        coordinates = [
            within(indices[..., at], data.shape[self.batch_axes + at])
            for at in range(indices.shape[-1])
        ]
        return data[(*batch, *coordinates)]

    def most_copies(self, indices: torch.Tensor) -> int:
        """Return the number of tuples."""
        return indices[..., 0].numel() if indices.shape[-1] else indices.numel()
