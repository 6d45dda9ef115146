"""Sampled frequencies: points of the torus with weights, in one of each pair ±θ.

With them the taps of a symbol and its values are two descriptions of one thing: values come by a
product with a small matrix of waves, and Σ_j w_j Re P*(θ_j) Y_j takes values back to taps.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import final

import torch

from lipaudit.operators.base import Shape
from lipaudit.operators.cells import TURN
from lipaudit.operators.symbol import Offset, roots


@final
@dataclass(frozen=True, eq=False)
class Sampled:
    """Frequencies 2π·m/period, of which nothing but waves at some offsets is wanted."""

    steps: torch.Tensor
    """m, (frequencies, axes)."""
    period: int
    weights: torch.Tensor
    offsets: tuple[Offset, ...]

    @classmethod
    def grid(cls, sizes: Shape, offsets: tuple[Offset, ...]) -> "Sampled":
        """Return those of a torus; the weights make ‖taps‖² the mean of the values'."""
        period = math.lcm(*sizes)
        found: dict[Offset, float] = {}
        for point in product(*map(range, sizes)):
            mirrored = tuple(-at % n for at, n in zip(point, sizes, strict=True))
            found[min(point, mirrored)] = found.get(min(point, mirrored), 0.0) + 1.0
        unit = torch.tensor([period // n for n in sizes])
        steps = torch.tensor(list(found)).reshape(len(found), -1) * unit
        weights = torch.tensor(list(found.values()), dtype=torch.float64) / math.prod(sizes)
        return cls(steps, period, weights, offsets)

    def __len__(self) -> int:
        return len(self.weights)

    def joined(self, others: torch.Tensor) -> "Sampled":
        """Return these and others, in units of a turn/2^40, with weights like the largest here."""
        weights = torch.cat([self.weights, self.weights.max().expand(len(others))])
        return Sampled(torch.cat([self.in_turns, others]), TURN, weights, self.offsets)

    @property
    def in_turns(self) -> torch.Tensor:
        """The frequencies in units of a turn/2^40, to the nearest."""
        return self.steps if self.period == TURN else self.steps * TURN // self.period

    @cached_property
    def waves(self) -> torch.Tensor:
        """The cosines and, below them, the negative sines at all offsets."""
        cosines, sines = roots(self.offsets, self.steps, self.period)
        return torch.cat([cosines, -sines])

    @cached_property
    def weighted(self) -> torch.Tensor:
        """The waves, each times its weight."""
        return self.waves * self.weights.repeat(2).unsqueeze(-1)

    @property
    def gram(self) -> torch.Tensor:
        """What going to values and back does to taps; the identity on a torus without wrapping."""
        return self.waves.mT @ self.weighted

    def values(self, taps: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
        """Return P at these frequencies, in the taps' precision: (frequencies, *taps.shape[1:])."""
        count = len(self)
        waves = torch.cat([self.waves[:count][rows], self.waves[count:][rows]])
        both = waves.to(taps) @ taps.flatten(1)
        half = len(waves) // 2
        return torch.complex(both[:half], both[half:]).reshape(half, *taps.shape[1:])

    def back(self, values: torch.Tensor) -> torch.Tensor:
        """Return the taps Σ_j w_j Re P*(θ_j) Y_j of values (frequencies, ...)."""
        count = len(self)
        flat = values.flatten(1)
        weighted = self.weighted.to(flat.real)
        made = weighted[:count].mT @ flat.real + weighted[count:].mT @ flat.imag
        return made.reshape(len(self.offsets), *values.shape[1:])

    def mean(self, sizes: torch.Tensor) -> float:
        """Return Σ_j w_j of one number a frequency."""
        return float((sizes.to(torch.float64) * self.weights).sum())
