"""Weights: for each group of layers that exceed their limit, new values that do not.

Everything happens in memory: a candidate is cast to the type it will be stored in, its norm is
proved, and as long as that is above the limit it is scaled down. The file that is written decides
in the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import final

import torch

from lipaudit.analysis.clipping.groups import Group, Target
from lipaudit.device import Compute
from lipaudit.errors import UsageError
from lipaudit.graph.constant import Constant, put_of, rescale_of
from lipaudit.graph.dtypes import torch_type
from lipaudit.layers.base import AbstractLinearLayer

Patch = Mapping[str, torch.Tensor]

ROOM = 1.0 - 2.0**-28
"""Limits are met with so much to spare: other ways to prove the same norm differ by less."""
_TRIES = 40
_ROUNDS = 4
"""How often layers with one weight take turns."""


class Method(StrEnum):
    """How a weight is brought below its limit."""

    PROJECT = "project"
    """The nearest weight that meets it."""
    SEDGHI = "sedghi"
    """The single pass of Sedghi, Gupta & Long (2019), which need not meet it."""
    SCALE = "scale"
    """All of it times a number: spectral normalization."""


def method_named(name: str) -> Method:
    """Return a method by the name a user calls it by."""
    if name not in set(Method):
        raise UsageError(
            f"no method {name!r}", slug="clip-method", hint=f"there are {', '.join(Method)}"
        )
    return Method(name)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What a group's weight is to become: values, or a mere factor of the stored ones."""

    group: Group
    values: torch.Tensor | None
    factor: float
    least: float
    """No values that meet the limits are nearer (Frobenius); 0 where nothing is known."""

    def shrunk(self, factor: float) -> "Wanted":
        """Return the same, smaller."""
        values = None if self.values is None else self.values * factor
        return replace(self, values=values, factor=self.factor * factor)

    def patch(self) -> Patch:
        """Return the new values of the file's tensors."""
        patch: dict[str, torch.Tensor] = {}
        for target in self.group.targets[:1] if self.values is not None else self.group.targets:
            if self.values is not None:
                put = put_of(target.weight)
                made = {} if put is None else put(self.values)
            else:
                rescale = rescale_of(target.weight)
                made = {} if rescale is None else rescale(self.factor)
            patch |= made
        return patch


def wanted(group: Group, method: Method, compute: Compute) -> Wanted:
    """Return new values for a group."""
    scaled = Wanted(group, None, _factor(group), 0.0)
    if method is Method.SCALE or not group.is_one_weight:
        return scaled
    if method is Method.SEDGHI:
        target = group.targets[0]
        values = target.layer.passed(target.shape, target.limit, compute)
        return scaled if values is None else Wanted(group, values, 1.0, 0.0)
    return _projected(group, compute) or scaled


def _factor(group: Group) -> float:
    """Return what to multiply the weight by, by what is known of the norms already."""
    return min(
        target.limit * ROOM / norm.enclosure.upper
        for target in group.targets
        if (norm := target.item.norm) is not None
    )


def _projected(group: Group, compute: Compute) -> Wanted | None:
    """Project onto the limit of one target after the other, then scale what is still above."""
    dtype = torch_type(group.targets[0].weight.dtype) or torch.float64
    # The cast moves each item by half a spacing at most.
    room = ROOM * (1.0 - torch.finfo(dtype).eps / 2)
    values = group.targets[0].weight.values()
    if len(group.targets) == 1:
        (target,) = group.targets
        found = target.layer.clipped(target.shape, target.limit * room, compute)
        if found is None or float((found.weight - values).norm()) > _scaled_change(group, values):
            return None
        # The least change is that for the limit itself, not for what is aimed at below it.
        least = found.least_for(found.limit / room) if found.least else 0.0
        return Wanted(group, found.weight, 1.0, least)
    for round_ in range(_ROUNDS):
        before = values
        for target in group.targets:
            layer = _with(target.layer, values)
            if (round_ or values is not before) and _excess(target, values, compute) <= 1.0:
                continue
            found = layer.clipped(target.shape, target.limit * room, compute)
            if found is None:
                return None
            values = found.weight
        if values is before:
            break
    return _met(Wanted(group, values, 1.0, 0.0), values, compute)


def _scaled_change(group: Group, values: torch.Tensor) -> float:
    """Return how far scaling would move the weight: what is farther is no projection."""
    return (1.0 - _factor(group)) * float(values.norm())


def _met(candidate: Wanted, values: torch.Tensor, compute: Compute) -> Wanted:
    """Scale values until their cast is proved to meet every limit, if that goes."""
    dtype = torch_type(candidate.group.targets[0].weight.dtype) or torch.float64
    for attempt in range(_TRIES):
        cast = values.to(dtype).to(torch.float64)
        excess = max(_excess(target, cast, compute) for target in candidate.group.targets)
        if excess <= 1.0:
            break
        # A little more each time, should rounding bring it back every time.
        values = values * ((1.0 - 2.0 ** (attempt - 40)) / excess)
    return replace(candidate, values=values)


def _with(layer: AbstractLinearLayer, values: torch.Tensor) -> AbstractLinearLayer:
    weight = layer.weights()[0]
    return layer.with_weight(Constant(weight.name, weight.shape, "float64", lambda: values))


def _excess(target: Target, values: torch.Tensor, compute: Compute) -> float:
    """Return the norm with such values over the limit."""
    operator = _with(target.layer, values).operator(target.shape, compute)
    return operator.norm().enclosure.upper / (target.limit * ROOM)
