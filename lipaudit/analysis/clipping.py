"""Clipping by scaling: which stored tensors must shrink, and by how much.

`scale` is spectral normalization with the layer's true norm: W min(1, c / ‖W‖). The plan is
made here; what holds is decided by measuring the file that was written, since the cast to the
file's dtype moves the norm (in half of the cases upward).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from lipaudit.analysis.layerwise import Measured, kind, title
from lipaudit.enclosure import Rigor
from lipaudit.errors import NotCertified, UsageError
from lipaudit.graph.constant import Constant
from lipaudit.graph.model import Model
from lipaudit.layers.base import AbstractLinearLayer
from lipaudit.results import Change, LayerResult, Skipped

NORMALIZATIONS = frozenset({"BatchNormalization"})


@dataclass(frozen=True, slots=True)
class Plan:
    """For every stored tensor that must shrink: the factor, below 1."""

    limit: float
    factors: Mapping[str, float]
    owners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Tensor key -> the layers that use it."""


def check_limit(limit: float) -> None:
    """Raise unless the limit is a positive finite number."""
    if not (limit > 0 and math.isfinite(limit)):
        raise UsageError(
            f"cannot clip to {limit}", slug="clip-limit", hint="--to wants a positive number"
        )


def plan(model: Model, measured: Sequence[Measured], limit: float) -> Plan:
    """Find the factor of every tensor behind a layer whose proved norm exceeds the limit."""
    factors: dict[str, float] = {}
    owners: dict[str, list[str]] = {}
    for item in measured:
        if isinstance(item.result, Skipped):
            raise NotCertified(
                f"layer {item.result.name!r} has no norm: {item.result.reason}",
                slug="clip-unmeasured",
                path=model.path,
                hint="leave it out with --layers",
            )
        if not is_target(item):
            continue
        upper = item.result.norm.upper
        if upper <= limit:
            continue
        key, stored = _handle(model, item)
        # Half an item's spacing below the limit: the cast moves each item by at most that.
        aim = limit / upper * (1 - torch.finfo(stored).eps / 2)
        factors[key] = min(factors.get(key, 1.0), aim)
        owners.setdefault(key, []).append(item.result.name)
    return Plan(limit, factors, {key: tuple(names) for key, names in owners.items()})


def is_target(item: Measured) -> bool:
    """Tell whether clipping is meant for this layer: maps with weights, not normalizations."""
    return item.step.node.op not in NORMALIZATIONS


def holds(plan: Plan, measured: Sequence[Measured]) -> bool:
    """Tell whether every targeted layer is proved to meet the limit."""
    return all(
        isinstance(item.result, LayerResult)
        and item.result.norm.rigor is Rigor.PROVED
        and item.result.norm.upper <= plan.limit
        for item in measured
        if is_target(item)
    )


def tightened(plan: Plan, measured: Sequence[Measured], attempt: int) -> Plan:
    """Shrink further what still exceeds the limit when it is measured in the written file."""
    over = {
        item.result.name: item.result.norm.upper
        for item in measured
        if isinstance(item.result, LayerResult)
        and is_target(item)
        and not item.result.norm.upper <= plan.limit
    }
    factors = {
        key: factor
        * min(
            (
                plan.limit / over[name] * (1 - 2.0 ** (attempt - 24))
                for name in plan.owners[key]
                if name in over
            ),
            default=1.0,
        )
        for key, factor in plan.factors.items()
    }
    return Plan(plan.limit, factors, plan.owners)


def patch(model: Model, plan: Plan) -> dict[str, torch.Tensor]:
    """Return the new values of every tensor that changes, cast to its stored dtype."""
    changed = {}
    for key, factor in plan.factors.items():
        stored = model.tensors[key].read()
        changed[key] = (stored.to(torch.float64) * factor).to(stored.dtype)
    return changed


def changes(
    plan: Plan, before: Sequence[Measured], after: Sequence[Measured]
) -> tuple[Change, ...]:
    """Pair what was measured before and after, layer by layer."""
    rows = []
    for item, later in zip(before, after, strict=True):
        result, then = item.result, later.result
        if not isinstance(result, LayerResult) or not isinstance(then, LayerResult):
            continue
        touched = tuple(key for key in plan.factors if result.name in plan.owners[key])
        rows.append(
            Change(
                name=result.name,
                kind=result.kind,
                tensors=touched,
                before=result.norm,
                after=then.norm,
                relative_change=_distance(item, later),
                reason="" if touched else _why_left(item, plan.limit),
            )
        )
    return tuple(rows)


def _why_left(item: Measured, limit: float) -> str:
    if not is_target(item):
        return f"{kind(item.step)} is not clipped"
    return f"already at most {limit:g}"


def _distance(before: Measured, after: Measured) -> float:
    """‖W' - W‖_F / ‖W‖_F of the weights that the layers really use."""
    old, new = _weight(before).values(), _weight(after).values()
    size = float(old.norm())
    return float((new - old).norm()) / size if size > 0 else 0.0


def _weight(item: Measured) -> Constant:
    layer = item.step.layer
    if not isinstance(layer, AbstractLinearLayer):
        raise TypeError(f"{title(item.step)} is measured but not linear")
    return layer.weights()[0]


def _handle(model: Model, item: Measured) -> tuple[str, torch.dtype]:
    """Return the stored tensor that scales the layer, and its dtype."""
    weight = _weight(item)
    key = weight.scaled_by
    stored = model.tensors.get(key) if key is not None else None
    if key is None or stored is None or stored.slot is None:
        raise NotCertified(
            f"layer {title(item.step)!r} exceeds the limit and cannot be scaled: its weight "
            f"{weight.name!r} is computed from {', '.join(weight.sources) or 'other values'}",
            slug="clip-unwritable",
            path=model.path,
            hint="leave it out with --layers",
        )
    dtype = getattr(torch, stored.dtype)
    if not dtype.is_floating_point:
        raise NotCertified(
            f"layer {title(item.step)!r} exceeds the limit and its weight is stored as "
            f"{stored.dtype}, which scaling cannot change",
            slug="clip-dtype",
            path=model.path,
            hint="leave it out with --layers",
        )
    return key, dtype
