"""The supremum of a symbol over all frequencies: the norm for every input size at once.

A convolution with zero padding on a finite grid is a compression of the one on the infinite
grid, whose norm is sup_θ ‖P(θ)‖; no size is needed. It is found by branch and bound on cells
of frequencies, with this lemma. Let M = sup ‖P‖ be attained at θ* and let r_i be half the
width of the kernel's support on axis i. Then

    ‖P(θ* + δ)‖ >= M cos(Σ r_i|δ_i|)    while Σ r_i|δ_i| <= π/2.

Proof: with unit singular vectors u, v of P(θ*), the function g(s) = Re e^{iφ(s)} uᴴP(θ* + sδ)v,
φ chosen linear so that the exponents are centred, is real, of exponential type
Σ r_i|δ_i|, bounded by M, and g(0) = M; a function of that kind falls no faster from its maximum
than M cos(type·s) (Duffin & Schaeffer 1938; Boas, Entire Functions, 11.4).

So if U is such that the centre of every cell has ‖P‖ <= U cos(Σ r_i h_i), h_i the half widths,
then M <= U: θ* lies in some cell. Each of these tests is one Cholesky factorization
(`certify.proves_below`). Cells that fail are split.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from lipaudit.device import Compute
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.operators import krylov
from lipaudit.operators.certify import ROOM, attained, crude_upper, proves_below
from lipaudit.operators.symbol import Symbol

TURN = 1 << 40
"""Frequencies are integers in units of 2π/2^40."""
TOLERANCE = 1e-4
"""Relative width that is aimed at."""
_FLOPS = 3e10
"""Work that every search may spend, about a second on two cores ..."""
_TESTS = 300
"""... and this many tests beyond it, so that wide layers get theirs."""
_SETUP_FLOPS = 4e11
_PAIR_OVERHEAD = 2e6
"""Work that the Gram polynomial may take: T² products of taps, each at least so dear."""
_CELL_OVERHEAD = 2e5
"""What one tiny factorization costs, in operations of a large one."""
_FIRST_ANGLE = 1.1
"""Cells start with Σ r_i h_i at most this (radians; below π/2 with room for cos to be useful)."""
_EIGENVALUE_SIDE = 32
"""Up to this side norms are estimated by LAPACK's eigenvalues, beyond by power iteration."""
_DIRECT_SIDE = 128
_KRYLOV_STEPS = 25
"""Up to this side eigenvectors come from LAPACK, beyond from so many Krylov steps."""
_POWER_STEPS = 8
CHUNK = 1 << 25
"""Bytes of Gram matrices at a time: what stays in the caches and in the allocator's reach."""
_LAST_STEP = TURN >> 14
"""Where the climb stops: 4e-4 radians from a maximum the norm has lost about 1e-7 of itself."""
_CLIMB_STEPS = 60
"""Moves and halvings of one climb at most."""
_STARTS = 3
"""From how many of the best cells a local maximum is climbed to at first."""
_GROWTHS = (1.0, 1.001, 1.01, 1.02, 1.05, 1.1, 1.2)
"""How a candidate for the upper bound is raised when the work is spent: estimates are low."""


