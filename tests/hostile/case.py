"""What a bad input is: how it is made, what is asked of it, and what it must get."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

MARKER = "CODE-RAN"
"""The file, in the folder of the case, that every payload makes if it is ever run."""
SECONDS = 2.0
MEMORY = 300 << 20


@final
@dataclass(frozen=True, slots=True)
class Hostile:
    """One bad input, built by code into an empty folder."""

    name: str
    """In small letters and hyphens; of the pytest case, and of the line of `make hostile`."""
    what: str
    """In a few words, for the table: `one bit flipped in a weight`."""
    build: Callable[[Path], Path]
    """Writes the files into a folder and returns what lipaudit is to read."""
    code: int
    """The exit code."""
    says: tuple[str, ...]
    """Parts of the one line on stderr (exit 2), or else of stdout and stderr together."""
    silent: tuple[str, ...] = ()
    """What must not be printed anywhere."""
    command: tuple[str, ...] = ("inspect",)
    """Before the path."""
    options: tuple[str, ...] = ()
    """After the path."""
    row: int | None = None
    """Its number in the list of bad inputs this suite started from; None for a neighbour."""
    plain: str | None = None
    """How the plain loader reads it: torch, torchscript, export, safetensors, onnx, or not."""
    seconds: float = SECONDS
    memory: int = MEMORY
