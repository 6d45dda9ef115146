"""Pooling: the largest, the mean or the norm of the items in each window."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch.nn import functional

from lipaudit.enclosure import Enclosure
from lipaudit.graph.constant import Shape
from lipaudit.layers.axis_maps import (
    AxisMap,
    TooManyTaps,
    along,
    check_taps,
    copies_of,
    means,
    norm_of,
)
from lipaudit.layers.base import (
    AbstractGainLayer,
    AbstractPositiveLayer,
    Call,
    Examples,
    Gain,
    Unbounded,
    UnsupportedNode,
    example,
    unary,
)
from lipaudit.layers.operands import Inputs, Outputs, operand
from lipaudit.layers.registry import layer
from lipaudit.layers.windows import Windows

_MAX = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)


def _windows(call: Call) -> Windows:
    return Windows.of(call, call.whole_numbers("kernel_shape"))


def _sums(windows: Windows, sizes: Shape) -> list[AxisMap]:
    """Return, for each axis, the map that sums the items of every window."""
    counts, pads = windows.counts_on(sizes), windows.pads_on(sizes)
    maps = []
    for axis, size in enumerate(sizes):
        check_taps(counts[axis], windows.sizes[axis])
        starts = torch.arange(counts[axis]) * windows.strides[axis] - pads[axis][0]
        touched = starts[:, None] + torch.arange(windows.sizes[axis]) * windows.dilations[axis]
        inside = (touched >= 0) & (touched < size)
        maps.append(AxisMap(touched.clamp(0, max(size - 1, 0)), inside.double(), size))
    return maps


def _size_free_copies(windows: Windows) -> int:
    """Bound in how many windows one item can be, whatever the size of the input.

    Item p is tap t of window j when j·stride + t·dilation = p (pads shift p). So t has a given
    residue modulo stride / gcd(stride, dilation), which that share of the taps has, rounded up.
    """
    copies = 1
    for size, stride, step in zip(windows.sizes, windows.strides, windows.dilations, strict=True):
        copies *= -(-size // (stride // math.gcd(stride, step)))
    return copies


def _hollow(x: torch.Tensor, windows: Windows) -> torch.Tensor:
    """Return a result of the right shape and type without values."""
    return x.new_empty(*x.shape[:2], *windows.counts_on(tuple(x.shape[2:])))


def _copies(windows: Windows, shape: Shape | None) -> int:
    """Return in how many windows one item is at most."""
    if shape is None:
        return _size_free_copies(windows)
    try:
        return copies_of(_sums(windows, shape[2:]))
    except TooManyTaps:
        return _size_free_copies(windows)


def _max_examples() -> Examples:
    # k 3, stride 2, padding 1: an item can be in 2 x 2 windows, so that √4 is attained.
    yield example(
        "MaxPool", (1, 2, 7, 7), kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1),
        exact_gain=2.0,
    )  # fmt: skip
    yield example("MaxPool", (1, 1, 6, 6), kernel_shape=(3, 3), exact_gain=3.0)
    yield example("MaxPool", (1, 3, 8), kernel_shape=(2,), strides=(2,), exact_gain=1.0)
    yield example(
        "MaxPool", (1, 1, 8, 8), kernel_shape=(3, 2), strides=(2, 3), dilations=(2, 1),
        pads=(1, 0, 0, 1), ceil_mode=1,
    )  # fmt: skip
    yield example(
        "MaxPool", (1, 1, 5, 7), kernel_shape=(3, 3), strides=(2, 2), auto_pad="SAME_UPPER"
    )


@layer("MaxPool", summary="√(most windows that share an item)", examples=_max_examples)
@final
@dataclass(frozen=True, slots=True)
class MaxPool(AbstractGainLayer):
    """The largest item of each window.

    Each result moves by at most the largest move in its window, whose square is at most the sum
    of squares there; an item is counted once for every window that it is in.
    """

    windows: Windows

    @classmethod
    def from_node(cls, call: Call) -> "MaxPool":
        """Read the windows; the positions of the largest items are not offered."""
        if len([name for name in call.node.outputs if name]) > 1:
            raise UnsupportedNode("it also returns where the largest items are")
        return cls(_windows(call))

    def forward(self, inputs: Inputs) -> Outputs:
        """Pad with what never wins, and pool without padding."""
        x = operand(inputs)
        sizes = tuple(x.shape[2:])
        work = x if x.is_floating_point() else x.to(torch.float64)
        padded = functional.pad(work, _flat_pads(self.windows, sizes), value=-math.inf)
        made = _MAX[len(sizes) - 1](
            padded, self.windows.sizes, self.windows.strides, 0, self.windows.dilations
        )
        return (made.to(x.dtype),)

    @property
    def is_rising(self) -> bool:
        """See `AbstractGainLayer.is_rising`."""
        return True

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return √(most windows that share an item)."""
        copies = _copies(self.windows, shapes[0])
        return unary(
            Enclosure.sqrt_of(copies).without_lower(), f"an item is in at most {copies} windows"
        )


