"""Document: a small text file that a user names, read whole and with care.

A config, a baseline or a report may come from a pull request: it is opened without waiting
for a pipe's writer, must be a plain file of a sane size, and every value in it is checked.
"""

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipaudit import strict_json
from lipaudit.errors import MalformedFile, UnreadableFile, UnsafeFile


def read(path: str, *, limit: int = strict_json.MAX_BYTES) -> bytes:
    """Return the bytes of a regular file that has at most so many of them."""
    data = head(path, limit + 1)
    if len(data) > limit:
        raise UnsafeFile(f"is larger than {limit:,} bytes", slug="document-size", path=path)
    return data


def head(path: str, length: int) -> bytes:
    """Return the first bytes of a regular file."""
    try:
        # Opening a device can act on it, and a socket cannot be opened at all.
        _check_kind(Path(path).stat(), path)
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UnreadableFile("no such file", slug="no-such-file", path=path) from None
    except ValueError as error:  # a NUL byte in the name
        raise UnreadableFile(f"is no file name: {error}", slug="no-such-file", path=path) from error
    except OSError as error:
        cause = f"cannot be opened: {error.strerror}"
        raise UnreadableFile(cause, slug="unreadable", path=path) from error
    try:
        _check_kind(os.fstat(descriptor), path)  # it may be another one by now
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return stream.read(length)
    finally:
        os.close(descriptor)


def _check_kind(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableFile("not a regular file", slug="not-a-file", path=path)


@dataclass(frozen=True, slots=True)
class Entry:
    """A JSON object of a document, whose fields are taken by type and named when they are wrong."""

    values: Mapping[str, Any]
    path: str
    place: str = ""
    """Where in the document it stands, for messages: "models[0].layers[3]"."""

    @classmethod
    def parse(cls, path: str) -> "Entry":
        """Read a file that holds one object."""
        value = strict_json.parse(read(path), "document", path=path)
        if not isinstance(value, dict):
            raise MalformedFile("is not a JSON object", slug="document", path=path)
        return cls(value, path)

    def text(self, name: str, default: str | None = None) -> str:
        """Take a string; without a default it must be there."""
        value = self.values.get(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def whole(self, name: str) -> int:
        """Take an integer."""
        value = self.values.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(name, "a whole number")
        return value

    def flag(self, name: str) -> bool:
        """Take true or false; an absent one is false."""
        value = self.values.get(name, False)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def number(self, name: str) -> float | None:
        """Take a finite number or null; an absent one is null too."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, "a number or null")
        try:
            found = float(value)
        except OverflowError:
            raise self.wrong(name, "a number that a float can hold") from None
        if not math.isfinite(found):
            raise self.wrong(name, "a finite number or null")
        return found

    def shape(self, value: object, name: str) -> tuple[int, ...]:
        """Check a list of sizes."""
        if not isinstance(value, list) or not all(
            isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in value
        ):
            raise self.wrong(name, "a list of sizes")
        return tuple(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """Take a list of strings; an absent one is empty."""
        value = self.values.get(name, [])
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self.wrong(name, "a list of strings")
        return tuple(value)

    def entry(self, name: str) -> "Entry | None":
        """Take an object; None for null or an absent one."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Entry(value, self.path, self._inside(name))

    def entries(self, name: str) -> "tuple[Entry, ...]":
        """Take a list of objects."""
        value = self.values.get(name)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.wrong(name, "a list of objects")
        inside = self._inside(name)
        return tuple(Entry(item, self.path, f"{inside}[{at}]") for at, item in enumerate(value))

    def wrong(self, name: str, wanted: str) -> MalformedFile:
        """Return the error that names a field and what it should have been."""
        return MalformedFile(
            f"{self._inside(name)} is not {wanted}", slug="document", path=self.path
        )

    def _inside(self, name: str) -> str:
        return f"{self.place}.{name}" if self.place else name
