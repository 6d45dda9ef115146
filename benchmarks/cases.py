"""What the benchmarks share: their options, kernels, lipaudit's calls, and how to cut a case."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from timing import seconds

from lipaudit.device import Compute, choose
from lipaudit.operators.base import Norm
from lipaudit.operators.convolution import convolution
from lipaudit.operators.geometry import ConvGeometry, PaddingMode
from lipaudit.operators.spectrum import Spectrum

_COPIES = 3
"""A full transform needs its values about three times over: padded input, one axis, both."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for."""

    device: str
    quick: bool
    """Small sizes only: seconds instead of the better part of an hour."""
    limit: float
    """Seconds that one call of a baseline may take; beyond, a part is timed and scaled up."""
    repeats: int
    models: Path | None
    """A folder of trained models, if there is one."""

    @property
    def compute(self) -> Compute:
        """The device as lipaudit wants it."""
        return choose(self.device, full_spectra=True)


def gaussian(channels: int, kernel: int) -> torch.Tensor:
    """Return a random kernel of about unit norm; the seed is the shape."""
    generator = torch.Generator().manual_seed(1000 * kernel + channels)
    shape = (channels, channels, kernel, kernel)
    scale = kernel * channels**0.5
    return torch.randn(shape, generator=generator, dtype=torch.float64).div(scale)


def our_spectrum(kernel: torch.Tensor, size: int, compute: Compute) -> Spectrum | None:
    """Return lipaudit's spectrum of the circular convolution; None if it declines the work."""
    side = kernel.shape[-1]
    padding = ((side // 2, (side - 1) // 2),) * 2
    geometry = ConvGeometry((1, 1), padding, (1, 1), mode=PaddingMode.CIRCULAR)
    return convolution(kernel, geometry, (kernel.shape[1], size, size), compute).spectrum()


def our_norm(kernel: torch.Tensor, compute: Compute) -> Norm:
    """Return lipaudit's enclosure of the norm for every input size and zero padding."""
    padding = ((kernel.shape[-1] // 2,) * 2,) * 2
    return convolution(kernel, ConvGeometry((1, 1), padding, (1, 1)), None, compute).norm()


def affordable_grid(kernel: torch.Tensor, size: int, limit: float, device: str = "cpu") -> int:
    """Return how many points an axis of the grid a baseline can be timed on.

    A divisor of the size, so that the frequencies are some of the full grid's, every one of
    them whole: one SVD a frequency, so the time is proportional to their number. The size itself
    if the full problem takes less than the limit and fits the memory.
    """
    out, inputs = kernel.shape[:2]
    count = max(1, 64 // min(out, inputs))
    matrices = torch.randn(count, out, inputs, dtype=torch.complex128, device=device)
    # Two calls: the first pays for starting LAPACK's threads.
    taken = min(seconds(lambda: _decomposed(matrices), device)[0] for _ in range(2))
    frequencies = min(limit * count / taken, _memory(device) / (16.0 * _COPIES * out * inputs))
    grids = [n for n in range(kernel.shape[-1], size + 1) if size % n == 0]
    return max((n for n in grids if n**2 <= frequencies), default=grids[0])


def _decomposed(matrices: torch.Tensor) -> object:
    """Decompose them as the baseline on their device does."""
    if matrices.is_cuda:
        return torch.linalg.svdvals(matrices)
    return np.linalg.svd(matrices.numpy(), compute_uv=False)


def _memory(device: str) -> float:
    """Return half of the bytes that the host or the device has."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[1] / 2
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
