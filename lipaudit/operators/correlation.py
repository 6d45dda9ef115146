"""Correlation: the convolution of a network, run by torch on inputs of one size.

Everything about a convolution that depends on the input's size is here: which pixel each
window reads under each padding mode, the map and its adjoint, and its matrix.
"""

import math
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
_TORCH_PAD = {
    PaddingMode.ZEROS: "constant",
    PaddingMode.CIRCULAR: "circular",
    PaddingMode.REFLECT: "reflect",
    PaddingMode.REPLICATE: "replicate",
}
_NumpyPad = Literal["wrap", "reflect", "edge"]
_NUMPY_PAD: dict[PaddingMode, _NumpyPad] = {
    PaddingMode.CIRCULAR: "wrap",
    PaddingMode.REFLECT: "reflect",
    PaddingMode.REPLICATE: "edge",
}
_PAD_ROOM = {PaddingMode.CIRCULAR: 0, PaddingMode.REFLECT: 1}
"""By how much the padding of one side must stay below the size (as torch demands)."""
_IDENTITY_CHUNK = 1 << 24
"""Items of the identity that are pushed through at a time."""


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

        mode = self.geometry.mode
        if mode in _PAD_ROOM and any(
            max(pad) > n - _PAD_ROOM[mode]
            for n, pad in zip(self.wide, self.geometry.padding, strict=True)
        ):
            raise ShapeError(
                f"{mode.value} padding does not fit an input of {'x'.join(map(str, self.wide))}",
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
        y = _CONV[g.rank - 1](x, self.kernel, None, g.stride, 0, g.dilation, g.groups)
        # Output padding beyond the stride makes room for windows that no input belongs to.
        for axis, n in enumerate(self.narrow, start=2):
            y = y.narrow(axis, 0, n)
        return y

    def _spread(self, y: torch.Tensor) -> torch.Tensor:
        """Apply the adjoint of `_gather`, onto the padded sizes."""
        g = self.geometry
        x = _SPREAD[g.rank - 1](y, self.kernel, None, g.stride, 0, 0, g.groups, g.dilation)
        missing = [n - have for n, have in zip(self.padded, x.shape[2:], strict=True)]
        return functional.pad(x, [size for m in reversed(missing) for size in (0, m)])

    def _pad(self, x: torch.Tensor) -> torch.Tensor:
        # functional.pad counts axes from the last; negative sizes cut.
        flat = [size for pad in reversed(self.geometry.padding) for size in pad]
        if not any(flat):
            return x
        return functional.pad(x, flat, mode=_TORCH_PAD[self.geometry.mode])

    def _unpad(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the adjoint of `_pad`: cut zeros away, add copies up."""
        flat = [-size for pad in reversed(self.geometry.padding) for size in pad]
        if self.geometry.mode is PaddingMode.ZEROS:
            return functional.pad(x, flat)
        with torch.inference_mode(mode=False), torch.enable_grad():
            inner = torch.zeros(
                (*x.shape[:2], *self.wide), dtype=x.dtype, device=x.device, requires_grad=True
            )
            (back,) = torch.autograd.grad(self._pad(inner), inner, x.clone())
        return back

    def sources(self, axis: int) -> npt.NDArray[np.int64]:
        """Return which pixel each position of the padded axis shows, -1 for a zero."""
        low, high = self.geometry.padding[axis]
        line = np.arange(self.wide[axis])
        line = line[max(0, -low) : len(line) - max(0, -high)]
        pads = (max(0, low), max(0, high))
        if self.geometry.mode is PaddingMode.ZEROS:
            return np.pad(line, pads, constant_values=-1)
        return np.pad(line, pads, mode=_NUMPY_PAD[self.geometry.mode])

    @cached_property
    def copies(self) -> int:
        """Count how often padding shows the same pixel at most: ‖pad‖² exactly."""
        lines = (self.sources(axis) for axis in range(self.geometry.rank))
        return math.prod(int(np.bincount(line[line >= 0]).max()) for line in lines)

    def frobenius(self) -> float:
        """Return √Σσ² of the map: Σ <K_p, K_q> over taps p, q that read the same pixel."""
        shared = self._shared(0)
        for axis in range(1, self.geometry.rank):
            shared = torch.kron(shared, self._shared(axis))
        flat = self.kernel.reshape(-1, shared.shape[0])
        return math.sqrt(max(0.0, float(((flat.mT @ flat).cpu() * shared).sum())))

    def _shared(self, axis: int) -> torch.Tensor:
        """Count the windows in which two taps of one axis read the same pixel, for every pair."""
        starts = np.arange(self.narrow[axis]) * self.geometry.stride[axis]
        taps = np.arange(self.kernel.shape[2 + axis]) * self.geometry.dilation[axis]
        seen = self.sources(axis)[starts[:, None] + taps[None, :]]
        same = (seen[:, :, None] == seen[:, None, :]) & (seen[:, :, None] >= 0)
        return torch.from_numpy(same).sum(0).to(torch.float64)

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """Blocks, rows and columns of `matrix`."""
        groups = self.geometry.groups
        rows, columns = math.prod(self.out_shape), math.prod(self.in_shape)
        return groups, rows // groups, columns // groups

    def matrix(self) -> torch.Tensor:
        """Return the map as a stack of matrices, one a group, by pushing the identity through."""
        groups, rows, columns = self.block_shape
        channels = self.in_shape[0] // groups
        result = self.kernel.new_empty(groups, rows, columns)
        step = max(1, _IDENTITY_CHUNK // (groups * columns))
        for first in range(0, columns, step):
            count = min(step, columns - first)
            unit = self.kernel.new_zeros(count, columns)
            unit[torch.arange(count), torch.arange(first, first + count)] = 1.0
            x = unit.reshape(count, channels, *self.in_shape[1:])
            image = self.apply(x.repeat(1, groups, *(1,) * self.geometry.rank))
            result[:, :, first : first + count] = image.reshape(count, groups, rows).permute(
                1, 2, 0
            )
        return result

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
