"""Archive: whole reports of models that were audited before, found again without torch.

A report is named by what was asked of which file names, and by the digest of the bytes; in it
stands which files those were. Nothing is hashed that a report was not seen for, and of an audit
that runs the digest comes of the same reading as the SHA-256 its report states, so that a first
run pays nothing.

A file may change while it is read: it is looked at (device, inode, size, times) before and
after, and the report of a file that changed meanwhile is neither kept nor given.
"""

import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from lipaudit.cache import codec, hashing, keys
from lipaudit.cache.store import REPORTS, Store
from lipaudit.results import LayerResult, Report, Skipped

_GROUPS = 4
"""Of so many different sets of files, among those last used, the bytes are looked at."""
_SHORT = 16
Told = Sequence[LayerResult | Skipped]
"""What is known of a report's layers before the report is, in the order of the graph."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One file of a model, apart from its bytes."""

    name: str
    """From the folder of the model."""
    real: str
    """Where links lead, from where the folder really is: a reader may refuse what lies outside."""
    size: int
    linked: bool
    """Whether it has another name elsewhere, of which a reader takes notice."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A report with the files it speaks of."""

    parts: tuple[_Part, ...]
    said: str | None
    """The path it was asked for under, where other words than its `path` mention it."""
    tail: str | None
    """What its `path` adds to the path that was asked for; None: it is that path to the letter."""
    order: tuple[int, ...] | None
    """Places of the layers without a number among all that were told; None: not in that way."""
    report: Report


@final
class Archive:
    """The reports of one run's kind: one command, one set of options, one device."""

    def __init__(self, store: Store, asked: Mapping[str, Any], others: Sequence[Path] = ()) -> None:
        """`asked` is plain data: everything but files that the report depends on.

        `others` are files that are read besides the models. Raise `OSError` or `EOFError` where
        one cannot be read.
        """
        self._store = store
        self._others = {file: _stamp(file) for file in others}
        self._asked = (asked, _digest(others) if others else "")
        self._start = time.time_ns()

    def find(
        self, path: str, tell: Callable[[LayerResult | Skipped], None] | None = None
    ) -> Report | None:
        """Return the report of this very model under this path; None where there is none.

        Who wants to be told of every layer before hears what was told when it was measured.
        """
        try:
            entry = self._found(path)
        except (OSError, EOFError, ValueError):
            return None  # whatever is wrong with the file, the audit will say it
        if entry is None:
            return None
        if tell is not None:
            told = _told(entry)
            if told is None:
                return None
            for layer in told:
                tell(layer)
        (model,) = entry.report.models
        named = path if entry.tail is None else str(Path(path) / entry.tail)
        return replace(entry.report, models=(replace(model, path=named),))

    def keep(
        self,
        path: str,
        report: Report,
        seen: Mapping[Path, tuple[int, ...]],
        *,
        told: Told = (),
        trees: Mapping[hashing.State, str] | None = None,
    ) -> None:
        """Keep what was found out; `seen` are the model's files and what each was when read.

        `told` is what was said of the layers before; `trees` are digests that are known.
        """
        try:
            entry = _entry(path, report, tuple(seen), told)
            if entry is None or not report.models[0].sha256:
                return
            name = self._name(path, entry.parts, _digest(tuple(seen), trees))
            if not self._is_settled(seen):  # until now: these were the bytes that were read
                return
            self._store.put(REPORTS, name, codec.dumps(entry))
        except (OSError, EOFError, TypeError, ValueError):
            return  # a model that lies in no folder, or is gone; nothing is lost but time

    def _found(self, path: str) -> _Entry | None:
        names = self._store.names(REPORTS, self._prefix(path))
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(name.rpartition("-")[0], []).append(name)
        for listed in list(groups.values())[:_GROUPS]:
            parts = next((entry.parts for name in listed[:2] if (entry := self._read(name))), None)
            if parts is None or parts != _parts(path, _files(path, parts)):
                continue
            digest = _digest(_files(path, parts))
            name = self._name(path, parts, digest)
            entry = self._read(name) if name in listed else None
            if entry is not None and entry.parts == parts and entry.said in {None, path}:
                return entry
        return None

    def _read(self, name: str) -> _Entry | None:
        body = self._store.get(REPORTS, name)
        try:
            return None if body is None else codec.loads(_Entry, body)
        except ValueError:
            return None

    def _name(self, path: str, parts: Sequence[_Part], digest: str) -> str:
        group = keys.key([(p.name, p.real, p.size, p.linked) for p in parts])[:_SHORT]
        return f"{self._prefix(path)}{group}-{digest}"

    def _prefix(self, path: str) -> str:
        """Return how all names for these options and file names begin."""
        given = Path(path)
        listing = sorted(p.name for p in given.iterdir() if p.is_file()) if given.is_dir() else None
        spelled = str(given) == path
        return f"{keys.key(REPORTS, keys.setting(), self._asked, given.name, spelled, listing)}-"

    def _is_settled(self, seen: Mapping[Path, tuple[int, ...]]) -> bool:
        """Tell whether every file is what it was before the first look at it."""
        now = {file: _stamp(file) for file in (*seen, *self._others)}
        same = all(now[file][: len(was)] == tuple(was) for file, was in seen.items())
        same = same and all(now[file] == was for file, was in self._others.items())
        return same and all(max(stamp[-2:]) < self._start for stamp in now.values())


