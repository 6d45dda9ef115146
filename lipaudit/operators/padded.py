"""Norms of padded convolutions at one size, too large to be written out as matrices.

* **Zero padding** is a compression: the operator on n points consists of rows and columns of
  the circular one on any torus of N points on which the padding does not reach around, so its
  norm is at most that one's, and at most the supremum over all frequencies. The circular norm
  at n itself is no bound: [-1, 2, -1] on 3 points has norm 3 circular and 3.414 zero-padded.
* **Circular padding** of exactly the kernel's reach, with a stride that divides the size, is
  the torus. With less padding rows are missing; a stride deletes rows too.
* **Reflect and replicate padding** show a pixel several times; padding is a map of its own,
  of norm √(copies of one pixel), before a convolution without padding.

Lower ends are quotients ‖Ax‖/‖x‖ of the operator itself.
"""

import math
from dataclasses import replace
from itertools import product

import torch

from lipaudit.device import Compute
from lipaudit.enclosure import Enclosure
from lipaudit.operators import circular, krylov
from lipaudit.operators.ascent import Peak
from lipaudit.operators.base import Norm, Shape
from lipaudit.operators.cells import Grid
from lipaudit.operators.certify import ROOM, UNDERFLOW, gamma
from lipaudit.operators.correlation import Correlation
from lipaudit.operators.geometry import ConvGeometry, PaddingMode
from lipaudit.operators.size_free import Supremum, supremum
from lipaudit.operators.strided import phases, polyphase, reduced

_GAIN = 5e-4
"""A torus on which the norm can be at most that much below the supremum is not looked at."""
_LANCZOS_FLOPS = 8e9
_LANCZOS_STEPS = (3, 40)
"""Steps toward the lower end: what the work allows, within these."""

_TRIAL_COPIES = 6
"""A trial vector, its complex wave and their images, in real vectors of one length."""


def is_torus(conv: Correlation) -> bool:
    """Tell whether the operator is exactly a circular convolution on a torus."""
    g = conv.geometry
    return g.mode is PaddingMode.CIRCULAR and all(
        low + high == reach and n % s == 0
        for (low, high), reach, n, s in zip(g.padding, conv.reach, conv.wide, g.stride, strict=True)
    )


