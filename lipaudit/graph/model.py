"""Model: what reading a checkpoint yields, whatever its format."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from lipaudit.graph.constant import Constant, Shape
from lipaudit.graph.node import Graph

Fingerprint = tuple[int, int, int, int]
"""Device, inode, size and time of the last change of a file: another one is another file."""


class Topology(StrEnum):
    """How the wiring of the layers is known."""

    STATED = "stated"
    """The file, or code named by the user, says how the layers are connected."""
    ASSUMED = "assumed"
    """The file lists weights only; a chain fits them, and is assumed."""
    UNKNOWN = "unknown"
    """The file lists weights only; nothing is said about the wiring."""


class Origin(StrEnum):
    """Who gave the layer graph."""

    FILE = "file"
    """The file itself, as far as it has one."""
    CONFIG = "config"
    """The config.json beside the weights, by the code of the transformers package."""
    FACTORY = "factory"
    """A function of the user's."""


@dataclass(frozen=True, slots=True)
class Unread:
    """Something in the file that was not turned into a layer, and why."""

    name: str
    kind: str
    slug: str
    reason: str


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint as data: every tensor (unread), the layer graph, and what was noticed."""

    path: str
    """As the user wrote it."""
    format: str
    files: tuple[Path, ...]
    """Every file the tensors come from."""
    tensors: Mapping[str, Constant]
    """All tensors of the file by their full key, in file order, weights or not."""
    graph: Graph
    topology: Topology
    assumptions: tuple[str, ...] = ()
    """What had to be assumed to read the file this way; printed beside every bound."""
    notes: tuple[str, ...] = ()
    """What a careful reader would like to know: a misleading suffix, dropped entries."""
    alarms: tuple[str, ...] = ()
    """Contents made to run code when the file is opened by an unsafe loader."""
    unread: tuple[Unread, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Between which numbers the file says that the items of an input lie."""
    ties: Mapping[str, str] | None = None
    """Tensor key -> the first key that has the same bytes."""
    digest: Callable[[], str] | None = None
    """Compute the SHA-256 of the file (of all files for a folder); reads it whole."""
    origin: Origin = Origin.FILE
    config: Path | None = None
    """The config.json that gave the graph."""
    examples: tuple[Shape, ...] = ()
    """Of the inputs, as they were stated for code to make the graph by."""
    folder: Path | None = None
    """The folder that was named instead of a file in it."""
    fingerprints: Mapping[Path, Fingerprint] = field(default_factory=dict)
    """Of the files, when they were read."""
