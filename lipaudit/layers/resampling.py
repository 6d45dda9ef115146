"""Resampling: resizing and padding, as maps along each axis."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, final

import torch
from torch.nn import functional

from lipaudit.enclosure import ONE, Enclosure
from lipaudit.graph.constant import Shape
from lipaudit.layers.axis_maps import (
    AxisMap,
    TooManyTaps,
    check_taps,
    copies_of,
    norm_of,
    selecting,
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
from lipaudit.layers.interpolation import Interpolation, Resizing, made_size
from lipaudit.layers.operands import Inputs, Outputs, axis_of, operand
from lipaudit.layers.registry import layer


def _resize_examples() -> Examples:
    doubled = torch.tensor([1.0, 1.0, 2.0, 2.0])
    yield example("Resize", (1, 1, 4, 5), constants={2: doubled}, mode="nearest", exact_gain=2.0)
    coordinates = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners")
    for mode in ("linear", "cubic", "nearest"):
        for where in (*coordinates, "asymmetric"):
            for wanted in (
                {3: torch.tensor([1, 1, 7, 3])},
                {2: torch.tensor([1.0, 1.0, 2.3, 0.6])},
            ):
                yield example(
                    "Resize", (1, 1, 4, 5), constants=wanted, mode=mode,
                    coordinate_transformation_mode=where,
                )  # fmt: skip
    for nearest in ("round_prefer_ceil", "floor", "ceil"):
        yield example(
            "Resize", (1, 1, 6), constants={2: torch.tensor([1.0, 1.0, 0.8])},
            coordinate_transformation_mode="asymmetric", nearest_mode=nearest,
        )  # fmt: skip
    yield example(
        "Resize", (1, 1, 4, 4), constants={2: torch.tensor([1.5, 1.5])}, axes=(2, 3), mode="cubic",
        cubic_coeff_a=-0.5, exclude_outside=1,
    )  # fmt: skip
    region = torch.tensor([0.0, 0.0, 0.2, -0.1, 1.0, 1.0, 0.7, 1.2])
    yield example(
        "Resize", (1, 1, 4, 5), constants={1: region, 3: torch.tensor([1, 1, 3, 6])}, mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=10.0,
    )  # fmt: skip
    for policy in ("not_larger", "not_smaller"):
        yield example(
            "Resize", (1, 1, 4, 5), constants={3: torch.tensor([7, 8])}, axes=(2, 3),
            mode="linear", keep_aspect_ratio_policy=policy,
        )  # fmt: skip


def _rule(call: Call) -> Interpolation:
    rule = Interpolation(
        call.attribute("mode", "nearest"),
        call.attribute("coordinate_transformation_mode", "half_pixel"),
        call.attribute("nearest_mode", "round_prefer_floor"),
        call.attribute("cubic_coeff_a", -0.75),
        bool(call.attribute("exclude_outside", 0)),
    )
    if not rule.is_known:
        raise UnsupportedNode(f"mode {rule.mode!r} with coordinates {rule.coordinates!r}")
    if call.attribute("antialias", 0):
        raise UnsupportedNode("antialiasing")
    return rule


def _floats(call: Call, position: int, what: str) -> tuple[float, ...]:
    if not call.given(position):
        return ()
    return tuple(map(float, call.weight(position, what).values().flatten().tolist()))


# How an asked-for size turns into one scale for all axes.
_POLICIES: Mapping[str, Callable[[float, float], float] | None] = {
    "stretch": None,
    "not_larger": min,
    "not_smaller": max,
}


@layer("Resize", summary="product of the norms of its axes", examples=_resize_examples)
@final
@dataclass(frozen=True, slots=True)
class Resize(AbstractGainLayer):
    """Interpolation: one small matrix for each axis that changes."""

    rule: Interpolation
    axes: tuple[int, ...]
    """Axes that sizes, scales and regions speak of; empty: all."""
    scales: tuple[float, ...]
    sizes: tuple[int, ...]
    region: tuple[float, ...]
    """All starts before all ends; empty: everything."""
    outside: float
    """Value of results outside of the input."""
    policy: Callable[[float, float], float] | None

    @classmethod
    def from_node(cls, call: Call) -> "Resize":
        """Read the rule; refuse what is not a fixed separable map."""
        policy = call.attribute("keep_aspect_ratio_policy", "stretch")
        rule = _rule(call)
        sizes = call.integers(3) or ()
        scales = () if sizes else _floats(call, 2, "the scale")
        region = _floats(call, 1, "the region") if rule.crops else ()
        if policy not in _POLICIES or not (sizes or scales):
            raise UnsupportedNode("neither sizes nor scales, or an unknown policy")
        if min((*sizes, *scales)) <= 0 or len(region) not in {0, 2 * len(sizes or scales)}:
            raise UnsupportedNode("sizes, scales or regions that make no sense")
        return cls(
            rule,
            call.whole_numbers("axes"),
            scales,
            sizes,
            region,
            call.attribute("extrapolation_value", 0.0),
            _POLICIES[policy] if sizes else None,
        )

    def forward(self, inputs: Inputs) -> Outputs:
        """Interpolate along each axis."""
        x = operand(inputs)
        resized = self._resized(tuple(x.shape))
        if x.is_meta:
            made = {axis: one.made for axis, one in resized.items()}
            return (x.new_empty([made.get(axis, size) for axis, size in enumerate(x.shape)]),)
        for axis, one in resized.items():
            x = self.rule.map(one).along(x, axis)
        if not self.rule.crops:
            return (x,)
        for axis, one in resized.items():
            lost = self.rule.outside(one).to(x.device)
            behind = (1,) * (x.dim() - axis - 1)
            x = torch.where(lost.reshape(-1, *behind), torch.full_like(x, self.outside), x)
        return (x,)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return the product of the norms of the axes."""
        (shape,) = shapes
        if shape is None:
            return Unbounded("needs-shape", "its weights depend on the input's size")
        try:
            maps = [self.rule.map(one) for one in self._resized(shape).values()]
        except TooManyTaps as error:
            return Unbounded("memory", str(error))
        if self.rule.mode == "nearest":
            # One item a result: the columns are orthogonal, the longest is the norm.
            return unary(Enclosure.sqrt_of(copies_of(maps)), "√copies of one item")
        return unary(norm_of(maps), "norm of its interpolation matrices")

    def _resized(self, shape: Shape) -> dict[int, Resizing]:
        """Return what happens to each axis that changes."""
        axes = [axis_of(axis, len(shape)) for axis in self.axes] or list(range(len(shape)))
        count = len(axes)
        if len(self.sizes or self.scales) != count:
            raise ValueError(f"{len(self.sizes or self.scales)} sizes or scales for {count} axes")
        before = [shape[axis] for axis in axes]
        scales = self._scales(before)
        resized = {}
        for at, (axis, size, scale) in enumerate(zip(axes, before, scales, strict=True)):
            made = self._made(at, size, scale)
            region = (self.region[at], self.region[at + count]) if self.region else (0.0, 1.0)
            if (made, scale, region) != (size, 1.0, (0.0, 1.0)):
                resized[axis] = Resizing(size, made, scale, region)
        return resized

    def _scales(self, before: Sequence[int]) -> Sequence[float]:
        if self.scales:
            return self.scales
        asked = [made / max(size, 1) for made, size in zip(self.sizes, before, strict=True)]
        return asked if self.policy is None else [reduce(self.policy, asked)] * len(asked)

    def _made(self, at: int, size: int, scale: float) -> int:
        if self.scales:
            return made_size(size, scale)
        return self.sizes[at] if self.policy is None else int(size * scale + 0.5)


