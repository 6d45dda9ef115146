"""Ranks are those of the matrix, not of the rounding of a method."""

import numpy as np
import pytest
import torch

from lipaudit.device import choose
from lipaudit.enclosure import Rigor
from lipaudit.operators import dense, torus_spectrum
from lipaudit.operators.convolution import as_circular, convolution
from lipaudit.operators.dense import DenseOperator
from lipaudit.operators.geometry import ConvGeometry
from lipaudit.operators.scaled import ScaledOperator
from lipaudit.operators.spectrum import Spectrum

CPU = choose("cpu")
PLAIN = ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def of_rank(rank: int, out: int, inner: int, size: int, *, seed: int = 0) -> torch.Tensor:
    """Return a kernel whose symbol has that rank at every frequency."""
    left, right = noise(out, rank, seed=seed), noise(rank, inner, size, size, seed=seed + 1)
    return torch.einsum("or,rihw->oihw", left, right)


@pytest.mark.parametrize(
    ("rank", "shape", "n"),
    [
        (4, (32, 32, 3), 32),
        (1, (2, 2, 3), 16),
        (1, (4, 4, 3), 16),
        (5, (64, 24, 3), 9),
        (2, (12, 20, 5), 12),
    ],
)
def test_rank_of_a_torus_from_gram_matrices(
    monkeypatch: pytest.MonkeyPatch, rank: int, shape: tuple[int, int, int], n: int
) -> None:
    monkeypatch.setattr(torus_spectrum, "_QUICK", 0.0)
    out, inner, size = shape
    kernel = of_rank(rank, out, inner, size)
    operator = as_circular(convolution(kernel, PLAIN, (inner, n, n), CPU))
    for scale in (1.0, 1e-200):
        spectrum = ScaledOperator(operator, scale).spectrum()
        assert spectrum is not None
        assert "Gram" in spectrum.method
        assert spectrum.rigor is Rigor.NUMERICAL
        assert spectrum.numerical_rank == rank * n * n
        # One part in a million is left to the layer itself.
        assert 2e-8 * spectrum.largest <= spectrum.tolerance <= 1e-6 * spectrum.largest


def test_rank_of_a_matrix_from_its_gram_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = noise(400, 20) @ noise(20, 300, seed=1)
    proved = DenseOperator(matrix, CPU).spectrum()
    monkeypatch.setattr(dense, "SVD_FLOPS", 1.0)
    computed = DenseOperator(matrix, CPU).spectrum()
    assert proved is not None
    assert computed is not None
    assert (proved.rigor, computed.rigor) == (Rigor.PROVED, Rigor.NUMERICAL)
    assert proved.numerical_rank == computed.numerical_rank == 20
    assert proved.tolerance < 1e-9 * proved.largest
    # What is really there is counted: this one is well above the noise.
    small = matrix + 1e-6 * proved.largest * torch.eye(400, 300, dtype=torch.float64)
    full = DenseOperator(small, CPU).spectrum()
    assert full is not None
    assert full.numerical_rank == 300


def test_what_may_be_0_is_not_counted_in_a_proved_rank() -> None:
    values = np.array([1.0, 1e-3, 1e-5])
    spectrum = Spectrum(values, 3, 3, Rigor.PROVED, radius=1e-4, method="")
    assert spectrum.tolerance == 1e-4
    assert spectrum.numerical_rank == 2
