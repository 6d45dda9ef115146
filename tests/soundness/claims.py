"""Claims: everything lipaudit says about a network, held against what the attack finds."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

import lipaudit
from lipaudit.analysis import audit
from lipaudit.enclosure import Rigor
from lipaudit.errors import NotCertified
from lipaudit.formats.detect import read_model
from lipaudit.graph.model import Model
from lipaudit.graph.node import Graph
from lipaudit.layers.network import build
from lipaudit.results import ModelReport
from tests.soundness import maps
from tests.soundness.attack import Attack, Found, Map
from tests.soundness.files import Written
from tests.soundness.weights import Chance

Box = tuple[float, float] | None
NOT_RUN = "all: it cannot be run"
EXACT = 1e-9
"""Relative room for the rounding of a Jacobian in float64."""
_EXPORTED = 1e-5
"""The same where an exporter folded weights together in float32."""
_SHORT = (nn.Hardsigmoid, nn.Hardswish)
_ROUNDED = 1e-6
"""The same for these: torch's own derivative of them is a number of float32."""
_CONE = "ReduceL2"
"""Near the tip of a norm, as of a standard deviation where all inputs nearly agree, its slope is
that of what rounding left: the same room is for it."""
_CANCELLED = 1e-12
"""Relative to the product of all norms: what rounding leaves of ways that cancel each other."""
_BOXES: Sequence[Box] = (
    None, None, None, (-1.0, 1.0), (0.0, 1.0), (-3.0, 2.0), (0.25, 2.0), (-0.01, 0.01)
)  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A number that lipaudit states, and the most that was found against it."""

    name: str
    stated: float
    found: float
    how: str = ""
    room: float = 0.0
    """By how much rounding alone may pass the stated number."""
    without: str = ""
    """What kept a part of the attack from being made."""

    @property
    def is_false(self) -> bool:
        """Whether it is refuted."""
        return not self.found <= self.stated + self.room


@dataclass(frozen=True)
class Case:
    """A network in a file, as it was read, and what was said about it."""

    written: Written
    model: Model
    report: ModelReport
    box: Box
    chance: Chance

    @property
    def graph(self) -> Graph:
        """The graph of the file, in the shapes with which it was drawn."""
        drawn = self.written.graph
        return self.model.graph if drawn is None else with_shapes(self.model.graph, drawn.graph)

    def attack(self, function: Map, size: int) -> Found:
        """Attack a map within the box; where it cannot be run nothing is found."""
        try:
            return Attack(function, size, self.chance.generator, self.box).run()
        except NotCertified:
            return Found(0.0, "nothing", torch.zeros(size), without=NOT_RUN)


@dataclass(frozen=True)
class Verdict:
    """What became of one network."""

    outcome: str
    """"certified", "assumed", "not certified"."""
    reason: str
    kinds: tuple[str, ...]
    looseness: float | None
    """The headline over the steepest slope that was found."""
    claims: tuple[Claim, ...]

    @property
    def attacked(self) -> bool:
        """Whether a finite bound of the whole network met an attack that found something."""
        return self.looseness is not None

    @property
    def without(self) -> tuple[str, ...]:
        """What could not be made of the attacks."""
        return tuple(sorted({claim.without for claim in self.claims if claim.without}))

    @property
    def violations(self) -> tuple[Claim, ...]:
        """The claims that are false."""
        return tuple(claim for claim in self.claims if claim.is_false)


def with_shapes(graph: Graph, stated: Graph) -> Graph:
    """Return the graph with the shapes of another one's inputs."""
    known = {edge.name: edge for edge in stated.inputs}
    return replace(graph, inputs=tuple(known.get(edge.name, edge) for edge in graph.inputs))


def case_of(written: Written, chance: Chance) -> Case:
    """Read the file and ask for its bound."""
    source = written.source
    model = source if isinstance(source, Model) else read_model(str(source))
    box = chance.of(_BOXES)
    shape = None
    if written.assumed and written.module is not None and chance.flag(0.6):
        shape = written.module.shape
    report = lipaudit.bound(model, input_shape=shape, input_range=box).models[0]
    return Case(written, model, report, box, chance)


