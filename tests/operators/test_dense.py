"""Dense, block-diagonal, diagonal and scaled operators against torch and mpmath."""

from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipaudit.device import Compute, choose
from lipaudit.enclosure import Rigor
from lipaudit.errors import NotCertified
from lipaudit.operators import dense
from lipaudit.operators.base import AbstractLinearOperator
from lipaudit.operators.dense import BlockDiagonalOperator, DenseOperator
from lipaudit.operators.diagonal import DiagonalOperator
from lipaudit.operators.lapack import NotConverged
from lipaudit.operators.scaled import ScaledOperator
from tests import oracles

CPU = choose("cpu")
NORM_ONLY = replace(CPU, full_spectra=False)
SIZES = st.integers(1, 12)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


OPERATORS: dict[str, AbstractLinearOperator] = {
    "dense": DenseOperator(noise(3, 5), CPU),
    "blocks": BlockDiagonalOperator(noise(4, 3, 2), CPU),
    "diagonal": DiagonalOperator(noise(4)),
    "channel scale": DiagonalOperator(noise(3, 1, 1), (3, 2, 4)),
    "scaled": ScaledOperator(DenseOperator(noise(3, 5), CPU), -2.5),
    "a row": DenseOperator(noise(1, 7), CPU),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_is_what_it_says(name: str) -> None:
    operator = OPERATORS[name]
    assert operator.in_shape is not None
    assert operator.out_shape is not None
    matrix = oracles.dense(operator.apply, operator.in_shape)
    truth = oracles.singular_values(matrix)
    x, y = noise(2, *operator.in_shape), noise(2, *operator.out_shape, seed=1)
    forward = (operator.apply(x) * y).sum()
    torch.testing.assert_close(forward, (x * operator.adjoint(y)).sum(), rtol=1e-13, atol=1e-13)
    norm = operator.norm()
    assert norm.enclosure.rigor is Rigor.PROVED
    assert norm.enclosure.lower <= truth[0] * (1 + 1e-14)
    assert truth[0] <= norm.enclosure.upper * (1 + 1e-14)
    spectrum = operator.spectrum()
    assert spectrum is not None
    assert (spectrum.rows, spectrum.columns) == tuple(matrix.shape)
    np.testing.assert_allclose(spectrum.values, truth, atol=1e-12 * truth[0])
    assert operator.frobenius() == pytest.approx(float(torch.linalg.matrix_norm(matrix)), rel=1e-13)


@given(SIZES, SIZES, st.integers(0, 10**6), st.booleans())
def test_dense_norm_and_spectrum_hold_the_50_digit_truth(
    rows: int, columns: int, seed: int, full: bool
) -> None:
    matrix = noise(min(rows, 6), min(columns, 6), seed=seed)
    operator = DenseOperator(matrix, CPU if full else NORM_ONLY)
    truth = oracles.exact_singular_values(matrix)
    enclosure = operator.norm().enclosure
    with mpmath.workdps(50):
        assert mpmath.mpf(str(enclosure.lo)) <= truth[0] <= mpmath.mpf(str(enclosure.hi))
    assert enclosure.upper <= enclosure.lower * (1 + 1e-11)
    spectrum = operator.spectrum()
    assert (spectrum is not None) == full
    if spectrum is not None:
        assert spectrum.rigor is Rigor.PROVED
        for value, exact in zip(spectrum.values, truth, strict=True):
            with mpmath.workdps(50):
                assert abs(mpmath.mpf(float(value)) - exact) <= spectrum.radius


@pytest.mark.parametrize("compute", [CPU, NORM_ONLY], ids=["spectrum", "norm only"])
@pytest.mark.parametrize("shape", [(300, 300), (40, 700), (700, 40), (257, 300)])
def test_larger_matrices(shape: tuple[int, int], compute: Compute) -> None:
    matrix = noise(*shape)
    truth = float(torch.linalg.matrix_norm(matrix, 2))
    enclosure = DenseOperator(matrix, compute).norm().enclosure
    assert enclosure.lower <= truth * (1 + 1e-13)
    assert truth <= enclosure.upper * (1 + 1e-13)
    assert enclosure.upper <= enclosure.lower * (1 + 1e-4)


def test_without_memory_a_true_bound_is_left() -> None:
    matrix = noise(200, 200)
    norm = DenseOperator(matrix, replace(CPU, max_memory=1 << 16)).norm()
    truth = float(torch.linalg.matrix_norm(matrix, 2))
    assert norm.enclosure.lower <= truth <= norm.enclosure.upper
    assert "memory" in norm.method


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_empty_matrix_has_norm_exactly_0(shape: tuple[int, int]) -> None:
    operator = DenseOperator(torch.zeros(shape, dtype=torch.float64), CPU)
    assert operator.norm().enclosure.is_zero
    spectrum = operator.spectrum()
    assert spectrum is not None
    assert spectrum.values.size == 0
    assert operator.reshaped_norm() == 0.0


def test_zero_matrix_is_0_up_to_underflow() -> None:
    operator = DenseOperator(torch.zeros(3, 4, dtype=torch.float64), CPU)
    assert operator.norm().enclosure.is_zero
    spectrum = operator.spectrum()
    assert spectrum is not None
    assert spectrum.numerical_rank == 0
    assert spectrum.entropy_rank == 0


@pytest.mark.parametrize("value", [1e-5, 1e-310, 1e308])
def test_single_weight(value: float) -> None:
    # gloro issue 8: 9.434563e-06 is reported for a single weight of 1e-5.
    operator = DenseOperator(torch.tensor([[value]], dtype=torch.float64), CPU)
    assert operator.norm().enclosure.holds(value)
    assert operator.norm().enclosure.upper <= value * (1 + 1e-12)


@pytest.mark.parametrize("scale", [1e308, 1e-310])
def test_extreme_spectra(scale: float) -> None:
    matrix = torch.diag(torch.tensor([0.5, 1.0, 0.25], dtype=torch.float64)) * scale
    spectrum = DenseOperator(matrix, CPU).spectrum()
    assert spectrum is not None
    expected = np.array([1.0, 0.5, 0.25]) * scale
    assert np.all(np.abs(spectrum.values - expected) <= spectrum.radius)
    np.testing.assert_allclose(spectrum.values, expected, rtol=1e-10)


def test_values_beyond_the_float_range_leave_no_spectrum_but_a_norm() -> None:
    operator = DenseOperator(torch.full((4, 4), 1e308, dtype=torch.float64), CPU)
    assert operator.spectrum() is None
    assert operator.norm().enclosure.log10_upper == pytest.approx(308.60206, abs=1e-4)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_broken_weights_never_reach_lapack(broken: float) -> None:
    matrix = noise(3, 3)
    matrix[1, 2] = broken
    with pytest.raises(NotCertified, match="1 of 9 values"):
        DenseOperator(matrix, CPU).norm()
    with pytest.raises(NotCertified, match="1 of 9 values"):
        DiagonalOperator(matrix).norm()


def test_lapack_that_does_not_converge_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = noise(5, 4)
    truth = oracles.singular_values(matrix)
    decompose = torch.linalg.svd

    def only_wide(matrix: torch.Tensor, *, full_matrices: bool) -> object:
        if matrix.shape[-2] > matrix.shape[-1]:
            raise NotConverged("as gesdd does on some matrices")
        return decompose(matrix, full_matrices=full_matrices)

    def never(matrix: torch.Tensor, *, full_matrices: bool) -> object:
        raise NotConverged(f"{matrix.shape} {full_matrices}")

    monkeypatch.setattr(torch.linalg, "svd", only_wide)
    transposed = DenseOperator(matrix, CPU)
    assert transposed.norm().enclosure.holds(truth[0])
    assert "transpose" in transposed.norm().method
    spectrum = transposed.spectrum()
    assert spectrum is not None
    np.testing.assert_allclose(spectrum.values, truth, rtol=1e-12)

    monkeypatch.setattr(torch.linalg, "svd", never)
    by_gram = DenseOperator(matrix, CPU)
    assert by_gram.norm().enclosure.holds(truth[0])
    spectrum = by_gram.spectrum()
    assert spectrum is not None
    assert spectrum.rigor is Rigor.NUMERICAL

    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda _: never(matrix, full_matrices=False))
    by_sums = DenseOperator(matrix, CPU)
    assert by_sums.norm().enclosure.holds(truth[0])
    assert by_sums.spectrum() is None