def on_torus(conv: Correlation, compute: Compute) -> Norm:
    """Enclose the norm of an operator that is a torus; beyond the work limit by its supremum."""
    symbol = polyphase(conv.kernel, conv.geometry)
    sizes = tuple(n // s for n, s in zip(conv.wide, conv.geometry.stride, strict=True))
    name = f"circular {_by(conv.wide)}"
    grid = Grid(sizes, (0,) * len(sizes))
    if not grid.is_countable:
        return bounded(conv, compute, name)
    # The reduced symbol runs through the same matrices, at other frequencies when dilated.
    best = None
    if not circular.has_few_points(grid):
        best = supremum(reduced(conv.kernel, conv.geometry), compute)
    found = circular.torus_norm(symbol, grid, compute, best)
    return Norm(found.enclosure, f"{name}, every frequency")


def bounded(conv: Correlation, compute: Compute, name: str) -> Norm:
    """Enclose the norm between a quotient of the operator and the least of the true bounds."""
    if conv.geometry.mode is PaddingMode.ZEROS:
        best, why = _compression(conv, compute)
        upper = best.enclosure
    else:
        compute = replace(compute, enough=None)  # copies multiply it
        best = supremum(reduced(conv.kernel, conv.geometry), compute)
        upper, why = _with_copies(conv, best.enclosure, compute)
    lower = Enclosure.exactly(_quotient(conv, best.peak, compute))
    method = f"{name} <= {why}"
    return Norm(Enclosure(min(lower.lo, upper.hi), upper.hi, upper.rigor), method)


def size_free(
    kernel: torch.Tensor, geometry: ConvGeometry, found: Enclosure, compute: Compute
) -> Enclosure:
    """Bound the norm for every input size, for a padding mode that is not zeros.

    `found` is the supremum of the convolution without padding.
    """
    sizes = kernel.shape[2:]
    reach = tuple(d * (k - 1) for d, k in zip(geometry.dilation, sizes, strict=True))
    bounds = [found.times(Enclosure.sqrt_of(_most_copies(geometry)))]
    if _shows_at_most_once(geometry, reach):
        bounds.append(_without_stride(kernel, geometry, compute))
    return min(bounds, key=lambda bound: bound.hi)


def shown_at_most(geometry: ConvGeometry, sizes: Shape) -> int:
    """Bound the copies of one pixel that count: ‖A‖² is at most that times sup ‖P(θ)‖².

    1 for zeros, and for circular padding that reaches around no farther than the kernel.
    """
    reach = tuple(d * (k - 1) for d, k in zip(geometry.dilation, sizes, strict=True))
    if geometry.mode is PaddingMode.ZEROS or _shows_at_most_once(geometry, reach):
        return 1
    return _most_copies(geometry)


def _most_copies(geometry: ConvGeometry) -> int:
    """Bound the copies of one pixel over all sizes that torch's padding accepts."""
    copies = 1
    for low, high in geometry.padding:
        before, after = max(low, 0), max(high, 0)
        if geometry.mode is PaddingMode.REPLICATE:
            # One pixel alone is copied to both sides.
            copies *= 1 + before + after
        else:
            # Reflection and one turn around show a pixel at most once more on either side.
            copies *= 1 + (before > 0) + (after > 0)
    return copies


def _shows_at_most_once(geometry: ConvGeometry, reach: Shape) -> bool:
    """Tell whether every output of circular padding is one of the stride-1 torus, none twice."""
    return geometry.mode is PaddingMode.CIRCULAR and all(
        low + high <= r for (low, high), r in zip(geometry.padding, reach, strict=True)
    )


def _without_stride(kernel: torch.Tensor, geometry: ConvGeometry, compute: Compute) -> Enclosure:
    """Bound by the stride-1 circular convolution on whatever torus: a stride deletes rows."""
    ones = (1,) * geometry.rank
    plain = ConvGeometry(ones, geometry.padding, ones, geometry.groups)
    return supremum(reduced(kernel, plain), compute).enclosure


def _with_copies(conv: Correlation, found: Enclosure, compute: Compute) -> tuple[Enclosure, str]:
    copies = found.times(Enclosure.sqrt_of(conv.copies))
    if _shows_at_most_once(conv.geometry, conv.reach):
        plain = _without_stride(conv.kernel, conv.geometry, compute)
        if plain.hi < copies.hi:
            return plain, "sup over frequencies at stride 1"
    return copies, f"sup over frequencies x √{conv.copies} copies"


def _compression(conv: Correlation, compute: Compute) -> tuple[Supremum, str]:
    """Bound zero padding by the least of the tori that it is a compression of, or by all.

    The zeros keep signals from going around, so it does not matter with which sign they would
    come back: twisting an axis gives other frequencies and often misses the maximum.
    """
    g = conv.geometry
    points = []
    for n, (low, high), reach, s in zip(conv.wide, g.padding, conv.reach, g.stride, strict=True):
        # Zeros read on either side must lie outside the n points on the torus too, and no two
        # windows may coincide there.
        need = max(n + max(low, high, 0), n + low + high - reach)
        points.append(math.ceil(need / s) * s)
    sizes = tuple(n // s for n, s in zip(points, g.stride, strict=True))
    symbol = polyphase(conv.kernel, g)
    grids = [Grid(sizes, twists) for twists in product((0, 1), repeat=len(sizes))]
    if all(map(circular.has_few_points, grids)):
        best, (first, *others) = None, grids
        least, why = circular.torus_norm(symbol, first, compute), _torus_name(first, points)
    else:
        best, others = supremum(reduced(conv.kernel, g), compute), grids
        least, why = best, "sup over frequencies"
        if compute.enough is not None and least.enclosure.upper <= compute.enough:
            return least, why
        angle = sum(math.pi * r / n for r, n in zip(symbol.radii, sizes, strict=True))
        if angle < 1.57 and 1.0 - math.cos(angle) < _GAIN:
            return least, why
        if not grids[0].is_countable:
            return least, why
    for grid in others:
        if circular.attained_near(symbol, grid, least.peak) >= least.enclosure.upper:
            continue
        torus = circular.torus_norm(symbol, grid, compute, best, least.peak)
        if torus.enclosure.hi < least.enclosure.hi:
            least, why = torus, _torus_name(grid, points)
    return least, why


def _torus_name(grid: Grid, points: list[int]) -> str:
    return f"{'anti-periodic' if any(grid.twists) else 'periodic'} torus {_by(tuple(points))}"


def _quotient(conv: Correlation, peak: Peak, compute: Compute) -> float:
    """Return a proved lower bound of the operator's norm from one trial vector.

    It is 0 where the vector would not fit: a file may declare an input of any size.
    """
    if not can_try(conv, compute):
        return 0.0
    start = _wave(conv, peak)
    least, most = _LANCZOS_STEPS
    steps = int(min(max(_LANCZOS_FLOPS / (4.0 * conv.multiplications), least), most))
    vector = krylov.top_vector(
        lambda x: conv.apply(x.unsqueeze(0)).squeeze(0),
        lambda y: conv.adjoint(y.unsqueeze(0)).squeeze(0),
        start,
        steps=steps,
        max_memory=compute.max_memory,
    )
    count = vector.numel()
    length = float(torch.linalg.vector_norm(vector)) * (1.0 + gamma(count + 8))
    image = conv.apply(vector.unsqueeze(0))
    reached = float(torch.linalg.vector_norm(image)) * (1.0 - gamma(image.numel() + 8))
    if not (length > 0 and math.isfinite(reached)):
        return 0.0
    return max(0.0, reached / length * (2.0 - ROOM) - apply_doubt(conv))


def can_try(conv: Correlation, compute: Compute) -> bool:
    """Tell whether there is room for a vector to apply the operator to."""
    sizes = (
        conv.wide_channels * math.prod(conv.wide),
        *map(math.prod, (conv.in_shape, conv.out_shape)),
    )
    return _TRIAL_COPIES * 8 * max(sizes) <= compute.max_memory


def apply_doubt(conv: Correlation) -> float:
    """Return c with ‖computed A x - A x‖ <= c‖x‖.

    |computed A x - A x| <= γ|A||x| and ‖|A|‖ <= ‖Σ|K_t|‖_F √copies. One output sums at most all
    taps of all channels.
    """
    terms = conv.kernel[0].numel() if not conv.geometry.transposed else conv.kernel[:, 0].numel()
    magnitude = reduced(conv.kernel, conv.geometry).magnitude * math.sqrt(conv.copies)
    return gamma(terms + 2) * magnitude * ROOM + UNDERFLOW


def _wave(conv: Correlation, peak: Peak) -> torch.Tensor:
    """Return a start vector: the wave of a peak, fading to the borders.

    On a large input it is stretched by nearly the supremum, so few steps are left to do.
    """
    g = conv.geometry
    if any(d != 1 for d in g.dilation):
        return krylov.scrambled(conv.in_shape, conv.kernel.device)
    channels = conv.wide_channels // g.groups
    wave = torch.zeros((conv.wide_channels, *conv.wide), dtype=torch.float64)
    sizes = conv.kernel.shape[2:]
    read = [len(phases(k, s, 1)) for k, s in zip(sizes, g.stride, strict=True)]
    amplitudes = peak.vector.reshape(*read, channels)
    phase = torch.ones((), dtype=torch.complex128)
    index: list[torch.Tensor] = []
    for axis, n in enumerate(conv.wide):
        # Windows start at multiples of the stride after the padding.
        position = torch.arange(n) + g.padding[axis][0]
        angle = 2.0 * math.pi * float(peak.turns[axis])
        fading = torch.sin(math.pi * torch.arange(1, n + 1) / (n + 1)).to(torch.float64)
        step, within = position // g.stride[axis], position % g.stride[axis]
        # Taps side by side read the first phases.
        fading = torch.where(within < read[axis], fading, 0.0)
        line = torch.polar(fading, angle * step.to(torch.float64))
        view = [1] * g.rank
        view[axis] = n
        phase = phase * line.reshape(view)
        index.append(within.clamp(max=read[axis] - 1).reshape(view))
    spread = amplitudes[tuple(index)].movedim(-1, 0) * phase
    first = peak.group * channels
    wave[first : first + channels] = spread.real
    if g.transposed:
        # The wave belongs to the plain convolution's input; its image to the transposed one's.
        return conv.adjoint(wave.unsqueeze(0)).squeeze(0)
    return wave


def _by(sizes: Shape) -> str:
    return "x".join(map(str, sizes))
