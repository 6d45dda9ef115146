"""Certificates against truth that is not rounded, and with their allowances taken away.

`oracles.ExactNorm` compares a norm with a number in integer arithmetic, so nothing here has a
tolerance. The last tests take the allowances for rounding away one by one, and false proofs
appear: none of them is there for show.
"""

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch

from lipaudit.device import Compute, choose
from lipaudit.operators import certify, dense
from lipaudit.operators.certify import gram, proved_norm, proves_below, svd_radius
from lipaudit.operators.dense import DenseOperator
from tests.operators import kernels
from tests.oracles import ExactNorm, values_outside

CPU = choose("cpu")
NORM_ONLY = choose("cpu", full_spectra=False)
Make = Callable[[str, int, int, int], torch.Tensor]
"""Makes a matrix from a family, rows, columns and a seed."""


def matrix_of(family: str, rows: int, columns: int, seed: int) -> torch.Tensor:
    """Return a matrix: the kernel of a family without spatial axes."""
    generator = torch.Generator().manual_seed(seed)
    return kernels.FAMILIES[family]((rows, columns, 1), generator)[:, :, 0].contiguous()


def complex_matrix_of(family: str, rows: int, columns: int, seed: int) -> torch.Tensor:
    """Return a complex matrix with parts from a family, turned by irrational phases."""
    real = matrix_of(family, rows, columns, seed)
    turns = matrix_of("noise", rows, columns, seed + 1)
    both: torch.Tensor = torch.complex(real * turns.cos(), real * turns.sin())
    return both


def floats_around(value: float, ulps: int) -> torch.Tensor:
    """Return the floats near one, in order."""
    below = [value]
    above = [value]
    for _ in range(ulps):
        below.append(math.nextafter(below[-1], 0.0))
        above.append(math.nextafter(above[-1], math.inf))
    return torch.tensor(below[::-1] + above[1:], dtype=torch.float64)


def bounds_near(matrix: torch.Tensor) -> torch.Tensor:
    """Return candidates within ulps of the norm, and ever farther above it."""
    near = float(torch.linalg.matrix_norm(matrix, 2))
    rising = near * (1.0 + 2.0 ** torch.arange(-52, -30, dtype=torch.float64))
    return torch.cat([floats_around(near, 6), rising])


def false_proofs(matrix: torch.Tensor, bounds: torch.Tensor) -> int:
    """Count the bounds below the true norm that are said to be proved."""
    grams, error = gram(matrix.unsqueeze(0))
    proved = proves_below(grams.expand(len(bounds), *grams.shape[1:]), error, bounds)
    # What is true for a bound is true for all larger ones: the least proved one tells all.
    truth = ExactNorm.of(matrix)
    found = 0
    for bound in bounds[proved].sort().values.tolist():
        if truth.is_at_most(bound):
            break
        found += 1
    return found


@pytest.mark.parametrize("size", range(1, 13))
@pytest.mark.parametrize("make", [matrix_of, complex_matrix_of])
def test_no_bound_below_the_norm_is_ever_proved(make: Make, size: int) -> None:
    for family in kernels.FAMILIES:
        for seed in range(4):
            matrix = make(family, size, size + seed % 2, seed)
            if not bool(matrix.any()):
                continue
            bounds = bounds_near(matrix)
            assert false_proofs(matrix, bounds) == 0
            # The farthest bound is one part in 2^31 above: that much every proof can do.
            grams, error = gram(matrix.unsqueeze(0))
            assert bool(proves_below(grams, error, float(bounds[-1])).all())


@pytest.mark.parametrize("family", kernels.FAMILIES)
def test_proved_norms_hold_the_truth(family: str) -> None:
    for seed in range(60):
        rows, columns = 1 + seed % 9, 1 + seed % 7
        for make in (matrix_of, complex_matrix_of):
            matrix = make(family, rows, columns, seed)
            truth = ExactNorm.of(matrix)
            found = proved_norm(matrix.unsqueeze(0))
            assert truth.is_at_most(found.hi)
            assert truth.is_at_least(found.lo)
            assert found.upper <= found.lower * (1 + 1e-11)
            assert truth.is_at_most(certify.crude_upper(matrix.unsqueeze(0)))


@pytest.mark.parametrize("compute", [CPU, NORM_ONLY], ids=["spectrum", "norm only"])
@pytest.mark.parametrize("family", kernels.FAMILIES)
def test_dense_layers_hold_the_truth(family: str, compute: Compute) -> None:
    for seed in range(60):
        matrix = matrix_of(family, 1 + seed % 11, 1 + seed % 8, seed)
        enclosure = DenseOperator(matrix, compute).norm().enclosure
        truth = ExactNorm.of(matrix)
        assert truth.is_at_most(enclosure.hi)
        assert truth.is_at_least(enclosure.lo)


@pytest.mark.parametrize("family", kernels.FAMILIES)
def test_gram_errors_hold_the_exact_difference(family: str) -> None:
    for seed in range(20):
        matrix = matrix_of(family, 3 + seed % 4, 5, seed)
        grams, error = gram(matrix.unsqueeze(0))
        assert ExactNorm.of(gram_difference(matrix, grams[0])).is_at_most(float(error))


