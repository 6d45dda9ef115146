"""Modules read through torch.export, live and from a file, and torch's own results of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from lipaudit.formats.detect import read_model
from lipaudit.formats.live import from_module
from lipaudit.graph.model import Model
from lipaudit.layers import network
from lipaudit.layers.execution import run

Shape = tuple[int, ...]
Operation = Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function: Operation) -> None:
        super().__init__()
        self.function = function

    def forward(self, *x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        return self.function(*x)


def both_readings(module: nn.Module, shapes: Sequence[Shape], folder: Path) -> tuple[Model, Model]:
    """Read a module live, and from the archive that torch makes of it."""
    module.eval()
    with torch.no_grad():
        program = torch.export.export(module, tuple(torch.zeros(shape) for shape in shapes))
    torch.export.save(program, folder / "m.pt2")
    return from_module(module, list(shapes)), read_model(str(folder / "m.pt2"))


def flattened(made: object) -> list[torch.Tensor]:
    """List the tensors in a module's result, in order."""
    if isinstance(made, torch.Tensor):
        return [made]
    assert isinstance(made, tuple)
    return [tensor for part in made for tensor in flattened(part)]


def computed_by(
    model: Model, inputs: Sequence[torch.Tensor], dtype: torch.dtype | None
) -> list[torch.Tensor]:
    """Run a model's graph; nothing in it may be left without a translation."""
    assert not [node.op for node in model.graph.nodes if node.domain == "aten"]
    names = [edge.name for edge in model.graph.inputs]
    made = run(network.build(model.graph), dict(zip(names, inputs, strict=True)), dtype)
    return [made[edge.name] for edge in model.graph.outputs]


def assert_same(module: nn.Module, shapes: Sequence[Shape], folder: Path) -> None:
    """Compare both readings with torch, in float32 and in float64."""
    torch.manual_seed(1)
    inputs = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    short = [x.float() for x in inputs]
    models = both_readings(module, shapes, folder)
    with torch.no_grad():
        for model in models:
            truth = flattened(module(*short))
            for made, true in zip(computed_by(model, short, None), truth, strict=True):
                torch.testing.assert_close(made, true, rtol=1e-5, atol=1e-5)
        found = [computed_by(model, inputs, torch.float64) for model in models]
        truth = flattened(module.double()(*inputs))
    for results in found:
        for made, true in zip(results, truth, strict=True):
            torch.testing.assert_close(made, true, rtol=1e-12, atol=1e-12)


def jacobian_norm(module: nn.Module, x: torch.Tensor) -> float:
    """Return the norm of the Jacobian of the first result at a point, by autograd."""

    def first(point: torch.Tensor) -> torch.Tensor:
        return flattened(module(point))[0]

    jacobian = torch.func.jacrev(first)(x)
    matrix = jacobian.reshape(-1, x.numel())
    return float(torch.linalg.svdvals(matrix)[0])
