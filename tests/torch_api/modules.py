"""What the tests of lipaudit.torch ask of a module."""

from typing import Any

from lipaudit.operators.geometry import ConvGeometry
from lipaudit.torch import layers


def geometry_of(module: Any) -> ConvGeometry:
    """Return the geometry of a convolution."""
    geometry = layers.geometry_of(module)
    assert geometry is not None
    return geometry
