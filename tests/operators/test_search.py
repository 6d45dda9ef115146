"""The search of symbols that are flat, or nearly so: few cells, and never more than fit."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from lipaudit.device import choose
from lipaudit.operators import batches, search
from lipaudit.operators.cells import TURN, Diamonds
from lipaudit.operators.geometry import ConvGeometry
from lipaudit.operators.grams import PolynomialGrams
from lipaudit.operators.size_free import supremum
from lipaudit.operators.strided import reduced
from lipaudit.operators.symbol import Symbol

CPU = choose("cpu")


def shifts(groups: int, rank: int, noise: float = 0.0) -> Symbol:
    """Return one tap of 1 a group, each elsewhere, and a little of everything else."""
    kernel = torch.zeros(groups, 3**rank, dtype=torch.float64)
    kernel[torch.arange(groups), 5 * torch.arange(groups) % 3**rank] = 1.0
    generator = torch.Generator().manual_seed(groups)
    kernel += noise * torch.randn(kernel.shape, generator=generator, dtype=torch.float64)
    ones = (1,) * rank
    geometry = ConvGeometry(ones, ((1, 1),) * rank, ones, groups)
    return reduced(kernel.reshape(groups, 1, *(3,) * rank), geometry)


def turned(side: int) -> Symbol:
    """Return an orthogonal matrix, each of its columns in another tap of 3x3."""
    generator = torch.Generator().manual_seed(side)
    matrix = torch.linalg.qr(torch.randn(side, side, generator=generator, dtype=torch.float64)).Q
    kernel = torch.zeros(side, side, 9, dtype=torch.float64)
    for column in range(side):
        kernel[:, column, 5 * column % 9] = matrix[:, column]
    return reduced(kernel.reshape(side, side, 3, 3), ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1)))


def norms(symbol: Symbol, angles: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return the largest ‖P(θ)‖ of all groups for each row of angles, as the definition says."""
    phases = torch.exp(-1j * (angles @ torch.tensor(symbol.offsets, dtype=torch.float64).mT))
    matrices = torch.einsum("nt,tgij->ngij", phases, symbol.taps.to(torch.complex128))
    values: np.ndarray[Any, Any] = np.linalg.norm(matrices.numpy(), 2, axis=(-2, -1)).max(1)
    return values


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the numbers of cells that searches test, one for each round."""
    counts: list[int] = []
    real = batches.in_batches

    def counted(work: Callable[..., Any], count: int, **options: Any) -> list[Any]:
        counts.append(count)
        return real(work, count, **options)

    monkeypatch.setattr(search, "in_batches", counted)
    return counts


FLAT = {
    "depthwise 2-D": shifts(64, 2),
    "depthwise 3-D": shifts(4, 3),
    "nearly, 2-D": shifts(8, 2, 1e-4),
    "nearly, 3-D": shifts(2, 3, 1e-4),
    "orthogonal": turned(16),
}


@pytest.mark.parametrize("name", FLAT)
def test_flat_symbols_are_searched_with_few_cells(name: str, tested: list[int]) -> None:
    symbol = FLAT[name]
    generator = torch.Generator().manual_seed(1)
    angles = torch.rand(2000, len(symbol.radii), generator=generator, dtype=torch.float64) * 7
    truth = float(norms(symbol, angles).max())
    found = supremum(symbol, CPU).enclosure
    assert truth <= found.upper * (1 + 1e-14)
    assert found.upper <= found.lower * (1 + 1e-4)
    # By the lemma of the cosine they would be split to an angle of 0.013 everywhere: that makes
    # about 6·10^4 cells a group in two dimensions, and 10^7 in three.
    assert sum(tested) < 1e5


@pytest.mark.parametrize(
    "symbol", [shifts(2, 2, 1e-3), shifts(1, 3, 1e-3)], ids=["in two dimensions", "in three"]
)
def test_cells_are_no_more_than_fit(
    symbol: Symbol, tested: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_LEAST_BYTES", 0)
    # Without knowing how flat they are, for which the memory is not enough either.
    monkeypatch.setattr(search, "grams_of_known_variation", lambda *_: None)
    usual = supremum(symbol, CPU).enclosure if len(symbol.radii) == 2 else None
    tested.clear()
    little = replace(CPU, max_memory=1 << 22)
    found = supremum(symbol, little).enclosure
    assert max(tested) * search._BYTES_EACH <= little.max_memory
    line = torch.linspace(0, 2 * math.pi, 40, dtype=torch.float64)
    truth = float(norms(symbol, torch.cartesian_prod(*[line] * len(symbol.radii))).max())
    # Wider, but not false; the scan is somewhat below the truth.
    assert found.lower <= truth * (1 + 1e-3)
    assert truth <= found.upper <= truth * 1.5
    if usual is not None:
        assert usual.upper <= found.upper


def test_a_kernel_with_too_many_first_cells_is_bounded_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object) -> NoReturn:
        raise AssertionError("gigabytes of cells")

    monkeypatch.setattr(Diamonds, "covering", never)
    taps = torch.tensor([1.0, 2.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    wide = Symbol(taps.expand(2, 10, 1, 1), ((0, 0, 0), (150, 150, 150)))
    found = supremum(wide, replace(CPU, max_memory=64 << 20)).enclosure
    # |1 + 2z| is 3 at z = 1, where a climb that begins at 0 finds it.
    assert found.lower <= 3 <= found.upper


RADII = [(1.0,), (2.5,), (1.0, 1.0), (0.5, 2.0), (1.0, 0.5, 1.0)]


@pytest.mark.parametrize("radii", RADII)
@pytest.mark.parametrize("level", [0.0, 1e-3, 1.0])
def test_variation_and_ripple_hold(radii: tuple[float, ...], level: float) -> None:
    generator = torch.Generator().manual_seed(2)
    offsets = tuple(itertools.product(*(range(int(2 * r) + 1) for r in radii)))
    taps = torch.randn(len(offsets), 2, 3, 2, generator=generator, dtype=torch.float64) * level
    taps[0] += torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)
    symbol = Symbol(taps, offsets)
    grams = PolynomialGrams(symbol, CPU)
    points = torch.randint(TURN, (300, len(radii)), generator=generator)
    steps = torch.randint(TURN // 5, (300, len(radii)), generator=generator) - TURN // 10
    weights = torch.tensor(symbol.radii, dtype=torch.float64) * (2 * math.pi / TURN)
    lengths = steps.abs().to(torch.float64) @ weights

    def gram(frequencies: torch.Tensor, group: int) -> torch.Tensor:
        matrices = symbol.at(frequencies, TURN)[:, group]
        return matrices.mH @ matrices

    for group in range(2):
        here, there = gram(points, group), gram((points + steps) % TURN, group)
        moved = torch.linalg.matrix_norm(there - here, 2)
        assert bool((moved <= grams.variation * lengths + 1e-12).all())
        constant = (taps[:, group].mT @ taps[:, group]).sum(0)
        assert float(torch.linalg.matrix_norm(here - constant, 2).max()) <= grams.ripple + 1e-12
        # The lemma of the search, at the largest of a fine scan.
        scan = torch.randint(TURN, (20_000, len(radii)), generator=generator)
        squares = torch.linalg.matrix_norm(gram(scan, group), 2)
        peak = scan[squares.argmax()]
        around = torch.linalg.matrix_norm(gram((peak + steps) % TURN, group), 2)
        assert bool(
            (around >= squares.max() - 2 * lengths.square() * grams.ripple - 1e-2 * level).all()
        )
