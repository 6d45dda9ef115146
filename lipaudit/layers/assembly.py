"""Layers that lay signals side by side, over one another, or several times next to themselves."""

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from lipaudit.enclosure import ONE, Enclosure
from lipaudit.graph.constant import Constant, Shape
from lipaudit.layers.base import (
    COPIED,
    GATHERED,
    AbstractGainLayer,
    AbstractPositiveLayer,
    Call,
    Combine,
    Examples,
    Folding,
    Gain,
    Unbounded,
    UnsupportedNode,
    example,
    unary,
)
from lipaudit.layers.broadcast import broadcast
from lipaudit.layers.operands import Inputs, Outputs, axis_of, of_rank, operand, operands, within
from lipaudit.layers.registry import layer


def _concat_examples() -> Examples:
    yield example("Concat", (2, 3), (2, 1), axis=1, exact_gain=1.0)
    yield example("Concat", (2, 3), constants={0: torch.ones(2, 2)}, axis=-1, exact_gain=1.0)


@layer("Concat", summary="√Σ L²", examples=_concat_examples)
@final
@dataclass(frozen=True, slots=True)
class Concat(AbstractPositiveLayer):
    """Signals one after the other along an axis."""

    folding: ClassVar[Folding] = GATHERED

    axis: int
    signals: int

    @classmethod
    def from_node(cls, call: Call) -> "Concat":
        """Take the axis, and count what is not constant."""
        return cls(call.attribute("axis", 0), len(call.signals))

    def forward(self, inputs: Inputs) -> Outputs:
        """Join the inputs."""
        return (torch.cat(operands(inputs), self.axis),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return 1 for each signal: they end in disjoint parts of the result."""
        del shapes
        return Gain((ONE,) * self.signals, Combine.ROOT_SUM_SQUARES, "signals side by side")


def _expand_examples() -> Examples:
    yield example("Expand", (3, 1), constants={1: torch.tensor([2, 1, 4])}, exact_gain=8**0.5)
    yield example("Expand", (3, 2), constants={1: torch.tensor([1])}, exact_gain=1.0)


@layer("Expand", summary="√copies", examples=_expand_examples)
@final
@dataclass(frozen=True, slots=True)
class Expand(AbstractPositiveLayer):
    """A signal broadcast to a stated shape."""

    folding: ClassVar[Folding] = COPIED

    shape: Shape

    @classmethod
    def from_node(cls, call: Call) -> "Expand":
        """Read the shape off the second input."""
        shape = call.weight(1, "the shape").integers()
        if any(size < 0 for size in shape):
            raise UnsupportedNode(f"{list(shape)} is no shape to expand to")
        return cls(shape)

    def forward(self, inputs: Inputs) -> Outputs:
        """Broadcast both ways; nothing is copied in memory."""
        x = operand(inputs)
        return (x.expand(broadcast(tuple(x.shape), self.shape)),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return √(items after / items before): every item is copied equally often."""
        (shape,) = shapes
        if shape is None:
            if set(self.shape) <= {1}:
                return unary(ONE, "nothing is copied")
            return Unbounded("needs-shape", "how often items are copied depends on the shape")
        before = math.prod(shape)
        after = math.prod(broadcast(shape, self.shape))
        return _copied(after // before if before else 0)


def _copied(times: int) -> Gain:
    return unary(Enclosure.sqrt_of(times), f"every item is copied {times} times")


def _tile_examples() -> Examples:
    yield example("Tile", (2, 3), constants={1: torch.tensor([2, 3])}, exact_gain=6**0.5)


@layer("Tile", summary="√copies", examples=_tile_examples)
@final
@dataclass(frozen=True, slots=True)
class Tile(AbstractPositiveLayer):
    """A signal repeated along its axes."""

    folding: ClassVar[Folding] = COPIED

    repeats: tuple[int, ...]

    @classmethod
    def from_node(cls, call: Call) -> "Tile":
        """Read the repeats off the second input."""
        repeats = call.weight(1, "the repeats").integers()
        if any(times < 0 for times in repeats):
            raise UnsupportedNode(f"repeats {list(repeats)}")
        return cls(repeats)

    def forward(self, inputs: Inputs) -> Outputs:
        """Repeat."""
        return (of_rank(operand(inputs), len(self.repeats)).repeat(self.repeats),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return √Π repeats."""
        del shapes
        return _copied(math.prod(self.repeats))


_Target = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From data and indices: for each update the flat position that it is written to."""

_COUNTABLE_ITEMS = 1 << 24
"""Up to this size updates that meet are counted one by one; past it they are bounded."""
_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _element_targets(axis: int) -> _Target:
    def targets(data: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        along = axis_of(axis, data.ndim)
        wrapped = within(indices, data.shape[along])
        places = _positions(data)[tuple(slice(size) for size in indices.shape)]
        stride = math.prod(data.shape[along + 1 :])
        own = torch.arange(indices.shape[along], device=data.device)
        own = own.reshape([-1 if at == along else 1 for at in range(data.ndim)])
        return places + (wrapped - own) * stride

    return targets


def _slice_targets(data: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    rows = [within(indices[..., at], data.shape[at]) for at in range(indices.shape[-1])]
    return (
        _positions(data)[tuple(rows)]
        if rows
        else _positions(data).expand(*indices.shape[:-1], *data.shape)
    )


def _positions(data: torch.Tensor) -> torch.Tensor:
    return torch.arange(data.numel(), device=data.device).reshape(data.shape)


def _scatter_examples() -> Examples:
    at = torch.tensor([[1, 0, -1], [0, 2, 1]])
    yield example("ScatterElements", (3, 3), (2, 3), constants={1: at}, axis=0)
    yield example("ScatterElements", (3, 3), constants={1: at, 2: torch.ones(2, 3)}, exact_gain=1.0)
    twice = torch.tensor([[1, 1]])
    yield example("ScatterElements", (1, 5), (1, 2), constants={1: twice}, axis=1, reduction="add")
    yield example("ScatterElements", (1, 5), (1, 2), constants={1: twice}, axis=1, reduction="max")


def _scatter_nd_examples() -> Examples:
    at = torch.tensor([[0], [2]])
    yield example("ScatterND", (4, 2), (2, 2), constants={1: at})
    yield example("ScatterND", (4, 2), (2, 2), constants={1: at}, reduction="add")
    at = torch.tensor([[0, 1], [3, -1]])
    yield example("ScatterND", (4, 2), constants={1: at, 2: torch.ones(2)}, reduction="min")


@dataclass(frozen=True, slots=True)
class _Scattering:
    """What the two scatters share: data overwritten, or added to, at stated positions."""

    targets: _Target
    indices: Constant | None
    reduction: str
    movable: tuple[int, ...]
    """Input positions of the signals."""

    def write(
        self, data: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor
    ) -> torch.Tensor:
        """Return the data with the updates in."""
        targets = self.targets(data, indices).flatten()
        flat, new = data.flatten(), updates.flatten()
        if self.reduction == "none":
            return flat.index_put((targets,), new).reshape(data.shape)
        how = _REDUCTIONS[self.reduction]
        return flat.scatter_reduce(0, targets, new, how).reshape(data.shape)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Bound the stretch of the data and of the updates.

        Overwriting, and the largest or smallest of several: |y - y'|_j is at most the largest
        difference of what meets in place j, and everything meets in one place only, so the
        squares add up to at most those of all differences. Adding: y = data + P u, where
        ‖P‖² is the number of updates that meet in one place.
        """
        if self.indices is None or 1 in self.movable:
            return Unbounded("discontinuous", "the network computes which items are replaced")
        if self.reduction == "mul":
            return Unbounded("bilinear", "data and updates are multiplied")
        if self.reduction != "add":
            ones = (Enclosure.at_most(1),) * len(self.movable)
            return Gain(ones, Combine.ROOT_SUM_SQUARES, "each item is used in one place")
        meeting = self._meeting(shapes[0] if 0 in self.movable else None)
        factors = [ONE if at == 0 else Enclosure.sqrt_of(meeting) for at in self.movable]
        bounds = tuple(factor.without_lower() for factor in factors)
        return Gain(bounds, method=f"at most {meeting} updates meet in one place")

    def _meeting(self, shape: Shape | None) -> int:
        if self.indices is None or not self.indices.items:
            return 0
        indices = self.indices.read().long()
        if shape is None or max(math.prod(shape), indices.numel()) > _COUNTABLE_ITEMS:
            return indices.numel()
        targets = self.targets(torch.empty(shape), indices)
        return int(torch.bincount(targets.flatten()).max()) if targets.numel() else 0


def _scattering(call: Call, targets: _Target) -> _Scattering:
    reduction = call.attribute("reduction", "none")
    if reduction != "none" and reduction not in _REDUCTIONS:
        raise UnsupportedNode(f"reduction {reduction!r}")
    return _Scattering(targets, call.constant(1), reduction, call.signals)


class _AbstractScatter(AbstractGainLayer):
    """A layer that writes updates into data at stated positions."""

    scattering: _Scattering

    @abc.abstractmethod
    def wanted(self, data: torch.Tensor, indices: torch.Tensor) -> torch.Size:
        """Return the shape that updates must have."""

    def forward(self, inputs: Inputs) -> Outputs:
        """Write the third input into the first where the second says."""
        data, indices, updates = operands(inputs)
        if updates.shape != self.wanted(data, indices):
            raise ValueError(f"updates of {list(updates.shape)} for {list(indices.shape)}")
        stored = self.scattering.indices
        if data.is_meta and stored is not None and stored.items <= _COUNTABLE_ITEMS:
            # Whether the places are there does not show without their values.
            self.scattering.targets(torch.zeros(()).expand(data.shape), stored.read().long())
        return (self.scattering.write(data, indices.long(), updates),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Bound the stretch of data and updates."""
        return self.scattering.gain(shapes)


@layer("ScatterElements", summary="√Σ L²; adding: ΣL", examples=_scatter_examples)
@final
@dataclass(frozen=True, slots=True)
class ScatterElements(_AbstractScatter):
    """Single items written, each at its own place with one coordinate replaced."""

    scattering: _Scattering

    @classmethod
    def from_node(cls, call: Call) -> "ScatterElements":
        """Take the coordinates, their axis, and what happens to old values."""
        return cls(_scattering(call, _element_targets(call.attribute("axis", 0))))

    def wanted(self, data: torch.Tensor, indices: torch.Tensor) -> torch.Size:
        """Return the shape of the coordinates."""
        of_rank(indices, data.dim())
        return indices.shape


@layer("ScatterND", summary="√Σ L²; adding: ΣL", examples=_scatter_nd_examples)
@final
@dataclass(frozen=True, slots=True)
class ScatterND(_AbstractScatter):
    """Slices written at listed tuples of coordinates."""

    scattering: _Scattering

    @classmethod
    def from_node(cls, call: Call) -> "ScatterND":
        """Take the coordinates and what happens to old values."""
        return cls(_scattering(call, _slice_targets))

    def wanted(self, data: torch.Tensor, indices: torch.Tensor) -> torch.Size:
        """Return one slice for each tuple of coordinates."""
        return torch.Size((*indices.shape[:-1], *data.shape[indices.shape[-1] :]))
