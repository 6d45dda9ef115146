"""Newton's method on σ1(θ)², for symbols small enough to be decomposed at every step.

With G(θ) = P Pᴴ, its largest eigenvalue λ, u its vector and λ_k, u_k the others (Kato,
"Perturbation theory for linear operators", II.6.3; subscripts i, j are derivatives):

    λ_i  = uᴴG_i u
    λ_ij = uᴴG_ij u + 2 Re Σ_k (uᴴG_i u_k)(u_kᴴG_j u) / (λ - λ_k)

Nothing found here has to be exact: what it is worth is proved at the point it ends at.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Complex = npt.NDArray[np.complex128]
Floats = npt.NDArray[np.float64]

_STEPS = 30
_GAIN = 1e-9
"""Relative gain below which the climb has arrived."""
_SHORTEST = 1e-7
"""Length of a step (radians) below which it has arrived too."""
_APART = 1e-3
"""Eigenvalues closer than this share of the largest count as that far apart: where they meet,
λ has an edge and no second derivative."""


@dataclass(frozen=True, slots=True)
class _Point:
    """λ at one frequency, with its derivatives."""

    theta: Floats
    value: float
    gradient: Floats
    hessian: Floats
    left: Complex


def climbed(
    taps: Floats, offsets: Floats, theta: Floats, reach: float
) -> tuple[Floats, torch.Tensor]:
    """Return a local maximum near θ and the left singular vector there.

    `taps` are (taps, rows, columns); no step is longer than `reach`.
    """
    count, rows, columns = taps.shape
    flat = taps.reshape(count, rows * columns).astype(np.complex128)
    # P, its first and its second derivatives, as weights of the taps.
    first, second = np.triu_indices(offsets.shape[1])
    weights = np.concatenate(
        [np.ones((1, count)), -1j * offsets.T, -(offsets[:, first] * offsets[:, second]).T]
    )

    def at(angle: Floats) -> _Point:
        phases = np.exp(-1j * (offsets @ angle))
        matrices = ((weights * phases) @ flat).reshape(len(weights), rows, columns)
        return _differentiated(angle, matrices)

    point = at(theta)
    for _ in range(_STEPS):
        step = _uphill(point, reach)
        best = _advanced(at, point, step)
        if best is None:
            break
        gained, point = best.value - point.value, best
        if gained <= _GAIN * point.value:
            break
    return point.theta, torch.from_numpy(point.left)


def _differentiated(theta: Floats, matrices: Complex) -> _Point:
    """Work out λ and its derivatives from P, P_i and P_ij (i <= j)."""
    symbol, axes = matrices[0], theta.size
    slopes, bends = matrices[1 : 1 + axes], matrices[1 + axes :]
    values, vectors = np.linalg.eigh(symbol @ symbol.conj().T)
    left = vectors[:, -1]
    row = left.conj() @ symbol
    moved = left.conj() @ slopes
    # G_i u, in the basis of the eigenvectors.
    turned = (slopes @ row.conj() + moved.conj() @ symbol.T) @ vectors.conj()
    gaps = np.maximum(values[-1] - values[:-1], _APART * values[-1] + 1e-300)
    mixed = (turned[:, :-1].conj() / gaps) @ turned[:, :-1].T
    curved = moved @ moved.conj().T
    hessian = 2.0 * (mixed.real + curved.real)
    first, second = np.triu_indices(axes)
    straight = 2.0 * ((left.conj() @ bends) @ row.conj()).real
    hessian[first, second] += straight
    off = first != second
    hessian[second[off], first[off]] += straight[off]
    return _Point(theta, float(values[-1]), turned[:, -1].real, hessian, left)


def _uphill(point: _Point, reach: float) -> Floats:
    """Return Newton's step; along axes of positive curvature it goes up all the same."""
    curvatures, axes = np.linalg.eigh(point.hessian)
    # On a flat top there is no curvature to divide by.
    least = max(1e-3 * float(np.abs(curvatures).max()), 1e-9 * point.value, 1e-300)
    scale = np.maximum(np.abs(curvatures), least)
    step: Floats = axes @ ((axes.T @ point.gradient) / scale)
    length = float(np.linalg.norm(step))
    return step * (reach / length) if length > reach else step


def _advanced(at: Callable[[Floats], _Point], point: _Point, step: Floats) -> _Point | None:
    """Return a point that is higher, along the step or a part of it; None when none is."""
    while float(np.linalg.norm(step)) > _SHORTEST:
        trial = at(point.theta + step)
        if trial.value > point.value:
            return trial
        step = step / 4.0
    return None
