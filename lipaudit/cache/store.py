"""Store: small files in a folder, each whole or not at all, the least used thrown away first.

Several processes may share it: a file appears by a rename, and nobody waits for anybody. A
file counts only if it is a plain one of this user that nobody else may write, says which key
it is for, and has the bytes that its checksum speaks of; else it is as if it were not there,
and is written anew. Nothing below the folder is reached through a link. The folder is trusted
as the program is: who may write into it as this user can also change the program.
"""

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lipaudit.cache import hashing

LAYERS = "layers"
REPORTS = "reports"
LIMIT = 256 << 20
"""Bytes on the disk, where nothing else is asked for."""

_MAGIC = b"lipaudit-cache 1"
_SHARE = 8
"""An entry takes at most this part of the limit, and so does what is written between two looks
at how full the folder is."""
_BLOCK = 4096
"""Bytes of a disk that a file takes at least."""
_ABANDONED = 3600.0
"""Seconds after which an unfinished file has no writer any more."""
_CANNOT = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR})
"""What there being no such place looks like."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_UNFINISHED = "."
_SHELF = re.compile(r"[0-9a-f]{2}")
_ENTRY = re.compile(r"[0-9a-f]{64}(-[0-9a-f]+)*|\.[0-9a-f]{16}")
"""What this file makes, and nothing else is ever thrown away: the folder may hold other things."""


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the folder: where, how much of the disk, and when it was last of use."""

    kind: str
    shelf: str
    name: str
    size: int
    used: float


class Store:
    """A folder of entries, by kind and name. A name is of hexadecimal digits and hyphens."""

    def __init__(
        self,
        folder: Path,
        *,
        limit: int = LIMIT,
        warn: Callable[[str], None] | None = None,
        expected: bool = True,
    ) -> None:
        """Use this folder; it is made when something is kept.

        `token` tells this one from every other, on this folder as well.
        `warn` is told, once, why nothing more is kept. Without `expected`, that there is no
        such place and none can be made is no news.
        """
        self.folder = folder
        self.limit = limit
        self.token = secrets.token_hex(8)
        self._warn = warn
        self.expected = expected
        self._writes = True
        self._written = limit

    def get(self, kind: str, name: str) -> bytes | None:
        """Return what was kept under a name; None where there is nothing that can be trusted."""
        try:
            with self._shelf(kind, name) as shelf:
                found = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=shelf)
                try:
                    return self._checked(found, name)
                finally:
                    os.close(found)
        except (OSError, ValueError):
            return None

    def names(self, kind: str, start: str) -> list[str]:
        """Return the names that begin so, the last used first."""
        try:
            with self._shelf(kind, start) as shelf:
                with os.scandir(shelf) as entries:
                    found = [entry.name for entry in entries if entry.name.startswith(start)]
                aged = [(os.stat(name, dir_fd=shelf).st_mtime, name) for name in found]
        except (OSError, ValueError):
            return []
        return [name for _, name in sorted(aged, reverse=True)]

    def put(self, kind: str, name: str, body: bytes) -> None:
        """Keep something under a name, in the place of what was there."""
        data = b"%s %s %s\n%s" % (_MAGIC, name.encode(), hashing.of_bytes(body).encode(), body)
        if not self._writes or len(data) > self.limit // _SHARE:
            return
        try:
            with self._shelf(kind, name, make=True) as shelf:
                _write(shelf, name, data)
            self._written += _on_disk(len(data))
            if self._written > self.limit // _SHARE:
                self._written = 0
                self._shrink(self.limit - self.limit // _SHARE)
        except (OSError, ValueError) as error:
            self._stop(error)

    def size(self) -> tuple[int, int]:
        """Return how many entries there are, and how many bytes of the disk they take."""
        files = list(self._files())
        return len(files), sum(file.size for file in files)

    def clear(self) -> int:
        """Take every entry away; return how many there were."""
        return sum(self._remove(file) for file in list(self._files()))

    def complain(self, text: str) -> None:
        """Say why something is not kept: the first reason, whoever of several writers has it."""
        warn, self._warn = self._warn, None
        if warn is not None:
            warn(text)

    @contextlib.contextmanager
    def _shelf(self, kind: str, name: str, *, make: bool = False) -> Iterator[int]:
        """Open the folder in which a name stands, through no link below the cache's own."""
        if make:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            place = os.open(self.folder, _FOLDER)
            opened.callback(os.close, place)
            for part in (kind, name[:2]):
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, mode=0o700, dir_fd=place)
                place = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=place)
                opened.callback(os.close, place)
            yield place

    def _checked(self, found: int, name: str) -> bytes | None:
        """Return the body of an open entry; None unless it is all that it should be."""
        status = os.fstat(found)
        own = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not stat.S_ISREG(status.st_mode) or not own or status.st_size > self.limit // _SHARE:
            return None
        with os.fdopen(found, "rb", closefd=False) as stream:
            head, _, body = stream.read().partition(b"\n")
        if head != b"%s %s %s" % (_MAGIC, name.encode(), hashing.of_bytes(body).encode()):
            return None
        with contextlib.suppress(OSError):  # a disk that may only be read
            os.utime(found)
        return body

    def _shrink(self, limit: int) -> None:
        """Throw away what was not used for longest, until so many bytes are left at most."""
        files = sorted(self._files(), key=lambda file: file.used)
        total = sum(file.size for file in files)
        old = time.time() - _ABANDONED
        for file in files:
            unfinished = file.name.startswith(_UNFINISHED)
            if (total > limit and not unfinished) or (unfinished and file.used < old):
                self._remove(file)
                total -= file.size

    def _files(self) -> Iterator[_File]:
        """List everything that lies on the shelves; what vanishes meanwhile is left out."""
        for kind in (LAYERS, REPORTS):
            for shelf in _shelves(self.folder / kind):
                with contextlib.suppress(OSError), os.scandir(shelf) as entries:
                    for entry in entries:
                        with contextlib.suppress(OSError):
                            seen = entry.stat(follow_symlinks=False)
                            if _ENTRY.fullmatch(entry.name) and not stat.S_ISDIR(seen.st_mode):
                                size, used = _on_disk(seen.st_size), seen.st_mtime
                                yield _File(kind, shelf.name, entry.name, size, used)

    def _remove(self, file: _File) -> bool:
        try:
            with self._shelf(file.kind, file.shelf) as shelf:
                os.unlink(file.name, dir_fd=shelf)
        except OSError:  # another process was quicker
            return False
        return True

    def _stop(self, error: Exception) -> None:
        """Keep nothing more, and say so once."""
        self._writes = False
        missing = isinstance(error, OSError) and error.errno in _CANNOT
        if self.expected or not missing:
            cause = getattr(error, "strerror", None) or str(error)
            self.complain(f"{self.folder}: the cache cannot be written: {cause}; it is left out")


def _shelves(kind: Path) -> list[Path]:
    """Return the folders in a folder that is no link, none of them one."""
    try:
        if kind.is_symlink():
            return []
        with os.scandir(kind) as entries:
            return [
                Path(entry)
                for entry in entries
                if _SHELF.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []


def _write(shelf: int, name: str, data: bytes) -> None:
    """Write a file beside its place, and move it there; nothing is left behind on the way."""
    beside = _UNFINISHED + secrets.token_hex(8)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    out = os.open(beside, flags, mode=0o600, dir_fd=shelf)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(out, rest) :]
        finally:
            os.close(out)
        os.replace(beside, name, src_dir_fd=shelf, dst_dir_fd=shelf)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside, dir_fd=shelf)
        raise


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
