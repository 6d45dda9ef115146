"""A quantized tensor of torch: integers, and the affine map that says which numbers they mean.

An integer q means (q - zero point)·scale (torch's documentation, "Quantization", its formula of
`quantize_per_tensor`). The product is formed in float64 from the scale as it is stored.
"""

from collections.abc import Callable, Sequence

import torch

from lipaudit.errors import NotCertified
from lipaudit.formats.pickle_machine import Global
from lipaudit.graph.constant import Constant

_QUANTIZED = frozenset({"int8", "uint8", "int32"})
_MOST = 1 << 33
"""No zero point lies outside of the integers' own range, so that differences are exact."""
_SCALES = (2.0**-900, 2.0**900)
_ROUNDING = 2.0**-53
"""Of the one product, between those scales."""

_Read = Callable[[], torch.Tensor]


def dequantized(integers: Constant, how: Sequence[object]) -> Constant | None:
    """Return the numbers that are meant; None where the map is none of torch's affine ones."""
    scheme = how[0].name if how and isinstance(how[0], Global) else ""
    if integers.dtype not in _QUANTIZED:
        return None
    if scheme == "per_tensor_affine" and len(how) == 3:
        scale, zero = how[1:]
        if isinstance(scale, float) and isinstance(zero, int) and abs(zero) < _MOST:
            return _constant(
                integers,
                lambda: torch.tensor(scale, dtype=torch.float64),
                lambda: torch.tensor(zero, dtype=torch.int64),
            )
    if scheme == "per_channel_affine" and len(how) == 4:
        scales, zeros, axis = how[1:]
        if isinstance(scales, Constant) and isinstance(zeros, Constant) and isinstance(axis, int):
            return _by_channel(integers, scales, zeros, axis)
    return None


def _by_channel(
    integers: Constant, scales: Constant, zeros: Constant, axis: int
) -> Constant | None:
    """Return the numbers where each place along one axis has its own scale and zero point."""
    if not 0 <= axis < len(integers.shape):
        return None
    count = (integers.shape[axis],)
    if scales.shape != count or zeros.shape != count:
        return None
    if scales.dtype not in {"float32", "float64"} or zeros.dtype not in {"int32", "int64"}:
        return None
    along = [-1 if at == axis else 1 for at in range(len(integers.shape))]
    return _constant(
        integers,
        lambda: scales.read().double().reshape(along),
        lambda: zeros.read().long().reshape(along),
    )


def _constant(integers: Constant, scale: _Read, zero: _Read) -> Constant:
    def exact() -> torch.Tensor:
        factors, origins = scale(), zero()
        least, most = _SCALES
        if not bool(((factors > least) & (factors < most) & (origins.abs() < _MOST)).all()):
            raise NotCertified(
                f"{integers.name!r}: its scale or zero point is no usable number", slug="dtype"
            )
        return (integers.read().long() - origins).double() * factors

    return Constant(
        name=integers.name,
        shape=integers.shape,
        dtype="float32",  # what torch's own `dequantize` yields
        read=lambda: exact().float(),
        sources=(integers.name,),
        entry_error=_ROUNDING,
        unrounded=exact,
    )
