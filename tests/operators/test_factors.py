"""LAPACK that does not converge: every norm is proved all the same."""

from collections.abc import Callable
from typing import NoReturn

import numpy as np
import pytest
import torch

from lipaudit.device import Compute, choose
from lipaudit.enclosure import Rigor
from lipaudit.operators.base import AbstractLinearOperator
from lipaudit.operators.convolution import convolution
from lipaudit.operators.dense import BlockDiagonalOperator, DenseOperator
from lipaudit.operators.factors import eigenvectors, largest_eigenvalues
from lipaudit.operators.geometry import ConvGeometry, PaddingMode
from lipaudit.operators.lapack import NotConverged

NORMS = choose("cpu", full_spectra=False)
PLAIN = ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1))
WRAPPED = ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1), mode=PaddingMode.CIRCULAR)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def not_converged(*_: object, **__: object) -> NoReturn:
    raise NotConverged("the algorithm failed to converge")


def not_converged_in_numpy(*_: object, **__: object) -> NoReturn:
    raise np.linalg.LinAlgError("Eigenvalues did not converge")


@pytest.fixture(
    params=[
        ("eigvalsh", "eigh"),
        ("eigvalsh", "eigh", "svd", "svdvals"),
    ],
    ids="+".join,
)
def failing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let some of LAPACK's drivers fail on everything."""
    for name in request.param:
        monkeypatch.setattr(torch.linalg, name, not_converged)
        if hasattr(np.linalg, name):
            monkeypatch.setattr(np.linalg, name, not_converged_in_numpy)


LAYERS: dict[str, Callable[[Compute], AbstractLinearOperator]] = {
    "dense": lambda c: DenseOperator(noise(9, 12), c),
    "dense, large": lambda c: DenseOperator(noise(280, 260), c),
    "blocks": lambda c: BlockDiagonalOperator(noise(5, 4, 3), c),
    "any size": lambda c: convolution(noise(4, 6, 3, 3), PLAIN, None, c),
    "any size, Lanczos": lambda c: convolution(noise(70, 66, 3, 1) / 8, PLAIN, None, c),
    "one size": lambda c: convolution(noise(3, 2, 3, 3), PLAIN, (2, 40, 41), c),
    "circular": lambda c: convolution(noise(3, 4, 3, 3), WRAPPED, (4, 25, 30), c),
    "written out": lambda c: convolution(noise(3, 2, 3, 3), PLAIN, (2, 5, 5), c),
}
USUAL = {name: make(NORMS).norm().enclosure for name, make in LAYERS.items()}
"""What is proved where LAPACK works; other tests hold it against the truth."""
ROOTS = noise(3, 5, 5)
SQUARES = torch.linalg.matrix_norm(ROOTS, 2).square()


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize("name", LAYERS)
def test_a_norm_is_proved_without_lapack(name: str) -> None:
    found, usual = LAYERS[name](NORMS).norm().enclosure, USUAL[name]
    assert found.rigor is Rigor.PROVED
    assert found.lo <= usual.hi
    assert usual.lo <= found.hi
    # Candidates may be a little worse.
    assert found.upper <= 1.01 * usual.upper
    assert found.lower >= 0.99 * usual.lower


@pytest.mark.usefixtures("failing")
def test_the_reshaped_norm_is_an_estimate_all_the_same() -> None:
    kernel = noise(4, 3, 3, 3)
    found = convolution(kernel, PLAIN, None, NORMS).reshaped_norm()
    # Frobenius' norm lies between ‖A‖ and √rank ‖A‖.
    frobenius = float(torch.linalg.vector_norm(kernel))
    assert found is not None
    assert frobenius / 2 <= found <= 2 * frobenius


@pytest.mark.usefixtures("failing")
def test_fallbacks_are_near_what_they_stand_for() -> None:
    grams = ROOTS @ ROOTS.mT
    torch.testing.assert_close(largest_eigenvalues(grams), SQUARES)
    values, vectors = eigenvectors(grams[0])
    assert values.tolist() == sorted(values.tolist())
    assert float(values[-1]) == pytest.approx(float(SQUARES[0]))
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(5, dtype=torch.float64))
    quotients = (vectors.mT @ grams[0] @ vectors).diagonal()
    torch.testing.assert_close(quotients, values)
