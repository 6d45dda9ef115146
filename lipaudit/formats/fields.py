"""Fields: what the last step of a tensor's name in a state dict, and its type, say about it."""

from collections.abc import Collection

from lipaudit.graph.constant import Constant
from lipaudit.graph.dtypes import torch_type

STATISTICS = ("running_mean", "running_var")
COUNTER = "num_batches_tracked"
_SCALES = ("_scale", "_scale_inv", "_scale_2", "_scales", "_global_scale")
"""What a quantized weight's factor is called after it: fp8 checkpoints, compressed-tensors."""


def within(key: str) -> str:
    """Return what stands behind the last container of a path, or behind a slash in a name."""
    return key.rpartition("/")[2]


def field(key: str) -> str:
    """Return the name that a tensor has within its owner."""
    return within(key).rpartition(".")[2]


def is_weight(name: str) -> bool:
    """Tell whether a field is a weight, not another matrix: `weight_hh_l0`, `in_proj_weight`."""
    is_named = name == "weight" or name.startswith("weight_") or name.endswith("_weight")
    return is_named and not name.endswith(_SCALES) and name != "scale_weight"


def is_bias(name: str) -> bool:
    """Tell whether a field is a bias by its name: `bias`, `in_proj_bias`, `bias_hh_l0`."""
    return "bias" in name


def is_number(constant: Constant) -> bool:
    """Tell whether the stored type alone says what real numbers a weight holds."""
    dtype = torch_type(constant.dtype)
    if dtype is not None and dtype.is_complex:
        return len(constant.shape) == 2  # kernels are convolved as real ones
    return dtype is not None and dtype.is_floating_point


def scale_of(key: str, keys: Collection[str]) -> str:
    """Return the key of the factor that stands beside a weight, "" if there is none."""
    beside = [key + ending for ending in _SCALES]
    if field(key) == "weight":
        beside.append(f"{key.removesuffix('weight')}scale_weight")
    return next((name for name in beside if name in keys), "")


def is_scale(key: str, keys: Collection[str]) -> bool:
    """Tell whether a tensor is the factor of a weight beside it."""
    if field(key) == "scale_weight":
        return f"{key.removesuffix('scale_weight')}weight" in keys
    return any(key.removesuffix(end) in keys for end in _SCALES if key.endswith(end))
