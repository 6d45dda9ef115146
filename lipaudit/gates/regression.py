"""Regression: what has grown since the baseline."""

import math
from collections.abc import Iterator

from lipaudit.comparison import SAME, LayerSnapshot, Snapshot
from lipaudit.gates.limits import is_proved
from lipaudit.gates.pairing import paired
from lipaudit.gates.policy import Policy
from lipaudit.gates.rule import ERROR, NOTE, UNDECIDED, Rule
from lipaudit.results import Finding, Measure, ModelReport
from lipaudit.version import __version__

ID = "LIP006"


def _increase(model: ModelReport, policy: Policy) -> Iterator[Finding]:
    if policy.baseline is None:
        return
    before = policy.baseline.before
    if before is None:
        message = f"the model is not in {policy.baseline.path}; write the baseline again"
        yield Finding(ID, UNDECIDED, model.path, "", message)
        return
    yield from increases(before, Snapshot.of(model), policy.baseline.allowed)
    if before.version != __version__:
        message = f"the baseline is of lipaudit {before.version}, this is {__version__}"
        yield Finding(ID, NOTE, model.path, "", message)


def increases(before: Snapshot, after: Snapshot, allowed: float) -> Iterator[Finding]:
    """Yield what keeps one from saying that nothing has grown by more than is allowed."""
    reason = _incomparable(before, after)
    if reason:
        yield Finding(ID, UNDECIDED, after.path, "", reason)
        return
    if before.bound is not None:
        yield from _grown(after, "", "bound", (before.bound, after.bound), allowed)
        if after.doubt:
            yield Finding(ID, UNDECIDED, after.path, "", f"the bound is in doubt: {after.doubt}")
    for one, other in paired(before.layers, after.layers):
        if other is None:
            message = "the layer is there no longer"
            yield Finding(ID, NOTE, after.path, one.name if one is not None else "", message)
        elif one is None:
            message = "the layer is new: there is nothing to hold its norm against"
            yield Finding(ID, UNDECIDED, after.path, other.name, message, _end(other))
        else:
            yield from _grown(after, other.name, "norm", (one.norm, other.norm), allowed)


def _end(layer: LayerSnapshot) -> float | None:
    return layer.norm.upper if layer.norm.is_finite else None


def _incomparable(before: Snapshot, after: Snapshot) -> str:
    """Say why two snapshots are not of the same question; "" where they are."""
    if before.input_shapes is not None and after.input_shapes is not None:
        one, other = _shapes(before), _shapes(after)
        if one != other:
            return f"not comparable: measured on inputs {other}, and before on {one}"
    if before.bound is not None and after.bound is not None:
        one, other = ("; ".join(x.assumptions) or "nothing" for x in (before, after))
        if one != other:
            return f"not comparable: the bound assumes {other}; before, it assumed {one}"
    return ""


def _shapes(snapshot: Snapshot) -> str:
    shapes = sorted((snapshot.input_shapes or {}).items())
    return ", ".join(f"{name}={'x'.join(map(str, s))}" for name, s in shapes) or "of any size"


def _grown(
    after: Snapshot, where: str, what: str, ends: tuple[Measure, Measure | None], allowed: float
) -> Iterator[Finding]:
    old, new = ends
    if new is None or not is_proved(new):
        message = f"there is no proved {what} to hold against the earlier one"
        yield Finding(ID, UNDECIDED, after.path, where, message)
    elif not old.is_finite:
        message = f"there was no finite {what} before, to which this one could be held"
        yield Finding(ID, UNDECIDED, after.path, where, message, new.upper)
    elif not _within(old, new, allowed):
        by = _percent(old, new)
        message = f"the {what} has grown{by}, {100 * allowed:g} % is allowed"
        yield Finding(ID, ERROR, after.path, where, message, new.upper, old.upper * (1 + allowed))


def _within(old: Measure, new: Measure, allowed: float) -> bool:
    limit = old.upper * (1 + allowed) * (1 + SAME)
    if math.isfinite(limit) and math.isfinite(new.upper):
        return new.upper <= limit
    return new.log10_upper <= old.log10_upper + math.log10(1 + allowed) + SAME


def _percent(old: Measure, new: Measure) -> str:
    if old.upper > 0 and math.isfinite(new.upper / old.upper):
        return f" by {100 * (new.upper / old.upper - 1):.3g} %"
    return ""


INCREASE = Rule(
    ID,
    "increase over the baseline",
    "The proved bound of the network, or the norm of one of its layers, is larger than the "
    "baseline says, by more than --max-increase allows (0 % if nothing is said). Upper ends are "
    "compared, equal but for 1e-9. What cannot be compared does not pass either (exit 3): a "
    "model or layer that the baseline does not have, a number that was unknown before or is "
    "unknown now, other input shapes, other assumptions.\n\n"
    "What helps: `lipaudit diff` shows which layers moved. If the growth is wanted, write the "
    "baseline again (`lipaudit check --write-baseline`) and review the change in version "
    "control; a baseline of another lipaudit version is noted, since its methods may have been "
    "looser or tighter.",
    _increase,
)
