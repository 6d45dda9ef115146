"""The pickle machine: the stack and memo of one walk, and the inert objects it leaves behind."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lipaudit.errors import MalformedFile, UnsafeFile
from lipaudit.formats.pickle_budget import ENTRY, ITEM, MAX_OPCODES, OBJECT, Budget

MAX_DEPTH = 500
MAX_STACK = 1_000_000
"""Honest picklers put a thousand values on the stack before they take them off again."""
_LOOK = 1 << 16
"""How many opcodes are run between two looks at the stack."""
_MOST_ARGUMENTS = 16
"""Of the functions that rebuild tensors; none takes more than nine."""


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
    """Not those of an OrderedDict, which is filled with them."""
    state: object = None
    """What BUILD would have handed to the object: for most classes its `__dict__`."""
    items: dict[object, object] = field(default_factory=dict)
    elements: list[object] = field(default_factory=list)
    is_new: bool = False
    """Made by `__new__` of a class alone, whose `__init__` is not run."""

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
ORDERED = Global("collections", "OrderedDict")
_ENCODE = Global("_codecs", "encode")
"""What Python calls for bytes in protocols that have none of their own."""
REBUILDERS = frozenset({"torch._utils", "torch._tensor"})
"""Where torch keeps the functions that rebuild tensors; one of that name elsewhere is no tensor."""


class Handler(Protocol):
    """What one opcode does to the machine."""

    def __call__(self, machine: "Machine", /) -> None:
        """Do it."""


class Machine:
    """One walk: the stack, the memo, and what is left of the budget."""

    def __init__(self, data: bytes, start: int, budget: Budget) -> None:
        self.data = data
        self.position = start
        self.budget = budget
        self.path = budget.path
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self.globals: dict[Global, None] = {}
        self.done = False
        self.calls: list[Record] = []
        self._read: dict[int, object] = {}
        self._storages: dict[str, tuple[object, ...]] = {}

    def run(self, opcodes: Mapping[int, Handler]) -> object:
        """Follow the opcodes to the end and return what is left on the stack."""
        for count in range(self.budget.opcodes):
            if count % _LOOK == 0 and len(self.stack) > MAX_STACK:
                raise self.budget.exceeded(f"pickle stacks more than {MAX_STACK:,} values")
            if self.position >= len(self.data):
                raise self.broken("it ends before its STOP")
            code = self.data[self.position]
            self.position += 1
            handler = opcodes.get(code)
            if handler is None:
                raise self.broken(f"opcode 0x{code:02x} at byte {self.position - 1:,}")
            handler(self)
            if self.done:
                self.budget.opcodes -= count + 1
                value = self.stack.pop()
                self.check_depth(value)
                return value
        raise self.budget.exceeded(f"pickle has more than {MAX_OPCODES:,} opcodes")

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

    def push_plain(self, value: object) -> None:
        """Put a text, bytes or a number on the stack that was made for it."""
        self.stack.append(self.budget.value(value))

    def remember(self, place: int) -> None:
        """Put what is on top of the stack into the memo."""
        if place not in self.memo:
            self.budget.charge(ENTRY)
        self.memo[place] = self.stack[-1]

    def made(self, container: object, items: int = 0) -> object:
        """Count a new container with so many items, and return it."""
        try:
            self.budget.container()
            self.budget.charge(items * ITEM)
        except UnsafeFile:
            self.check_depth(container)  # what is wrong is said as exactly as it can be
            raise
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
        if isinstance(value, (Global, Record)) or self.budget.may_be_key(value):
            return value
        raise self.broken(f"a {type(value).__name__} as dictionary key")

    def store(self, target: object, pairs: list[object]) -> None:
        """Set items of a dictionary or of the record of an object."""
        if len(pairs) % 2:
            raise self.broken("a key without a value")
        items = target.items if isinstance(target, Record) else target
        if not isinstance(items, dict):
            raise self.broken(f"items for a {type(target).__name__}")
        self._check_unread(target)
        self.budget.charge(len(pairs) // 2 * ENTRY)
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            items[self.key(key)] = value

    def extend(self, target: object, values: list[object]) -> None:
        """Add elements to a list or to the record of an object."""
        self.budget.charge(len(values) * ITEM)
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Record):
            target.elements.extend(values)
        else:
            raise self.broken(f"elements for a {type(target).__name__}")

    def build(self, target: object, state: object) -> None:
        """Record the state that an object is given; honest picklers give it once."""
        if not isinstance(target, Record):
            raise self.broken(f"a state for a {type(target).__name__}")
        if target.state is not None:
            raise self.broken("a second state for an object")
        target.state = state

    def call(self, made_by: object, args: object, *, is_new: bool = False) -> None:
        """Record a call instead of making it; the arguments are not copied."""
        parts = args if isinstance(args, tuple) else (args,)
        if made_by == _ENCODE and not is_new and len(parts) == 2 and parts[1] == "latin1":
            self.push_plain(str(parts[0]).encode("latin1"))
            return
        if made_by == ORDERED:
            record = Record(made_by, ())
            self._fill(record, () if is_new else parts)
        else:
            record = Record(made_by, parts, is_new=is_new)
            if isinstance(made_by, Global) and made_by.module.split(".", 1)[0] == "torch":
                self.calls.append(record)
                if made_by.module in REBUILDERS:
                    self._note_read(made_by, parts)
        self.budget.charge(OBJECT)
        self.push(self.made(record))

    def check_storage(self, identity: object) -> None:
        """Raise if a storage is two things at once: torch takes it for the first that was said.

        Also where that was dropped, or stands in a place in which no tensor is looked for.
        """
        if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
            return
        key, said = identity[2], (identity[1], *identity[3:5])
        is_plain = all(isinstance(part, (Global, str, int)) for part in said)
        if isinstance(key, str) and self._storages.setdefault(key, said) != said:
            raise self.broken(f"storage {key[:80]} is two things at once")
        if isinstance(key, str) and not is_plain:
            self._storages[key] = ()  # which no other one is equal to

    def _fill(self, ordered: Record, args: tuple[object, ...]) -> None:
        """Fill an OrderedDict with what it is made of, as it is now: that may change later."""
        if len(args) > 1:
            raise self.broken(f"a dictionary made of {len(args):,} values")
        for arg in args:
            of = arg.items if isinstance(arg, Record) and arg.made_by == ORDERED else arg
            if not isinstance(of, (dict, list, tuple)):
                raise self.broken(f"a dictionary made of a {type(of).__name__}")
            for pair in of.items() if isinstance(of, dict) else of:
                if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                    raise self.broken("a dictionary made of what is no pair")
                self.budget.pair()
                self.store(ordered, [*pair])

    def _note_read(self, function: Global, args: tuple[object, ...]) -> None:
        """Remember the dictionaries that a call reads: what they hold later is not what it read."""
        if len(args) > _MOST_ARGUMENTS:
            raise self.broken(f"{function.name[:80]} with {len(args):,} arguments")
        inner = (part for arg in args if isinstance(arg, tuple) for part in arg[:_MOST_ARGUMENTS])
        for part in (*args, *inner):
            if isinstance(part, dict) and id(part) not in self._read:
                self.budget.charge(ENTRY)
                self._read[id(part)] = part

    def _check_unread(self, target: object) -> None:
        if self._read and id(target) in self._read:
            raise self.broken("a dictionary that is changed after a tensor was made with it")

    def mention(self, module: bytes | str, name: bytes | str) -> None:
        """Record a global by name instead of importing it."""
        found = Global(_text(module), _text(name))
        self.budget.charge(len(module) + len(name) + ENTRY)
        self.globals[found] = None
        self.push(found)


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
        yield value.args  # as one container: the same arguments may be given to many calls
        yield value.state
        yield from value.items.values()
        yield from value.elements


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
