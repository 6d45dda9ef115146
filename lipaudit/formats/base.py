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
from lipaudit.graph.model import Model


@dataclass(frozen=True, slots=True)
class Edit:
    """Bytes that replace as many bytes of a file, from an offset on."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """A file of the output: a copy of an input file with some edits."""

    original: Path
    name: str
    """File name of the copy, relative to the output's folder; "" for the output itself."""
    edits: tuple[Edit, ...]


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
    def changed(self, model: Model, patch: Patch) -> Sequence[ChangedFile]:
        """Work out the files that hold the patched tensors and otherwise equal the input's.

        Raise `WriteRefused` for a tensor that cannot be written in place.
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
