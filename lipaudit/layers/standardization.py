"""Standardization: normalization by the signal's own statistics, finite only through ε.

For y = γ·z/s with z = Px, P a projection (subtracting the mean, or nothing) and
s = √(‖z‖²/n + ε), the Jacobian is diag(γ)·(I - r·ẑẑᵀ)·P/s with ẑ = z/‖z‖ and
r = ‖z‖²/(n s²) in [0, 1). So its norm is at most max|γ|/s <= max|γ|/√ε. At z = 0 the Jacobian is
diag(γ)·P/√ε: the bound is attained for P = I, and missed by at most a factor √(1 - 1/n)
otherwise, since row i of diag(γ)·P has the norm |γ_i|·√(1 - 1/n).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from lipaudit.enclosure import ONE, Enclosure
from lipaudit.graph.constant import Constant, Shape
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
from lipaudit.layers.magnitude import largest_magnitude
from lipaudit.layers.operands import MOST_AXES, Inputs, Outputs, of_rank, operand, optional
from lipaudit.layers.pointwise import steep
from lipaudit.layers.registry import layer
from lipaudit.layers.values import Values, at_least, enclosing

_SUMMARY = "max |γ|/√ε; none for ε = 0"


@dataclass(frozen=True, slots=True)
class _Scaling:
    """What follows the division: the stored γ (None: 1) and the ε under the root."""

    scale: Constant | None
    epsilon: float

    @classmethod
    def of(cls, call: Call) -> "_Scaling":
        if any(call.node.outputs[1:]):
            raise UnsupportedNode("it also returns its statistics")
        scale = call.weight(1, "the scale") if call.given(1) else None
        if call.given(2):
            call.weight(2, "the offset")
        epsilon = call.attribute("epsilon", 1e-5)
        if not epsilon >= 0:
            raise UnsupportedNode(f"epsilon = {epsilon:g} is negative")
        return cls(scale, epsilon)

    def gain(self, *, attained: bool) -> Gain | Unbounded:
        """Return max|γ|/√ε (module docstring)."""
        if self.epsilon == 0:
            return steep("without an epsilon it is vertical at a constant signal")
        largest = ONE if self.scale is None else largest_magnitude(self.scale)
        if isinstance(largest, Unbounded):
            return largest
        steepest = largest.over(Enclosure.sqrt_of(self.epsilon))
        return unary(steepest if attained else steepest.without_lower(), "max |γ|/√ε")

    def run(self, x: torch.Tensor, axes: Sequence[int], *, centred: bool) -> torch.Tensor:
        """Standardize over some axes, half precision in float32 as the standard asks."""
        wide = x.float() if x.dtype in {torch.float16, torch.bfloat16} else x
        over = list(axes)
        z = wide - wide.mean(over, keepdim=True) if centred else wide
        return z / (z.square().mean(over, keepdim=True) + self.epsilon).sqrt()

    def values(
        self, inputs: Sequence[Values | None], items: int, shape: tuple[int, ...] | None = None
    ) -> tuple[Values, ...]:
        """Return what γ and β make of groups of n standardized items z.

        ‖z‖ <= √n, and less than that for a single |z_i|; so a row that is one group, or a part of
        one, has at most the length max|γ|·√n + ‖β‖.
        """
        x, *stored = inputs
        if x is None:
            return ()
        most = torch.full_like(x.lo, math.sqrt(items))
        still = [None if value is None else value.lo for value in stored]
        (low,), (high,) = (_placed(x.lo, end, [x.lo, *still], shape) for end in (-most, most))
        made = enclosing(torch.minimum(low, high), torch.maximum(low, high))
        if shape is not None:
            return (made,)
        scale, offset = (optional(still, at) for at in (0, 1))
        largest = 1.0 if scale is None else float(scale.abs().max())
        length = 0.0 if offset is None else float(torch.linalg.vector_norm(offset))
        return (made.with_row(at_least(largest * math.sqrt(items) + length).upper),)


def _placed(
    x: torch.Tensor, standard: torch.Tensor, inputs: Inputs, shape: tuple[int, ...] | None
) -> Outputs:
    """Return γ·standard + β in the type and shape of x, parameters reshaped first if asked."""
    made = standard.reshape(x.shape).to(x.dtype)
    scale, offset = optional(inputs, 1), optional(inputs, 2)
    if scale is not None:
        made = made * (scale if shape is None else scale.reshape(shape))
    if offset is not None:
        made = made + (offset if shape is None else offset.reshape(shape))
    if made.shape != x.shape:
        raise ValueError("scale or offset do not broadcast to the signal")
    return (made,)


def _trailing(x: torch.Tensor, axis: int) -> range:
    """Return the axes from one on, as layer norm counts them."""
    if not -x.dim() <= axis < x.dim():
        raise IndexError(f"axis {axis} of a signal with {x.dim()} axes")
    return range(axis % x.dim(), x.dim())


_FOUR = torch.tensor([1.0, -2.0, 0.5, 2.0])


def _layer_norm_examples() -> Examples:
    offset = torch.tensor([0.0, 1.0, -1.0, 0.5])
    yield example("LayerNormalization", (2, 3, 4), constants={1: _FOUR, 2: offset}, epsilon=0.25)
    yield example("LayerNormalization", (2, 3, 4), constants={1: _FOUR, 2: offset}, axis=-1)
    grid = torch.linspace(-1, 2, 12).reshape(3, 4)
    yield example("LayerNormalization", (2, 3, 4), constants={1: grid}, axis=1, epsilon=0.5)
    even = torch.full((2,), 3.0)
    # γ = 3 on both items: ‖3P‖/√ε = 3/0.5.
    yield example("LayerNormalization", (2, 2), constants={1: even}, epsilon=0.25, exact_gain=6.0)


@layer("LayerNormalization", summary=_SUMMARY, examples=_layer_norm_examples)
@final
@dataclass(frozen=True, slots=True)
class LayerNormalization(AbstractGainLayer):
    """Standardization over the last axes, from `axis` on; an omitted scale is 1."""

    axis: int
    scaling: _Scaling

    @classmethod
    def from_node(cls, call: Call) -> "LayerNormalization":
        """Take the stored scale and ε."""
        return cls(call.attribute("axis", -1), _Scaling.of(call))

    def forward(self, inputs: Inputs) -> Outputs:
        """Subtract the mean, divide by the deviation, scale and shift."""
        x = operand(inputs)
        return _placed(x, self.scaling.run(x, _trailing(x, self.axis), centred=True), inputs, None)

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """See `_Scaling.values`."""
        x = inputs[0]
        if x is None:
            return ()
        axes = _trailing(x.lo, self.axis)
        return self.scaling.values(inputs, math.prod(x.lo.shape[axis] for axis in axes))

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return max|γ|/√ε."""
        del shapes
        return self.scaling.gain(attained=False)


