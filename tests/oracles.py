"""Slow independent truth: torch's own operations written out as matrices, and mpmath.

Nothing here uses lipaudit's mathematics; only the description of a convolution is shared.
"""

import math
from collections.abc import Callable

import mpmath
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lipaudit.operators.geometry import ConvGeometry, PaddingMode

_CONV = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)
_TRANSPOSED = (
    nn.functional.conv_transpose1d,
    nn.functional.conv_transpose2d,
    nn.functional.conv_transpose3d,
)


def dense(
    function: Callable[[torch.Tensor], torch.Tensor], in_shape: tuple[int, ...]
) -> torch.Tensor:
    """Write a linear function of one batched tensor out as a matrix, column by column."""
    count = math.prod(in_shape)
    identity = torch.eye(count, dtype=torch.float64).reshape(count, *in_shape)
    return function(identity).reshape(count, -1).mT


def conv_matrix(
    kernel: torch.Tensor, geometry: ConvGeometry, in_shape: tuple[int, ...]
) -> torch.Tensor:
    """Write torch's own convolution out as a matrix."""
    return dense(lambda x: run_conv(kernel, geometry, x), in_shape)


def run_conv(kernel: torch.Tensor, geometry: ConvGeometry, x: torch.Tensor) -> torch.Tensor:
    """Run a convolution the way torch.nn does."""
    g = geometry
    if g.transposed:
        pads = tuple(low for low, _ in g.padding)
        assert pads == tuple(high for _, high in g.padding)
        return _TRANSPOSED[g.rank - 1](
            x, kernel, None, g.stride, pads, g.output_padding or 0, g.groups, g.dilation
        )
    if g.mode is PaddingMode.ZEROS and all(low == high for low, high in g.padding):
        pads = tuple(low for low, _ in g.padding)
        return _CONV[g.rank - 1](x, kernel, None, g.stride, pads, g.dilation, g.groups)
    flat = [size for pad in reversed(g.padding) for size in pad]
    mode = "constant" if g.mode is PaddingMode.ZEROS else g.mode.value
    padded = nn.functional.pad(x, flat, mode=mode)
    return _CONV[g.rank - 1](padded, kernel, None, g.stride, 0, g.dilation, g.groups)


def wrapped_matrix(
    kernel: torch.Tensor, geometry: ConvGeometry, sizes: tuple[int, ...]
) -> torch.Tensor:
    """Write the circular convolution out entry by entry, with indices modulo the size.

    No padding is involved, so the kernel may be larger than the torus.
    """
    out, inner, *taps = kernel.shape
    groups = geometry.groups
    counts = [n // s for n, s in zip(sizes, geometry.stride, strict=True)]
    matrix = np.zeros((out, *counts, inner * groups, *sizes))
    for position in np.ndindex(*counts):
        for tap in np.ndindex(*taps):
            source = tuple(
                (j * s + d * p) % n
                for j, s, d, p, n in zip(
                    position, geometry.stride, geometry.dilation, tap, sizes, strict=True
                )
            )
            for group in range(groups):
                rows = slice(group * out // groups, (group + 1) * out // groups)
                columns = slice(group * inner, (group + 1) * inner)
                matrix[(rows, *position, columns, *source)] += kernel.numpy()[
                    (rows, slice(None), *tap)
                ]
    return torch.from_numpy(matrix.reshape(out * math.prod(counts), -1))


def singular_values(matrix: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return the singular values of a matrix, largest first."""
    values: npt.NDArray[np.float64] = torch.linalg.svdvals(matrix).numpy()
    return values


def exact_singular_values(matrix: torch.Tensor, digits: int = 50) -> list[mpmath.mpf]:
    """Return the singular values of a small matrix to many digits, largest first."""
    with mpmath.workdps(digits):
        entries = mpmath.matrix(matrix.tolist())
        values = mpmath.svd_r(entries, compute_uv=False)
        return sorted((mpmath.mpf(value) for value in values), reverse=True)
