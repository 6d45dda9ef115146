"""Sizes: what each layer receives for an input of stated shape, seen by running the module once.

One sample of zeros runs through the module in inference mode; nothing of it is kept.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import nn

from lipaudit.analysis import shapes
from lipaudit.analysis.shapes import InputShape
from lipaudit.errors import LipauditError, ShapeError
from lipaudit.formats import live
from lipaudit.operators.base import Shape
from lipaudit.operators.correlation import Correlation
from lipaudit.operators.geometry import ConvGeometry
from lipaudit.torch.layers import Layer, find

Shapes = tuple[Shape, ...]
"""The shapes at which one layer is used, each once; none where they are not known."""


def largest(shapes: Collection[Shape]) -> Shape | None:
    """Return the shape of the most numbers, None of none."""
    return max(shapes, key=math.prod, default=None)


@final
@dataclass(slots=True)
class KnownSizes:
    """`input_sizes`, found again only when a layer of the module has another geometry."""

    _sizes: Mapping[str, Shapes] = field(default_factory=dict)
    _when: tuple[tuple[str, ConvGeometry | None], ...] | None = None
    """The geometries with which they were found, of all layers."""

    def of(
        self, module: nn.Module, layers: Sequence[Layer], input_shape: InputShape
    ) -> Mapping[str, Shapes]:
        """See `input_sizes`."""
        if input_shape is None:
            return {}
        now = tuple((layer.name, layer.geometry) for layer in find(module, None))
        if now != self._when:
            self._sizes, self._when = input_sizes(module, layers, input_shape), now
        return self._sizes


def input_sizes(
    module: nn.Module, layers: Sequence[Layer], input_shape: InputShape
) -> Mapping[str, Shapes]:
    """Return every (channels, *sizes) that each convolution receives; {} without a shape.

    Layers that did not run are missing.
    """
    if input_shape is None:
        return {}
    stated = live.batched(module, shapes.of_examples(input_shape))
    found: dict[str, Shapes] = {}
    modes = [(part, part.training) for part in module.modules()]
    hooks = [
        layer.module.register_forward_pre_hook(_Recorder(layer, found))
        for layer in layers
        if layer.geometry is not None
    ]
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    module.eval()
    try:
        with torch.no_grad():
            module(*(torch.zeros(s, dtype=like.dtype, device=like.device) for s in stated))
    except LipauditError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0][:200]
        raise ShapeError(
            f"the module does not run on {input_shape}: {type(error).__name__}: {first}",
            slug="shape",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        for part, mode in modes:
            part.training = mode
    return found


def torus_points(
    kernel: torch.Tensor, geometry: ConvGeometry, in_shapes: Collection[Shape]
) -> Shape | None:
    """Return the torus of the largest input size, rounded up to multiples of the stride."""
    in_shape = largest(in_shapes)
    if in_shape is None:
        return None
    wide = Correlation(kernel, geometry, in_shape).wide
    return tuple(-(-n // s) * s for n, s in zip(wide, geometry.stride, strict=True))


class _Recorder:
    """A hook that writes down how large the inputs of its layer are."""

    def __init__(self, layer: Layer, found: dict[str, Shapes]) -> None:
        """Remember the layer and where its sizes go."""
        self._layer = layer
        self._found = found

    def __call__(self, module: nn.Module, inputs: tuple[object, ...]) -> None:
        """Write the size of the first input down."""
        del module
        if not inputs or not isinstance(inputs[0], torch.Tensor) or self._layer.geometry is None:
            return
        shape = tuple(inputs[0].shape[-self._layer.geometry.rank - 1 :])
        known = self._found.get(self._layer.name, ())
        if shape not in known:
            self._found[self._layer.name] = (*known, shape)
