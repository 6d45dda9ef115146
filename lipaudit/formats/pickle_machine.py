"""The pickle machine: the stack and memo of one walk, and the inert objects it leaves behind."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lipaudit.errors import MalformedFile, UnsafeFile

MAX_DEPTH = 500
MAX_OPCODES = 20_000_000
MAX_CONTAINERS = 1_000_000
"""One opcode of one byte makes a list or a set of two hundred: without a limit, a small file
would fill the memory."""
MAX_STACK = 5_000_000
"""Honest picklers put a thousand values on the stack before they take them off again."""
_LOOK = 1 << 16
"""How many opcodes are run between two looks at the stack."""
MAX_WEAK_KEYS = 5_000
"""Keys of dictionaries whose hash a file can choose (text is hashed with a secret): thousands of
equal hashes would take hours to insert."""
_PLAIN_HASH = 1 << 60
"""Integers below it are their own hash, so that no two collide."""


@dataclass(frozen=True, slots=True)
class Global:
    """The name of something in a Python module. It is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Record:
    """What a pickle wanted to have made: a call, and what was to be put into its result."""

    made_by: object
    """Usually a `Global`."""
    args: tuple[object, ...]
    state: object = None
    """What BUILD would have handed to the object: for most classes its `__dict__`."""
    items: dict[object, object] = field(default_factory=dict)
    elements: list[object] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """Return the dotted name of what would have been called, "" if that is no name."""
        return str(self.made_by) if isinstance(self.made_by, Global) else ""


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """An object that lies outside of the pickle, under this identity (a storage)."""

    identity: object


class Mark:
    """The place on the stack that MARK leaves."""


MARK = Mark()


class Handler(Protocol):
    """What one opcode does to the machine."""

    def __call__(self, machine: "Machine", /) -> None:
        """Do it."""


class Machine:
    """One walk: the stack, the memo, and how much was made."""

    def __init__(self, data: bytes, start: int, path: str) -> None:
        self.data = data
        self.position = start
        self.path = path
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self.globals: dict[Global, None] = {}
        self.done = False
        self._containers = 0
        self._weak_keys = 0

    def run(self, opcodes: Mapping[int, Handler]) -> object:
        """Follow the opcodes to the end and return what is left on the stack."""
        for count in range(MAX_OPCODES):
            if count % _LOOK == 0 and len(self.stack) > MAX_STACK:
                raise self._too_large(f"pickle stacks more than {MAX_STACK:,} values")
            if self.position >= len(self.data):
                raise self.broken("it ends before its STOP")
            code = self.data[self.position]
            self.position += 1
            handler = opcodes.get(code)
            if handler is None:
                raise self.broken(f"opcode 0x{code:02x} at byte {self.position - 1:,}")
            handler(self)
            if self.done:
                value = self.stack.pop()
                self.check_depth(value)
                return value
        raise self._too_large(f"pickle has more than {MAX_OPCODES:,} opcodes")

    def broken(self, what: str) -> MalformedFile:
        """Return the error for a stream that contradicts itself."""
        return MalformedFile(f"pickle: {what}", slug="pickle", path=self.path)

    def take(self, length: int) -> bytes:
        """Return the next bytes, after checking that they are there."""
        left = len(self.data) - self.position
        if length < 0 or length > left:
            raise MalformedFile(
                f"pickle asks for {length:,} bytes, {left:,} left", slug="pickle", path=self.path
            )
        self.position += length
        return self.data[self.position - length : self.position]

    def line(self) -> bytes:
        """Return the bytes up to the next line end, as protocol 0 writes operands."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise self.broken("a line has no end")
        text = self.data[self.position : end]
        self.position = end + 1
        return text

    def number(self, layout: str) -> int:
        """Return the next number of that `struct` layout."""
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout)))
        return int(value)

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def made(self, container: object) -> object:
        """Count a new container, and return it."""
        self._containers += 1
        if self._containers > MAX_CONTAINERS:
            self.check_depth(container)  # what is wrong is said as exactly as it can be
            raise self._too_large(f"pickle makes more than {MAX_CONTAINERS:,} containers")
        return container

    def check_depth(self, root: object) -> None:
        """Refuse a value that is nested too deep, without descending into it by recursion.

        Lists are filled after they were put elsewhere, so only the finished value tells.
        """
        heights = {id(root): 0}
        path = [(root, parts_of(root))]
        while path:
            value, parts = path[-1]
            part = next(parts, _NO_PART)
            if part is _NO_PART:
                path.pop()
                if path:
                    above = id(path[-1][0])
                    heights[above] = max(heights[above], heights[id(value)] + 1)
                continue
            if not isinstance(part, _CONTAINERS):
                continue
            # A container that is still open holds itself; what follows is counted where it is.
            height = heights.get(id(part))
            if len(path) + (height or 0) >= MAX_DEPTH:
                raise UnsafeFile(
                    f"pickle nested deeper than {MAX_DEPTH}", slug="pickle-depth", path=self.path
                )
            if height is None:
                heights[id(part)] = 0
                path.append((part, parts_of(part)))
            else:
                above = id(value)
                heights[above] = max(heights[above], height + 1)

    def since_mark(self) -> list[object]:
        """Take everything above the last mark off the stack, and the mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise self.broken("a mark is missing")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def key(self, value: object) -> object:
        """Return a dictionary key that is cheap and safe to hash."""
        if isinstance(value, (str, bytes, Global, Record)) or value is None:
            return value
        if isinstance(value, int) and abs(value) < _PLAIN_HASH:
            return value
        flat = isinstance(value, tuple) and all(
            part is None or isinstance(part, (str, bytes, int, float)) for part in value
        )
        if not flat and not isinstance(value, (int, float)):
            raise self.broken(f"a {type(value).__name__} as dictionary key")
        self._weak_keys += 1
        if self._weak_keys > MAX_WEAK_KEYS:
            raise self._too_large(f"pickle has more than {MAX_WEAK_KEYS:,} keys of numbers")
        return value

    def store(self, target: object, pairs: list[object]) -> None:
        """Set items of a dictionary or of the record of an object."""
        if len(pairs) % 2:
            raise self.broken("a key without a value")
        items = target.items if isinstance(target, Record) else target
        if not isinstance(items, dict):
            raise self.broken(f"items for a {type(target).__name__}")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            items[self.key(key)] = value

    def extend(self, target: object, values: list[object]) -> None:
        """Add elements to a list or to the record of an object."""
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Record):
            target.elements.extend(values)
        else:
            raise self.broken(f"elements for a {type(target).__name__}")

    def call(self, made_by: object, args: object) -> None:
        """Record a call instead of making it; the arguments are not copied."""
        parts = args if isinstance(args, tuple) else (args,)
        self.push(self.made(Record(made_by, parts)))

    def mention(self, module: bytes | str, name: bytes | str) -> None:
        """Record a global by name instead of importing it."""
        found = Global(_text(module), _text(name))
        self.globals[found] = None
        self.push(found)

    def _too_large(self, what: str) -> UnsafeFile:
        return UnsafeFile(what, slug="pickle-size", path=self.path)


_CONTAINERS = (tuple, list, dict, Record, Persistent)
_NO_PART = object()


def parts_of(value: object) -> Iterator[object]:
    """Yield what a container of a pickle holds; keys are flat and hold nothing."""
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple)):
        yield from value
    elif isinstance(value, Persistent):
        yield value.identity
    elif isinstance(value, Record):
        yield value.made_by
        yield from value.args
        yield value.state
        yield from value.items.values()
        yield from value.elements


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