def gram_difference(matrix: torch.Tensor, computed: torch.Tensor) -> torch.Tensor:
    """Return the true Gram matrix less the computed one, rounded only once at the end."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    exact = [[Fraction(value) for value in row] for row in wide.tolist()]
    return torch.tensor(
        [
            [
                float(sum(a * b for a, b in zip(first, second, strict=True)) - Fraction(stated))
                for second, stated in zip(exact, row, strict=True)
            ]
            for first, row in zip(exact, computed.tolist(), strict=True)
        ],
        dtype=torch.float64,
    )


# The constants at work: without them the same tests find false proofs.


def integer_violations() -> int:
    """Count false proofs on matrices whose Gram matrix is exact: only Cholesky itself rounds."""
    found = 0
    for seed in range(60):
        matrix = matrix_of("whole", 12, 14, seed)
        near = float(torch.linalg.matrix_norm(matrix, 2))
        bounds = floats_around(near, 4)
        grams = (matrix @ matrix.mT).expand(len(bounds), 12, 12)
        truth = ExactNorm.of(matrix)
        for bound, proved in zip(bounds.tolist(), proves_below(grams, 0.0, bounds), strict=True):
            found += bool(proved) and not truth.is_at_most(bound)
    return found


def test_the_cholesky_constant_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert integer_violations() == 0
    monkeypatch.setattr(certify, "cholesky_constant", lambda *_, **__: 0.0)
    # The 8u for the diagonal's own rounding would cover for it at this size.
    monkeypatch.setattr(certify, "UNIT", 0.0)
    assert integer_violations() > 0


@pytest.mark.parametrize("make", [matrix_of, complex_matrix_of])
def test_all_allowances_together_are_needed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def violations() -> int:
        return sum(
            false_proofs(matrix, floats_around(float(torch.linalg.matrix_norm(matrix, 2)), 6))
            for family in ("noise", "flat_symbol", "ones", "positive")
            for size in (1, 2, 3, 7, 12)
            for matrix in (make(family, size, size, seed) for seed in range(5))
        )

    assert violations() == 0
    monkeypatch.setattr(certify, "cholesky_constant", lambda *_, **__: 0.0)
    monkeypatch.setattr(certify, "product_constant", lambda *_, **__: 0.0)
    monkeypatch.setattr(certify, "UNIT", 0.0)
    monkeypatch.setattr(certify, "UNDERFLOW", 0.0)
    assert violations() > 0


def test_the_gram_error_is_needed() -> None:
    # A Gram matrix that is too small by a known amount, as rounding might leave it.
    for seed in range(20):
        matrix = matrix_of("noise", 5, 6, seed)
        grams, rounding = gram(matrix.unsqueeze(0))
        norm = float(torch.linalg.matrix_norm(matrix, 2))
        lost = 1e-10 * norm**2
        shrunk = grams - lost * torch.eye(5, dtype=torch.float64)
        bound = norm * (1 - 1e-11)
        assert not ExactNorm.of(matrix).is_at_most(bound)
        assert bool(proves_below(shrunk, rounding, bound).all())
        assert not bool(proves_below(shrunk, rounding + lost, bound).any())


def test_the_product_constant_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def violations() -> int:
        found = 0
        for seed in range(20):
            matrix = matrix_of("noise", 4, 6, seed)
            grams, error = gram(matrix.unsqueeze(0))
            difference = ExactNorm.of(gram_difference(matrix, grams[0]))
            found += not difference.is_at_most(float(error))
        return found

    assert violations() == 0
    monkeypatch.setattr(certify, "product_constant", lambda *_, **__: 0.0)
    assert violations() == 20


def radius_violations(size: int = 12) -> int:
    """Count true singular values outside the stated radius, through the public spectrum."""
    found = 0
    for family in ("noise", "flat_symbol", "positive", "rank_one"):
        for seed in range(4):
            matrix = matrix_of(family, size, size, seed)
            spectrum = DenseOperator(matrix, CPU).spectrum()
            assert spectrum is not None
            found += values_outside(spectrum.values.tolist(), spectrum.radius, [matrix])
    return found


def test_a_radius_a_thousand_times_too_small_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert radius_violations() == 0
    monkeypatch.setattr(dense, "svd_radius", lambda *factors: 1e-3 * svd_radius(*factors))
    assert radius_violations() > 0


POOR = 1e-6
"""How far the factors below are off: a million times more than LAPACK's."""


@pytest.mark.parametrize(
    ("in_left", "in_values", "in_right"),
    [(1.0, 1.0 + POOR, 1.0 + POOR), (1.0 + POOR, 1.0 / (1.0 + POOR), 1.0)],
    ids=["right factor too long", "left factor too long"],
)
def test_the_departure_from_orthogonality_is_needed(
    in_left: float, in_values: float, in_right: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A V = U S still holds for these factors, but not all of them are orthogonal.
    matrix = matrix_of("noise", 6, 6, 3)
    left, values, right = torch.linalg.svd(matrix)
    factors = (matrix[None], in_left * left[None], in_values * values[None], in_right * right[None])
    stated = factors[2][0].tolist()
    assert values_outside(stated, svd_radius(*factors), [matrix]) == 0
    monkeypatch.setattr(certify, "departure", lambda factor: torch.zeros(len(factor)))
    assert values_outside(stated, svd_radius(*factors), [matrix]) > 0


def test_the_residual_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = matrix_of("noise", 6, 6, 4)
    left, values, right = torch.linalg.svd(matrix)
    factors = (matrix[None], left[None], values[None] + POOR, right[None])
    stated = factors[2][0].tolist()
    assert values_outside(stated, svd_radius(*factors), [matrix]) == 0
    monkeypatch.setattr(certify, "_residual", lambda A, *_: torch.zeros(len(A)))
    assert values_outside(stated, svd_radius(*factors), [matrix]) > 0
