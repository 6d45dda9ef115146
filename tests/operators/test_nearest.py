"""The nearest kernel: against plain Dykstra on fine grids, and where its distance is a formula."""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import lipaudit
from lipaudit.device import CPU, Compute
from lipaudit.operators.clipped import Clipped, clipped_kernel
from lipaudit.operators.geometry import ConvGeometry, PaddingMode
from tests.oracles import (
    SymbolMap,
    frequency_maximum,
    nearest_by_dykstra,
    singular_values,
    wrapped_matrix,
)

COMPUTE = Compute(CPU)
CIRCULAR = PaddingMode.CIRCULAR
_FINE = {1: 2048, 2: 200, 3: 40}
"""Points an axis for the norm at every size: between them it rises by less than 1e-3."""


def geometry(
    rank: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    low: int = 0,
    high: int = 0,
    mode: PaddingMode = PaddingMode.ZEROS,
    transposed: bool = False,
) -> ConvGeometry:
    return ConvGeometry(
        (stride,) * rank,
        ((low, high),) * rank,
        (dilation,) * rank,
        groups,
        mode,
        transposed,
        (0,) * rank if transposed else (),
    )


@dataclass(frozen=True)
class Case:
    """A kernel's shape and geometry, its torus, or how fine a grid stands for every size."""

    shape: tuple[int, ...]
    geometry: ConvGeometry
    points: int = 0
    size: int = 0
    accuracy: float = 4e-3

    @property
    def in_shape(self) -> tuple[int, ...] | None:
        inner = self.shape[1] * self.geometry.groups
        return (inner, *(self.size,) * self.geometry.rank) if self.size else None

    @property
    def symbols(self) -> SymbolMap:
        """The torus of the operator, or the one that stands for every size."""
        g = self.geometry
        sizes = (self.points or self.size // g.stride[0],) * g.rank
        return SymbolMap.of(self.shape, g, sizes)

    def norm(self, kernel: torch.Tensor) -> float:
        if self.size:
            return self.symbols.norm(kernel)
        g = self.geometry
        return frequency_maximum(kernel, g, _FINE[g.rank])

    def kernel(self) -> torch.Tensor:
        torch.manual_seed(1)
        return torch.randn(self.shape, dtype=torch.float64)

    def clipped(self, kernel: torch.Tensor, limit: float) -> Clipped:
        found = clipped_kernel(kernel, self.geometry, self.in_shape, limit, COMPUTE)
        assert found is not None
        return found


CASES = {
    "line": Case((3, 2, 3), geometry(1), 128),
    "long": Case((2, 2, 7), geometry(1), 128),
    "one channel": Case((1, 1, 5), geometry(1), 256),
    "image": Case((2, 3, 2, 2), geometry(2), 16, accuracy=2e-2),
    "volume": Case((1, 2, 2, 1, 2), geometry(3), 12, accuracy=3e-2),
    "stride": Case((3, 2, 4), geometry(1, stride=2), 96),
    "odd stride": Case((2, 1, 3), geometry(1, stride=2), 96),
    "strided image": Case((2, 1, 3, 3), geometry(2, stride=2), 12, accuracy=2e-2),
    "dilation": Case((2, 2, 3), geometry(1, dilation=3), 192),
    "groups": Case((4, 2, 3), geometry(1, groups=2), 192),
    "transposed": Case((3, 2, 4), geometry(1, stride=2, transposed=True), 96),
    "one tap": Case((3, 2, 1, 1), geometry(2), 1),
    "circular": Case((3, 2, 3), geometry(1, low=1, high=1, mode=CIRCULAR), size=7),
    "circular image": Case((2, 3, 3, 3), geometry(2, low=1, high=1, mode=CIRCULAR), size=6),
    "circular volume": Case((2, 1, 2, 2, 2), geometry(3, high=1, mode=CIRCULAR), size=4),
    "circular stride": Case((2, 2, 3), geometry(1, stride=2, low=1, high=1, mode=CIRCULAR), size=8),
    "circular dilation": Case(
        (2, 2, 3), geometry(1, dilation=2, low=2, high=2, mode=CIRCULAR), size=7
    ),
    "circular groups": Case((4, 1, 3), geometry(1, groups=2, low=1, high=1, mode=CIRCULAR), size=6),
    "twice around": Case((2, 2, 4), geometry(1, low=1, high=2, mode=CIRCULAR), size=2),
}


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("name", CASES)
def test_the_distance_is_that_of_dykstra(name: str, share: float) -> None:
    case = CASES[name]
    kernel = case.kernel()
    limit = share * case.norm(kernel)
    at_least, at_most = nearest_by_dykstra(
        kernel, case.symbols, limit, case.norm, accuracy=case.accuracy
    )
    found = case.clipped(kernel, limit)
    distance = float((found.weight - kernel).norm())
    assert at_least * (1 - 1e-9) <= distance <= 1.01 * at_most
    assert distance <= (1.0 - share) * float(kernel.norm()) * (1.0 + 1e-9)
    assert 0.97 * at_least <= found.least <= 1.001 * at_most
    assert case.norm(found.weight) <= limit * (1.0 + 1e-9)


def test_a_kernel_that_meets_itself_on_the_torus() -> None:
    """Three taps on two points: (F₀, F₁) = (k₀ + k₂, k₁) must have |F₀| + |F₁| <= c."""
    one = Case((1, 1, 3), geometry(1, low=1, high=1, mode=CIRCULAR), size=2)
    kernel = torch.tensor([[[0.9, -0.7, 0.4]]], dtype=torch.float64)
    for limit in (0.2, 1.0, 1.9):
        found = one.clipped(kernel, limit)
        matrix = wrapped_matrix(found.weight, one.geometry, (2,))
        assert singular_values(matrix)[0] <= limit * (1.0 + 1e-9)
        # A change of F₀ costs half as much as one of F₁: it is shared by two taps.
        share = np.linspace(-limit, limit, 200_001)
        square = (share - 1.3) ** 2 / 2 + (-(limit - np.abs(share)) + 0.7) ** 2
        least = math.sqrt(square.min())
        assert least * (1 - 1e-9) <= float((found.weight - kernel).norm()) <= 1.01 * least
        assert found.least <= least * 1.001


@pytest.mark.parametrize("exponent", [-300, 300])
@pytest.mark.parametrize("name", ["line", "circular", "image", "one tap"])
def test_the_size_of_the_numbers_does_not_matter(name: str, exponent: int) -> None:
    case = CASES[name]
    kernel = case.kernel()
    limit = 0.6 * case.norm(kernel)
    scale = math.ldexp(1.0, round(exponent * math.log2(10)))
    usual, scaled = case.clipped(kernel, limit), case.clipped(kernel * scale, limit * scale)
    torch.testing.assert_close(scaled.weight / scale, usual.weight, rtol=1e-9, atol=1e-12)
    assert scaled.least / scale == pytest.approx(usual.least, rel=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_zeros_stay(name: str) -> None:
    case = CASES[name]
    kernel = torch.zeros(case.shape, dtype=torch.float64)
    found = case.clipped(kernel, 0.5)
    assert torch.equal(found.weight, kernel)
    assert found.least == 0.0


def test_a_limit_far_below_the_norm_leaves_almost_nothing() -> None:
    for name, share in itertools.product(("line", "circular", "stride"), (1e-3, 1e-9)):
        case = CASES[name]
        kernel = case.kernel()
        limit = share * case.norm(kernel)
        found = case.clipped(kernel, limit)
        assert 0.5 * limit <= case.norm(found.weight) <= limit * (1.0 + 1e-9)
        assert float((found.weight - kernel).norm()) <= (1.0 - 0.7 * share) * float(kernel.norm())


def test_a_kernel_below_the_limit_keeps_its_bytes(tmp_path: Path) -> None:
    kernel = CASES["image"].kernel()
    torch.save({"conv.weight": kernel}, tmp_path / "in.pt")
    norm = CASES["image"].norm(kernel)
    report = lipaudit.clip(tmp_path / "in.pt", to=norm * 4.0, output=tmp_path / "out.pt")
    assert (tmp_path / "out.pt").read_bytes() == (tmp_path / "in.pt").read_bytes()
    assert not [change for change in report.changes if change.tensors]
