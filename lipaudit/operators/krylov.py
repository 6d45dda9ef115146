"""Golub-Kahan-Lanczos: trial vectors on which a linear map stretches nearly as much as it can.

Nothing found here is more than a lower bound, and it becomes one only through the quotient
‖Ax‖/‖x‖ that the caller evaluates with its rounding allowance.
"""

from collections.abc import Callable

import torch

Map = Callable[[torch.Tensor], torch.Tensor]
"""One vector in, one vector out: tensors of any fixed shape, no batch axis."""


def top_vector(
    apply: Map, adjoint: Map, start: torch.Tensor, *, steps: int, max_memory: int
) -> torch.Tensor:
    """Return a unit vector x with ‖A x‖ close to ‖A‖ after so many applications of A and Aᴴ.

    Bidiagonalization with full reorthogonalization of the right basis (Golub & Kahan 1965;
    Simon & Zha 2000 show that one side suffices), restarted from the best vector when the
    basis would outgrow the memory.
    """
    room = max(2, max_memory // max(1, 4 * start.numel() * start.element_size()))
    best = _unit(start)
    remaining = steps
    while remaining > 0:
        chunk = min(remaining, room)
        best = _cycle(apply, adjoint, best, chunk)
        remaining -= chunk
    return best


def scrambled(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Return a fixed start vector without structure, the same on every machine and run."""
    count = 1
    for size in shape:
        count *= size
    generator = torch.Generator().manual_seed(20181221)
    vector = torch.randn(count, generator=generator, dtype=torch.float64)
    return vector.reshape(shape).to(device)


def _unit(vector: torch.Tensor) -> torch.Tensor:
    length = float(torch.linalg.vector_norm(vector))
    return vector / length if length > 0 else vector


def _cycle(apply: Map, adjoint: Map, start: torch.Tensor, steps: int) -> torch.Tensor:
    """Return the best vector of the Krylov space of AᴴA that so many steps span."""
    basis = start.reshape(1, -1)
    previous = torch.zeros(0)
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(steps):
        image = apply(basis[-1].reshape(start.shape))
        if beside:
            image = image - beside[-1] * previous
        alpha = float(torch.linalg.vector_norm(image))
        diagonal.append(alpha)
        if alpha == 0 or len(diagonal) == steps:
            break
        previous = image / alpha
        back = adjoint(previous).reshape(-1)
        # Twice is enough (Parlett 1998, section 6.9).
        for _ in range(2):
            back = back - basis.mT @ (basis.conj() @ back)
        beta = float(torch.linalg.vector_norm(back))
        # Below this the new direction is rounding noise: the space is invariant.
        if beta <= 1e-13 * max(diagonal):
            break
        beside.append(beta)
        basis = torch.cat([basis, (back / beta).unsqueeze(0)])
    return _unit(_best_combination(diagonal, beside, basis)).reshape(start.shape)


def _best_combination(
    diagonal: list[float], beside: list[float], basis: torch.Tensor
) -> torch.Tensor:
    """Return the basis combination that the bidiagonal matrix stretches most."""
    bidiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        bidiagonal = bidiagonal + torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
    right: torch.Tensor = torch.linalg.svd(bidiagonal).Vh
    return basis.mT @ right[0].to(basis)
