"""Results: the frozen data that passes between the stages, and all that reports are made of.

Numbers only: no tensors, no torch. Infinite uppers are allowed here; a reporter says "none"
and gives the reason.
"""

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lipaudit.enclosure import Enclosure, Rigor

SCHEMA_VERSION = 1
"""Of the JSON report: fields may be added under one version, never renamed or removed."""

NO_LAYER = "no layer was measured"
"""So begins the note that says why, of a report without a layer."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A number with what it is: both ends, their logarithms, how far it is to be trusted."""

    lower: float
    upper: float
    log10_lower: float
    log10_upper: float
    rigor: Rigor
    method: str

    @classmethod
    def of(cls, enclosure: Enclosure, method: str) -> "Measure":
        """Take the ends of an enclosure as outward-rounded floats."""
        return cls(
            enclosure.lower,
            enclosure.upper,
            enclosure.log10_lower,
            enclosure.log10_upper,
            enclosure.rigor,
            method,
        )

    @property
    def is_finite(self) -> bool:
        """Whether the upper end says anything (it may still overflow a float)."""
        return self.log10_upper < math.inf


@dataclass(frozen=True, slots=True)
class SpectrumSummary:
    """What is read off a layer's singular values, and of which operator they are."""

    count: int
    """How many singular values there are, the zeros included."""
    complete: bool
    of: str
    """"" for the layer's own operator, else the stand-in: "circular 16x16"."""
    rigor: Rigor
    radius: float
    method: str
    stable_rank: float
    entropy_rank: float
    numerical_rank: int
    tolerance: float
    at_least_one: int
    """How many values are >= 1."""
    quantiles: tuple[float, ...]
    """The values at 0, 10, ..., 100 % of the way from the largest to the smallest."""
    curve: tuple[tuple[int, float], ...] = ()
    """(rank from 1, value) at few enough ranks to be drawn: see `Spectrum.curve`."""


@dataclass(frozen=True, slots=True)
class LayerResult:
    """One layer with a weight: what it is and what was measured."""

    name: str
    kind: str
    tensors: tuple[str, ...]
    shape: tuple[int, ...]
    """Of the main weight."""
    dtype: str
    parameters: int
    geometry: Mapping[str, str]
    in_shape: tuple[int, ...] | None
    out_shape: tuple[int, ...] | None
    norm: Measure
    reshaped_norm: float | None
    """Norm of the weight as an (outputs x rest) matrix: an estimate, not the layer's norm."""
    frobenius: float | None
    spectrum: SpectrumSummary | None
    leading: tuple[float, ...] = ()
    """Lower bounds of the largest singular values, each proved, where the layer's own spectrum
    is out of reach."""
    leading_method: str = ""
    expected_stretch: float | None = None
    """√(E‖Wx‖² / E‖x‖²) over samples that were given: an estimate of the typical stretch."""
    power_iteration: float | None = None
    """What power iteration says, where it was asked for: an estimate from below."""
    log_share: float | None = None
    """Share of this layer in the sum of |log norm| over the model, with the sign of the log."""
    tied_with: str = ""
    """Name of the first layer that uses the same stored weight; "" for none."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something in the file without a number, and why."""

    name: str
    kind: str
    slug: str
    reason: str


@dataclass(frozen=True, slots=True)
class Factor:
    """One step of a bound: by how much a node can stretch what enters it."""

    name: str
    kind: str
    gain: Measure
    """Of the node alone."""
    running: Measure
    """Bound from the network's input to this node's output."""
    remaining: Measure
    """Bound from this node's output to the network's: by how much a gradient can have grown when
    it comes back here."""
    expected: float | None = None
    """Stretch of a random direction, √(Σσ² / number of inputs); None where Σσ² is not known."""
    typical: float | None = None
    """Estimate of how a random movement of the input has grown when it arrives here."""
    typical_back: float | None = None
    """Estimate of how a random gradient at the output has grown when it comes back here."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What one method says about the whole network."""

    method: str
    measure: Measure
    assumptions: tuple[str, ...]
    factors: tuple[Factor, ...]
    reasons: tuple[str, ...] = ()
    """Why there is no finite number, when there is none."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The least bound from one input to one output, the other inputs held still."""

    source: str
    target: str
    method: str
    measure: Measure