def _flat_pads(windows: Windows, sizes: Shape) -> list[int]:
    """Return the padding, from the last axis on, after which the windows fit exactly.

    Negative at the end where the last items are in no window.
    """
    counts, pads = windows.counts_on(sizes), windows.pads_on(sizes)
    flat: list[int] = []
    for axis in reversed(range(len(sizes))):
        needed = (counts[axis] - 1) * windows.strides[axis] + windows.reaches[axis]
        flat += [pads[axis][0], needed - sizes[axis] - pads[axis][0]]
    return flat


def _average_examples() -> Examples:
    yield example("AveragePool", (1, 2, 6, 6), kernel_shape=(2, 2), strides=(2, 2), exact_gain=0.5)
    for counted in (0, 1):
        yield example(
            "AveragePool", (1, 1, 7, 7), kernel_shape=(2, 2), pads=(1, 1, 1, 1),
            count_include_pad=counted,
        )  # fmt: skip
    yield example(
        "AveragePool", (1, 2, 8), kernel_shape=(3,), strides=(2,), ceil_mode=1, pads=(1, 1)
    )


@layer("AveragePool", summary="product of the norms of its axes", examples=_average_examples)
@final
@dataclass(frozen=True, slots=True)
class AveragePool(AbstractPositiveLayer):
    """The mean of each window: a product of one averaging map for each axis.

    The divisor of a window is the product of its counts on the axes, with the padding counted
    or not, so that the maps separate either way.
    """

    windows: Windows
    counts_pads: bool

    @classmethod
    def from_node(cls, call: Call) -> "AveragePool":
        """Read the windows and what the means are divided by."""
        return cls(_windows(call), bool(call.attribute("count_include_pad", 0)))

    def forward(self, inputs: Inputs) -> Outputs:
        """Average along each axis."""
        x = operand(inputs)
        if x.is_meta:
            return (_hollow(x, self.windows),)
        return (along(x, self._maps(tuple(x.shape[2:])), 2),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return the norm of the averaging maps, or a bound of it for every size."""
        (shape,) = shapes
        try:
            if shape is not None:
                return unary(norm_of(self._maps(shape[2:])), "norm of its averaging matrices")
        except TooManyTaps:
            return self._size_free()
        return self._size_free()

    def _size_free(self) -> Gain:
        """Bound the norm for every size of the input."""
        # ‖A‖² <= ‖A‖₁‖A‖∞; rows sum to at most 1, columns to copies times the largest entry.
        copies = _size_free_copies(self.windows)
        plain = not self.windows.rounds_up and (
            self.counts_pads or not any(map(any, self.windows.pads))
        )
        entry = math.prod(self.windows.sizes) if plain and not self.windows.is_same else 1
        bound = Enclosure.exactly(copies).over(Enclosure.exactly(entry)).sqrt()
        return unary(bound.without_lower(), "rows and columns of its averaging matrices, any size")

    def _maps(self, sizes: Shape) -> list[AxisMap]:
        sums = _sums(self.windows, sizes)
        if not self.counts_pads:
            return [means(one, one.weight.sum(1)) for one in sums]
        pads = self.windows.pads_on(sizes)
        return [means(one, self._counted(axis, pads[axis], one)) for axis, one in enumerate(sums)]

    def _counted(self, axis: int, pad: tuple[int, int], sums: AxisMap) -> torch.Tensor:
        """Count each window's items, those in the padding included, those past it not."""
        starts = torch.arange(sums.index.shape[0]) * self.windows.strides[axis]
        steps = torch.arange(self.windows.sizes[axis]) * self.windows.dilations[axis]
        return (starts[:, None] + steps < sums.size + sum(pad)).double().sum(1)


def _lp_examples() -> Examples:
    yield example("LpPool", (1, 2, 6, 6), kernel_shape=(2, 2), strides=(2, 2), p=2, exact_gain=1.0)
    yield example("LpPool", (1, 1, 7), kernel_shape=(3,), p=1)


@layer("LpPool", summary="√(most windows that share an item), p >= 2", examples=_lp_examples)
@final
@dataclass(frozen=True, slots=True)
class LpPool(AbstractGainLayer):
    """The ℓp norm of each window.

    | ‖a‖_p - ‖b‖_p | <= ‖a - b‖_p, which is at most ‖a - b‖_2 for p >= 2 and at most √k times
    that for p = 1 on k items.
    """

    windows: Windows
    power: int

    @classmethod
    def from_node(cls, call: Call) -> "LpPool":
        """Read the windows and p."""
        power = call.attribute("p", 2)
        if power < 1:
            raise UnsupportedNode(f"p = {power} is no norm")
        return cls(_windows(call), power)

    def forward(self, inputs: Inputs) -> Outputs:
        """Sum the powers in each window and take the root."""
        x = operand(inputs)
        if x.is_meta:
            return (_hollow(x, self.windows),)
        sums = along(x.abs() ** self.power, _sums(self.windows, tuple(x.shape[2:])), 2)
        return (sums ** (1.0 / self.power),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return √(most windows that share an item), times √k for p = 1."""
        copies = _copies(self.windows, shapes[0])
        items = math.prod(self.windows.sizes) if self.power == 1 else 1
        return unary(
            Enclosure.sqrt_of(copies * items).without_lower(),
            f"an item is in at most {copies} windows",
        )
