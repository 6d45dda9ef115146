"""Global and adaptive pooling: windows that follow from the size of the input."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch.nn import functional

from lipaudit.enclosure import ONE, Enclosure
from lipaudit.graph.constant import Shape
from lipaudit.graph.node import TORCH_DOMAIN, Node
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
    Example,
    Examples,
    Gain,
    Unbounded,
    UnsupportedNode,
    example,
    unary,
)
from lipaudit.layers.operands import MOST_AXES, Inputs, Outputs, of_rank, operand
from lipaudit.layers.registry import layer

_ADAPTIVE_MAX = (
    functional.adaptive_max_pool1d,
    functional.adaptive_max_pool2d,
    functional.adaptive_max_pool3d,
)


def _global_examples(op: str, gain: float) -> Examples:
    yield example(op, (1, 2, 3, 4), exact_gain=gain)
    yield example(op, (2, 1, 5))


@layer(
    "GlobalMaxPool",
    summary="1",
    examples=lambda: _global_examples("GlobalMaxPool", 1.0),
)
@final
@dataclass(frozen=True, slots=True)
class GlobalMaxPool(AbstractGainLayer):
    """The largest item of each channel."""

    @classmethod
    def from_node(cls, call: Call) -> "GlobalMaxPool":
        """Build it: there is nothing to know."""
        del call
        return cls()

    def forward(self, inputs: Inputs) -> Outputs:
        """Take the largest item over all axes behind the channels."""
        x = of_rank(operand(inputs), 3, MOST_AXES)
        return (x.amax(tuple(range(2, x.dim())), keepdim=True),)

    @property
    def is_rising(self) -> bool:
        """See `AbstractGainLayer.is_rising`."""
        return True

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return 1: every item is in one window."""
        del shapes
        return unary(ONE, "every item is in one window")


