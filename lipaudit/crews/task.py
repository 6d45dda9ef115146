"""Task: one layer of one file, as it is sent to whoever measures it.

It holds no weights. The worker opens the file by its path, on storage that it shares with the
driver, reads the one tensor it needs, and sends numbers back. Two things must be the same in
both places, or else the task is refused: the software, and the file.
"""

import hashlib
import platform
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import final

from lipaudit import device as devices
from lipaudit.analysis import audit, layerwise
from lipaudit.analysis.audit import WHOLE, Part
from lipaudit.analysis.layerwise import Found, Wish
from lipaudit.analysis.shapes import InputShape
from lipaudit.cache import keys
from lipaudit.cache.store import Store
from lipaudit.device import Compute, ignore
from lipaudit.errors import CrewError, LipauditError, NotCertified, UsageError
from lipaudit.formats import detect, hugging_face
from lipaudit.formats.source import Source, check_unchanged
from lipaudit.graph.constant import Shape
from lipaudit.graph.model import Fingerprint, Model
from lipaudit.layers.declared import declare, declared
from lipaudit.layers.network import Network

_EXPORTS = 4
"""Times that a graph is taken from transformers' code."""
_KEPT_OPEN = 4
"""Networks a worker remembers: their graphs and headers, not their weights. And caches."""
_ITEM = 32
"""Characters of a version, or of a digest, that tell it from another."""


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
class Kept:
    """Where the driver keeps the numbers of layers."""

    folder: str
    limit: int
    machine: str
    """Name of the driver's; "" for a folder that the user stated, which may be shared."""
    token: str
    """Of the driver's cache: what went wrong for another run may go well for this one."""


@final
@dataclass(frozen=True, slots=True)
class Wiring:
    """How the graph is made of the files, where they do not say all of it."""

    part: Part = WHOLE
    constants: tuple[tuple[str, float], ...] = ()
    """Of unknown operations, as the user declares them."""
    config: str = ""
    """The config.json of which transformers' code makes it; "" for none."""
    examples: tuple[Shape, ...] = ()
    """Of the inputs for which it is made then."""
    outline: str = ""
    """What must then come out of it; "" where the files alone say it."""


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
    graph: Wiring
    place: str
    """First output of the layer's node."""
    wish: Wish
    compute: Compute
    """Without a cache, which is this process's own."""
    kept: Kept | None


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
    unkept: str = ""
    """Why this worker keeps no more numbers, said once by each worker."""


def versions() -> tuple[str, ...]:
    """Return what must be the same on a worker for its numbers to be ours.

    What stands behind a + says for which processors a version was built: +cpu here and +cu130 on
    a machine with GPUs are one version.
    """
    return tuple(item.partition("+")[0] for item in keys.setting())


def tasks(
    model: Model,
    places: list[str],
    wish: Wish,
    compute: Compute,
    shape: InputShape,
    *,
    folded: bool,
    part: Part = WHOLE,
) -> list[Task]:
    """Write a task for each place of a model that was read from files."""
    keep = None if wish.keep is None else _keep
    plain = replace(wish, keep=keep, told=None, only=None, places=None)
    graph = _wiring(model, part)
    return [
        Task(
            path=str(Path(model.path).absolute()),
            files=tuple(_stamp(path) for path in model.files),
            sha256="",
            versions=versions(),
            input_shape=shape,
            folded=folded,
            graph=graph,
            place=place,
            wish=replace(plain, enough={k: v for k, v in plain.enough.items() if k == place}),
            compute=replace(compute, warn=ignore, tick=ignore, cache=None),
            kept=None if compute.cache is None else _kept(compute.cache),
        )
        for place in places
    ]


def _wiring(model: Model, part: Part) -> Wiring:
    constants = tuple(sorted(declared(model).items()))
    if model.config is None:
        return Wiring(part, constants)
    config = str(model.config.absolute())
    return Wiring(part, constants, config, model.examples, _outline(model))


def perform(task: Task, own: str = "", sharers: int = 1) -> Outcome:
    """Measure the layer of a task; nothing is raised for what a person can act on.

    `own` and `sharers` are this worker's GPU and how many share it: see `device.here`.
    """
    here, there = versions(), task.versions
    if here != there:
        ours = _named(item for item in here if item not in there)
        theirs = _named(item for item in there if item not in here)
        return Outcome(
            None,
            slug="worker-version",
            cause=f"{_name()} has {ours}; the driver has {theirs}",
            hint="install the same versions on every machine",
            is_fatal=True,
        )
    warnings: list[str] = []
    shelf = _SHELVES.of(task.kept)
    try:
        opened = _OPEN.network(task)
        if opened is None:
            return Outcome(None, slug="worker-copy", cause=f"{_name()} sees another file")
        network, seen = opened
        compute = devices.here(task.compute, own, sharers)
        compute = replace(compute, warn=warnings.append, cache=shelf.store)
        found = layerwise.measure_place(network, task.place, compute, task.wish)
        check_unchanged(seen)
    except LipauditError as error:
        cause = f"{error.cause} (on {_name()})"
        is_fatal = not isinstance(error, NotCertified)
        return Outcome(None, slug=error.slug, cause=cause, hint=error.hint, is_fatal=is_fatal)
    return Outcome(found, tuple(warnings), unkept=shelf.complaint())


def _keep(_name: str, _spectrum: object) -> None:
    """Stand for the driver's function: with it a spectrum is sent back whole."""


