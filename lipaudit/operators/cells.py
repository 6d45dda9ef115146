"""Cells: regions of frequencies that a search closes or splits.

A region has a centre, where the symbol P is evaluated, and an angle ρ >= Σ r_i|δ_i| for all
displacements δ from the centre to a point of it, r_i half the width of the kernel's support.
What ‖P(centre)‖ must stay below, so that nothing in the region is above U:

* for **all frequencies**, U·cos ρ. If M = sup ‖P‖ is attained at θ* then
  ‖P(θ* + δ)‖ >= M cos(Σ r_i|δ_i|) while that is below π/2. Proof: with unit singular vectors u,
  v of P(θ*), g(s) = Re e^{iφ(s)} uᴴP(θ* + sδ)v with φ linear, so chosen that the exponents are
  centred, is real, of exponential type Σ r_i|δ_i|, bounded by M, and g(0) = M; such a function
  falls no faster from its maximum than M cos(type·s) (Duffin & Schaeffer 1938; Boas, Entire
  Functions, 11.4). So a cell that passes holds no θ* unless M <= U.
* for the **points of a grid**, M·cos(arccos(U/M) + ρ) for any M >= sup ‖P‖. The same g obeys
  g'² + (type·g)² <= (type·M)² (Bernstein and Szegő; Boas 11.4), so arccos(g/M) changes by at
  most Σ r_i|δ_i| on the way from the centre to a point.

The angle Σ r_i|δ_i| measures displacements in the 1-norm, so regions of all frequencies are
diamonds on the first two axes: they hold twice the area of a square of the same angle.
"""

import abc
import math
from dataclasses import dataclass, replace
from typing import Self, final

import torch

from lipaudit.operators.base import Shape

TURN = 1 << 40
"""All frequencies: integers in units of 2π/2^40."""
_ANGLE_ROOM = 1e-11
"""More than what a few roundings change of an angle below 4."""
_RIGHT_ANGLE = 1.57
"""A little less than π/2: where the lemmas end."""


@dataclass(frozen=True, slots=True, eq=False)
class AbstractCells(abc.ABC):
    """A batch of regions, each for one group of channels."""

    centres: torch.Tensor
    """int64, (cells, axes), in units of 2π/`period`."""
    groups: torch.Tensor

    def __len__(self) -> int:
        return len(self.groups)

    @property
    @abc.abstractmethod
    def period(self) -> int:
        """Units in one turn."""

    @property
    @abc.abstractmethod
    def anywhere(self) -> bool:
        """Whether every frequency is a point of the set that is searched."""

    @property
    @abc.abstractmethod
    def hits(self) -> torch.Tensor:
        """Which centres are themselves points of the set."""

    @property
    @abc.abstractmethod
    def can_split(self) -> bool:
        """Whether smaller regions exist."""

    @property
    def most_split(self) -> int:
        """How many cells `split` makes at most."""
        return len(self) << self.centres.shape[1]

    @abc.abstractmethod
    def take(self, chosen: torch.Tensor) -> Self:
        """Return some of the cells."""

    @abc.abstractmethod
    def split(self) -> Self:
        """Return smaller cells that cover the same points."""

    @property
    @abc.abstractmethod
    def angles(self) -> torch.Tensor:
        """ρ of each cell (module docstring), rounded up."""

    @abc.abstractmethod
    def limits(self, upper: float) -> torch.Tensor:
        """Return for each cell what its centre must stay below for nothing to exceed `upper`.

        Rounded down; 0 where the cell is too large for the lemma.
        """


