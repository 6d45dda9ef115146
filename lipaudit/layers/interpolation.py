"""Interpolation: Resize, a small matrix for each axis that changes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from lipaudit.layers.axis_maps import AxisMap, check_taps
from lipaudit.operators.certify import UNIT

_NEAREST: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = MappingProxyType(
    {
        "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
        "floor": torch.floor,
        "ceil": torch.ceil,
    }
)


@dataclass(frozen=True, slots=True)
class Resizing:
    """One axis that is resized: from how many items to how many, at which scale."""

    size: int
    made: int
    scale: float
    region: tuple[float, float] = (0.0, 1.0)
    """Start and end of the part that is taken, as shares of the axis (tf_crop_and_resize)."""


@dataclass(frozen=True, slots=True)
class Interpolation:
    """ONNX's attributes of Resize that decide where results lie and what they weigh."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    drops_outside: bool

    @property
    def is_known(self) -> bool:
        """Whether all attributes have values that ONNX defines."""
        return (
            self.mode in {"nearest", "linear", "cubic"}
            and self.coordinates in _POSITIONS
            and self.nearest in _NEAREST
        )

    @property
    def crops(self) -> bool:
        """Whether results outside of the input get a constant."""
        return self.coordinates == "tf_crop_and_resize"

    def positions(self, axis: Resizing) -> torch.Tensor:
        """Return where each result falls on the input axis."""
        # Nearest neighbours depend on ties, which runtimes break in float32.
        dtype = torch.float32 if self.mode == "nearest" else torch.float64
        return _POSITIONS[self.coordinates](torch.arange(axis.made, dtype=dtype), axis)

    def outside(self, axis: Resizing) -> torch.Tensor:
        """Tell which results lie outside of the input."""
        check_taps(axis.made, 1)
        at = self.positions(axis)
        return (at < 0) | (at > axis.size - 1)

    def map(self, axis: Resizing) -> AxisMap:
        """Return the matrix of one axis, 0 for results that get a constant."""
        check_taps(axis.made, 4)
        at = self.positions(axis)
        if self.mode == "nearest":
            index = _NEAREST[self.nearest](at).long()[:, None]
            weight, error = torch.ones(index.shape, dtype=torch.float64), 0.0
        else:
            index, weight = self._taps(at)
            # A position is off by a few u times the size, and no weight is steeper than 4 in it
            # for |a| <= 1; renormalizing at most doubles that.
            steepness = 8.0 * (1.0 + abs(self.cubic))
            error = 8.0 * steepness * UNIT * (axis.size + axis.made + 4)
        if self.drops_outside and self.mode == "cubic":
            inside = (index >= 0) & (index < axis.size)
            weight = weight * inside
            weight = weight / weight.sum(1, keepdim=True)
        if self.crops:
            weight = weight * ~self.outside(axis)[:, None]
        return AxisMap(index.clamp(0, max(axis.size - 1, 0)), weight, axis.size, error)

    def _taps(self, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = torch.floor(at)
        reach = (0, 1) if self.mode == "linear" else (-1, 0, 1, 2)
        index = first[:, None] + torch.tensor(reach)
        distance = (at[:, None] - index).abs()
        weight = 1.0 - distance if self.mode == "linear" else self._cubic(distance)
        return index.long(), weight

    def _cubic(self, x: torch.Tensor) -> torch.Tensor:
        """Return the weights of taps at these distances, all below 2 (Keys 1981)."""
        a = self.cubic
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = (((x - 5) * x + 8) * x - 4) * a
        return torch.where(x <= 1, near, far)


def _align_corners(at: torch.Tensor, axis: Resizing) -> torch.Tensor:
    return at * (axis.size - 1) / (axis.made - 1) if axis.made > 1 else at * 0


def _half_pixel(at: torch.Tensor, axis: Resizing) -> torch.Tensor:
    return (at + 0.5) / axis.scale - 0.5


def _pytorch_half_pixel(at: torch.Tensor, axis: Resizing) -> torch.Tensor:
    return _half_pixel(at, axis) if axis.made > 1 else at * 0


def _half_pixel_symmetric(at: torch.Tensor, axis: Resizing) -> torch.Tensor:
    # The results are centred on the input although their number was rounded down.
    rounded_away = 1 - axis.made / (axis.scale * axis.size)
    return _half_pixel(at, axis) + axis.size / 2 * rounded_away


def _asymmetric(at: torch.Tensor, axis: Resizing) -> torch.Tensor:
    return at / axis.scale


def _crop_and_resize(at: torch.Tensor, axis: Resizing) -> torch.Tensor:
    start, end = axis.region
    if axis.made <= 1:
        return at * 0 + 0.5 * (start + end) * (axis.size - 1)
    return start * (axis.size - 1) + at * (end - start) * (axis.size - 1) / (axis.made - 1)


# The formulas of ONNX's Resize, attribute coordinate_transformation_mode.
_POSITIONS: Mapping[str, Callable[[torch.Tensor, Resizing], torch.Tensor]] = MappingProxyType(
    {
        "align_corners": _align_corners,
        "asymmetric": _asymmetric,
        "half_pixel": _half_pixel,
        "half_pixel_symmetric": _half_pixel_symmetric,
        "pytorch_half_pixel": _pytorch_half_pixel,
        "tf_crop_and_resize": _crop_and_resize,
    }
)


def made_size(size: int, scale: float) -> int:
    """Return how many items an axis has after scaling, rounded as runtimes do in float32."""
    return math.floor(float(torch.tensor(size, dtype=torch.float32) * scale))
