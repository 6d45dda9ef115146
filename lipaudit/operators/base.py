"""AbstractLinearOperator: a linear map between real tensors that can be measured and clipped."""

import abc
from dataclasses import dataclass

import torch

from lipaudit.enclosure import Enclosure
from lipaudit.operators.spectrum import Leading, Spectrum

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Norm:
    """An operator norm: what it is enclosed by, and how that was found."""

    enclosure: Enclosure
    method: str
    """One phrase for the report: "SVD", "zero-padded 32x32: Cholesky proof on a 34x34 torus"."""


class AbstractLinearOperator(abc.ABC):
    """A linear map from tensors of `in_shape` to tensors of `out_shape`, without a batch axis.

    Shapes are None when the operator stands for every input size at once; then `apply` and
    `adjoint` are not available and `norm` bounds all of them.
    """

    @property
    @abc.abstractmethod
    def in_shape(self) -> Shape | None:
        """Shape of one input."""

    @property
    @abc.abstractmethod
    def out_shape(self) -> Shape | None:
        """Shape of one output."""

    @abc.abstractmethod
    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Map a batch of inputs (batch axis first) to a batch of outputs."""

    @abc.abstractmethod
    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """Map a batch of outputs back.

        It is the map with <apply(x), y> = <x, adjoint(y)> for all x and y.
        """

    @abc.abstractmethod
    def norm(self) -> Norm:
        """Enclose the largest singular value."""

    @abc.abstractmethod
    def spectrum(self) -> Spectrum | None:
        """Return the singular values, or None where they are out of reach.

        The spectrum says of which operator it is (`Spectrum.of`) when that is not this one.
        """

    @abc.abstractmethod
    def leading(self) -> Leading | None:
        """Return the largest singular values from below; None beside the operator's own spectrum.

        None also where even that is out of reach.
        """

    @abc.abstractmethod
    def frobenius(self) -> float | None:
        """Return √Σσ², None when the operator stands for every input size."""

    @abc.abstractmethod
    def reshaped_norm(self) -> float | None:
        """Return the norm of the weight as a (outputs x rest) matrix, an estimate only.

        It is what power-iteration spectral normalization calls the norm of a convolution.
        None for operators without such a weight.
        """
