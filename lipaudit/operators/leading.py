"""The largest singular values from below, of maps too large to be decomposed.

Krylov vectors X are nearly orthonormal, and any σ_i(A X) <= σ_i(A)·‖X‖ (Horn & Johnson,
"Topics in Matrix Analysis", 3.3.16). A X is a thin matrix whose singular values are proved.
"""

import math

import torch

from lipaudit.operators import krylov
from lipaudit.operators.certify import ROOM, departure, frobenius_above, svd_radius
from lipaudit.operators.factors import decomposed
from lipaudit.operators.krylov import Map
from lipaudit.operators.spectrum import Leading

COUNT = 10
"""How many values are shown."""
_STEPS = (14, 100)
"""Steps toward them: what the work allows, within these; with fewer the last are noise."""
_FLOPS = 1.5e10
"""Work that they are worth: a second or two."""


def leading(
    apply: Map,
    adjoint: Map,
    start: torch.Tensor,
    *,
    doubt: float,
    flops_each: float,
    max_memory: int,
) -> Leading | None:
    """Return up to `COUNT` proved lower bounds, None when even they are too much work.

    ‖computed A x - A x‖ <= doubt·‖x‖ for every x; one application takes so many operations.
    """
    least, most = _STEPS
    steps = min(int(_FLOPS / (2.0 * max(flops_each, 1.0))), most)
    if steps < least:
        return None
    ritz = krylov.top_vectors(apply, adjoint, start, steps=steps, max_memory=max_memory)
    vectors = ritz[:COUNT]
    images = torch.stack([apply(vector.reshape(start.shape)).flatten() for vector in vectors])
    values = proved_from_below(vectors.mT, images.mT, doubt)
    if not values:
        return None
    return Leading(values, f"Krylov, {len(ritz)} steps, each value proved from below")


def proved_from_below(X: torch.Tensor, Y: torch.Tensor, doubt: float) -> tuple[float, ...]:
    """Return lower bounds of the largest singular values of A from the computed Y of A X."""
    if X.numel() == 0 or Y.numel() == 0:
        return ()
    factors = decomposed(Y.unsqueeze(0))
    if factors is None:
        return ()
    radius = svd_radius(Y.unsqueeze(0), factors.left, factors.values, factors.right)
    lost = (radius + doubt * float(frobenius_above(X))) * ROOM
    # ‖X‖² = ‖XᴴX‖ <= 1 + α, and √(1 + α) <= 1 + α.
    longest = (1.0 + float(departure(X.unsqueeze(0)))) * ROOM
    if not math.isfinite(lost + longest):
        return ()
    proved = ((value - lost) / longest * (2.0 - ROOM) for value in factors.values[0].tolist())
    return tuple(max(value, 0.0) for value in proved)