@dataclass(frozen=True, slots=True, eq=False)
class Supremum:
    """The largest norm of a symbol, and where it is nearly attained."""

    enclosure: Enclosure
    frequency: torch.Tensor
    """In units of 2π/TURN, one integer an axis."""
    group: int
    vector: torch.Tensor
    """Right singular vector of P there, complex."""


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Boxes of frequencies of one size, each for one group of channels."""

    centres: torch.Tensor
    """int64, (cells, axes), in units of 2π/TURN."""
    groups: torch.Tensor
    half: tuple[int, ...]
    """Half width on each axis, in the same units; 0 on axes of which P does not depend."""

    def __len__(self) -> int:
        return len(self.groups)

    def take(self, chosen: torch.Tensor | slice) -> "_Cells":
        return replace(self, centres=self.centres[chosen], groups=self.groups[chosen])

    def split(self) -> "_Cells":
        """Return the 2^axes halves of every cell."""
        centres, groups = self.centres, self.groups
        quarter = tuple(h // 2 for h in self.half)
        for axis, q in enumerate(quarter):
            if q:
                step = torch.zeros(len(quarter), dtype=torch.int64)
                step[axis] = q
                centres = torch.cat([centres - step, centres + step])
                groups = torch.cat([groups, groups])
        return _Cells(centres % TURN, groups, quarter)

    def shrinkage(self, radii: tuple[float, ...]) -> float:
        """Return at most cos(Σ r_i h_i), 0 when the cells are too large for the lemma."""
        angle = sum(r * h for r, h in zip(radii, self.half, strict=True)) / TURN * 2.0 * math.pi
        # The angle is rounded a few times and so is the cosine: 1e-14 is more than both.
        return max(0.0, math.cos(angle) - 1e-14) if angle < 1.57 else 0.0


def supremum(symbol: Symbol, compute: Compute) -> Supremum:
    """Enclose sup_θ ‖P(θ)‖ within `TOLERANCE` if the work allows, proved in any case.

    The taps must be of moderate size (`scaling`).
    """
    if not bool(symbol.taps.any()):
        nowhere = torch.zeros(len(symbol.radii), dtype=torch.int64)
        nothing = torch.zeros(symbol.taps.shape[3], dtype=torch.complex128)
        return Supremum(Enclosure.exactly(0), nowhere, 0, nothing)
    return _Search(symbol, compute).run()


class _Search:
    """The state of one branch and bound: the bounds so far and the work spent."""

    def __init__(self, symbol: Symbol, compute: Compute) -> None:
        self.symbol = symbol
        self.memory = compute.max_memory
        self.axes = len(symbol.radii)
        self.lower = 0.0
        self.upper = 0.0
        self.best = (torch.zeros(self.axes, dtype=torch.int64), 0, torch.zeros(0))
        self.work = 0.0
        side = symbol.side
        # Offsets of the Gram polynomial with their mirror images, before it is worked out.
        offsets = math.prod(int(4 * r) + 1 for r in symbol.radii)
        self.cost = 2.0 * offsets * side**2 + 4.0 / 3.0 * side**3 + _CELL_OVERHEAD
        self.budget = _FLOPS + _TESTS * self.cost

    def run(self) -> Supremum:
        if not self.is_affordable():
            return self.crude()
        cells = self.first_cells()
        self.climb_from(cells, self.estimates(cells))
        while len(cells):
            closed, estimates = self.tested(cells, self.upper)
            cells, estimates = cells.take(~closed), estimates[~closed]
            if not len(cells):
                break
            self.climb_from(cells, estimates)
            children = 2 ** sum(h > 1 for h in cells.half)
            exhausted = self.work + len(cells) * children * self.cost > self.budget
            if exhausted or children == 1:
                self.loosen(cells, estimates)
                break
            cells = cells.split()
        return self.result(min(self.upper, self.crude_bound()))

    @cached_property
    def first_count(self) -> int:
        """Cells on each axis at the start, a power of 2."""
        count = 1
        while sum(self.symbol.radii) * math.pi / count > _FIRST_ANGLE:
            count *= 2
        return count

    def is_affordable(self) -> bool:
        """Tell whether the first grid and the Gram polynomial fit the work and the memory."""
        taps, groups, *shape = self.symbol.taps.shape
        moving = sum(r > 0 for r in self.symbol.radii)
        cells = groups * self.first_count**moving
        setup = taps**2 * (2.0 * groups * self.symbol.side**2 * max(shape) + _PAIR_OVERHEAD)
        offsets = math.prod(int(4 * r) + 1 for r in self.symbol.radii)
        memory = 16 * groups * offsets * self.symbol.side**2
        affordable = cells * self.cost <= 4 * self.budget and setup <= _SETUP_FLOPS
        return affordable and memory <= self.memory

    def first_cells(self) -> _Cells:
        """Return a grid of cells over half the frequencies: P(-θ) is the conjugate of P(θ)."""
        radii, count = self.symbol.radii, self.first_count
        width = TURN // count
        moving = [axis for axis, r in enumerate(radii) if r > 0]
        centres = torch.zeros((1, self.axes), dtype=torch.int64)
        for axis in moving:
            kept = max(1, count // 2) if axis == moving[0] else count
            line = torch.zeros((kept, self.axes), dtype=torch.int64)
            line[:, axis] = torch.arange(kept) * width + width // 2
            centres = (centres[:, None, :] + line[None, :, :]).reshape(-1, self.axes)
        half = tuple(width // 2 if r > 0 else 0 for r in radii)
        groups = torch.arange(self.symbol.groups)
        return _Cells(centres.repeat(len(groups), 1), groups.repeat_interleave(len(centres)), half)

    def chunks(self, cells: _Cells) -> Iterator[slice]:
        """Cut the cells into runs whose Gram matrices fit the memory."""
        side, offsets = self.symbol.side, len(self.symbol.gram.offsets)
        gathered = 2 * offsets if self.symbol.groups > 1 else 0
        each = 16 * (6 * side**2 + gathered * side**2 + 2 * offsets)
        return runs(len(cells), max(1, min(self.memory, CHUNK) // each))

    def estimates(self, cells: _Cells) -> torch.Tensor:
        """Return about ‖P‖ at every centre; never more than rounding above it."""
        parts = []
        for run in self.chunks(cells):
            part = cells.take(run)
            parts.append(estimated_norms(self.symbol.gram.at(part.centres, TURN, part.groups)))
            self.work += len(part) * self.cost
        return torch.cat(parts)

    def tested(self, cells: _Cells, upper: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Tell which cells cannot hold a larger maximum; and estimates where they still can."""
        closed = torch.zeros(len(cells), dtype=torch.bool)
        estimates = torch.zeros(len(cells), dtype=torch.float64)
        # Rounded down, so that the test is at most stricter.
        bound = upper * cells.shrinkage(self.symbol.radii) * (2.0 - ROOM)
        for run in self.chunks(cells):
            part = cells.take(run)
            grams = self.symbol.gram.at(part.centres, TURN, part.groups)
            proved = proves_below(grams, self.symbol.gram.error, bound)
            closed[run] = proved
            if not bool(proved.all()):
                estimates[run][~proved] = estimated_norms(grams[~proved])
            self.work += len(part) * self.cost
        return closed, estimates

    def climb_from(self, cells: _Cells, estimates: torch.Tensor) -> None:
        """Raise the lower bound by climbing from the most promising centres."""
        # Several starts at first; later only one, and only where it promises to be higher.
        starts = 1 if self.lower else _STARTS
        for index in estimates.argsort(descending=True)[:starts].tolist():
            if starts == 1 and float(estimates[index]) < self.lower * (1.0 + 1e-9):
                break
            self.climb(cells.centres[index], int(cells.groups[index]), max(cells.half))
        self.upper = max(self.upper, self.lower * (1.0 + 0.9 * TOLERANCE))

    def climb(self, frequency: torch.Tensor, group: int, step: int) -> None:
        """Climb ‖P(θ)‖ by pattern search with warm-started vectors; keep the best proved value."""
        picked = torch.tensor([group])
        vector = leading_vector(self.symbol.gram.at(frequency[None], TURN, picked)[0])
        for _ in range(_CLIMB_STEPS):
            if step <= _LAST_STEP:
                break
            frequency, moved = self.best_neighbour(frequency, group, vector, step)
            gram = self.symbol.gram.at(frequency[None], TURN, picked)[0]
            vector = refined(gram, vector)
            if not moved:
                step //= 2
        matrix = self.symbol.at(frequency[None], TURN, picked)[0]
        gram = self.symbol.gram.at(frequency[None], TURN, picked)[0]
        vector = leading_vector(gram, vector)
        right = vector if matrix.shape[0] > matrix.shape[1] else matrix.mH @ vector
        value = attained(matrix, right) - self.symbol.error * ROOM
        if value > self.lower:
            length = torch.linalg.vector_norm(right)
            self.lower, self.best = value, (frequency, group, right / length)

    def best_neighbour(
        self, frequency: torch.Tensor, group: int, vector: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, bool]:
        """Return the best of the 3^axes points around for a fixed vector."""
        gram = self.symbol.gram
        moves = [torch.zeros(self.axes, dtype=torch.int64)]
        for axis, radius in enumerate(self.symbol.radii):
            if radius > 0:
                shift = torch.zeros(self.axes, dtype=torch.int64)
                shift[axis] = step
                moves = [move + sign * shift for move in moves for sign in (0, -1, 1)]
        candidates = (frequency + torch.stack(moves)) % TURN
        quotients = gram.quotients(candidates, TURN, group, vector)
        winner = int(quotients.argmax())
        # On a plateau the differences are rounding noise; staying lets the step shrink.
        if float(quotients[winner]) <= float(quotients[0]) * (1.0 + 1e-12):
            winner = 0
        return candidates[winner], winner != 0

    def loosen(self, cells: _Cells, estimates: torch.Tensor) -> None:
        """End the search: raise the upper bound until it holds for every cell that is left."""
        shrinkage = cells.shrinkage(self.symbol.radii)
        crude = self.crude_bound()
        if shrinkage > 0:
            self.upper = max(self.upper, float(estimates.max()) / shrinkage * (1.0 + 1e-6))
        for growth in _GROWTHS if shrinkage > 0 else ():
            self.upper *= growth
            closed, _ = self.tested(cells, self.upper)
            if bool(closed.all()):
                return
            cells = cells.take(~closed)
        self.upper = max(self.upper, crude)

    def crude_bound(self) -> float:
        """Return a true upper bound without a search: √T·‖(K_1 ... K_T)‖ (Cauchy)."""
        taps = self.symbol.taps
        count, groups, rows, columns = taps.shape
        flat = taps.permute(1, 2, 0, 3).reshape(groups, rows, count * columns)
        across = taps.permute(1, 0, 2, 3).reshape(groups, count * rows, columns)
        norm = min(crude_upper(flat), crude_upper(across))
        return math.sqrt(count) * norm * ROOM

    def crude(self) -> Supremum:
        """Give up the search before it starts: the supremum is at least ‖P(0)‖ = ‖Σ K_t‖."""
        still = torch.zeros(self.axes, dtype=torch.int64)
        matrices = self.symbol.at(still[None], TURN)[0]
        group = int(torch.linalg.vector_norm(matrices, dim=(-2, -1)).argmax())
        matrix = matrices[group]
        vector = krylov.top_vector(
            lambda x: matrix @ x,
            lambda y: matrix.mH @ y,
            krylov.scrambled((matrix.shape[1],), matrix.device).to(matrix),
            steps=_KRYLOV_STEPS,
            max_memory=self.memory,
        )
        self.lower = max(0.0, attained(matrix, vector) - self.symbol.error * ROOM)
        self.best = (still, group, vector)
        return self.result(self.crude_bound())

    def result(self, upper: float) -> Supremum:
        frequency, group, vector = self.best
        enclosure = Enclosure.of(self.lower, max(upper, self.lower), Rigor.PROVED)
        return Supremum(enclosure, frequency, group, vector)


