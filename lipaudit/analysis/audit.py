"""Audit: a model in, everything that can be said about it out."""

from dataclasses import replace

from lipaudit.analysis import bounding, layerwise, propagate, shapes
from lipaudit.analysis.bounding import Subject
from lipaudit.analysis.layerwise import Measured, Progress, Wish
from lipaudit.analysis.query import Query
from lipaudit.analysis.shapes import InputShape, InputShapes
from lipaudit.comparison import AS_STORED
from lipaudit.device import Compute
from lipaudit.errors import ShapeError
from lipaudit.graph.model import Model
from lipaudit.graph.node import Node
from lipaudit.graph.rewrites.batch_norm import fold_batch_norms
from lipaudit.graph.rewrites.padding import join_paddings
from lipaudit.graph.rewrites.spelled_out import join_spelled_out
from lipaudit.graph.section import Places, section
from lipaudit.layers import network as networks
from lipaudit.layers.network import Network, Opaque
from lipaudit.results import LayerResult, ModelReport, Skipped

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
        report = replace(report, notes=(_AS_CIRCULAR, *report.notes))
    if wish is not None and wish.only is not None and not measured:
        report = replace(report, notes=(f"no layer is called {wish.only!r}", *report.notes))
    return report


def measure(
    model: Model,
    compute: Compute,
    *,
    input_shape: InputShape = None,
    folded: bool = False,
    wish: Wish | None = None,
    progress: Progress | None = None,
) -> tuple[Network, tuple[Measured, ...]]:
    """Measure the layers as `inspect` does, keeping the layers themselves beside the numbers.

    `folded`: with every batch norm in the map before it, as `bound` sees the network.
    """
    known, network = _network(model, input_shape)
    if folded:
        network = networks.build(fold_batch_norms(network.graph, network.shapes), known.known)
    return network, layerwise.measure(
        network, compute, wish=wish, ties=model.ties, progress=progress
    )


def bounded(
    model: Model, network: Network, measured: tuple[Measured, ...], compute: Compute
) -> tuple[Subject, ModelReport]:
    """Bound a network whose layers are measured already, by every method and nothing else."""
    known = InputShapes({}, "unknown", ())
    subject = Subject(model, network, network, _real_inputs(network), measured, compute)
    return subject, bounding.bounded(_report(model, known, network, measured), subject)


def bound(
    model: Model,
    compute: Compute,
    *,
    input_shape: InputShape = None,
    query: Query | None = None,
    progress: Progress | None = None,
) -> ModelReport:
    """Bound the network by every method, batch norms folded into the map before them."""
    query = query or Query()
    query.check()
    known, unfolded = _network(model, input_shape)
    network = networks.build(fold_batch_norms(unfolded.graph, unfolded.shapes), known.known)
    whole = network
    network, sources, part = _section(network, query)
    written = networks.build(model.graph, known.known) if not part else network
    measured = layerwise.measure(
        network,
        replace(compute, full_spectra=query.spectra),
        ties=model.ties,
        progress=progress,
    )
    report = replace(_report(model, known, network, measured), part=part)
    subject = Subject(model, network, written, sources, measured, compute)
    report = bounding.answered(report, subject, query)
    if query.executed is not None:
        as_it_runs, sources, _ = _section(unfolded, query)
        same = len(unfolded.graph.nodes) == len(whole.graph.nodes)
        again = measured if same else layerwise.measure(as_it_runs, compute)
        running = network if same else as_it_runs
        report = bounding.with_running(
            report, Subject(model, running, running, sources, again, compute), query
        )
    return bounding.with_samples(report, subject, query)


def check(
    model: Model,
    compute: Compute,
    *,
    input_shape: InputShape = None,
    query: Query | None = None,
    progress: Progress | None = None,
) -> ModelReport:
    """Bound the network, and measure every layer as it stands in the file.

    A limit for layers is about what the file stores (and `clip` writes), whatever is folded
    into it for the bound. Where nothing is folded the layers need not be measured twice.
    """
    report = bound(model, compute, input_shape=input_shape, query=query, progress=progress)
    _, network = _network(model, input_shape)
    if len(fold_batch_norms(network.graph, network.shapes).nodes) == len(network.graph.nodes):
        return report
    stored = inspect(model, compute, input_shape=input_shape, progress=progress)
    skipped = dict.fromkeys((*stored.skipped, *report.skipped))
    notes = (*report.notes, AS_STORED)
    return replace(report, layers=stored.layers, skipped=tuple(skipped), notes=notes)


def _section(network: Network, query: Query) -> tuple[Network, tuple[str, ...], str]:
    """Cut out the part that is asked about; say which inputs move, and what the part is."""
    if query.start is None and query.end is None:
        return network, _real_inputs(network), ""
    part, entering = section(
        network.graph, (query.start, query.end), _places(network), (network.shapes, network.dtypes)
    )
    shapes = {e.name: s for e in part.inputs if (s := network.shapes.get(e.name)) is not None}
    cut = networks.build(part, shapes)
    sources = tuple(name for name in _real_inputs(cut) if name in entering)
    return cut, sources, f"from {query.start or 'the input'} to {query.end or 'the output'}"


def _places(network: Network) -> Places:
    """Return the nodes by all their names, as beginnings and as ends.

    Nodes that were merged into one begin where the first does and end where the last does;
    there is no value inside of it at which the network could be cut.
    """
    starts: dict[str, Node] = {}
    ends: dict[str, Node] = {}
    inside: dict[str, Node] = {}
    for step in reversed(network.steps):
        own = (step.node.name, layerwise.title(step))
        origin = step.node.origin or own
        starts |= dict.fromkeys((*own, origin[0]), step.node)
        ends |= dict.fromkeys((*own, origin[-1]), step.node)
        inside |= dict.fromkeys(origin, step.node)
    return Places(starts, ends, inside)


def _real_inputs(network: Network) -> tuple[str, ...]:
    return tuple(edge.name for edge in network.graph.inputs if propagate.is_continuous(edge.dtype))


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
    """Build the network with what exporters write apart joined again."""
    network = networks.build(model.graph, known.known)
    joined = join_spelled_out(join_paddings(network.graph, network.shapes), network.shapes)
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
        assumptions=(*model.assumptions, *_padding_assumed(measured)),
        notes=(*model.notes, *known.notes, *_padded_apart(network)),
        alarms=model.alarms,
        layers=tuple(m.result for m in measured if isinstance(m.result, LayerResult)),
        skipped=(
            *(m.result for m in measured if isinstance(m.result, Skipped)),
            *_opaque(network),
            *(Skipped(u.name, u.kind, u.slug, u.reason) for u in model.unread),
        ),
    )


def _padding_assumed(measured: tuple[Measured, ...]) -> tuple[str, ...]:
    """State what a norm for every geometry leaves out: copies that other paddings make."""
    unstated = [
        item.result.name
        for item in measured
        if isinstance(item.result, LayerResult) and "geometry" in item.result.geometry
    ]
    if not unstated:
        return ()
    return ("convolutions pad with zeros or circularly, since the file does not say how they do",)


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
