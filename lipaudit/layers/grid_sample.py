"""GridSample: a picture read at positions between its pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch.nn import functional

from lipaudit.graph.constant import Shape
from lipaudit.layers.base import (
    AbstractGainLayer,
    Call,
    Examples,
    Gain,
    Unbounded,
    UnsupportedNode,
    example,
)
from lipaudit.layers.operands import Inputs, Outputs, operands
from lipaudit.layers.registry import layer

_MODES = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}
_EDGES = {"zeros", "border", "reflection"}


def _examples() -> Examples:
    grid = torch.linspace(-1.2, 1.1, 24).reshape(1, 3, 4, 2)
    for mode in _MODES:
        yield example("GridSample", (1, 2, 4, 5), constants={1: grid}, mode=mode)
    for edges in ("border", "reflection"):
        yield example("GridSample", (1, 2, 4, 5), (1, 3, 4, 2), padding_mode=edges, align_corners=1)


@layer("GridSample", summary="none", examples=_examples)
@final
@dataclass(frozen=True, slots=True)
class GridSample(AbstractGainLayer):
    """Interpolation at the positions of a second input."""

    mode: str
    edges: str
    aligned: bool
    is_grid_stored: bool

    @classmethod
    def from_node(cls, call: Call) -> "GridSample":
        """Read how positions between pixels and outside are handled."""
        mode, edges = call.attribute("mode", "linear"), call.attribute("padding_mode", "zeros")
        if mode not in _MODES or edges not in _EDGES:
            raise UnsupportedNode(f"mode {mode!r} with edges {edges!r}")
        return cls(mode, edges, bool(call.attribute("align_corners", 0)), 1 in call.constants)

    def forward(self, inputs: Inputs) -> Outputs:
        """Interpolate."""
        picture, grid = operands(inputs)
        mode = _MODES[self.mode]
        return (functional.grid_sample(picture, grid, mode, self.edges, self.aligned),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """State that there is no finite constant.

        Moving a position by δ changes the result by δ times the contrast of the picture. Even
        with stored positions, how many of them read one pixel is not bounded here.
        """
        del shapes
        if self.is_grid_stored:
            return Unbounded("unsupported", "how often each pixel is read is not worked out")
        return Unbounded("bilinear", "its slope in the positions is the contrast of the picture")
