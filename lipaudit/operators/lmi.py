"""The matrix inequality behind semidefinite Lipschitz bounds: found somehow, proved by Cholesky.

Variables are the movement x of the input and the parts e of the movements behind each bend
(see `analysis/linear_parts`). With z = Z (x, e) what enters the bends, every row scaled by its
radius r, and y = Y (x, e) the movement of the output, the bends obey e_i² <= z_i² item by item,
or only ‖e_k‖² <= ‖z_k‖² a bend. If multipliers t >= 0 and ρ make

    P(ρ, t) = diag(ρ I, T) - Zᵀ T Z - Yᵀ Y

positive semidefinite then ‖y‖² <= ρ‖x‖² + Σ t_i (e_i² - z_i²) <= ρ‖x‖²: the Lipschitz constant is
at most √ρ. One multiplier an item is LipSDP-Neuron, one a bend LipSDP-Layer (Fazlyab et al.,
NeurIPS 2019); there is none that couples items, as in the form of that paper which is false
(Pauli et al. 2021).

Where multipliers come from does not matter for truth: `closed_form` eliminates one bend after
the other from the last to the first, in the manner of ECLipsE-Fast (Xu & Sivaranjani 2024);
`refined` follows the central path of the semidefinite program by Newton's method, whose
Hessian is cheap as every ∂P/∂t_i has rank 2. `certified` proves.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from lipaudit.operators.certify import (
    ROOM,
    UNDERFLOW,
    UNIT,
    frobenius_above,
    gamma,
    proves_semidefinite,
)
from lipaudit.operators.factors import largest_eigenvalues

_SLACKS = (1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2)
"""By how much a candidate ρ is raised, one try after the other."""
_GAP = 1e-6
"""The central path is left where it is this close to its end, relative to ρ."""
_SHRINK = 0.1
"""By how much the barrier is lowered once a point is close to the path."""
_CLOSE = 1.0
"""The square of the Newton decrement below which it is; Newton's method converges from there."""
_RANK = 1e-11
"""Directions of the input that are seen by less, relatively, are left out of the search."""
_BASIS_SIDE = 1024
"""Beyond this side their basis is not worth its seconds."""
_RIDGE = 1e-13
"""Added to the diagonal of the Hessian, scaled to 1, so that rounding does not make it singular."""


@dataclass(frozen=True, slots=True)
class Bent:
    """One bend: its rows of Z, which columns its e has, how its multipliers go."""

    rows: torch.Tensor
    """r·M, all signals below each other, over all columns (x first, then every e)."""
    columns: slice
    item_by_item: bool
    error: float
    """Bound of ‖rows - the true ones‖_F."""


@dataclass(frozen=True, slots=True)
class Multipliers:
    """A candidate: one number a bend or one an item, and the least ρ that goes with it."""

    each: tuple[torch.Tensor, ...]
    """For each bend a tensor of one or of all items."""
    square: float


