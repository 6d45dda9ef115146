"""Sampling: a lower bound of the Lipschitz constant, attained between two inputs.

The Jacobian of a network at a point never has a larger norm than the network's Lipschitz
constant, so the largest one found is a lower bound. Nothing is proved by it; it shows how
loose the upper bound can be at most.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch

from lipaudit.analysis import ascent
from lipaudit.analysis.ascent import Budget, Climb, Domain, Peaks, RowMap, Tangents
from lipaudit.analysis.forward import Forward, Rows, at_hand, softened
from lipaudit.analysis.samples import as_rows
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.errors import LipauditError, UsageError
from lipaudit.graph.constant import Shape
from lipaudit.graph.dtypes import torch_type
from lipaudit.layers.base import AbstractLinearLayer
from lipaudit.layers.network import Network
from lipaudit.results import Measure

Box = Mapping[str, tuple[float, float]]
"""Input -> between which numbers its items lie; what is not named is free."""

_FLOPS = 5e10
"""Operations that sampling may take, a few seconds on two cores: fewer points and steps
on a large network, none on a very large one."""
_STEP_FLOPS = 4e5
"""What starting one operation costs, in the same unit."""
_FLOPS_A_NUMBER = 100.0
"""What moving a number through memory costs, in the same unit: ten nanoseconds."""
_OPERATIONS_A_STEP = 20
_MAX_ITEMS = 1 << 22
"""Inputs of more items are not sampled: a lower bound is a convenience, not a claim."""
_MAX_NUMBERS = 1 << 24
"""Values of all edges that rows run together may have: backward passes keep a few copies."""
_POINTS = 24
_SAMPLES = 32
_CLIMBERS = 8
_SCREENING = ascent.TAPE + 3 * (ascent.PUSH + ascent.PULL)
_POLISH_STEPS = 60
_WITNESSES = 4
_RESERVE = 0.2
"""Share of the operations kept for working out what was found."""
_IDLE = 2
"""New beginnings that may lead nowhere before the search ends."""
_NEWS = 1e-4
"""Relative gain that counts as leading somewhere."""
_ROOM = 1e-2
"""By how much, relatively, working out a singular value may raise it, as far as is looked."""
_WIDTHS = (0.1, 0.03, 0.01)
"""Of the rounded kinks that a climb looks through, in units of the signal's own size."""
# (shift, scale) of inputs (z + shift)·scale, z normal: at several scales, on one side, near a
# constant one (where normalizations stretch most), and near 0.
_STARTS = (
    (0.0, 1.0),
    (2.0, 1.0),
    (0.0, 1e-3),
    (0.0, 10.0),
    (0.5, 0.5),
    (-2.0, 1.0),
    (0.0, 0.1),
    (1e3, 1e-3),
    (2.0, 100.0),
    (0.0, 1e-6),
)
_JITTER = 1e-5
"""Of a sample, in units of its size: no start sits on a kink, where derivatives are formal."""
_MARGIN = 1e-6
"""Share of a box that is left free on each side, for the same reason."""

_NEAR = 1e-7
"""How close to the upper bound a search ends."""

METHOD = "largest Jacobian found by ascent, confirmed by a difference quotient"


def largest_jacobian(
    network: Network,
    sources: tuple[str, ...],
    targets: tuple[str, ...],
    *,
    starts: Rows | None = None,
    box: Box | None = None,
    enough: float = math.inf,
    seed: int = 0,
) -> Measure | None:
    """Return the largest Jacobian norm found; None where none can be taken.

    `starts` are inputs to begin with besides random ones, by name, one a row. `box` holds real
    inputs between two numbers. The search ends when it comes close to `enough`, an upper
    bound. All inputs but the sources are held, at any value there.
    """
    inputs = _Inputs.of(network, sources)
    if inputs is None:
        return None
    given = inputs.flat(starts or {})
    spans = {name: span for name, span in (box or {}).items() if name in inputs.real}
    for low, high in spans.values():
        if not low <= high:
            raise UsageError(f"no number lies between {low:g} and {high:g}", slug="input-range")
    if all(name in spans and spans[name][0] == spans[name][1] for name in sources):
        return _measure(0.0)  # nothing can move
    try:
        return _measure(
            _Search(network, inputs, targets, _Wanted(given, spans, enough, seed)).run()
        )
    except (_TooLarge, LipauditError, RuntimeError, KeyError, TypeError, ValueError, IndexError):
        # An operation without a derivative or a forward pass: no sample, no lower bound.
        return None


