"""Task: one layer of one file, as it is sent to whoever measures it.

It holds no weights. The worker opens the file by its path, on storage that it shares with the
driver, reads the one tensor it needs, and sends numbers back. Two things must be the same in
both places, or else the task is refused: the software, and the file.
"""

import platform
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import final

from lipaudit.analysis import audit, layerwise
from lipaudit.analysis.layerwise import Found, Wish
from lipaudit.analysis.shapes import InputShape
from lipaudit.device import Compute, ignore
from lipaudit.errors import LipauditError, NotCertified
from lipaudit.formats import detect
from lipaudit.formats.source import Source
from lipaudit.graph.model import Model
from lipaudit.layers.network import Network
from lipaudit.version import __version__

_KEPT_OPEN = 4
"""Networks a worker remembers: their graphs and headers, not their weights."""


@final
@dataclass(frozen=True, slots=True)
class Stamp:
    """One file as the driver saw it."""

    path: str
    size: int
    changed: int
    """Time of the last change in nanoseconds; a copy on another disk has its own."""


@final
@dataclass(frozen=True, slots=True)
class Task:
    """One layer to be measured: of which file, which one, and how."""

    path: str
    files: tuple[Stamp, ...]
    """All that the model is read from."""
    sha256: str
    """Of the files; "" unless a worker has asked, since it takes reading them whole."""
    versions: tuple[str, ...]
    """Of what does the arithmetic, on the driver."""
    input_shape: InputShape
    folded: bool
    """Whether batch norms are folded into the layers, as for a bound."""
    place: str
    """First output of the layer's node."""
    wish: Wish
    compute: Compute


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What a worker sends back: a layer's numbers, or why it would not measure it."""

    found: Found | None
    warnings: tuple[str, ...] = ()
    slug: str = ""
    """Why there is nothing found: "worker-version", "worker-copy" or what was wrong."""
    cause: str = ""
    hint: str = ""
    is_fatal: bool = False
    """Whether the file or the worker is at fault, not the layer: then there is no report."""


def versions() -> tuple[str, ...]:
    """Return what must be the same on a worker for its numbers to be ours."""
    return (f"lipaudit {__version__}", f"torch {metadata.version('torch')}")


def tasks(
    model: Model,
    places: list[str],
    wish: Wish,
    compute: Compute,
    shape: InputShape,
    *,
    folded: bool,
) -> list[Task]:
    """Write a task for each place of a model that was read from files."""
    keep = None if wish.keep is None else _keep
    plain = replace(wish, keep=keep, told=None, only=None, places=None)
    return [
        Task(
            path=str(Path(model.path).absolute()),
            files=tuple(_stamp(path) for path in model.files),
            sha256="",
            versions=versions(),
            input_shape=shape,
            folded=folded,
            place=place,
            wish=replace(plain, enough={k: v for k, v in plain.enough.items() if k == place}),
            compute=replace(compute, warn=ignore, tick=ignore),
        )
        for place in places
    ]


def perform(task: Task) -> Outcome:
    """Measure the layer of a task; nothing is raised for what a person can act on."""
    here = versions()
    if here != task.versions:
        ours, theirs = (", ".join(each) for each in (here, task.versions))
        return Outcome(
            None,
            slug="worker-version",
            cause=f"{_name()} has {ours}; the driver has {theirs}",
            hint="install the same versions on every machine",
            is_fatal=True,
        )
    warnings: list[str] = []
    try:
        network = _OPEN.network(task)
        if network is None:
            return Outcome(None, slug="worker-copy", cause=f"{_name()} sees another file")
        compute = replace(task.compute, warn=warnings.append)
        found = layerwise.measure_place(network, task.place, compute, task.wish)
    except LipauditError as error:
        cause = f"{error.cause} (on {_name()})"
        is_fatal = not isinstance(error, NotCertified)
        return Outcome(None, slug=error.slug, cause=cause, hint=error.hint, is_fatal=is_fatal)
    return Outcome(found, tuple(warnings))


def _keep(_name: str, _spectrum: object) -> None:
    """Stand for the driver's function: with it a spectrum is sent back whole."""


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return Stamp(str(path.absolute()), status.st_size, status.st_mtime_ns)


def _name() -> str:
    return f"worker {platform.node() or 'without a name'}"


class _Open:
    """The networks that this worker has open, the latest last."""

    def __init__(self) -> None:
        self._networks: OrderedDict[tuple[object, ...], Network] = OrderedDict()
        self._lock = threading.Lock()

    def network(self, task: Task) -> Network | None:
        """Return the network of a task; None where the files here are not the driver's."""
        stamps = tuple(_seen(stamp) for stamp in task.files)
        if stamps != task.files and not (task.sha256 and _digest(task, stamps) == task.sha256):
            return None
        key = (task.path, stamps, repr(task.input_shape), task.folded)
        with self._lock:
            if key not in self._networks:
                model = detect.read_model(task.path)
                network = audit.opened(model, task.input_shape, folded=task.folded)
                self._networks[key] = network
                while len(self._networks) > _KEPT_OPEN:
                    self._networks.popitem(last=False)
            self._networks.move_to_end(key)
            return self._networks[key]


def _seen(stamp: Stamp) -> Stamp:
    """Return how a file looks from here."""
    _, _, size, changed = Source(Path(stamp.path)).fingerprint()  # says why it cannot be read
    return Stamp(stamp.path, size, changed)


def _digest(task: Task, stamps: tuple[Stamp, ...]) -> str:
    """Return the digest of the files as they are here, read once for all of their layers."""
    return _digest_once(task.path, stamps)


@cache
def _digest_once(path: str, stamps: tuple[Stamp, ...]) -> str:
    del stamps
    digest = detect.read_model(path).digest
    return "" if digest is None else digest()


_OPEN = _Open()
