"""Correlation: the convolution of a network, run by torch on inputs of one size.

Everything about a convolution that depends on the input's size is here: which pixel each
window reads under each padding mode, the map and its adjoint, and its matrix.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from lipaudit.errors import ShapeError
from lipaudit.operators.base import Shape
from lipaudit.operators.certify import ROOM, UNDERFLOW, gamma
from lipaudit.operators.geometry import ConvGeometry, PaddingMode

_CONV = (functional.conv1d, functional.conv2d, functional.conv3d)
_SPREAD = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
_TORCH_PAD = {PaddingMode.REFLECT: "reflect", PaddingMode.REPLICATE: "replicate"}
_NumpyPad = Literal["reflect", "edge"]
_NUMPY_PAD: dict[PaddingMode, _NumpyPad] = {
    PaddingMode.REFLECT: "reflect",
    PaddingMode.REPLICATE: "edge",
}
_COLUMNS_BYTES = 1 << 28
"""Work space of one call of torch's convolution, which writes every window out as a column."""


@final
@dataclass(frozen=True, eq=False)
class Correlation:
    """A convolution, or the transpose of one, on inputs of one shape.

    A transposed convolution is described through the plain one of which it is the adjoint:
    `wide` is the plain one's input, `narrow` its output.
    """

    kernel: torch.Tensor
    """(plain outputs, plain inputs / groups, *sizes)."""
    geometry: ConvGeometry
    in_shape: Shape

    def __post_init__(self) -> None:
        channels = self.narrow_channels if self.geometry.transposed else self.wide_channels
        rank = self.geometry.rank
        if len(self.in_shape) != rank + 1 or self.in_shape[0] != channels:
            raise ShapeError(
                f"a {rank}-D convolution of {channels} channels on an input of shape "
                f"{'x'.join(map(str, self.in_shape))}",
                slug="shape",
            )
        if min(self.wide + self.narrow) < 1:
            raise ShapeError(
                f"kernel {'x'.join(map(str, self.kernel.shape[2:]))} does not fit an input of "
                f"{'x'.join(map(str, self.in_shape[1:]))}",
                slug="shape",
            )

    @property
    def wide_channels(self) -> int:
        """Channels the plain convolution reads."""
        return self.kernel.shape[1] * self.geometry.groups

    @property
    def narrow_channels(self) -> int:
        """Channels the plain convolution writes."""
        return self.kernel.shape[0]

    @cached_property
    def reach(self) -> Shape:
        """Pixels one window spans beyond its first: dilation·(size - 1)."""
        sizes = self.kernel.shape[2:]
        return tuple(d * (k - 1) for d, k in zip(self.geometry.dilation, sizes, strict=True))

    @cached_property
    def wide(self) -> Shape:
        """Spatial sizes of the plain convolution's input."""
        if not self.geometry.transposed:
            return self.in_shape[1:]
        g = self.geometry
        extra = g.output_padding or (0,) * g.rank
        return tuple(
            (n - 1) * s - low - high + reach + 1 + more
            for n, s, (low, high), reach, more in zip(
                self.in_shape[1:], g.stride, g.padding, self.reach, extra, strict=True
            )
        )

    @cached_property
    def padded(self) -> Shape:
        """Spatial sizes after padding."""
        pads = self.geometry.padding
        return tuple(n + low + high for n, (low, high) in zip(self.wide, pads, strict=True))

    @cached_property
    def narrow(self) -> Shape:
        """Spatial sizes of the plain convolution's output."""
        if self.geometry.transposed:
            return self.in_shape[1:]
        return tuple(
            (n - reach - 1) // s + 1
            for n, reach, s in zip(self.padded, self.reach, self.geometry.stride, strict=True)
        )

    @property
    def out_shape(self) -> Shape:
        """Shape of one output."""
        if self.geometry.transposed:
            return (self.wide_channels, *self.wide)
        return (self.narrow_channels, *self.narrow)

    @property
    def multiplications(self) -> int:
        """How many products one application takes."""
        return self.kernel.numel() * math.prod(self.narrow)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Map a batch of inputs to a batch of outputs."""
        if self.geometry.transposed:
            return self._unpad(self._spread(x))
        return self._gather(self._pad(x))

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """Map a batch of outputs back."""
        if self.geometry.transposed:
            return self._gather(self._pad(y))
        return self._unpad(self._spread(y))

    def _gather(self, x: torch.Tensor) -> torch.Tensor:
        g = self.geometry
        parts = []
        for first, count in self._strips(len(x)):
            seen = x.narrow(2, g.stride[0] * first, self._span(count))
            y = _CONV[g.rank - 1](seen, self.kernel, None, g.stride, 0, g.dilation, g.groups)
            # Output padding beyond the stride makes room for windows that no input belongs to.
            for axis, n in enumerate(self.narrow[1:], start=3):
                y = y.narrow(axis, 0, n)
            parts.append(y)
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def _spread(self, y: torch.Tensor) -> torch.Tensor:
        """Apply the adjoint of `_gather`, onto the padded sizes."""
        g = self.geometry
        whole = y.new_zeros((len(y), self.wide_channels, *self.padded))
        for first, count in self._strips(len(y)):
            strip = y.narrow(2, first, count)
            part = _SPREAD[g.rank - 1](
                strip, self.kernel, None, g.stride, 0, 0, g.groups, g.dilation
            )
            place = whole.narrow(2, g.stride[0] * first, self._span(count))
            for axis, n in enumerate(part.shape[3:], start=3):
                place = place.narrow(axis, 0, n)
            place += part
        return whole

    def _strips(self, batch: int) -> Iterator[tuple[int, int]]:
        """Yield first and count of the windows of the first axis that are worked on together."""
        columns = 8 * batch * math.prod(self.kernel.shape[1:]) * math.prod(self.narrow[1:])
        step = max(1, _COLUMNS_BYTES // max(1, columns))
        for first in range(0, self.narrow[0], step):
            yield first, min(step, self.narrow[0] - first)

    def _span(self, windows: int) -> int:
        """Return how many pixels so many windows of the first axis reach over."""
        return self.geometry.stride[0] * (windows - 1) + self.reach[0] + 1

    def _pad(self, x: torch.Tensor) -> torch.Tensor:
        if not any(any(pad) for pad in self.geometry.padding):
            return x
        if self.geometry.mode is PaddingMode.ZEROS:
            return with_zeros(x, self.geometry.padding)
        if self.geometry.mode is PaddingMode.CIRCULAR:
            # torch's own goes around once at most.
            for axis in range(self.geometry.rank):
                x = x.index_select(2 + axis, torch.from_numpy(self.sources(axis)).to(x.device))
            return x
        # functional.pad counts axes from the last.
        flat = [size for pad in reversed(self.geometry.padding) for size in pad]
        return functional.pad(x, flat, mode=_TORCH_PAD[self.geometry.mode])

    def _unpad(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the adjoint of `_pad`: cut zeros away, add copies up."""
        if self.geometry.mode is PaddingMode.ZEROS:
            return with_zeros(x, tuple((-low, -high) for low, high in self.geometry.padding))
        with torch.inference_mode(mode=False), torch.enable_grad():
            inner = torch.zeros(
                (*x.shape[:2], *self.wide), dtype=x.dtype, device=x.device, requires_grad=True
            )
            (back,) = torch.autograd.grad(self._pad(inner), inner, x.clone())
        return back

    def sources(self, axis: int) -> npt.NDArray[np.int64]:
        """Return which pixel each position of the padded axis shows, -1 for a zero."""
        (low, high), size = self.geometry.padding[axis], self.wide[axis]
        line = np.arange(self.padded[axis]) - low
        if self.geometry.mode is PaddingMode.ZEROS:
            return np.where((line >= 0) & (line < size), line, -1)
        if self.geometry.mode is PaddingMode.CIRCULAR:
            return line % size
        line = np.arange(size)[max(0, -low) : size - max(0, -high)]
        return np.pad(line, (max(0, low), max(0, high)), mode=_NUMPY_PAD[self.geometry.mode])

    def _seen(self, axis: int) -> npt.NDArray[np.int64]:
        """Return which pixel stands before each tap of one axis in each window, (windows, taps)."""
        starts = np.arange(self.narrow[axis]) * self.geometry.stride[axis]
        taps = np.arange(self.kernel.shape[2 + axis]) * self.geometry.dilation[axis]
        seen: npt.NDArray[np.int64] = self.sources(axis)[starts[:, None] + taps[None, :]]
        return seen

    @cached_property
    def copies(self) -> int:
        """Count how often padding shows the same pixel at most: ‖pad‖² exactly."""
        lines = (self.sources(axis) for axis in range(self.geometry.rank))
        return math.prod(int(np.bincount(line[line >= 0]).max(initial=0)) for line in lines)

    def frobenius(self) -> float:
        """Return √Σσ² of the map: Σ <K_p, K_q> over taps p, q that read the same pixel."""
        flat = self.kernel.reshape(-1, math.prod(self.kernel.shape[2:]))
        if self.geometry.mode is PaddingMode.ZEROS:
            # No two taps of a window read one pixel.
            counts = torch.ones(1, dtype=torch.float64)
            for axis in range(self.geometry.rank):
                counts = torch.kron(counts, torch.from_numpy((self._seen(axis) >= 0).sum(0) * 1.0))
            return math.sqrt(float((flat.square().sum(0).cpu() * counts).sum()))
        shared = self._shared(0)
        for axis in range(1, self.geometry.rank):
            shared = torch.kron(shared, self._shared(axis))
        return math.sqrt(max(0.0, float(((flat.mT @ flat).cpu() * shared).sum())))

    def _shared(self, axis: int) -> torch.Tensor:
        """Count the windows in which two taps of one axis read the same pixel, for every pair."""
        seen = self._seen(axis)
        counts = [(seen == tap[:, None]).sum(0) for tap in seen.T]
        return torch.from_numpy(np.stack(counts)).to(torch.float64)

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """Blocks, rows and columns of `matrix`."""
        groups = self.geometry.groups
        rows, columns = math.prod(self.out_shape), math.prod(self.in_shape)
        return groups, rows // groups, columns // groups

    def matrix(self) -> torch.Tensor:
        """Return the map as a stack of matrices, one a group, written tap by tap."""
        groups, rows, columns = self.block_shape
        rank, outputs = self.geometry.rank, self.kernel.shape[0] // groups
        # (group, output, input) stay; one after the other each axis of taps becomes two, of
        # windows and of pixels. Those that shrink the most go first.
        growth = [
            m * n / k for m, n, k in zip(self.narrow, self.wide, self.kernel.shape[2:], strict=True)
        ]
        made = self.kernel.reshape(-1, *self.kernel.shape[2:])
        for axis in sorted(range(rank), key=growth.__getitem__):
            made = self._written(made, axis)
        sizes = (size for pair in zip(self.narrow, self.wide, strict=True) for size in pair)
        made = made.reshape(groups, outputs, self.kernel.shape[1], *sizes)
        narrow = (1, *range(3, 3 + 2 * rank, 2))
        wide = (2, *range(4, 4 + 2 * rank, 2))
        order = (*wide, *narrow) if self.geometry.transposed else (*narrow, *wide)
        return made.permute(0, *order).reshape(groups, rows, columns)

    def _written(self, kernels: torch.Tensor, axis: int) -> torch.Tensor:
        """Return kernels with one axis of taps written out as a matrix (windows, pixels)."""
        before, after = kernels.shape[: 1 + axis], kernels.shape[2 + axis :]
        kernels = kernels.reshape(math.prod(before), -1, math.prod(after))
        seen = torch.from_numpy(self._seen(axis)).to(kernels.device)
        shape = (len(kernels), self.narrow[axis], self.wide[axis], kernels.shape[2])
        made = kernels.new_zeros(shape)
        for tap in range(kernels.shape[1]):
            (windows,) = torch.nonzero(seen[:, tap] >= 0, as_tuple=True)
            made[:, windows, seen[windows, tap]] += kernels[:, tap, None]
        return made.reshape(*before, -1, *after)

    @property
    def matrix_error(self) -> float:
        """Bound on ‖`matrix` - true matrix‖.

        With zero padding every entry is one tap: exact. Otherwise an entry may be the sum of up
        to T taps, wrong by γ_T Σ|taps|, and ‖(Σ|taps|)‖_F <= √(T·windows)·‖K‖_F by Cauchy.
        """
        if self.geometry.mode is PaddingMode.ZEROS:
            return 0.0
        taps = math.prod(self.kernel.shape[2:])
        size = float(torch.linalg.vector_norm(self.kernel)) * (1.0 + gamma(self.kernel.numel() + 8))
        windows = math.prod(self.narrow)
        return gamma(taps + 1) * math.sqrt(taps * windows) * size * ROOM + UNDERFLOW


def with_zeros(x: torch.Tensor, pads: tuple[tuple[int, int], ...]) -> torch.Tensor:
    """Return a batch with zeros around; negative sizes cut, also what zeros were added."""
    # functional.pad counts axes from the last.
    x = functional.pad(x, [max(size, 0) for pad in reversed(pads) for size in pad])
    for axis, (low, high) in enumerate(pads, start=2):
        first, last = max(-low, 0), x.shape[axis] - max(-high, 0)
        x = x.narrow(axis, first, last - first)
    return x
