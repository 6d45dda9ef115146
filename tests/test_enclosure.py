"""Enclosures against exact rational arithmetic: the truth never leaves the interval."""

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipaudit.enclosure import (
    ONE,
    ZERO,
    Enclosure,
    Rigor,
    largest,
    product,
    root_sum_of_squares,
    total,
)

numbers = st.floats(min_value=0, max_value=1e300, allow_nan=False)
positive = st.floats(min_value=1e-300, max_value=1e300)


def inside(truth: Fraction, enclosure: Enclosure) -> bool:
    return Fraction(enclosure.lo) <= truth <= Fraction(enclosure.hi)


@given(numbers, numbers)
def test_sum_and_product_hold_the_exact_result(a: float, b: float) -> None:
    x, y = Enclosure.exactly(a), Enclosure.exactly(b)
    assert inside(Fraction(a) + Fraction(b), x.plus(y))
    assert inside(Fraction(a) * Fraction(b), x.times(y))


@given(numbers, positive)
def test_quotient_holds_the_exact_result(a: float, b: float) -> None:
    assert inside(Fraction(a) / Fraction(b), Enclosure.exactly(a).over(Enclosure.exactly(b)))


@given(numbers)
def test_root_squared_holds_the_number(a: float) -> None:
    root = Enclosure.sqrt_of(a)
    assert Fraction(root.lo) ** 2 <= Fraction(a) <= Fraction(root.hi) ** 2
    assert root.upper - root.lower <= 4 * math.ulp(root.upper)


@given(numbers, numbers)
def test_widening_reaches_both_ways(a: float, b: float) -> None:
    wide = Enclosure.exactly(a).widened(Enclosure.exactly(b))
    assert inside(Fraction(a) + Fraction(b), wide)
    assert inside(max(Fraction(a) - Fraction(b), Fraction(0)), wide)


@given(st.lists(numbers, min_size=1, max_size=5))
def test_float_ends_round_outward(values: list[float]) -> None:
    found = product(Enclosure.exactly(value / 1e200) for value in values)
    assert Decimal(found.lower) <= found.lo
    assert found.hi <= Decimal(found.upper)


def test_four_hundred_layers_of_ten_do_not_overflow() -> None:
    found = product([Enclosure.exactly(10)] * 400)
    assert found.upper == math.inf
    assert found.log10_upper == pytest.approx(400)
    assert found.log10_upper >= 400
    assert found.log10_lower <= 400
    tiny = product([Enclosure.exactly(0.1)] * 400)
    assert tiny.log10_upper == pytest.approx(-400)


def test_small_integers_stay_exact() -> None:
    assert product([Enclosure.exactly(3), Enclosure.exactly(4)]).upper == 12
    assert root_sum_of_squares([Enclosure.exactly(3), Enclosure.exactly(4)]).upper == 5
    assert total([ONE, ONE]).lower == 2
    assert largest([ONE, ZERO]) == ONE


def test_zero_times_unknown_is_zero() -> None:
    assert ZERO.times(Enclosure.unknown()).is_zero
    assert not ONE.times(Enclosure.unknown()).is_finite


def test_the_weakest_rigor_wins() -> None:
    weak = Enclosure.exactly(2, Rigor.ESTIMATED)
    for found in (ONE.times(weak), ONE.plus(weak), ONE.larger(weak), ONE.over(weak)):
        assert found.rigor is Rigor.ESTIMATED


@pytest.mark.parametrize(("lo", "hi"), [(2, 1), (-1, 1), (math.nan, 1), (0, math.nan)])
def test_nonsense_is_refused(lo: float, hi: float) -> None:
    with pytest.raises(ValueError, match="not an enclosure"):
        Enclosure.of(lo, hi, Rigor.PROVED)


@given(st.integers(min_value=-300, max_value=300))
def test_logarithms_round_outward(exponent: int) -> None:
    found = Enclosure.exactly(Decimal(10) ** exponent)
    assert found.log10_lower <= exponent <= found.log10_upper
    assert found.log10_upper == pytest.approx(exponent)
