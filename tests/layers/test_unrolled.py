"""Unrolled recursions: norms of the triangular matrices, against the matrices themselves."""

import math
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import pytest

from lipaudit.enclosure import ONE, ZERO, Enclosure, Rigor
from lipaudit.layers import unrolled
from lipaudit.layers.unrolled import Advance, Recursion, at_most, power_sum, repeated

Array = npt.NDArray[np.float64]


def advance(carry: Array, drive: Array) -> Advance:
    return Advance(
        tuple(tuple(Enclosure.exactly(float(v)) for v in row) for row in carry),
        tuple(Enclosure.exactly(float(v)) for v in drive),
    )


def matrix(carries: list[Array], drives: list[Array], part: int) -> Array:
    """Return the triangular matrix, one unit input after the other."""
    count = len(drives)
    columns = []
    for at in range(count):
        state, seen = np.zeros(len(drives[0])), []
        for step in range(count):
            state = carries[step] @ state + (drives[step] if step == at else 0)
            seen.append(state[part])
        columns.append(seen)
    return np.array(columns).T


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("size", [1, 2])
def test_the_norm_over_all_steps_is_met_from_above(seed: int, scale: float, size: int) -> None:
    generator = np.random.default_rng(seed)
    count = int(generator.integers(1, 20))
    carries = [scale * generator.random((size, size)) for _ in range(count)]
    drives = [generator.random(size) for _ in range(count)]
    steps = Recursion(count, tuple(map(advance, carries, drives)), "")
    for part in range(size):
        truth = float(np.linalg.norm(matrix(carries, drives, part), 2))
        found = steps.from_inputs(part)
        assert found.rigor is Rigor.PROVED
        assert truth * (1 - 1e-12) <= found.upper <= truth * 1.02
        state, seen = np.eye(size)[0], []
        for carry in carries:
            state = carry @ state
            seen.append(state[part])
        assert steps.from_state(part).upper == pytest.approx(np.linalg.norm(seen), rel=1e-12)


@pytest.mark.parametrize("scale", [0.3, 0.5])
def test_the_closed_form_covers_the_steps(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    carry, drive = scale * np.array([[0.5, 1.0], [0.2, 1.0]]), np.array([1.0, 0.5])
    monkeypatch.setattr(unrolled, "LONGEST", 10)
    steps = repeated(advance(carry, drive), 37, "")
    assert len(steps.advances) == 1
    for part in (0, 1):
        dense = matrix([carry] * 37, [drive] * 37, part)
        truth = float(np.linalg.norm(dense, 2))
        assert truth * (1 - 1e-12) <= steps.from_inputs(part).upper <= dense.sum(1).max() * 1.001
        reached = [(np.linalg.matrix_power(carry, k))[part, 0] for k in range(1, 38)]
        assert steps.from_state(part).upper == pytest.approx(sum(reached), rel=1e-9)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 12])
def test_power_sums(count: int) -> None:
    entries = np.array([[0.5, 1.0], [0.25, 2.0]])
    exact = tuple(tuple(Enclosure.exactly(float(v)) for v in row) for row in entries)
    summed, power = power_sum(exact, count)
    expected = sum((np.linalg.matrix_power(entries, k) for k in range(count)), np.zeros((2, 2)))
    for mine, theirs in ((summed, expected), (power, np.linalg.matrix_power(entries, count))):
        np.testing.assert_allclose([[v.upper for v in row] for row in mine], theirs, rtol=1e-14)


def test_growth_beyond_floating_point_is_still_a_number() -> None:
    grown = repeated(advance(np.array([[1e6]]), np.array([1.0])), 500, "").from_inputs(0)
    # Entries up to 10^(6·499) below the diagonal.
    assert grown.upper == math.inf
    assert grown.is_finite
    assert 2994 <= grown.log10_upper <= 2994.1


def test_inputs_that_move_nothing_and_no_steps() -> None:
    still = advance(np.array([[1.0]]), np.array([0.0]))
    moved = advance(np.array([[1.0]]), np.array([2.0]))
    assert Recursion(2, (still, still), "").from_inputs(0).is_zero
    late = Recursion(3, (still, still, moved), "")
    assert late.from_inputs(0).upper == pytest.approx(2.0)
    assert Recursion(0, (), "").from_inputs(0).is_zero
    assert Recursion(0, (), "").from_state(0).is_zero


def test_what_is_not_known_stays_so() -> None:
    unknown = Advance(((Enclosure.unknown(),),), (ZERO,))
    assert not repeated(unknown, 3, "").from_inputs(0).is_finite
    assert not repeated(unknown, 3, "").from_state(0).is_finite
    doubted = Advance(((ONE,),), (Enclosure.exactly(1.0, Rigor.NUMERICAL),))
    assert repeated(doubted, 3, "").from_inputs(0).rigor is Rigor.NUMERICAL


def test_a_stated_bound_is_rounded_up() -> None:
    assert at_most("|c|", Enclosure.exactly(Decimal("1.23449"))) == "|c| <= 1.235"
    assert at_most("|c|", Enclosure.exactly(12)) == "|c| <= 12"
