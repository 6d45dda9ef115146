"""External data: the files beside an ONNX model that hold its large tensors.

The model names them, so the names are hostile until proven otherwise. A name must stay inside
the model's folder; in a Hugging Face cache the model is a link into a folder of blobs, so the
folder of its real path counts as well (https://github.com/microsoft/onnxruntime/issues/27374).
"""

import hashlib
import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lipaudit.errors import LipauditError, MalformedFile, UnreadableFile, UnsafeFile
from lipaudit.formats.source import Source, changed
from lipaudit.formats.strangers import pointer
from lipaudit.graph.model import Fingerprint

_KEYS = frozenset({"location", "offset", "length", "checksum"})
# onnxruntime notes here what it prepared of a weight for its own kernels: no other meaning.
_IGNORED_PREFIX = "prepacked_"
_LONGEST_NUMBER = 20
# Some exporters write a file a tensor: thousands, where a process may open about a thousand.
_MAX_OPEN = 64
_PIECE = 1 << 22


class _Entry(Protocol):
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Location:
    """What a tensor says about where its bytes lie."""

    name: str
    offset: int
    length: int | None
    """None: all the rest of the file."""
    checksum: str | None = None
    """SHA-1 of the whole file in hexadecimal, as onnx.proto has it; None where none is stated."""


class ExternalFiles:
    """The external files of one model, opened when they are read."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._folders = tuple(dict.fromkeys((model.parent, Path(os.path.realpath(model)).parent)))
        self._sources: dict[str, Source] = {}
        self._seen: dict[str, Fingerprint] = {}
        self._sums: dict[str, str] = {}
        self.paths: dict[str, Path] = {}
        """Location name -> the path under which it was found."""
        self.hard_linked: list[str] = []
        """Names of the files that have another name elsewhere, perhaps outside the folder."""

    def open(self, name: str, tensor: str) -> Source:
        """Return the file of that name; the longest open one may be closed for it."""
        if name not in self._sources:
            if len(self._sources) >= _MAX_OPEN:
                del self._sources[next(iter(self._sources))]
            self._sources[name] = self._opened(name, tensor)
        return self._sources[name]

    def check(self, said: Location, tensor: str) -> None:
        """Raise if a checksum is stated and the file has another; each file is read once."""
        if said.checksum is None:
            return
        if said.name not in self._sums:
            self._sums[said.name] = _sha1(self.open(said.name, tensor))
        if not hmac.compare_digest(self._sums[said.name], said.checksum.lower()):
            cause = f"the SHA-1 of its external file {said.name!r} is not the one stated"
            raise _malformed(cause, tensor, self._model)

    def _opened(self, name: str, tensor: str) -> Source:
        _check_name(name, tensor, self._model)
        place = next(
            (folder / name for folder in self._folders if os.path.lexists(folder / name)), None
        )
        if place is None:
            raise UnreadableFile(
                f"initializer {tensor!r}: no file {name!r} beside the model",
                slug="external-missing",
                path=str(self._model),
            )
        real = Path(os.path.realpath(place))
        inside = {Path(os.path.realpath(folder)) for folder in self._folders}
        if not any(real.is_relative_to(folder) for folder in inside):
            raise _outside(name, tensor, self._model)
        if real == Path(os.path.realpath(self._model)):
            raise _malformed("its external file is the model itself", tensor, self._model)
        try:
            # The real path holds no link; one put there since then is not followed.
            source = Source(real, follow=False)
        except LipauditError as error:
            raise UnreadableFile(
                f"initializer {tensor!r}: external file {name!r}: {error.cause}",
                slug=error.slug,
                path=str(self._model),
            ) from error
        stranger = pointer(source)
        if stranger:
            raise UnreadableFile(
                f"initializer {tensor!r}: external file {name!r}: {stranger}",
                slug="unsupported-format",
                path=str(self._model),
                hint="run `git lfs pull`",
            )
        if name not in self.paths and source.links > 1:
            self.hard_linked.append(name)
        self.paths[name] = place
        if self._seen.setdefault(name, source.fingerprint()) != source.fingerprint():
            raise changed(place)  # another file since it was closed to make room
        return source


def location(entries: Iterable[_Entry], tensor: str, model: Path) -> Location:
    """Read a tensor's `external_data` entries."""
    said: dict[str, str] = {}
    for entry in entries:
        if entry.key.startswith(_IGNORED_PREFIX):
            continue
        if entry.key not in _KEYS:
            raise _malformed(f"unknown external data key {entry.key!r}", tensor, model)
        if entry.key in said:
            raise _malformed(f"external data key {entry.key!r} appears twice", tensor, model)
        said[entry.key] = entry.value
    if not said.get("location"):
        raise _malformed("external data without a location", tensor, model)
    offset = _number(said, "offset", tensor, model)
    length = _number(said, "length", tensor, model)
    checksum = said.get("checksum")
    if checksum is not None and not checksum.isascii():
        raise _malformed("its external data has a checksum that is none", tensor, model)
    return Location(said["location"], offset or 0, length, checksum)


def _sha1(source: Source) -> str:
    found = hashlib.sha1(usedforsecurity=False)
    for start in range(0, source.size, _PIECE):
        found.update(source.read(start, min(_PIECE, source.size - start)))
    return found.hexdigest()


def _number(said: dict[str, str], key: str, tensor: str, model: Path) -> int | None:
    text = said.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER):
        raise _malformed(f"external data {key} is {text[:40]!r}, not a size", tensor, model)
    return int(text)


def _check_name(name: str, tensor: str, model: Path) -> None:
    if "\0" in name:
        raise UnsafeFile(
            f"initializer {tensor!r}: NUL in the name of its external file",
            slug="external-outside",
            path=str(model),
        )
    parts = name.replace("\\", "/").split("/")
    is_absolute = not parts[0] or parts[0].endswith(":")
    if is_absolute or ".." in parts:
        raise _outside(name, tensor, model)


def _outside(name: str, tensor: str, model: Path) -> UnsafeFile:
    return UnsafeFile(
        f"initializer {tensor!r} points outside the model folder: {name!r}",
        slug="external-outside",
        path=str(model),
    )


def _malformed(cause: str, tensor: str, model: Path) -> MalformedFile:
    return MalformedFile(f"initializer {tensor!r}: {cause}", slug="external-entry", path=str(model))
