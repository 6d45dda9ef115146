"""The table: which rule says how a kind of layer rounds. What is not in it stops the statement."""

import math
from collections.abc import Sequence

import torch

from lipaudit.analysis.rounding import affine, items
from lipaudit.analysis.rounding.arithmetic import Signal, Unprovable
from lipaudit.analysis.rounding.place import Place
from lipaudit.layers.activation import Clip, PRelu
from lipaudit.layers.arithmetic import Merge
from lipaudit.layers.assembly import Concat, Expand, Tile
from lipaudit.layers.base import AbstractLayer
from lipaudit.layers.convolution import Conv, ConvTranspose
from lipaudit.layers.gathering import Gather, GatherElements, GatherND
from lipaudit.layers.global_pooling import (
    AdaptiveAveragePool,
    AdaptiveMaxPool,
    GlobalAveragePool,
    GlobalMaxPool,
)
from lipaudit.layers.linear import Gemm, Linear, MatMul
from lipaudit.layers.multiplication import Product, Quotient
from lipaudit.layers.normalization import BatchNormalization
from lipaudit.layers.permutation import DepthToSpace, ReverseSequence, SpaceToDepth
from lipaudit.layers.pointwise import Pointwise
from lipaudit.layers.pooling import AveragePool, MaxPool
from lipaudit.layers.reduction import Reduce
from lipaudit.layers.resampling import Pad
from lipaudit.layers.selection import CenterCropPad, Slice, Split, Trilu
from lipaudit.layers.shape import (
    Cast,
    Dropout,
    Flatten,
    Identity,
    Reshape,
    Squeeze,
    Transpose,
    Unsqueeze,
)

_MOVING = (
    AdaptiveMaxPool,
    Cast,
    CenterCropPad,
    DepthToSpace,
    Dropout,
    Expand,
    Flatten,
    Gather,
    GatherElements,
    GatherND,
    GlobalMaxPool,
    Identity,
    MaxPool,
    Reshape,
    ReverseSequence,
    Slice,
    SpaceToDepth,
    Split,
    Squeeze,
    Tile,
    Transpose,
    Trilu,
    Unsqueeze,
)
"""Every number that leaves them is one that came in, or 0; what they store are positions."""


def passed(place: Place, layer: AbstractLayer, signals: Sequence[Signal]) -> Signal:
    """Return what leaves a node; raise `Unprovable` where nothing is known of that."""
    leaving = _left(place, layer, signals)
    place.arithmetic.check(leaving.reach, place.arithmetic.kept)
    return leaving


def _left(place: Place, layer: AbstractLayer, signals: Sequence[Signal]) -> Signal:
    """Sum up with stored weights; else work item by item."""
    match layer:
        case Linear() | Gemm() | MatMul():
            return affine.dense(place, layer, signals[0])
        case Conv() | ConvTranspose():
            return affine.convolved(place, layer, signals[0])
        case BatchNormalization():
            return affine.normalized(place, layer, signals[0])
        case AveragePool() | GlobalAveragePool() | AdaptiveAveragePool():
            terms, axes = _window(layer, place.shapes[0][2:]), len(place.shapes[0]) - 2
            return affine.summed_up(place, signals[0], terms, axes)
        case Reduce(op="ReduceSum" | "ReduceMean"):
            terms = math.prod(place.shapes[0]) // max(place.items, 1)
            return affine.summed_up(place, signals[0], terms, len(place.shapes[0]))
        case _:
            return _by_items(place, layer, signals)


def _by_items(place: Place, layer: AbstractLayer, signals: Sequence[Signal]) -> Signal:
    match layer:
        case Merge() if place.node.op not in {"Max", "Min"}:
            return items.merged(place, signals)
        case Product() | Quotient():
            return items.scaled(place, signals[0])
        case Pointwise():
            return items.applied(place, layer, signals[0])
        case PRelu():
            return items.leaky(place, signals[0])
        case Merge() | Clip() | Concat() | Pad() | Reduce(op="ReduceMax" | "ReduceMin"):
            return items.chosen(place, layer, signals)
        case Cast() if _is_coarser(layer.dtype, place):
            raise Unprovable(f"it rounds to {layer.dtype}")
        case _ if isinstance(layer, _MOVING):
            return items.moved(place, signals)
        case _:
            raise Unprovable("how its arithmetic rounds is not modelled")


def _is_coarser(dtype: torch.dtype, place: Place) -> bool:
    """Tell whether a type has fewer digits, or smaller numbers, than that of the run."""
    known, kept = torch.finfo(dtype), place.arithmetic.kept
    return known.eps > 2 * kept.unit or known.max < kept.largest or known.tiny > kept.normal


def _window(
    layer: AveragePool | GlobalAveragePool | AdaptiveAveragePool, sizes: Sequence[int]
) -> int:
    """Return how many items are averaged at most."""
    if isinstance(layer, AveragePool):
        return math.prod(layer.windows.sizes)
    if isinstance(layer, GlobalAveragePool):
        return math.prod(sizes)
    # From ⌊i·n/m⌋ up to ⌈(i + 1)·n/m⌉.
    return math.prod(-(-size // made) + 1 for size, made in zip(sizes, layer.outputs, strict=True))
