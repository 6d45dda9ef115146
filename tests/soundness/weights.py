"""Chance and weights: everything random about a network, from one seed."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")


class Chance:
    """Draws from one stream of random numbers; every float is one of float32."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def pick(self, count: int) -> int:
        """Draw one of 0 ... count - 1."""
        return int(torch.randint(0, count, (), generator=self.generator))

    def of(self, options: Sequence[Item]) -> Item:
        """Draw one of the options."""
        return options[self.pick(len(options))]

    def flag(self, share: float = 0.5) -> bool:
        """Return True for that share of the draws."""
        return float(torch.rand((), generator=self.generator)) < share

    def between(self, low: float, high: float) -> float:
        """Draw a number that a file in float32 stores exactly."""
        share = torch.rand((), generator=self.generator)
        return float((low + (high - low) * share).float())

    def normal(self, *shape: int) -> torch.Tensor:
        """Draw normal numbers in float32."""
        return torch.randn(shape, generator=self.generator)

    def uniform(self, *shape: int) -> torch.Tensor:
        """Draw numbers from 0 to 1 in float32."""
        return torch.rand(shape, generator=self.generator)


Style = Callable[[Chance, int, int], torch.Tensor]


def _gaussian(chance: Chance, rows: int, columns: int) -> torch.Tensor:
    return chance.normal(rows, columns) / math.sqrt(max(columns, 1))


def _positive(chance: Chance, rows: int, columns: int) -> torch.Tensor:
    return chance.uniform(rows, columns) / math.sqrt(max(columns, 1))


def _signs(chance: Chance, rows: int, columns: int) -> torch.Tensor:
    return chance.normal(rows, columns).sign() / math.sqrt(max(columns, 1))


def _alternating(chance: Chance, rows: int, columns: int) -> torch.Tensor:
    """Neighbours of opposite signs, which a shift of the input adds up."""
    signs: torch.Tensor = 1.0 - 2.0 * (torch.arange(columns) % 2)
    return signs * chance.uniform(rows, columns) / math.sqrt(max(columns, 1))


def _sparse(chance: Chance, rows: int, columns: int) -> torch.Tensor:
    kept = (chance.uniform(rows, columns) < 0.2).float()
    return chance.normal(rows, columns) * kept


def _rank_one(chance: Chance, rows: int, columns: int) -> torch.Tensor:
    return chance.normal(rows, 1) * chance.normal(1, columns) / math.sqrt(max(columns, 1))


def _duplicated(chance: Chance, rows: int, columns: int) -> torch.Tensor:
    row = chance.normal(1, columns) / math.sqrt(max(columns, 1))
    return row.repeat(rows, 1) * chance.normal(rows, 1).sign()


def _constant(chance: Chance, rows: int, columns: int) -> torch.Tensor:
    return torch.full((rows, columns), chance.between(-1, 1))


def _orthogonal(chance: Chance, rows: int, columns: int) -> torch.Tensor:
    size = max(rows, columns)
    factor: torch.Tensor = torch.linalg.qr(chance.normal(size, size))[0]
    return factor[:rows, :columns].contiguous()


def _one_large(chance: Chance, rows: int, columns: int) -> torch.Tensor:
    made = 1e-3 * chance.normal(rows, columns)
    if rows and columns:
        made[chance.pick(rows), chance.pick(columns)] = 3.0
    return made


def _halves(chance: Chance, rows: int, columns: int) -> torch.Tensor:
    """Numbers of float16, as half-precision checkpoints hold."""
    return _gaussian(chance, rows, columns).half().float()


def _zero(_: Chance, rows: int, columns: int) -> torch.Tensor:
    return torch.zeros(rows, columns)


STYLES: Sequence[Style] = (
    *(_gaussian,) * 6, _positive, _signs, _alternating, _sparse, _rank_one, _duplicated,
    _constant, _orthogonal, _orthogonal, _one_large, _halves,
)  # fmt: skip
SCALES = (1.0, 1.0, 1.0, 1.0, 1.5, 3.0, 0.4, 0.01, 20.0)
RARE_SCALES = (1e-7, 1e5, 1e-3, 300.0)


def weights(chance: Chance, *shape: int) -> torch.Tensor:
    """Draw a weight in one of many styles and scales; its first axis is that of the outputs."""
    rows = shape[0] if shape else 1
    columns = math.prod(shape[1:])
    style = _zero if chance.flag(0.005) else chance.of(STYLES)
    scale = chance.of(RARE_SCALES if chance.flag(0.04) else SCALES)
    return (scale * style(chance, rows, columns)).reshape(shape)


def offsets(chance: Chance, size: int) -> torch.Tensor:
    """Draw a bias: none, small, or so large that many units never change their side."""
    return chance.of((0.0, 0.1, 1.0, 1.0, 5.0)) * chance.normal(size)


def scales(chance: Chance, size: int) -> torch.Tensor:
    """Draw the scale of a normalization: about one, of both signs, with zeros, or far off."""
    made = chance.normal(size)
    kind = chance.pick(4)
    if kind == 0:
        return 1 + 0.1 * made
    if kind == 1:
        return made * (chance.uniform(size) < 0.7)
    return made * chance.of((1.0, 3.0, 0.01))


def variances(chance: Chance, size: int) -> torch.Tensor:
    """Draw running variances: usual ones, nearly none, huge, and some of them zero."""
    made = chance.uniform(size) * chance.of((1.0, 1.0, 1e-4, 1e4)) + chance.of((0.1, 0.1, 0.0))
    return made * (chance.uniform(size) < 0.9) if chance.flag(0.2) else made
