"""What others do, written from their papers, to be timed beside lipaudit in one run.

Kernels are (out, in, k, k) in float64 throughout, sizes are square.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

Floats = npt.NDArray[np.floating[Any]]

_BLOCK = 1 << 25
"""Bytes of matrices that Gram iteration works on at a time: what stays in the caches."""


def two_liner(kernel: torch.Tensor, size: int) -> Floats:
    """Return all singular values of the circular convolution, (size, size, min(out, in)).

    Sedghi, Gupta & Long, "The Singular Values of Convolutional Layers", ICLR 2019, section 2:
    the paper's own two lines of NumPy.
    """
    transforms = np.fft.fft2(kernel.permute(2, 3, 1, 0).numpy(), (size, size), axes=(0, 1))
    return np.linalg.svd(transforms, compute_uv=False)


def clip_operator_norm(kernel: Floats, input_shape: tuple[int, int], clip_to: float) -> Floats:
    """Return a kernel (k, k, m, m) after one pair of projections.

    Sedghi, Gupta & Long 2019, appendix A: the paper's own function.
    """
    coefficients = np.fft.fft2(kernel, input_shape, axes=(0, 1))
    U, D, V = np.linalg.svd(coefficients, compute_uv=True, full_matrices=False)
    D_clipped = np.minimum(D, clip_to)
    if kernel.shape[2] > kernel.shape[3]:
        clipped = np.matmul(U, D_clipped[..., None] * V)
    else:
        clipped = np.matmul(U * D_clipped[..., None, :], V)
    found = np.fft.ifft2(clipped, axes=(0, 1)).real
    cut: Floats = found[np.ix_(*[range(d) for d in kernel.shape])]
    return cut


def torch_svd(kernel: torch.Tensor, size: int) -> torch.Tensor:
    """Return the same values by the same method in torch, on the device of the kernel."""
    transforms = torch.fft.fft2(kernel, s=(size, size)).permute(2, 3, 0, 1)
    values: torch.Tensor = torch.linalg.svdvals(transforms)
    return values


def power_iteration(
    kernel: torch.Tensor, size: int, *, steps: int, circular: bool = False
) -> float:
    """Return a lower bound of the norm at one size: power iteration on AᵀA.

    The convolution and its transpose are the layer's own, as in Farnia, Zhang & Tse (ICLR 2019)
    and Ryu et al. (ICML 2019), who apply the classical method to convolutional layers; zero
    padding of k // 2 unless `circular`.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1, kernel.shape[1], size, size, generator=generator, dtype=kernel.dtype)
    x = start.to(kernel.device)
    for _ in range(steps):
        x = x / x.norm()
        if circular:
            x = _wrapped_transpose(_wrapped(x, kernel), kernel)
        else:
            y = functional.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
            x = functional.conv_transpose2d(y, kernel, padding=kernel.shape[-1] // 2)
    # x = AᵀAv for a unit vector v, and ‖AᵀAv‖ <= ‖A‖².
    return math.sqrt(float(x.norm()))


def _wrapped(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Apply the circular convolution."""
    before, after = kernel.shape[-1] // 2, (kernel.shape[-1] - 1) // 2
    padded = functional.pad(x, (before, after, before, after), mode="circular")
    return functional.conv2d(padded, kernel)


def _wrapped_transpose(y: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Apply its transpose: what falls outside comes back in on the other side."""
    size, before, after = y.shape[-1], kernel.shape[-1] // 2, (kernel.shape[-1] - 1) // 2
    x = functional.conv_transpose2d(y, kernel)
    for axis in (2, 3):
        kept = x.narrow(axis, before, size).clone()
        if before:
            kept.narrow(axis, size - before, before).add_(x.narrow(axis, 0, before))
        if after:
            kept.narrow(axis, 0, after).add_(x.narrow(axis, before + size, after))
        x = kept
    return x


def gram_iteration(kernel: torch.Tensor, size: int, steps: int) -> Floats:
    """Return upper bounds of the circular norm after 0, 1, ..., `steps` Gram iterations.

    Delattre, Barthelemy, Araujo & Allauzen, "Efficient Bound of Lipschitz Constant for
    Convolutional Layers by Gram Iteration", ICML 2023, algorithm 3: G <- GᴴG at every frequency,
    scaled by its Frobenius norm, which is kept in logarithms; ‖G‖_F^(2^-T) bounds the norm. Here
    in the best form we know: half of the frequencies (real kernel), the smaller side, and
    blocks of frequencies that stay in the caches. The earlier bounds cost nothing extra.
    """
    out, inputs = kernel.shape[:2]
    wide = kernel if out >= inputs else kernel.transpose(0, 1)
    matrices = torch.fft.rfft2(wide, s=(size, size)).flatten(2).permute(2, 0, 1)
    length = max(1, _BLOCK // (16 * out * inputs))
    bounds = [_gram_bounds(block.contiguous(), steps) for block in matrices.split(length)]
    return torch.stack(bounds).amax(0).cpu().numpy()


def _gram_bounds(matrices: torch.Tensor, steps: int) -> torch.Tensor:
    """Return the bounds after 0, 1, ..., `steps` iterations over one block of frequencies."""
    logarithm = torch.zeros(len(matrices), dtype=torch.float64, device=matrices.device)
    bounds = []
    for step in range(steps + 1):
        if step:
            matrices = matrices.mH @ matrices
            logarithm = 2.0 * logarithm
        length = torch.linalg.vector_norm(matrices, dim=(1, 2))
        logarithm = logarithm + length.log()
        bounds.append((logarithm * 0.5**step).exp().max())
        matrices = matrices / length[:, None, None]
    return torch.stack(bounds)


def gram_steps_for(
    kernel: torch.Tensor, size: int, truth: float, tightness: float
) -> tuple[int, float]:
    """Return the fewest Gram iterations whose bound is within `tightness` of the true norm.

    The second number is that bound. ‖G‖_F <= √rank·‖G‖ says how many are enough.
    """
    rank = max(2, min(kernel.shape[:2]))
    enough = max(1, math.ceil(math.log2(math.log(rank) / (2.0 * tightness))) + 1)
    bounds = gram_iteration(kernel, size, enough)
    steps = int(np.argmax(bounds <= truth * (1.0 + tightness)))
    return steps, float(bounds[steps])
