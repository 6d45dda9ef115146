"""Bounding: the question about a network, every method's answer, and what is said around it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lipaudit.analysis import propagate, ranges, samples, sampling, witness
from lipaudit.analysis.advice import advice
from lipaudit.analysis.bounds import catalog
from lipaudit.analysis.bounds.averaged import movements
from lipaudit.analysis.bounds.base import Question
from lipaudit.analysis.executed import executed
from lipaudit.analysis.forward import Rows, largest_bytes, taken_bytes
from lipaudit.analysis.layerwise import Measured, Progress, title
from lipaudit.analysis.linear_parts import linear_parts
from lipaudit.analysis.propagate import StepGain, jointly
from lipaudit.analysis.query import Query, Ranges
from lipaudit.device import Compute
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.errors import NotCertified
from lipaudit.graph.model import Model, Topology
from lipaudit.layers.network import Network
from lipaudit.layers.values import Values
from lipaudit.operators.base import Norm
from lipaudit.results import (
    Bound,
    Headline,
    LayerResult,
    Measure,
    ModelReport,
    Pair,
    Running,
    Skipped,
)

_UNKNOWN_GRAPH = (
    "the layer graph is unknown: the file lists weights, not how they are connected; "
    "give --model pkg.mod:factory, or export to ONNX or .pt2"
)


_NO_WITNESS = (
    "no input was found that the layers can run on, one after the other; give --input-shape"
)
_NAMED = 3
"""Layers that a warning names."""
_ROUNDING = 1e-9
"""By how much, relatively, a lower bound that was computed may pass a proved upper one."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The network that is asked about: which of its inputs move, and what its layers measure."""

    model: Model
    network: Network
    as_written: Network
    """The same part before anything was folded or joined, to be run."""
    sources: tuple[str, ...]
    measured: tuple[Measured, ...]
    compute: Compute

    @property
    def targets(self) -> tuple[str, ...]:
        """The outputs."""
        return tuple(edge.name for edge in self.network.graph.outputs)


def answered(
    report: ModelReport, subject: Subject, query: Query, *, progress: Progress | None = None
) -> ModelReport:
    """Return the report with the bound and everything else that was asked."""
    reasons = _unanswerable(subject)
    if reasons:
        return _with_bounds(report, (), None, reasons)
    methods = catalog.registered()
    stages = ("gains", *(method.name for method in methods), "lower bound")

    def begin(stage: str) -> None:
        if progress is not None:
            progress(f"{stage} ({stages.index(stage) + 1} of {len(stages)})", 0, 0)

    begin("gains")
    question = _question(subject, query)
    asked = []
    for method in methods:
        begin(method.name)
        asked.append(method.bound(question))
    bounds = tuple(bound for bound in asked if bound is not None)
    lower = None
    # What stands between the layers of an assumed chain is not known, so it cannot be run.
    if subject.model.topology is Topology.STATED and _has_room(subject):
        begin("lower bound")
        lower = sampling.largest_jacobian(
            subject.as_written,
            question.sources,
            question.targets,
            starts=None if query.samples is None else _starts(subject, query.samples),
            box=_box(subject, query),
            enough=min((bound.measure.upper for bound in bounds), default=math.inf),
        )
    report = _with_bounds(report, bounds, lower, ())
    if report.bound is not None and report.bound.measure.is_finite:
        reasons = _without_function(subject)
        if reasons:
            return _with_bounds(report, (), None, reasons)
    return replace(
        report,
        pairs=_pairs(question),
        advice=advice(question, query.limit, report.bound),
    )


def _has_room(subject: Subject) -> bool:
    """Tell whether the network can be attacked: the way back needs all of its constants at once."""
    taken, compute = taken_bytes(subject.as_written), subject.compute
    if taken > compute.max_memory:
        compute.warn(
            f"{subject.model.path}: no lower bound is looked for: the weights take {taken:,} bytes "
            f"in float64, over --max-memory ({compute.max_memory:,} bytes)"
        )
    return taken <= compute.max_memory


def bounded(report: ModelReport, subject: Subject) -> ModelReport:
    """Return the report with every method's bound, without attacking it from below."""
    reasons = _unanswerable(subject)
    if reasons:
        return _with_bounds(report, (), None, reasons)
    reasons = _without_function(subject)
    if reasons:
        return _with_bounds(report, (), None, reasons)
    question = _question(subject, Query())
    asked = [method.bound(question) for method in catalog.registered()]
    return _with_bounds(report, tuple(bound for bound in asked if bound is not None), None, ())


def gains_of(subject: Subject) -> tuple[StepGain, ...]:
    """Return the gain of every step, with values of the inputs taken into account."""
    known = {name: Values.between(*span) for name, span in _box(subject, Query()).items()}
    return ranges.refined(subject.network, _gains(subject), known, subject.compute.max_memory)