@dataclass(frozen=True, slots=True)
class Running:
    """What is true of the network as it runs: ‖f̂(x) - f̂(y)‖ <= L‖x - y‖ + 2E."""

    dtype: str
    radius: float
    """Of the inputs (ℓ2) on which it holds."""
    error: Measure
    """E."""
    assumptions: tuple[str, ...]
    reasons: tuple[str, ...]
    """Why there is no finite E, when there is none."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """How far the samples may be moved (ℓ2) without a change of their class."""

    path: str
    count: int
    correct: int
    labelled: bool
    """Whether the radii are about true classes; else about predicted ones."""
    radii: tuple[float, ...]
    median: float
    accuracy: Mapping[float, float]
    """Distance -> share of the samples that are right and stay so."""
    rigor: Rigor
    of: str
    """Which network they speak of: "the exact network", "the network running in float32"."""


@dataclass(frozen=True, slots=True)
class Headline:
    """The one number about the whole network, and whether one may sign it."""

    measure: Measure
    certified: bool
    """A proved finite upper bound of the stated network, with no assumption about its wiring."""
    reasons: tuple[str, ...]
    """Why it is not certified."""


@dataclass(frozen=True, slots=True)
class ModelReport:
    """Everything found out about one model."""

    path: str
    format: str
    sha256: str
    input_shapes: Mapping[str, tuple[int, ...]]
    input_shape_source: str
    """"command line", "file", or "unknown"."""
    topology: str
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    alarms: tuple[str, ...]
    layers: tuple[LayerResult, ...]
    skipped: tuple[Skipped, ...]
    bounds: tuple[Bound, ...] = ()
    bound: Headline | None = None
    """None when no bound was asked for."""
    part: str = ""
    """Which part of the network the bound is of; "" for all of it."""
    pairs: tuple[Pair, ...] = ()
    """For a network with several inputs or outputs."""
    running: Running | None = None
    certificates: Certificates | None = None
    advice: str = ""
    """What would bring the bound under the limit."""
    without_norm: tuple[str, ...] = ()
    """Names of nodes with matrices that have no norm of their own: recurrent ones."""

    @property
    def assumed(self) -> tuple[str, ...]:
        """Everything that is assumed, of the file or for any of the bounds, each once."""
        of_bounds = (text for bound in self.bounds for text in bound.assumptions)
        return tuple(dict.fromkeys((*self.assumptions, *of_bounds)))


@dataclass(frozen=True, slots=True)
class Tool:
    """Which program, on which libraries and device, made a report."""

    version: str
    libraries: Mapping[str, str]
    device: str
    dtype: str = "float64"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a rule objects to."""

    rule: str
    severity: str
    """"error" fails the run, "undecided" is a claim that cannot be proven, "note" informs."""
    model: str
    where: str
    """Layer or node; "" for the whole model."""
    message: str
    measured: float | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class RuleInfo:
    """What a rule is called and what it means."""

    id: str
    summary: str
    explanation: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say about a report."""

    findings: tuple[Finding, ...]
    passed: bool | None
    """None when no gate was asked for."""
    exit_code: int
    rules: tuple[RuleInfo, ...] = ()
    """All rules that there are, in order, whether they object or not."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A model about which nothing was found out, and why."""

    path: str
    slug: str
    cause: str
    hint: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class Change:
    """What clipping did to one layer."""

    name: str
    kind: str
    tensors: tuple[str, ...]
    """Keys of the stored tensors that were rewritten; empty: left alone."""
    before: Measure
    after: Measure
    relative_change: float
    """‖W' - W‖_F / ‖W‖_F."""
    reason: str = ""
    """Why it was left alone, or changed in another way than asked."""
    limit: float | None = None
    """What its norm had to meet; None: nothing."""
    least_change: float | None = None
    """No weight that meets the limit, a convolution at every input size, differs less,
    relatively (computed); None: not known."""


@dataclass(frozen=True, slots=True)
class BoundChange:
    """What clipping did to the bound of the whole network."""

    limit: float
    before: Measure
    after: Measure


@dataclass(frozen=True, slots=True)
class ClipReport:
    """What clipping did to a checkpoint, measured on the file that was written."""

    path: str
    output: str
    limit: float | None
    """One for all layers; None: each has its own."""
    method: str
    changes: tuple[Change, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    written: bool
    met: bool = True
    """Whether every limit is proved to be met; only the single pass may leave that open."""
    bound: BoundChange | None = None
    """Where the whole network had to meet a bound."""
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The audit of one or several models."""

    tool: Tool
    models: tuple[ModelReport, ...]
    schema_version: int = field(default=SCHEMA_VERSION)
    failures: tuple[Failure, ...] = ()
    """The models that could not be audited."""

    @property
    def layers(self) -> tuple[LayerResult, ...]:
        """Return the layers of all models."""
        return tuple(layer for model in self.models for layer in model.layers)

    def to_records(self) -> list[dict[str, Any]]:
        """Return one flat dictionary a layer, ready for a data frame."""
        return [_record(model, layer) for model in self.models for layer in model.layers]

    def _repr_html_(self) -> str:
        """Return a plain table, as notebooks show it."""
        records = self.to_records()
        if not records:
            return "<p>no layers</p>"
        head = "".join(f"<th>{html.escape(name)}</th>" for name in records[0])
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_cell(v))}</td>" for v in record.values()) + "</tr>"
            for record in records
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _record(model: ModelReport, layer: LayerResult) -> dict[str, Any]:
    spectrum = layer.spectrum
    return {
        "model": model.path,
        "layer": layer.name,
        "kind": layer.kind,
        "shape": layer.shape,
        "geometry": " ".join(f"{key}={value}" for key, value in layer.geometry.items()),
        "norm_lower": layer.norm.lower,
        "norm_upper": layer.norm.upper,
        "rigor": layer.norm.rigor.label,
        "method": layer.norm.method,
        "reshaped_norm": layer.reshaped_norm,
        "power_iteration": layer.power_iteration,
        "frobenius": layer.frobenius,
        "stable_rank": spectrum.stable_rank if spectrum else None,
        "entropy_rank": spectrum.entropy_rank if spectrum else None,
        "numerical_rank": spectrum.numerical_rank if spectrum else None,
        "singular_values": spectrum.count if spectrum else None,
        "at_least_one": spectrum.at_least_one if spectrum else None,
        "log_share": layer.log_share,
    }


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
