"""The proofs: they hold the many-digit truth, and they fail when a constant is wrong."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipaudit.errors import NotCertified
from lipaudit.operators import certify
from lipaudit.operators.certify import UNIT, gamma, proved_norm, proves_below, svd_radius
from tests import oracles


def matrices(kind: str, rows: int, columns: int, seed: int) -> torch.Tensor:
    """Return a random or adversarial matrix."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    if kind == "flat":
        square = torch.randn(9, 9, generator=generator, dtype=torch.float64)
        factor: torch.Tensor = torch.linalg.qr(square).Q
        return factor[:rows, :columns].contiguous()
    if kind == "rank one":
        return torch.outer(noise[:, 0], noise[0])
    if kind == "graded":
        return noise * 10.0 ** -torch.arange(columns, dtype=torch.float64)
    if kind == "ones":
        return torch.ones(rows, columns, dtype=torch.float64)
    return noise


KINDS = ("noise", "flat", "rank one", "graded", "ones")
SIZES = st.integers(1, 6)


@given(st.sampled_from(KINDS), SIZES, SIZES, st.integers(0, 10**6))
def test_norm_encloses_the_50_digit_truth(kind: str, rows: int, columns: int, seed: int) -> None:
    matrix = matrices(kind, rows, columns, seed)
    truth = oracles.exact_singular_values(matrix)[0]
    found = proved_norm(matrix.unsqueeze(0))
    with mpmath.workdps(50):
        assert mpmath.mpf(str(found.lo)) <= truth <= mpmath.mpf(str(found.hi))
    assert found.upper <= found.lower * (1 + 1e-11)


@given(st.sampled_from(KINDS), SIZES, SIZES, st.integers(0, 10**6))
def test_svd_radius_holds_for_every_value(kind: str, rows: int, columns: int, seed: int) -> None:
    matrix = matrices(kind, rows, columns, seed)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    radius = svd_radius(matrix.unsqueeze(0), left[None], values[None], right[None])
    truth = oracles.exact_singular_values(matrix)
    for computed, exact in zip(values.tolist(), truth, strict=True):
        with mpmath.workdps(50):
            assert abs(mpmath.mpf(computed) - exact) <= radius
    assert radius <= 1e-12 * float(values[0])


def test_svd_radius_grows_with_the_error_of_the_factors() -> None:
    matrix = matrices("noise", 6, 4, 1)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    wrong = values + 1e-3
    assert svd_radius(matrix[None], left[None], wrong[None], right[None]) >= 1e-3


@pytest.mark.parametrize("scale", [1e308, 1e-310, 2.0**-1074, 1.0])
def test_extreme_scales_change_no_digit(scale: float) -> None:
    matrix = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64) * scale
    with mpmath.workdps(50):
        # The largest singular value of [[1, 1], [0, 1]] is the golden ratio.
        truth = (1 + mpmath.sqrt(5)) / 2 * mpmath.mpf(scale)
        found = proved_norm(matrix.unsqueeze(0))
        assert mpmath.mpf(str(found.lo)) <= truth <= mpmath.mpf(str(found.hi))
        assert mpmath.mpf(str(found.hi)) <= truth * (1 + mpmath.mpf("1e-10"))


def test_complex_batch_is_enclosed() -> None:
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(7, 5, 3, generator=generator, dtype=torch.complex128)
    truth = float(torch.linalg.matrix_norm(batch, 2).max())
    found = proved_norm(batch)
    assert found.lower <= truth * (1 + 1e-14)
    assert truth <= found.upper * (1 + 1e-14)
    assert found.upper / found.lower < 1 + 1e-11


def test_stored_error_widens_both_ends() -> None:
    matrix = torch.eye(3, dtype=torch.float64).unsqueeze(0)
    found = proved_norm(matrix, error=0.25)
    assert found.holds(0.75)
    assert found.holds(1.25)