def with_running(report: ModelReport, as_it_runs: Subject, query: Query) -> ModelReport:
    """Add the statement about the network in floating point, nothing folded in it."""
    if query.executed is None or query.radius is None or _unanswerable(as_it_runs):
        return report
    found = executed(
        as_it_runs.network,
        _gains(as_it_runs),
        dtype=query.executed,
        radius=query.radius,
        sources=as_it_runs.sources,
        targets=as_it_runs.targets,
        max_memory=as_it_runs.compute.max_memory,
    )
    error = Measure.of(found.error, "layer by layer, in decimals rounded upward")
    joined = [step.node for step in as_it_runs.network.steps if len(step.node.origin) > 1]
    names = ", ".join(dict.fromkeys(f"{node.op} {node.name!r}" for node in joined))
    spelled = (f"what the file spells out counts as one function: {names}",) if joined else ()
    assumptions = (*found.assumptions, *spelled)
    running = Running(found.dtype, found.radius, error, assumptions, found.reasons)
    return replace(report, running=running)


def with_samples(report: ModelReport, subject: Subject, query: Query) -> ModelReport:
    """Add what the samples show: certified radii, and the typical stretch of each layer."""
    if query.samples is None or report.bound is None or _unanswerable(subject):
        return report
    _refuse_too_large(subject)
    stretches = samples.expected_stretch(subject.network, query.samples)
    layers = tuple(
        replace(layer, expected_stretch=stretches.get(layer.name)) for layer in report.layers
    )
    report = replace(report, layers=layers)
    measure = report.bound.measure if report.bound is not None else None
    if measure is None or not measure.is_finite or len(subject.targets) != 1:
        return report
    running = report.running if report.running and report.running.error.is_finite else None
    spans = list(_box(subject, query).values())
    region = samples.Region(
        box=spans[0] if spans else None, radius=None if running is None else running.radius
    )
    lost = Enclosure.exactly(0) if running is None else Enclosure.at_most(running.error.upper)
    found = samples.margins(
        subject.network,
        query.samples,
        Enclosure.at_most(measure.upper, measure.rigor),
        distances=query.distances,
        executed_error=lost,
        region=region,
    )
    of = "the exact network" if running is None else f"the network running in {running.dtype}"
    of += f", among inputs {region.text}" if region.text else ""
    return replace(report, certificates=replace(found, of=of))


def _refuse_too_large(subject: Subject) -> None:
    """Raise where a constant is too large for the network to be run on samples."""
    taken, room = (
        max(map(largest_bytes, subject.network.steps), default=0),
        subject.compute.max_memory,
    )
    if taken > room:
        raise NotCertified(
            f"no sample is run through it: a weight takes {taken:,} bytes in float64, over "
            f"--max-memory ({room:,} bytes)",
            slug="memory",
            hint=f"give --max-memory {taken}",
            path=str(subject.model.path),
        )


def _box(subject: Subject, query: Query) -> Ranges:
    """Return where the inputs lie: as the user says, and else as the file does."""
    query.check_names(subject.network.graph.inputs)
    by_file = {n: s for n, s in subject.model.ranges.items() if n in subject.sources}
    return {**by_file, **query.box(subject.sources)}


def _starts(subject: Subject, given: samples.Samples) -> Rows | None:
    whole = len(subject.network.graph.inputs) == 1 and subject.sources == tuple(
        edge.name for edge in subject.network.graph.inputs
    )
    return samples.starts(subject.network, given) if whole else None


def _unanswerable(subject: Subject) -> tuple[str, ...]:
    """Say why the question of a bound makes no sense for this model, if it makes none."""
    graph = subject.network.graph
    if subject.model.topology is Topology.UNKNOWN:
        folder = subject.model.folder
        stated = folder is not None and (folder / "config.json").is_file()
        return (_UNKNOWN_GRAPH.replace("give ", "give --hf, ", 1) if stated else _UNKNOWN_GRAPH,)
    if not graph.outputs:
        return ("the graph has no output",)
    if not graph.inputs:
        return ("the graph has no input",)
    if not subject.sources:
        names = ", ".join(f"{edge.name!r} ({edge.dtype})" for edge in graph.inputs)
        return (f"no input is real-valued, so that none can move a little: {names}",)
    return ()


def _without_function(subject: Subject) -> tuple[str, ...]:
    """Say that no input was found which the layers could be run on, if none was.

    What stands between the layers of an assumed chain is not known, so that they need not fit.
    """
    if subject.model.topology is not Topology.STATED:
        return ()
    shapes = subject.network.shapes
    known = {
        edge.name: shape
        for edge in subject.network.graph.inputs
        if (shape := shapes.get(edge.name)) is not None
    }
    return () if witness.exists(subject.as_written.graph, known) else (_NO_WITNESS,)


