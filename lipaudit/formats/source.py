"""Source: an input file, opened once, checked to be a plain file, and read by position.

Everything is read through the one descriptor that was checked, so a file that is swapped
between the check and the read changes nothing.
"""

import hashlib
import os
import stat
import weakref
from collections.abc import Sequence
from pathlib import Path

from lipaudit.errors import MalformedFile, UnreadableFile
from lipaudit.graph.model import Fingerprint

_CHUNK = 1 << 20


class Source:
    """A regular file of known size that can be read at any position, from several threads."""

    def __init__(self, path: Path, *, follow: bool = True) -> None:
        self.path = path
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        try:
            self._descriptor = os.open(path, flags)
        except FileNotFoundError:
            raise UnreadableFile("no such file", slug="no-such-file", path=str(path)) from None
        except OSError as error:
            raise UnreadableFile(
                f"cannot be opened: {error.strerror}", slug="unreadable", path=str(path)
            ) from error
        weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableFile("not a regular file", slug="not-a-file", path=str(path))
        self.size = status.st_size
        self.links = status.st_nlink
        if self.size == 0:
            raise UnreadableFile("file is empty (0 bytes)", slug="empty-file", path=str(path))

    def fingerprint(self) -> Fingerprint:
        """Tell the open file as it is now from any other."""
        status = os.fstat(self._descriptor)
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly these bytes; asking past the end is a malformed file."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise MalformedFile(
                f"data cut short: bytes {offset:,} to {offset + length:,} of {self.size:,}",
                slug="truncated",
                path=str(self.path),
            )
        parts = []
        while length > 0:
            part = os.pread(self._descriptor, length, offset)
            if not part:
                raise UnreadableFile(
                    "file shrank while it was read", slug="changed", path=str(self.path)
                )
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def head(self, length: int) -> bytes:
        """Return the first bytes, fewer when the file is shorter."""
        return self.read(0, min(length, self.size))

    def digest(self) -> str:
        """Return the SHA-256 of the whole file in hexadecimal."""
        total = hashlib.sha256()
        for offset in range(0, self.size, _CHUNK):
            total.update(self.read(offset, min(_CHUNK, self.size - offset)))
        return total.hexdigest()


def digest_of(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of a file, or for several the SHA-256 of all of theirs in order."""
    digests = [Source(path).digest() for path in paths]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode("ascii")).hexdigest()
