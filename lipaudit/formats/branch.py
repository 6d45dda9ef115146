"""Branch: the way from the top of a checkpoint's tree to one of its parts.

It is written out only for what is reported: a key of a megabyte above a hundred thousand tensors
would fill the memory with their names.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

from lipaudit.formats.pickle_machine import Global, Record

_SHOWN = 200
_LONGEST_KEY = 64
"""Bits of an integer that is written as a key: thousands of digits are no name."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One step further than its parent."""

    parent: Optional["Branch"]
    before: str
    """What separates the step from those before: `/`, `.` or `[`."""
    key: object
    """Of a dictionary, or a name or a place."""

    def entry(self, key: object) -> "Branch":
        """Return the way to the entry of a dictionary."""
        return Branch(self, "/", key)

    def item(self, place: int) -> "Branch":
        """Return the way to an item of a list."""
        return Branch(self, "[", place)

    def field(self, name: object) -> "Branch":
        """Return the way to an attribute of an object."""
        return Branch(self, ".", name)

    @property
    def home(self) -> "Branch":
        """The way to the innermost dictionary or list around it; objects are none."""
        here = self
        while here.before == "." and here.parent is not None:
            here = here.parent
        return here.parent or here

    def __str__(self) -> str:
        return _joined([before + name_of(key) for before, key in self._steps()])

    def shown(self) -> str:
        """Return the name for a message, what is long in it cut."""
        return _cut(_joined([before + _cut(name_of(key)) for before, key in self._steps()]))

    def _steps(self) -> Iterator[tuple[str, object]]:
        here = self
        while here.parent is not None:
            yield here.before, here.key
            here = here.parent


TOP = Branch(None, "", "")


def name_of(key: object) -> str:
    """Return what a key of a dictionary is called; objects have no name that is safe to make."""
    if isinstance(key, (str, Global)):
        return str(key)
    if isinstance(key, int) and key.bit_length() > _LONGEST_KEY:
        return f"integer of {key.bit_length():,} bits"
    if isinstance(key, tuple):
        return f"({', '.join(name_of(part) for part in key)})"
    if isinstance(key, Record):
        return key.kind or "object"
    return str(key)


def _joined(steps: list[str]) -> str:
    text = "".join(step + "]" if step.startswith("[") else step for step in reversed(steps))
    return text[1:] if text.startswith(("/", ".")) else text


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}...{text[-_SHOWN // 2 :]}"
