"""The bounds by quadratic constraints: one matrix inequality for the whole network.

`closed-form` takes the multipliers that elimination gives, `sdp` the best ones. Both figures
are proved by one Cholesky factorization, whatever found them (see `operators/lmi`).
"""

import math
from typing import ClassVar

import torch

from lipaudit.analysis.bounds.base import AbstractBound, Question, register
from lipaudit.analysis.linear_parts import Bend, LinearParts
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.layers.base import Combine, Gain
from lipaudit.operators.certify import ROOM, UNIT, frobenius_above
from lipaudit.operators.lmi import Bent, Inequality, Multipliers
from lipaudit.results import Bound, Measure

_SIZE = 4096
"""Rows and columns of the largest inequality that is formed: 128 MB."""
_FLOPS = 1e11
"""Operations that the search for multipliers may take."""
_FLOPS_A_STEP = 8.0
"""Times size³: a factorization, an inverse and two products of a Newton step."""
_ROUNDS = 80
"""Newton steps at most: the central path of small networks ends after about 50."""
_TRIED = 12
"""How many candidates are tried before the method gives up."""


@register
class ClosedForm(AbstractBound):
    """Multipliers by elimination, one a bend."""

    name: ClassVar[str] = "closed-form"
    summary: ClassVar[str] = "multipliers in closed form (after Xu & Sivaranjani 2024)"

    def bound(self, question: Question) -> Bound | None:
        """Prove what the eliminated multipliers give."""
        problem = _inequality(question)
        start = problem.reduced().closed_form() if problem is not None else None
        if problem is None or start is None:
            return None
        upper = problem.certified(start)
        return None if upper is None else _bound(question, self.name, upper, problem)


@register
class Semidefinite(AbstractBound):
    """The best multipliers, one an item."""

    name: ClassVar[str] = "sdp"
    summary: ClassVar[str] = "semidefinite program, neuron form (Fazlyab et al. 2019)"

    def bound(self, question: Question) -> Bound | None:
        """Prove what the last multipliers on the central path give that can be proved."""
        problem = _inequality(question)
        if problem is None:
            return None
        small = problem.reduced()
        rounds = int(_FLOPS / (_FLOPS_A_STEP * small.size**3))
        start = small.closed_form()
        if start is None or rounds < 2:
            return None
        found = list(small.refined(start, min(rounds, _ROUNDS)))
        upper = _best(problem, [start, *found])
        return None if upper is None else _bound(question, self.name, upper, problem)


def _best(problem: Inequality, candidates: list[Multipliers]) -> float | None:
    """Return the first proof from the lowest candidate on: the lower, the harder to prove."""
    for candidate in sorted(candidates, key=lambda found: found.square)[:_TRIED]:
        upper = problem.certified(candidate)
        if upper is not None:
            return upper
    return None


def _bound(question: Question, name: str, upper: float, problem: Inequality) -> Bound:
    rigor = question.parts.rigor if question.parts is not None else Rigor.ESTIMATED
    used = [gain for gain in question.gains if isinstance(gain, Gain)]
    assumptions = [*question.assumptions, *(text for g in used for text in g.assumptions)]
    return Bound(
        method=name,
        measure=Measure.of(
            Enclosure.at_most(upper, rigor),
            f"matrix inequality of size {problem.size}, by Cholesky",
        ),
        assumptions=tuple(dict.fromkeys(assumptions)),
        factors=(),
    )


def _inequality(question: Question) -> Inequality | None:
    """Write the network as one inequality; None where it is too large or not all written out."""
    parts = question.parts
    if parts is None or not parts.is_complete:
        return None
    network = question.network
    columns: dict[str, slice] = {}
    size = 0
    for source in (*parts.inputs, *(bend.output for bend in parts.bends)):
        items = math.prod(network.shapes.get(source) or ())
        columns[source] = slice(size, size + items)
        size += items
    inputs = sum(math.prod(network.shapes.get(name) or ()) for name in parts.inputs)
    if inputs == 0 or size > _SIZE:
        return None
    bends = tuple(_bent(question, parts, bend, columns) for bend in parts.bends)
    rows = [_rows(question, parts, name, columns) for name in parts.outputs]
    error = math.fsum(error for _, error in rows) * ROOM
    return Inequality(inputs, bends, torch.cat([made for made, _ in rows]), error)


def _bent(question: Question, parts: LinearParts, bend: Bend, columns: dict[str, slice]) -> Bent:
    """Return the rows of a bend: ‖e‖ <= Σ r_i ‖z_i‖ is at most the root of n Σ (r_i ‖z_i‖)²."""
    spread = math.sqrt(len(bend.signals)) * ROOM if bend.rest.combine is Combine.SUM else 1.0
    made, errors = [], []
    for name, factor in zip(bend.signals, bend.rest.factors, strict=True):
        rows, error = _rows(question, parts, name, columns)
        radius = factor.upper * (spread if len(bend.signals) > 1 else 1.0)
        scaled = radius * rows
        made.append(scaled)
        errors.append(radius * error + 2.0 * UNIT * float(frobenius_above(scaled)))
    return Bent(torch.cat(made), columns[bend.output], bend.item_by_item, math.fsum(errors) * ROOM)


def _rows(
    question: Question, parts: LinearParts, edge: str, columns: dict[str, slice]
) -> tuple[torch.Tensor, float]:
    """Return what enters an edge, over all columns, and the error of that."""
    size = max(span.stop for span in columns.values())
    items = math.prod(question.network.shapes.get(edge) or ())
    rows = torch.zeros(items, size, dtype=torch.float64)
    errors = []
    for source, span in columns.items():
        part = parts.parts.get((edge, source))
        if part is not None:
            rows[:, span] = part.matrix
            errors.append(part.error)
    return rows, math.fsum(errors) * ROOM
