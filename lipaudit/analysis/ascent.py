"""Ascent: points of a map at which its Jacobian is large, and two inputs that show it.

Everything but `witnessed` is a search: it has to find, not to be right.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch

from lipaudit.operators import krylov

RowMap = Callable[[torch.Tensor], torch.Tensor]
"""Flat inputs, one a row, to flat outputs, one a row; no row depends on another."""

_PATIENCE = 3
"""How often every kind of move may fail in turn before a climb has arrived."""
_TURNS = 40
_GAIN = 1e-4
"""Relative gain that counts as one."""
_FIRST = 0.3
"""Length of the first step, in units of the point's."""
LENGTHS = (1 / 32, 1 / 6, 1.0, 6.0, 32.0)
"""Steps tried along a direction, in units of the present step length."""
_POLISH_MEMORY = 1 << 28
# Steps of the secant, relative to the length of the input: from where a curved map is straight
# to where rounding begins to matter.
_SECANTS = (1e-2, 3e-4, 1e-5, 3e-7, 1e-8)
_NOISE_FACTOR = 4.0
"""Rounding errors are sampled, not bounded: what was seen is taken this many times."""
_ROUNDING = 1e-9
"""Of norms and quotients over at most 10^7 entries, with room; a relative amount."""
_EPSILON = 2.0**-52


@final
class Budget:
    """What a search may still spend, in forward passes of one row."""

    def __init__(self, flops: float, *, row: float, run: float) -> None:
        """Take the cost of a row in a pass, and of a pass however many rows it has."""
        self._left = flops
        self._row = row
        self._run = run

    def affords(self, passes: float, rows: int) -> bool:
        """Tell whether so many passes over so many rows are left."""
        return self._left >= self._cost(passes, rows)

    def spend(self, passes: float, rows: int) -> bool:
        """Take them off when they are left."""
        if not self.affords(passes, rows):
            return False
        self._left -= self._cost(passes, rows)
        return True

    def _cost(self, passes: float, rows: int) -> float:
        return passes * (rows * self._row + self._run)


_INSET = 1e-5
"""By how much of a box's width a point keeps off its sides when a quotient is taken there."""

TAPE, PULL, PUSH, RISE, TRIAL = 3.0, 2.0, 4.0, 15.0, 3.0
"""Passes that an operation takes: a backward one costs two forward ones."""


@dataclass(frozen=True, slots=True)
class Domain:
    """Where the points may lie, and which of their coordinates count."""

    sources: torch.Tensor
    """1 for coordinates that the Jacobian is taken in, 0 for those that are held."""
    moves: torch.Tensor
    """1 for real coordinates, 0 for integers, which stay as they are."""
    lows: torch.Tensor | None = None
    """Ends of a box, a little inside of the true one; None: everything."""
    highs: torch.Tensor | None = None

    def inside(self, points: torch.Tensor) -> torch.Tensor:
        """Return the nearest points of the domain."""
        if self.lows is None or self.highs is None:
            return points
        boxed = torch.minimum(torch.maximum(points, self.lows), self.highs)
        return torch.where(self.moves > 0, boxed, points)

    def inset(self, point: torch.Tensor, share: float) -> torch.Tensor:
        """Return a point moved off the sides of the box by a share of its width."""
        if self.lows is None or self.highs is None:
            return point
        width = self.highs - self.lows
        gap = share * torch.where(width.isfinite(), width, 1.0)
        moved = torch.minimum(torch.maximum(point, self.lows + gap), self.highs - gap)
        return torch.where(self.moves > 0, moved, point)

    def reach(self, point: torch.Tensor, direction: torch.Tensor) -> float:
        """Return how far one may go from a point along ± a direction."""
        if self.lows is None or self.highs is None:
            return float("inf")
        room = torch.minimum(point - self.lows, self.highs - point).clamp(min=0)
        steps = room[direction != 0] / direction[direction != 0].abs()
        return float(steps.min()) if steps.numel() else float("inf")


@dataclass(frozen=True, slots=True)
class Peaks:
    """Points, one a row, with the largest singular value of the Jacobian there, from below."""

    points: torch.Tensor
    values: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor

    def at(self, rows: torch.Tensor) -> "Peaks":
        """Return some of them."""
        return Peaks(self.points[rows], self.values[rows], self.left[rows], self.right[rows])

    def best(self, count: int) -> "Peaks":
        """Return the largest ones, the largest first."""
        return self.at(self.order()[:count])

    @classmethod
    def joined(cls, parts: Sequence["Peaks"]) -> "Peaks":
        """Return the peaks of several groups as one."""
        return cls(
            torch.cat([part.points for part in parts]),
            torch.cat([part.values for part in parts]),
            torch.cat([part.left for part in parts]),
            torch.cat([part.right for part in parts]),
        )

    def order(self) -> torch.Tensor:
        """Return the rows, the largest first."""
        return self.values.argsort(descending=True, stable=True)


