"""The nearest kernel whose symbol has norm at most c at given frequencies.

    minimize ½‖K - K₀‖²   subject to   ‖P_K(θ_j)‖ <= c for all j

It is found by alternating projections with corrections: the symbol is clipped, cut back to the
kernel's support, and what was taken away is remembered as one matrix a frequency, Y_j. With a
step ρ and over-relaxation (Boyd et al. 2011, chapters 3 and 5) that is Dykstra's method in a
tenth of its rounds. Every Y bounds the distance of *all* kernels that meet the limit,

    ½ d² >= ½‖K₀‖² - ½‖K_Y‖² - c Σ_j w_j ‖Y_j‖_*   with   K_Y = K₀ - Σ_j w_j Re P*(θ_j) Y_j,

so that the iteration knows when it is done.

For every input size at once the frequencies are a coarse grid, and then also the peaks at which
the kernel that was found is still too large: the active set of a semi-infinite problem.
"""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from torch.nn import functional

from lipaudit.device import Compute
from lipaudit.operators import search
from lipaudit.operators.ascent import climb
from lipaudit.operators.ball import beyond
from lipaudit.operators.base import Shape
from lipaudit.operators.batches import in_batches
from lipaudit.operators.entries import Entries
from lipaudit.operators.factors import largest_eigenvalues
from lipaudit.operators.lapack import have_factors
from lipaudit.operators.sampled import Sampled
from lipaudit.operators.symbol import Symbol