class _TooLarge(Exception):
    """Not one point can be looked at within the budget."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    given: torch.Tensor
    box: Box
    enough: float
    seed: int


@final
@dataclass(frozen=True, slots=True)
class _Inputs:
    """The inputs of a network laid side by side in one flat row, integers as real numbers."""

    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, torch.dtype]
    sources: tuple[str, ...]

    @classmethod
    def of(cls, network: Network, sources: tuple[str, ...]) -> "_Inputs | None":
        """Take the inputs; None where a shape is open, too large, or numbers are complex."""
        shapes: dict[str, Shape] = {}
        dtypes: dict[str, torch.dtype] = {}
        for edge in network.graph.inputs:
            shape, dtype = network.shapes.get(edge.name), torch_type(edge.dtype)
            if shape is None or dtype is None or dtype.is_complex:
                return None
            shapes[edge.name] = shape
            dtypes[edge.name] = torch.float64 if dtype.is_floating_point else dtype
        return (
            cls(shapes, dtypes, sources)
            if sum(map(math.prod, shapes.values())) <= _MAX_ITEMS
            else None
        )

    def mask(self, names: tuple[str, ...]) -> torch.Tensor:
        """Return 1 for the coordinates of these inputs and 0 for the others."""
        parts = [torch.full((math.prod(s),), float(n in names)) for n, s in self.shapes.items()]
        return torch.cat(parts).double()

    def ends(self, box: Box) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the least and the largest value of every coordinate."""
        free = (-math.inf, math.inf)
        low, high = (
            torch.cat(
                [torch.full((math.prod(s),), box.get(n, free)[at]) for n, s in self.shapes.items()]
            ).double()
            for at in (0, 1)
        )
        return low, high

    @property
    def real(self) -> tuple[str, ...]:
        """Names of the inputs that are not integers."""
        return tuple(name for name, dtype in self.dtypes.items() if dtype.is_floating_point)

    def fed(self, points: torch.Tensor) -> Rows:
        """Return what the network is fed with for flat rows."""
        parts = torch.split(points, [math.prod(shape) for shape in self.shapes.values()], dim=1)
        return {
            name: part.reshape(len(points), *self.shapes[name]).to(self.dtypes[name])
            for name, part in zip(self.shapes, parts, strict=True)
        }

    def flat(self, starts: Rows) -> torch.Tensor:
        """Return given inputs as flat rows, NaN for inputs that are not given."""
        strange = [name for name in starts if name not in self.shapes]
        if strange:
            raise UsageError(f"the network has no input {strange[0]!r}", slug="input-name")
        rows = {
            name: as_rows(values[:_SAMPLES], self.shapes[name], name).double().flatten(1)
            for name, values in starts.items()
        }
        count = min((len(values) for values in rows.values()), default=0)
        parts = [
            rows[name][:count] if name in rows else torch.full((count, math.prod(shape)), math.nan)
            for name, shape in self.shapes.items()
        ]
        return torch.cat([part.double() for part in parts], dim=1)


def _measure(value: float) -> Measure:
    return Measure.of(Enclosure.exactly(value, Rigor.NUMERICAL), METHOD)


