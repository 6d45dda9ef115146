"""Linear parts: the matrices between the bends of a network.

A *bend* is a node that is not affine. Every function of one number with slopes in [a, b] is
x -> c·x + e(x) with c = (a+b)/2 and |e(x) - e(y)| <= (b-a)/2·|x - y|; any other node is a bend
with c = 0. With every bend replaced by its c the network is affine, and what enters a bend moves
by the sum of what the input and all earlier bends send there through that affine network:

    dz_k = M_k0 dx + Σ_j M_kj de_j,    ‖de_j‖ <= r_j ‖dz_j‖

(Combettes & Pesquet, SIAM J. Math. Data Sci. 2, 2020, for c = 1/2, where e is half a
nonexpansive map). Here the matrices M are written out, where they are small enough, each with
a bound of how far rounding moved it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from lipaudit.analysis.forward import largest_bytes
from lipaudit.analysis.propagate import StepGain
from lipaudit.device import Compute
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.errors import LipauditError
from lipaudit.layers.base import AbstractGainLayer, AbstractLinearLayer, Gain, unary
from lipaudit.layers.execution import load
from lipaudit.layers.invocation import invoke
from lipaudit.layers.network import Network, Step
from lipaudit.operators.certify import ROOM, UNDERFLOW, UNIT, frobenius_above, gamma
from lipaudit.operators.dense import DenseOperator

FLOPS = 3e10
"""Operations that may be spent on writing out matrices, some seconds on two cores."""
_PART_FLOPS = 5e6
"""What handling one matrix costs beside, in the same unit."""
_ENTRIES = 1 << 24
"""A matrix with more entries is not written out."""


@dataclass(frozen=True, slots=True)
class Bend:
    """One output of a node that is not affine, as c·x + e(x)."""

    step: int
    signals: tuple[str, ...]
    output: str
    centre: float
    """c; other than 0 only with a single signal."""
    rest: Gain
    """By how much e can stretch."""
    item_by_item: bool
    """Whether every item of e depends on that item of the signal alone."""


@dataclass(frozen=True, slots=True)
class Part:
    """The matrix from a source (an input, or the e of a bend) to what enters a bend or leaves."""

    matrix: torch.Tensor
    """float64, (items of the edge, items of the source)."""
    error: float
    """Bound of ‖matrix - the true one‖ (Frobenius)."""
    norm: Enclosure


@dataclass(frozen=True, slots=True)
class LinearParts:
    """A network as bends and the matrices between them."""

    bends: tuple[Bend, ...]
    """In the order of the graph."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parts: Mapping[tuple[str, str], Part]
    """(edge, source) -> matrix; where the source is written out and there is none, it is 0."""
    written: frozenset[str]
    """The sources whose matrices are all written out."""
    rigor: Rigor
    """The weakest of what the matrices and the gains of the bends rest on."""

    @property
    def is_complete(self) -> bool:
        """Whether all matrices are there."""
        return self.written.issuperset([*self.inputs, *(bend.output for bend in self.bends)])


def linear_parts(
    network: Network,
    gains: Sequence[StepGain],
    ends: tuple[tuple[str, ...], tuple[str, ...]],
    compute: Compute,
) -> LinearParts | None:
    """Split what lies between inputs and outputs; None where some node there has no gain."""
    inputs, outputs = ends
    split = _Split.of(network, gains, ends, compute.max_memory)
    if split is None:
        return None
    parts: dict[tuple[str, str], Part] = {}
    written: set[str] = set()
    budget = FLOPS
    edges = {*outputs, *(name for bend in split.bends for name in bend.signals)}
    for source in sorted({*inputs, *(b.output for b in split.bends)}, key=split.cost):
        cost = split.cost(source)
        if not cost <= budget:
            continue
        budget -= cost
        try:
            for edge, matrix, error in split.carried(source, edges):
                norm = DenseOperator(matrix, compute).norm().enclosure
                parts[edge, source] = Part(
                    matrix, error, norm.widened(Enclosure.at_most(error)) if error else norm
                )
        except (LipauditError, RuntimeError, ValueError, TypeError):
            # No memory, or an operation that does not run here: the bounds do without.
            parts = {key: part for key, part in parts.items() if key[1] != source}
            continue
        written.add(source)
    factors = [factor for gain in split.gains.values() for factor in gain.factors]
    rigor = min((factor.rigor for factor in factors), default=Rigor.PROVED)
    return LinearParts(split.bends, inputs, outputs, parts, frozenset(written), rigor)


