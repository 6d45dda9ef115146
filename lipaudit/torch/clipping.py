"""Clipping in training: every few steps a pair of projections, warm-started from the weights.

Sedghi, Gupta & Long (2019, section 3) run the two projections once every few steps and let them
alternate with the training. What a layer looked like at the last call is kept: the norm at a
frequency has moved by at most Σ_t ‖ΔK_t‖_F since then, so that frequencies whose norm was below
the limit by more need no look, and a layer that is far below the limit costs almost nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import final
from weakref import WeakKeyDictionary

import torch
from torch import nn

from lipaudit.analysis.shapes import InputShape
from lipaudit.errors import UsageError
from lipaudit.operators.ball import beyond
from lipaudit.operators.base import Shape
from lipaudit.operators.batches import between_steps
from lipaudit.operators.geometry import ConvGeometry
from lipaudit.operators.padded import shown_at_most
from lipaudit.operators.single_pass import Torus, precision
from lipaudit.torch.layers import (
    NOT_FINITE,
    NOT_KEPT,
    Layer,
    check_glob,
    compute_for,
    count_of,
    find,
    limit_of,
)
from lipaudit.torch.probe import near_one
from lipaudit.torch.sizes import KnownSizes, torus_points

_ROUNDING = 1e-5
"""Slack for the rounding of remembered norms in single precision."""
_NOISE = 1e-3
"""Up to this share of the limit the rounding errors of a projection do not matter."""
_SQUARED_EXACTLY = (1e-12, 1e18)
"""Between these a Frobenius norm is found without scaling, in single precision too: no square of
an entry that counts leaves its range."""
_HEADROOM = 6
"""A weight that is scaled down first has a Frobenius norm of so many powers of two times the limit,
or less."""


@final
@dataclass(frozen=True, slots=True)
class Clipped:
    """What one call did to one layer."""

    name: str
    change: float
    """‖W' - W‖_F / ‖W‖_F."""
    looked_at: int
    """Frequencies at which the symbol was looked at; 1 at most for a dense layer."""
    of: int
    """Frequencies there are."""
    reason: str = ""
    """Why the layer was left alone; empty when it is clipped."""


@dataclass(slots=True)
class _Look:
    """What a layer looked like when it was last looked at."""

    weight: torch.Tensor
    norms: torch.Tensor
    """At least the norm of the symbol at each frequency."""
    torus: Torus | None
    """None for what is one matrix at every frequency."""
    kind: tuple[ConvGeometry | None, Shape | None]
    """The geometry, and the points of the torus that were asked for."""


@final
@dataclass(frozen=True, slots=True)
class _Wish:
    """What is asked for; together with the module it names a counter."""

    to: float
    every: int
    layers: str | None
    pairs: int
    input_shape: str | tuple[int, ...] | None


@dataclass(slots=True)
class _Memory:
    """The calls so far, and the last looks, by name of the layer."""

    calls: int = 0
    looks: dict[str, _Look] = field(default_factory=dict)
    sizes: KnownSizes = field(default_factory=KnownSizes)


_MEMORIES: WeakKeyDictionary[nn.Module, dict[_Wish, _Memory]] = WeakKeyDictionary()


def clip_(
    module: nn.Module,
    to: float = 1.0,
    every: int = 1,
    *,
    layers: str | None = None,
    pairs: int = 1,
    input_shape: InputShape = None,
) -> tuple[Clipped, ...] | None:
    """Clip the layers of a module in place; call it after every step of the optimizer.

    Acts on each `every`-th call and returns what it did, None on the calls between. Calls are
    counted for each module and set of arguments, as long as the module lives; a copy of the
    module counts anew (`Clipper` holds the count itself).

    After it norms are near the limit `to`, not below it for certain: `certify_` sees to that.
    `layers` is a glob of names (or several, with commas). `pairs` pairs of projections are done.
    A convolution is clipped on a torus of four points a tap; with `input_shape` (3x32x32) on one
    of the (largest) size that it really receives. Modules with other weights are left alone, and
    the result says so. Copies that reflect and replicate padding make of a pixel
    count: the kernel is clipped to the limit over their root.
    """
    # Nearly all calls only count, so that they must cost next to nothing.
    texts = isinstance(layers, str | None) and isinstance(input_shape, str | tuple | None)
    is_plain = texts and all(isinstance(number, float | int) for number in (to, every, pairs))
    wish = (_known_wish if is_plain else _wish)(to, every, layers, pairs, input_shape)
    memories = _MEMORIES.get(module)
    if memories is None:
        memories = _MEMORIES[module] = {}
    memory = memories.get(wish)
    if memory is None:
        memory = memories[wish] = _Memory()
    return _called(module, wish, memory)


