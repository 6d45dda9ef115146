"""The catalog: every family imported once, so that the registry is full."""

from lipaudit.formats.aten import (
    arrangement,
    convolution,
    dense,
    elementwise,
    lengths,
    moments,
    normalization,
    parametrized,
    pooling,
    recurrent,
    reductions,
    resampling,
    views,
)
from lipaudit.formats.aten.call import AtenCall, Ref, translate

FAMILIES = (
    arrangement,
    convolution,
    dense,
    elementwise,
    lengths,
    moments,
    normalization,
    parametrized,
    pooling,
    recurrent,
    reductions,
    resampling,
    views,
)

__all__ = ["FAMILIES", "AtenCall", "Ref", "translate"]