@dataclass(frozen=True, eq=False)
class Inequality:
    """P(ρ, t) >= 0 for one network."""

    inputs: int
    """How many columns are the input's."""
    bends: tuple[Bent, ...]
    output: torch.Tensor
    """Y."""
    output_error: float

    @property
    def size(self) -> int:
        """Number of columns."""
        return int(self.output.shape[1])

    def certified(self, multipliers: Multipliers) -> float | None:
        """Return a proved upper bound of the Lipschitz constant near √ρ, None if there is none."""
        for slack in _SLACKS:
            square = multipliers.square * (1.0 + slack)
            if self.proves(multipliers.each, square):
                return math.nextafter(math.sqrt(square), math.inf)
        return None

    def proves(self, each: Sequence[torch.Tensor], square: float) -> bool:
        """Tell whether P(square, each) >= 0 is proved, all roundings included.

        Columns are scaled by powers of two, which changes no sign and rounds nothing, so that the
        diagonal of T is near 1. Then Zᵀ T Z = Ẑᵀ Ẑ with Ẑ = √T Z. The rounded root and its product
        with a row are off by at most 4u relatively, so that ẐᵀẐ is off by at most 16u‖Ẑ‖²; an
        inner product of n terms is wrong by γ_n of the moduli; rows that are off by D move the
        sum by 2‖Ẑ‖‖D‖ + ‖D‖².
        """
        diagonal = torch.full((self.size,), square, dtype=torch.float64)
        for bent, t in zip(self.bends, each, strict=True):
            diagonal[bent.columns] = t
        if not bool((diagonal > 0).all()) or not bool(torch.isfinite(diagonal).all()):
            return False
        scale = torch.exp2(-(diagonal.log2() / 2).round())
        doubt, total = 0.0, torch.zeros(self.size, self.size, dtype=torch.float64)
        largest = float(scale.max())
        pieces = [(self.output, self.output_error)]
        for bent, t in zip(self.bends, each, strict=True):
            root = t.sqrt()
            spread = root.unsqueeze(-1) if bent.item_by_item else root
            pieces.append((bent.rows * spread, bent.error * float(root.max()) * (1 + 8 * UNIT)))
        for rows, error in pieces:
            scaled = rows * scale
            length = float(frobenius_above(scaled))
            moved = error * largest * ROOM
            share = gamma(rows.shape[0] + 4) + 16.0 * UNIT
            doubt += (share * length**2 + (2.0 * length + moved) * moved) * ROOM + UNDERFLOW
            total = total + scaled.mT @ scaled
        matrix = torch.diag(diagonal * scale.square()) - total
        # Adding up the pieces, and taking them from the diagonal, rounds each entry once a piece.
        doubt += gamma(len(pieces) + 4) * (float(frobenius_above(total)) + 4.0 * self.size)
        return proves_semidefinite(matrix, doubt * ROOM)

    def reduced(self) -> "Inequality":
        """Return the same problem without directions of the input that lead nowhere.

        ρ I is the same in every orthonormal basis of the inputs, so that those of the row space
        suffice: 784 pixels in front of 50 units have 50. For the search only, as it rounds.
        """
        x = self.inputs
        seen = torch.cat([*(bent.rows[:, :x] for bent in self.bends), self.output[:, :x]])
        if not 0 < min(seen.shape) <= _BASIS_SIDE:
            return self
        _, values, right = torch.linalg.svd(seen, full_matrices=False)
        rank = int((values > _RANK * float(values.max())).sum())
        if not 0 < rank < x:
            return self
        basis, less = right[:rank].mT, x - rank

        def turned(rows: torch.Tensor) -> torch.Tensor:
            return torch.cat([rows[:, :x] @ basis, rows[:, x:]], dim=1)

        bends = tuple(
            replace(
                bent,
                rows=turned(bent.rows),
                columns=slice(bent.columns.start - less, bent.columns.stop - less),
            )
            for bent in self.bends
        )
        return Inequality(rank, bends, turned(self.output), self.output_error)

    def closed_form(self) -> Multipliers | None:
        """Return one multiplier a bend by eliminating the bends, the last one first.

        What remains after the bends behind k is a quadratic form R; t_k I must exceed its block
        R_kk, and then e_k is maximized out: R + R_.k (t_k I - R_kk)⁻¹ R_k. + t_k z_kᵀ z_k. Twice
        the norm of R_kk balances the two terms, as in ECLipsE-Fast.
        """
        form = self.output.mT @ self.output
        found: list[torch.Tensor] = []
        scale = float(form.diagonal().max())
        for bent in reversed(self.bends):
            at = bent.columns
            block = form[at, at]
            norm = float(largest_eigenvalues(block)) if block.numel() else 0.0
            t = 2.0 * max(norm, scale * 1e-12, 1e-300)
            factor, info = torch.linalg.cholesky_ex(t * torch.eye(block.shape[0]).to(block) - block)
            if int(info):
                return None
            across = torch.linalg.solve_triangular(factor, form[at], upper=False)
            # Entries of e_k itself are left as they are: nothing reads them any more.
            form = form + across.mT @ across + t * bent.rows.mT @ bent.rows
            found.append(torch.tensor([t], dtype=torch.float64))
        square = float(largest_eigenvalues(form[: self.inputs, : self.inputs]))
        if not (square > 0 and math.isfinite(square)):
            return None
        return Multipliers(tuple(reversed(found)), square)

    def refined(self, start: Multipliers, rounds: int) -> Iterator[Multipliers]:
        """Yield better and better multipliers, one an item where the bend allows it."""
        if not self.bends:
            yield start
            return
        path = _CentralPath.of(self, start)
        for _ in range(rounds):
            if path.is_done or not path.step():
                return
            yield path.multipliers