TOLERANCE = 4e-3
"""The distance may exceed the least one by so much on the frequencies that are looked at, and
as much again for those between them."""
_ROUGH = 6e-2
"""... and by so much as long as most of it is between them."""
_PROOF = 1.1 * search.TOLERANCE
"""By how much a proof of the norm may lie above it."""
_LOSS = 1e-3
_MOST_ROOM = 4e-3
"""More room than a proof needs is left as long as it costs no more than that share of the
distance, and no more than that of the norm."""
_CLIMBS = 6
_STEPS = 300
_LOOK_EVERY = 6
_ROUNDS = 12
_FLOPS = 6e12
"""Work for one layer: at most about a minute on two cores."""
_EIGEN_FLOPS = 100.0
_COPIES = 8
"""Work space, in copies of the symbol at all frequencies of the first grid."""
_PUSH = 16.0
"""ρ; found by trial on random and trained kernels, where it takes 20 to 50 steps."""
_RELAXATION = 1.8
_UNMOVED = 1e-5
"""What a step in single precision may change of taps from which it takes nothing."""
_INSIDE = 0.9
"""What stands for a norm that is below the limit."""
_COARSE = 4
"""Points of the first grid on an axis, for each step of the kernel's support."""
_FINER = 4
_FINE_FLOPS = 2e11
_SINGLE_RANGE, _NEAR = 30.0, 1.2
"""Between these ratios of norm and limit, about, the steps are taken in single precision."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """A kernel that meets a limit about as near as any does."""

    kernel: torch.Tensor
    least: float
    """No kernel that meets the limit is nearer than this (Frobenius); computed, not proved."""
    slope: float
    """Σ w_j ‖Y_j‖_*: half of how fast least² falls with the limit."""


def nearest_kernel(
    kernel: torch.Tensor, entries: Entries, torus: Shape | None, limit: float, compute: Compute
) -> Nearest:
    """Return the nearest kernel of norm about `limit` on a torus, None: for every input size.

    The kernel is float64 and of moderate size. What the result has too much by estimates is
    scaled away; that it meets the limit is not proved.
    """
    task = _Task(entries.taps(kernel) / limit, entries, compute)
    if torus is not None:
        points = Sampled.grid(torus, entries.offsets)
        task.choose_precision(points)
        found = task.solved(points, None, TOLERANCE)
        top = found.top
    else:
        found, top = _everywhere(task)
    if found.is_unmoved(task.original, top):
        return Nearest(kernel, 0.0, 0.0)
    # Scaling by 1 - η moves the kernel by η<K₀ - K, K>/d², relative to its distance d: the more
    # room that leaves for the proof of a flat symbol, the sooner it is found.
    moved = task.original - found.taps
    turn = float((moved * found.taps).sum())
    room = _LOSS * float(moved.square().sum()) / turn if turn > 0 else _PROOF
    top *= 1.0 + min(max(room, _PROOF), _MOST_ROOM)
    kernel = entries.kernel(found.taps) * (limit / max(top, 1.0))
    return Nearest(kernel, found.least * limit, found.slope * limit)


def fits(entries: Entries, torus: Shape | None, compute: Compute) -> bool:
    """Tell whether there is work space for a kernel, on a torus or (None) at every input size."""
    sizes = _coarse(entries) if torus is None else torus
    half = math.prod(sizes) / 2 + 1
    values = half * entries.index[0].numel()
    # Complex numbers in double precision at worst.
    return _COPIES * 16 * values <= compute.max_memory


def _coarse(entries: Entries) -> Shape:
    spans = [max(axis) - min(axis) for axis in zip(*entries.offsets, strict=True)]
    return tuple(_COARSE * span or 1 for span in spans)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Solution:
    """Where the iteration stands: taps in units of the limit."""

    taps: torch.Tensor
    corrections: torch.Tensor
    """Y / ρ, (frequencies, groups, rows, columns)."""
    least: float
    slope: float
    top: float
    """About the largest norm at the frequencies that were looked at."""

    def gap(self, original: torch.Tensor, top: float) -> float:
        """Return how much farther the taps are than need be, scaled from `top` to the limit."""
        distance = float((self.taps / max(top, 1.0) - original).norm())
        if self.least > 0:
            return distance / self.least - 1.0
        return 0.0 if self.is_unmoved(original, top) else math.inf

    def is_unmoved(self, original: torch.Tensor, top: float) -> bool:
        """Tell whether nothing had to be taken away, if `top` is the norm."""
        if top > 1.0 or bool(self.corrections.any()):
            return False
        return float((self.taps - original).norm()) <= _UNMOVED * float(original.norm())

    def with_more(self, count: int) -> "_Solution":
        """Return the same for so many frequencies more, at which nothing is corrected yet."""
        y = self.corrections
        joined = torch.cat([y, y.new_zeros((count, *y.shape[1:]))])
        return replace(self, corrections=joined)


def _everywhere(task: "_Task") -> tuple[_Solution, float]:
    """Solve on a coarse grid, then with more and more of the peaks between its points.

    Return about the largest norm of all, too. What lies between the points is still too high in
    the first rounds, and the iteration need not be more exact than that.
    """
    coarse = _coarse(task.entries)
    times = task.finer(coarse)
    fine_sizes = tuple(n * times if n > 1 else 1 for n in coarse)
    points = Sampled.grid(coarse, task.entries.offsets)
    fine = Sampled.grid(fine_sizes, task.entries.offsets)
    task.choose_precision(points)
    solution = task.solved(points, None, _ROUGH)
    for round_ in range(_ROUNDS + 1):
        norms = task.norms(solution.taps, fine).amax(-1)
        top, summits = task.climbed(solution.taps, fine, norms)
        gap = solution.gap(task.original, top)
        if gap <= 2.0 * TOLERANCE or task.flops_left <= 0 or round_ == _ROUNDS:
            break
        chosen = _peaks(norms, fine, fine_sizes, reach=max(times // 2, 1))
        added = torch.cat([fine.in_turns[chosen], summits])
        points = points.joined(added)
        tolerance = min(max(gap / 4.0, TOLERANCE), _ROUGH)
        solution = task.solved(points, solution.with_more(len(added)), tolerance)
    return solution, top


def _peaks(norms: torch.Tensor, fine: Sampled, sizes: Shape, *, reach: int) -> torch.Tensor:
    """Return which points of a grid exceed the limit and everything within `reach` of them."""
    unit = torch.tensor([fine.period // n for n in sizes])
    index = tuple((fine.steps // unit).T)
    mirrored = tuple((-fine.steps // unit % torch.tensor(sizes)).T)
    whole = torch.zeros(sizes, dtype=norms.dtype)
    whole[index] = norms
    whole[mirrored] = norms
    highest = whole
    for axis, n in enumerate(sizes):
        line = highest.movedim(axis, -1)
        around = min(reach, (n - 1) // 2)
        flat = functional.pad(line.reshape(1, -1, n), (around, around), mode="circular")
        pooled = functional.max_pool1d(flat, 2 * around + 1, 1)
        highest = pooled.reshape(line.shape).movedim(-1, axis)
    return torch.nonzero((norms > 1.0) & (norms >= highest[index])).squeeze(-1)


@final
class _Task:
    """One kernel, and the work that may still be spent on it."""

    def __init__(self, taps: torch.Tensor, entries: Entries, compute: Compute) -> None:
        """Begin with taps in units of the limit."""
        self.original = taps
        self.entries = entries
        self.compute = compute
        self.flops_left = _FLOPS
        rows, columns = taps.shape[2:]
        side = min(rows, columns)
        self.flops_each = taps.shape[1] * (_EIGEN_FLOPS * side**3 + 24.0 * side * rows * columns)
        self.dtype = torch.float64

    def choose_precision(self, at: Sampled) -> None:
        """Take single precision where it shows both the limit and the distance."""
        # Just above the limit the dual is a small difference of large numbers; far above it, the
        # squares in a Gram matrix hide what is near the limit.
        top = float(self.norms(self.original, at).max())
        self.dtype = torch.float32 if _NEAR < top < _SINGLE_RANGE else torch.float64

    def finer(self, coarse: Shape) -> int:
        """Return how many times finer a grid is looked at between the points of a coarse one."""
        moving = sum(n > 1 for n in coarse)
        times = _FINER
        each = self.original.shape[1] * 12.0 * min(self.original.shape[2:]) ** 3
        while times > 2 and math.prod(coarse) * times**moving * each > _FINE_FLOPS:
            times //= 2
        return times

    def norms(self, taps: torch.Tensor, at: Sampled) -> torch.Tensor:
        """Return about ‖P‖ at every frequency where it is above 1, (frequencies, groups).

        Where it is not, a Cholesky factorization tells so in a fifth of the time, and it does
        not matter how much it is.
        """
        taps = taps.to(self.dtype)

        def work(run: slice, device: torch.device) -> torch.Tensor:
            found = at.values(taps, run).to(device)
            wide = found.shape[-2] <= found.shape[-1]
            gram = found @ found.mH if wide else found.mH @ found
            room = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device) - gram
            inside = have_factors(room)
            norms = torch.where(inside, _INSIDE, 0.0).to(found.real)
            norms[~inside] = largest_eigenvalues(gram[~inside]).clamp(min=0.0).sqrt()
            return norms.cpu()

        size, side = self.original[0].numel(), min(taps.shape[2:])
        parts = in_batches(
            work,
            len(at),
            bytes_each=64 * size,
            flops_each=taps.shape[1] * 12.0 * side**3 + 8.0 * size * side,
            compute=self.compute,
        )
        return torch.cat(parts)

    def climbed(
        self, taps: torch.Tensor, at: Sampled, norms: torch.Tensor
    ) -> tuple[float, torch.Tensor]:
        """Return about sup ‖P‖ and where it exceeds 1, from the best of some frequencies."""
        symbol = Symbol(taps, self.entries.offsets)
        top = float(norms.max())
        summits: set[tuple[int, ...]] = set()
        for best in norms.topk(min(_CLIMBS, len(norms))).indices.tolist():
            there = at.values(taps, slice(best, best + 1))[0]
            group = int(torch.linalg.matrix_norm(there, ord=2).argmax())
            start = at.in_turns[best]
            peak = climb(symbol, start, group)
            top = max(top, peak.value)
            summits |= {tuple(peak.frequency.tolist())} if peak.value > 1.0 else set()
        axes = at.steps.shape[1]
        return top, torch.tensor(sorted(summits), dtype=torch.int64).reshape(-1, axes)

    def solved(self, at: Sampled, start: _Solution | None, tolerance: float) -> _Solution:
        """Iterate until the distance is known to the tolerance, or the work is spent."""
        original = self.original.to(self.dtype)
        inverse = _Inverse(self.entries.kept, at)
        shape = (len(at), *original.shape[1:])
        clipped = at.values(original if start is None else start.taps.to(self.dtype))
        y = torch.zeros_like(clipped) if start is None else start.corrections
        norms = self.norms(self.original if start is None else start.taps, at).amax(-1)
        solution, top = start, math.inf
        everyone = torch.ones(len(at), dtype=torch.bool)
        # Left outside until all are looked at, a frequency can go in and out for ever.
        awake, restless = everyone, ~everyone
        for step in range(1, _STEPS + 1):
            before = awake
            awake = restless | (norms > 1.0) | y.flatten(1).any(-1)
            awake = awake if step % _LOOK_EVERY else everyone
            taps = inverse(original + _PUSH * at.back(clipped - y))
            pushed = _RELAXATION * at.values(taps) + (1.0 - _RELAXATION) * clipped + y
            out = beyond(pushed[awake].flatten(0, 1), 1.0, self.compute)
            self.flops_left -= int(awake.sum()) * self.flops_each
            y = torch.zeros(shape, dtype=pushed.dtype)
            y[awake] = out.excess.reshape(-1, *shape[1:])
            restless |= y.flatten(1).any(-1) & ~before
            clipped = pushed - y
            done = step == _STEPS or self.flops_left <= 0
            if not (done or step % _LOOK_EVERY == 0):
                continue
            nuclear = torch.zeros(len(at), dtype=torch.float64)
            nuclear[awake] = out.sizes.reshape(-1, shape[1]).sum(-1).to(torch.float64)
            for candidate in (taps, original - _PUSH * self.entries.kept.to(taps) * at.back(y)):
                ahead = self._valued(candidate, y, at, nuclear)
                norms = self.norms(candidate, at).amax(-1)
                over = float(norms.max())
                if (
                    solution is None
                    or solution is start
                    or ahead.gap(self.original, over) < solution.gap(self.original, top)
                ):
                    solution, top = ahead, over
            if done or (solution and solution.gap(self.original, top) <= tolerance):
                break
        if solution is None:
            raise AssertionError("the last step is looked at")
        return replace(solution, top=top)

    def _valued(
        self, taps: torch.Tensor, y: torch.Tensor, at: Sampled, nuclear: torch.Tensor
    ) -> _Solution:
        """Say how near any taps can be, by the corrections."""
        moved = _PUSH * self.entries.kept * at.back(y).to(torch.float64)
        slope = _PUSH * at.mean(nuclear)
        dual = float((moved * (2.0 * self.original - moved)).sum()) - 2.0 * slope
        return _Solution(taps.to(torch.float64), y, math.sqrt(max(dual, 0.0)), slope, math.inf)


@final
class _Inverse:
    """(1 + ρG)⁻¹ on the taps that are numbers of the kernel, G = going to values and back."""

    def __init__(self, kept: torch.Tensor, at: Sampled) -> None:
        """Invert once for every pattern of zeros: one a phase of the stride."""
        system = torch.eye(len(kept), dtype=torch.float64) + _PUSH * at.gram
        patterns, self._which = torch.unique(kept.flatten(1), dim=1, return_inverse=True)
        self._parts = []
        for number, pattern in enumerate(patterns.T):
            rows = torch.nonzero(pattern).squeeze(-1)
            part = torch.zeros_like(system)
            part[rows.unsqueeze(-1), rows] = torch.linalg.inv(system[rows][:, rows])
            self._parts.append((torch.nonzero(self._which == number).squeeze(-1), part))

    def __call__(self, taps: torch.Tensor) -> torch.Tensor:
        """Solve for the taps of one symbol."""
        flat = taps.flatten(1)
        if len(self._parts) == 1:
            return (self._parts[0][1].to(flat) @ flat).reshape(taps.shape)
        solved = torch.empty_like(flat)
        for columns, part in self._parts:
            solved[:, columns] = part.to(flat) @ flat[:, columns]
        return solved.reshape(taps.shape)
