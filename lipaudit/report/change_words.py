"""Changes in words and cells, for every format that shows two audits side by side."""

import math

from lipaudit.comparison import LayerChange, LayerSnapshot, ModelChange, Snapshot
from lipaudit.comparison import factor as quotient
from lipaudit.report import numbers
from lipaudit.report.marks import marked
from lipaudit.report.text import safe, short
from lipaudit.results import Finding


def title(change: ModelChange) -> str:
    """Name the model, or both if it has two names."""
    names = [safe(one.path) for one in (change.before, change.after) if one is not None]
    if change.before is None:
        return f"{names[0]}: new"
    if change.after is None:
        return f"{names[0]}: gone"
    return names[0] if names[0] == names[1] else " -> ".join(names)


def bounds(change: ModelChange) -> str:
    """Say what the bound was and is."""
    ends = [_bound(one) for one in (change.before, change.after) if one is not None]
    if len(ends) < 2:
        return f"bound {ends[0]}"
    by = None
    if change.before and change.after and change.before.bound and change.after.bound:
        by = quotient(change.before.bound, change.after.bound)
    grown = f", by a factor of {by:.6g}" if by is not None else ""
    return f"bound {ends[0]} -> {ends[1]}{grown}"


def _bound(snapshot: Snapshot) -> str:
    return "not asked for" if snapshot.bound is None else marked(snapshot.bound)


def shown(change: ModelChange, every: bool) -> list[LayerChange]:
    """Return what is to be seen: what grew most first, then the rest."""
    layers = [one for one in change.layers if every or one.status != "same"]
    return sorted(layers, key=_weight)


def _weight(change: LayerChange) -> float:
    by = change.factor
    return -abs(math.log(by)) if by is not None and by > 0 else -math.inf


def row(change: LayerChange, limit: int) -> tuple[str, ...]:
    """Write name, norm before and after, factor and what else there is to say."""
    by = change.factor
    factor = "" if by is None else f"{by:.6g}"
    return name(change, limit), _norm(change.before), _norm(change.after), factor, note(change)


def name(change: LayerChange, limit: int) -> str:
    """Write the layer's name, or both if it has two."""
    one, other = change.before, change.after
    if change.status == "moved" and one is not None and other is not None:
        return f"{short(one.name, limit // 2)} -> {short(other.name, limit // 2)}"
    return next((short(side.name, limit) for side in (other, one) if side is not None), "")


def note(change: LayerChange) -> str:
    """Say what happened to a layer besides its norm."""
    one, other = change.before, change.after
    if one is not None and other is not None and one.shape != other.shape:
        return f"{numbers.shape(one.shape)} -> {numbers.shape(other.shape)}"
    return "" if change.status == "changed" else change.status


def _norm(layer: LayerSnapshot | None) -> str:
    return marked(layer.norm) if layer is not None else "-"


def summary(change: ModelChange) -> str:
    """Count the layers by what happened to them."""
    counts: dict[str, int] = {}
    for layer in change.layers:
        counts[layer.status] = counts.get(layer.status, 0) + 1
    order = ("changed", "moved", "added", "removed", "same")
    parts = [f"{counts[status]} {status}" for status in order if status in counts]
    return f"layers: {', '.join(parts) or 'none to compare'}"


def objection(finding: Finding) -> str:
    """Write a finding in one line."""
    where = f" {short(finding.where)}" if finding.where else ""
    return f"{finding.rule} {finding.severity}{where}: {safe(finding.message)}"
