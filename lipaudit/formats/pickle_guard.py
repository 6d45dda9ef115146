"""The pickle guard: a virtual machine that walks a pickle and executes nothing.

Every global becomes an inert `Global`, every call an inert `Record` of what would have been
called with what. Nothing is imported. Lengths are checked against the bytes that are left
before anything is allocated, containers hold references only, and the depth of the result is
bounded, so that memory stays a small multiple of the pickle's size.
"""

import struct
from dataclasses import dataclass

from lipaudit.formats.pickle_machine import Global, Machine, Persistent, Record
from lipaudit.formats.pickle_opcodes import OPCODES

__all__ = ["Global", "Persistent", "Pickled", "Record", "unpickle"]


@dataclass(frozen=True, slots=True)
class Pickled:
    """The inert result of one pickle."""

    value: object
    globals: tuple[Global, ...]
    """Every name the pickle mentions, in order of first use."""
    end: int
    """Position of the first byte after it."""


def unpickle(data: bytes, *, start: int = 0, path: str) -> Pickled:
    """Walk the pickle that begins at `start`; raise a `FileError` when it is not one."""
    machine = Machine(data, start, path)
    try:
        value = machine.run(OPCODES)
    except (IndexError, struct.error, TypeError, KeyError, UnicodeDecodeError) as error:
        # The stack ran dry, a mark is missing, an operand has the wrong type.
        raise machine.broken(f"broken at byte {machine.position:,}") from error
    return Pickled(value, tuple(machine.globals), machine.position)