def _gains(subject: Subject) -> tuple[StepGain, ...]:
    by_step = {id(item.step): item for item in subject.measured}
    norms: Mapping[int, Norm | str] = {
        number: item.norm or (item.result.reason if isinstance(item.result, Skipped) else "")
        for number, step in enumerate(subject.network.steps)
        if (item := by_step.get(id(step))) is not None
    }
    return propagate.step_gains(subject.network, norms)


def _question(subject: Subject, query: Query) -> Question:
    network, sources = subject.network, subject.sources
    inputs = network.graph.inputs
    held = [edge.name for edge in inputs if edge.name not in sources]
    assumptions = [*subject.model.assumptions]
    if held:
        assumptions.append(f"held fixed: {', '.join(held)}")
    room = subject.compute.max_memory
    anywhere = ranges.refined(network, _gains(subject), {}, room)
    box = _box(subject, query)
    known = {name: Values.between(*span) for name, span in box.items()}
    gains = ranges.refined(network, anywhere, known, room) if known else anywhere
    too_large = [title(step) for step in network.steps if largest_bytes(step) > room]
    if too_large and ranges.are_open(network, gains):
        subject.compute.warn(
            f"{subject.model.path}: no values are bounded behind {', '.join(too_large[:_NAMED])}"
            f"{', ...' if len(too_large) > _NAMED else ''}: in float64 over --max-memory "
            f"({room:,} bytes)"
        )
    if gains != anywhere:
        by = "" if query.ranges else ", as the file says"
        listed = sorted({f"[{low:g}, {high:g}]" for low, high in box.values()})
        what = "what enters the part" if query.start is not None else "the input"
        assumptions.append(f"every item of {what} lies in {', '.join(listed)}{by}")
    # What stands between the layers of an assumed chain is not known: it may bend.
    stated = subject.model.topology is Topology.STATED
    ends = sources, subject.targets
    parts = linear_parts(network, gains, ends, subject.compute) if stated else None
    return Question(
        network=network,
        gains=gains,
        sources=sources,
        targets=subject.targets,
        assumptions=tuple(assumptions),
        expected=_expected(subject),
        parts=parts,
    )


def _expected(subject: Subject) -> Mapping[int, tuple[float, float]]:
    """Return √(Σσ² / n) of each layer: the root mean square stretch over all directions.

    n counts the inputs for the layer, the outputs for its adjoint.
    """
    numbers = {id(step): number for number, step in enumerate(subject.network.steps)}
    found = {}
    for item in subject.measured:
        layer = item.result
        if isinstance(layer, LayerResult) and layer.frobenius is not None:
            sizes = [math.prod(shape) for shape in (layer.in_shape, layer.out_shape) if shape]
            if len(sizes) == 2 and all(sizes):
                into, out = (layer.frobenius / math.sqrt(size) for size in sizes)
                found[numbers[id(item.step)]] = into, out
    return found


def _pairs(question: Question) -> tuple[Pair, ...]:
    """Bound every input-output pair, where there is more than one."""
    if len(question.sources) * len(question.targets) == 1:
        return ()
    found = []
    for source in question.sources:
        moved = movements(question, source)
        for target in question.targets:
            reached = jointly([moved], [target])
            found.append(Pair(source, target, "averaged", Measure.of(reached, "")))
    return tuple(found)


def _with_bounds(
    report: ModelReport,
    bounds: tuple[Bound, ...],
    lower: Measure | None,
    reasons: tuple[str, ...],
) -> ModelReport:
    best = min(
        bounds,
        key=lambda bound: (-bound.measure.rigor, bound.measure.log10_upper),
        default=None,
    )
    upper = best.measure if best is not None else Measure.of(Enclosure.unknown(), "")
    why = [*reasons, *(best.reasons if best is not None else ())]
    if best is not None and upper.is_finite:
        if upper.rigor is not Rigor.PROVED:
            why.append(f"the bound is {upper.rigor.label}, not proved")
        if report.topology != Topology.STATED:
            why.append("the layer graph is assumed, not stated by the file")
    if lower is not None and not lower.lower <= upper.upper * (1 + _ROUNDING):
        why.append(
            f"a quotient of {lower.lower:g} was found above the upper bound: a bug of lipaudit, "
            "please report it"
        )
    headline = Headline(
        measure=replace(
            upper,
            lower=lower.lower if lower is not None else 0.0,
            log10_lower=lower.log10_lower if lower is not None else -math.inf,
        ),
        certified=not why,
        reasons=tuple(why),
    )
    return replace(report, bounds=bounds, bound=headline)