def _rms_examples() -> Examples:
    # At x = 0 the Jacobian is diag(γ)/√ε, so max|γ|/√ε = 2/0.5.
    yield example("RMSNormalization", (2, 3, 4), constants={1: _FOUR}, epsilon=0.25, exact_gain=4.0)
    grid = torch.linspace(-1, 2, 12).reshape(3, 4)
    yield example("RMSNormalization", (2, 3, 4), constants={1: grid}, axis=1)


@layer("RMSNormalization", summary=_SUMMARY, examples=_rms_examples)
@final
@dataclass(frozen=True, slots=True)
class RMSNormalization(AbstractGainLayer):
    """Division by the root mean square over the last axes, from `axis` on."""

    axis: int
    scaling: _Scaling

    @classmethod
    def from_node(cls, call: Call) -> "RMSNormalization":
        """Take the stored scale and ε."""
        return cls(call.attribute("axis", -1), _Scaling.of(call))

    def forward(self, inputs: Inputs) -> Outputs:
        """Divide by the root mean square, and scale."""
        x = operand(inputs)
        return _placed(x, self.scaling.run(x, _trailing(x, self.axis), centred=False), inputs, None)

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """See `_Scaling.values`."""
        x = inputs[0]
        if x is None:
            return ()
        axes = _trailing(x.lo, self.axis)
        return self.scaling.values(inputs, math.prod(x.lo.shape[axis] for axis in axes))

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return max|γ|/√ε, attained at 0."""
        del shapes
        return self.scaling.gain(attained=True)


def _group_examples() -> Examples:
    offset = torch.tensor([0.0, 1.0, -1.0, 0.5])
    for shape in ((2, 4, 3), (1, 4, 2, 3)):
        constants = {1: _FOUR, 2: offset}
        yield example("GroupNormalization", shape, constants=constants, num_groups=2, epsilon=0.1)
    yield example("GroupNormalization", (2, 4, 3), constants={1: _FOUR, 2: offset}, num_groups=1)


@layer("GroupNormalization", summary=_SUMMARY, examples=_group_examples)
@final
@dataclass(frozen=True, slots=True)
class GroupNormalization(AbstractGainLayer):
    """Standardization over each group of channels; scale and offset are one a channel."""

    groups: int
    scaling: _Scaling

    @classmethod
    def from_node(cls, call: Call) -> "GroupNormalization":
        """Take the number of groups, the stored scale and ε."""
        groups = call.attribute("num_groups", 0)
        if groups < 1:
            raise UnsupportedNode("it does not say how many groups there are")
        return cls(groups, _Scaling.of(call))

    def forward(self, inputs: Inputs) -> Outputs:
        """Standardize each group, scale and shift each channel."""
        return _grouped(self.scaling, operand(inputs), self.groups, inputs)

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """See `_Scaling.values`."""
        x = inputs[0]
        if x is None or x.lo.dim() < 2:
            return ()
        items = math.prod(x.lo.shape[1:]) // self.groups
        return self.scaling.values(inputs, items, (-1, *(1,) * (x.lo.dim() - 2)))

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return max|γ|/√ε."""
        del shapes
        return self.scaling.gain(attained=False)