@final
class _Search:
    """The search of one network: look at many points, climb from the best, begin anew."""

    def __init__(
        self, network: Network, inputs: _Inputs, targets: tuple[str, ...], wanted: _Wanted
    ) -> None:
        network = at_hand(network)
        self._inputs = inputs
        self._wanted = wanted
        self._generator = torch.Generator().manual_seed(wanted.seed)
        self._sharp = _rows_of(network, inputs, targets)
        soft = (softened(network, width) for width in _WIDTHS)
        self._smooth = [_rows_of(other, inputs, targets) for other in soft if other is not None]
        row, start = _row_flops(network), _STEP_FLOPS * _operations(network)
        self._budget = Budget((1 - _RESERVE) * _FLOPS, row=row, run=start)
        self._reserve = Budget(_RESERVE * _FLOPS, row=row, run=start)
        self._domain = _domain(inputs, wanted)
        self._together = max(1, _MAX_NUMBERS // max(_numbers(network), 1))
        self._climbers = max(1, min(_CLIMBERS, self._together // len(ascent.LENGTHS)))

    def run(self) -> float:
        """Return the largest lower bound found."""
        found = self._first().best(self._climbers)
        if not self._budget.affords(2 * _SCREENING, len(found.points)):
            return self._shown(found)
        best, idle, turn = found, 0, 0
        while True:
            highest = float(best.values.max())
            best = Peaks.joined([best, self._climbed(found)]).best(_WITNESSES)
            idle = 0 if float(best.values[0]) > highest * (1 + _NEWS) else idle + 1
            turn += 1
            found_enough = float(best.values[0]) >= self._wanted.enough * (1 - _NEAR)
            if found_enough or idle > _IDLE or not self._budget.spend(_SCREENING, self._climbers):
                return self._shown(best)
            starts = self._fresh(self._climbers) if turn % 2 else self._near(best)
            found = self._screened(starts, 3)

    def _first(self) -> Peaks:
        """Look at as many points as a third of the budget allows."""
        count = _POINTS + len(self._wanted.given)
        while count > 1 and not self._budget.affords(3 * _SCREENING, count):
            count //= 2
        steps = 3 if self._budget.spend(_SCREENING, count) else 1
        if steps == 1 and not self._budget.spend(ascent.TAPE + ascent.PUSH + ascent.PULL, 1):
            raise _TooLarge
        given = self._given(count)
        return self._screened(torch.cat([given, self._fresh(count - len(given))]), steps)

    def _climbed(self, peaks: Peaks) -> Peaks:
        """Climb on smooth relatives of the map, sharper and sharper, then on the map itself."""
        for smooth in self._smooth:
            if not self._budget.spend(_SCREENING, 2 * len(peaks.points)):
                break
            there = Tangents(smooth, peaks.points, self._domain).top(peaks.right, 3)
            climb = Climb(smooth, [smooth], self._domain, self._generator)
            there = climb.run(there, self._budget)
            peaks = Tangents(self._sharp, there.points, self._domain).top(there.right, 3)
        ways = self._smooth or [self._sharp]
        return Climb(self._sharp, ways, self._domain, self._generator).run(peaks, self._budget)

    def _shown(self, peaks: Peaks) -> float:
        """Work out the singular values of the highest points; return what two inputs show."""
        best = 0.0
        for at in peaks.order()[:_WITNESSES]:
            peak = peaks.at(at[None])
            if float(peak.values[0]) * (1 + _ROOM) <= best:
                break
            peak = ascent.polished(
                self._sharp, peak, self._domain, self._reserve, most_steps=_POLISH_STEPS
            )
            best = max(best, ascent.witnessed(self._sharp, peak, self._domain))
        return best

    def _screened(self, points: torch.Tensor, steps: int) -> Peaks:
        """Return the points with what a few power steps say of each."""
        right = self._noise(len(points)) * self._domain.sources
        pairs = zip(
            torch.split(points, self._together), torch.split(right, self._together), strict=True
        )
        return Peaks.joined(
            [Tangents(self._sharp, some, self._domain).top(v, steps) for some, v in pairs]
        )

    def _given(self, most: int) -> torch.Tensor:
        """Return what the user gave, off any kink, and drawn at random where it is silent."""
        given = self._wanted.given[:most]
        if not len(given):
            return given
        points = torch.where(given.isnan(), self._fresh(len(given)), given)
        size = points.square().mean(dim=1, keepdim=True).sqrt().clamp(min=_JITTER)
        return self._moved(points, _JITTER * size * self._noise(len(given)))

    def _fresh(self, count: int) -> torch.Tensor:
        """Draw points of many kinds."""
        noise = self._noise(count)
        chance = torch.randn(count, 2, generator=self._generator, dtype=torch.float64)
        drawn = torch.stack([2 * chance[:, 0], 10 ** chance[:, 1]], dim=1)
        stated = torch.tensor(_STARTS, dtype=torch.float64)[:count]
        drawn[: len(stated)] = stated
        points = (noise + drawn[:, :1]) * drawn[:, 1:]
        low, high = self._inputs.ends(self._wanted.box)
        # Small numbers to the middle of the box, large ones to its sides.
        inside = low + (high - low) * torch.special.ndtr(points)
        points = torch.where((high - low).isfinite(), inside, points)
        return self._moved(torch.zeros_like(points), points)

    def _near(self, peaks: Peaks) -> torch.Tensor:
        """Return points around the best ones, some close and some far."""
        count = self._climbers
        points = peaks.points[torch.arange(count) % len(peaks.points)]
        size = points.square().mean(dim=1, keepdim=True).sqrt()
        share = torch.rand(count, 1, generator=self._generator, dtype=torch.float64)
        return self._moved(points, size * 10 ** (1.5 * share - 1) * self._noise(count))

    def _moved(self, points: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        return self._domain.inside(points + by * self._domain.moves)

    def _noise(self, count: int) -> torch.Tensor:
        width = len(self._domain.moves)
        return torch.randn(count, width, generator=self._generator, dtype=torch.float64)


def _rows_of(network: Network, inputs: _Inputs, targets: tuple[str, ...]) -> RowMap:
    """Return the map from flat rows of inputs to flat rows of the real targets."""
    forward = Forward(network)

    def outputs(points: torch.Tensor) -> torch.Tensor:
        made = forward(inputs.fed(points))
        real = [made[name].flatten(1) for name in targets if made[name].is_floating_point()]
        return torch.cat(real, dim=1) if real else points.new_zeros(len(points), 0)

    return outputs


def _domain(inputs: _Inputs, wanted: _Wanted) -> Domain:
    sources, moves = inputs.mask(inputs.sources), inputs.mask(inputs.real)
    if not wanted.box:
        return Domain(sources, moves)
    low, high = inputs.ends(wanted.box)
    generator = torch.Generator().manual_seed(wanted.seed)
    # Not the same margin everywhere: equal inputs are a kink of their own (a maximum).
    span = torch.where((high - low).isfinite(), high - low, 1.0)
    margin = _MARGIN * span * (1 + torch.rand(2, len(moves), generator=generator).double())
    return Domain(sources, moves, low + margin[0], high - margin[1])


def _operations(network: Network) -> int:
    """Count the operations that are started: a recurrent layer runs step by step."""
    total = 0
    for step in network.steps:
        shape = network.shapes.get(step.signals[0]) if step.signals else None
        recurrent = step.node.op in {"RNN", "GRU", "LSTM"} and shape is not None
        total += _OPERATIONS_A_STEP * max(shape[:2]) if recurrent and shape else 1
    return total


def _row_flops(network: Network) -> float:
    """Estimate what one forward pass costs: two operations a product, and moving every value."""
    total = _FLOPS_A_NUMBER * _numbers(network)
    for step in network.steps:
        if isinstance(step.layer, AbstractLinearLayer) and step.node.outputs:
            weight = step.layer.weights()[0]
            made = math.prod(network.shapes.get(step.node.outputs[0]) or ())
            if weight.shape:
                # Each weight is used once an output pixel.
                total += 2.0 * weight.items * max(made / max(weight.shape[0], 1), 1.0)
    return total


def _numbers(network: Network) -> int:
    """Count the values of all edges."""
    made = [name for step in network.steps for name in step.node.outputs]
    made += [edge.name for edge in network.graph.inputs]
    return sum(math.prod(network.shapes.get(name) or ()) for name in made)
