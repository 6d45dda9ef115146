"""Support: the part of a zero-padded convolution that ever touches data.

On an input of n points window p reads the pixel s·p + d·t - low with its tap t. Where that is
no pixel it reads a zero, so a tap for which it never is one stands nowhere in the matrix of the
operator: with a dilation as large as the image (ASPP heads) only the middle of the kernel does.
Windows that read nothing are rows of zeros, pixels that no window reads are columns of zeros.
To leave all of these out is exact, and changes no singular value but zeros.

Axes are independent: a tap touches data where it does so on every axis.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch

from lipaudit.device import Compute
from lipaudit.operators.correlation import Correlation
from lipaudit.operators.geometry import PaddingMode
from lipaudit.operators.spectrum import Spectrum

BYTES_EACH = 40
"""Work space for one singular value of a spectrum."""


def live(conv: Correlation) -> Correlation:
    """Return the same map without the taps that are zero or never touch data.

    Where none is left the kernel is zero. With another padding than zeros every tap meets
    data, and the map is returned as it is.
    """
    if conv.geometry.mode is not PaddingMode.ZEROS:
        return conv
    kernel, padding = conv.kernel, []
    for axis in range(conv.geometry.rank):
        idle = [tap for tap, run in enumerate(_runs(conv, axis)) if not run]
        kernel = kernel.index_fill(
            2 + axis, torch.tensor(idle, dtype=torch.int64).to(kernel.device), 0.0
        )
    if not bool(kernel.any()):
        return replace(conv, kernel=kernel)
    for axis, (low, high) in enumerate(conv.geometry.padding):
        used, step = _used(kernel, axis), conv.geometry.dilation[axis]
        after = kernel.shape[2 + axis] - 1 - used[-1]
        padding.append((low - step * used[0], high - step * after))
        kernel = kernel.narrow(2 + axis, used[0], used[-1] - used[0] + 1)
    geometry = replace(conv.geometry, padding=tuple(padding))
    return replace(conv, kernel=kernel.contiguous(), geometry=geometry)


def touching(conv: Correlation) -> tuple[slice, ...]:
    """Return on each axis the taps from the first to the last that touches data."""
    box = []
    for axis in range(conv.geometry.rank):
        taps = [tap for tap, run in enumerate(_runs(conv, axis)) if run]
        box.append(slice(taps[0], taps[-1] + 1) if taps else slice(0, 0))
    return tuple(box)


def core(conv: Correlation) -> Correlation:
    """Return a `live` map without its rows and columns of zeros, as far as they are regular.

    Its singular values are those of the map, but for zeros.
    """
    if conv.geometry.mode is not PaddingMode.ZEROS or not bool(conv.kernel.any()):
        return conv
    axes = [_core_axis(conv, axis) for axis in range(conv.geometry.rank)]
    kernel = conv.kernel
    for axis, part in enumerate(axes):
        if len(part.taps) < kernel.shape[2 + axis]:
            kernel = kernel.index_select(2 + axis, torch.tensor(part.taps).to(kernel.device))
    geometry = replace(
        conv.geometry,
        stride=tuple(part.stride for part in axes),
        padding=tuple(part.padding for part in axes),
        dilation=tuple(part.dilation for part in axes),
        output_padding=(),
    )
    sizes = (part.windows if geometry.transposed else part.pixels for part in axes)
    return Correlation(kernel.contiguous(), geometry, (conv.in_shape[0], *sizes))


def is_apart(conv: Correlation) -> bool:
    """Tell whether each window reads pixels of its own, and no zeros.

    Then the operator is one matrix, the kernel's, in as many copies as there are windows.
    """
    return not any(map(any, conv.geometry.padding)) and all(
        stride > reach for stride, reach in zip(conv.geometry.stride, conv.reach, strict=True)
    )


def completed(
    spectrum: Spectrum, rows: int, columns: int, compute: Compute, *, times: int = 1
) -> Spectrum | None:
    """Return the spectrum of a matrix that is one part, some times over, and zeros.

    None when all the values have no room.
    """
    count = min(rows, columns)
    if BYTES_EACH * count > compute.max_memory:
        return None
    values = np.repeat(spectrum.values, times) if times > 1 else spectrum.values
    if len(values) < count:
        values = np.pad(values, (0, count - len(values)))
    return replace(spectrum, values=values, rows=rows, columns=columns)


@final
@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of a core."""

    taps: Sequence[int]
    """Which of the kernel's it keeps."""
    stride: int
    dilation: int
    low: int
    """Zeros before the first pixel."""
    pixels: int
    windows: int

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros on either side, such that the last window ends where they do."""
        end = self.stride * (self.windows - 1) + self.dilation * (len(self.taps) - 1) + 1
        return self.low, end - self.pixels - self.low


def _core_axis(conv: Correlation, axis: int) -> _Axis:
    stride, dilation = conv.geometry.stride[axis], conv.geometry.dilation[axis]
    runs, used = _runs(conv, axis), _used(conv.kernel, axis)
    start = min(runs[tap].start for tap in used)
    windows = max(runs[tap].stop for tap in used) - start
    # (pixel, window, tap) of the first and of the last pixel that is read.
    first = min((stride * runs[t].start + dilation * t, runs[t].start, t) for t in used)
    last = max((stride * runs[t][-1] + dilation * t, runs[t][-1], t) for t in used)
    if stride <= conv.reach[axis]:
        before = first[0] - stride * start
        taps = range(conv.kernel.shape[2 + axis])
        return _Axis(taps, stride, dilation, before, last[0] - first[0] + 1, windows)
    # Windows share no pixel: they can stand side by side, without the pixels between them and
    # between their taps. What they read of the image stays one piece.
    ends = [len(used) * (window - start) + used.index(tap) for _, window, tap in (first, last)]
    return _Axis(used, len(used), 1, ends[0], ends[1] - ends[0] + 1, windows)


def _runs(conv: Correlation, axis: int) -> list[range]:
    """Return for each tap of one axis the windows in which it stands before a pixel."""
    stride, dilation = conv.geometry.stride[axis], conv.geometry.dilation[axis]
    low, _ = conv.geometry.padding[axis]
    runs = []
    for tap in range(conv.kernel.shape[2 + axis]):
        away = low - dilation * tap
        # 0 <= stride·p - away < n; a quotient is rounded up by negating it twice.
        first = max(-(-away // stride), 0)
        runs.append(
            range(first, min((conv.wide[axis] - 1 + away) // stride + 1, conv.narrow[axis]))
        )
    return runs


def _used(kernel: torch.Tensor, axis: int) -> list[int]:
    """Return the taps of one axis that have any weight."""
    lines: torch.Tensor = kernel.movedim(2 + axis, 0).flatten(1).any(1)
    return lines.nonzero().flatten().tolist()
