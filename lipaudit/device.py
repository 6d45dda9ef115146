"""Compute: where the numbers are worked out, and how much memory that may take.

The only file that knows of CUDA.
"""

from dataclasses import dataclass

import torch

from lipaudit.errors import UsageError

DEFAULT_MEMORY = 2 << 30
"""Bytes of work space for one layer: what a small CI machine can spare."""


@dataclass(frozen=True, slots=True)
class Compute:
    """The device for the linear algebra (always in float64) and its work-space budget."""

    device: torch.device
    max_memory: int = DEFAULT_MEMORY
    full_spectra: bool = True
    """Whether singular values are wanted, or only norms."""


def choose(name: str, *, max_memory: int = DEFAULT_MEMORY, full_spectra: bool = True) -> Compute:
    """Turn `auto`, `cpu`, `cuda` or `cuda:1` into a device that is really there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(
            f"no device is called {name!r}", slug="device", hint="use auto, cpu or cuda"
        ) from None
    if device.type not in {"cpu", "cuda"}:
        raise UsageError(
            f"device {name!r} has no float64 linear algebra", slug="device", hint="use cpu or cuda"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r} is not there", slug="device", hint="use --device cpu")
    return Compute(device, max_memory, full_spectra)