@final
class Tangents:
    """The Jacobians of a map at several points, as products with vectors."""

    def __init__(self, outputs: RowMap, points: torch.Tensor, domain: Domain) -> None:
        self._sources = domain.sources
        self._points = points.detach().requires_grad_()
        self._made = outputs(self._points)
        # J v is the derivative of u -> <Jᵀu, v>: two backward passes, any operation.
        self._dual = torch.zeros_like(self._made).requires_grad_()
        self._back = _derivative(self._made, self._points, self._dual, further=True)

    @property
    def outputs(self) -> int:
        """How many numbers the map yields."""
        return self._made.shape[1]

    def pull(self, left: torch.Tensor) -> torch.Tensor:
        """Return Jᵀu for each point."""
        return _derivative(self._made, self._points, left) * self._sources

    def push(self, right: torch.Tensor) -> torch.Tensor:
        """Return J v for each point."""
        return _derivative(self._back, self._dual, right * self._sources)

    def rise(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Return the gradient of uᵀJ(x)v in x: that of the singular value, for its vectors."""
        pushed = _derivative(self._back, self._dual, right * self._sources, further=True)
        return _derivative(pushed, self._points, left)

    def top(self, right: torch.Tensor, steps: int) -> Peaks:
        """Return what power iteration finds, from a start for the right vectors."""
        left = right.new_zeros(len(right), self.outputs)
        values = right.new_zeros(len(right))
        for _ in range(steps):
            left = _unit(self.push(right))
            back = self.pull(left)
            # ‖Jᵀu‖ <= ‖J‖ for every unit vector u.
            values = torch.linalg.vector_norm(back, dim=1)
            right = _unit(back)
        usable = values.isfinite()
        return Peaks(self._points.detach(), torch.where(usable, values, 0.0), left, right)


@final
class Climb:
    """A few points on their way up to where the Jacobian is larger.

    Directions come from maps that are like this one but have second derivatives (`smooth`), and
    in turn from the right singular vector and from chance, since the gradient of a piecewise
    linear map's Jacobian is zero wherever it exists.
    """

    def __init__(
        self, sharp: RowMap, smooth: Sequence[RowMap], domain: Domain, generator: torch.Generator
    ) -> None:
        self._sharp = sharp
        self._smooth = smooth
        self._domain = domain
        self._generator = generator
        self._kinds = len(smooth) + 2

    def run(self, peaks: Peaks, budget: Budget) -> Peaks:
        """Return higher points than those; fewer, for the lowest are left behind."""
        kinds = self._kinds
        size = torch.linalg.vector_norm(peaks.points, dim=1)
        lengths = _FIRST * size[:, None].repeat(1, kinds)
        slopes = peaks.points.new_zeros(kinds, 2, *peaks.points.shape)
        idle = turn = kind = 0
        passes = TAPE + 2 * (PUSH + PULL) + RISE + TRIAL * len(LENGTHS)
        while turn < _TURNS and idle < _PATIENCE * kinds:
            if not budget.spend(passes, len(peaks.points)):
                break
            peaks, slopes[kind] = self._directed(peaks, kind, slopes[kind])
            steps = _unit(slopes[kind, 1]) * lengths[:, kind, None]
            trial, factors = _longest_useful(self._sharp, peaks, steps, self._domain)
            found = Tangents(self._sharp, trial, self._domain).top(peaks.right, 2)
            highest, before = float(peaks.values.max()), peaks.values
            peaks = _better(peaks, found)
            gained = peaks.values > before * (1 + _GAIN)
            lengths[:, kind] *= torch.where(gained, factors, 0.5)
            slopes[kind, 1] *= gained[:, None]
            idle = 0 if float(peaks.values.max()) > highest * (1 + _GAIN) else idle + 1
            # What leads up is followed; what does not gives way to another kind of move.
            kind = kind if bool(gained.any()) else (kind + 1) % kinds
            turn += 1
            if turn % (2 * kinds) == 0 and len(peaks.points) > 2:
                order = peaks.order()[: (len(peaks.points) + 1) // 2]
                peaks, lengths, slopes = peaks.at(order), lengths[order], slopes[:, :, order]
        return peaks

    def _directed(
        self, peaks: Peaks, kind: int, before: torch.Tensor
    ) -> tuple[Peaks, torch.Tensor]:
        """Return the gradient and the direction of a kind of move, given the last ones of it.

        Gradients are conjugated (Polak & Ribière 1969, with the restart of Powell 1977).
        """
        chance = _random(peaks.points.shape, self._generator)
        dead = (peaks.right == 0).all(dim=1, keepdim=True)
        peaks = replace(peaks, right=torch.where(dead, chance, peaks.right))
        gradient = chance * self._domain.moves
        if kind == len(self._smooth):
            gradient = peaks.right * self._domain.sources * chance[:, :1].sign()
        if kind >= len(self._smooth):
            return peaks, torch.stack([gradient, gradient])
        gradient = _unit(_gradient(self._smooth[kind], peaks, self._domain))
        last, direction = before
        turned = (gradient * (gradient - last)).sum(dim=1, keepdim=True)
        weight = (turned / last.square().sum(dim=1, keepdim=True).clamp(min=1e-300)).clamp(0, 1)
        return peaks, torch.stack([gradient, gradient + weight * direction])


def polished(
    outputs: RowMap, peak: Peaks, domain: Domain, budget: Budget, *, most_steps: int
) -> Peaks:
    """Return one peak with its singular value worked out, by Krylov steps at the point."""
    steps = most_steps
    while steps > 1 and not budget.spend(TAPE + (steps + 1) * (PUSH + PULL), 1):
        steps //= 2
    if steps < 2:
        return peak
    tangents = Tangents(outputs, peak.points, domain)
    right = krylov.top_vector(
        lambda v: tangents.push(v[None])[0],
        lambda u: tangents.pull(u[None])[0],
        peak.right[0],
        steps=steps,
        max_memory=_POLISH_MEMORY,
    )
    return _better(peak, tangents.top(right[None], 1))


def witnessed(outputs: RowMap, peak: Peaks, domain: Domain) -> float:
    """Return a lower bound of the Lipschitz constant that two inputs near a peak show.

    A formal derivative is none of the map where the point sits on a kink: the formal one of
    10x - 10 relu(x) + 10 relu(-x) = 0 is 10 at 0. A difference quotient is a lower bound
    whatever the map, up to the rounding of the two outputs, which is sampled by moving the
    inputs by a rounding error. The smaller of the two numbers is returned.
    """
    # On a side of the box there is no room for a quotient.
    point = domain.inset(peak.points[0], _INSET)
    right = peak.right[0] * domain.sources
    formal = float(peak.values[0])
    generator = torch.Generator().manual_seed(0)
    length = max(float(torch.linalg.vector_norm(point)), 1e-9)
    seen = 0.0
    for share in _SECANTS:
        step = right * min(share * length, 0.5 * domain.reach(point, right))
        ends = torch.stack([point - step, point + step])
        wobbling = ends * (1 + _EPSILON * _random(ends.shape, generator).sign())
        with torch.no_grad():
            made = outputs(torch.cat([ends, torch.where(domain.moves > 0, wobbling, ends)]))
        noise = _NOISE_FACTOR * torch.linalg.vector_norm(made[2:] - made[:2], dim=1).sum()
        distance = torch.linalg.vector_norm(ends[1] - ends[0])
        quotient = float((torch.linalg.vector_norm(made[1] - made[0]) - noise) / distance)
        if quotient < float("inf"):  # neither of NaN and infinity
            seen = max(seen, quotient)
        if seen >= formal * (1 - _ROUNDING):
            break
    return min(seen, formal) * (1 - _ROUNDING)


def _longest_useful(
    outputs: RowMap, peaks: Peaks, steps: torch.Tensor, domain: Domain
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best point along each step, and by how much the step was stretched for it.

    They are compared by ‖Jᵀu‖ for the present u, one backward pass each.
    """
    count, rows = len(LENGTHS), len(steps)
    factors = torch.tensor(LENGTHS, dtype=steps.dtype)
    trials = domain.inside(peaks.points + factors[:, None, None] * steps)
    points = trials.reshape(count * rows, -1).requires_grad_()
    left = peaks.left.repeat(count, 1)
    back = _derivative(outputs(points), points, left) * domain.sources
    values = torch.linalg.vector_norm(back, dim=1).reshape(count, rows)
    best = torch.where(values.isfinite(), values, -1.0).argmax(dim=0)
    return trials[best, torch.arange(rows)].detach(), factors[best]


def _gradient(smooth: RowMap, peaks: Peaks, domain: Domain) -> torch.Tensor:
    try:
        rise = Tangents(smooth, peaks.points, domain).rise(peaks.left, peaks.right)
    except RuntimeError:  # an operation without a third derivative
        return torch.zeros_like(peaks.points)
    rise = rise * domain.moves
    return torch.where(rise.isfinite().all(dim=1, keepdim=True), rise, 0.0)


def _better(old: Peaks, new: Peaks) -> Peaks:
    won = new.values > old.values
    rows = won[:, None]
    return Peaks(
        torch.where(rows, new.points, old.points),
        torch.where(won, new.values, old.values),
        torch.where(rows, new.left, old.left),
        torch.where(rows, new.right, old.right),
    )


def _derivative(
    made: torch.Tensor, at: torch.Tensor, along: torch.Tensor, *, further: bool = False
) -> torch.Tensor:
    """Return the vector-Jacobian product; zeros where nothing depends on anything."""
    if not made.requires_grad or not made.numel():
        return torch.zeros_like(at)
    (found,) = torch.autograd.grad(
        made, at, along, retain_graph=True, create_graph=further, allow_unused=True
    )
    return torch.zeros_like(at) if found is None else found


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """Return rows of length 1, without a square that overflows; zeros stay zeros."""
    largest = rows.abs().amax(dim=1, keepdim=True) if rows.shape[1] else rows.sum(1, keepdim=True)
    moderate = rows / torch.where(largest > 0, largest, 1.0)
    lengths = torch.linalg.vector_norm(moderate, dim=1, keepdim=True)
    return moderate / torch.where(lengths > 0, lengths, 1.0)


def _random(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
