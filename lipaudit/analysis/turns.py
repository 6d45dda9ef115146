"""Turns: in which order the layers of a network are handed out to those who measure them.

Layers in the order of the graph are told as they get done, and the largest at the end would leave
all but one worker idle. The largest first keeps all of them busy (Graham 1969: within 4/3 of the
best), and tells next to nothing before everything is done. So only those layers go first that
would take a worker a large part of its time, and at the end, where nothing is left to fill a gap
with, the largest go first again.
"""

from collections.abc import Sequence
from itertools import accumulate
from math import prod

from lipaudit.graph.constant import Shape

LARGE = 0.25
"""The share of a worker's time above which a layer goes first, and the share of all work that is
the end. Smaller, and the gaps at the end grow; larger, and more is told late.
`benchmarks/workers.py` says what it costs."""
_KRYLOV = 400.0
"""Operations for each entry: about 100 steps with two products of 2 operations."""
_FREQUENCIES = 250.0
"""At about so many a convolution's symbol is factored: trained 3x3 layers take 80 to 300."""
_COMPLEX = 4.0
"""Operations for one with complex numbers."""


def turns(costs: Sequence[float], workers: int) -> list[int]:
    """Return the places of all costs, in the order in which they are handed out."""
    order = range(len(costs))
    total = sum(costs)
    if workers < 2 or not total:
        return list(order)
    large = [at for at in order if costs[at] > LARGE * total / workers]
    first = set(large)
    rest = [at for at in order if at not in first]
    # Of what is handed out one after the other, the last that make up no more than that share.
    left = accumulate(costs[at] for at in reversed(rest))
    end = sum(1 for cost in left if cost <= LARGE * total)
    middle = len(rest) - end
    return [*_falling(large, costs), *rest[:middle], *_falling(rest[middle:], costs)]


def operations(shape: Shape) -> float:
    """Return about how many operations it takes to prove the norm of a weight.

    Of a matrix, m <= n: its Gram matrix 2 m² n, a Cholesky factorization 2/3 m³, Krylov steps.
    """
    if not shape:
        return 0.0
    rows, columns = shape[0], shape[1] if len(shape) > 1 else 1
    small, large = sorted((float(rows), float(columns)))
    proof = 2.0 * small**2 * large + 2.0 / 3.0 * small**3
    if prod(shape[2:]) > 1:
        return _COMPLEX * _FREQUENCIES * proof
    return proof + _KRYLOV * small * large


def _falling(places: Sequence[int], costs: Sequence[float]) -> list[int]:
    return sorted(places, key=lambda at: -costs[at])