@final
class Clipper:
    """`clip_` with its count and what it remembers in one object, in place of a hidden one.

    It holds no tensors that training needs: it is not saved with a checkpoint, and a new one
    starts with a full look at every layer.
    """

    def __init__(
        self,
        module: nn.Module,
        to: float = 1.0,
        every: int = 1,
        *,
        layers: str | None = None,
        pairs: int = 1,
        input_shape: InputShape = None,
    ) -> None:
        """Take the arguments of `clip_`."""
        self.module = module
        self._wish = _wish(to, every, layers, pairs, input_shape)
        self._memory = _Memory()

    def step(self) -> tuple[Clipped, ...] | None:
        """Count a step of the optimizer, and clip if it is time."""
        return _called(self.module, self._wish, self._memory)

    def clip(self) -> tuple[Clipped, ...]:
        """Clip now, whatever the count."""
        return _clip_all(self.module, self._wish, self._memory)


def clip_layer(
    layer: Layer, limit: float, points: Shape | None, look: _Look | None, pairs: int
) -> tuple[Clipped, _Look | None]:
    """Do pairs of projections on one layer; return what was done, and the look to remember."""
    weight = layer.values()
    if not bool(torch.isfinite(weight).all()):
        return Clipped(layer.name, 0.0, 0, 0, NOT_FINITE), None
    look = _look_at(layer, weight, points, look)
    frequencies, looked_at, new = len(look.norms), 0, _resolved(weight, limit)
    for _ in range(pairs):
        norms = look.norms + _drift(new - look.weight)
        chosen = torch.nonzero(~(norms <= limit)).squeeze(1)
        if not len(chosen):
            break
        looked_at = max(looked_at, len(chosen))
        correction, met = _correction(layer, look.torus, new, limit, chosen)
        norms[chosen] = met * (1.0 + _ROUNDING)
        look = _Look(new.clone(), norms, look.torus, look.kind)
        if not bool(correction.any()):
            break
        new = new - correction.reshape(new.shape)
    if new is weight:
        return Clipped(layer.name, 0.0, looked_at, frequencies), look
    # Before it is written: the values may be the weight itself.
    change = distance(weight, new)
    if not layer.write(new):
        return Clipped(layer.name, 0.0, looked_at, frequencies, NOT_KEPT), None
    return Clipped(layer.name, change, looked_at, frequencies), look


def distance(old: torch.Tensor, new: torch.Tensor) -> float:
    """Return ‖W' - W‖_F / ‖W‖_F, 0 of a weight of zeros."""
    whole = float(torch.linalg.vector_norm(old))
    if _SQUARED_EXACTLY[0] < whole < _SQUARED_EXACTLY[1]:
        return float(torch.linalg.vector_norm(new - old)) / whole
    scaled, exponent = near_one(old)
    half = torch.div(exponent, 2, rounding_mode="floor")
    other = torch.ldexp(torch.ldexp(new, -half), half - exponent)
    size = float(torch.linalg.vector_norm(scaled))
    return float(torch.linalg.vector_norm(other - scaled)) / size if size > 0 else 0.0


def symbol_limit(layer: Layer, to: float) -> float:
    """Return to what the symbol must be clipped, so that the layer meets the limit."""
    if layer.geometry is None:
        return to
    sizes = tuple(layer.values().shape[2:])
    return to / math.sqrt(shown_at_most(layer.geometry, sizes))


def _wish(to: float, every: int, layers: str | None, pairs: int, input_shape: InputShape) -> _Wish:
    limit = limit_of(to)
    check_glob(layers)
    every, pairs = count_of("every", every, "clip-every"), count_of("pairs", pairs, "clip-every")
    if isinstance(input_shape, Mapping):
        raise UsageError("clip_ takes the shape of one input", slug="shape", hint="as in 3x32x32")
    stated = input_shape if isinstance(input_shape, str | None) else tuple(input_shape)
    return _Wish(limit, every, layers, pairs, stated)


