"""Axes: places, ticks, and how they are written."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipaudit.report.scale import Scale, fitting, widened, written

POSITIVE = st.floats(1e-12, 1e12)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (12.0, "12"), (0.25, "0.25"), (1e-3, "0.001"), (1e-5, "10⁻⁵"),
        (2e-7, "2·10⁻⁷"), (1500.0, "1.5k"), (10000.0, "10k"), (2.5e6, "2.5M"), (1e12, "10¹²"),
    ],
)  # fmt: skip
def test_values_are_written_short(value: float, text: str) -> None:
    assert written(value) == text


def test_ticks_are_round() -> None:
    assert [t.label for t in Scale(0.0, 1.0).ticks(5)] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    shares = [t.label for t in Scale(0.0, 1.0, percent=True).ticks(4)]
    assert shares == ["0%", "25%", "50%", "75%", "100%"]
    decades = [t.label for t in Scale(1e-4, 100.0, logarithmic=True).ticks(7)]
    assert decades == ["10⁻⁴", "0.001", "0.01", "0.1", "1", "10", "100"]
    assert [t.value for t in Scale(0.5, 20.0, logarithmic=True).ticks(6)] == [0.5, 1, 2, 5, 10, 20]


@given(POSITIVE, POSITIVE, st.booleans(), st.integers(2, 10))
def test_ticks_stand_inside_and_apart(a: float, b: float, logarithmic: bool, wanted: int) -> None:
    scale = fitting([a, b], logarithmic=logarithmic)
    ticks = scale.ticks(wanted)
    assert len(ticks) <= 3 * wanted + 1
    places = [tick.place for tick in ticks]
    assert all(0 <= place <= 1 for place in places)
    assert all(x < y for x, y in pairwise(places))
    assert len({tick.label for tick in ticks}) == len(ticks)


@given(st.lists(POSITIVE, min_size=2, max_size=9), st.booleans())
def test_places_keep_the_order(values: list[float], logarithmic: bool) -> None:
    scale = widened(fitting(values, logarithmic=logarithmic))
    places = [scale.place(value) for value in sorted(values)]
    assert places == sorted(places)


def test_a_logarithmic_place_is_the_share_of_the_decades() -> None:
    scale = Scale(0.01, 100.0, logarithmic=True)
    assert [scale.place(10.0**k) for k in range(-2, 3)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("values", [[], [0.0], [0.0, 0.0], [5.0], [1e-320, 1.0], [math.inf, 2.0]])
def test_odd_values_still_make_an_axis(values: list[float], *, logarithmic: bool) -> None:
    scale = widened(fitting(values, logarithmic=logarithmic))
    assert scale.low < scale.high < math.inf
    assert scale.ticks()
    assert all(0 <= scale.place(value) <= 1 for value in [*values, 0.0])