@dataclass(frozen=True, eq=False)
class _Split:
    """The steps between inputs and outputs, each either affine or a bend."""

    network: Network
    gains: Mapping[int, Gain]
    """Of the steps between, in order."""
    bends: tuple[Bend, ...]
    linear: Mapping[int, int]
    """The layers with one weight -> the position of that."""

    @classmethod
    def of(
        cls,
        network: Network,
        gains: Sequence[StepGain],
        ends: tuple[tuple[str, ...], tuple[str, ...]],
        max_memory: int,
    ) -> "_Split | None":
        between = _between(network, *ends)
        bends: list[Bend] = []
        known: dict[int, Gain] = {}
        linear: dict[int, int] = {}
        for number, moving in between.items():
            step, gain = network.steps[number], gains[number]
            if not isinstance(gain, Gain):
                return None
            known[number] = gain
            layer = step.layer
            # What is too large to be run is a bend: its gain must do.
            fits = largest_bytes(step) <= max_memory
            if isinstance(layer, AbstractLinearLayer):
                weight = _runnable(network, step, layer) if fits else None
                if weight is not None:
                    linear[number] = weight
                    continue
            elif isinstance(layer, AbstractGainLayer):
                if layer.is_affine and fits:
                    continue
                if any(
                    name in moving
                    for at in layer.discrete_outputs
                    for name in step.node.outputs[at : at + 1]
                ):
                    return None
                if layer.slopes is not None:
                    rest = unary(layer.slopes.radius)
                    output = step.node.outputs[0]
                    centre = layer.slopes.centre
                    bends.append(Bend(number, step.signals, output, centre, rest, True))
                    continue
            bends += [Bend(number, step.signals, name, 0.0, gain, False) for name in moving]
        return cls(network, known, tuple(bends), linear)

    def cost(self, source: str) -> float:
        """Estimate the operations of writing out all matrices from a source."""
        size = _items(self.network, source)
        work = 0.0
        reached = {source}
        outputs = {bend.output: bend for bend in self.bends}
        for number in self.gains:
            step = self.network.steps[number]
            if not reached.intersection(step.signals) or source in step.node.outputs:
                continue
            made = max(
                (_items(self.network, name) for name in step.node.outputs if name), default=0
            )
            if made * size > _ENTRIES:
                return math.inf
            for name in step.node.outputs:
                if name not in outputs or outputs[name].centre:
                    reached.add(name)
            if any(name in outputs for name in step.node.outputs):
                entering = max(_items(self.network, name) for name in step.signals)
                work += _PART_FLOPS + 4.0 * entering * size * min(entering, size)
            elif number in self.linear:
                weight = step.constants[self.linear[number]]
                channels = max(weight.shape[0], 1) if weight.shape else 1
                work += 2.0 * size * weight.items * max(made / channels, 1.0)
            work += made * size
        return work

    def carried(self, source: str, wanted: set[str]) -> Iterator[tuple[str, torch.Tensor, float]]:
        """Yield for each wanted edge after a source its matrix and the error of that."""
        shape = self.network.shapes.get(source) or ()
        size = math.prod(shape)
        start = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
        values: dict[str, tuple[torch.Tensor, float]] = {source: (start, 0.0)}
        bends = {bend.output: bend for bend in self.bends}
        if source in wanted:
            yield source, start.reshape(size, size), 0.0
        for number in self.gains:
            step = self.network.steps[number]
            if source in step.node.outputs or not any(name in values for name in step.signals):
                continue
            made: Sequence[tuple[torch.Tensor, float] | None]
            if any(name in bends for name in step.node.outputs):
                made = [
                    _bent(bends.get(name), values, step.signals[0]) for name in step.node.outputs
                ]
            elif number in self.linear:
                made = [self._applied(number, *values[step.signals[0]])]
            else:
                made = self._affine(number, values, size)
            for name, value in zip(step.node.outputs, made, strict=False):
                if not name or value is None:
                    continue
                values[name] = value
                if name in wanted:
                    yield name, value[0].reshape(size, -1).mT.contiguous(), value[1]

    def _applied(self, number: int, x: torch.Tensor, error: float) -> tuple[torch.Tensor, float]:
        """Run a linear layer, without its offset, on all columns.

        Entry by entry the product is wrong by at most γ_n |A||x|, which the layer yields itself
        when it is run on moduli. A weight whose entries are off by a factor 1 + ε adds ε|A||x|.
        """
        step, at = self.network.steps[number], self.linear[number]
        weight = step.constants[at]
        stored = load(weight, torch.float64)
        run = _runner(step, {at: stored})
        of_moduli = _runner(step, {at: stored.abs()})
        (made,), (moduli,) = torch.func.vmap(run)(x), torch.func.vmap(of_moduli)(x.abs())
        share = gamma(weight.items + 2) + 2.0 * weight.entry_error
        moved = self.gains[number].factors[0].upper * error + share * _length(moduli) * ROOM
        return made, (moved * ROOM + UNDERFLOW)

    def _affine(
        self, number: int, values: Mapping[str, tuple[torch.Tensor, float]], size: int
    ) -> Sequence[tuple[torch.Tensor, float] | None]:
        """Apply an affine node to all columns, less its offset.

        A sum of n terms is wrong by at most γ_n Σ|terms|, a stored factor by its own error (where
        that is not known the gain is not proved); the offset comes and goes at the cost of one
        rounding each of what it is added to.
        """
        step, gain = self.network.steps[number], self.gains[number]
        still = [
            torch.zeros(self.network.shapes[name] or (), dtype=torch.float64)
            for name in step.signals
        ]
        constants = {at: load(c, torch.float64) for at, c in step.constants.items()}
        run = _runner(step, constants)
        moving = [at for at, name in enumerate(step.signals) if name in values]
        offsets = run(*still)
        # Masks beside the result, as of a dropout, are no real numbers.
        real = [at for at, offset in enumerate(offsets) if offset.is_floating_point()]

        def moved(*columns: torch.Tensor) -> tuple[torch.Tensor, ...]:
            arguments = list(still)
            for at, column in zip(moving, columns, strict=True):
                arguments[at] = column
            yielded = run(*arguments)
            return tuple(yielded[at] for at in real)

        made = torch.func.vmap(moved)(*(values[step.signals[at]][0] for at in moving))
        terms = max(math.prod(value.shape) for value in still)
        error = 0.0
        share = gamma(terms + 2) + 2.0 * max(
            (c.entry_error for c in step.constants.values() if math.isfinite(c.entry_error)),
            default=0.0,
        )
        for at in moving:
            x, before = values[step.signals[at]]
            error += gain.factors[at].upper * (before + share * _length(x)) * ROOM
        results: list[tuple[torch.Tensor, float] | None] = [None] * len(offsets)
        for at, value in zip(real, made, strict=True):
            offset = offsets[at]
            lost = 4.0 * UNIT * (_length(value) + math.sqrt(size) * _length(offset))
            results[at] = value - offset, (error + lost) * ROOM + UNDERFLOW
        return results


