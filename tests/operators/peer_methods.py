"""Published methods that were measured to be wrong, rebuilt in a few lines from what they do.

Each returns an estimate, never a truth. Where the papers prove a bound, the rebuilt step still
gives that bound; what makes the published code wrong is in the tests, beside the call.
"""

import math
from collections.abc import Callable

import torch
from torch.nn import functional

Map = Callable[[torch.Tensor], torch.Tensor]


def power_iteration(run: Map, in_shape: tuple[int, ...], steps: int, seed: int = 0) -> float:
    """Return ‖A x‖ for a unit x after so many steps: never above the norm, below it when stopped.

    The adjoint is autograd's.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((1, *in_shape), generator=generator, dtype=torch.float64)
    for _ in range(steps):
        x.requires_grad_()
        image = run(x)
        (back,) = torch.autograd.grad(image, x, image.detach())
        x = back / torch.linalg.vector_norm(back)
    return float(torch.linalg.vector_norm(run(x)) / torch.linalg.vector_norm(x))


def guarded_power_iteration(matrix: torch.Tensor, steps: int, guard: float) -> float:
    """Return what power iteration says when every length is first made longer by the guard."""

    def shortened(x: torch.Tensor) -> torch.Tensor:
        length: torch.Tensor = torch.linalg.vector_norm(x)
        return x / (length + guard)

    x = shortened(torch.ones(matrix.shape[1], dtype=matrix.dtype))
    for _ in range(steps):
        x = shortened(matrix.mT @ (matrix @ x))
    return float(torch.linalg.vector_norm(matrix @ shortened(x)))


def gram_iteration(matrices: torch.Tensor, steps: int) -> float:
    """Return ‖G‖_F^(1/2^steps), G after so many squarings G -> GᴴG, largest of a batch.

    A bound that decreases to the norm (Delattre et al. 2023, theorem 3.1).
    """
    # In logarithms: σ^(2^steps) soon leaves the float range.
    lengths = torch.linalg.matrix_norm(matrices)
    log_scale = lengths.log()
    squared = matrices / lengths[..., None, None]
    for _ in range(steps):
        squared = squared.mH @ squared
        lengths = torch.linalg.matrix_norm(squared)
        squared = squared / lengths[..., None, None]
        log_scale = 2 * log_scale + lengths.log()
    return float((log_scale / 2**steps).exp().max())


def toeplitz_gram_iteration(kernel: torch.Tensor, steps: int) -> float:
    """Return the largest row sum of |taps| after so many squarings of the kernel, rooted.

    Bounds the zero-padded norm at every size (Delattre et al. 2024, algorithm 2).
    """
    log_scale = 0.0
    for _ in range(steps):
        length = float(torch.linalg.vector_norm(kernel))
        kernel = _squared(kernel / length)
        log_scale = 2 * (log_scale + math.log(length))
    rows = kernel.abs().sum((1, 2, 3)).max()
    return math.exp((log_scale + math.log(float(rows))) / 2**steps)


def toeplitz_gram_memory(shape: tuple[int, ...], steps: int) -> int:
    """Return the bytes that the last squaring takes where a convolution is one matrix product.

    Such a convolution first copies, for every output, all that its filter sees.
    """
    kernel = torch.empty(shape, dtype=torch.float64, device="meta")
    taken = 0
    for _ in range(steps):
        made = _squared(kernel)
        seen_by_one = math.prod(kernel.shape[1:])
        outputs = kernel.shape[0] * math.prod(made.shape[2:])
        taken = seen_by_one * outputs * kernel.element_size()
        kernel = made
    return taken


def _squared(kernel: torch.Tensor) -> torch.Tensor:
    """Return the kernel of K Kᵀ: every filter correlated with every filter."""
    return functional.conv2d(kernel, kernel, padding=kernel.shape[-1] - 1)