def judge(case: Case, further: Sequence[Claim] = ()) -> Verdict:
    """Attack the bounds of a network; `further` claims were looked at before."""
    claims = [*_bounds(case), *further]
    outcome, reason = _outcome(case)
    headline = case.report.bound
    found = max((claim.found for claim in claims if claim.name.startswith("bound")), default=0.0)
    upper = headline.measure.upper if headline is not None else math.inf
    loose = upper / found if found > 0 and math.isfinite(upper) else None
    return Verdict(outcome, reason, _kinds(case.model), loose, tuple(claims))


def _bounds(case: Case) -> Iterator[Claim]:
    """Attack every method's bound of the whole network, and those of single pairs."""
    known = [b for b in case.report.bounds if b.measure.is_finite]
    if not known:
        return
    least = min(bound.measure.upper for bound in known)
    largest = max(bound.measure.upper for bound in known)
    if not math.isfinite(largest):
        return
    for function, size, share in _ways(case):
        found = case.attack(function, size)
        for bound in known:
            upper = bound.measure.upper
            room = share * upper + _CANCELLED * largest
            rigor = "" if bound.measure.rigor is Rigor.PROVED else f", {bound.measure.rigor.label}"
            name = f"bound by {bound.method}{rigor}"
            yield Claim(name, upper, found.value, found.how, room, found.without)
    headline = case.report.bound
    if headline is not None:
        lower = headline.measure.lower
        room = EXACT * least + _CANCELLED * largest
        yield Claim("lower bound", least, lower, "sampling", room=room)
    if case.report.pairs:
        yield from _pairs(case, largest)


def _ways(case: Case) -> Iterator[tuple[Map, int, float]]:
    """Yield what runs the network, with its inputs and how exactly it is the one of the file."""
    written = case.written
    near = _ROUNDED if any(node.op == _CONE for node in case.graph.nodes) else EXACT
    if written.module is not None:
        of_torch = maps.OfModule(written.module)
        exact = not written.format.startswith("onnx")
        short = any(isinstance(part, _SHORT) for part in written.module.module.modules())
        rounded = max(_ROUNDED if short else EXACT, near)
        yield of_torch, of_torch.size, rounded if exact else _EXPORTED
        if exact:
            return
    drawn = written.graph
    # A graph whose file leaves shapes open runs in the shapes with which it was drawn.
    of_file = maps.of_graph(case.graph, {} if drawn is None else drawn.held)
    if of_file.size:
        yield of_file, of_file.size, near


def _pairs(case: Case, largest: float) -> Iterator[Claim]:
    """Attack the bounds from one input to one output, the other inputs anywhere."""
    held = dict(case.written.graph.held) if case.written.graph is not None else {}
    graph = case.graph
    names = maps.real_inputs(graph)
    shapes = {edge.name: edge.known_shape or () for edge in graph.inputs}
    for pair in case.report.pairs[:4]:
        if not pair.measure.is_finite:
            continue
        still = {}
        for name in names:
            if name != pair.source:
                values = case.chance.uniform(*shapes[name])
                low, high = case.box or (-2.0, 2.0)
                still[name] = low + (high - low) * values
        one = maps.OfNetwork(build(graph), [pair.source], held | still, [pair.target])
        found = case.attack(one, one.size) if one.size else Found(0.0, "", torch.zeros(0))
        room = EXACT * pair.measure.upper + _CANCELLED * largest
        name = f"pair {pair.source} to {pair.target}"
        yield Claim(name, pair.measure.upper, found.value, found.how, room, found.without)


def _outcome(case: Case) -> tuple[str, str]:
    headline = case.report.bound
    if headline is None:
        return "not certified", "no bound"
    if headline.certified:
        return "certified", ""
    if case.written.assumed and headline.measure.is_finite:
        return "assumed", ""
    reason = headline.reasons[0] if headline.reasons else "no reason"
    return "not certified", re.sub(r"'[^']*'|[0-9][0-9.e+-]*", "_", reason)[:100]


def _kinds(model: Model) -> tuple[str, ...]:
    """Return the kinds that the file has, and those that its parts are joined to."""
    _, network = audit._network(model, None)
    found = {(node.domain, node.op) for node in model.graph.nodes}
    found |= {(step.node.domain, step.node.op) for step in network.steps}
    return tuple(sorted(f"{domain or 'onnx'}.{op}" for domain, op in found))