def test_blocks_take_the_largest_not_the_product() -> None:
    blocks = noise(3, 2, 2) * 0.2
    truth = float(torch.linalg.matrix_norm(blocks, 2).max())
    for compute in (CPU, NORM_ONLY):
        enclosure = BlockDiagonalOperator(blocks, compute).norm().enclosure
        assert enclosure.lower <= truth * (1 + 1e-14) <= enclosure.upper * (1 + 1e-13)


def test_diagonal_is_exact() -> None:
    operator = DiagonalOperator(torch.tensor([0.1, -0.3, 0.2], dtype=torch.float64))
    assert operator.norm().enclosure.lo == operator.norm().enclosure.hi
    assert operator.norm().enclosure.holds(0.3)
    assert operator.spectrum().radius == 0.0


@pytest.mark.parametrize("compute", [CPU, replace(CPU, full_spectra=False)])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_coarse_weights_are_measured_in_double_precision(
    compute: Compute, kind: torch.dtype
) -> None:
    for seed in range(30):
        stored = noise(3, 20, 20, seed=seed).to(kind)
        truth = np.linalg.norm(stored.double().numpy(), 2, axis=(-2, -1))
        room = 1e-14 * truth.max()
        for operator, norm in (
            (DenseOperator(stored[0], compute), truth[0]),
            (BlockDiagonalOperator(stored, compute), truth.max()),
        ):
            found = operator.norm().enclosure
            assert found.lower - room <= norm <= found.upper + room
            assert found.upper - found.lower <= 1e-4 * norm
            spectrum = operator.spectrum()
            assert spectrum is None or abs(spectrum.largest - norm) <= spectrum.radius + room
            x = noise(1, *operator.in_shape)
            assert operator.apply(x).dtype is operator.adjoint(operator.apply(x)).dtype is x.dtype
    huge = torch.full((2,), 1e30, dtype=torch.float32)
    assert DiagonalOperator(huge).frobenius() == pytest.approx(float(huge[0]) * 2**0.5)


@pytest.mark.parametrize("shape", [(700, 700), (600, 1500)])
@pytest.mark.parametrize("steps", [15, 20, 25, 30, 300])
def test_a_norm_without_a_spectrum_is_tight(
    shape: tuple[int, int], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After a few steps only, the trial vector falls short by more than rounding: no more than
    # that is then lost a few times over.
    monkeypatch.setattr(dense, "_KRYLOV_STEPS", steps)
    matrix = noise(*shape)
    truth = float(torch.linalg.matrix_norm(matrix, 2))
    enclosure = DenseOperator(matrix, NORM_ONLY).norm().enclosure
    assert enclosure.rigor is Rigor.PROVED
    assert enclosure.lower <= truth * (1 + 1e-13)
    assert truth * (1 - 1e-13) <= enclosure.upper
    shortfall = 1.0 - enclosure.lower / truth
    assert enclosure.upper / truth - 1.0 <= max(1e-6, 12.0 * shortfall)
    assert shortfall < (1e-8 if steps == 300 else 0.1)
