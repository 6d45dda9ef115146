"""Modules: random torch networks, with branches, and plain chains for files without a graph."""

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tests.soundness import blocks, drawing
from tests.soundness.drawing import MAKERS, Shape
from tests.soundness.weights import Chance

_LARGEST = 120
"""Items that a signal may have: Jacobians are written out."""
_OUTPUTS = 40
_STARTS: tuple[Shape, ...] = (
    (3,), (5,), (8,), (1,), (12,), (2, 5), (3, 4), (1, 9), (4, 6), (3, 7), (1, 4, 4), (2, 5, 3),
    (2, 4, 4), (3, 3, 5), (1, 7, 7), (4, 3, 3), (1, 3, 3, 3), (2, 2, 3, 4),
)  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A network of torch, and the shape of one input."""

    module: nn.Module
    shape: Shape


def _made(module: nn.Module, shape: Shape) -> Shape | None:
    """Return what a module makes of a signal, None where it does not run or grows too large."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module.eval()
            made = module(torch.zeros(2, *shape))
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError, AssertionError):
        return None
    if made.shape[:1] != (2,) or made.dim() < 2 or made.dim() > 5:
        return None
    items = math.prod(made.shape[1:])
    return tuple(made.shape[1:]) if 0 < items <= _LARGEST else None


def _step(chance: Chance, shape: Shape, depth: int) -> tuple[nn.Module, Shape] | None:
    """Draw one step of a network; None where it does not fit."""
    if depth < 2 and chance.flag(0.18):
        part = _joined(chance, shape, depth)
    else:
        try:
            part = chance.of(MAKERS[len(shape)])(chance, shape)
        except (ValueError, RuntimeError, AssertionError):  # sizes that torch refuses
            return None
    made = _made(part, shape)
    return None if made is None else (part, made)


def _joined(chance: Chance, shape: Shape, depth: int) -> nn.Module:
    """Draw a skip or two branches."""
    first, made = _row(chance, shape, 1 + chance.pick(3), depth + 1)
    if made == shape and chance.flag(0.7):
        return blocks.Skip(first, chance.of((1.0, -1.0, 0.5)), chance.of((1.0, 1.0, -1.0, 0.5)))
    for _ in range(4):
        second, other = _row(chance, shape, 1 + chance.pick(2), depth + 1)
        if other == made:
            return blocks.Branches(first, second, chance.of(blocks.JOINS))
    return first


def _row(chance: Chance, shape: Shape, steps: int, depth: int) -> tuple[nn.Sequential, Shape]:
    """Draw steps one after the other."""
    parts: list[nn.Module] = []
    for _ in range(4 * steps):
        found = _step(chance, shape, depth)
        if found is not None:
            part, shape = found
            parts.append(part)
        if len(parts) == steps:
            break
    return nn.Sequential(*parts), shape


def network(chance: Chance) -> Drawn:
    """Draw a network with branches."""
    start = chance.of(_STARTS)
    row, shape = _row(chance, start, chance.of((1, 1, 2, 3, 4, 5, 6, 8)), 0)
    parts = list(row)
    if math.prod(shape) > _OUTPUTS:
        parts += [nn.Flatten(), drawing.linear(chance, math.prod(shape), 4)]
    if not parts:
        parts.append(nn.Tanh())
    return Drawn(nn.Sequential(*parts).eval(), start)


_GAPS = (nn.ReLU, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.Hardtanh, nn.Identity, nn.Softsign)


def chain(chance: Chance) -> Drawn:
    """Draw layers one after the other, with maps between them that do not stretch.

    What a file of weights alone does not say is drawn as it may be: stride, dilation, zeros or a
    circle around the image.
    """
    if chance.flag():
        sizes = [1 + chance.pick(8) for _ in range(2 + chance.pick(5))]
        parts: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            parts += [drawing.linear(chance, inputs, outputs), chance.of(_GAPS)()]
        return Drawn(nn.Sequential(*parts[:-1]).eval(), (sizes[0],))
    rank = 1 + chance.pick(3)
    channels = 1 + chance.pick(3)
    shape: Shape = (channels, *(2 + chance.pick(9 // rank) for _ in range(rank)))
    start, parts = shape, []
    for _ in range(1 + chance.pick(3)):
        for layer in (_convolution(chance, shape), _between(chance, shape)):
            made = _made(layer, shape)
            if made is not None:
                parts.append(layer)
                shape = made
    outputs = 1 + chance.pick(6)
    parts += [nn.Flatten(), drawing.linear(chance, math.prod(shape), outputs)]
    return Drawn(nn.Sequential(*parts).eval(), start)


def _convolution(chance: Chance, shape: Shape) -> nn.Module:
    rank = len(shape) - 1
    kinds: Sequence[Callable[..., nn.Module]] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    sizes = tuple(1 + chance.pick(3) for _ in range(rank))
    pads = tuple(chance.pick(3) for _ in range(rank))
    gap = chance.of((1, 1, 2))
    # What is assumed of such a file: a circle reaches no farther than the kernel.
    short = all(2 * pad <= gap * (size - 1) for pad, size in zip(pads, sizes, strict=True))
    mode = chance.of(("zeros", "zeros", "circular"))
    layer = kinds[rank - 1](
        shape[0],
        1 + chance.pick(4),
        sizes,
        stride=tuple(chance.of((1, 1, 2)) for _ in range(rank)),
        padding=pads,
        dilation=gap,
        bias=chance.flag(),
        padding_mode=mode if short else "zeros",
    )
    return drawing.filled(chance, layer)


def _between(chance: Chance, shape: Shape) -> nn.Module:
    if chance.flag(0.25):
        pools: Sequence[Callable[..., nn.Module]] = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
        return pools[len(shape) - 2](2)
    gap: Callable[[], nn.Module] = chance.of(_GAPS)
    return gap()