def runs(count: int, size: int) -> Iterator[slice]:
    """Cut a range into pieces."""
    return (slice(first, first + size) for first in range(0, count, size))


def estimated_norms(grams: torch.Tensor) -> torch.Tensor:
    """Return about √λ_max of each matrix, from below: a guide, never a bound."""
    side = grams.shape[-1]
    if side <= _EIGENVALUE_SIDE:
        values: torch.Tensor = torch.linalg.eigvalsh(grams)[..., -1]
        return values.clamp(min=0).sqrt()
    vectors = torch.cos(torch.arange(1, 3 * side + 1, dtype=torch.float64) ** 2)
    block = vectors.reshape(side, 3).to(grams).expand(*grams.shape[:-1], 3)
    for _ in range(_POWER_STEPS):
        block = grams @ block
        block = block / torch.linalg.vector_norm(block, dim=-2, keepdim=True).clamp(min=1e-300)
    lengths: torch.Tensor = torch.linalg.vector_norm(grams @ block, dim=-2)
    return lengths.amax(-1).sqrt()


def leading_vector(gram: torch.Tensor, start: torch.Tensor | None = None) -> torch.Tensor:
    """Return an approximate eigenvector of the largest eigenvalue."""
    side = gram.shape[-1]
    if side <= _DIRECT_SIDE:
        vectors: torch.Tensor = torch.linalg.eigh(gram).eigenvectors
        return vectors[:, -1]
    if start is None:
        start = torch.cos(torch.arange(1, side + 1, dtype=torch.float64) ** 2).to(gram)
    return krylov.top_vector(
        lambda x: gram @ x, lambda y: gram @ y, start, steps=_KRYLOV_STEPS, max_memory=1 << 28
    )


def refined(gram: torch.Tensor, vector: torch.Tensor, steps: int = 3) -> torch.Tensor:
    """Return the vector after a few power steps."""
    for _ in range(steps):
        image = gram @ vector
        length = torch.linalg.vector_norm(image)
        if not float(length) > 0:
            return vector
        vector = image / length
    return vector
