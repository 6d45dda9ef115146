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

from lipaudit.operators.factors import eigenvectors, principal_axes

Floats = npt.NDArray[np.float64]

_STEPS = 30
_GAIN = 1e-8
"""Relative gain below which the climb has arrived."""
_TRUST = 3.0
"""By how much a top may be higher than the quadratic promises before it counts as hopeless."""
_SHORTEST = 1e-7
"""Length of a step (radians) below which it has arrived too."""
_APART = 1e-3
"""Eigenvalues closer than this share of the largest count as that far apart: where they meet,
λ has an edge and no second derivative."""


@dataclass(frozen=True, slots=True)
class Rival:
    """A peak that is known, and which another one is worth finding only if it is higher."""

    norm: float
    theta: Floats
    within: float
    """How close to it (radians on each axis) a way is taken to end there."""

    def is_near(self, theta: Floats) -> bool:
        """Tell whether a frequency is close to the peak or to its mirror image."""
        turn = 2.0 * np.pi
        return any(
            bool(np.all(np.abs((away + np.pi) % turn - np.pi) < self.within))
            for away in (theta - self.theta, theta + self.theta)
        )


@dataclass(frozen=True, slots=True)
class _Point:
    """λ at one frequency, with its derivatives."""

    theta: Floats
    value: float
    gradient: Floats
    hessian: Floats
    left: torch.Tensor


def climbed(
    taps: torch.Tensor, offsets: Floats, theta: Floats, *, reach: float, rival: Rival | None
) -> tuple[Floats, torch.Tensor] | None:
    """Return a local maximum near θ and the left singular vector there.

    `taps` are (taps, rows, columns); no step is longer than `reach`. None as soon as there is
    no hope to end above the rival, or the way leads to it.
    """
    count, rows, columns = taps.shape
    flat = taps.reshape(count, rows * columns)
    # P, its first and its second derivatives, as weights of the taps.
    first, second = np.triu_indices(offsets.shape[1])
    weights = np.concatenate(
        [np.ones((1, count)), -1j * offsets.T, -(offsets[:, first] * offsets[:, second]).T]
    )

    def at(angle: Floats) -> _Point:
        turned = torch.from_numpy(weights * np.exp(-1j * (offsets @ angle)))
        matrices = torch.complex(turned.real @ flat, turned.imag @ flat)
        return _differentiated(angle, matrices.reshape(len(weights), rows, columns))

    point = at(theta)
    for _ in range(_STEPS):
        step, promised = _uphill(point, reach)
        if promised <= _GAIN * point.value:
            break
        if rival and (
            point.value + _TRUST * promised <= rival.norm**2 * (1.0 + _GAIN)
            or rival.is_near(point.theta)
        ):
            return None
        best = _advanced(at, point, step)
        if best is None:
            break
        gained, point = best.value - point.value, best
        if gained <= _GAIN * point.value:
            break
    return point.theta, point.left


def _differentiated(theta: Floats, matrices: torch.Tensor) -> _Point:
    """Work out λ and its derivatives from P, P_i and P_ij (i <= j).

    All but the smallest products are left to torch, whose threads a caller can hold back.
    """
    symbol, axes = matrices[0], theta.size
    values, vectors = eigenvectors(symbol @ symbol.mH)
    left = vectors[:, -1]
    # uᴴP, uᴴP_i and uᴴP_ij, one a row.
    rows = left.conj() @ matrices
    moved = rows[1 : 1 + axes]
    # G_i u = P_i Pᴴu + P P_iᴴu, in the basis of the eigenvectors.
    image = rows[0].conj()
    turned = (matrices[1 : 1 + axes] @ image + moved.conj() @ symbol.mT) @ vectors.conj()
    top = float(values[-1])
    gaps = (top - values[:-1]).clamp(min=_APART * top + 1e-300)
    mixed = (turned[:, :-1].conj() / gaps) @ turned[:, :-1].mT
    hessian: Floats = 2.0 * (mixed.real + (moved @ moved.mH).real).numpy()
    straight: Floats = 2.0 * (rows[1 + axes :] @ image).real.numpy()
    first, second = np.triu_indices(axes)
    hessian[first, second] += straight
    off = first != second
    hessian[second[off], first[off]] += straight[off]
    return _Point(theta, top, turned[:, -1].real.numpy(), hessian, left)


def _uphill(point: _Point, reach: float) -> tuple[Floats, float]:
    """Return Newton's step, and what it promises to gain if it need not be shortened.

    Along axes of positive curvature it goes up all the same.
    """
    curvatures, axes = principal_axes(point.hessian)
    # On a flat top there is no curvature to divide by.
    least = max(1e-3 * float(np.abs(curvatures).max()), 1e-9 * point.value, 1e-300)
    scale = np.maximum(np.abs(curvatures), least)
    slopes = axes.T @ point.gradient
    step: Floats = axes @ (slopes / scale)
    length = float(np.linalg.norm(step))
    promised = 0.5 * float(np.sum(slopes**2 / scale))
    return (step * (reach / length) if length > reach else step), promised


def _advanced(at: Callable[[Floats], _Point], point: _Point, step: Floats) -> _Point | None:
    """Return a point that is higher, along the step or a part of it; None when none is."""
    while float(np.linalg.norm(step)) > _SHORTEST:
        trial = at(point.theta + step)
        if trial.value > point.value:
            return trial
        step = step / 4.0
    return None
