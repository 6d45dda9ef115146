"""Plan: which layers exceed their limits, and what was done about them.

What holds in the end is decided by measuring the file that was written: `is_met`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch

from lipaudit.analysis.clipping.groups import Target, grouped
from lipaudit.analysis.clipping.weights import ROOM, Method, Patch, Wanted, wanted
from lipaudit.analysis.layerwise import Measured, Progress, kind, title
from lipaudit.device import Compute
from lipaudit.enclosure import Rigor
from lipaudit.errors import NotCertified
from lipaudit.graph.model import Model
from lipaudit.layers.base import AbstractLinearLayer
from lipaudit.layers.network import Network
from lipaudit.results import Change, LayerResult, Skipped

LimitOf = Callable[[Measured], float | None]
"""The limit of a layer; None where it has none."""
NORMALIZATIONS = frozenset({"BatchNormalization"})


@final
@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What every group of layers is to become, and why the others are left alone."""

    wanted: tuple[Wanted, ...]
    limits: Mapping[str, float]
    """Of each layer that has one, by its place in the graph (`place`)."""
    left: Mapping[str, str]
    """Why a layer is left alone, by its place."""
    method: Method

    @property
    def aims(self) -> Mapping[str, float]:
        """What each layer is meant to be proved to be at most."""
        return {at: limit * ROOM for at, limit in self.limits.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the way in which some weights are written."""
        notes = (t.weight.put_note for want in self.wanted for t in want.group.targets)
        return tuple(sorted({note for note in notes if note}))

    def tensors(self, want: Wanted) -> tuple[str, ...]:
        """Return the keys of the file's tensors that a group changes."""
        return tuple(want.patch())


def place(item: Measured) -> str:
    """Return what tells one layer of the graph from every other."""
    return item.step.node.outputs[0]


def targets(
    model: Model,
    network: Network,
    measured: Sequence[Measured],
    limit_of: LimitOf,
    *,
    normalizations: bool,
) -> tuple[tuple[Target, ...], dict[str, float], dict[str, str]]:
    """Return the layers that exceed their limits, all limits, and why others are left alone."""
    found: list[Target] = []
    known: dict[str, float] = {}
    left: dict[str, str] = {}
    for item in measured:
        limit = limit_of(item)
        if limit is None:
            left[place(item)] = "no limit"
        elif item.step.node.op in NORMALIZATIONS and not normalizations:
            left[place(item)] = f"{kind(item.step)} is not clipped; --fold-bn does"
        elif isinstance(item.result, Skipped):
            raise NotCertified(
                f"layer {item.result.name!r} has no norm: {item.result.reason}",
                slug="clip-unmeasured",
                path=model.path,
                hint="leave it out with --layers",
            )
        else:
            known[place(item)] = limit
            if item.result.norm.rigor is not Rigor.PROVED:
                raise NotCertified(
                    f"the norm of layer {item.result.name!r} is {item.result.norm.rigor.label}: "
                    "it cannot be proved to meet a limit",
                    slug="clip-unmeasured",
                    path=model.path,
                    hint="leave it out with --layers",
                )
            if item.result.norm.upper <= limit:
                left[place(item)] = f"already at most {limit:g}"
            else:
                shapes = network.signal_shapes(item.step)
                found.append(Target(item, limit, shapes[0] if item.step.signals else None))
    return tuple(found), known, left


def plan(
    model: Model,
    network: Network,
    measured: Sequence[Measured],
    limit_of: LimitOf,
    method: Method,
    *,
    compute: Compute,
    normalizations: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """Work out new weights for every layer that exceeds its limit."""
    over, known, left = targets(model, network, measured, limit_of, normalizations=normalizations)
    groups = grouped(model, over)
    made = []
    for count, group in enumerate(groups):
        if progress is not None:
            progress(group.targets[0].name, count, len(groups))
        made.append(wanted(group, method, compute))
    return Plan(tuple(made), known, left, method)


def patch(model: Model, plan: Plan) -> dict[str, torch.Tensor]:
    """Return the new values of every tensor that changes, cast to its stored dtype."""
    changed: dict[str, torch.Tensor] = {}
    for want in plan.wanted:
        for key, values in want.patch().items():
            dtype = getattr(torch, model.tensors[key].dtype)
            changed[key] = values.to(dtype)
    return changed


def using(model: Model, measured: Sequence[Measured], patch: Patch) -> frozenset[str]:
    """Return the places of all layers whose weights come from tensors that change."""
    ties = model.ties or {}
    keys = {ties.get(key, key) for key in patch}
    return frozenset(
        place(item)
        for item in measured
        if isinstance(item.step.layer, AbstractLinearLayer)
        and any(
            ties.get(key, key) in keys
            for weight in item.step.layer.weights()
            for key in weight.sources
        )
    )


def is_met(plan: Plan, measured: Sequence[Measured]) -> bool:
    """Tell whether every layer that was measured is proved to meet its limit."""
    return not _over(plan, measured)


def _over(plan: Plan, measured: Sequence[Measured]) -> dict[str, float]:
    """Return by how much the layers exceed their limits, by place."""
    over: dict[str, float] = {}
    for item in measured:
        limit = plan.limits.get(place(item))
        if limit is None:
            continue
        result = item.result
        proved = isinstance(result, LayerResult) and result.norm.rigor is Rigor.PROVED
        upper = result.norm.upper if isinstance(result, LayerResult) else float("inf")
        if not (proved and upper <= limit):
            over[place(item)] = upper / (limit * ROOM)
    return over


def tightened(plan: Plan, measured: Sequence[Measured], attempt: int) -> Plan:
    """Scale down what still exceeds its limit in the written file, a little more each time."""
    over = _over(plan, measured)
    made = []
    for want in plan.wanted:
        excess = max(
            (over.get(place(target.item), 1.0) for target in want.group.targets), default=1.0
        )
        factor = (1.0 - 2.0 ** (attempt - 24)) / excess if excess > 1.0 else 1.0
        made.append(want.shrunk(factor) if factor < 1.0 else want)
    return Plan(tuple(made), plan.limits, plan.left, plan.method)


def changes(
    plan: Plan, before: Sequence[Measured], after: Sequence[Measured]
) -> tuple[Change, ...]:
    """Pair what was measured before and after, layer by layer."""
    by_place = {place(target.item): want for want in plan.wanted for target in want.group.targets}
    later = {place(item): item for item in after}
    rows = []
    for item in before:
        if not isinstance(item.result, LayerResult):
            continue
        then = later.get(place(item), item)
        if not isinstance(then.result, LayerResult):
            continue
        want = by_place.get(place(item))
        rows.append(_change(plan, item, then, want))
    return tuple(rows)


def _change(plan: Plan, item: Measured, then: Measured, want: Wanted | None) -> Change:
    if not isinstance(item.result, LayerResult) or not isinstance(then.result, LayerResult):
        raise TypeError("only layers with a norm change")
    size, moved = _moved(item, then)
    return Change(
        name=item.result.name,
        kind=item.result.kind,
        tensors=() if want is None else plan.tensors(want),
        before=item.result.norm,
        after=then.result.norm,
        relative_change=moved / size if size > 0 else 0.0,
        limit=plan.limits.get(place(item)),
        least_change=want.least / size if want is not None and want.least and size > 0 else None,
        reason=plan.left.get(place(item), "") if want is None else _way(plan, want),
    )


def _way(plan: Plan, want: Wanted) -> str:
    """Say how a layer was brought down, where it is not as the method says."""
    if want.values is not None or plan.method is Method.SCALE:
        return ""
    if want.group.is_one_weight:
        return "scaled: no nearer weight is known"
    return "scaled: its weight is a part of other tensors, or stands for several layers"


def _moved(item: Measured, then: Measured) -> tuple[float, float]:
    """Return ‖W‖ and ‖W' - W‖ (Frobenius) of the weights that the layers really use."""
    old, new = (_weight(one) for one in (item, then))
    return float(old.norm()), float((new - old).norm())


def _weight(item: Measured) -> torch.Tensor:
    layer = item.step.layer
    if not isinstance(layer, AbstractLinearLayer):
        raise TypeError(f"{title(item.step)} is measured but not linear")
    return layer.weights()[0].values()
