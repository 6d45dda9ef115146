"""Sampling: a lower bound of the Lipschitz constant, attained at some input.

The Jacobian of a network at a point never has a larger norm than the network's Lipschitz
constant, so the largest one found is a lower bound. Nothing is proved by it; it shows how
loose the upper bound can be at most.
"""

from collections.abc import Callable, Mapping

import torch

from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.errors import LipauditError
from lipaudit.layers.base import AbstractLinearLayer
from lipaudit.layers.execution import run
from lipaudit.layers.network import Network
from lipaudit.results import Measure

_POINTS = 4
_POWER_STEPS = 12
_FLOPS = 5e10
"""Operations that sampling may take, about five seconds on two cores: fewer points and steps
on a large network, none on a very large one."""
_FLOPS_PER_PRODUCT = 12.0
"""A power step runs forward once and backward twice, each product a multiplication and a sum,
and a backward pass costs two forward ones."""
_MAX_ITEMS = 1 << 22
"""Inputs of more items are not sampled: a lower bound is a convenience, not a claim."""
# Forward and backward passes in float64 err by far less than this relative amount on networks
# of ordinary depth; the label says "computed", not "proved".
_ROUNDING = 1e-9

Map = Callable[[torch.Tensor], torch.Tensor]


def largest_jacobian(
    network: Network, sources: tuple[str, ...], targets: tuple[str, ...]
) -> Measure | None:
    """Return the largest Jacobian norm over random inputs; None where it cannot be sampled."""
    shapes = {edge.name: network.shapes.get(edge.name) for edge in network.graph.inputs}
    sizes = [_items(shape) for shape in shapes.values() if shape is not None]
    if len(sizes) != len(shapes) or sum(sizes) > _MAX_ITEMS:
        return None
    rounds = int(min(_FLOPS / (_FLOPS_PER_PRODUCT * _products(network)), _POINTS * _POWER_STEPS))
    if rounds < 2:
        return None
    generator = torch.Generator().manual_seed(0)
    best = 0.0
    for point in range(max(rounds // _POWER_STEPS, 1)):
        inputs = {
            edge.name: _draw(shapes[edge.name] or (), edge.dtype, generator, scale=2.0**point / 2)
            for edge in network.graph.inputs
        }
        try:
            steps = min(rounds, _POWER_STEPS)
            found = _norm_at(network, inputs, sources, targets, generator, steps=steps)
            best = max(best, found)
        except (LipauditError, RuntimeError, KeyError, TypeError, ValueError, IndexError):
            # An operation without a derivative or a forward pass: no sample, no lower bound.
            return None
    return Measure.of(
        Enclosure.exactly(best * (1 - _ROUNDING), Rigor.NUMERICAL), "largest Jacobian sampled"
    )


def _products(network: Network) -> float:
    """Estimate how many numbers one forward pass multiplies: each weight once an output pixel."""
    total = 1.0
    for step in network.steps:
        if isinstance(step.layer, AbstractLinearLayer) and step.node.outputs:
            weight = step.layer.weights()[0]
            made = _items(network.shapes.get(step.node.outputs[0]) or ())
            total += weight.items * max(made / max(weight.shape[0], 1), 1.0) if weight.shape else 0
    return total


def _norm_at(
    network: Network,
    inputs: Mapping[str, torch.Tensor],
    sources: tuple[str, ...],
    targets: tuple[str, ...],
    generator: torch.Generator,
    *,
    steps: int,
) -> float:
    """Estimate the Jacobian's norm at one point from below, by power iteration."""
    sizes = [inputs[name].numel() for name in sources]

    def outputs(flat: torch.Tensor) -> torch.Tensor:
        parts = torch.split(flat, sizes)
        moved = {n: p.reshape(inputs[n].shape) for n, p in zip(sources, parts, strict=True)}
        values = run(network, {**inputs, **moved}, dtype=torch.float64)
        real = [values[name] for name in targets if values[name].is_floating_point()]
        return torch.cat([value.reshape(-1) for value in real]) if real else flat.new_zeros(0)

    point = torch.cat([inputs[name].reshape(-1) for name in sources]).requires_grad_()
    made = outputs(point)
    if not made.numel() or not made.requires_grad:
        return 0.0
    direction = torch.randn(made.numel(), generator=generator, dtype=torch.float64)
    norm = 0.0
    for _ in range(steps):
        (back,) = torch.autograd.grad(made, point, direction, retain_graph=True)
        # ‖Jᵀu‖ / ‖u‖ is a lower bound of ‖J‖ for every u.
        norm = max(norm, float(back.norm() / direction.norm()))
        if not float(back.norm()) > 0:
            break
        direction = _push_forward(outputs, point, back / back.norm())
        if not float(direction.norm()) > 0:
            break
    return norm if norm < float("inf") else 0.0


def _push_forward(outputs: Map, point: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Return J v as the derivative of u -> <Jᵀu, v>: two backward passes, any operation."""
    made = outputs(point)
    dual = torch.zeros_like(made, requires_grad=True)
    (back,) = torch.autograd.grad(made, point, dual, create_graph=True)
    (pushed,) = torch.autograd.grad(back, dual, direction)
    return pushed.detach()


def _draw(
    shape: tuple[int, ...], dtype: str, generator: torch.Generator, *, scale: float
) -> torch.Tensor:
    kind = getattr(torch, dtype)
    if not kind.is_floating_point:
        return torch.zeros(shape, dtype=kind)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * scale


def _items(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
