"""Reductions along axes: sums, means, norms and extremes, and what else sums up."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar, final

import torch

from lipaudit.enclosure import ONE, ZERO, Enclosure
from lipaudit.graph.constant import Shape
from lipaudit.layers.base import (
    AbstractGainLayer,
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

Axes = tuple[int, ...]
_Fold = Callable[[torch.Tensor, Axes], torch.Tensor]
"""Reduces some axes of a tensor, keeping them with size 1."""
_Known = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class _Reduction:
    """One row of the table: how to compute it, and by how much it stretches."""

    fold: _Fold
    stretch: Callable[[int], Enclosure | Unbounded] | Enclosure | Unbounded
    """From the number of items that become one; a number where it does not depend on that."""
    method: str


def _extreme(x: torch.Tensor, axes: Axes, *, largest: bool) -> torch.Tensor:
    if x.dtype is torch.bool:
        return _extreme(x.to(torch.uint8), axes, largest=largest).bool()
    return x.amax(axes, keepdim=True) if largest else x.amin(axes, keepdim=True)


def _product(x: torch.Tensor, axes: Axes) -> torch.Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True, dtype=x.dtype)
    return x


def _mean(x: torch.Tensor, axes: Axes) -> torch.Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=True)
    items = math.prod(x.shape[axis] for axis in axes)
    return torch.div(_sum(x, axes), items, rounding_mode="trunc").to(x.dtype)


def _sum(x: torch.Tensor, axes: Axes) -> torch.Tensor:
    return x.sum(axes, keepdim=True, dtype=x.dtype)


def _in_reals(function: _Fold) -> _Fold:
    """Compute in float64 where the items are integers, as onnxruntime does, and cast back."""

    def fold(x: torch.Tensor, axes: Axes) -> torch.Tensor:
        return function(x if x.is_floating_point() else x.double(), axes).to(x.dtype)

    return fold


_QUADRATIC = Unbounded("unbounded-slope", "squares grow ever steeper")
_BILINEAR = Unbounded("bilinear", "its items are multiplied with each other")
_STEEP = Unbounded("unbounded-slope", "log is vertical at 0")

_REDUCTIONS: Mapping[str, _Reduction] = {
    # One row of ones: ‖1‖ = √n (Cauchy-Schwarz), attained by equal differences.
    "ReduceSum": _Reduction(_sum, Enclosure.sqrt_of, "√n of n items added"),
    "ReduceMean": _Reduction(
        _mean, lambda items: ONE.over(Enclosure.sqrt_of(items)), "1/√n of n items averaged"
    ),
    # |max x - max y| <= max |x_i - y_i| <= ‖x - y‖.
    "ReduceMax": _Reduction(
        lambda x, axes: _extreme(x, axes, largest=True), ONE, "|max x - max y|"
    ),
    "ReduceMin": _Reduction(
        lambda x, axes: _extreme(x, axes, largest=False), ONE, "|min x - min y|"
    ),
    # The gradient of Σ|x_i| is the vector of signs.
    "ReduceL1": _Reduction(
        lambda x, axes: _sum(x.abs(), axes), Enclosure.sqrt_of, "√n of n magnitudes added"
    ),
    # The triangle inequality.
    "ReduceL2": _Reduction(
        _in_reals(lambda x, axes: torch.linalg.vector_norm(x, dim=axes, keepdim=True)),
        ONE,
        "|‖x‖ - ‖y‖| <= ‖x - y‖",
    ),
    # Its gradient is softmax, whose entries are positive and add up to 1.
    "ReduceLogSumExp": _Reduction(
        _in_reals(lambda x, axes: x.logsumexp(axes, keepdim=True)), ONE, "norm of a softmax vector"
    ),
    "ReduceLogSum": _Reduction(_in_reals(lambda x, axes: _sum(x, axes).log()), _STEEP, ""),
    "ReduceSumSquare": _Reduction(lambda x, axes: _sum(x * x, axes), _QUADRATIC, ""),
    "ReduceProd": _Reduction(_product, _BILINEAR, ""),
}
_KNOWN_CONSTANTS: Mapping[str, _Known] = {
    "ReduceSum": math.sqrt,
    "ReduceMean": lambda items: 1 / math.sqrt(items),
    "ReduceL1": math.sqrt,
    **dict.fromkeys(("ReduceMax", "ReduceMin", "ReduceL2"), lambda _: 1.0),
}


def _examples_of(op: str) -> Callable[[], Examples]:
    known = _KNOWN_CONSTANTS.get(op)

    def examples() -> Examples:
        cases: tuple[tuple[Shape, Axes | None, int], ...] = (
            ((2, 3, 4), (1,), 3),
            ((2, 3, 4), (-1, 0), 8),
            ((2, 3), None, 6),
        )
        for shape, axes, items in cases:
            yield example(
                op,
                shape,
                constants=None if axes is None else {1: torch.tensor(axes)},
                keepdims=0 if axes == (1,) else 1,
                exact_gain=known(items) if known is not None else None,
            )

    return examples


def _register(cls: type["Reduce"]) -> type["Reduce"]:
    summaries = {
        "ReduceSum": "√n",
        "ReduceL1": "√n",
        "ReduceMean": "1/√n",
        "ReduceLogSum": "none: vertical",
        "ReduceSumSquare": "none: quadratic",
        "ReduceProd": "none: bilinear",
    }
    for op in _REDUCTIONS:
        layer(op, summary=summaries.get(op, "1"), examples=_examples_of(op))(cls)
    return cls


@_register
@final
@dataclass(frozen=True, slots=True)
class Reduce(AbstractGainLayer):
    """Items along some axes made into one number: a sum, a norm, an extreme, ..."""

    op: str
    axes: Axes | None
    """None: all of them."""
    keep: bool
    """Whether the axes stay, with size 1."""

    @classmethod
    def from_node(cls, call: Call) -> "Reduce":
        """Read the axes off the second input; an empty list means all or, if stated, none."""
        axes = call.integers(1)
        if not axes and not call.attribute("noop_with_empty_axes", 0):
            axes = None
        return cls(
            call.node.op, axes if axes is None else tuple(axes), call.attribute("keepdims", 1) != 0
        )

    def forward(self, inputs: Inputs) -> Outputs:
        """Reduce, and drop the axes if they are not kept."""
        x = operand(inputs)
        axes = self._axes(x.ndim)
        if not axes:
            return (self._alone(x),)
        made = _REDUCTIONS[self.op].fold(x, axes)
        return (made if self.keep else made.squeeze(axes),)

    @property
    def is_affine(self) -> bool:
        """See `AbstractGainLayer.is_affine`."""
        return self.op in {"ReduceSum", "ReduceMean"}

    @property
    def is_rising(self) -> bool:
        """See `AbstractGainLayer.is_rising`."""
        return self.op in {"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"}

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return the stretch of one group; the groups are disjoint, so it is that of all."""
        row = _REDUCTIONS[self.op]
        if isinstance(row.stretch, Unbounded):
            return row.stretch
        if isinstance(row.stretch, Enclosure):
            return unary(row.stretch.without_lower(), row.method)
        (shape,) = shapes
        if shape is None:
            return Unbounded("needs-shape", f"{self.op} needs to know how many items it reduces")
        items = math.prod(shape[axis] for axis in self._axes(len(shape)))
        found = row.stretch(items) if items else ZERO
        return found if isinstance(found, Unbounded) else unary(found, row.method)

    def _axes(self, rank: int) -> Axes:
        chosen = range(rank) if self.axes is None else self.axes
        return tuple(sorted({axis % rank for axis in chosen})) if rank else ()

    def _alone(self, x: torch.Tensor) -> torch.Tensor:
        """Return the reduction of single items, each its own group."""
        return _REDUCTIONS[self.op].fold(x.unsqueeze(-1), (x.ndim,)).squeeze(-1)


