"""Keys: names for results, made of everything that they depend on."""

import json
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from lipaudit.cache import hashing
from lipaudit.version import __version__

NUMERICAL_VERSION = 1
"""Raise it with every change after which a number, its rigor, its method or a reason could come
out in another way, or the fields of what is kept change. `program` sees a change of lipaudit's
own source by itself; this one also counts where there is no source to look at."""

LIBRARIES = ("torch", "numpy", "onnx", "safetensors")
"""What computes and reads besides lipaudit: another version may round in another way."""


@cache
def setting() -> tuple[str, ...]:
    """Return what every result depends on: this program and the libraries below it."""
    return (
        f"numerical {NUMERICAL_VERSION}",
        f"lipaudit {__version__}",
        f"source {program(Path(__file__).resolve().parents[1])}",
        f"python {platform.python_version()}",
        *(f"{name} {_version(name)}" for name in LIBRARIES),
    )


def program(folder: Path) -> str:
    """Return the digest of a package's source; a version alone stays what it was while edited."""
    files = sorted(path for path in folder.rglob("*.py") if path.is_file())
    parts = [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in files]
    return key([(name, hashing.of_bytes(data)) for name, data in parts])


def key(*parts: Any) -> str:
    """Return the name of a result that depends on these things: plain data, nothing else."""
    text = json.dumps(parts, separators=(",", ":"), ensure_ascii=True)
    return hashing.of_bytes(text.encode("ascii"))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
