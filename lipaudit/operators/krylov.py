"""Golub-Kahan-Lanczos: trial vectors on which a linear map stretches nearly as much as it can.

Nothing found here is more than a lower bound, and it becomes one only through the quotient
‖Ax‖/‖x‖ that the caller evaluates with its rounding allowance.
"""

import math
from collections.abc import Callable

import torch

from lipaudit.operators.factors import decomposed, eigenvectors, largest_eigenvalues

_BETWEEN_LOOKS = 10
"""Steps after which it is looked whether the largest value still rises."""

Map = Callable[[torch.Tensor], torch.Tensor]
"""One vector in, one vector out: tensors of any fixed shape, no batch axis."""


def top_vector(
    apply: Map,
    adjoint: Map,
    start: torch.Tensor,
    *,
    steps: int,
    max_memory: int,
    gain: float | None = None,
) -> torch.Tensor:
    """Return a unit vector x with ‖A x‖ close to ‖A‖ after so many applications of A and Aᴴ.

    With `gain` fewer are done where the value rises by no more than this share any longer.

    Bidiagonalization with full reorthogonalization of the right basis (Golub & Kahan 1965;
    Simon & Zha 2000 show that one side suffices), restarted from the best vector when the
    basis would outgrow the memory.
    """
    room = _room(start, max_memory)
    best = _unit(start)
    remaining = steps
    while remaining > 0:
        chunk = min(remaining, room)
        best = _unit(_cycle(apply, adjoint, best, chunk, gain)[0]).reshape(start.shape)
        remaining -= chunk
    return best


def top_vectors(
    apply: Map, adjoint: Map, start: torch.Tensor, *, steps: int, max_memory: int
) -> torch.Tensor:
    """Return the vectors that one Krylov space finds, flat, one a row, most stretched first.

    They are orthonormal but for rounding. Fewer steps are taken where the memory ends.
    """
    return _cycle(apply, adjoint, _unit(start), min(steps, _room(start, max_memory)))


def scrambled(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Return a fixed start vector without structure, the same on every machine and run."""
    count = 1
    for size in shape:
        count *= size
    generator = torch.Generator().manual_seed(20181221)
    vector = torch.randn(count, generator=generator, dtype=torch.float64)
    return vector.reshape(shape).to(device)


def _room(start: torch.Tensor, max_memory: int) -> int:
    """Return how many steps the memory allows: basis, its copy while it grows, and the images."""
    return max(2, max_memory // max(1, 4 * start.numel() * start.element_size()))


def _unit(vector: torch.Tensor) -> torch.Tensor:
    length = float(torch.linalg.vector_norm(vector))
    return vector / length if length > 0 else vector


def _cycle(
    apply: Map, adjoint: Map, start: torch.Tensor, steps: int, gain: float | None = None
) -> torch.Tensor:
    """Return the Ritz vectors of the Krylov space of AᴴA that so many steps span, best first."""
    space = start.new_empty(steps, start.numel())
    space[0] = start.flatten()
    previous = torch.zeros(0)
    diagonal: list[float] = []
    beside: list[float] = []
    known = 0.0
    for step in range(steps):
        image = apply(space[step].reshape(start.shape))
        if beside:
            image = image - beside[-1] * previous
        alpha = float(torch.linalg.vector_norm(image))
        diagonal.append(alpha)
        if alpha == 0 or step + 1 == steps:
            break
        if gain is not None and len(diagonal) % _BETWEEN_LOOKS == 0:
            small = _bidiagonal(diagonal, beside)
            top = math.sqrt(float(largest_eigenvalues(small.mT @ small)))
            if top <= known * (1.0 + gain):
                break
            known = top
        previous = image / alpha
        back = adjoint(previous).reshape(-1)
        basis = space[: step + 1]
        # Twice is enough (Parlett 1998, section 6.9).
        for _ in range(2):
            back = back - (basis.conj() @ back) @ basis
        beta = float(torch.linalg.vector_norm(back))
        # Below this the new direction is rounding noise: the space is invariant.
        if beta <= 1e-13 * max(diagonal):
            break
        beside.append(beta)
        space[step + 1] = back / beta
    return _combinations(diagonal, beside, space[: len(diagonal)])


def _combinations(diagonal: list[float], beside: list[float], basis: torch.Tensor) -> torch.Tensor:
    """Return the basis turned to the singular vectors of the bidiagonal matrix, one a row."""
    bidiagonal = _bidiagonal(diagonal, beside)
    factors = decomposed(bidiagonal)
    if factors is None:
        _, vectors = eigenvectors(bidiagonal.mT @ bidiagonal)
        return vectors.flip(-1).mT.to(basis) @ basis
    return factors.right.to(basis) @ basis


def _bidiagonal(diagonal: list[float], beside: list[float]) -> torch.Tensor:
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        matrix = matrix + torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
    return matrix
