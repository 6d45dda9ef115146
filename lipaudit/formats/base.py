"""AbstractFormat: one way to keep a network in files, and the registry of the known ones.

Reading is lazy: a format finds out *where* each tensor lies (`Slot`) and what it is called;
values are read when a layer is measured. Writing is editing: the new file is the old one with
the bytes of the changed tensors replaced, so everything else survives by construction.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from lipaudit.formats.source import Source
from lipaudit.graph.model import Fingerprint, Model


@dataclass(frozen=True, slots=True)
class Edit:
    """Bytes that replace others of a file, from an offset on."""

    offset: int
    data: bytes
    length: int | None = None
    """How many bytes go; None: as many as come."""

    @property
    def end(self) -> int:
        """First byte behind those that go."""
        return self.offset + (len(self.data) if self.length is None else self.length)


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """A file of the output: a copy of an input file with some edits."""

    original: Path
    name: str
    """File name of the copy, relative to the output's folder; "" for the output itself."""
    edits: tuple[Edit, ...]
    """None over another."""
    seen: Fingerprint | None = None
    """What the input file was when it was read; a copy of another one is refused."""


Patch = Mapping[str, torch.Tensor]
"""Tensor key -> its new values, already of the stored shape and dtype."""


class AbstractFormat(abc.ABC):
    """A file format; final subclasses have no state."""

    name: ClassVar[str]
    """As reports print it."""
    suffixes: ClassVar[tuple[str, ...]]
    """Usual file suffixes: never used to choose a reader, only to note a surprise."""

    @abc.abstractmethod
    def recognizes(self, source: Source) -> bool:
        """Tell from the content whether this format should read the file."""

    @abc.abstractmethod
    def read(self, source: Source) -> Model:
        """Read the structure; raise a `FileError` when it contradicts itself."""

    @abc.abstractmethod
    def changed(self, model: Model, patch: Patch, output: str = "") -> Sequence[ChangedFile]:
        """Work out the files that hold the patched tensors and otherwise equal the input's.

        `output` is the name of the copy: a main file that names those beside it may call them
        after it. Raise `WriteRefused` for a tensor that cannot be written in place.
        """


_formats: list[AbstractFormat] = []


def register(cls: type[AbstractFormat]) -> type[AbstractFormat]:
    """Add a format to those that are tried, in the order of registration."""
    _formats.append(cls())
    return cls


def registered() -> tuple[AbstractFormat, ...]:
    """Return every format, in the order in which they are tried."""
    return tuple(_formats)


Reader = Callable[[Source], Model]
