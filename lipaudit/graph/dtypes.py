"""Item types: ONNX's numbers for them, and torch's names, which the graph uses."""

from collections.abc import Mapping
from types import MappingProxyType

import torch

# TensorProto.DataType of onnx.proto; where torch has no such type, a lower-case name of ONNX's.
ONNX_DTYPES: Mapping[int, str] = MappingProxyType(
    {
        1: "float32",
        2: "uint8",
        3: "int8",
        4: "uint16",
        5: "int16",
        6: "int32",
        7: "int64",
        8: "string",
        9: "bool",
        10: "float16",
        11: "float64",
        12: "uint32",
        13: "uint64",
        14: "complex64",
        15: "complex128",
        16: "bfloat16",
        17: "float8_e4m3fn",
        18: "float8_e4m3fnuz",
        19: "float8_e5m2",
        20: "float8_e5m2fnuz",
        21: "uint4",
        22: "int4",
        23: "float4_e2m1",
        24: "float8_e8m0fnu",
        25: "uint2",
        26: "int2",
    }
)

# torch has these as names only: no operation accepts them.
_NAMES_ONLY = frozenset({"uint4", "int4", "uint2", "int2", "uint1", "int1"})


def torch_type(name: str) -> torch.dtype | None:
    """Return the torch type of that name with which torch can compute, None for none."""
    found = getattr(torch, name, None)
    return found if isinstance(found, torch.dtype) and name not in _NAMES_ONLY else None


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name the graph uses for a torch type."""
    return str(dtype).removeprefix("torch.")
