"""Enclosures of convolutions against truth that is not rounded, on kernels meant to break them.

`oracles.ExactNorm` compares a norm with a number in integer arithmetic, so nothing here has a
tolerance unless it says where it comes from.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from lipaudit.device import choose
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.operators import circular, convolution, search, size_free
from lipaudit.operators.ascent import peak_at
from lipaudit.operators.cells import TURN, Diamonds
from lipaudit.operators.certify import UNIT
from lipaudit.operators.convolution import SizedConvolution
from lipaudit.operators.geometry import ConvGeometry, PaddingMode
from lipaudit.operators.padded import is_torus
from lipaudit.operators.size_free import supremum
from lipaudit.operators.strided import reduced
from tests import oracles
from tests.operators import kernels
from tests.oracles import ExactNorm

CPU = choose("cpu")
NORM_ONLY = choose("cpu", full_spectra=False)
SIDE_OF_EXACT = 24
"""Integer elimination takes about 15 ms at this side."""
PERIODIC_POINTS = {1: 192, 2: 24, 3: 10}
"""Grid points an axis for the frequency scan, by rank."""


def truth_is_inside(case: kernels.Case, enclosure: Enclosure) -> None:
    """Check both ends without slack, or beyond `SIDE_OF_EXACT` with that of a dense SVD."""
    assert enclosure.rigor is Rigor.PROVED
    assert Fraction(enclosure.lower) <= Fraction(enclosure.lo)
    assert Fraction(enclosure.hi) <= Fraction(enclosure.upper)
    parts = oracles.exact_conv_parts(case.kernel, case.geometry, case.in_shape)
    if min(parts[0].shape) <= SIDE_OF_EXACT:
        truth = ExactNorm.of(*parts)
        assert truth.is_at_most(enclosure.hi), case
        assert truth.is_at_least(enclosure.lo), case
        return
    norm, slack = dense_norm(case)
    assert norm - slack <= enclosure.upper, case
    assert enclosure.lower <= norm + slack, case


def dense_norm(case: kernels.Case) -> tuple[float, float]:
    """Return the norm of the matrix that torch's operation is, and what rounding may do to it.

    LAPACK's singular values are wrong by a small multiple of max(m, n)·eps·σ1; entries that are
    sums of taps are wrong by less.
    """
    matrix = oracles.conv_matrix(case.kernel, case.geometry, case.in_shape)
    norm = float(oracles.singular_values(matrix)[0])
    return norm, 4 * max(matrix.shape) * float(np.finfo(np.float64).eps) * norm


@pytest.fixture
def little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let searches end early: the work limit decides how wide a bound is, never its truth."""
    monkeypatch.setattr(search, "_FLOPS", 1e7)


@pytest.mark.parametrize("family", kernels.FAMILIES)
def test_norms_at_one_size_hold_the_truth(family: str) -> None:
    for seed in range(200):
        case = kernels.drawn(family, seed)
        for compute in (CPU, NORM_ONLY):
            operator = convolution.convolution(case.kernel, case.geometry, case.in_shape, compute)
            truth_is_inside(case, operator.norm().enclosure)


