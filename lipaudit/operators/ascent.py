"""Ascent: a frequency where the norm of the symbol is locally largest, and how large it is.

What is found here becomes a lower bound only through the quotient ‖P(θ)x‖/‖x‖ (`certify`);
nothing in this file has to be exact.
"""

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch

from lipaudit.operators import newton
from lipaudit.operators.cells import TURN
from lipaudit.operators.certify import ROOM, attained
from lipaudit.operators.factors import eigenvectors, principal_axes
from lipaudit.operators.symbol import Symbol

Complex = npt.NDArray[np.complex128]
Floats = npt.NDArray[np.float64]

_NEWTON_SIDE = 64
"""Up to this side every step decomposes the symbol, beyond it is only multiplied."""
_BASIN = 0.4
"""Share of a longest step within which two ways are taken to lead to one peak."""
_DIRECT_SIDE = 48
"""Up to this side singular vectors come from LAPACK, beyond from Krylov steps."""
_KRYLOV_STEPS = 12
_ROUNDS = 24
"""Turns of the two half steps (best vector for θ, best θ for the vector) at most."""
_GAIN = 2e-7
"""Relative gain of one round below which the climb has arrived."""
_NEWTON_STEPS = 6


@final
@dataclass(frozen=True, slots=True, eq=False)
class Peak:
    """A frequency with a large norm, and a vector that shows it."""

    value: float
    """At most ‖P‖ there, proved."""
    frequency: torch.Tensor
    """In units of 2π/`period`, one integer an axis."""
    period: int
    group: int
    vector: torch.Tensor
    """Right singular vector of P there, complex, of length 1."""

    @property
    def turns(self) -> torch.Tensor:
        """The frequency as a float, in turns."""
        return self.frequency.to(torch.float64) / self.period


def climb(symbol: Symbol, frequency: torch.Tensor, group: int) -> Peak:
    """Climb from a frequency (in units of 2π/TURN) to a local maximum nearby."""
    found = climb_above(symbol, frequency, group, None)
    return found or peak_at(symbol, frequency, TURN, group)


def climb_above(
    symbol: Symbol, frequency: torch.Tensor, group: int, best: Peak | None
) -> Peak | None:
    """Climb likewise; None where the way seems not to lead above the best peak so far."""
    taps = symbol.taps[:, group]
    offsets = np.array(symbol.offsets, dtype=np.float64)
    theta = frequency.numpy() * (2.0 * math.pi / TURN)
    # Terms of P turn by r·δ; half a radian of that is one step.
    reach = 0.5 / max(*symbol.radii, 0.5)
    if not any(symbol.radii):
        left, _ = _top_left(_matrix(taps, offsets, theta), scrambled(symbol.taps.shape[2]))
    elif symbol.side <= _NEWTON_SIDE:
        rival = None
        if best is not None:
            there = best.turns.numpy() * (2.0 * math.pi)
            # A peak of another group is only to be beaten.
            within = reach * _BASIN if best.group == group else 0.0
            rival = newton.Rival(best.value, there, within)
        top = newton.climbed(taps, offsets, theta, reach=reach, rival=rival)
        if top is None:
            return None
        theta, left = top
    else:
        theta, left = _alternated(taps, offsets, theta, reach)
    units = torch.from_numpy(np.round(theta / (2.0 * math.pi) * TURN).astype(np.int64)) % TURN
    return peak_at(symbol, units, TURN, group, left)


def _alternated(
    taps: torch.Tensor, offsets: Floats, theta: Floats, reach: float
) -> tuple[Floats, torch.Tensor]:
    """Return a local maximum and the left singular vector there, by alternating.

    With the left singular vector u fixed, ‖uᴴP(θ)‖² is a scalar trigonometric polynomial with
    few terms, maximized by Newton's method; then u follows.
    """
    count, rows, columns = taps.shape
    across = taps.transpose(0, 1).reshape(rows, count * columns)
    left, value = _top_left(_matrix(taps, offsets, theta), scrambled(rows))
    for _ in range(_ROUNDS):
        parts = torch.stack([left.real, -left.imag]) @ across
        images = torch.complex(parts[0], parts[1]).reshape(count, columns)
        theta = _best_angle((images @ images.mH).numpy(), offsets, theta, reach)
        left, now = _top_left(_matrix(taps, offsets, theta), left)
        gained, value = now - value, max(now, value)
        if gained <= _GAIN * value:
            break
    return theta, left


def peak_at(
    symbol: Symbol,
    frequency: torch.Tensor,
    period: int,
    group: int,
    left: torch.Tensor | None = None,
) -> Peak:
    """Return what is proved at 2π·frequency/period, from a first guess of the left vector."""
    matrix = symbol.at(frequency[None], period, torch.tensor([group]))[0]
    if left is None:
        left, _ = _top_left(matrix, scrambled(matrix.shape[0]), 3 * _KRYLOV_STEPS)
    right = matrix.mH @ left
    length = torch.linalg.vector_norm(right)
    if not float(length) > 0:
        right = torch.zeros_like(right)
        right[0] = 1.0
        length = torch.ones(())
    right = right / length
    value = max(0.0, attained(matrix, right) - symbol.error * ROOM)
    return Peak(value, frequency, period, group, right)


