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

    @property
    def first(self) -> object:
        """The first key from the top; "" at the top itself."""
        return next((key for key in reversed([key for _, key in self._steps()])), "")

    @property
    def length(self) -> int:
        """How many characters it would take at least, written out."""
        return sum(1 + (len(key) if isinstance(key, str) else 1) for _, key in self._steps())

    def __str__(self) -> str:
        return _joined([before + name_of(key) for before, key in self._steps()])

    def shown(self) -> str:
        """Return the name for a message, what is long in it cut."""
        return Titles().of(self)

    def _steps(self) -> Iterator[tuple[str, object]]:
        here = self
        while here.parent is not None:
            yield here.before, here.key
            here = here.parent


TOP = Branch(None, "", "")


class Titles:
    """What branches are called in messages; that of a common stem is worked out once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Branch, str]] = {id(TOP): (TOP, "")}

    def of(self, branch: Branch) -> str:
        """Return the name of a branch, what is long in it cut."""
        way = []
        here = branch
        while id(here) not in self._known and here.parent is not None:
            way.append(here)
            here = here.parent
        text = self._known[id(here)][1] if id(here) in self._known else ""
        for step in reversed(way):
            last = _joined([step.before + _cut(name_of(step.key))])
            between = step.before if text and step.before != "[" else ""
            text = _cut(text + between + last)
            if step is not branch:
                self._known[id(step)] = (step, text)
        return text


def name_of(key: object) -> str:
    """Return what a key of a dictionary is called; objects have no name that is safe to make."""
    if isinstance(key, (str, Global)):
        return str(key)
    if isinstance(key, bytes):
        return key.decode("utf-8", "backslashreplace")
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
