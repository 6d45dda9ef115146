"""The ball: what is taken away is U (Σ - c)₊ Vᴴ by an independent SVD."""

import numpy as np
import pytest
import torch

from lipaudit.device import CPU, Compute
from lipaudit.operators.ball import beyond, excess

COMPUTE = Compute(CPU)


def sticking_out(matrix: torch.Tensor, limit: float) -> torch.Tensor:
    """Return the same from NumPy's SVD."""
    left, values, right = np.linalg.svd(matrix.numpy(), full_matrices=False)
    return torch.from_numpy((left * np.maximum(values - limit, 0)) @ right)


@pytest.mark.parametrize(
    "shape", [(5, 4, 7), (5, 7, 4), (3, 1, 6), (3, 6, 1), (40, 32, 32), (2, 110, 100)]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.complex64], ids=str)
@pytest.mark.parametrize("limit", [0.3, 1.0, 3.0, 50.0])
def test_the_excess_is_that_of_an_svd(
    shape: tuple[int, ...], dtype: torch.dtype, limit: float
) -> None:
    torch.manual_seed(len(shape) + shape[1])
    matrices = torch.randn(shape, dtype=dtype)
    matrices[0] *= 1e-3  # one that lies inside
    expected = torch.stack([sticking_out(matrix, limit) for matrix in matrices])
    tolerance = 2e-4 if dtype is torch.complex64 else 1e-7
    torch.testing.assert_close(
        excess(matrices, limit, COMPUTE), expected.to(dtype), rtol=0, atol=tolerance
    )


def test_nothing_sticks_out_of_zero_or_empty_matrices() -> None:
    assert not excess(torch.zeros(3, 2, 2), 1.0, COMPUTE).any()
    assert excess(torch.zeros(0, 2, 2), 1.0, COMPUTE).shape == (0, 2, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("limit", [0.5, 4.0, 6.0, 9.0, 60.0])
def test_no_norm_is_above_what_is_said_of_it(dtype: torch.dtype, limit: float) -> None:
    torch.manual_seed(2)
    sizes = torch.logspace(-1, 1, 30, dtype=torch.float64).to(dtype)
    matrices = torch.randn(30, 6, 9, dtype=dtype) * sizes[:, None, None]
    truth = torch.linalg.matrix_norm(matrices, 2)
    found = beyond(matrices, limit, COMPUTE)
    outside = truth > limit
    assert (found.norms >= truth * (1 - 1e-12)).all()
    torch.testing.assert_close(found.norms[outside], truth[outside], rtol=1e-9, atol=0)
    assert found.excess[outside].flatten(1).abs().amax(1).gt(0).all()
    assert not found.excess[~outside].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64], ids=str)
def test_a_limit_far_below_the_norm_is_met(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    matrices = torch.randn(3, 6, 5, dtype=dtype) * 1e9
    found = beyond(matrices, 1.0, COMPUTE)
    expected = torch.stack([sticking_out(matrix, 1.0) for matrix in matrices])
    torch.testing.assert_close(found.excess, expected.to(dtype), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("limit", [0.3, 2.0, 50.0])
def test_sizes_are_the_sums_of_what_is_taken_away(limit: float) -> None:
    torch.manual_seed(4)
    matrices = torch.randn(5, 6, 4, dtype=torch.complex128)
    values = torch.from_numpy(np.linalg.svd(matrices.numpy(), compute_uv=False))
    expected = (values - limit).clamp(min=0).sum(-1)
    torch.testing.assert_close(beyond(matrices, limit, COMPUTE).sizes, expected)
