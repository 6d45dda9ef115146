"""Case: a folder of small files, and which of them is read as what."""

import base64
import binascii
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

READERS = ("model", "config", "baseline", "report")
"""What a file may be read as."""


@final
@dataclass(frozen=True, slots=True)
class Case:
    """One input of the fuzzer."""

    files: Mapping[str, bytes]
    """By plain name."""
    target: str
    """The file that is read; "" for the folder."""
    reader: str = "model"
    """One of `READERS`."""

    def write(self, folder: Path) -> Path:
        """Write the files into an empty folder and return what is to be read."""
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        return folder / self.target

    def changed(self, name: str, data: bytes) -> "Case":
        """Return the case with another content of one file."""
        return Case({**self.files, name: data}, self.target, self.reader)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))

    def text(self, why: str) -> str:
        """Return the case as lines of text, which `parsed` reads; `why` becomes a comment."""
        lines = [f"# {line}" for line in why.splitlines()]
        lines.append(f"{self.reader} {self.target}".strip())
        for name, data in self.files.items():
            lines.append(f"file {name}")
            lines += textwrap.wrap(base64.b64encode(data).decode("ascii"), 96)
        return "\n".join(lines) + "\n"


def parsed(text: str) -> Case:
    """Return the case that a regression file spells out."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    reader, _, target = lines[0].partition(" ")
    if reader not in READERS:
        raise ValueError(f"no reader {reader!r}")
    files: dict[str, bytes] = {}
    name = ""
    for line in lines[1:]:
        if line.startswith("file "):
            name = line.removeprefix("file ")
            files[name] = b""
        else:
            try:
                files[name] += base64.b64decode(line, validate=True)
            except binascii.Error as error:
                raise ValueError(f"{name}: {error}") from error
    return Case(files, target, reader)
