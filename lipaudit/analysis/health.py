"""Health: what this machine computes with, and whether a proof still proves on it."""

import contextlib
import math
import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipaudit.device import Compute
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.operators.certify import gram, proves_below
from lipaudit.operators.convolution import convolution
from lipaudit.operators.dense import DenseOperator
from lipaudit.operators.geometry import ConvGeometry
from lipaudit.version import __version__

NEEDED = ("torch", "numpy", "onnx", "safetensors", "typer", "rich")
EXTRAS: Mapping[str, str] = {"matplotlib": "plot"}
"""Library -> the extra of lipaudit that brings it."""
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_CGROUP = Path("/sys/fs/cgroup/memory.max")
_MEMINFO = Path("/proc/meminfo")
_KNOWN = ((1.0, -2.0, 2.0), (2.0, -1.0, -2.0), (2.0, 2.0, 1.0))
"""Three times an orthogonal matrix: its norm is 3."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One thing that has to come out as it is known to be."""

    name: str
    expected: str
    found: str
    passed: bool


def versions() -> dict[str, str | None]:
    """Return the versions of what lipaudit is made of; None for what is missing."""
    libraries = {name: _version(name) for name in NEEDED}
    return {"lipaudit": __version__, "python": platform.python_version(), **libraries}


def extras() -> dict[str, str | None]:
    """Return the versions of the libraries that are not needed; None for what is missing."""
    return {name: _version(name) for name in EXTRAS}


def machine() -> dict[str, Any]:
    """Return what the work is done on."""
    return {
        "platform": platform.platform(),
        "processors": _processors(),
        "threads": torch.get_num_threads(),
        "thread variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "memory": _memory(),
    }


def algebra() -> dict[str, str]:
    """Return which libraries multiply and factorize."""
    built = torch.__config__.show().splitlines()
    words = ("Math Kernel Library", "OpenBLAS", "LAPACK is", "CPU capability")
    lines = [line.strip(" -") for line in built if any(word in line for word in words)]
    return {"torch": "; ".join(lines) or "unknown", "numpy": _numpy_algebra()}


def trials(compute: Compute) -> list[Trial]:
    """Prove norms that are known, and try to prove what is false."""
    known = torch.tensor(_KNOWN, dtype=torch.float64)
    kernel = torch.tensor([[[-1.0, 2.0, -1.0]]], dtype=torch.float64)
    padded = ConvGeometry(stride=(1,), padding=((1, 1),), dilation=(1,))
    return [
        _tried("a dense norm is proved", "3", lambda: _norm(DenseOperator(known, compute), 3.0)),
        _tried(
            "a zero-padded convolution's norm is proved",
            "2 + √2",  # [-1, 2, -1] on three points; wrapped around it would be 3
            lambda: _norm(convolution(kernel, padded, (1, 3), compute), 2 + math.sqrt(2)),
        ),
        _tried("what is false is not proved", "refused", lambda: _refusal(known)),
        _tried("tiny numbers are kept", "2^-1074", _underflow),
    ]


def _tried(name: str, expected: str, trial: Callable[[], tuple[str, bool]]) -> Trial:
    try:
        found, passed = trial()
    except Exception as error:  # noqa: BLE001 - a broken library may raise anything
        found, passed = f"{type(error).__name__}: {error}", False
    return Trial(name, expected, found, passed)


def _norm(operator: Any, truth: float) -> tuple[str, bool]:
    found: Enclosure = operator.norm().enclosure
    inside = found.lower <= truth * (1 + 1e-15) and truth <= found.upper
    close = found.upper <= truth * (1 + 1e-3)
    shown = f"[{found.lower:.6f}, {found.upper:.6f}] {found.rigor.label}"
    return shown, inside and close and found.rigor is Rigor.PROVED


def _refusal(matrix: torch.Tensor) -> tuple[str, bool]:
    grams, error = gram(matrix.unsqueeze(0))
    above = bool(proves_below(grams, error, 3.0 * (1 + 1e-9)).all())
    below = bool(proves_below(grams, error, 3.0 * (1 - 1e-9)).any())
    return ("proved" if below else "refused"), above and not below


def _underflow() -> tuple[str, bool]:
    """See that results below 2^-1022 are not set to 0: the proofs count on it."""
    least = torch.full((64,), 2.0**-1022, dtype=torch.float64) * 2.0**-52
    # By its bits: where such numbers are taken for 0, they also compare equal to it.
    kept = bool((least.view(torch.int64) == 1).all())
    return ("2^-1074" if kept else "0"), kept


def _version(name: str) -> str | None:
    # A broken installation must be reported, not met with a traceback.
    with contextlib.suppress(Exception):
        return metadata.version(name)
    return None


def _processors() -> int:
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError):
            return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> dict[str, int | None]:
    """Return the bytes there are and the bytes that are free, as far as the system says."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            name, _, rest = line.partition(":")
            found[name] = 1024 * int(rest.split()[0])
    limit = None
    with contextlib.suppress(OSError, ValueError):  # "max" is no limit
        limit = int(_CGROUP.read_text(encoding="ascii"))
    return {
        "total": found.get("MemTotal"),
        "available": found.get("MemAvailable"),
        "limit of the container": limit,
    }


def _numpy_algebra() -> str:
    with contextlib.suppress(Exception):
        parts = np.show_config(mode="dicts")["Build Dependencies"]
        return "; ".join(
            f"{kind} {parts[kind].get('name')} {parts[kind].get('version')}"
            for kind in ("blas", "lapack")
        )
    return "unknown"