@given(st.integers(1, 40), st.integers(0, 10**6))
def test_no_bound_below_the_norm_is_proved(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(1, size, size, generator=generator, dtype=torch.float64)
    norm = float(torch.linalg.matrix_norm(matrix, 2))
    grams, error = certify.gram(matrix)
    assert not bool(proves_below(grams, error, norm * (1 - 1e-13)).any())
    assert bool(proves_below(grams, error, norm * (1 + 1e-9)).all())


def violations(count: int, size: int) -> int:
    """Count proofs of a bound that is false by construction.

    c·J (all entries equal) has norm c·size; its Gram matrix is c²·size·J and rounds badly. The
    bound is the largest float below the true norm, so that only rounding can "prove" it.
    """
    found = 0
    for seed in range(count):
        entry = 1.0 + (seed + 1) * 0.37 / count
        matrix = torch.full((1, size, size), entry, dtype=torch.float64)
        with mpmath.workdps(40):
            below = float(mpmath.mpf(entry) * size)
            while mpmath.mpf(below) >= mpmath.mpf(entry) * size:
                below = math.nextafter(below, 0.0)
        grams, error = certify.gram(matrix)
        found += int(proves_below(grams, error, below).sum())
    return found


def test_the_rounding_constants_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    assert violations(60, 24) == 0
    # Without the allowances for rounding the same procedure "proves" false bounds.
    monkeypatch.setattr(certify, "cholesky_constant", lambda *_, **__: 0.0)
    monkeypatch.setattr(certify, "product_constant", lambda *_, **__: 0.0)
    monkeypatch.setattr(certify, "UNIT", 0.0)
    monkeypatch.setattr(certify, "UNDERFLOW", 0.0)
    assert violations(60, 24) > 0


@given(st.integers(1, 30), st.integers(0, 10**6))
def test_gram_error_bounds_the_true_error(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(1, 3, size, generator=generator, dtype=torch.float64)
    grams, error = certify.gram(matrix)
    rows, columns = matrix.shape[1:]
    wide = matrix[0] if rows <= columns else matrix[0].mT
    with mpmath.workdps(50):
        exact = mpmath.matrix(wide.tolist()) * mpmath.matrix(wide.tolist()).T
        difference = exact - mpmath.matrix(grams[0].tolist())
        assert mpmath.mnorm(difference, "f") <= float(error[0])


def test_gamma_is_at_least_the_exact_constant() -> None:
    for terms in (1, 2, 3, 1000, 10**9):
        with mpmath.workdps(50):
            share = mpmath.mpf(terms) * mpmath.mpf(2) ** -53
            assert share / (1 - share) <= gamma(terms) <= share / (1 - share) * (1 + 1e-14)
    assert gamma(2**53) == math.inf
    assert np.finfo(np.float64).eps / 2 == UNIT


@pytest.mark.parametrize(
    ("value", "words"),
    [(math.nan, "9 of 9 values are NaN"), (math.inf, "9 of 9 values are infinite")],
)
def test_broken_values_are_counted(value: float, words: str) -> None:
    broken = torch.full((3, 3), value, dtype=torch.float64)
    with pytest.raises(NotCertified, match=words):
        certify.check_finite(broken, "w")
    with pytest.raises(NotCertified, match=words):
        proved_norm(broken.unsqueeze(0))


@given(st.sampled_from(KINDS), SIZES, SIZES, st.integers(0, 10**6))
def test_crude_upper_is_true(kind: str, rows: int, columns: int, seed: int) -> None:
    matrix = matrices(kind, rows, columns, seed)
    assert oracles.exact_singular_values(matrix)[0] <= certify.crude_upper(matrix.unsqueeze(0))


def test_attained_is_never_above_the_truth() -> None:
    for seed in range(50):
        matrix = matrices("noise", 5, 4, seed)
        top = torch.linalg.svd(matrix).Vh[0]
        value = certify.attained(matrix, top)
        truth = oracles.exact_singular_values(matrix)[0]
        assert truth * (1 - 1e-12) <= value <= truth
    assert certify.attained(matrix, torch.zeros(4, dtype=torch.float64)) == 0.0


@pytest.mark.parametrize("exponent", [0, -399, -401, -520, -537, -600, -1000, -1074])
@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (30, 2)])
def test_frobenius_above_is_above_though_squares_underflow(
    exponent: int, shape: tuple[int, int]
) -> None:
    whole = torch.randint(1, 9, shape, generator=torch.Generator().manual_seed(0))
    matrix = torch.from_numpy(np.ldexp(whole.numpy().astype(np.float64), exponent))
    # Squared, and times 2^-2·exponent: whole numbers all along.
    truth = int(whole.square().sum())
    for given_ in (matrix, matrix.to(torch.complex128), torch.stack([matrix, matrix * 0])):
        above = certify.frobenius_above(given_).flatten()[0]
        assert Fraction(float(above)) ** 2 >= Fraction(4) ** exponent * truth
        slack = 2 * math.sqrt(2 * matrix.numel()) if exponent < -399 else 1 + 1e-9
        assert float(above) <= slack * math.ldexp(math.sqrt(truth), exponent) + 2e-271
    assert float(certify.frobenius_above(torch.zeros(shape, dtype=torch.float64))) < 1e-270
    assert float(certify.frobenius_above(torch.zeros((0, 3), dtype=torch.float64))) < 1e-270
