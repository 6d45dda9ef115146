"""Broadcasting: how often the items of a signal are copied, and what that does to distances.

A signal of which every item is copied k times before anything else happens is stretched by
√k: Add(x[1, 3], c[4, 3]) maps a difference of length 1 to one of length 2.
"""

import math
from collections.abc import Sequence

import torch

from lipaudit.enclosure import ONE, ZERO, Enclosure, Rigor
from lipaudit.graph.constant import Shape

_UNIT = 2.0**-53


def copying(shapes: Sequence[Shape | None], position: int) -> Enclosure | None:
    """Enclose the stretch that broadcasting all shapes together gives to one of them.

    None where that depends on a shape that is not known.
    """
    own = shapes[position]
    others = [shape for index, shape in enumerate(shapes) if index != position]
    if all(shape is not None and set(shape) <= {1} for shape in others):
        return ONE  # nothing to be copied along, whatever the own shape
    known = [shape for shape in others if shape is not None]
    if own is None or len(known) < len(others):
        return None
    items = _items(own)
    return ONE if not items else Enclosure.sqrt_of(_items(broadcast(own, *known)) // items)


def broadcast(*shapes: Shape) -> Shape:
    """Return the shape that all shapes broadcast to; raise `ValueError` if there is none."""
    rank = max(map(len, shapes))
    sizes = []
    for axis in range(-rank, 0):
        found = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        if len(found) > 1:
            raise ValueError(f"sizes {sorted(found)} do not broadcast")
        sizes.append(found.pop() if found else 1)
    return tuple(sizes)


def scaling(factors: torch.Tensor, shape: Shape | None, entry_error: float) -> Enclosure | None:
    """Enclose the norm of x -> factors * x on signals of a shape, broadcasting included.

    Item j of x meets the factors c_ij of its copies i, so the norm is max_j √Σ_i c_ij².
    `factors` are moduli, each off by at most `entry_error` relatively (infinite: by little, but
    nobody knows). None where the norm depends on a shape that is not known.
    """
    largest = float(factors.max()) if factors.numel() else 0.0
    if largest == 0:
        return ZERO
    if shape is None:
        if factors.numel() > 1:
            return None
        shape = (1,) * factors.dim()
    rank = max(factors.dim(), len(shape))
    wide = factors.reshape((1,) * (rank - factors.dim()) + tuple(factors.shape))
    sizes = (1,) * (rank - len(shape)) + shape
    copied = [axis for axis in range(rank) if sizes[axis] == 1 < wide.shape[axis]]
    squares = (wide / largest) ** 2
    summed = float((squares.sum(copied) if copied else squares).max())
    copies = 1
    for axis in copied:
        copies *= wide.shape[axis]
    # The division, the square and a sum of n terms are off by (n + 3)u relatively; squaring
    # at most triples the relative error of an entry; the rest is room for `doubt` itself.
    known = 0.0 if math.isinf(entry_error) else entry_error
    rigor = Rigor.NUMERICAL if math.isinf(entry_error) else Rigor.PROVED
    doubt = 4 * known + ((copies + 16) * _UNIT if copied else 0.0)
    if not doubt:
        return Enclosure.exactly(largest, rigor)
    around = Enclosure.of(max(1 - doubt, 0.0), 1 + doubt, rigor)
    return Enclosure.exactly(summed).times(around).sqrt().times(Enclosure.exactly(largest))


def _items(shape: Shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
