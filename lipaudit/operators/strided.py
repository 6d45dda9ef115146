"""Strides as extra channels: what turns every convolution into one of stride 1.

A convolution of stride s is one of stride 1 after space-to-depth, which moves the s positions
of a block into channels and changes no norm. In terms of taps: the tap at position q acts on
phase q mod s at offset q div s. Phases that no tap acts on are columns of zeros, and left out: a
1x1 kernel has one phase whatever its stride.

Dilation d spreads the taps; with a stride s and g = gcd(s, d) only every g-th phase is ever
touched, and P(θ) becomes D(θ)·Q(d/g·θ) with a diagonal unitary D and the symbol Q of the
undilated kernel at stride s/g. So the supremum over all θ is the one of Q.
"""

import math
from functools import lru_cache
from itertools import product

import torch

from lipaudit.operators.geometry import ConvGeometry
from lipaudit.operators.symbol import Offset, Symbol

_FEW = 1024
"""Taps of a kernel whose places are kept: single passes and searches ask for them again."""


def polyphase(kernel: torch.Tensor, geometry: ConvGeometry) -> Symbol:
    """Return the symbol of the convolution itself, strided and dilated.

    Its frequencies are those of the output grid; columns are ordered by phase (`phases`, the
    last axis fastest), then channel.
    """
    return _split(kernel, geometry.groups, geometry.stride, geometry.dilation)


def reduced(kernel: torch.Tensor, geometry: ConvGeometry) -> Symbol:
    """Return the symbol of lowest degree that has the same supremum (module docstring)."""
    strides = tuple(
        s // math.gcd(s, d) for s, d in zip(geometry.stride, geometry.dilation, strict=True)
    )
    return _split(kernel, geometry.groups, strides, (1,) * geometry.rank)


def phases(size: int, stride: int, dilation: int) -> tuple[int, ...]:
    """Return which phases of a stride the taps of one axis act on, lowest first."""
    return tuple(sorted({tap * dilation % stride for tap in range(size)}))


def places(
    sizes: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[Offset, int], ...]:
    """Return offset and phase of each tap of a kernel, the last axis fastest.

    Phases are counted among those that some tap acts on.
    """
    # What a file with kernels of a million taps needs is not kept.
    work_out = _few_places if math.prod(sizes) <= _FEW else _places
    return work_out(sizes, stride, dilation)


def _places(
    sizes: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[Offset, int], ...]:
    read = tuple(map(phases, sizes, stride, dilation))
    found = []
    for position in product(*map(range, sizes)):
        spread = [p * d for p, d in zip(position, dilation, strict=True)]
        phase = 0
        for q, s, known in zip(spread, stride, read, strict=True):
            phase = phase * len(known) + known.index(q % s)
        found.append((tuple(q // s for q, s in zip(spread, stride, strict=True)), phase))
    return tuple(found)


_few_places = lru_cache(maxsize=64)(_places)


def _split(
    kernel: torch.Tensor, groups: int, stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Symbol:
    out, inner, *size = kernel.shape
    grouped = kernel.reshape(groups, out // groups, inner, *size).flatten(3)
    width = math.prod(len(phases(*axis)) for axis in zip(size, stride, dilation, strict=True))
    placed = places(tuple(size), stride, dilation)
    offsets = tuple(sorted({offset for offset, _ in placed}))
    index = {offset: at for at, offset in enumerate(offsets)}
    taps = kernel.new_zeros(len(offsets), groups, out // groups, width, inner)
    at = [index[offset] for offset, _ in placed]
    taps[at, :, :, [phase for _, phase in placed]] = grouped.movedim(-1, 0)
    # Taps without weight only widen the support.
    kept = taps.flatten(1).any(1)
    kept[0] |= ~kept.any()
    if not bool(kept.all()):
        offsets = tuple(o for o, keep in zip(offsets, kept.tolist(), strict=True) if keep)
        taps = taps[kept]
    return Symbol(taps.flatten(3), offsets)
