"""Layers whose output items are items of their signal, or 0: selections, perhaps repeated."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, final

import torch

from lipaudit.enclosure import Enclosure
from lipaudit.graph.constant import Shape
from lipaudit.layers.base import (
    COPIED,
    AbstractGainLayer,
    AbstractPositiveLayer,
    Call,
    Examples,
    Folding,
    Gain,
    Unbounded,
    UnsupportedNode,
    ValuesNeeded,
    example,
    unary,
)
from lipaudit.layers.operands import Inputs, Outputs, operand
from lipaudit.layers.registry import layer


class _AbstractSelection(AbstractPositiveLayer):
    """A layer that keeps some items of its signal, each at most once."""

    folding: ClassVar[Folding] = COPIED

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return at most 1: ‖S d‖ <= ‖d‖ when the rows of S are different unit vectors."""
        del shapes
        return unary(Enclosure.at_most(1), "keeps items, each at most once")


def _slice_examples() -> Examples:
    yield example(
        "Slice",
        (4, 5),
        constants={1: torch.tensor([1, 0]), 2: torch.tensor([3, 99])},
        exact_gain=1.0,
    )
    backwards = {
        1: torch.tensor([-1]),
        2: torch.tensor([-99]),
        3: torch.tensor([1]),
        4: torch.tensor([-2]),
    }
    yield example("Slice", (4, 5), constants=backwards, exact_gain=1.0)


@layer("Slice", summary="<= 1", examples=_slice_examples)
@final
@dataclass(frozen=True, slots=True)
class Slice(_AbstractSelection):
    """Every so-manieth item between two positions, on some axes."""

    cuts: tuple[tuple[int, int, int, int], ...]
    """Axis, start, end, step."""

    @classmethod
    def from_node(cls, call: Call) -> "Slice":
        """Read starts, ends, axes and steps off the inputs."""
        starts = call.weight(1, "the starts").integers()
        ends = call.weight(2, "the ends").integers()
        axes = call.integers(3) or tuple(range(len(starts)))
        steps = call.integers(4) or (1,) * len(starts)
        if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
            raise UnsupportedNode("its starts, ends, axes and steps do not match")
        return cls(tuple(zip(axes, starts, ends, steps, strict=True)))

    def forward(self, inputs: Inputs) -> Outputs:
        """Cut axis by axis."""
        x = operand(inputs)
        for axis, *cut in self.cuts:
            kept = _kept(x.shape[axis], *cut)
            if kept.step == 1 or not kept:
                x = x.narrow(axis, kept.start if kept else 0, len(kept))
            else:
                picked = torch.arange(kept.start, kept.stop, kept.step, device=x.device)
                x = x.index_select(axis, picked)
        return (x,)


def _kept(size: int, start: int, end: int, step: int) -> range:
    """Return the positions that are kept of an axis.

    ONNX counts negative bounds from the end and clamps them; unlike Python it clamps the start
    of a backward slice to the first item, not to before it.
    """
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    if not size:
        return range(0)
    if step > 0:
        return range(min(max(start, 0), size), min(max(end, 0), size), step)
    return range(min(max(start, 0), size - 1), min(max(end, -1), size - 1), step)


def _split_examples() -> Examples:
    yield example("Split", (4, 5), constants={1: torch.tensor([1, 3])}, outputs=2, exact_gain=1.0)
    yield example("Split", (4, 5), axis=1, num_outputs=2, outputs=2, exact_gain=1.0)


