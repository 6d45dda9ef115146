"""Search: branch and bound for the largest norm of a symbol over a set of frequencies.

The lower end climbs (`ascent`). The upper end is a number U a little above it, for which every
region of frequencies (`cells`) has been closed by a proof: a Cholesky factorization at its
centre (`certify.proves_below`). Regions that do not close are split. How many are needed
depends on the kernel, not on the size of an image.

Flat symbols (orthogonal kernels) would be split to the end by the lemmas of `cells`. For them
the Gram matrix hardly depends on the frequency:

* ‖G(θ + δ) - G(θ)‖ <= ρ·variation;
* if M = sup ‖P‖ is attained at θ* then ‖P(θ* + δ)‖² >= M² - 2ρ²·ripple. Proof: with the unit
  vector u of λ_max(G(θ*)), f(s) = uᴴG(θ* + sδ)u is at most M² = f(0), so f'(0) = 0. Without the
  part that a constant matrix C has in it, it is of exponential type 2Σ r_i|δ_i| and bounded by
  ripple >= ‖G - C‖, so |f''| <= 4ρ²·ripple (Bernstein, twice; Boas, Entire Functions, 11.1).
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar, final

import torch

from lipaudit.device import Compute, ignore
from lipaudit.operators.ascent import Peak, climb, climb_above, peak_at, summit_at
from lipaudit.operators.batches import in_batches
from lipaudit.operators.cells import AbstractCells
from lipaudit.operators.certify import ROOM, crude_upper, proves_below
from lipaudit.operators.factors import largest_eigenvalues
from lipaudit.operators.grams import choose_grams, grams_of_known_variation
from lipaudit.operators.symbol import Symbol

Result = TypeVar("Result")

TOLERANCE = 1e-4
"""Relative width that is aimed at."""
_AHEAD = 0.9 * TOLERANCE
"""How far above the lower end the upper end is tried; the rest allows for rounding."""
_FLOPS = 2e12
"""Work that one search may spend: half a minute on two cores, for the widest flat symbols."""
_CELL_OVERHEAD = 3e4
"""What one tiny factorization costs, in operations of a large one."""
_EIGENVALUE_SIDE = 24
_EIGENVALUE_WORK = 1.1e6
"""Up to this side, or this sum of side³, norms are estimated by LAPACK's eigenvalues, beyond by
Lanczos steps, whose many small operations take as long as that at least."""
_LANCZOS_STEPS = 16
_BYTES_EACH = 256
"""Memory for one cell, while it is made and tested."""
_LEAST_BYTES = 1 << 24
"""Memory for cells whatever the budget: an eighth of what the libraries take for themselves."""
_FREE_FLOPS = 1e7
"""Work that costs no more than a round: cells are split again while they stay below."""
_CLOSE_LOOKS = 8
_EIGEN_FLOPS = 100.0
"""Eigenvalues and vectors of a Hermitian matrix take about 100 n³ real operations."""
_WORTH_A_TEST = 0.25
"""Share of cells that may close from which testing them all is less work than splitting them."""
_SKIPPED_FLOPS = 3e8
"""Work for the smaller cells up to which larger ones may go untested: a few centres may mislead."""
_GROWTHS = (1.0, 1.001, 1.01, 1.02, 1.05, 1.1, 1.2)
"""How a candidate for the upper end is raised when the work is spent: estimates are low."""


def fits(count: int, compute: Compute) -> bool:
    """Tell whether the memory is enough for so many cells."""
    return count * _BYTES_EACH <= max(compute.max_memory, _LEAST_BYTES)


@final
class Search:
    """The state of one branch and bound: the bounds so far and the work spent."""

    def __init__(self, symbol: Symbol, compute: Compute, peak: Peak, *, expected: int) -> None:
        """Begin with a point of the set as the lower end, expecting so many cells.

        Its value may be 0 where the first centres will give a better one.
        """
        self.symbol = symbol
        # How much is left of a search nobody knows; its batches are no measure of it.
        self.compute = replace(compute, tick=ignore)
        self.grams = choose_grams(symbol, expected, compute)
        self.peak = peak
        self.upper = max(peak.value * (1.0 + _AHEAD), compute.enough or 0.0)
        self._flops_left = _FLOPS

    @property
    def _flops_each(self) -> float:
        """About the work for one cell."""
        return self.grams.flops_each + 4.0 / 3.0 * self.symbol.side**3 + _CELL_OVERHEAD

    def run(self, cells: AbstractCells) -> None:
        """Bring `upper` to a bound of ‖P‖ at all points of the cells, proved."""
        cells, known = self._look_around(cells)
        while len(cells):
            closed, estimates = self._tested(cells, self.upper, known)
            known = None
            cells, estimates = cells.take(~closed), estimates[~closed]
            if not len(cells):
                return
            before = self.peak.value
            self._raise_lower(cells, estimates)
            smaller = cells.split() if self._may_split(cells) else cells
            while 4 * len(smaller) * self._flops_each <= _FREE_FLOPS and self._may_split(smaller):
                smaller = smaller.split()
            stuck = smaller is cells and self.peak.value <= before
            if stuck or len(smaller) * self._flops_each > self._flops_left:
                self._loosen(cells, estimates)
                return
            if not self._sees_flatness(len(smaller)):
                cells = smaller

    def _sees_flatness(self, count: int) -> bool:
        """Find out how flat the symbol is, where that is less work than testing so many cells.

        Tell whether it is news: cells that are there may then be closed without being split.
        """
        if math.isfinite(self.grams.variation):
            return False
        found = grams_of_known_variation(self.symbol, self.compute, count * self._flops_each)
        self.grams = found or self.grams
        return found is not None

    def _may_split(self, cells: AbstractCells) -> bool:
        return cells.can_split and fits(cells.most_split, self.compute)

    def _look_around(self, cells: AbstractCells) -> tuple[AbstractCells, torch.Tensor | None]:
        """Climb from the best of the first centres, where any frequency will do.

        Return the cells to begin with, and the estimates at them where they are known.
        """
        if not cells.anywhere:
            return cells, None
        seen = self._estimates(cells)
        best = int(seen.argmax())
        self._take(climb(self.symbol, cells.centres[best], int(cells.groups[best])))
        known: torch.Tensor | None = seen
        # Cells that would nearly all be split anyway need no test. What was seen at the centres of
        # the first ones tells how smaller ones will fare, if it would show that they are flat.
        while (
            math.isfinite(self.grams.variation)
            and self._may_split(cells)
            and cells.most_split * self._flops_each <= _SKIPPED_FLOPS
        ):
            hopeful = seen < float(self._limits(cells, self.upper).min())
            if float(hopeful.double().mean()) >= _WORTH_A_TEST:
                break
            cells, known = cells.split(), None
        return cells, known

    def _raise_lower(self, cells: AbstractCells, estimates: torch.Tensor) -> None:
        """Raise the lower end where a centre is higher."""
        self._look_closely(cells, estimates)
        estimates = torch.where(cells.hits, estimates, 0.0)
        index = int(estimates.argmax())
        if float(estimates[index]) <= self.peak.value * (1.0 + 1e-9):
            # Screened centres are no higher, but for what an estimate falls short by; testing
            # smaller cells costs less than a climb that may lead nowhere.
            return
        centre, group = cells.centres[index], int(cells.groups[index])
        if cells.anywhere:
            self._climb(centre, group)
        else:
            self._take(peak_at(self.symbol, centre, cells.period, group))

    def _look_closely(self, cells: AbstractCells, estimates: torch.Tensor) -> None:
        """Decompose where a proof failed that only a norm above the lower end can have stopped.

        Where many singular values lie close together, as after clipping, estimates do not see it,
        and smaller and smaller cells would stay open for nothing.
        """
        higher = cells.hits & (estimates > 0) & (cells.limits(self.upper) > self.peak.value)
        if not bool(higher.any()):
            return
        ranked = torch.where(higher, estimates, -1.0)
        for index in ranked.topk(min(_CLOSE_LOOKS, int(higher.sum()))).indices.tolist():
            centre, group = cells.centres[index], int(cells.groups[index])
            self._take(summit_at(self.symbol, centre, cells.period, group))
            self._flops_left -= _EIGEN_FLOPS * self.symbol.side**3

    def _climb(self, centre: torch.Tensor, group: int) -> None:
        peak = climb_above(self.symbol, centre, group, self.peak)
        if peak is not None:
            self._take(peak)

    def _take(self, peak: Peak) -> None:
        if peak.value > self.peak.value:
            self.peak = peak
            self.upper = max(self.upper, peak.value * (1.0 + _AHEAD))

    def _estimates(self, cells: AbstractCells) -> torch.Tensor:
        """Return about ‖P‖ at every centre; never more than rounding above it."""

        def work(run: slice, device: torch.device) -> torch.Tensor:
            centres, groups = cells.centres[run], cells.groups[run]
            return estimated_norms(self.grams.at(centres, cells.period, groups, device)).cpu()

        return torch.cat(self._batched(work, len(cells)))

    def _promises(self, grams: torch.Tensor) -> torch.Tensor:
        """Return estimates, or 0 where the norm is seen to be no higher than the lower end.

        A factorization finds that out quicker than an estimate.
        """
        higher = ~proves_below(grams, 0.0, self.peak.value)
        estimates = torch.zeros(len(grams), dtype=torch.float64)
        if bool(higher.any()):
            estimates[higher] = estimated_norms(grams[higher.to(grams.device)]).cpu()
        return estimates

    def _tested(
        self, cells: AbstractCells, upper: float, known: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tell which cells hold nothing above `upper`; and estimates where that is not proved.

        They may be known already; they are 0 where a centre is not above the lower end.
        """
        limits = self._limits(cells, upper)
        lowest, highest = (float(end) for end in limits.aminmax())

        def work(run: slice, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
            centres, groups = cells.centres[run], cells.groups[run]
            matrices = self.grams.at(centres, cells.period, groups, device)
            bound = lowest if lowest == highest else limits[run]
            proved = proves_below(matrices, self.grams.error, bound)
            estimates = torch.zeros(len(proved), dtype=torch.float64)
            if known is not None:
                estimates = torch.where(proved, estimates, known[run])
            elif not bool(proved.all()):
                estimates[~proved] = self._promises(matrices[~proved.to(matrices.device)]).cpu()
            return proved, estimates

        parts = self._batched(work, len(cells))
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _limits(self, cells: AbstractCells, upper: float) -> torch.Tensor:
        """Return what each centre must stay below for nothing in its cell to exceed `upper`."""
        # Rounded down, so that the test is at most stricter.
        limits = cells.limits(upper * (2.0 - ROOM))
        if not math.isfinite(self.grams.variation):
            return limits
        # By how much the square at the centre must stay below that of `upper`.
        margin = cells.angles * self.grams.variation
        if cells.anywhere:
            margin = torch.minimum(margin, 2.0 * cells.angles.square() * self.grams.ripple)
        square = upper * upper * (2.0 - ROOM) - margin * ROOM
        return torch.maximum(limits, square.clamp(min=0.0).sqrt() * (2.0 - ROOM))

    def _batched(self, work: Callable[[slice, torch.device], Result], count: int) -> list[Result]:
        self._flops_left -= count * self._flops_each
        return in_batches(
            work,
            count,
            bytes_each=self.grams.bytes_each,
            flops_each=self._flops_each,
            compute=self.compute,
        )

    def _loosen(self, cells: AbstractCells, estimates: torch.Tensor) -> None:
        """End the search: raise the upper end until it holds for every cell that is left."""
        crude = crude_bound(self.symbol)
        if not bool((estimates > 0).all()):
            estimates = self._estimates(cells)  # screened centres have none
        shrinkage = float(cells.limits(1.0).min()) if cells.anywhere else 1.0
        if shrinkage > 0:
            self.upper = max(self.upper, float(estimates.max()) / shrinkage * (1.0 + 1e-6))
        for growth in _GROWTHS if shrinkage > 0 else ():
            self.upper *= growth
            if self.upper >= crude:
                break
            closed, _ = self._tested(cells, self.upper)
            if bool(closed.all()):
                return
            cells = cells.take(~closed)
        self.upper = max(self.upper, crude)


def crude_bound(symbol: Symbol) -> float:
    """Return a true upper bound without a search: √T·‖(K_1 ... K_T)‖ (Cauchy)."""
    count, groups, rows, columns = symbol.taps.shape
    flat = symbol.taps.permute(1, 2, 0, 3).reshape(groups, rows, count * columns)
    across = symbol.taps.permute(1, 0, 2, 3).reshape(groups, count * rows, columns)
    norm = min(crude_upper(flat), crude_upper(across))
    return min(math.sqrt(count) * norm * ROOM, symbol.magnitude)


def estimated_norms(grams: torch.Tensor) -> torch.Tensor:
    """Return about √λ_max of each matrix, from below: a guide, never a bound."""
    count, side = grams.shape[0], grams.shape[-1]
    if side <= _EIGENVALUE_SIDE or count * side**3 <= _EIGENVALUE_WORK:
        return largest_eigenvalues(grams).clamp(min=0).sqrt()
    return _lanczos_norms(grams)


def _lanczos_norms(grams: torch.Tensor) -> torch.Tensor:
    """Return √ of the largest Ritz value of a few Lanczos steps, all matrices at once.

    Without reorthogonalization: Ritz values stay below λ_max, only their copies multiply.
    """
    count, side = grams.shape[0], grams.shape[-1]
    start = torch.cos(torch.arange(1, side + 1, dtype=torch.float64) ** 2).to(grams)
    vector = (start / torch.linalg.vector_norm(start)).expand(count, side)
    before = torch.zeros_like(vector)
    beta = torch.zeros((count, 1), dtype=torch.float64, device=grams.device)
    small = torch.zeros((count, _LANCZOS_STEPS, _LANCZOS_STEPS), dtype=torch.float64)
    for step in range(_LANCZOS_STEPS):
        image = (grams @ vector.unsqueeze(-1)).squeeze(-1) - beta * before
        alpha = (vector.conj() * image).sum(-1, keepdim=True).real
        image = image - alpha * vector
        small[:, step, step] = alpha.squeeze(-1).cpu()
        if step + 1 < _LANCZOS_STEPS:
            beta = torch.linalg.vector_norm(image, dim=-1, keepdim=True)
            small[:, step + 1, step] = small[:, step, step + 1] = beta.squeeze(-1).cpu()
            # Where the Krylov space ends, the rest is noise of size 0.
            before, vector = vector, image / beta.clamp(min=1e-300)
    return largest_eigenvalues(small).clamp(min=0).sqrt().to(grams.device)