_known_wish = lru_cache(maxsize=64, typed=True)(_wish)


def _called(module: nn.Module, wish: _Wish, memory: _Memory) -> tuple[Clipped, ...] | None:
    memory.calls += 1
    if memory.calls % wish.every:
        return None
    with between_steps():
        return _clip_all(module, wish, memory)


@torch.no_grad()
def _clip_all(module: nn.Module, wish: _Wish, memory: _Memory) -> tuple[Clipped, ...]:
    layers = find(module, wish.layers)
    sizes = memory.sizes.of(module, layers, wish.input_shape)
    done: list[Clipped] = []
    seen: set[object] = set()
    for layer in layers:
        if layer.reason:
            done.append(Clipped(layer.name, 0.0, 0, 0, layer.reason))
            continue
        if (layer.key, layer.geometry) in seen:
            done.append(Clipped(layer.name, 0.0, 0, 0, "its weight is that of another layer"))
            continue
        seen.add((layer.key, layer.geometry))
        points = None
        if layer.geometry is not None:
            points = torus_points(layer.read(), layer.geometry, sizes.get(layer.name, ()))
        limit = symbol_limit(layer, wish.to)
        result, look = clip_layer(layer, limit, points, memory.looks.get(layer.name), wish.pairs)
        done.append(result)
        if look is not None:
            memory.looks[layer.name] = look
    return tuple(done)


def _look_at(layer: Layer, weight: torch.Tensor, points: Shape | None, look: _Look | None) -> _Look:
    """Return the last look if it still fits; else one that knows nothing."""
    kind = layer.geometry, points
    known = look is not None and (
        look.kind == kind
        and look.weight.shape == weight.shape
        and look.weight.dtype == weight.dtype
        and look.weight.device == weight.device
    )
    if look is not None and known:
        return look
    torus = None
    if layer.geometry is not None and math.prod(weight.shape[2:]) > 1:
        torus = Torus.of(tuple(weight.shape), layer.geometry, points)
    count = 1 if torus is None else len(torus.frequencies)
    unknown = torch.full((count,), math.inf, dtype=torch.float64)
    return _Look(torch.zeros_like(weight), unknown, torus, kind)


def _resolved(weight: torch.Tensor, limit: float) -> torch.Tensor:
    """Scale a weight down whose rounding errors are as large as the limit.

    W - (W - P(W)) would be made of them alone: zero of a float32 weight of norm 1e38. By a power
    of two, to a norm of which the limit is still a good part.
    """
    if float(torch.linalg.vector_norm(weight)) * torch.finfo(weight.dtype).eps <= limit * _NOISE:
        return weight
    scaled, _ = near_one(weight)
    size = float(torch.linalg.vector_norm(scaled))
    wanted = math.floor(math.log2(limit) - math.log2(size)) + _HEADROOM
    return scaled * 2.0**wanted


def _drift(change: torch.Tensor) -> float:
    """Bound by how much the norm at any frequency has moved: Σ_t ‖ΔK_t‖_F."""
    taps = change.flatten(2) if change.dim() > 2 else change.unsqueeze(-1)
    return float(torch.linalg.vector_norm(taps, dim=(0, 1)).sum())


def _correction(
    layer: Layer, torus: Torus | None, weight: torch.Tensor, limit: float, chosen: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what one pair of projections takes away, and the norms at the chosen frequencies."""
    compute = compute_for(weight)
    if torus is not None:
        taken, norms = torus.correction(weight, limit, compute, chosen)
        return taken, norms.amax(1).to("cpu", torch.float64)
    # A dense layer, or a kernel of one tap: one matrix for each group, clipped exactly.
    groups = 1 if layer.geometry is None else layer.geometry.groups
    blocks = weight.to(precision(weight, limit)).reshape(groups, weight.shape[0] // groups, -1)
    found = beyond(blocks, limit, compute)
    return found.excess.to(weight.dtype), found.norms.amax().to("cpu", torch.float64)
