"""The curve of a spectrum: few ranks, the first of them all, ends and values true."""

import numpy as np
import pytest

from lipaudit.enclosure import Rigor
from lipaudit.operators.spectrum import Spectrum


def curve(count: int) -> tuple[tuple[int, float], ...]:
    values = np.sqrt(np.arange(count, 0, -1, dtype=np.float64))
    return Spectrum(values, count, count, Rigor.PROVED, 0.0, "by hand").curve()


@pytest.mark.parametrize("count", [0, 1, 2, 24, 127, 128, 129, 130, 200, 1000, 10**6])
def test_few_ranks_with_their_true_values(count: int) -> None:
    points = curve(count)
    ranks = [rank for rank, _ in points]
    assert len(points) <= 128
    assert ranks == sorted(set(ranks))
    assert ranks[:24] == list(range(1, min(count, 24) + 1))
    assert ranks[-1:] == ([count] if count else [])
    for rank, value in points:
        assert value == np.sqrt(count + 1.0 - rank)


def test_short_spectra_are_whole() -> None:
    assert [rank for rank, _ in curve(128)] == list(range(1, 129))


def test_no_stretch_is_left_out() -> None:
    """Neither in the rank (for linear axes) nor in its logarithm (for the others)."""
    ranks = np.array([rank for rank, _ in curve(10**6)])
    assert np.diff(ranks).max() <= 10**6 / 50
    # Ranks are whole numbers: near 24 a step is up to half a rank longer.
    assert np.diff(np.log(ranks))[24:].max() <= np.log(10**6 / 24) / 50 + 0.5 / 24
