"""The pickle guard: a virtual machine that walks a pickle and executes nothing.

Every global becomes an inert `Global`, every call an inert `Record` of what would have been
called with what. Nothing is imported. Lengths are checked against the bytes that are left
before anything is allocated, containers hold references only, and what is made, the depth of the
result and the keys of numbers are bounded, so that time and memory stay within bounds that no file
can choose.
"""

import struct
from dataclasses import dataclass

from lipaudit.errors import LipauditError
from lipaudit.formats.pickle_budget import Budget
from lipaudit.formats.pickle_machine import Global, Machine, Persistent, Record
from lipaudit.formats.pickle_opcodes import OPCODES

__all__ = ["Budget", "Global", "Persistent", "Pickled", "Record", "mentioned", "unpickle"]


@dataclass(frozen=True, slots=True)
class Pickled:
    """The inert result of one pickle."""

    value: object
    globals: tuple[Global, ...]
    """Every name the pickle mentions, in order of first use."""
    calls: tuple[Record, ...]
    """Every call of a name in torch, whatever became of what it made."""
    end: int
    """Position of the first byte after it."""


def unpickle(data: bytes, *, start: int = 0, path: str, budget: Budget | None = None) -> Pickled:
    """Walk the pickle that begins at `start`; raise a `FileError` when it is not one.

    `budget` is shared by the pickles of one file.
    """
    machine = Machine(data, start, Budget(path) if budget is None else budget)
    value = _run(machine)
    return Pickled(value, tuple(machine.globals), tuple(machine.calls), machine.position)


def mentioned(data: bytes, *, start: int = 0, path: str) -> tuple[tuple[Global, ...], int]:
    """Return the names that a pickle mentions as far as it can be walked, and where it ends.

    The end is -1 when it breaks off: all that stands before would be run nevertheless.
    """
    machine = Machine(data, start, Budget(path))
    try:
        _run(machine)
    except LipauditError:
        return tuple(machine.globals), -1
    return tuple(machine.globals), machine.position


def _run(machine: Machine) -> object:
    try:
        return machine.run(OPCODES)
    except (IndexError, struct.error, TypeError, KeyError, ValueError) as error:
        # The stack ran dry, a mark is missing, an operand has the wrong type, a number no digits.
        raise machine.broken(f"broken at byte {machine.position:,}") from error
