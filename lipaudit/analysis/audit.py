"""Audit: a model in, everything that can be said about it out."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from lipaudit.analysis import bounding, layerwise, normless, propagate, shapes, sharing
from lipaudit.analysis.bounding import Subject
from lipaudit.analysis.layerwise import Measured, Progress, Told, Wish, non_finite
from lipaudit.analysis.query import Query
from lipaudit.analysis.shapes import InputShape, InputShapes
from lipaudit.analysis.sharing import Elsewhere
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
from lipaudit.results import NO_LAYER, LayerResult, ModelReport, Skipped

Part = tuple[str | None, str | None]
"""The nodes at which the part of a network that is meant begins and ends; None: its own ends."""
WHOLE: Part = (None, None)

Crew = Callable[[bool, Part], Elsewhere]
"""Those who measure layers elsewhere, given whether batch norms are folded in, and of which part
of the network the layers are."""

_KINDS = 6
"""So many kinds of nodes are named."""
_NO_LAYER = "no-layer"
_AS_CIRCULAR = "every convolution was taken as a circular one, not as the network pads it"


def inspect(
    model: Model,
    compute: Compute,
    *,
    input_shape: InputShape = None,
    wish: Wish | None = None,
    progress: Progress | None = None,
    crew: Crew | None = None,
) -> ModelReport:
    """Measure every layer with a weight, as it stands in the file."""
    known, network = _network(model, input_shape)
    measured = sharing.measure(
        network,
        compute,
        wish=wish,
        ties=model.ties,
        progress=progress,
        elsewhere=None if crew is None else crew(False, WHOLE),
    )
    report = _report(model, known, network, measured, wish)
    if report.without_norm:
        names = ", ".join(report.without_norm)
        note = f"{names}: its matrices have no norm of their own; `bound` gives its gain"
        report = replace(report, notes=(note, *report.notes))
    if wish is not None and wish.circular:
        report = replace(report, notes=(_AS_CIRCULAR, *report.notes))
    if wish is not None and wish.only is not None and not measured:
        kept = (note for note in report.notes if not note.startswith(NO_LAYER))
        why = f"{NO_LAYER}: no layer is called {wish.only!r}"
        report = replace(report, notes=(why, *kept))
    return report


def opened(model: Model, input_shape: InputShape, *, folded: bool, part: Part = WHOLE) -> Network:
    """Build the network whose layers are measured, as `inspect` sees it or, folded, `bound`."""
    known, network = _network(model, input_shape)
    if folded:
        network = networks.build(fold_batch_norms(network.graph, network.shapes), known.known)
    return _section(network, part)[0]


def measure(
    model: Model,
    compute: Compute,
    *,
    input_shape: InputShape = None,
    folded: bool = False,
    wish: Wish | None = None,
    progress: Progress | None = None,
    crew: Crew | None = None,
) -> tuple[Network, tuple[Measured, ...]]:
    """Measure the layers as `inspect` does, keeping the layers themselves beside the numbers.

    `folded`: with every batch norm in the map before it, as `bound` sees the network.
    """
    network = opened(model, input_shape, folded=folded)
    return network, sharing.measure(
        network,
        compute,
        wish=wish,
        ties=model.ties,
        progress=progress,
        elsewhere=None if crew is None else crew(folded, WHOLE),
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
    told: Told | None = None,
    progress: Progress | None = None,
    crew: Crew | None = None,
) -> ModelReport:
    """Bound the network by every method, batch norms folded into the map before them."""
    query = query or Query()
    query.check()
    ends = (query.start, query.end)
    known, unfolded = _network(model, input_shape)
    network = networks.build(fold_batch_norms(unfolded.graph, unfolded.shapes), known.known)
    whole = network
    network, sources, part = _section(network, ends)
    written = networks.build(model.graph, known.known) if not part else network
    measured = sharing.measure(
        network,
        replace(compute, full_spectra=query.spectra),
        wish=Wish(told=told),
        ties=model.ties,
        progress=progress,
        elsewhere=None if crew is None else crew(True, ends),
    )
    report = replace(_report(model, known, network, measured), part=part)
    if not part:
        # Once folded, nothing is seen of them.
        lost = normless.broken_normalizations(unfolded)
        report = replace(report, skipped=tuple(dict.fromkeys((*report.skipped, *lost))))
    subject = Subject(model, network, written, sources, measured, compute)
    report = bounding.answered(report, subject, query, progress=progress)
    if query.executed is not None:
        as_it_runs, sources, _ = _section(unfolded, ends)
        same = len(unfolded.graph.nodes) == len(whole.graph.nodes)
        again = measured
        if not same:
            there = None if crew is None else crew(False, ends)
            again = sharing.measure(as_it_runs, compute, progress=progress, elsewhere=there)
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
    told: Told | None = None,
    progress: Progress | None = None,
    crew: Crew | None = None,
) -> ModelReport:
    """Bound the network, and measure every layer as it stands in the file.

    A limit for layers is about what the file stores (and `clip` writes), whatever is folded
    into it for the bound. Where nothing is folded the layers need not be measured twice.
    """
    _, network = _network(model, input_shape)
    folded = fold_batch_norms(network.graph, network.shapes)
    bounded = partial(
        bound, model, compute, input_shape=input_shape, query=query, progress=progress, crew=crew
    )
    if len(folded.nodes) == len(network.graph.nodes):
        return bounded(told=told)
    # The layers of the report first: they are told as they get done.
    wish = Wish(told=told)
    stored = inspect(
        model, compute, input_shape=input_shape, wish=wish, progress=progress, crew=crew
    )
    report = bounded()
    skipped = dict.fromkeys((*stored.skipped, *report.skipped))
    notes = (*report.notes, AS_STORED)
    return replace(report, layers=stored.layers, skipped=tuple(skipped), notes=notes)


def _section(network: Network, ends: Part) -> tuple[Network, tuple[str, ...], str]:
    """Cut out the part that is asked about; say which inputs move, and what the part is."""
    if ends == WHOLE:
        return network, _real_inputs(network), ""
    part, entering = section(
        network.graph, ends, _places(network), (network.shapes, network.dtypes)
    )
    shapes = {e.name: s for e in part.inputs if (s := network.shapes.get(e.name)) is not None}
    cut = networks.build(part, shapes)
    sources = tuple(name for name in _real_inputs(cut) if name in entering)
    return cut, sources, f"from {ends[0] or 'the input'} to {ends[1] or 'the output'}"


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
    model: Model,
    known: InputShapes,
    network: Network,
    measured: tuple[Measured, ...],
    wish: Wish | None = None,
) -> ModelReport:
    layers = tuple(m.result for m in measured if isinstance(m.result, LayerResult))
    skipped = (
        *(m.result for m in measured if isinstance(m.result, Skipped)),
        *normless.broken(network, wish),
        *_opaque(network),
        *_unread(model),
    )
    empty = () if layers else (_why_no_layer(network, skipped),)
    return ModelReport(
        path=model.path,
        format=model.format,
        sha256=model.digest() if model.digest is not None else "",
        input_shapes=dict(known.known),
        input_shape_source=known.source,
        topology=str(model.topology),
        assumptions=(*model.assumptions, *_padding_assumed(measured)),
        notes=(*empty, *model.notes, *known.notes, *_padded_apart(network), *_empty(measured)),
        alarms=model.alarms,
        layers=layers,
        skipped=skipped,
        without_norm=normless.recurrent(network, wish),
    )


def _unread(model: Model) -> Iterator[Skipped]:
    """List what the file holds beside its layers; numbers that are none are named first of all."""
    for unread in model.unread:
        constant = model.tensors.get(unread.name) if unread.slug == _NO_LAYER else None
        # Infinities are honest in masks.
        broken = "" if constant is None else non_finite([constant], infinity=False)
        slug = "non-finite" if broken else unread.slug
        yield Skipped(unread.name, unread.kind, slug, broken or unread.reason)


def _why_no_layer(network: Network, skipped: tuple[Skipped, ...]) -> str:
    """Say what there is in the place of layers, and what can be asked instead."""
    if skipped:
        kinds = Counter(item.kind for item in skipped)
        listed = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common(_KINDS))
        first = skipped[0]
        return (
            f"{NO_LAYER}: of what could have been one, {listed}, nothing has a number, as "
            f"{first.name!r}: {first.reason}; lipaudit explain {first.slug} says what helps"
        )
    kinds = Counter(layerwise.kind(step) for step in network.steps)
    if not kinds:
        return f"{NO_LAYER}: the graph has no node"
    listed = ", ".join(kind for kind, _ in kinds.most_common(_KINDS))
    more = f" and {len(kinds) - _KINDS} other kinds" if len(kinds) > _KINDS else ""
    return (
        f"{NO_LAYER}: the graph has {listed}{more}, but no linear map with a stored weight, whose "
        "norm could be limited; limit the whole network: lipaudit bound --max X, or max-bound in "
        "a config"
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
    how = "with zeros, or circularly no farther than their kernel reaches"
    return (f"convolutions pad {how}, since the file does not say how they do",)


def _empty(measured: tuple[Measured, ...]) -> tuple[str, ...]:
    """Name the layers that hold no number: their norm is 0, whatever goes in."""
    names = [
        item.result.name
        for item in measured
        if isinstance(item.result, LayerResult) and 0 in item.result.shape
    ]
    return (f"empty, without any item: {', '.join(names)}",) if names else ()


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
        if step.node.op == "Conv" and modes.get(_first(step.node), "constant") != "constant"
    ]
    if not names:
        return ()
    text = "the norm is without the padding before it, a node of its own whose gain `bound` adds"
    return (f"{', '.join(names)}: {text}",)


def _first(node: Node) -> str:
    return next(iter(node.inputs), "")  # a malformed node has none


def _opaque(network: Network) -> tuple[Skipped, ...]:
    return tuple(
        Skipped(layerwise.title(step), layerwise.kind(step), step.layer.slug, step.layer.reason)
        for step in network.steps
        if isinstance(step.layer, Opaque)
    )
