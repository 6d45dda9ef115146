"""What grows: a file with n of one thing, built for any n."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

Built = Callable[[Path, int], Path]


@final
@dataclass(frozen=True, slots=True)
class Growth:
    """One thing of which a file can hold any number."""

    name: str
    """In small letters and hyphens: of the pytest case."""
    build: Built
    """Writes a file with so many of it into an empty folder, and returns what is to be read."""
    count: int
    """As many as lipaudit reads in tenths of a second; it is given four times as many, too."""
    command: tuple[str, ...] = ("inspect", "--no-spectra", "-f", "json")
    """Before the path."""


def of(name: str, made: Callable[[int], bytes]) -> Built:
    """Return what writes one file of that name."""

    def build(folder: Path, count: int) -> Path:
        path = folder / name
        path.write_bytes(made(count))
        return path

    return build