def _pad_examples() -> Examples:
    pads = torch.tensor([0, 0, 1, 2, 0, 0, 2, 1])
    yield example("Pad", (1, 2, 4, 5), constants={1: pads}, exact_gain=1.0)
    value = {1: pads, 2: torch.tensor(-3.0)}
    yield example("Pad", (1, 1, 4, 5), constants=value)
    # The corner item has 1 + 2 copies on each axis.
    yield example("Pad", (1, 1, 4, 5), constants={1: pads}, mode="edge", exact_gain=3.0)
    for mode in ("reflect", "wrap"):
        yield example("Pad", (1, 1, 4, 5), constants={1: pads}, mode=mode)
        axes = {1: torch.tensor([2, 3]), 3: torch.tensor([-1])}
        yield example("Pad", (2, 4), constants=axes, mode=mode)
    yield example("Pad", (1, 1, 4), constants={1: torch.tensor([0, 0, -1, 0, 0, -2])})


@layer("Pad", summary="1 for constants, else √(copies of one item)", examples=_pad_examples)
@final
@dataclass(frozen=True, slots=True)
class Pad(AbstractPositiveLayer):
    """Items put around a signal: a constant, or copies of its own."""

    _modes: ClassVar[frozenset[str]] = frozenset({"constant", "reflect", "edge", "wrap"})
    mode: str
    pads: tuple[int, ...]
    axes: tuple[int, ...]
    value: float

    @classmethod
    def from_node(cls, call: Call) -> "Pad":
        """Read the pads, all beginnings before all ends."""
        mode = call.attribute("mode", "constant")
        if mode not in cls._modes:
            raise UnsupportedNode(f"mode {mode!r} is not known")
        pads = call.integers(1)
        if pads is None:
            raise UnsupportedNode("it does not say how much is put where")
        value = call.weight(2, "the value").read().flatten().tolist() if call.given(2) else [0.0]
        if len(value) != 1:
            raise UnsupportedNode("several values")
        return cls(mode, pads, call.integers(3) or (), float(value[0]))

    def forward(self, inputs: Inputs) -> Outputs:
        """Put the items around."""
        x = operand(inputs)
        sides = self._sides(x.dim())
        if self.mode == "constant":
            flat = [pad for axis in reversed(range(x.dim())) for pad in sides.get(axis, (0, 0))]
            return (functional.pad(x, flat, value=self.value),)
        if x.is_meta:
            made = {axis: x.shape[axis] + sum(pads) for axis, pads in sides.items()}
            return (x.new_empty([made.get(axis, size) for axis, size in enumerate(x.shape)]),)
        for axis, (before, after) in sides.items():
            index = self._places(x.shape[axis], before, after)
            x = x.index_select(axis, torch.tensor(index, device=x.device))
        return (x,)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return √(copies of the item that is copied most), the product over the axes."""
        if self.mode == "constant":
            return unary(ONE, "constants are put around")
        (shape,) = shapes
        try:
            copies = self._size_free() if shape is None else copies_of(self._maps(shape))
        except TooManyTaps:
            copies = self._size_free()
        return unary(
            Enclosure.sqrt_of(copies).without_lower(), f"{copies} copies of one item at most"
        )

    def _size_free(self) -> int:
        """Bound the copies of one item: every padded item is a copy of some item."""
        copies, count = 1, len(self.pads) // 2
        for before, after in zip(self.pads[:count], self.pads[count:], strict=True):
            copies *= 1 + max(before, 0) + max(after, 0)
        return copies

    def _maps(self, shape: Shape) -> list[AxisMap]:
        return [
            selecting(self._places(shape[axis], before, after), shape[axis])
            for axis, (before, after) in self._sides(len(shape)).items()
        ]

    def _sides(self, rank: int) -> dict[int, tuple[int, int]]:
        """Return the pads before and after, of the axes that have any."""
        axes = [axis_of(axis, rank) for axis in self.axes] or list(range(rank))
        if len(self.pads) != 2 * len(axes):
            raise ValueError(f"{len(self.pads)} pads for {len(axes)} axes")
        both = zip(axes, self.pads[: len(axes)], self.pads[len(axes) :], strict=True)
        return {axis: (before, after) for axis, before, after in both if before or after}

    def _places(self, size: int, before: int, after: int) -> list[int]:
        """Return which item stands at each place of the padded axis."""
        if size == 0:
            raise ValueError("an axis without items has none to copy")
        check_taps(max(before + size + after, 0), 1)
        places = range(-before, size + after)
        if self.mode == "wrap":
            return [place % size for place in places]
        if self.mode == "edge":
            return [min(max(place, 0), size - 1) for place in places]
        period = max(2 * (size - 1), 1)
        return [min(place % period, period - place % period) % size for place in places]