def _between(
    network: Network, inputs: tuple[str, ...], outputs: tuple[str, ...]
) -> Mapping[int, tuple[str, ...]]:
    """Return the steps on a way from inputs to outputs, with those of their outputs that are."""
    moved = set(inputs)
    for step in network.steps:
        if moved.intersection(step.signals):
            moved.update(name for name in step.node.outputs if name)
    needed = set(outputs)
    found: dict[int, tuple[str, ...]] = {}
    for number in reversed(range(len(network.steps))):
        step = network.steps[number]
        made = tuple(name for name in step.node.outputs if name in needed and name in moved)
        if made and not set(made) <= set(inputs):
            found[number] = made
            needed.update(step.signals)
    return dict(sorted(found.items()))


def _runnable(network: Network, step: Step, layer: AbstractLinearLayer) -> int | None:
    """Return the position of a layer's weight, None where it has several or unknown sizes."""
    shape, weight = network.signal_shapes(step)[0], layer.weights()[0]
    made = network.shapes.get(step.node.outputs[0])
    if shape is None or made is None:
        return None
    at = [n for n, constant in step.constants.items() if constant is weight]
    if len(at) != 1 or len(layer.weights()) != 1 or weight.entry_error == math.inf:
        return None
    return at[0]


def _runner(
    step: Step, constants: Mapping[int, torch.Tensor]
) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Return the step as a function of its signals; constants that are not given are omitted."""

    def run(*signals: torch.Tensor) -> tuple[torch.Tensor, ...]:
        arriving = iter(signals)
        inputs = [
            constants.get(at) if at in step.constants else next(arriving) if name else None
            for at, name in enumerate(step.node.inputs)
        ]
        return invoke(step.node, step.layer, inputs, torch.float64)  # type: ignore[arg-type]

    return run


def _bent(
    bend: Bend | None, values: Mapping[str, tuple[torch.Tensor, float]], signal: str
) -> tuple[torch.Tensor, float] | None:
    """Return c times what enters, None for c = 0."""
    if bend is None or bend.centre == 0 or signal not in values:
        return None
    x, error = values[signal]
    made = bend.centre * x
    return made, (abs(bend.centre) * error + 2.0 * UNIT * _length(made)) * ROOM + UNDERFLOW


def _length(x: torch.Tensor) -> float:
    """Return at least the Frobenius norm."""
    return float(frobenius_above(x.reshape(1, -1)))


def _items(network: Network, edge: str) -> float:
    shape = network.shapes.get(edge)
    return math.inf if shape is None else math.prod(shape)
