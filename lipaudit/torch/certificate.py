"""Certificates: after training, every layer brought provably below its limit.

Passes of projections first, then a scale factor, until the proved upper bound of the norm of the
stored tensor, in its own dtype, is at most the limit.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from lipaudit.analysis.shapes import InputShape
from lipaudit.enclosure import Enclosure, Rigor, largest
from lipaudit.errors import NotCertified
from lipaudit.operators.convolution import convolution
from lipaudit.operators.dense import DenseOperator
from lipaudit.torch.clipping import clip_layer, distance, symbol_limit
from lipaudit.torch.layers import NOT_FINITE, NOT_KEPT, Layer, compute_for, count_of, find, limit_of
from lipaudit.torch.sizes import Shapes, input_sizes, torus_points
from lipaudit.torch.spectral_norm import SpectralNorm, held_by

_SCALINGS = 12
_MANY_SIZES = 8
"""A layer used at more sizes is proved for every size at once."""
_SETTLED = 1e-4
"""A pass that changes a weight by less than this share is the last one."""


@final
@dataclass(frozen=True, slots=True)
class Certified:
    """One layer before and after."""

    name: str
    before: Enclosure
    after: Enclosure
    change: float
    """‖W' - W‖_F / ‖W‖_F."""
    reason: str = ""
    """Why nothing is known of its norm, which then is unknown: a module of another kind."""


def certify_(
    module: nn.Module,
    to: float = 1.0,
    *,
    layers: str | None = None,
    input_shape: InputShape = None,
    passes: int = 8,
) -> tuple[Certified, ...]:
    """Change a trained module in place so that every layer's norm is proved to be at most `to`.

    Proved is the norm of the stored tensor with the layer's real geometry: on the sizes that
    `input_shape` leads to, or for every input size. Modules with other weights than those of dense
    and convolution layers are listed with a `reason` and an unknown norm.

    At most `passes` pairs of projections come first, then one factor for what is left. A layer that
    meets the limit keeps its bits. Weights that `spectral_norm` holds get a proved divisor. Raises
    `NotCertified` where a layer cannot be brought there; if it is plain that it cannot be, before
    any is changed.
    """
    to, passes = limit_of(to), count_of("passes", passes, "clip-passes", least=0)
    found = find(module, layers)
    covered = [layer for layer in found if layer.is_covered]
    sizes = input_sizes(module, covered, input_shape)
    before = {layer.name: _measured(layer, to, sizes.get(layer.name, ())) for layer in covered}
    groups = _sharing(covered)
    for group in groups:
        _check_same(group, [before[layer.name] for layer in group], to)
    unknown = Enclosure.unknown()
    done = {one.name: Certified(one.name, unknown, unknown, 0.0, one.reason) for one in found}
    for group in groups:
        was = [before[layer.name] for layer in group]
        done.update((one.name, one) for one in _certified(group, was, to, sizes, passes))
    return tuple(done[layer.name] for layer in found)


