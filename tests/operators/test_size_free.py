"""The supremum over frequencies, the symbol behind it, and its rounding bounds."""

import math
from dataclasses import replace

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipaudit.device import choose
from lipaudit.errors import NotCertified
from lipaudit.operators import search
from lipaudit.operators.cells import TURN
from lipaudit.operators.geometry import ConvGeometry
from lipaudit.operators.grams import AbstractGrams, DirectGrams, PolynomialGrams
from lipaudit.operators.size_free import supremum
from lipaudit.operators.strided import polyphase, reduced
from lipaudit.operators.symbol import ROOT_ERROR, roots

CPU = choose("cpu")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def plain(rank: int, *, stride: int = 1, dilation: int = 1, groups: int = 1) -> ConvGeometry:
    return ConvGeometry((stride,) * rank, ((0, 0),) * rank, (dilation,) * rank, groups)


@given(st.integers(1, 1 << 41), st.integers(0, 10**6), st.integers(-300, 300))
def test_roots_of_unity_are_as_good_as_stated(period: int, step: int, offset: int) -> None:
    frequency = torch.tensor([[step % period]])
    cosine, sine = roots(((offset,),), frequency, period)
    with mpmath.workdps(50):
        angle = 2 * mpmath.pi * ((step % period) * offset % period) / period
        assert abs(mpmath.cos(angle) - float(cosine)) <= ROOT_ERROR
        assert abs(mpmath.sin(angle) - float(sine)) <= ROOT_ERROR


@given(st.integers(1, 1 << 31), st.integers(0, 10**6), st.integers(-(1 << 62), 1 << 62))
def test_offsets_of_any_size_are_reduced_first(period: int, step: int, offset: int) -> None:
    cosine, sine = roots(((offset,),), torch.tensor([[step % period]]), period)
    with mpmath.workdps(50):
        angle = 2 * mpmath.pi * ((step % period) * offset % period) / period
        assert abs(mpmath.cos(angle) - float(cosine)) <= ROOT_ERROR
        assert abs(mpmath.sin(angle) - float(sine)) <= ROOT_ERROR


@pytest.mark.parametrize(("period", "offset"), [(1 << 54, 1), (1 << 70, 1), (1 << 40, 1 << 30)])
def test_arguments_that_would_not_be_exact_are_refused(period: int, offset: int) -> None:
    with pytest.raises(NotCertified, match="too fine"):
        roots(((offset,),), torch.tensor([[1]]), period)


@pytest.mark.parametrize("way", [DirectGrams, PolynomialGrams])
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)),
    st.integers(1, 3),
    st.integers(0, 10**6),
)
def test_symbol_and_gram_errors_hold(
    way: type[AbstractGrams], shape: tuple[int, int, int], stride: int, seed: int
) -> None:
    symbol = polyphase(noise(*shape, seed=seed), plain(1, stride=stride, dilation=2))
    m = seed % TURN
    zero = torch.tensor([0])
    point = torch.tensor([[m]])
    grams = way(symbol, CPU)
    computed = symbol.at(point, TURN, zero)[0]
    gram = grams.at(point, TURN, zero, CPU.device)[0]
    with mpmath.workdps(40):
        exact = mpmath.zeros(*symbol.taps.shape[2:])
        for tap, (offset,) in zip(symbol.taps[:, 0], symbol.offsets, strict=True):
            root = mpmath.expjpi(-2 * mpmath.mpf(m * offset) / TURN)
            exact += mpmath.matrix(tap.tolist()) * root
        assert mpmath.mnorm(exact - mpmath.matrix(computed.tolist()), "f") <= symbol.error
        wide = exact if exact.rows <= exact.cols else exact.H
        assert mpmath.mnorm(wide * wide.H - mpmath.matrix(gram.tolist()), "f") <= grams.error


def scanned(kernel: torch.Tensor, geometry: ConvGeometry, points: int) -> float:
    """Return the largest norm of the symbol on a fine grid, a lower bound of the supremum."""
    symbol = polyphase(kernel, geometry)
    axes = [torch.arange(points)] * geometry.rank
    grid = torch.cartesian_prod(*axes).reshape(-1, geometry.rank)
    return float(torch.linalg.matrix_norm(symbol.at(grid, points), 2).max())


