"""Norms of 3x3 convolutions: lipaudit's proved, size-free norm beside the methods of the papers.

    python benchmarks/layer_norms.py

Prints one line a case. Times are ratios to lipaudit in the same run; the machine is noisy.
"""

import time
from collections.abc import Callable

import torch
from baselines import power_iteration, two_liner

from lipaudit.device import Compute, choose
from lipaudit.operators.convolution import convolution
from lipaudit.operators.geometry import ConvGeometry

CASES = ((16, 32), (64, 32), (64, 56), (128, 28))
REPEATS = 3


def median_seconds(call: Callable[[], object]) -> float:
    """Return the median time of a few calls."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times)[REPEATS // 2]


def row(channels: int, size: int, compute: Compute) -> str:
    """Time one case and return its line."""
    geometry = ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1))
    torch.manual_seed(channels)
    kernel = torch.randn(channels, channels, 3, 3, dtype=torch.float64) / (3 * channels**0.5)
    paper = kernel.permute(2, 3, 1, 0).numpy()
    norm = convolution(kernel, geometry, None, compute).norm().enclosure
    ours = median_seconds(lambda: convolution(kernel, geometry, None, compute).norm())
    theirs = median_seconds(lambda: two_liner(paper, (size, size)))
    power = median_seconds(lambda: power_iteration(kernel, size))
    return (
        f"{channels:8d}  {size:5d}  {norm.upper:11.6f}  {norm.upper / norm.lower - 1:.1e}"
        f"  {theirs / ours:14.1f}  {power / ours:14.1f}"
    )


def main() -> None:
    """Time every case and print the table."""
    compute = choose("cpu", full_spectra=False)
    print("channels  image  proved norm  width     two-liner/ours  power-100/ours")
    for channels, size in CASES:
        print(row(channels, size, compute))


if __name__ == "__main__":
    main()