class _CentralPath:
    """Newton's method on ρ/μ - log det P(ρ, t), with μ going to 0."""

    def __init__(
        self, problem: Inequality, rows: torch.Tensor, groups: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        self.problem = problem
        self.rows = rows
        """Z."""
        self.row_group, self.column_group = groups
        self.t = torch.empty(0, dtype=torch.float64)
        self.square = 0.0
        self.barrier = 0.0

    @classmethod
    def of(cls, problem: Inequality, start: Multipliers) -> "_CentralPath":
        row_groups, column_groups, values, count = [], [], [], 0
        for bent, t in zip(problem.bends, start.each, strict=True):
            items = bent.columns.stop - bent.columns.start
            if bent.item_by_item:
                own = torch.arange(count, count + items)
                row_groups.append(own)
                column_groups.append(own)
                values.append(t.expand(items))
                count += items
            else:
                row_groups.append(torch.full((bent.rows.shape[0],), count))
                column_groups.append(torch.full((items,), count))
                values.append(t)
                count += 1
        rows = torch.cat([bent.rows for bent in problem.bends])
        path = cls(problem, rows, (torch.cat(row_groups), torch.cat(column_groups)))
        path.t = torch.cat(values).clone()
        path.square = 2.0 * start.square
        path.barrier = path.square / problem.size
        return path

    @property
    def is_done(self) -> bool:
        """Whether ρ is within the gap of the least one: it is at most size·μ above."""
        return self.barrier * self.problem.size <= _GAP * self.square

    @property
    def multipliers(self) -> Multipliers:
        """The present candidate."""
        each, at = [], 0
        for bent in self.problem.bends:
            items = bent.columns.stop - bent.columns.start if bent.item_by_item else 1
            each.append(self.t[at : at + items])
            at += items
        return Multipliers(tuple(each), self.square)

    def step(self) -> bool:
        """Take one damped Newton step; False where there is no way on."""
        factor, info = torch.linalg.cholesky_ex(self._matrix(self.t, self.square))
        if int(info):
            return False
        inverse = torch.cholesky_inverse(factor)
        gradient, hessian = self._derivatives(inverse)
        # In terms of t'/t and ρ'/ρ, which makes the Hessian well scaled.
        size = torch.cat([torch.tensor([self.square], dtype=torch.float64), self.t])
        gradient, hessian = gradient * size, hessian * size * size.unsqueeze(-1)
        even = hessian.diagonal().rsqrt()
        hessian = hessian * even * even.unsqueeze(-1)
        hessian.diagonal().add_(_RIDGE)
        solver, info = torch.linalg.cholesky_ex(hessian)
        if int(info):
            return False
        move = -even * torch.cholesky_solve((gradient * even).unsqueeze(-1), solver).squeeze(-1)
        before = self._value(self.square, factor)
        length, slope = 1.0, float(gradient @ move)
        for _ in range(40):
            square = self.square * (1.0 + length * float(move[0]))
            t = self.t * (1.0 + length * move[1:])
            if square > 0 and bool((t > 0).all()):
                after, failed = torch.linalg.cholesky_ex(self._matrix(t, square))
                if not int(failed):
                    value = self._value(square, after)
                    if value <= before + 0.1 * length * slope + 1e-12 * abs(before):
                        break
            length *= 0.6
        else:
            return False
        self.t, self.square = t, square
        if -slope < _CLOSE:
            self.barrier *= _SHRINK
        return True

    def _matrix(self, t: torch.Tensor, square: float) -> torch.Tensor:
        problem = self.problem
        diagonal = torch.full((problem.size,), square, dtype=torch.float64)
        diagonal[problem.inputs :] = t[self.column_group]
        weighted = self.rows * t[self.row_group].unsqueeze(-1)
        return torch.diag(diagonal) - self.rows.mT @ weighted - problem.output.mT @ problem.output

    def _value(self, square: float, factor: torch.Tensor) -> float:
        return square / self.barrier - 2.0 * float(factor.diagonal().log().sum())

    def _derivatives(self, inverse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return gradient and Hessian in (ρ, t) of ρ/μ - log det P.

        ∂P/∂t_g = Σ e_i e_iᵀ - Σ z_i z_iᵀ over the columns and rows of a group, and
        ∂²/∂g∂h = tr(P⁻¹ ∂P/∂g P⁻¹ ∂P/∂h): sums of squares of the entries of P⁻¹ between those.
        """
        x, count = self.problem.inputs, self.t.numel()
        sent = inverse @ self.rows.mT
        ends = self._gathered(
            inverse[x:, x:].square(), self.column_group, self.column_group, count
        ) + self._gathered((self.rows @ sent).square(), self.row_group, self.row_group, count)
        mixed = self._gathered(sent[x:].square(), self.column_group, self.row_group, count)
        hessian = torch.empty(count + 1, count + 1, dtype=torch.float64)
        hessian[1:, 1:] = ends - mixed - mixed.mT
        hessian[0, 0] = float(inverse[:x, :x].square().sum())
        cross = _summed(inverse[x:, :x].square().sum(-1), self.column_group, count)
        cross = cross - _summed(sent[:x].square().sum(0), self.row_group, count)
        hessian[0, 1:] = hessian[1:, 0] = cross
        gradient = torch.empty(count + 1, dtype=torch.float64)
        gradient[0] = 1.0 / self.barrier - float(inverse.diagonal()[:x].sum())
        own = _summed(inverse.diagonal()[x:], self.column_group, count)
        gradient[1:] = _summed((self.rows.mT * sent).sum(0), self.row_group, count) - own
        return gradient, hessian

    @staticmethod
    def _gathered(
        values: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, count: int
    ) -> torch.Tensor:
        """Add up the entries of a matrix over groups of rows and columns."""
        by_rows = values.new_zeros(count, values.shape[1]).index_add_(0, rows, values)
        return values.new_zeros(count, count).index_add_(1, columns, by_rows)


def _summed(values: torch.Tensor, groups: torch.Tensor, count: int) -> torch.Tensor:
    return values.new_zeros(count).index_add_(0, groups, values)
