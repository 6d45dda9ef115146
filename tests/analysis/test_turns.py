"""Turns: the order in which layers are handed out, and what it costs."""

import heapq
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipaudit.analysis.turns import operations, turns

BLOCK = [(8192, 8192), (1024, 8192), (1024, 8192), (8192, 8192)]
BLOCK += [(28672, 8192), (28672, 8192), (8192, 28672)]
DECODER = [(128256, 8192), *(BLOCK * 80), (128256, 8192)]
"""The matrices of a 70B checkpoint, in the order of the file."""
COSTS = [operations(shape) for shape in DECODER]


def ends(costs: Sequence[float], order: Sequence[int], workers: int) -> list[float]:
    """Return when each layer is done, where whoever is free takes the next."""
    free = [0.0] * workers
    done = [0.0] * len(costs)
    for at in order:
        done[at] = heapq.heappop(free) + costs[at]
        heapq.heappush(free, done[at])
    return done


def test_what_would_take_a_worker_long_goes_first_and_at_the_end_the_largest() -> None:
    # 40 in all: of two workers each has 20, a quarter of which is 5; a quarter of all is 10.
    costs = [1.0, 3.0, 6.0, 2.0, 4.0, 9.0, 3.0, 2.0, 1.0, 4.0, 5.0]
    assert turns(costs, 2) == [5, 2, 0, 1, 3, 4, 6, 7, 10, 9, 8]
    # One worker has nobody to wait for.
    assert turns(costs, 1) == list(range(11))
    assert turns([0.0, 0.0], 2) == [0, 1]
    assert turns([], 3) == []


@given(
    st.lists(st.floats(0, 1e18, allow_nan=False), max_size=30),
    st.integers(min_value=0, max_value=9),
)
def test_every_layer_has_its_turn(costs: list[float], workers: int) -> None:
    assert sorted(turns(costs, workers)) == list(range(len(costs)))


@pytest.mark.parametrize("workers", [1, 2, 8, 16, 24, 32, 48, 64, 96, 128])
def test_workers_lose_no_time_by_it(workers: int) -> None:
    falling = sorted(range(len(COSTS)), key=lambda at: -COSTS[at])
    best = max(ends(COSTS, falling, workers))
    assert max(ends(COSTS, turns(COSTS, workers), workers)) <= 1.02 * best


@pytest.mark.parametrize("workers", [2, 8, 16, 24, 32])
def test_half_of_the_layers_are_told_when_about_half_of_the_time_is_over(workers: int) -> None:
    # A layer is told when it and all before it are done. With more workers the first layer of the
    # file, the largest of all, takes longer than that itself.
    done = ends(COSTS, turns(COSTS, workers), workers)
    assert max(done[: len(done) // 2]) <= 0.56 * max(done)


def test_the_operations_of_a_matrix() -> None:
    # 2 m² n for the Gram matrix, 2/3 m³ for its factor, 400 m n for the Krylov method.
    assert operations((30, 6)) == pytest.approx(2 * 36 * 30 + 2 / 3 * 216 + 400 * 180)
    assert operations((6, 30)) == operations((30, 6))
    assert operations((5,)) == operations((5, 1))
    assert operations(()) == 0
    # A convolution has such a matrix of channels for every frequency that is looked at.
    assert operations((64, 32, 3, 3)) > 20 * operations((64, 32))
    assert operations((64, 32, 1, 1)) == operations((64, 32))