def _arg_examples(op: str) -> Callable[[], Examples]:
    def examples() -> Examples:
        yield example(op, (2, 3, 4), axis=1, keepdims=0)
        yield example(op, (2, 3), axis=-1, select_last_index=1)

    return examples


def _register_arg(cls: type["ArgExtreme"]) -> type["ArgExtreme"]:
    for op in ("ArgMax", "ArgMin"):
        layer(op, summary="none: discontinuous", examples=_arg_examples(op))(cls)
    return cls


@_register_arg
@final
@dataclass(frozen=True, slots=True)
class ArgExtreme(AbstractGainLayer):
    """The position of the largest or smallest item along an axis."""

    largest: bool
    axis: int
    keep: bool
    last: bool
    """Which of several equal ones."""

    @classmethod
    def from_node(cls, call: Call) -> "ArgExtreme":
        """Read the axis and the tie rule."""
        return cls(
            call.node.op == "ArgMax",
            call.attribute("axis", 0),
            call.attribute("keepdims", 1) != 0,
            call.attribute("select_last_index", 0) != 0,
        )

    def forward(self, inputs: Inputs) -> Outputs:
        """Find the positions."""
        x = operand(inputs)
        x = x.flip(self.axis) if self.last else x
        # Of several equal ones torch names any; the first of the marks is the first of them.
        extreme = (x.amax if self.largest else x.amin)(self.axis, keepdim=True)
        found = (x == extreme).to(torch.uint8).argmax(self.axis, keepdim=self.keep)
        return (x.shape[self.axis] - 1 - found if self.last else found,)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Nothing: a position jumps."""
        del shapes
        return Unbounded("discontinuous", "the position of an extreme jumps")


def _top_k_examples() -> Examples:
    yield example("TopK", (3, 5), constants={1: torch.tensor([2])}, outputs=2, exact_gain=1.0)
    yield example(
        "TopK",
        (5, 2),
        constants={1: torch.tensor([3])},
        axis=0,
        largest=0,
        outputs=2,
        exact_gain=1.0,
    )


@layer("TopK", summary="1 (values)", examples=_top_k_examples)
@final
@dataclass(frozen=True, slots=True)
class TopK(AbstractGainLayer):
    """The k largest or smallest items along an axis in order, and where they were."""

    discrete_outputs: ClassVar[tuple[int, ...]] = (1,)

    count: int
    axis: int
    largest: bool

    @classmethod
    def from_node(cls, call: Call) -> "TopK":
        """Read k off the second input."""
        count = call.weight(1, "k").integers()
        if len(count) != 1 or count[0] < 0:
            raise UnsupportedNode(f"k = {list(count)}")
        return cls(count[0], call.attribute("axis", -1), call.attribute("largest", 1) != 0)

    def forward(self, inputs: Inputs) -> Outputs:
        """Sort stably, so that of equal items the first comes first, and keep the head."""
        x = operand(inputs)
        if self.count > x.shape[self.axis]:
            raise ValueError(f"k = {self.count} of {x.shape[self.axis]} items")
        values, places = x.sort(dim=self.axis, descending=self.largest, stable=True)
        return values.narrow(self.axis, 0, self.count), places.narrow(self.axis, 0, self.count)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return 1: sorting does not stretch (rearrangement inequality), keeping a part neither."""
        del shapes
        return unary(Enclosure.at_most(1), "sorting does not stretch")