@pytest.mark.usefixtures("little_work")
@pytest.mark.parametrize("family", kernels.FAMILIES)
def test_norms_without_the_matrix_hold_the_truth(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is done for operators that are too large to be written out, on small ones.
    monkeypatch.setattr(convolution, "_DENSE_ENTRIES", 0)
    for seed in range(40):
        case = kernels.drawn(family, 10_000 + seed)
        norm = convolution.convolution(case.kernel, case.geometry, case.in_shape, CPU).norm()
        assert "exact" not in norm.method
        truth_is_inside(case, norm.enclosure)
    # With no work left at all, and no torus tested point by point.
    monkeypatch.setattr(search, "_FLOPS", 0.0)
    monkeypatch.setattr(circular, "EVERY_POINT", 0)
    for seed in range(20):
        case = kernels.drawn(family, 20_000 + seed)
        norm = convolution.convolution(case.kernel, case.geometry, case.in_shape, CPU).norm()
        truth_is_inside(case, norm.enclosure)


def test_the_cases_reach_every_corner() -> None:
    """Guard the draw itself: what it no longer reaches is no longer tested."""
    seen = set()
    for family in kernels.FAMILIES:
        for seed in range(200):
            case = kernels.drawn(family, seed)
            g, taps = case.geometry, case.kernel.shape[2:]
            operator = convolution.convolution(case.kernel, g, case.in_shape, CPU)
            assert isinstance(operator, SizedConvolution)
            seen |= {
                f"{g.rank}-D",
                g.mode.value,
                "transposed" if g.transposed else "plain",
                "strided" if max(g.stride) > 1 else "stride 1",
                "dilated" if max(g.dilation) > 1 else "undilated",
                "depthwise" if g.groups > 1 and case.kernel.shape[1] == 1 else "mixing",
                "grouped" if g.groups > 1 else "one group",
                "torus" if is_torus(operator.conv) else "no torus",
                "pointwise" if max(taps) == 1 else "spatial",
                "even" if any(k % 2 == 0 for k in taps) else "odd",
                "one-sided" if any(low != high for low, high in g.padding) else "two-sided",
                "kernel in image"
                if all(k <= n for k, n in zip(taps, case.in_shape[1:], strict=True))
                else "kernel beyond image",
            }
    assert seen >= {
        "1-D", "2-D", "3-D", *(mode.value for mode in PaddingMode), "transposed", "plain",
        "strided", "stride 1", "dilated", "undilated", "depthwise", "grouped", "torus",
        "no torus", "pointwise", "spatial", "even", "odd", "one-sided", "two-sided",
        "kernel in image", "kernel beyond image",
    }  # fmt: skip


def other_sizes(case: kernels.Case) -> list[kernels.Case]:
    """Return the same convolution on other sizes, where zero-padded also with other padding."""
    g = case.geometry
    reach = [d * (k - 1) for d, k in zip(g.dilation, case.kernel.shape[2:], strict=True)]
    grown = [
        kernels.Case(case.kernel, g, (case.in_shape[0], *(n + more for n in case.in_shape[1:])))
        for more in ((1, 4, 9) if g.rank == 1 else (1, 2))
    ]
    if g.mode is not PaddingMode.ZEROS or g.transposed:
        return [case, *grown]
    full = ConvGeometry(g.stride, tuple((r, r) for r in reach), g.dilation, g.groups)
    half = ConvGeometry(g.stride, tuple((r // 2, r // 2) for r in reach), g.dilation, g.groups)
    same = [kernels.Case(case.kernel, half, grown[-1].in_shape)]
    return [case, *grown, *same, *(kernels.Case(case.kernel, full, c.in_shape) for c in grown)]


@pytest.mark.usefixtures("little_work")
@pytest.mark.parametrize("family", kernels.FAMILIES)
def test_norms_for_every_size_are_above_every_size_and_not_above_the_supremum(family: str) -> None:
    for seed in range(25):
        case = kernels.drawn(family, 30_000 + seed)
        free = convolution.convolution(case.kernel, case.geometry, None, CPU).norm().enclosure
        assert free.rigor is Rigor.PROVED
        for sized in other_sizes(case):
            parts = oracles.exact_conv_parts(sized.kernel, sized.geometry, sized.in_shape)
            if min(parts[0].shape) <= SIDE_OF_EXACT:
                assert ExactNorm.of(*parts).is_at_most(free.hi), sized
            else:
                norm, slack = dense_norm(sized)
                assert norm - slack <= free.upper, sized
        assert free.lower <= supremum_above(case), case


def supremum_above(case: kernels.Case) -> float:
    """Return an upper bound of sup_θ ‖P(θ)‖ from a scan.

    A trigonometric polynomial of degree r exceeds its largest value on N equidistant points by
    at most 1/cos(πr/N) on each axis (Ehlich & Zeller 1964); degrees are those of P shifted to
    the middle of its support. The scan itself is good to 1e-13.
    """
    g, points = case.geometry, PERIODIC_POINTS[case.geometry.rank]
    scanned = oracles.frequency_maximum(case.kernel, g, points)
    for d, k, s in zip(g.dilation, case.kernel.shape[2:], g.stride, strict=True):
        degree = math.ceil(d * (k - 1) / s) / 2
        scanned /= math.cos(math.pi * degree / points)
    return scanned * (1 + 1e-13)


@pytest.mark.parametrize("family", kernels.FAMILIES)
def test_proved_spectra_hold_every_50_digit_value(family: str) -> None:
    checked = 0
    for seed in range(60):
        case = kernels.drawn(family, 40_000 + seed)
        parts = oracles.exact_conv_parts(case.kernel, case.geometry, case.in_shape)
        if min(parts[0].shape) > 10 or max(parts[0].shape) > 30:
            continue
        spectrum = convolution.convolution(
            case.kernel, case.geometry, case.in_shape, CPU
        ).spectrum()
        assert spectrum is not None
        if spectrum.rigor is not Rigor.PROVED:
            continue
        checked += 1
        assert oracles.values_outside(spectrum.values.tolist(), spectrum.radius, parts) == 0, case
    assert checked >= 20


def test_the_error_of_summed_taps_is_what_they_lose() -> None:
    # Replicate padding writes sums of taps into the matrix: rounded, and the radius says so.
    geometry = ConvGeometry((1,), ((3, 3),), (1,), mode=PaddingMode.REPLICATE)
    for seed in range(20):
        kernel = kernels.graded((2, 2, 5), torch.Generator().manual_seed(seed))
        operator = convolution.convolution(kernel, geometry, (2, 4), CPU)
        assert isinstance(operator, SizedConvolution)
        rounded = oracles.conv_matrix(kernel, geometry, (2, 4))
        parts = oracles.exact_conv_parts(kernel, geometry, (2, 4))
        assert ExactNorm.of(*parts, -rounded).is_at_most(operator.conv.matrix_error)
        assert operator.conv.matrix_error < 100 * UNIT * float(torch.linalg.vector_norm(kernel))


def narrow_peaks() -> list[torch.Tensor]:
    """Return kernels whose symbol is large only near one frequency."""
    positions = torch.arange(9, dtype=torch.float64)
    return [torch.cos(positions * turn).reshape(1, 1, 9) for turn in (0.3, 0.7, 1.1, 1.9, 2.6)]


def supremum_violations() -> int:
    """Count upper bounds of the supremum that a scan exceeds, when the search climbs nowhere."""
    geometry = ConvGeometry((1,), ((0, 0),), (1,))
    found = 0
    for kernel in narrow_peaks():
        upper = supremum(reduced(kernel, geometry), CPU).enclosure.upper
        found += upper < oracles.frequency_maximum(kernel, geometry, 1024)
    return found


def test_between_the_frequencies_only_the_cosine_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_free, "_FREE_FLOPS", 0.0)
    # Without the climb to a local maximum the lower end is poor; the upper end stays true ...
    monkeypatch.setattr(
        search, "climb_above", lambda symbol, at, group, _: peak_at(symbol, at, TURN, group)
    )
    monkeypatch.setattr(search, "climb", lambda symbol, at, group: peak_at(symbol, at, TURN, group))
    assert supremum_violations() == 0
    # ... unless a cell's centre is taken to speak for the whole cell.
    monkeypatch.setattr(Diamonds, "limits", lambda cells, upper: torch.full((len(cells),), upper))
    assert supremum_violations() > 0
