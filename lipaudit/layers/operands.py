"""Operands: the inputs that a layer finds when it runs, by position."""

from collections.abc import Sequence

import torch

Inputs = Sequence[torch.Tensor | None]
"""Of a node, by position; None = omitted."""
Outputs = tuple[torch.Tensor, ...]


MOST_AXES = 64
"""torch's own limit."""


def operand(inputs: Sequence[torch.Tensor | None], position: int = 0) -> torch.Tensor:
    """Return an input that must be there."""
    value = optional(inputs, position)
    if value is None:
        raise ValueError(f"input {position} is missing")
    return value


def of_rank(x: torch.Tensor, least: int, most: int | None = None) -> torch.Tensor:
    """Return a tensor that must have so many axes; torch itself would often take others."""
    if not least <= x.dim() <= (least if most is None else most):
        raise ValueError(f"it has {x.dim()} axes, not {least}")
    return x


def axis_of(axis: int, rank: int) -> int:
    """Return an axis counted from the front, which must be there."""
    if not -rank <= axis < rank:
        raise ValueError(f"there is no axis {axis} among {rank}")
    return axis % rank


def within(places: torch.Tensor, size: int) -> torch.Tensor:
    """Return places along an axis, negative ones counted from its end; each must be there."""
    found = torch.where(places < 0, places + size, places)
    if not found.is_meta and bool(((found < 0) | (found >= size)).any()):
        raise IndexError(f"a place that is none of {size}")
    return found


def optional(inputs: Sequence[torch.Tensor | None], position: int) -> torch.Tensor | None:
    """Return an input that may have been omitted."""
    return inputs[position] if position < len(inputs) else None


def operands(inputs: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
    """Return all inputs, none of which may have been omitted."""
    if not inputs:
        raise ValueError("it has no inputs")
    return [operand(inputs, position) for position in range(len(inputs))]
