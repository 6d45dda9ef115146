"""The largest singular values of maps that are too large to be decomposed, from below."""

from dataclasses import replace

import pytest
import torch

from lipaudit.device import Compute
from lipaudit.operators.convolution import convolution
from lipaudit.operators.dense import BlockDiagonalOperator, DenseOperator
from lipaudit.operators.geometry import ConvGeometry, PaddingMode
from lipaudit.operators.leading import proved_from_below
from tests import oracles

LITTLE = Compute(torch.device("cpu"), max_memory=3 << 16)
"""Room for a Krylov space, not for decompositions."""


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check(values: tuple[float, ...], truth: torch.Tensor) -> None:
    """None above the truth; the first ones close to it."""
    assert len(values) == 10
    assert list(values) == sorted(values, reverse=True)
    for value, exact in zip(values, truth.tolist(), strict=False):
        assert value <= exact * (1 + 1e-14)
    assert values[0] >= truth[0] * (1 - 1e-3)
    assert values[4] >= truth[4] * 0.95


GEOMETRIES = [
    ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1)),
    ConvGeometry((2, 1), ((0, 2), (1, 0)), (1, 2)),
    ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1), groups=2),
    ConvGeometry((2, 2), ((1, 1), (1, 1)), (1, 1), transposed=True),
    ConvGeometry((1, 1), ((2, 2), (2, 2)), (1, 1), mode=PaddingMode.REFLECT),
    ConvGeometry((2, 2), ((1, 1), (1, 1)), (1, 1), mode=PaddingMode.CIRCULAR),
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_convolution_too_large_for_its_matrix(geometry: ConvGeometry) -> None:
    kernel = noise(4, 4 // geometry.groups, 3, 3)
    # An odd size: a stride of 2 does not divide it.
    in_shape = (4, 9, 9)
    found = convolution(kernel, geometry, in_shape, replace(LITTLE, max_memory=1 << 20)).leading()
    assert found is not None
    check(found.values, torch.linalg.svdvals(oracles.conv_matrix(kernel, geometry, in_shape)))


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_dense_and_block_diagonal(scale: float) -> None:
    # A spectrum that falls off: what Krylov methods can resolve in few steps.
    left, right = torch.linalg.qr(noise(80, 80)).Q, torch.linalg.qr(noise(90, 90, seed=2)).Q
    matrix = left @ torch.diag(0.8 ** torch.arange(80, dtype=torch.float64)) @ right[:80]
    found = DenseOperator(matrix * scale, LITTLE).leading()
    assert found is not None
    check(found.values, torch.linalg.svdvals(matrix) * scale)
    blocks = torch.stack([matrix, matrix * 0.7])
    stacked = BlockDiagonalOperator(blocks * scale, LITTLE).leading()
    assert stacked is not None
    check(stacked.values, torch.linalg.svdvals(blocks).flatten().sort(descending=True)[0] * scale)


def test_where_the_spectrum_is_known_there_is_nothing_to_add() -> None:
    ample = replace(LITTLE, max_memory=1 << 30)
    assert DenseOperator(noise(20, 30), ample).leading() is None
    geometry = ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1))
    assert convolution(noise(2, 2, 3, 3), geometry, (2, 6, 6), ample).leading() is None
    norms_only = replace(LITTLE, full_spectra=False)
    assert convolution(noise(4, 4, 3, 3), geometry, (4, 9, 9), norms_only).leading() is None


def test_vectors_that_are_not_orthonormal_prove_less() -> None:
    # Twice the same vector, too long: A X has a norm that A never has.
    matrix = noise(6, 6)
    vectors = 1.1 * torch.linalg.svd(matrix).Vh[:1].mT.repeat(1, 2)
    (top, second) = proved_from_below(vectors, matrix @ vectors, 0.0)
    truth = torch.linalg.svdvals(matrix)
    assert top <= truth[0]
    assert second <= truth[1]