def _kept(store: Store) -> Kept:
    """Say where a store is; a folder that nobody stated is one of this machine's user."""
    machine = "" if store.expected else platform.node()
    return Kept(str(store.folder.absolute()), store.limit, machine, store.token)


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return Stamp(str(path.absolute()), status.st_size, status.st_mtime_ns)


def _named(items: Iterable[str]) -> str:
    return ", ".join(item[:_ITEM] for item in items)


def _name() -> str:
    return f"worker {platform.node() or 'without a name'}"


@final
class _Shelf:
    """One cache of this worker, and why it cannot be written, until that was said."""

    def __init__(self, kept: Kept | None) -> None:
        self._complaints: SimpleQueue[str] = SimpleQueue()
        self.store: Store | None = None
        if kept is not None and kept.machine in {"", platform.node()}:
            self.store = Store(
                Path(kept.folder),
                limit=kept.limit,
                warn=self._complaints.put,
                expected=not kept.machine,
            )

    def complaint(self) -> str:
        """Return what is new of it."""
        try:
            return self._complaints.get_nowait()
        except Empty:
            return ""


@final
class _Shelves:
    """The caches of this worker: one for each folder, or every task would look through it anew."""

    def __init__(self) -> None:
        self._known: OrderedDict[Kept | None, _Shelf] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, kept: Kept | None) -> _Shelf:
        """Return the cache that a task means."""
        with self._lock:
            if kept not in self._known:
                self._known[kept] = _Shelf(kept)
                while len(self._known) > _KEPT_OPEN:
                    self._known.popitem(last=False)
            return self._known[kept]


_Opened = tuple[Network, Mapping[Path, Fingerprint]]


class _Open:
    """The networks that this worker has open, and their files as they were, the latest last."""

    def __init__(self) -> None:
        self._networks: OrderedDict[tuple[object, ...], _Opened] = OrderedDict()
        self._lock = threading.Lock()

    def network(self, task: Task) -> _Opened | None:
        """Return the network of a task; None where the files here are not the driver's."""
        stamps = tuple(_seen(stamp) for stamp in task.files)
        if stamps != task.files and not (task.sha256 and _digest(task, stamps) == task.sha256):
            return None
        key = (task.path, stamps, repr(task.input_shape), task.folded, task.graph)
        with self._lock:
            if key not in self._networks:
                model = detect.read_model(task.path)
                _check_files(model, stamps)
                seen = model.fingerprints
                model = _wired(model, task.graph)
                network = audit.opened(
                    model, task.input_shape, folded=task.folded, part=task.graph.part
                )
                self._networks[key] = network, seen
                while len(self._networks) > _KEPT_OPEN:
                    self._networks.popitem(last=False)
            self._networks.move_to_end(key)
            return self._networks[key]


def _check_files(model: Model, stamps: tuple[Stamp, ...]) -> None:
    """Raise unless a model was read from these files, as they looked before."""
    read = {_of(path, fingerprint) for path, fingerprint in model.fingerprints.items()}
    other = sorted(stamp.path for stamp in read.symmetric_difference(stamps))
    if other:
        raise CrewError(
            f"the model is read from other files than the driver's: {other[0]!r}",
            slug="worker-copy",
            hint="every worker must see the same files in the folder",
        )


def _wired(model: Model, graph: Wiring) -> Model:
    """Give a model what its files do not say of its graph, as the driver did."""
    if graph.config:
        model = _exported(model, graph)
        if _outline(model) != graph.outline:
            raise CrewError(
                "config.json gives another layer graph than on the driver",
                slug="worker-graph",
                hint="install the same transformers on every machine, beside the same config.json",
            )
    return declare(model, dict(graph.constants))


def _exported(model: Model, graph: Wiring) -> Model:
    """Give a model the graph of its config.json; try again where torch cannot take it.

    Dask looks at the frames of a worker's threads all the time, to profile it. A tensor that lives
    a little longer for that makes an export fail; measured: 3 first ones of 5, and none of 4
    without the profile. What fails for another reason fails every time.
    """
    for _ in range(_EXPORTS - 1):
        try:
            return hugging_face.from_config(model, graph.examples, Path(graph.config))
        except UsageError as error:
            if error.slug != "hf-build":
                raise
    return hugging_face.from_config(model, graph.examples, Path(graph.config))


def _outline(model: Model) -> str:
    """Return a digest of which layers there are and what they read, without any weight."""
    nodes = [(node.domain, node.op, node.inputs, node.outputs) for node in model.graph.nodes]
    constants = [(name, each.sources, each.shape) for name, each in model.graph.constants.items()]
    return hashlib.sha256(repr((nodes, sorted(constants))).encode()).hexdigest()


def _seen(stamp: Stamp) -> Stamp:
    """Return how a file looks from here."""
    path = Path(stamp.path)
    return _of(path, Source(path).fingerprint())  # says why it cannot be read


def _of(path: Path, fingerprint: Fingerprint) -> Stamp:
    _, _, size, changed = fingerprint
    return Stamp(str(path.absolute()), size, changed)


def _digest(task: Task, stamps: tuple[Stamp, ...]) -> str:
    """Return the digest of the files as they are here, read once for all of their layers."""
    return _digest_once(task.path, stamps)


@cache
def _digest_once(path: str, stamps: tuple[Stamp, ...]) -> str:
    del stamps
    digest = detect.read_model(path).digest
    return "" if digest is None else digest()


_OPEN = _Open()
_SHELVES = _Shelves()