@layer("Split", summary="<= 1 for each part", examples=_split_examples)
@final
@dataclass(frozen=True, slots=True)
class Split(_AbstractSelection):
    """The signal cut into consecutive parts along one axis."""

    axis: int
    sizes: tuple[int, ...] | None
    parts: int

    @classmethod
    def from_node(cls, call: Call) -> "Split":
        """Read the sizes, or into how many equal parts to cut."""
        parts = call.attribute("num_outputs", len(call.node.outputs))
        if parts != len(call.node.outputs):
            raise UnsupportedNode(f"{parts} parts for {len(call.node.outputs)} outputs")
        return cls(call.attribute("axis", 0), call.integers(1), parts)

    def forward(self, inputs: Inputs) -> Outputs:
        """Cut; without stated sizes the last part is the one that may be smaller."""
        x = operand(inputs)
        size = x.shape[self.axis]
        sizes = self.sizes
        if sizes is None:
            each = -(-size // max(self.parts, 1))
            sizes = tuple(max(min(each, size - each * part), 0) for part in range(self.parts))
        if sum(sizes) != size or min(sizes, default=0) < 0:
            raise ValueError(f"cannot cut {size} items into {list(sizes)}")
        starts = accumulate(sizes, initial=0)
        return tuple(x.narrow(self.axis, *part) for part in zip(starts, sizes, strict=False))


def _compress_examples() -> Examples:
    chosen = {1: torch.tensor([False, True, True])}
    yield example("Compress", (3, 2), constants=chosen, axis=0, exact_gain=1.0)
    yield example("Compress", (3, 2), constants=chosen, exact_gain=1.0)


@layer("Compress", summary="<= 1", examples=_compress_examples)
@final
@dataclass(frozen=True, slots=True)
class Compress(_AbstractSelection):
    """The slices along an axis (or items of the flat signal) that a stored condition marks."""

    chosen: tuple[int, ...]
    axis: int | None

    @classmethod
    def from_node(cls, call: Call) -> "Compress":
        """Read the condition off the second input."""
        marks = call.weight(1, "the condition").integers()
        axis = call.attribute("axis", 0) if call.has("axis") else None
        return cls(tuple(at for at, mark in enumerate(marks) if mark), axis)

    def forward(self, inputs: Inputs) -> Outputs:
        """Keep what is marked."""
        x = operand(inputs)
        flat, axis = (x.flatten(), 0) if self.axis is None else (x, self.axis)
        return (
            flat.index_select(axis, torch.tensor(self.chosen, dtype=torch.int64, device=x.device)),
        )


def _trilu_examples() -> Examples:
    yield example("Trilu", (3, 4), exact_gain=1.0)
    yield example("Trilu", (2, 3, 4), constants={1: torch.tensor(-1)}, upper=0, exact_gain=1.0)


@layer("Trilu", summary="<= 1", examples=_trilu_examples)
@final
@dataclass(frozen=True, slots=True)
class Trilu(_AbstractSelection):
    """The upper or lower triangle of matrices, zeros elsewhere."""

    upper: bool
    diagonal: int

    @classmethod
    def from_node(cls, call: Call) -> "Trilu":
        """Read which triangle, and the diagonal off the second input."""
        diagonal = call.integers(1) or (0,)
        return cls(bool(call.attribute("upper", 1)), diagonal[0])

    def forward(self, inputs: Inputs) -> Outputs:
        """Put zeros elsewhere."""
        x = operand(inputs)
        return (x.triu(self.diagonal) if self.upper else x.tril(self.diagonal),)


def _crop_pad_examples() -> Examples:
    yield example("CenterCropPad", (5, 2), constants={1: torch.tensor([2, 5])}, exact_gain=1.0)
    yield example(
        "CenterCropPad", (2, 5, 4), constants={1: torch.tensor([8])}, axes=(1,), exact_gain=1.0
    )


@layer("CenterCropPad", summary="<= 1", examples=_crop_pad_examples)
@final
@dataclass(frozen=True, slots=True)
class CenterCropPad(_AbstractSelection):
    """The signal cut or filled up with zeros around its centre to a stated shape."""

    sizes: tuple[int, ...]
    axes: tuple[int, ...] | None

    @classmethod
    def from_node(cls, call: Call) -> "CenterCropPad":
        """Read the sizes off the second input."""
        nothing: tuple[int, ...] = ()
        axes = call.attribute("axes", nothing) if call.has("axes") else None
        return cls(call.weight(1, "the shape").integers(), axes)

    def forward(self, inputs: Inputs) -> Outputs:
        """Cut or fill axis by axis; of an odd difference the larger half is behind."""
        x = operand(inputs)
        axes = range(x.ndim) if self.axes is None else self.axes
        for axis, size in zip(axes, self.sizes, strict=True):
            excess = x.shape[axis] - size
            if excess >= 0:
                x = x.narrow(axis, excess // 2, size)
                continue
            before, shape = -excess // 2, list(x.shape)
            fillers = []
            for length in (before, -excess - before):
                shape[axis] = length
                fillers.append(x.new_zeros(shape))
            x = torch.cat([fillers[0], x, fillers[1]], axis)
        return (x,)


def _non_zero_examples() -> Examples:
    yield example("NonZero", (2, 3))


@layer("NonZero", summary="none: discontinuous", examples=_non_zero_examples)
@final
@dataclass(frozen=True, slots=True)
class NonZero(AbstractGainLayer):
    """Where a signal is not 0: a list whose very length depends on the values."""

    @classmethod
    def from_node(cls, call: Call) -> "NonZero":
        """Build it: there is nothing to know."""
        del call
        return cls()

    def forward(self, inputs: Inputs) -> Outputs:
        """List the coordinates, one row an axis."""
        x = operand(inputs)
        if x.is_meta:
            raise ValuesNeeded
        return (x.nonzero().T,)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Nothing: a list grows by one item when a value leaves 0."""
        del shapes
        return Unbounded("discontinuous", "it lists where its signal is not 0")
