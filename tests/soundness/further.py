"""Further claims: parts of a network, its layers, its values, its runs in float32."""

import copy
import math
from collections.abc import Iterator, Mapping

import torch

import lipaudit
from lipaudit.analysis import audit, bounding, ranges
from lipaudit.analysis.forward import Forward, observed
from lipaudit.analysis.layerwise import Measured
from lipaudit.device import CPU, Compute
from lipaudit.enclosure import Rigor
from lipaudit.errors import LipauditError, NotCertified
from lipaudit.graph.model import Model
from lipaudit.layers.base import AbstractLinearLayer
from lipaudit.layers.execution import load, run
from lipaudit.layers.invocation import invoke
from lipaudit.layers.network import Network, Step, build
from lipaudit.layers.values import Values
from tests.soundness import maps
from tests.soundness.claims import EXACT, Case, Claim
from tests.soundness.files import in_double, run_onnx

_FLOAT32 = 2e-3
"""By how much two runs in float32 may differ, relative to the largest number of an output."""
_STRETCHED = 1e-5
"""The same relative to the bound times the input: what stretches also stretches roundings."""
_MEASURE = Compute(torch.device(CPU), full_spectra=False)


def claims(case: Case, *, everything: bool) -> Iterator[Claim]:
    """Attack what is said besides the bound: a share of it, or all."""
    chance = case.chance
    parts = (
        (0.2, _part), (0.3, _layers), (0.2, _values), (0.06, _running), (1.0, _runtime),
    )  # fmt: skip
    for share, attacked in parts:
        if chance.flag(1.0 if everything else share):
            try:
                yield from list(attacked(case))
            except NotCertified:
                continue  # a node that cannot be run


def _point(case: Case, shape: tuple[int, ...]) -> torch.Tensor:
    low, high = case.box or case.chance.of(((-2.0, 2.0), (-0.1, 0.1), (0.0, 5.0)))
    share = case.chance.uniform(*shape)
    return (low + (high - low) * share).clamp(low, high)


def _fed(case: Case) -> dict[str, torch.Tensor]:
    """Draw a value for every input of the graph."""
    held = dict(case.written.graph.held) if case.written.graph is not None else {}
    graph = case.model.graph
    for edge in graph.inputs:
        if edge.name not in held:
            value = _point(case, edge.known_shape or ())
            dtype = getattr(torch, edge.dtype)
            held[edge.name] = value.to(dtype)
    return held


def _is_runnable(case: Case) -> bool:
    """Whether the file states a graph with inputs of known shapes."""
    graph = case.model.graph
    known = all(edge.known_shape is not None for edge in graph.inputs)
    return bool(graph.inputs) and known and not case.written.assumed


def _part(case: Case) -> Iterator[Claim]:
    """Bound the part from one node to another, or to the end."""
    if not _is_runnable(case):
        return
    _, network = audit._network(case.model, None)
    if len(network.steps) < 2:
        return
    start = network.steps[case.chance.pick(len(network.steps))]
    end = network.steps[case.chance.pick(len(network.steps))]
    try:
        report = lipaudit.bound(
            case.model, start=start.node.name, end=end.node.name, input_range=case.box
        ).models[0]
    except LipauditError:
        return  # one does not lead to the other
    if report.bound is None or not math.isfinite(report.bound.measure.upper):
        return
    entering = tuple(dict.fromkeys(start.signals))
    if any(network.shapes.get(name) is None for name in entering):
        return
    names = [node.name for node in network.graph.nodes]
    if names.count(start.node.name) > 1 or names.count(end.node.name) > 1:
        return  # which one is meant is for the reader to say
    part = maps.part_of(network.graph, entering, end.node.outputs[0], _fed(case))
    if not part.size:
        return
    found = case.attack(part, part.size)
    upper = report.bound.measure.upper
    largest = max(b.measure.upper for b in report.bounds if b.measure.is_finite)
    room = EXACT * upper + 1e-12 * largest
    yield Claim("part", upper, found.value, found.how, room, found.without)


def _layers(case: Case) -> Iterator[Claim]:
    """Write every linear layer out as a matrix."""
    network, measured = audit.measure(case.model, _MEASURE)
    for item in measured:
        norm = item.norm
        if norm is None or not item.step.signals:
            continue
        shape = network.shapes.get(item.step.signals[0])
        if shape is None or not 0 < math.prod(shape) <= 200:
            continue
        truth = _norm(case, item, shape)
        if truth is None:
            continue
        room = EXACT * truth
        yield Claim("norm of a layer", norm.enclosure.upper, truth, "matrix", room)
        if norm.enclosure.rigor is Rigor.PROVED and not case.written.assumed:
            yield Claim("lower end of a norm", truth, norm.enclosure.lower, "matrix", room)


def _norm(case: Case, item: Measured, shape: tuple[int, ...]) -> float | None:
    """Return the norm of a layer's matrix, by torch's own module where there is one.

    A convolution that took the padding before it into itself is another one than the module.
    """
    written, step = case.written, item.step
    is_whole = step.node in case.model.graph.nodes
    if written.module is not None and is_whole and not written.format.startswith("onnx"):
        own = dict(written.module.module.named_modules()).get(item.result.name)
        if own is not None and hasattr(own, "weight"):
            double = in_double(own)
            return maps.quotient_norm(
                lambda rows: double(rows.reshape(-1, *shape[1:])).flatten(1), math.prod(shape[1:])
            )
    if case.written.assumed:
        return None
    return maps.quotient_norm(lambda rows: _applied(step, rows, shape), math.prod(shape))


