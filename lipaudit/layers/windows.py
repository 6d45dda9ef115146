"""Windows: how a kernel of given size slides over an input, in ONNX's attributes.

Shared by convolutions and pools: kernel, strides, dilations, pads, auto_pad and ceil_mode.
"""

from dataclasses import dataclass

from lipaudit.errors import ShapeError
from lipaudit.graph.constant import Shape
from lipaudit.layers.base import Call, UnsupportedNode

Pads = tuple[tuple[int, int], ...]
"""Before and after, on each axis."""


@dataclass(frozen=True, slots=True)
class Windows:
    """The positions at which a window is put, one entry a spatial axis."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads
    """As stated; with `auto_pad` SAME_* see `pads_on`."""
    auto_pad: str
    rounds_up: bool
    """ceil_mode: a last window may reach past the padding."""

    @classmethod
    def of(cls, call: Call, sizes: tuple[int, ...]) -> "Windows":
        """Read the attributes for windows of these sizes."""
        rank = len(sizes)
        flat = call.whole_numbers("pads") or (0,) * (2 * rank)
        strides = call.whole_numbers("strides") or (1,) * rank
        dilations = call.whole_numbers("dilations") or (1,) * rank
        auto_pad = call.attribute("auto_pad", "NOTSET")
        if call.whole_numbers("kernel_shape") not in {(), sizes}:
            raise UnsupportedNode("kernel_shape differs from the shape of the kernel")
        if rank == 0 or len(flat) != 2 * rank or {len(strides), len(dilations)} != {rank}:
            raise UnsupportedNode("strides, dilations or pads do not fit the kernel")
        if min(strides) < 1 or min(dilations) < 1 or min(sizes) < 1:
            raise UnsupportedNode("strides, dilations and kernel sizes must be positive")
        if auto_pad not in {"NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"}:
            raise UnsupportedNode(f"auto_pad {auto_pad!r} is not known")
        if auto_pad != "NOTSET":
            flat = (0,) * (2 * rank)
        pads = tuple(zip(flat[:rank], flat[rank:], strict=True))
        return cls(sizes, strides, dilations, pads, auto_pad, bool(call.attribute("ceil_mode", 0)))

    @property
    def is_same(self) -> bool:
        """Whether the pads follow from the input's size."""
        return self.auto_pad.startswith("SAME")

    @property
    def reaches(self) -> tuple[int, ...]:
        """Items from the first to the last that one window touches."""
        return tuple(
            (size - 1) * step + 1 for size, step in zip(self.sizes, self.dilations, strict=True)
        )

    def pads_on(self, sizes: Shape) -> Pads:
        """Return the pads for an input of these spatial sizes."""
        if len(sizes) != len(self.sizes):
            raise ShapeError(
                f"{len(self.sizes)} spatial axes expected, {len(sizes)} found", slug="shape"
            )
        if not self.is_same:
            return self.pads
        # The ONNX specification of auto_pad: output size = ceil(input size / stride).
        totals = tuple(
            (-(-size // stride) - 1) * stride + reach - size
            for size, stride, reach in zip(sizes, self.strides, self.reaches, strict=True)
        )
        return same_pads(totals, more_at_end=self.auto_pad == "SAME_UPPER")

    def counts_on(self, sizes: Shape) -> tuple[int, ...]:
        """Return how many windows there are on each axis of an input of these sizes."""
        return tuple(map(self._count, range(len(sizes)), sizes, self.pads_on(sizes)))

    def _count(self, axis: int, size: int, pad: tuple[int, int]) -> int:
        stride, free = self.strides[axis], size + sum(pad) - self.reaches[axis]
        if not self.rounds_up or self.is_same:
            count = free // stride + 1
        else:
            count = -(-free // stride) + 1
            # A window that would start in the padding after the input is dropped.
            count -= (count - 1) * stride >= size + pad[0]
        if count < 1:
            raise ValueError(f"a window of {self.reaches[axis]} does not fit {size} + {sum(pad)}")
        return count


def same_pads(totals: tuple[int, ...], *, more_at_end: bool) -> Pads:
    """Split the total padding of each axis evenly, the odd item at the end or at the start."""
    pads = []
    for total in totals:
        half = max(total, 0) // 2
        rest = max(total, 0) - half
        pads.append((half, rest) if more_at_end else (rest, half))
    return tuple(pads)