@pytest.mark.parametrize(
    ("shape", "stride", "dilation", "groups"),
    [
        ((1, 1, 3), 1, 1, 1),
        ((2, 3, 4), 1, 1, 1),
        ((3, 2, 5), 2, 1, 1),
        ((3, 2, 5), 2, 3, 1),
        ((3, 2, 4), 4, 2, 1),
        ((4, 1, 3), 1, 2, 4),
        ((2, 2, 3, 3), 1, 1, 1),
        ((4, 2, 3, 2), 2, 1, 2),
        ((2, 2, 1, 1), 1, 1, 1),
        ((2, 1, 2, 2, 2), 1, 1, 1),
    ],
)
def test_supremum_is_between_a_fine_scan_and_its_tolerance(
    shape: tuple[int, ...], stride: int, dilation: int, groups: int
) -> None:
    rank = len(shape) - 2
    geometry = plain(rank, stride=stride, dilation=dilation, groups=groups)
    kernel = noise(*shape)
    points = {1: 2000, 2: 128, 3: 24}[rank]
    seen = scanned(kernel, geometry, points)
    found = supremum(reduced(kernel, geometry), CPU).enclosure
    assert seen <= found.upper
    # The scan misses the maximum by at most cos of its half step (the lemma in cells).
    radius = sum(polyphase(kernel, geometry).radii)
    assert found.lower <= seen / math.cos(min(1.5, radius * math.pi / points)) * (1 + 1e-12)
    assert found.upper <= found.lower * (1 + search.TOLERANCE)


def test_second_difference_has_supremum_4() -> None:
    kernel = torch.tensor([[[-1.0, 2.0, -1.0]]], dtype=torch.float64)
    assert supremum(reduced(kernel, plain(1)), CPU).enclosure.holds(4)


def orthogonal(channels: int, size: int) -> torch.Tensor:
    """Return a kernel with an orthogonal symbol at every frequency: blocks of shifts.

    Products of Q(I - R + R·shift) with projections R are orthogonal (Li et al. 2019, section 4).
    """
    kernel = torch.zeros(channels, channels, size, size, dtype=torch.float64)
    kernel[:, :, 0, 0] = torch.linalg.qr(noise(channels, channels)).Q
    for axis in (2, 3):
        for seed in range(1, size):
            basis = torch.linalg.qr(noise(channels, channels, seed=seed + 10 * axis)).Q
            moves = basis[:, : channels // 2] @ basis[:, : channels // 2].mT
            stays = torch.eye(channels, dtype=torch.float64) - moves
            kernel = torch.einsum("ab,bcij->acij", stays, kernel) + torch.einsum(
                "ab,bcij->acij", moves, kernel.roll(1, axis)
            )
    return kernel


@pytest.mark.parametrize("channels", [4, 48])
def test_orthogonal_kernels_are_flat_and_known_at_once(channels: int) -> None:
    kernel = orthogonal(channels, 3)
    scan = scanned(kernel, plain(2), 8)
    assert scan == pytest.approx(1, abs=1e-12)
    found = supremum(reduced(kernel, plain(2)), CPU).enclosure
    assert scan * (1 - 1e-13) <= found.upper <= 1 + 1e-4
    # Stored in float32 it is a little off, and no longer exactly flat.
    single = kernel.to(torch.float32).to(torch.float64)
    found = supremum(reduced(single, plain(2)), CPU).enclosure
    assert scanned(single, plain(2), 32) * (1 - 1e-13) <= found.upper <= 1 + 2e-4


def test_taps_without_weight_do_not_widen_the_support() -> None:
    kernel = torch.zeros(4, 4, 3, 3, dtype=torch.float64)
    kernel[:, :, 0, 1] = torch.eye(4)
    symbol = reduced(kernel, plain(2))
    assert max(symbol.radii) == 0
    found = supremum(symbol, CPU).enclosure
    assert found.lower <= 1 <= found.upper <= 1 + 1e-4


def test_a_tiny_work_limit_still_gives_a_true_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = noise(3, 3, 5, 5)
    seen = scanned(kernel, plain(2), 64)
    for flops in (0.0, 1e6, 3e6, 1e7, 3e7):
        monkeypatch.setattr(search, "_FLOPS", flops)
        found = supremum(reduced(kernel, plain(2)), CPU).enclosure
        assert seen <= found.upper
        assert found.lower <= seen * 1.01


def test_zero_kernel_is_exactly_0() -> None:
    found = supremum(reduced(torch.zeros(2, 2, 3, dtype=torch.float64), plain(1)), CPU)
    assert found.enclosure.is_zero


def test_little_memory_changes_no_truth() -> None:
    kernel = noise(4, 4, 3, 3)
    usual = supremum(reduced(kernel, plain(2)), CPU).enclosure
    small = supremum(reduced(kernel, plain(2)), replace(CPU, max_memory=1 << 14)).enclosure
    assert small.upper == pytest.approx(usual.upper)
    # One matrix at a time is the least that can be done.
    none = supremum(reduced(kernel, plain(2)), replace(CPU, max_memory=1)).enclosure
    assert 0 < none.lower <= usual.upper
    assert usual.lower <= none.upper
