"""Operands: the inputs that a layer finds when it runs, by position."""

from collections.abc import Sequence

import torch

Inputs = Sequence[torch.Tensor | None]
"""Of a node, by position; None = omitted."""
Outputs = tuple[torch.Tensor, ...]


def operand(inputs: Sequence[torch.Tensor | None], position: int = 0) -> torch.Tensor:
    """Return an input that must be there."""
    value = optional(inputs, position)
    if value is None:
        raise ValueError(f"input {position} is missing")
    return value


def optional(inputs: Sequence[torch.Tensor | None], position: int) -> torch.Tensor | None:
    """Return an input that may have been omitted."""
    return inputs[position] if position < len(inputs) else None


def operands(inputs: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
    """Return all inputs, none of which may have been omitted."""
    if not inputs:
        raise ValueError("it has no inputs")
    return [operand(inputs, position) for position in range(len(inputs))]