def summit_at(symbol: Symbol, frequency: torch.Tensor, period: int, group: int) -> Peak:
    """Return what is proved at 2π·frequency/period, from the leading vector of a decomposition."""
    matrix = symbol.at(frequency[None], period, torch.tensor([group]))[0]
    tall = matrix.shape[0] > matrix.shape[1]
    _, vectors = eigenvectors(matrix.mH @ matrix if tall else matrix @ matrix.mH)
    top = vectors[:, -1]
    return peak_at(symbol, frequency, period, group, _unit(matrix @ top) if tall else top)


def scrambled(size: int) -> torch.Tensor:
    """Return a start vector without structure, the same every time."""
    start = torch.cos(torch.arange(1, size + 1, dtype=torch.float64) ** 2)
    unit: torch.Tensor = start / torch.linalg.vector_norm(start)
    return unit.to(torch.complex128)


def _matrix(taps: torch.Tensor, offsets: Floats, theta: Floats) -> torch.Tensor:
    angles = offsets @ theta
    phases = torch.from_numpy(np.stack([np.cos(angles), -np.sin(angles)]))
    parts = phases @ taps.flatten(1)
    return torch.complex(parts[0], parts[1]).reshape(taps.shape[1:])


def _top_left(
    matrix: torch.Tensor, start: torch.Tensor, steps: int = _KRYLOV_STEPS
) -> tuple[torch.Tensor, float]:
    """Return about the leading left singular vector, and its singular value from below."""
    rows, columns = matrix.shape
    if min(rows, columns) > _DIRECT_SIDE:
        return _lanczos(matrix, start, steps)
    tall = rows > columns
    values, vectors = eigenvectors(matrix.mH @ matrix if tall else matrix @ matrix.mH)
    top = vectors[:, -1]
    return _unit(matrix @ top) if tall else top, math.sqrt(max(float(values[-1]), 0.0))


def _lanczos(matrix: torch.Tensor, start: torch.Tensor, steps: int) -> tuple[torch.Tensor, float]:
    """Return the best left vector of the Krylov space of P Pᴴ that the start spans."""
    basis = matrix.new_zeros((steps, matrix.shape[0]))
    images = torch.zeros_like(basis)
    vector, used = _unit(start), 0
    for used in range(1, steps + 1):
        basis[used - 1] = vector
        # vᴴP is read along the rows of P; (P Pᴴ v) = P (vᴴP)ᴴ.
        image = matrix @ (vector.conj() @ matrix).conj()
        images[used - 1] = image
        vector = image
        # Twice is enough (Parlett 1998, section 6.9).
        for _ in range(2):
            vector = vector - (basis[:used].conj() @ vector) @ basis[:used]
        length = float(torch.linalg.vector_norm(vector))
        if not length > 1e-13 * float(torch.linalg.vector_norm(image)):
            break
        vector = vector / length
    small = basis[:used].conj() @ images[:used].mT
    values, vectors = eigenvectors((small + small.mH) / 2.0)
    return _unit(vectors[:, -1] @ basis[:used]), math.sqrt(max(float(values[-1]), 0.0))


def _best_angle(gram: Complex, offsets: Floats, theta: Floats, reach: float) -> Floats:
    """Maximize f(θ) = Σ_st H_st e^{-i(o_s - o_t)θ} near θ by Newton's method with a safeguard."""
    value, gradient, hessian = _derivatives(gram, offsets, theta)
    for _ in range(_NEWTON_STEPS):
        curvatures, axes = principal_axes(hessian)
        slopes = axes.T @ gradient
        # Steps uphill along every axis of curvature, also where the function is convex.
        scale = np.maximum(np.abs(curvatures), 1e-3 * (np.abs(curvatures).max() + 1e-300))
        step = axes @ (slopes / scale)
        length = float(np.linalg.norm(step))
        if length > reach:
            step, length = step * (reach / length), reach
        moved = False
        while length > 1e-7:
            trial = _derivatives(gram, offsets, theta + step)
            if trial[0] > value:
                theta, (value, gradient, hessian), moved = theta + step, trial, True
                break
            step, length = step / 4.0, length / 4.0
        if not moved or length < 1e-6:
            break
    return theta


def _derivatives(gram: Complex, offsets: Floats, theta: Floats) -> tuple[float, Floats, Floats]:
    """Return f, its gradient and its Hessian at θ."""
    phases = np.exp(-1j * (offsets @ theta))
    terms = phases[:, None] * gram * phases.conj()[None, :]
    rows = terms.sum(axis=1)
    value = float(rows.sum().real)
    # With d = o_s - o_t the derivatives of e^{-idθ} bring down -i·d and -d·d.
    gradient = 2.0 * (offsets.T @ rows).imag
    mixed = (offsets.T @ terms @ offsets).real
    square = (offsets.T * rows.real) @ offsets
    return value, gradient, 2.0 * (mixed - square)


def _unit(vector: torch.Tensor) -> torch.Tensor:
    length = float(torch.linalg.vector_norm(vector))
    return vector / length if length > 0 else vector
