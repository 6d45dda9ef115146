"""Slopes of gated recurrent layers: the sharpest among many samples, and what is allowed."""

from collections.abc import Callable
from typing import Any

import torch

from lipaudit.enclosure import Rigor
from lipaudit.layers.base import Gain, example
from lipaudit.layers.recurrent import GRU, LSTM
from tests.layers.runtime import layer_of

Constants = dict[int, torch.Tensor]
Run = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
# torch: input, forget, cell, output and reset, update, new; ONNX: input, output, forget, cell
# and update, reset, new.
ORDERS = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}


def factors(
    op: str, shapes: tuple[tuple[int, ...], ...], constants: Constants, **attributes: Any
) -> list[float]:
    """Return the gain's factors."""
    case = example(op, *shapes, constants=constants, **attributes)
    layer = layer_of(case)
    assert isinstance(layer, GRU | LSTM)
    gain = layer.gain(case.shapes)
    assert isinstance(gain, Gain)
    assert all(factor.rigor is Rigor.PROVED for factor in gain.factors)
    return [factor.upper for factor in gain.factors]


def largest_slope(run: Run, x: torch.Tensor) -> float:
    """Return the largest Jacobian norm of any output at any sample; their axis is the last but one.

    Samples do not meet, so that the gradient of a sum over them holds that of each.
    """
    x = x.clone().requires_grad_()
    found = 0.0
    for made in run(x):
        entries = made.movedim(-2, 0).flatten(1).sum(0)
        rows = [torch.autograd.grad(entry, x, retain_graph=True)[0] for entry in entries]
        each = torch.stack([row.movedim(-2, 0).flatten(1) for row in rows], 1)
        found = max(found, float(torch.linalg.matrix_norm(each, 2).max()))
    return found


def points(steps: int, size: int, count: int = 300) -> torch.Tensor:
    """Return samples of many sizes, each entry with one of its own."""
    generator = torch.Generator().manual_seed(0)
    shape = (steps, count, size)
    draw = torch.randn(shape, generator=generator, dtype=torch.float64)
    return draw * 10 ** (3 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1.5)
