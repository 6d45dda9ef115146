"""Entries: which number of a kernel each entry of its symbol's taps is.

Grouping, strides and dilation only move the numbers of a kernel about, and leave zeros where a
phase has no tap. So a change of the taps is a change of the kernel of the same size, once the
zeros are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch

from lipaudit.operators.symbol import Symbol


@final
@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """A symbol's taps, as numbers of a kernel of some shape."""

    shape: torch.Size
    """Of the kernel."""
    index: torch.Tensor
    """For each entry of the taps its place in the flat kernel; -1 where it is a zero."""
    offsets: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, shape: torch.Size, arrange: Callable[[torch.Tensor], Symbol]) -> "Entries":
        """Find out what `arrange` does with a kernel of this shape, by its ordinal numbers."""
        # Exact in float64, and none of them 0: no tap is left out as one without weight.
        numbers = torch.arange(1, shape.numel() + 1, dtype=torch.float64).reshape(shape)
        symbol = arrange(numbers)
        return cls(shape, symbol.taps.to(torch.int64) - 1, symbol.offsets)

    @property
    def kept(self) -> torch.Tensor:
        """1 where there is a number of the kernel, 0 where there must be a zero."""
        return (self.index >= 0).to(torch.float64)

    def taps(self, kernel: torch.Tensor) -> torch.Tensor:
        """Return the taps of a kernel."""
        flat = torch.cat([kernel.flatten(), kernel.new_zeros(1)])
        return flat[self.index.to(kernel.device)]

    def kernel(self, taps: torch.Tensor) -> torch.Tensor:
        """Return the kernel of these taps."""
        flat = taps.new_zeros(self.shape.numel() + 1)
        flat[self.index.to(taps.device).flatten()] = taps.flatten()
        return flat[:-1].reshape(self.shape)