def _grouped(scaling: _Scaling, x: torch.Tensor, groups: int, inputs: Inputs) -> Outputs:
    if x.dim() < 2 or x.shape[1] % groups:
        raise ValueError(f"{list(x.shape)} has no channels that {groups} groups divide")
    parts = x.reshape(x.shape[0], groups, -1)
    return _placed(x, scaling.run(parts, [2], centred=True), inputs, (-1, *(1,) * (x.dim() - 2)))


def _instance_examples() -> Examples:
    scale, offset = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 1.0, -1.0])
    for shape in ((2, 3, 5), (1, 3, 2, 4)):
        constants = {1: scale, 2: offset}
        yield example("InstanceNormalization", shape, constants=constants, epsilon=0.2)


@layer("InstanceNormalization", summary=_SUMMARY, examples=_instance_examples)
@final
@dataclass(frozen=True, slots=True)
class InstanceNormalization(AbstractGainLayer):
    """Standardization of each channel of each sample."""

    scaling: _Scaling

    @classmethod
    def from_node(cls, call: Call) -> "InstanceNormalization":
        """Take the stored scale and ε."""
        return cls(_Scaling.of(call))

    def forward(self, inputs: Inputs) -> Outputs:
        """Standardize, scale and shift each channel."""
        x = of_rank(operand(inputs), 3, MOST_AXES)
        return _grouped(self.scaling, x, x.shape[1], inputs)

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """See `_Scaling.values`."""
        x = inputs[0]
        if x is None or x.lo.dim() < 2:
            return ()
        items = math.prod(x.lo.shape[1:]) // x.lo.shape[1]
        return self.scaling.values(inputs, items, (-1, *(1,) * (x.lo.dim() - 2)))

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return max|γ|/√ε."""
        del shapes
        return self.scaling.gain(attained=False)


# The function body that ONNX gives for MeanVarianceNormalization adds 1e-9, a float32 constant,
# to the deviation; these are its digits.
_MVN_EPSILON = 9.999999717180685e-10


def _mean_variance_examples() -> Examples:
    yield example("MeanVarianceNormalization", (2, 3, 4, 2), exact_gain=1e9)
    yield example("MeanVarianceNormalization", (2, 3, 4), axes=(1, 2))


@layer("MeanVarianceNormalization", summary="1e9 = 1/ε", examples=_mean_variance_examples)
@final
@dataclass(frozen=True, slots=True)
class MeanVarianceNormalization(AbstractGainLayer):
    """z/(√(mean z²) + 1e-9) with z = x - mean, over some axes."""

    axes: tuple[int, ...]

    @classmethod
    def from_node(cls, call: Call) -> "MeanVarianceNormalization":
        """Take the axes."""
        return cls(call.whole_numbers("axes") or (0, 2, 3))

    def forward(self, inputs: Inputs) -> Outputs:
        """Subtract the mean and divide by the deviation."""
        x = operand(inputs)
        z = x - x.mean(self.axes, keepdim=True)
        return (z / (z.square().mean(self.axes, keepdim=True).sqrt() + _MVN_EPSILON),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return 1/ε.

        Along z the quotient has the slope ε/(‖z‖/√n + ε)², across it 1/(‖z‖/√n + ε): both at
        most 1/ε, approached where z tends to 0.
        """
        del shapes
        steepest = ONE.over(Enclosure.exactly(_MVN_EPSILON)).without_lower()
        return unary(steepest, "1/ε of the standard's function")


def _lp_examples() -> Examples:
    for power in (1, 2):
        yield example("LpNormalization", (3, 4), p=power)
    yield example("LpNormalization", (2, 3, 4), axis=1)


@layer("LpNormalization", summary="none", examples=_lp_examples)
@final
@dataclass(frozen=True, slots=True)
class LpNormalization(AbstractGainLayer):
    """Division by the ℓ1 or ℓ2 norm along one axis."""

    axis: int
    power: int

    @classmethod
    def from_node(cls, call: Call) -> "LpNormalization":
        """Take the axis and p."""
        return cls(call.attribute("axis", -1), call.attribute("p", 2))

    def forward(self, inputs: Inputs) -> Outputs:
        """Divide by the norm; what is 0 stays 0."""
        x = operand(inputs)
        norm = torch.linalg.vector_norm(x, self.power, self.axis, keepdim=True)
        return (torch.where(norm == 0, torch.zeros_like(x), x / norm),)

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Return [-1, 1]: no item is longer than its row, and ‖x‖₂ <= ‖x‖₁."""
        x = inputs[0]
        if x is None:
            return ()
        axis = self.axis if self.axis < 0 else self.axis - x.lo.dim()
        return (Values(-torch.ones_like(x.lo), torch.ones_like(x.hi), 1.0, axis),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """State that there is no finite constant: near 0 opposite inputs have distance 2."""
        del shapes
        return steep(f"ℓ{self.power} normalization has no finite constant at 0")