@layer(
    "GlobalAveragePool",
    summary="1/√n of n items averaged",
    examples=lambda: _global_examples("GlobalAveragePool", 12**-0.5),
)
@final
@dataclass(frozen=True, slots=True)
class GlobalAveragePool(AbstractPositiveLayer):
    """The mean of each channel."""

    @classmethod
    def from_node(cls, call: Call) -> "GlobalAveragePool":
        """Build it: there is nothing to know."""
        del call
        return cls()

    def forward(self, inputs: Inputs) -> Outputs:
        """Average over all axes behind the channels."""
        x = of_rank(operand(inputs), 3, MOST_AXES)
        return (x.mean(tuple(range(2, x.dim())), keepdim=True),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return 1/√n; 1 where n is not known."""
        shape = shapes[0]
        items = math.prod(shape[2:]) if shape is not None else 1
        return unary(
            ONE.over(Enclosure.sqrt_of(max(items, 1))).without_lower(), "1/√n of n items averaged"
        )


def _global_lp_examples() -> Examples:
    yield example("GlobalLpPool", (1, 2, 3, 4), exact_gain=1.0)
    yield example("GlobalLpPool", (1, 2, 3, 4), p=1, exact_gain=12**0.5)
    yield example("GlobalLpPool", (2, 1, 5), p=3)


@layer("GlobalLpPool", summary="1 for p >= 2, √n for p = 1", examples=_global_lp_examples)
@final
@dataclass(frozen=True, slots=True)
class GlobalLpPool(AbstractGainLayer):
    """The ℓp norm of each channel; for its slope see `pooling.LpPool`."""

    power: int

    @classmethod
    def from_node(cls, call: Call) -> "GlobalLpPool":
        """Read p."""
        power = call.attribute("p", 2)
        if power < 1:
            raise UnsupportedNode(f"p = {power} is no norm")
        return cls(power)

    def forward(self, inputs: Inputs) -> Outputs:
        """Take the norm over all axes behind the channels."""
        x = of_rank(operand(inputs), 3, MOST_AXES)
        return (torch.linalg.vector_norm(x, self.power, tuple(range(2, x.dim())), keepdim=True),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return 1, or √n of n items for p = 1."""
        (shape,) = shapes
        if self.power > 1:
            return unary(ONE, "a norm of all items")
        if shape is None:
            return Unbounded("needs-shape", "√n of n items: the number of items is not known")
        return unary(Enclosure.sqrt_of(math.prod(shape[2:])), "√n of n items")


def _adaptive_sums(size: int, outputs: int) -> AxisMap:
    """Return the sums over torch's windows: from ⌊i n / m⌋ up to ⌈(i + 1) n / m⌉."""
    check_taps(outputs, 1)
    at = torch.arange(outputs)
    starts, ends = at * size // outputs, -(-(at + 1) * size // outputs)
    longest = int((ends - starts).max())
    check_taps(outputs, longest)
    touched = starts[:, None] + torch.arange(longest)
    return AxisMap(touched.clamp(max=max(size - 1, 0)), (touched < ends[:, None]).double(), size)


def _adaptive(outputs: tuple[int, ...], sizes: Shape) -> list[AxisMap]:
    if len(outputs) != len(sizes):
        raise ValueError(f"{len(outputs)} output sizes for {len(sizes)} spatial axes")
    return [_adaptive_sums(size, made) for size, made in zip(sizes, outputs, strict=True)]


def _adaptive_examples(op: str) -> Examples:
    for sizes, outputs in (((6, 6), (3, 2)), ((7, 5), (3, 4)), ((5,), (3,))):
        node = Node(op, op, ("x",), ("y",), {"output_size": outputs}, TORCH_DOMAIN)
        yield Example(node, ((1, 2, *sizes),), {})


@layer(
    "AdaptiveAveragePool",
    summary="product of the norms of its axes",
    examples=lambda: _adaptive_examples("AdaptiveAveragePool"),
    domain=TORCH_DOMAIN,
)
@final
@dataclass(frozen=True, slots=True)
class AdaptiveAveragePool(AbstractPositiveLayer):
    """The mean of windows that divide the input into a stated number, and may overlap."""

    outputs: tuple[int, ...]

    @classmethod
    def from_node(cls, call: Call) -> "AdaptiveAveragePool":
        """Read how many windows there are on each axis."""
        return cls(_output_size(call))

    def forward(self, inputs: Inputs) -> Outputs:
        """Average along each axis."""
        x = operand(inputs)
        if x.is_meta and x.dim() == len(self.outputs) + 2:
            return (x.new_empty(*x.shape[:2], *self.outputs),)
        return (along(x, self._maps(tuple(x.shape[2:])), 2),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return the norm of the averaging maps."""
        shape = shapes[0]
        if shape is None and set(self.outputs) == {1}:
            return unary(Enclosure.at_most(1), "1/√n of n items averaged")
        if shape is None:
            return Unbounded("needs-shape", "its windows depend on the input's size")
        try:
            return unary(norm_of(self._maps(shape[2:])), "norm of its averaging matrices")
        except TooManyTaps as error:
            return Unbounded("memory", str(error))

    def _maps(self, sizes: Shape) -> list[AxisMap]:
        return [means(one, one.weight.sum(1)) for one in _adaptive(self.outputs, sizes)]


@layer(
    "AdaptiveMaxPool",
    summary="√(most windows that share an item)",
    examples=lambda: _adaptive_examples("AdaptiveMaxPool"),
    domain=TORCH_DOMAIN,
)
@final
@dataclass(frozen=True, slots=True)
class AdaptiveMaxPool(AbstractGainLayer):
    """The largest item of windows that divide the input, and may overlap."""

    outputs: tuple[int, ...]

    @classmethod
    def from_node(cls, call: Call) -> "AdaptiveMaxPool":
        """Read how many windows there are on each axis."""
        return cls(_output_size(call))

    def forward(self, inputs: Inputs) -> Outputs:
        """Pool as torch does."""
        x = of_rank(operand(inputs), len(self.outputs) + 2)
        made = _ADAPTIVE_MAX[len(self.outputs) - 1](x, self.outputs)
        if not isinstance(made, torch.Tensor):
            raise TypeError("the positions of the largest items were not asked for")
        return (made,)

    @property
    def is_rising(self) -> bool:
        """See `AbstractGainLayer.is_rising`."""
        return True

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return √(most windows that share an item)."""
        shape = shapes[0]
        if shape is None and set(self.outputs) == {1}:
            return unary(ONE, "every item is in one window")
        if shape is None:
            return Unbounded("needs-shape", "its windows depend on the input's size")
        try:
            copies = copies_of(_adaptive(self.outputs, shape[2:]))
        except TooManyTaps as error:
            return Unbounded("memory", str(error))
        return unary(
            Enclosure.sqrt_of(copies).without_lower(), f"an item is in at most {copies} windows"
        )


def _output_size(call: Call) -> tuple[int, ...]:
    sizes = call.whole_numbers("output_size")
    if not 1 <= len(sizes) <= 3 or min(sizes) < 1:
        raise UnsupportedNode("an output size that is not stated for 1 to 3 axes")
    return sizes
