"""Geometry: what besides its kernel defines a convolution."""

from dataclasses import dataclass
from enum import StrEnum


class PaddingMode(StrEnum):
    """What a convolution sees outside its input."""

    ZEROS = "zeros"
    CIRCULAR = "circular"
    REFLECT = "reflect"
    REPLICATE = "replicate"


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """Stride, padding, dilation and groups, one entry a spatial axis."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    """Before and after, on each axis. For a transposed convolution: what is cut away."""
    dilation: tuple[int, ...]
    groups: int = 1
    mode: PaddingMode = PaddingMode.ZEROS
    transposed: bool = False
    """The adjoint of the convolution with the same kernel layout (out, in / groups, *k)."""
    output_padding: tuple[int, ...] = ()
    stated: bool = True
    """False: only the kernel is known (a bare state dict). Then the norm must hold for every
    stride, zero padding, dilation and grouping the kernel can belong to."""

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.stride)

    @classmethod
    def unstated(cls, rank: int) -> "ConvGeometry":
        """Return the geometry of a kernel of which nothing else is known."""
        return cls((1,) * rank, ((0, 0),) * rank, (1,) * rank, stated=False)
