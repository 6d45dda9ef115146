"""Golub-Kahan-Lanczos trial vectors."""

import pytest
import torch

from lipaudit.operators import krylov


def stretch(matrix: torch.Tensor, steps: int, max_memory: int = 1 << 30) -> float:
    start = krylov.scrambled((matrix.shape[1],), matrix.device)
    vector = krylov.top_vector(
        lambda x: matrix @ x, lambda y: matrix.mT @ y, start, steps=steps, max_memory=max_memory
    )
    assert float(torch.linalg.vector_norm(vector)) == pytest.approx(1.0)
    return float(torch.linalg.vector_norm(matrix @ vector))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(50, 50), (20, 80), (80, 20), (1, 5), (5, 1)])
def test_finds_the_norm_from_below(shape: tuple[int, int]) -> None:
    matrix = noise(*shape)
    truth = float(torch.linalg.matrix_norm(matrix, 2))
    assert truth * (1 - 1e-8) <= stretch(matrix, 60) <= truth * (1 + 1e-13)


def test_more_steps_never_lose() -> None:
    matrix = noise(60, 60)
    found = [stretch(matrix, steps) for steps in (1, 2, 4, 8, 16, 32)]
    assert found == sorted(found)


def test_stops_where_the_value_rises_no_more() -> None:
    matrix = noise(300, 300)
    truth = float(torch.linalg.matrix_norm(matrix, 2))
    calls = 0

    def apply(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return matrix @ x

    start = krylov.scrambled((300,), matrix.device)
    vector = krylov.top_vector(
        apply, lambda y: matrix.mT @ y, start, steps=250, max_memory=1 << 30, gain=1e-9
    )
    assert float(torch.linalg.vector_norm(matrix @ vector)) >= truth * (1 - 1e-8)
    assert 20 <= calls < 120


def test_restarts_when_memory_is_short() -> None:
    matrix = noise(40, 40)
    truth = float(torch.linalg.matrix_norm(matrix, 2))
    assert stretch(matrix, 200, max_memory=1) >= truth * (1 - 1e-3)


@pytest.mark.parametrize("matrix", [torch.eye(5), torch.zeros(4, 4), torch.ones(3, 3)])
def test_invariant_spaces_end_early(matrix: torch.Tensor) -> None:
    truth = float(torch.linalg.matrix_norm(matrix, 2))
    assert stretch(matrix.to(torch.float64), 30) == pytest.approx(truth)
