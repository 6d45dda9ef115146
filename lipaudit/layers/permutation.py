"""Layers that permute the items of a signal in a pattern of their own: isometries."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from lipaudit.enclosure import ONE
from lipaudit.graph.constant import Shape
from lipaudit.layers.base import (
    MOVED,
    AbstractPositiveLayer,
    Call,
    Examples,
    Folding,
    Gain,
    Unbounded,
    UnsupportedNode,
    example,
    unary,
)
from lipaudit.layers.operands import Inputs, Outputs, operand
from lipaudit.layers.registry import layer


class _AbstractPermutation(AbstractPositiveLayer):
    """A layer that gives each item of its signal one new place."""

    folding: ClassVar[Folding] = MOVED

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return 1: ‖P d‖ = ‖d‖."""
        del shapes
        return unary(ONE, "permutes its items")


def _depth_to_space_examples() -> Examples:
    yield example("DepthToSpace", (1, 8, 2, 3), blocksize=2, exact_gain=1.0)
    yield example("DepthToSpace", (2, 8, 2, 3), blocksize=2, mode="CRD", exact_gain=1.0)


@layer("DepthToSpace", summary="1", examples=_depth_to_space_examples)
@final
@dataclass(frozen=True, slots=True)
class DepthToSpace(_AbstractPermutation):
    """Channels moved into blocks of pixels (pixel shuffle)."""

    block: int
    depth_first: bool
    """ONNX's mode DCR: the block is the slower part of the channel index; else CRD, as torch."""

    @classmethod
    def from_node(cls, call: Call) -> "DepthToSpace":
        """Read block size and mode."""
        return cls(_block(call), call.attribute("mode", "DCR") == "DCR")

    def forward(self, inputs: Inputs) -> Outputs:
        """Move the items; the formula is ONNX's reference implementation."""
        x = operand(inputs, 0)
        n, c, h, w = x.shape
        b = self.block
        if self.depth_first:
            split = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
        else:
            split = x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
        return (split.reshape(n, c // b**2, h * b, w * b),)


def _space_to_depth_examples() -> Examples:
    yield example("SpaceToDepth", (1, 2, 4, 6), blocksize=2, exact_gain=1.0)


@layer("SpaceToDepth", summary="1", examples=_space_to_depth_examples)
@final
@dataclass(frozen=True, slots=True)
class SpaceToDepth(_AbstractPermutation):
    """Blocks of pixels moved into channels."""

    block: int

    @classmethod
    def from_node(cls, call: Call) -> "SpaceToDepth":
        """Read the block size."""
        return cls(_block(call))

    def forward(self, inputs: Inputs) -> Outputs:
        """Move the items; the block is the slower part of the new channel index."""
        x = operand(inputs, 0)
        n, c, h, w = x.shape
        b = self.block
        split = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
        return (split.reshape(n, c * b**2, h // b, w // b),)


def _block(call: Call) -> int:
    block = call.attribute("blocksize", 0)
    if block < 1:
        raise UnsupportedNode(f"a block size of {block}")
    return block


def _reverse_examples() -> Examples:
    lengths = {1: torch.tensor([1, 3, 2, 4])}
    yield example("ReverseSequence", (4, 4), constants=lengths, exact_gain=1.0)
    yield example(
        "ReverseSequence",
        (4, 5, 2),
        constants=lengths,
        batch_axis=0,
        time_axis=1,
        exact_gain=1.0,
    )


@layer("ReverseSequence", summary="1", examples=_reverse_examples)
@final
@dataclass(frozen=True, slots=True)
class ReverseSequence(_AbstractPermutation):
    """The first items of each sequence of a batch in reverse order."""

    lengths: tuple[int, ...]
    batch_axis: int
    time_axis: int

    @classmethod
    def from_node(cls, call: Call) -> "ReverseSequence":
        """Read the axes, and the lengths off the second input."""
        lengths = call.weight(1, "the lengths").integers()
        axes = call.attribute("batch_axis", 1), call.attribute("time_axis", 0)
        if set(axes) != {0, 1}:
            raise UnsupportedNode(f"batch and time axes {axes}")
        return cls(lengths, *axes)

    def forward(self, inputs: Inputs) -> Outputs:
        """Reorder each sequence by its own list of times."""
        x = operand(inputs, 0).movedim((self.time_axis, self.batch_axis), (0, 1))
        if len(self.lengths) != x.shape[1] or not all(0 < n <= x.shape[0] for n in self.lengths):
            raise ValueError(f"lengths {list(self.lengths)} for {x.shape[1]} of {x.shape[0]}")
        time = torch.arange(x.shape[0], device=x.device)[:, None]
        length = torch.tensor(self.lengths, device=x.device)[None, :]
        order = torch.where(time < length, length - 1 - time, time)
        batch = torch.arange(x.shape[1], device=x.device)[None, :]
        return (x[order, batch].movedim((0, 1), (self.time_axis, self.batch_axis)),)
