"""The operator of one stored matrix: whole in float64, or piece by piece where that is too much."""

from lipaudit.device import Compute
from lipaudit.graph.constant import Constant
from lipaudit.graph.dtypes import torch_type
from lipaudit.operators.base import AbstractLinearOperator
from lipaudit.operators.dense import DenseOperator
from lipaudit.operators.streamed import StreamedOperator

_FLOAT64 = 8


def matrix(weight: Constant, compute: Compute, *, turned: bool = False) -> AbstractLinearOperator:
    """Return x -> W x, or x -> Wᵀ x."""
    if is_too_large(weight, compute):
        stored = weight.read()
        return StreamedOperator(stored.mT if turned else stored, compute)
    values = weight.values()
    return DenseOperator(values.mT if turned else values, compute)


def is_too_large(weight: Constant, compute: Compute) -> bool:
    """Tell whether a weight is to be measured as it is stored, piece by piece."""
    return _FLOAT64 * weight.items > compute.max_memory and _item(weight) < _FLOAT64


def room(weight: Constant, *, in_pieces: bool) -> int:
    """Return how many bytes a weight takes at least while it is measured."""
    return (_item(weight) if in_pieces else _FLOAT64) * weight.items


def _item(weight: Constant) -> int:
    """Return the bytes of one number as it is read; of what is computed, in float64."""
    dtype = torch_type(weight.dtype)
    is_plain = len(weight.shape) == 2 and weight.unrounded is None
    if dtype is None or not dtype.is_floating_point or not is_plain:
        return _FLOAT64
    return dtype.itemsize
