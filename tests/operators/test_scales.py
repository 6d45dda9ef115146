"""Weights from 1e-310 to 1e308: scaled by powers of two, truth is scaled exactly."""

import math
from collections.abc import Callable
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch

from lipaudit.device import choose
from lipaudit.enclosure import Rigor
from lipaudit.errors import NotCertified
from lipaudit.operators.base import AbstractLinearOperator
from lipaudit.operators.convolution import convolution
from lipaudit.operators.dense import BlockDiagonalOperator, DenseOperator
from lipaudit.operators.geometry import ConvGeometry, PaddingMode

CPU = choose("cpu")
NORM_ONLY = choose("cpu", full_spectra=False)
EXPONENTS = (-1070, -1030, -1000, -500, -101, 101, 500, 1000, 1017)
"""From where only a few bits are left to where the norm is near the largest float."""

PLAIN = ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1))
CIRCULAR = ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1), mode=PaddingMode.CIRCULAR)

Make = Callable[[torch.Tensor], AbstractLinearOperator]
LAYERS: dict[str, Make] = {
    "any size": lambda k: convolution(k, PLAIN, None, CPU),
    "zero padding": lambda k: convolution(k, PLAIN, (2, 20, 20), NORM_ONLY),
    "written out": lambda k: convolution(k, PLAIN, (2, 5, 5), CPU),
    "circular": lambda k: convolution(k, CIRCULAR, (2, 7, 8), CPU),
    "dense": lambda k: DenseOperator(k.flatten(1), CPU),
    "dense, norm only": lambda k: DenseOperator(k.flatten(1), NORM_ONLY),
    "blocks": lambda k: BlockDiagonalOperator(k.flatten(2), CPU),
}


def kernel() -> torch.Tensor:
    """Return small whole numbers: nothing is lost on the way down, short of the last bits."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(-3, 4, (3, 2, 3, 3), generator=generator).to(torch.float64)


def scaled(values: torch.Tensor, exponent: int) -> torch.Tensor:
    """Multiply by a power of two that may itself be no float."""
    half = exponent // 2
    return values * math.ldexp(1.0, half) * math.ldexp(1.0, exponent - half)


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("name", LAYERS)
def test_enclosures_scale_with_the_weights(name: str, exponent: int) -> None:
    weights = scaled(kernel(), exponent)
    assert torch.equal(scaled(weights, -exponent), kernel())
    moderate = LAYERS[name](kernel()).norm().enclosure
    found = LAYERS[name](weights).norm().enclosure
    assert found.rigor is Rigor.PROVED
    with localcontext(prec=60, Emin=-10_000, Emax=10_000):
        factor = Decimal(2) ** exponent
        # Both hold one number, up to the exact factor.
        assert found.lo <= moderate.hi * factor
        assert moderate.lo * factor <= found.hi
        # And the scale costs nothing: the same width, but for a few of the smallest floats.
        tiny = 8 * Decimal(2) ** -1074
        assert found.hi <= moderate.hi * factor * (1 + Decimal("1e-9")) + tiny
        assert found.lo >= moderate.lo * factor * (1 - Decimal("1e-9")) - tiny
    assert found.lower <= found.upper < math.inf


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("name", ["written out", "circular", "dense", "blocks", "any size"])
def test_spectra_scale_with_the_weights(name: str, exponent: int) -> None:
    moderate = LAYERS[name](kernel()).spectrum()
    found = LAYERS[name](scaled(kernel(), exponent)).spectrum()
    assert moderate is not None
    assert found is not None
    assert found.rigor is moderate.rigor
    back = scaled(torch.from_numpy(found.values.copy()), -exponent).numpy()
    ulp = math.ldexp(1.0, -1074 - exponent) if exponent < -1000 else 0.0
    np.testing.assert_allclose(back, moderate.values, rtol=1e-12, atol=1e-13 + 2 * ulp)
    if found.rigor is Rigor.PROVED:
        radius = float(scaled(torch.tensor(found.radius, dtype=torch.float64), -exponent))
        assert radius >= abs(back - moderate.values).max() - moderate.radius
    assert found.numerical_rank == moderate.numerical_rank or exponent < -1000
    assert found.stable_rank == pytest.approx(moderate.stable_rank, rel=1e-9) or exponent < -1000


@pytest.mark.parametrize("name", LAYERS)
def test_a_norm_beyond_every_float_is_not_a_float(name: str) -> None:
    # Entries near the largest float; the norm is larger by more than the channels.
    weights = torch.full((3, 2, 3, 3), 1.7e308, dtype=torch.float64)
    found = LAYERS[name](weights).norm().enclosure
    assert found.rigor is Rigor.PROVED
    assert found.upper == math.inf
    # Decimal has room for it all the same.
    assert Decimal("1.7e308") < found.lo <= found.hi < Decimal("1e311")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", LAYERS)
def test_what_is_no_number_is_refused(name: str, value: float) -> None:
    weights = kernel()
    weights[1, 0, 2, 1] = value
    with pytest.raises(NotCertified, match="1 of"):
        LAYERS[name](weights).norm()
