"""What others do, written from their papers, to be timed beside lipaudit in one run."""

import numpy as np
import numpy.typing as npt
import torch

Kernel = npt.NDArray[np.float64]


def two_liner(kernel: Kernel, size: tuple[int, int]) -> Kernel:
    """Return all singular values of the circular convolution (Sedghi, Gupta & Long 2019).

    `kernel` is (k, k, c_in, c_out), as in the paper.
    """
    transforms = np.fft.fft2(kernel, size, axes=(0, 1))
    return np.linalg.svd(transforms, compute_uv=False)


def power_iteration(kernel: torch.Tensor, size: int, steps: int = 100) -> float:
    """Return a lower bound of the zero-padded norm by the classical method."""
    padding = kernel.shape[-1] // 2
    x = torch.randn(1, kernel.shape[1], size, size, dtype=kernel.dtype)
    for _ in range(steps):
        y = torch.nn.functional.conv2d(x / x.norm(), kernel, padding=padding)
        x = torch.nn.functional.conv_transpose2d(y, kernel, padding=padding)
    return float(x.norm()) ** 0.5