def _sharing(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Group the layers that share a parameter, directly or through others."""
    groups: list[list[Layer]] = []
    for layer in layers:
        near = [group for group in groups if any(one.stored & layer.stored for one in group)]
        groups = [group for group in groups if group not in near]
        groups.append([*(one for group in near for one in group), layer])
    return groups


def _check_same(group: Sequence[Layer], before: Sequence[Enclosure], to: float) -> None:
    """Raise where layers make different weights of what they share, and one has to be changed."""
    plain = all(layer.chain is None and not layer.reason for layer in group)
    if len(group) > 1 and not plain and not _meets(before, to):
        names = ", ".join(repr(layer.name) for layer in group)
        raise NotCertified(
            f"layers {names} share stored parameters of which a parametrization computes a weight: "
            "changing one changes the others",
            slug="clip-unwritable",
            hint="untie them, or parametrize one module that is used several times",
        )


def proved_norm(layer: Layer, weight: torch.Tensor, in_shapes: Shapes) -> Enclosure:
    """Enclose the largest norm of a layer with this weight on inputs of these shapes.

    Without shapes on any. Norms do not grow with the size in every padding: each is proved.
    """
    compute = compute_for(weight)
    exact = weight.detach().to(torch.float64)
    if layer.geometry is None:
        return DenseOperator(exact, compute).norm().enclosure
    geometry, stated = layer.geometry, in_shapes if len(in_shapes) <= _MANY_SIZES else ()
    return largest(
        convolution(exact, geometry, shape, compute).norm().enclosure
        for shape in (stated or (None,))
    )


@torch.no_grad()
def settle_(module: nn.Module) -> tuple[Certified, ...]:
    """Replace the divisors of `spectral_norm` by proved ones: every weight meets its own limit.

    In place, after training: power iteration comes from below, so that a norm may lie a little
    above what was asked for. The next forward pass in training mode undoes it.
    """
    done: list[Certified] = []
    for layer in find(module, None):
        divided = held_by(layer) if layer.is_covered else None
        if divided is None:
            continue
        if layer.is_absent:
            raise _impossible(layer, layer.reason)
        _check_finite(layer)
        shapes = () if divided.in_shape is None else (divided.in_shape,)
        old = layer.values().clone()
        before = proved_norm(layer, old, shapes)
        _settle([layer], divided, divided.to_norm, {layer.name: shapes})
        after = proved_norm(layer, layer.read(), shapes)
        done.append(Certified(layer.name, before, after, distance(old, layer.values())))
    return tuple(done)


@torch.no_grad()
def _certified(
    group: Sequence[Layer],
    before: Sequence[Enclosure],
    to: float,
    sizes: Mapping[str, Shapes],
    passes: int,
) -> list[Certified]:
    """Bring the layers that share one weight below the limit."""

    def norms() -> list[Enclosure]:
        return [proved_norm(layer, layer.read(), sizes.get(layer.name, ())) for layer in group]

    first, old = group[0], group[0].values().clone()
    if _meets(before, to):
        return [Certified(one.name, was, was, 0.0) for one, was in zip(group, before, strict=True)]
    divided = held_by(first)
    if divided is not None:
        _settle(group, divided, to, sizes)
    else:
        _project(group, to, sizes, passes)
        _scale(first, to, norms)
    after = norms()
    if not _meets(after, to):
        raise NotCertified(
            f"layer {first.name!r} was not proved to meet {to:g} in its dtype", slug="clip-dtype"
        )
    change = distance(old, first.values())
    return [
        Certified(layer.name, was, now, change)
        for layer, was, now in zip(group, before, after, strict=True)
    ]


def _measured(layer: Layer, to: float, in_shapes: Shapes) -> Enclosure:
    """Enclose a layer's norm as it is; raise where it needs to be changed and cannot be."""
    if layer.is_absent:
        raise _impossible(layer, layer.reason)
    _check_finite(layer)
    norm = proved_norm(layer, layer.read(), in_shapes)
    if layer.reason and not _meets([norm], to) and held_by(layer) is None:
        raise _impossible(layer, layer.reason)
    return norm


def _check_finite(layer: Layer) -> None:
    if not bool(torch.isfinite(layer.read()).all()):
        raise _impossible(layer, NOT_FINITE)


def _impossible(layer: Layer, reason: str) -> NotCertified:
    return NotCertified(
        f"layer {layer.name!r} cannot be certified: {reason}",
        slug="clip-unwritable",
        hint="leave it out with layers",
    )


def _meets(norms: Sequence[Enclosure], to: float) -> bool:
    return all(norm.rigor is Rigor.PROVED and norm.upper <= to for norm in norms)


def _settle(
    group: Sequence[Layer], divided: SpectralNorm, to: float, sizes: Mapping[str, Shapes]
) -> None:
    """Store the least divisor with which the effective weight is proved to meet the limit."""
    chain = group[0].chain
    stored = None if chain is None else next(chain.parameters(), None)
    if stored is None:
        raise NotCertified(f"layer {group[0].name!r} has no stored weight", slug="clip-unwritable")
    upper = max(proved_norm(layer, stored, sizes.get(layer.name, ())).upper for layer in group)
    for attempt in range(_SCALINGS):
        if not math.isfinite(upper):
            break
        # Above the exact quotient already: both it and its rounded items have to meet the limit.
        divided.hold(upper / to * (1.0 + divided.grain * 2.0 ** (attempt + 1)))
        proved = [proved_norm(one, one.read(), sizes.get(one.name, ())) for one in group]
        if _meets(proved, to):
            return
    raise NotCertified(
        f"layer {group[0].name!r} was not proved to meet {to:g} in its dtype", slug="clip-dtype"
    )


def _project(group: Sequence[Layer], to: float, sizes: Mapping[str, Shapes], passes: int) -> None:
    """Do pairs of projections until they hardly change anything."""
    for _ in range(passes):
        moved = 0.0
        for layer in group:
            points = None
            if layer.geometry is not None:
                points = torus_points(layer.read(), layer.geometry, sizes.get(layer.name, ()))
            result, _ = clip_layer(layer, symbol_limit(layer, to), points, None, 1)
            moved = max(moved, result.change)
        if moved < _SETTLED:
            return


def _scale(layer: Layer, to: float, norms: Callable[[], list[Enclosure]]) -> None:
    """Shrink a weight until its norms are proved, in its own dtype."""
    stored = layer.read()
    whole, factor = stored.to(torch.float64), 1.0
    for attempt in range(_SCALINGS):
        upper = max(norm.upper for norm in norms())
        if upper <= to:
            return
        if not math.isfinite(upper):
            break
        # A little below the limit, since the cast moves every item; more if that was too little.
        factor *= to / upper * (1.0 - torch.finfo(stored.dtype).eps * 2.0 ** (attempt - 1))
        if not layer.write((whole * factor).to(stored.dtype)):
            raise _impossible(layer, NOT_KEPT)
