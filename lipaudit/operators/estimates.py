"""Estimates: what others call the norm of a layer. Shown for comparison; nothing rests on them.

The other classical one, the norm of the reshaped kernel, is each operator's own
`reshaped_norm`.
"""

import torch

from lipaudit.operators import krylov
from lipaudit.operators.base import AbstractLinearOperator
from lipaudit.operators.scaled import ScaledOperator


def power_iteration(operator: AbstractLinearOperator, steps: int) -> float | None:
    """Return ‖A x‖ after so many steps x <- AᴴAx/‖AᴴAx‖ from a random start.

    It never exceeds the norm by more than rounding, and may fall short by anything. None for an
    operator that stands for every input size.
    """
    if isinstance(operator, ScaledOperator):
        # Squares of the scaled values might overflow.
        inner = power_iteration(operator.inner, steps)
        return None if inner is None else inner * abs(operator.factor)
    if operator.in_shape is None:
        return None
    vector = _unit(krylov.scrambled((1, *operator.in_shape), torch.device("cpu")))
    for _ in range(steps):
        vector = _unit(operator.adjoint(_unit(operator.apply(vector))))
    return _length(operator.apply(vector))


def _unit(vector: torch.Tensor) -> torch.Tensor:
    largest = float(vector.abs().max()) if vector.numel() else 0.0
    if not largest > 0:
        return vector
    moderate = vector / largest
    return moderate / float(torch.linalg.vector_norm(moderate))


def _length(vector: torch.Tensor) -> float:
    largest = float(vector.abs().max()) if vector.numel() else 0.0
    return largest * float(torch.linalg.vector_norm(vector / largest)) if largest > 0 else 0.0
