"""Gate weights: norms of single matrices and of sums of scaled rows."""

import math

import pytest
import torch

from lipaudit.enclosure import ONE, ZERO, Enclosure, Rigor
from lipaudit.layers.gate_weights import Stack, norm_of


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_norm_covers_what_its_entries_may_be_off_by() -> None:
    exact = drawn(0, 5, 4)
    signs = drawn(1, 5, 4).sign()
    stored = exact * (1 + 0.01 * signs)
    truth = float(torch.linalg.matrix_norm(exact, 2))
    found = norm_of(stored, 0.01)
    assert found.rigor is Rigor.PROVED
    assert found.lower <= truth <= found.upper
    assert norm_of(stored, math.inf).rigor is Rigor.NUMERICAL
    assert not norm_of(stored / 0, 0.0).is_finite


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.25, 3.0, 1.0), (0.0, 1.0, 0.0)])
def test_rows_scaled_and_added_stay_below(seed: int, weights: tuple[float, ...]) -> None:
    matrices = [drawn(3 * seed + at, 4, 6) * scale for at, scale in enumerate((1.0, 0.01, 30.0))]
    found = Stack.of(matrices, 0.0).weighted([Enclosure.exactly(w) for w in weights])
    for draw in range(20):
        signs = [drawn(100 + 3 * draw + at, 4).sign() for at in range(3)]
        parts = (w * s[:, None] * m for w, s, m in zip(weights, signs, matrices, strict=True))
        norm = float(torch.linalg.matrix_norm(torch.stack(list(parts)).sum(0), 2))
        assert norm <= found.upper * (1 + 1e-12)
    apart = sum(w * float(torch.linalg.matrix_norm(m, 2))
                for w, m in zip(weights, matrices, strict=True))  # fmt: skip
    assert found.upper <= apart * (1 + 1e-9)


def test_matrices_that_see_different_inputs_share_the_bound() -> None:
    # Row by row (a, b)·(x, y) with |a| = |b| = 1: √2 and not 2.
    one, two = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double()
    assert Stack.of([one, two], 0.0).weighted([ONE, ONE]).upper == pytest.approx(math.sqrt(2))


def test_a_matrix_of_zeros_takes_no_part() -> None:
    one, none = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    stack = Stack.of([one, none], 0.0)
    assert stack.weighted([ONE, Enclosure.exactly(9)]).upper == pytest.approx(1.0)
    assert stack.weighted([ZERO, ONE]).is_zero