def _applied(step: Step, rows: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    assert isinstance(step.layer, AbstractLinearLayer)
    made = []
    for row in rows:
        inputs = [
            load(step.constants[at], torch.float64)
            if at in step.constants
            else (row.reshape(shape) if name else None)
            for at, name in enumerate(step.node.inputs)
        ]
        made.append(invoke(step.node, step.layer, inputs, torch.float64)[0].reshape(-1))
    return torch.stack(made)


def _values(case: Case) -> Iterator[Claim]:
    """Run the network and look whether every value is where it is said to be."""
    if not _is_runnable(case) or case.box is None:
        return
    network, measured = audit.measure(case.model, _MEASURE)
    subject, _ = audit.bounded(case.model, network, measured, _MEASURE)
    known = _known(case, network, subject)
    edges = [name for name, values in known.items() if values.lo.is_floating_point()]
    made = set(network.dtypes) - {edge.name for edge in network.graph.inputs}
    edges = [name for name in edges if name in made]
    if not edges:
        return
    forward = Forward(observed(network, edges))
    for _ in range(4):
        rows = {name: value[None] for name, value in _fed(case).items()}
        rows = {n: v.double() if v.is_floating_point() else v for n, v in rows.items()}
        try:
            with torch.no_grad():
                run_values = forward({n: rows[n] for n in rows if n in _names(network)})
        except LipauditError:
            return
        for name in edges:
            yield Claim("value", 0.0, _outside(run_values[name][0], known[name]), name)


def _names(network: Network) -> set[str]:
    return {edge.name for edge in network.graph.inputs}


def _known(case: Case, network: Network, subject: bounding.Subject) -> Mapping[str, Values]:
    """Bound the values of every edge, as the analysis does."""
    assert case.box is not None
    inputs = {name: Values.between(*case.box) for name in subject.sources}
    return ranges._values(network, bounding._gains(subject), inputs, subject.compute.max_memory)


def _outside(value: torch.Tensor, stated: Values) -> float:
    """Return by how much a value leaves its bounds, more than by rounding."""
    if not value.is_floating_point() or not value.numel():
        return 0.0
    room = 1e-9 * (value.abs() + 1e-3)
    over = torch.maximum(value - stated.hi, stated.lo - value) - room
    worst = float(torch.nan_to_num(over, nan=0.0, posinf=0.0, neginf=0.0).max())
    if math.isfinite(stated.row) and value.dim() >= -stated.axis:
        lengths = torch.linalg.vector_norm(value, dim=stated.axis)
        worst = max(worst, float(torch.nan_to_num(lengths).max()) - stated.row * (1 + 1e-9))
    return max(worst, 0.0)


def _running(case: Case) -> Iterator[Claim]:
    """Run the network in float32 and hold its error against the stated one."""
    if not _is_runnable(case):
        return
    radius = case.chance.of((0.1, 1.0, 10.0))
    running = lipaudit.bound(case.model, executed="float32", input_radius=radius).models[0].running
    if running is None or not math.isfinite(running.error.upper):
        return
    network = build(case.model.graph)
    sources = maps.real_inputs(case.model.graph)
    worst = 0.0
    for _ in range(6):
        inputs = _fed(case)
        size = math.sqrt(sum(float(inputs[name].double().square().sum()) for name in sources))
        scale = 0.999 * radius / max(size, 1e-30)
        inputs |= {name: inputs[name] * scale for name in sources}
        exact = run(network, inputs, torch.float64)
        ran = run(network, inputs, torch.float32)
        gaps = [
            (ran[name].double() - exact[name]).square().sum()
            for name in exact
            if exact[name].is_floating_point()
        ]
        worst = max(worst, math.sqrt(float(sum(gaps))))
        if case.written.module is not None and not case.written.format.startswith("onnx"):
            (x,) = inputs.values()
            with torch.no_grad():
                single = copy.deepcopy(case.written.module.module).float()
                own = single(x).double().flatten()
            (truth,) = exact.values()
            worst = max(worst, float((own - truth.flatten()).norm()))
    yield Claim("error in float32", running.error.upper, worst, "run", 1e-12 * worst)


def _runtime(case: Case) -> Iterator[Claim]:
    """Compare the forward pass with onnxruntime's, or torch's own."""
    bounds = case.report.bounds
    if not _is_runnable(case) or not bounds or not all(b.measure.is_finite for b in bounds):
        return
    inputs = _fed(case)
    network = build(case.model.graph)
    if case.written.module is not None:
        (x,) = inputs.values()
        with torch.no_grad():
            theirs = [in_double(case.written.module.module)(x.double())]
    elif isinstance(case.written.source, Model):
        return
    else:
        made = run_onnx(case.written.source, inputs)
        if made is None:
            return
        theirs = [torch.from_numpy(value) for value in made]
    ours = run(network, inputs, torch.float64 if case.written.module is not None else None)
    length = math.sqrt(sum(float(v.double().square().sum()) for v in inputs.values()))
    largest = max(bound.measure.upper for bound in case.report.bounds)
    stretched = _STRETCHED * largest * (1 + length)
    for mine, truth in zip(ours.values(), theirs, strict=True):
        if not truth.is_floating_point() or not truth.numel():
            continue
        size = float(truth.double().abs().max())
        gap = float((mine.double().flatten() - truth.double().flatten()).abs().max())
        if math.isfinite(size) and math.isfinite(gap):
            yield Claim("forward pass", 0.0, gap, "runtime", _FLOAT32 * size + stretched + 1e-6)
