"""Scaling by powers of two: how numbers near the ends of the float range are brought to 1.

Squares of entries beyond 1e154 overflow and those below 1e-154 underflow. A power of two
changes no digit, so a matrix is scaled first and its norm is scaled back in exact arithmetic.
"""

import math

import torch

from lipaudit.enclosure import Enclosure

_MODERATE = 100
"""Binary exponents up to this size are left alone: their fourth powers are still normal."""


def in_double(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same numbers in double precision, for which the error bounds are."""
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def normalised(tensor: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return a tensor of moderate size and the power of two that leads back to the original.

    It is in double precision, so that everything that is proved of it is.

    Scaling up is exact. Scaling down may round entries that are 10^300 times smaller than the
    largest, by at most 2^-1074 each, which `certify.UNDERFLOW` covers.
    """
    tensor = in_double(tensor)
    exponent = exponent_of(tensor)
    return scaled(tensor, exponent), math.ldexp(1.0, exponent)


def exponent_of(tensor: torch.Tensor) -> int:
    """Return by which power of two a tensor should be made smaller; 0 where it is moderate."""
    largest = _largest_part(tensor)
    if largest == 0 or not math.isfinite(largest):
        return 0
    exponent = math.frexp(largest)[1] - 1
    return exponent if abs(exponent) > _MODERATE else 0


def scaled(tensor: torch.Tensor, exponent: int) -> torch.Tensor:
    """Return the tensor divided by a power of two."""
    if exponent == 0:
        return tensor
    # 2^1074 is no float, so the factor is applied in two halves.
    half = -exponent // 2
    return tensor * math.ldexp(1.0, half) * math.ldexp(1.0, -exponent - half)


def rescaled(enclosure: Enclosure, factor: float) -> Enclosure:
    """Enclose |factor| times a quantity."""
    return enclosure if factor == 1.0 else enclosure.times(Enclosure.exactly(abs(factor)))


def _largest_part(tensor: torch.Tensor) -> float:
    if tensor.numel() == 0:
        return 0.0
    # Parts, not moduli: the modulus of 1e308(1 + i) overflows.
    parts = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return float(torch.maximum(parts.max(), -parts.min()))
