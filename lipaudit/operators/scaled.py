"""ScaledOperator: an operator times a number."""

import math
import sys
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch

from lipaudit.enclosure import Rigor
from lipaudit.operators.base import AbstractLinearOperator, Norm, Shape
from lipaudit.operators.certify import ROOM, UNIT
from lipaudit.operators.scaling import rescaled
from lipaudit.operators.spectrum import Leading, Spectrum

_TINIEST = 2.0**-1074
"""One rounding in the denormal range is wrong by at most half of this; here there are three."""


@final
@dataclass(frozen=True, eq=False, slots=True)
class ScaledOperator(AbstractLinearOperator):
    """`factor` times another operator; norms are scaled exactly, spectra with their rounding."""

    inner: AbstractLinearOperator
    factor: float

    @property
    def in_shape(self) -> Shape | None:
        """See `AbstractLinearOperator.in_shape`."""
        return self.inner.in_shape

    @property
    def out_shape(self) -> Shape | None:
        """See `AbstractLinearOperator.out_shape`."""
        return self.inner.out_shape

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """See `AbstractLinearOperator.apply`."""
        return self.inner.apply(x) * self.factor

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """See `AbstractLinearOperator.adjoint`."""
        return self.inner.adjoint(y) * self.factor

    def norm(self) -> Norm:
        """See `AbstractLinearOperator.norm`."""
        norm = self.inner.norm()
        return Norm(rescaled(norm.enclosure, self.factor), norm.method)

    def spectrum(self) -> Spectrum | None:
        """See `AbstractLinearOperator.spectrum`; None where a value overflows."""
        spectrum = self.inner.spectrum()
        return None if spectrum is None else scaled_spectrum(spectrum, self.factor)

    def leading(self) -> Leading | None:
        """See `AbstractLinearOperator.leading`."""
        return scaled_leading(self.inner.leading(), self.factor)

    def frobenius(self) -> float | None:
        """See `AbstractLinearOperator.frobenius`."""
        return _times(self.inner.frobenius(), self.factor)

    def reshaped_norm(self) -> float | None:
        """See `AbstractLinearOperator.reshaped_norm`."""
        return _times(self.inner.reshaped_norm(), self.factor)


def scaled_spectrum(spectrum: Spectrum, factor: float) -> Spectrum | None:
    """Return the spectrum of |factor| times the operator, None where a value overflows."""
    size = abs(factor)
    # An infinite value is not a singular value; the norm says what there is to say.
    with np.errstate(over="ignore", under="ignore"):
        values = spectrum.values * size
    if not np.isfinite(values).all():
        return None
    radius = 0.0
    if spectrum.rigor is Rigor.PROVED:
        largest = float(values[0]) if values.size else 0.0
        radius = (spectrum.radius * size + 2.0 * UNIT * largest) * ROOM + 2.0 * _TINIEST
    if not math.isfinite(radius):
        return None
    accuracy = min(spectrum.accuracy * size, sys.float_info.max)
    return replace(spectrum, values=values, radius=radius, accuracy=accuracy)


def scaled_leading(leading: Leading | None, factor: float) -> Leading | None:
    """Return lower bounds of |factor| times the values, rounded down."""
    if leading is None or factor == 1.0:
        return leading
    # A product that overflows lies above every float.
    products = (min(value * abs(factor), sys.float_info.max) for value in leading.values)
    return Leading(tuple(math.nextafter(value, 0.0) for value in products), leading.method)


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * abs(factor)
