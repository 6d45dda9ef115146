"""Audit: a model in, everything that can be said about it out."""

import math
from collections.abc import Mapping
from dataclasses import replace

from lipaudit.analysis import layerwise, propagate, sampling, shapes
from lipaudit.analysis.bounds import catalog
from lipaudit.analysis.bounds.base import Question
from lipaudit.analysis.layerwise import Measured, Progress, Wish
from lipaudit.analysis.linear_parts import linear_parts
from lipaudit.analysis.shapes import InputShape, InputShapes
from lipaudit.device import Compute
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.errors import ShapeError
from lipaudit.graph.model import Model, Topology
from lipaudit.graph.rewrites.batch_norm import fold_batch_norms
from lipaudit.graph.rewrites.padding import join_paddings
from lipaudit.layers import network as networks
from lipaudit.layers.network import Network, Opaque
from lipaudit.operators.base import Norm
from lipaudit.results import (
    Bound,
    Headline,
    LayerResult,
    Measure,
    ModelReport,
    Skipped,
)

_UNKNOWN_GRAPH = (
    "the layer graph is unknown: the file lists weights, not how they are connected; "
    "give --model pkg.mod:factory, or export to ONNX or .pt2"
)
_AS_CIRCULAR = "every convolution was taken as a circular one, not as the network pads it"


def inspect(
    model: Model,
    compute: Compute,
    *,
    input_shape: InputShape = None,
    wish: Wish | None = None,
    progress: Progress | None = None,
) -> ModelReport:
    """Measure every layer with a weight, as it stands in the file."""
    known, network = _network(model, input_shape)
    measured = layerwise.measure(network, compute, wish=wish, ties=model.ties, progress=progress)
    report = _report(model, known, network, measured)
    if wish is not None and wish.circular:
        return replace(report, notes=(_AS_CIRCULAR, *report.notes))
    return report


def measure(
    model: Model,
    compute: Compute,
    *,
    input_shape: InputShape = None,
    wish: Wish | None = None,
    progress: Progress | None = None,
) -> tuple[Measured, ...]:
    """Measure the layers as `inspect` does, keeping the layers themselves beside the numbers."""
    _, network = _network(model, input_shape)
    return layerwise.measure(network, compute, wish=wish, ties=model.ties, progress=progress)


def bound(
    model: Model,
    compute: Compute,
    *,
    input_shape: InputShape = None,
    progress: Progress | None = None,
) -> ModelReport:
    """Bound the whole network by every method, batch norms folded into the map before them."""
    known, unfolded = _network(model, input_shape)
    network = networks.build(fold_batch_norms(unfolded.graph), known.known)
    measured = layerwise.measure(network, compute, ties=model.ties, progress=progress)
    report = _report(model, known, network, measured)
    bounds: tuple[Bound, ...] = ()
    lower: Measure | None = None
    reasons = _unanswerable(model, network)
    if not reasons:
        question = _question(model, network, measured, compute)
        asked = [method.bound(question) for method in catalog.registered()]
        bounds = tuple(bound for bound in asked if bound is not None)
        # What stands between the layers of an assumed chain is not known, so it cannot be run.
        if model.topology is Topology.STATED:
            lower = sampling.largest_jacobian(network, question.sources, question.targets)
    return _with_bounds(report, bounds, lower, reasons)


def _network(model: Model, input_shape: InputShape) -> tuple[InputShapes, Network]:
    """Build the network; where a guessed batch axis does not fit, leave that shape open."""
    known = shapes.resolve(model.graph, input_shape)
    try:
        return known, _built(model, known)
    except ShapeError:
        if not known.is_guess:
            raise
    note = "its first axis is open and no batch axis; give --input-shape"
    open_shapes = InputShapes({}, "unknown", (note,))
    return open_shapes, _built(model, open_shapes)


def _built(model: Model, known: InputShapes) -> Network:
    """Build the network with every convolution's padding inside of it."""
    network = networks.build(model.graph, known.known)
    joined = join_paddings(network.graph, network.shapes)
    return network if joined is network.graph else networks.build(joined, known.known)


def _report(
    model: Model, known: InputShapes, network: Network, measured: tuple[Measured, ...]
) -> ModelReport:
    return ModelReport(
        path=model.path,
        format=model.format,
        sha256=model.digest() if model.digest is not None else "",
        input_shapes=dict(known.known),
        input_shape_source=known.source,
        topology=str(model.topology),
        assumptions=model.assumptions,
        notes=(*model.notes, *known.notes, *_padded_apart(network)),
        alarms=model.alarms,
        layers=tuple(m.result for m in measured if isinstance(m.result, LayerResult)),
        skipped=(
            *(m.result for m in measured if isinstance(m.result, Skipped)),
            *_opaque(network),
            *(Skipped(u.name, u.kind, u.slug, u.reason) for u in model.unread),
        ),
    )


def _padded_apart(network: Network) -> tuple[str, ...]:
    """Name the convolutions whose padding is a node of its own, and stretches by itself.

    Exporters write reflect, replicate and circular padding that way; `join_paddings` leaves few.
    """
    modes = {
        name: step.node.attributes.get("mode", "constant")
        for step in network.steps
        if step.node.op == "Pad"
        for name in step.node.outputs
    }
    names = [
        layerwise.title(step)
        for step in network.steps
        if step.node.op == "Conv" and modes.get(step.node.inputs[0], "constant") != "constant"
    ]
    if not names:
        return ()
    text = "the norm is without the padding before it, a node of its own whose gain `bound` adds"
    return (f"{', '.join(names)}: {text}",)


def _opaque(network: Network) -> tuple[Skipped, ...]:
    return tuple(
        Skipped(layerwise.title(step), layerwise.kind(step), step.layer.slug, step.layer.reason)
        for step in network.steps
        if isinstance(step.layer, Opaque)
    )


def _unanswerable(model: Model, network: Network) -> tuple[str, ...]:
    """Say why the question of a bound makes no sense for this model, if it makes none."""
    graph = network.graph
    if model.topology is Topology.UNKNOWN:
        return (_UNKNOWN_GRAPH,)
    if not graph.outputs:
        return ("the graph has no output",)
    if not graph.inputs:
        return ("the graph has no input",)
    if not _sources(network):
        names = ", ".join(f"{edge.name!r} ({edge.dtype})" for edge in graph.inputs)
        return (f"no input is real-valued, so that none can move a little: {names}",)
    return ()


def _sources(network: Network) -> tuple[str, ...]:
    return tuple(edge.name for edge in network.graph.inputs if propagate.is_continuous(edge.dtype))


def _question(
    model: Model, network: Network, measured: tuple[Measured, ...], compute: Compute
) -> Question:
    by_step = {id(item.step): item for item in measured}
    norms: Mapping[int, Norm | str] = {
        number: item.norm or (item.result.reason if isinstance(item.result, Skipped) else "")
        for number, step in enumerate(network.steps)
        if (item := by_step.get(id(step))) is not None
    }
    held = [edge.name for edge in network.graph.inputs if edge.name not in _sources(network)]
    assumptions = [*model.assumptions]
    if held:
        assumptions.append(f"held fixed, since not real-valued: {', '.join(held)}")
    gains = propagate.step_gains(network, norms)
    sources = _sources(network)
    targets = tuple(edge.name for edge in network.graph.outputs)
    return Question(
        network=network,
        gains=gains,
        sources=sources,
        targets=targets,
        assumptions=tuple(assumptions),
        parts=linear_parts(network, gains, (sources, targets), compute),
    )


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