def _digest(files: Sequence[Path], known: Mapping[hashing.State, str] | None = None) -> str:
    """Return the digest of files; raise `OSError` if one changes meanwhile."""
    before = [_stamp(file) for file in files]
    digest = hashing.tree_of_files(files, known)
    if before != [_stamp(file) for file in files]:
        raise OSError
    return digest


def _entry(path: str, report: Report, files: Sequence[Path], told: Told) -> _Entry | None:
    """Return what is kept of a report; None where its path is none that can be given back."""
    (model,) = report.models
    given = str(Path(path))
    inside = f"{given.rstrip(os.sep)}{os.sep}"
    if model.path == given:
        tail: str | None = ""
    elif model.path == path:
        tail = None
    elif model.path.startswith(inside):
        tail = model.path.removeprefix(inside)
    else:
        return None
    unnamed = replace(report, models=(replace(model, path=""),))
    words = codec.dumps(unnamed)
    mentioned = any(codec.dumps(text)[1:-1] in words for text in (path, given))
    said = path if mentioned else None
    order = tuple(place for place, layer in enumerate(told) if isinstance(layer, Skipped))
    entry = _Entry(_parts(path, files), said, tail, order, unnamed)
    return entry if _told(entry) == list(told) else replace(entry, order=None)


def _told(entry: _Entry) -> list[LayerResult | Skipped] | None:
    """Return what was told of the layers: of each what does not depend on the others."""
    (model,) = entry.report.models
    if entry.order is None or len(entry.order) > len(model.skipped):
        return None
    skipped = dict(zip(entry.order, model.skipped, strict=False))
    count = len(model.layers) + len(skipped)
    layers = iter(model.layers)
    found: list[LayerResult | Skipped] = []
    for place in range(count):
        layer = skipped.get(place) or next(layers, None)
        if layer is None:
            return None
        found.append(layer if isinstance(layer, Skipped) else _alone(layer))
    return found


def _alone(layer: LayerResult) -> LayerResult:
    """Return a layer without what is found out once all are measured."""
    return replace(layer, expected_stretch=None, log_share=None, tied_with="")


def _folder(path: str) -> Path:
    """Return the folder from which the files of a model are named."""
    given = Path(path)
    return given if given.is_dir() else given.parent


def _files(path: str, parts: Sequence[_Part]) -> list[Path]:
    return [_folder(path) / part.name for part in parts]


def _parts(path: str, files: Sequence[Path]) -> tuple[_Part, ...]:
    """Look at the files of a model; raise `ValueError` for one outside its folder."""
    folder = _folder(path)
    real = os.path.realpath(folder)
    found = []
    for file in files:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError
        name = file.relative_to(folder).as_posix()
        place = os.path.relpath(os.path.realpath(file), real)
        found.append(_Part(name, place, status.st_size, status.st_nlink > 1))
    return tuple(found)


def _stamp(file: Path) -> hashing.State:
    return hashing.state(file.stat())
