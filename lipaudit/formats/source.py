"""Source: an input file, opened once, checked to be a plain file, and read by position.

Everything is read through the one descriptor that was checked, so a file that is swapped
between the check and the read changes nothing.
"""

import os
import stat
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lipaudit.cache import hashing
from lipaudit.errors import MalformedFile, UnreadableFile

if TYPE_CHECKING:
    from lipaudit.graph.model import Fingerprint  # that a file is missing is said without torch

_opened: ContextVar["set[Fingerprint] | None"] = ContextVar("opened", default=None)


@contextmanager
def noted() -> "Iterator[set[Fingerprint]]":
    """Note what every file is that is opened meanwhile."""
    found: set[Fingerprint] = set()
    before = _opened.set(found)
    try:
        yield found
    finally:
        _opened.reset(before)


class Source:
    """A regular file of known size that can be read at any position, from several threads."""

    def __init__(self, path: Path, *, follow: bool = True) -> None:
        self.path = path
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        try:
            # Opening a device can act on it, and a socket cannot be opened at all.
            self._check_kind(path.stat(follow_symlinks=follow))
            self._descriptor = os.open(path, flags)
        except FileNotFoundError:
            raise UnreadableFile("no such file", slug="no-such-file", path=str(path)) from None
        except OSError as error:
            raise UnreadableFile(
                f"cannot be opened: {error.strerror}", slug="unreadable", path=str(path)
            ) from error
        weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        self._check_kind(status)  # it may be another one by now
        self.size = status.st_size
        self.links = status.st_nlink
        if self.size == 0:
            raise UnreadableFile("file is empty (0 bytes)", slug="empty-file", path=str(path))
        found = _opened.get()
        if found is not None:
            found.add(_fingerprint(status))

    def _check_kind(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
            raise UnreadableFile("not a regular file", slug="not-a-file", path=str(self.path))

    def fingerprint(self) -> "Fingerprint":
        """Tell the open file as it is now from any other."""
        return _fingerprint(os.fstat(self._descriptor))

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly these bytes; asking past the end is a malformed file."""
        self._check_span(offset, length)
        parts = []
        while length > 0:
            part = os.pread(self._descriptor, length, offset)
            if not part:
                raise self._shrank()
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def load(self, offset: int, length: int) -> bytearray:
        """Return exactly these bytes, to be written to; of a large tensor there is no second copy.

        One call of the system fills 2 GiB at most.
        """
        self._check_span(offset, length)
        data = bytearray(length)
        with memoryview(data) as rest:
            done = 0
            while done < length:
                count = os.preadv(self._descriptor, [rest[done:]], offset + done)
                if not count:
                    raise self._shrank()
                done += count
        return data

    def _check_span(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise MalformedFile(
                f"data cut short: bytes {offset:,} to {offset + length:,} of {self.size:,}",
                slug="truncated",
                path=str(self.path),
            )

    def head(self, length: int) -> bytes:
        """Return the first bytes, fewer when the file is shorter."""
        return self.read(0, min(length, self.size))

    def digest(self) -> str:
        """Return the SHA-256 of the whole file in hexadecimal."""
        try:
            return hashing.of_descriptor(self._descriptor, self.size)
        except EOFError:
            raise self._shrank() from None

    def _shrank(self) -> UnreadableFile:
        return UnreadableFile("file shrank while it was read", slug="changed", path=str(self.path))


def opened(path: str) -> Source | None:
    """Open what a user named, if it can be read at all; None for a folder."""
    try:
        # Unlike Path.is_dir, os.path's is False for a name that is too long or out of reach.
        return None if os.path.isdir(path) else Source(Path(path))  # noqa: PTH112
    except ValueError as error:  # a NUL byte in the name
        raise UnreadableFile(f"is no file name: {error}", slug="no-such-file", path=path) from error


def _fingerprint(status: os.stat_result) -> "Fingerprint":
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def check_unchanged(seen: "Mapping[Path, Fingerprint]") -> None:
    """Raise if one of the files was written to since it was seen.

    Another file that took its place, or none, is no matter: what was opened stays as it was.
    """
    for path, before in seen.items():
        try:
            now = _fingerprint(path.stat())
        except OSError:
            continue
        if now[:2] == before[:2] and now != before:
            raise changed(path)


def changed(path: Path) -> UnreadableFile:
    """Return the error about a file of which one part is older than another."""
    return UnreadableFile(
        "changed while it was read", slug="changed", path=str(path), hint="run it again"
    )


def digest_of(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of a file, or for several the SHA-256 of all of theirs in order."""
    return hashing.of_each([partial(_digest, path) for path in paths])


def _digest(path: Path) -> str:
    return Source(path).digest()
