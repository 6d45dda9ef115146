"""Comparison: what two audits say about the same networks, side by side. Data only.

A snapshot is the part of a model's report that is held against another one: it comes from an
audit that just ran, from a JSON report, or from a baseline.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lipaudit.results import Finding, LayerResult, Measure, ModelReport

SAME = 1e-9
"""Two upper ends that differ by less, relatively, are the same: other libraries round otherwise."""
AS_STORED = "layers are measured as the file stores them; the bound folds batch norms into them"
"""Note of a report whose bound is of folded layers, and whose norms are not."""


@dataclass(frozen=True, slots=True)
class LayerSnapshot:
    """What is compared of one layer."""

    name: str
    norm: Measure
    kind: str = ""
    shape: tuple[int, ...] = ()
    frobenius: float | None = None

    @classmethod
    def of(cls, layer: LayerResult) -> "LayerSnapshot":
        """Take it from an audit."""
        return cls(layer.name, layer.norm, layer.kind, layer.shape, layer.frobenius)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is compared of one model."""

    path: str
    layers: tuple[LayerSnapshot, ...]
    bound: Measure | None = None
    """None where none was asked for."""
    input_shapes: Mapping[str, tuple[int, ...]] | None = None
    """None where it is not known which they were."""
    assumptions: tuple[str, ...] = ()
    """Under which the bound holds."""
    skipped: tuple[str, ...] = ()
    """Names of what has no number."""
    version: str = ""
    """Of the lipaudit that measured it."""
    sha256: str = ""
    folded: bool = False
    """Whether batch norms are folded into its layers, as the bound has them."""
    alarms: tuple[str, ...] = ()
    """What its pickle would do."""
    doubt: str = ""
    """Why nobody may sign its bound, although it is proved of the stated graph."""
    without_norm: tuple[str, ...] = ()
    """Names of nodes with matrices of which only the bound says something."""

    @classmethod
    def of(cls, model: ModelReport, version: str = "") -> "Snapshot":
        """Take it from an audit."""
        return cls(
            path=model.path,
            layers=tuple(LayerSnapshot.of(layer) for layer in model.layers),
            bound=model.bound.measure if model.bound is not None else None,
            input_shapes=dict(model.input_shapes),
            assumptions=bound_assumptions(model),
            skipped=tuple(skipped.name for skipped in model.skipped),
            version=version,
            sha256=model.sha256,
            folded=is_folded(
                model.bound is not None, model.notes, [layer.name for layer in model.layers]
            ),
            alarms=model.alarms,
            doubt=""
            if model.bound is None
            else doubt(model.topology, model.bound.certified, model.bound.reasons),
            without_norm=model.without_norm,
        )


def is_folded(bounded: bool, notes: Sequence[str], layers: Sequence[str]) -> bool:
    """Tell whether layers are measured with batch norms folded in: "conv1 + bn1"."""
    return bounded and AS_STORED not in notes and any(" + " in name for name in layers)


def doubt(topology: str, certified: bool, reasons: Sequence[str]) -> str:
    """Say why a bound of a graph that is stated is not certified; "" where it is."""
    return "" if certified or topology != "stated" else "; ".join(reasons) or "not certified"


def bound_assumptions(model: ModelReport) -> tuple[str, ...]:
    """Return everything that any method's bound of the model assumes, in a fixed order."""
    return tuple(sorted({text for bound in model.bounds for text in bound.assumptions}))


@dataclass(frozen=True, slots=True)
class LayerChange:
    """One layer before and after; at least one of them is there."""

    before: LayerSnapshot | None
    after: LayerSnapshot | None

    @property
    def status(self) -> str:
        """One of added, removed, moved (the same under another name), changed, same."""
        if self.before is None:
            return "added"
        if self.after is None:
            return "removed"
        if self.before.name != self.after.name:
            return "moved"
        same = alike(self.before.norm.upper, self.after.norm.upper)
        return "same" if same and self.before.shape == self.after.shape else "changed"

    @property
    def factor(self) -> float | None:
        """By what the upper end of the norm was multiplied; None where that says nothing."""
        if self.before is None or self.after is None:
            return None
        return factor(self.before.norm, self.after.norm)


@dataclass(frozen=True, slots=True)
class ModelChange:
    """One model before and after; at least one of them is there."""

    before: Snapshot | None
    after: Snapshot | None
    layers: tuple[LayerChange, ...] = ()
    """In the order of the model after; removed ones last."""
    notes: tuple[str, ...] = ()
    """What a reader should know before he believes a difference."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All models of two audits, and what is objected to."""

    before: str
    """Where the first audit comes from, as the user wrote it."""
    after: str
    models: tuple[ModelChange, ...]
    findings: tuple[Finding, ...] = ()
    passed: bool | None = None
    """None when no gate was asked for."""


def alike(one: float, other: float) -> bool:
    """Tell whether two ends are the same number but for rounding."""
    largest = max(abs(one), abs(other))
    # What is unknown on one side alone is infinite there, and is not the same.
    return one == other or (math.isfinite(largest) and abs(one - other) <= SAME * largest)


def factor(before: Measure, after: Measure) -> float | None:
    """Return the quotient of two upper ends; None where one is unknown or the first is 0."""
    if not (before.is_finite and after.is_finite) or before.log10_upper == -math.inf:
        return None
    if math.isfinite(before.upper) and math.isfinite(after.upper) and before.upper > 0:
        quotient = after.upper / before.upper
        return quotient if math.isfinite(quotient) else None
    logarithm = after.log10_upper - before.log10_upper
    return 10.0**logarithm if logarithm < 300 else None
