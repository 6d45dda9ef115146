"""The budget of a pickle: how much a file may have made, of things and of bytes.

Every limit is far above what checkpoints need, and low enough that a small file can take neither
minutes nor the memory. The pickles of one file share one budget.
"""

import re
import sys
from typing import final

from lipaudit.errors import UnsafeFile

MAX_OPCODES = 5_000_000
"""A tensor takes about forty."""
MAX_CONTAINERS = 1_000_000
"""One opcode of one byte makes a list or a set of two hundred: without a limit, a small file
would fill the memory."""
MAX_BYTES = 224 << 20
"""Of all that is made, as the charges below count it."""
MAX_WEAK_KEYS = 5_000
"""Keys of dictionaries whose hash a file can choose (text is hashed with a secret): thousands of
equal hashes would take hours to insert."""
MAX_PAIRS = 1_000_000
"""Of dictionaries that are made of others or of lists: one list can be given to many."""
# In bytes, rounded up from what Python 3.11 takes for them; a container is copied once when its
# tensors are made.
ENTRY = 112
"""Of a dictionary or of the memo."""
ITEM = 20
"""Of a list or tuple."""
CONTAINER = 288
OBJECT = 352
"""Of a call beyond what a container takes."""
_PLAIN_HASH = 1 << 60
"""Integers below it are their own hash, so that no two collide."""
_LONGEST_KEY = 1 << 10
"""Parts of a tuple as a key, and characters in it: hashed whole at each use."""
_LONG = 1 << 16
"""Bytes of a text from which on its characters are weighed before it is made."""
_WIDE = ((re.compile(rb"[\xf0-\xf7]"), 4), (re.compile(rb"[\xc4-\xef]"), 2))
"""First bytes of UTF-8 characters that make Python keep a whole text in 4 or 2 bytes each."""


@final
class Budget:
    """What is left of it for the pickles of one file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.opcodes = MAX_OPCODES
        self._containers = MAX_CONTAINERS
        self._bytes = MAX_BYTES
        self._weak_keys = MAX_WEAK_KEYS
        self._pairs = MAX_PAIRS

    def charge(self, size: int) -> None:
        """Take some bytes off; raise when there are none left."""
        self._bytes -= size
        if self._bytes < 0:
            raise self.exceeded(f"pickle makes more than {MAX_BYTES >> 20:,} MB of values")

    def value(self, made: object) -> object:
        """Take off a text, bytes or a number, and return it."""
        self.charge(sys.getsizeof(made))
        return made

    def check_text(self, data: bytes) -> None:
        """Raise unless the text that these bytes are in UTF-8 still fits, before it is made."""
        if len(data) > _LONG:
            width = next((width for first, width in _WIDE if first.search(data)), 1)
            if width * len(data) > self._bytes:
                self.charge(width * len(data))

    def container(self) -> None:
        """Take off a container."""
        self._containers -= 1
        if self._containers < 0:
            raise self.exceeded(f"pickle makes more than {MAX_CONTAINERS:,} containers")
        self.charge(CONTAINER)

    def pair(self) -> None:
        """Take off a pair that is copied into a dictionary."""
        self._pairs -= 1
        if self._pairs < 0:
            raise self.exceeded(f"pickle gives more than {MAX_PAIRS:,} pairs to its dictionaries")

    def may_be_key(self, value: object) -> bool:
        """Tell whether a value that is no object is cheap and safe to hash, and take it off."""
        if isinstance(value, (str, bytes)) or value is None:
            return True
        if isinstance(value, int) and abs(value) < _PLAIN_HASH:
            return True
        if not isinstance(value, (int, float)) and not _is_flat(value):
            return False
        self._weak_keys -= 1
        if self._weak_keys < 0:
            raise self.exceeded(f"pickle has more than {MAX_WEAK_KEYS:,} keys of numbers")
        return True

    def exceeded(self, what: str) -> UnsafeFile:
        """Return the error for a file that asks for more."""
        return UnsafeFile(what, slug="pickle-size", path=self.path)


def _is_flat(value: object) -> bool:
    """Tell whether it is a short tuple of plain values."""
    if not isinstance(value, tuple) or len(value) > _LONGEST_KEY:
        return False
    plain = all(part is None or isinstance(part, (str, bytes, int, float)) for part in value)
    return plain and sum(len(p) for p in value if isinstance(p, (str, bytes))) <= _LONGEST_KEY