@final
@dataclass(frozen=True, slots=True, eq=False)
class Diamonds(AbstractCells):
    """Regions of all frequencies, all of one size."""

    radii: tuple[float, ...]
    half: tuple[int, ...]
    """Half diagonals of the diamond on the first two moving axes, then half widths."""
    moving: tuple[int, ...]
    """The axes on which P depends."""
    angle: float

    @staticmethod
    def expected(radii: tuple[float, ...], groups: int, angle: float) -> int:
        """Return about how many cells `covering` makes."""
        counts = _places(radii, angle)
        # One of each pair, and on two axes every other place.
        return groups * max(1, math.prod(counts) // (4 if len(counts) > 1 else 2))

    @classmethod
    def covering(cls, radii: tuple[float, ...], groups: int, angle: float) -> "Diamonds":
        """Return cells of at most this angle that cover half of the frequencies.

        P(-θ) is the conjugate of P(θ), so of two opposite cells one is enough.
        """
        moving = _moving(radii)
        counts = _places(radii, angle)
        widths = [1 if _in_diamond(i, moving) else 2 for i in range(len(moving))]
        half = [TURN // count // width for count, width in zip(counts, widths, strict=True)]
        lines = [torch.arange(count, dtype=torch.int64) for count in counts]
        places = torch.cartesian_prod(*lines).reshape(-1, len(moving)) if lines else None
        centres = torch.zeros((1, len(radii)), dtype=torch.int64)
        if places is not None:
            if len(moving) > 1:
                # A checkerboard: every other point of the grid is the centre of a diamond.
                places = places[(places[:, 0] + places[:, 1]) % 2 == 0]
            centres = torch.zeros((len(places), len(radii)), dtype=torch.int64)
            for i, axis in enumerate(moving):
                middle = 0 if _in_diamond(i, moving) else half[i]
                centres[:, axis] = places[:, i] * (TURN // counts[i]) + middle
            centres = centres[_is_first_of_pair(centres)]
        return cls(
            centres.repeat(groups, 1),
            torch.arange(groups).repeat_interleave(len(centres)),
            radii,
            tuple(half),
            moving,
            _angle_of(tuple(half), moving, radii),
        )

    @property
    def period(self) -> int:
        """See `AbstractCells.period`."""
        return TURN

    @property
    def anywhere(self) -> bool:
        """See `AbstractCells.anywhere`."""
        return True

    @property
    def hits(self) -> torch.Tensor:
        """See `AbstractCells.hits`."""
        return torch.ones(len(self), dtype=torch.bool)

    @property
    def can_split(self) -> bool:
        """See `AbstractCells.can_split`."""
        return bool(self.half) and min(self.half) > 1

    def take(self, chosen: torch.Tensor) -> "Diamonds":
        """See `AbstractCells.take`."""
        return replace(self, centres=self.centres[chosen], groups=self.groups[chosen])

    @property
    def angles(self) -> torch.Tensor:
        """See `AbstractCells.angles`."""
        return torch.full((len(self),), self.angle + _ANGLE_ROOM, dtype=torch.float64)

    def split(self) -> "Diamonds":
        """See `AbstractCells.split`: every half length is halved."""
        axes = self.centres.shape[1]
        quarter = tuple(h // 2 for h in self.half)
        steps = [_step(axes, axis, q) for axis, q in zip(self.moving, quarter, strict=True)]
        nowhere = (0,) * axes
        if len(steps) > 1:
            # A diamond consists of four, whose centres lie half-way to its corners.
            moves = [*_both_ways(nowhere, steps[0]), *_both_ways(nowhere, steps[1])]
            straight = steps[2:]
        else:
            moves, straight = [nowhere], steps
        for step in straight:
            moves = [moved for move in moves for moved in _both_ways(move, step)]
        shifts = torch.tensor(moves, dtype=torch.int64)
        centres = (self.centres[:, None, :] + shifts).reshape(-1, axes) % TURN
        groups = self.groups.repeat_interleave(len(moves))
        return Diamonds(centres, groups, self.radii, quarter, self.moving, self.angle / 2.0)

    def limits(self, upper: float) -> torch.Tensor:
        """See `AbstractCells.limits`."""
        angle = self.angle + _ANGLE_ROOM
        shrinkage = max(0.0, math.cos(angle) - _ANGLE_ROOM) if angle < _RIGHT_ANGLE else 0.0
        return torch.full((len(self),), upper * shrinkage, dtype=torch.float64)


@final
@dataclass(frozen=True, slots=True)
class Grid:
    """The frequencies of a torus, 2π(j + twist/2)/n on each axis.

    Twisted by 1 they are those of the anti-periodic torus, where a signal that goes around
    comes back with the opposite sign. Both are symmetric about 0.
    """

    sizes: Shape
    """Points of the torus on each axis."""
    twists: Shape
    """0 or 1 for each axis."""

    @property
    def period(self) -> int:
        """Units in one turn: half steps of the grid are integers on every axis."""
        return 2 * math.lcm(*self.sizes)

    @property
    def is_countable(self) -> bool:
        """Tell whether frequencies, times the offsets of any kernel, fit 64 bits."""
        return self.period <= TURN

    @property
    def half(self) -> Shape:
        """How many indices an axis has to run through; on the last axis half are enough."""
        last = (self.sizes[-1] + 1) // 2 if self.twists[-1] else self.sizes[-1] // 2 + 1
        return (*self.sizes[:-1], last)

    def at_half_steps(self, steps: torch.Tensor) -> torch.Tensor:
        """Return the frequencies at so many half steps (twice the index) on each axis."""
        units = torch.tensor([self.period // (2 * n) for n in self.sizes])
        return (steps + torch.tensor(self.twists)) * units % self.period

    def nearest(self, turns: torch.Tensor) -> torch.Tensor:
        """Return the point of the grid next to a frequency given in turns."""
        sizes, twists = torch.tensor(self.sizes), torch.tensor(self.twists)
        index = torch.round(turns * sizes - twists / 2.0).to(torch.int64)
        return self.at_half_steps(2 * index)


@final
@dataclass(frozen=True, slots=True, eq=False)
class GridBlocks(AbstractCells):
    """Blocks of the frequencies of a torus, down to single points."""

    grid: "Grid"
    radii: tuple[float, ...]
    first: torch.Tensor
    """int64, (blocks, axes): the lowest grid index on each axis."""
    count: torch.Tensor
    """int64, (blocks, axes): how many grid indices, at least 1."""
    supremum: float
    """At least sup ‖P‖."""

    @classmethod
    def covering(
        cls, grid: "Grid", radii: tuple[float, ...], groups: int, supremum: float, count: int
    ) -> "GridBlocks":
        """Return blocks that cover half the grid, at least `count` of them for each group."""
        first = torch.zeros((groups, len(radii)), dtype=torch.int64)
        ends = torch.tensor(grid.half).repeat(groups, 1)
        whole = cls(first, torch.arange(groups), grid, radii, first, ends, supremum)
        blocks = whole.with_indices(whole.groups, first, ends)
        while len(blocks) < count * groups and blocks.can_split:
            blocks = blocks.split()
        return blocks

    def with_indices(
        self, groups: torch.Tensor, first: torch.Tensor, count: torch.Tensor
    ) -> "GridBlocks":
        """Return other blocks of the same grid."""
        # The middle of the indices first ... first + count - 1, in half steps of the grid.
        centres = self.grid.at_half_steps(2 * first + count - 1)
        return replace(self, centres=centres, groups=groups, first=first, count=count)

    @property
    def period(self) -> int:
        """See `AbstractCells.period`."""
        return self.grid.period

    @property
    def anywhere(self) -> bool:
        """See `AbstractCells.anywhere`."""
        return False

    @property
    def hits(self) -> torch.Tensor:
        """See `AbstractCells.hits`."""
        return (self.count == 1).all(-1)

    @property
    def can_split(self) -> bool:
        """See `AbstractCells.can_split`."""
        return bool((self.count > 1).any())

    def take(self, chosen: torch.Tensor) -> "GridBlocks":
        """See `AbstractCells.take`."""
        return self.with_indices(self.groups[chosen], self.first[chosen], self.count[chosen])

    def split(self) -> "GridBlocks":
        """See `AbstractCells.split`: every axis with more than one point is halved."""
        groups, first, count = self.groups, self.first, self.count
        for axis in range(len(self.radii)):
            several = count[:, axis] > 1
            lower, upper = count.clone(), count.clone()
            lower[:, axis] = torch.where(several, (count[:, axis] + 1) // 2, count[:, axis])
            upper[:, axis] = count[:, axis] - lower[:, axis]
            after = first.clone()
            after[:, axis] += lower[:, axis]
            groups = torch.cat([groups, groups[several]])
            first = torch.cat([first, after[several]])
            count = torch.cat([lower, upper[several]])
        return self.with_indices(groups, first, count)

    @property
    def angles(self) -> torch.Tensor:
        """See `AbstractCells.angles`; exactly 0 for single points."""
        steps = torch.tensor(
            [math.pi * r / n for r, n in zip(self.radii, self.grid.sizes, strict=True)],
            dtype=torch.float64,
        )
        angles = ((self.count - 1).to(torch.float64) * steps).sum(-1)
        return torch.where(angles > 0, angles + _ANGLE_ROOM, 0.0)

    def limits(self, upper: float) -> torch.Tensor:
        """See `AbstractCells.limits`."""
        angles = self.angles
        # Lowered by more than the quotient's rounding, because acos is steep near 1.
        ratio = max(0.0, min(upper / self.supremum, 1.0) - 1e-15) if self.supremum > 0 else 1.0
        reach = angles + math.acos(ratio)
        limit = (self.supremum * (torch.cos(reach) - _ANGLE_ROOM)).clamp(min=0.0, max=upper)
        limit = torch.where(reach < _RIGHT_ANGLE, limit, 0.0)
        return torch.where(angles == 0, upper, limit)


def _moving(radii: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(axis for axis, r in enumerate(radii) if r > 0)


def _places(radii: tuple[float, ...], angle: float) -> list[int]:
    """Return into how many parts a turn is divided on each moving axis, for such an angle."""
    moving, counts = _moving(radii), []
    for i, axis in enumerate(moving):
        # Diamond axes share their part of the angle, straight ones add their own.
        share, width = (2.0, 1) if _in_diamond(i, moving) else (1.0, 2)
        wanted = angle * min(share, len(moving)) / len(moving)
        counts.append(_power_of_two(2.0 * math.pi * radii[axis] / width / wanted))
    return counts


def _in_diamond(index: int, moving: tuple[int, ...]) -> bool:
    return len(moving) > 1 and index < 2


def _power_of_two(count: float) -> int:
    """Return the least power of two that is not below, at least 2."""
    return max(2, 1 << max(0, math.ceil(math.log2(count))))


def _angle_of(half: tuple[int, ...], moving: tuple[int, ...], radii: tuple[float, ...]) -> float:
    parts = [radii[axis] * h / TURN * 2.0 * math.pi for axis, h in zip(moving, half, strict=True)]
    if len(parts) > 1:
        return max(parts[:2]) + sum(parts[2:])
    return sum(parts)


def _step(axes: int, axis: int, size: int) -> Shape:
    return tuple(size if at == axis else 0 for at in range(axes))


def _both_ways(place: Shape, step: Shape) -> tuple[Shape, Shape]:
    """Return the places a step before and behind one."""
    pairs = tuple(zip(place, step, strict=True))
    return tuple(a + b for a, b in pairs), tuple(a - b for a, b in pairs)


def _is_first_of_pair(centres: torch.Tensor) -> torch.Tensor:
    """Mark one of each pair ±θ: the one that is not above in lexicographic order."""
    mirror = -centres % TURN
    first = torch.zeros(len(centres), dtype=torch.bool)
    open_ = torch.ones(len(centres), dtype=torch.bool)
    for axis in range(centres.shape[1]):
        first |= open_ & (centres[:, axis] < mirror[:, axis])
        open_ &= centres[:, axis] == mirror[:, axis]
    return first | open_