def _cumulative_examples() -> Examples:
    # 1 / (2 sin(π / (4n + 2))) for n = 4 and n = 3: see `CumSum.gain`.
    yield example("CumSum", (2, 4), constants={1: torch.tensor(1)}, exact_gain=2.8793852415718)
    yield example(
        "CumSum", (3, 2), constants={1: torch.tensor([0])}, reverse=1, exact_gain=2.2469796037175
    )
    yield example(
        "CumSum", (2, 4), constants={1: torch.tensor(-1)}, exclusive=1, exact_gain=2.2469796037175
    )


@layer("CumSum", summary="1 / (2 sin(π / (4n + 2)))", examples=_cumulative_examples)
@final
@dataclass(frozen=True, slots=True)
class CumSum(AbstractGainLayer):
    """Running sums along an axis."""

    axis: int
    exclusive: bool
    """Whether an item is left out of its own sum."""
    reverse: bool

    @classmethod
    def from_node(cls, call: Call) -> "CumSum":
        """Read the axis off the second input."""
        axis = call.weight(1, "the axis").integers()
        if len(axis) != 1:
            raise UnsupportedNode(f"axis {list(axis)}")
        flags = (call.attribute(name, 0) != 0 for name in ("exclusive", "reverse"))
        return cls(axis[0], *flags)

    def forward(self, inputs: Inputs) -> Outputs:
        """Add up."""
        x = operand(inputs)
        x = x.flip(self.axis) if self.reverse else x
        sums = x.cumsum(self.axis, dtype=x.dtype)
        if self.exclusive and x.shape[self.axis]:
            first = torch.zeros_like(x.narrow(self.axis, 0, 1))
            sums = torch.cat([first, sums.narrow(self.axis, 0, x.shape[self.axis] - 1)], self.axis)
        return (sums.flip(self.axis) if self.reverse else sums,)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return the norm of the n x n triangle of ones, 1 / (2 sin(π / (4n + 2))).

        Its inverse D takes differences, and D Dᵀ is tridiagonal (2, -1) with one corner 1,
        with least eigenvalue 4 sin²(π / (4n + 2)) (Elliott 1953; Strang, SIAM Rev. 41, 1999).
        """
        (shape,) = shapes
        if shape is None:
            return Unbounded("needs-shape", "CumSum needs to know how many items it adds up")
        items = shape[self.axis] - (1 if self.exclusive else 0)
        if items < 1:
            return unary(ZERO, "an empty sum")
        return unary(_triangle_norm(items), "norm of a triangle of ones")


def _triangle_norm(items: int) -> Enclosure:
    # sin and the division err by less than 2 ulp each in the C library of every platform torch
    # runs on; 1e-15 relatively covers both with room to spare, and π's own rounding.
    value = Decimal(1 / (2 * math.sin(math.pi / (4 * items + 2))))
    slack = Decimal("1e-15")
    return Enclosure.of(value * (1 - slack), value * (1 + slack), ONE.rigor)
