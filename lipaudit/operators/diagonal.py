"""DiagonalOperator: multiplication of every entry by its own number."""

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.operators.base import AbstractLinearOperator, Norm, Shape
from lipaudit.operators.certify import ROOM, check_finite
from lipaudit.operators.scaling import in_double
from lipaudit.operators.spectrum import Spectrum


@final
@dataclass(frozen=True, eq=False, slots=True)
class DiagonalOperator(AbstractLinearOperator):
    """Multiplication by `scale`; its singular values are the moduli of the entries."""

    scale: torch.Tensor
    shape: Shape | None = None
    """Shape of the signal, to which `scale` broadcasts; None: the shape of `scale`."""
    entry_error: float = 0.0
    """Bound of |stored - true| / |true| for every entry, where entries are themselves computed;
    infinite where the error is small but nobody has bounded it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", in_double(self.scale))

    @property
    def in_shape(self) -> Shape:
        """See `AbstractLinearOperator.in_shape`."""
        return tuple(self.scale.shape) if self.shape is None else self.shape

    @property
    def out_shape(self) -> Shape:
        """See `AbstractLinearOperator.out_shape`."""
        return self.in_shape

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """See `AbstractLinearOperator.apply`."""
        return x * self.scale

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """See `AbstractLinearOperator.adjoint`."""
        return y * self.scale

    def norm(self) -> Norm:
        """See `AbstractLinearOperator.norm`."""
        check_finite(self.scale)
        moduli = self.scale.abs()
        largest = float(moduli.max()) if moduli.numel() else 0.0
        return Norm(self._enclosed(largest), "largest |entry|")

    def spectrum(self) -> Spectrum:
        """See `AbstractLinearOperator.spectrum`."""
        check_finite(self.scale)
        moduli = self._entries().abs().flatten().cpu().numpy().astype(np.float64)
        largest = float(moduli.max()) if moduli.size else 0.0
        proved = math.isfinite(self.entry_error)
        return Spectrum(
            values=np.sort(moduli)[::-1].copy(),
            rows=moduli.size,
            columns=moduli.size,
            rigor=Rigor.PROVED if proved else Rigor.NUMERICAL,
            radius=2.0 * self.entry_error * largest * ROOM if proved else 0.0,
            method="|entries|",
        )

    def frobenius(self) -> float:
        """See `AbstractLinearOperator.frobenius`."""
        return float(torch.linalg.vector_norm(self._entries()))

    def leading(self) -> None:
        """Return None: the spectrum says it all."""

    def reshaped_norm(self) -> None:
        """Return None: the weight is not a matrix."""

    def _enclosed(self, modulus: float) -> Enclosure:
        if math.isinf(self.entry_error):
            return Enclosure.exactly(modulus, Rigor.NUMERICAL)
        computed = Enclosure.exactly(modulus)
        if self.entry_error == 0:
            return computed
        # |true| lies within |stored|/(1 ± ε), and 2ε covers that for every ε <= 1/2.
        return computed.widened(computed.times(Enclosure.exactly(2.0 * self.entry_error)))

    def _entries(self) -> torch.Tensor:
        return self.scale.expand(self.in_shape)
