"""The pickle machine: the stack and memo of one walk, and the inert objects it leaves behind."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lipaudit.errors import MalformedFile, UnsafeFile

MAX_DEPTH = 500
MAX_OPCODES = 20_000_000


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
    """One walk: the stack, the memo, and how deep each container is."""

    def __init__(self, data: bytes, start: int, path: str) -> None:
        self.data = data
        self.position = start
        self.path = path
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self.globals: dict[Global, None] = {}
        self.depths: dict[int, int] = {}
        self.keep: list[object] = []  # keeps ids in `depths` from being reused
        self.done = False

    def run(self, opcodes: Mapping[int, Handler]) -> object:
        """Follow the opcodes to the end and return what is left on the stack."""
        for _ in range(MAX_OPCODES):
            code = self.take(1)[0]
            handler = opcodes.get(code)
            if handler is None:
                raise self.broken(f"opcode 0x{code:02x} at byte {self.position - 1:,}")
            handler(self)
            if self.done:
                return self.stack.pop()
        raise UnsafeFile(
            f"pickle has more than {MAX_OPCODES:,} opcodes", slug="pickle-size", path=self.path
        )

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

    def made(self, value: object, parts: "list[object] | tuple[object, ...]") -> object:
        """Note the depth of a new container, and return it."""
        self.deepen(value, parts)
        return value

    def deepen(self, value: object, parts: "list[object] | tuple[object, ...]") -> None:
        """Note that a container got more parts; refuse one that is nested too deep."""
        depth = max((self.depths.get(id(part), 0) for part in parts), default=0) + 1
        if depth > MAX_DEPTH:
            raise UnsafeFile(
                f"pickle nested deeper than {MAX_DEPTH}", slug="pickle-depth", path=self.path
            )
        known = self.depths.get(id(value))
        if known is None:
            self.keep.append(value)
        self.depths[id(value)] = max(depth, known or 0)

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
        flat = isinstance(value, tuple) and all(
            part is None or isinstance(part, (str, bytes, int, float)) for part in value
        )
        if flat or value is None or isinstance(value, (str, bytes, int, float, Global, Record)):
            return value
        raise self.broken(f"a {type(value).__name__} as dictionary key")

    def store(self, target: object, pairs: list[object]) -> None:
        """Set items of a dictionary or of the record of an object."""
        if len(pairs) % 2:
            raise self.broken("a key without a value")
        entries = {self.key(k): v for k, v in zip(pairs[::2], pairs[1::2], strict=True)}
        if isinstance(target, dict):
            target.update(entries)
        elif isinstance(target, Record):
            target.items.update(entries)
        else:
            raise self.broken(f"items for a {type(target).__name__}")
        self.deepen(target, list(entries.values()))

    def extend(self, target: object, values: list[object]) -> None:
        """Add elements to a list or to the record of an object."""
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Record):
            target.elements.extend(values)
        else:
            raise self.broken(f"elements for a {type(target).__name__}")
        self.deepen(target, values)

    def call(self, made_by: object, args: object, *more: object) -> None:
        """Record a call instead of making it."""
        parts = (*args, *more) if isinstance(args, tuple) else (args, *more)
        record = Record(made_by, parts)
        self.push(self.made(record, [made_by, *parts]))

    def mention(self, module: bytes | str, name: bytes | str) -> None:
        """Record a global by name instead of importing it."""
        found = Global(_text(module), _text(name))
        self.globals[found] = None
        self.push(found)


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
