"""Mutations: bytes changed without any knowledge of what they mean."""

import re
import struct
from collections.abc import Callable
from random import Random
from typing import TypeVar

Item = TypeVar("Item")
_EDGES = (0, 1, -1, 2, 0x7F, 0x80, 0xFF, 0x100, 1 << 15, 1 << 16, (1 << 31) - 1, 1 << 31,
          (1 << 32) - 1, 1 << 32, (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
"""Where lengths, counts and signs turn over."""
_DECIMALS = (
    b"0", b"-1", b"1", b"1e400", b"2147483648", b"9223372036854775807", b"9223372036854775808",
    b"18446744073709551616", b"1" * 60, b"9" * 5000, b"NaN", b"-Infinity", b"0.5", b"1e-320",
    b"null", b"true", b'""', b"[]", b"{}",
)  # fmt: skip
_NUMBER = re.compile(rb"-?\d+")
_MOST_BYTES = 1 << 16
"""A case never grows beyond this: the fuzzer looks for structure, not for size."""

Mutation = Callable[[Random, bytes], bytes]


def edge(rng: Random) -> int:
    """Return an integer near which code goes wrong."""
    return rng.choice(_EDGES) + rng.choice((0, 0, 0, 1, -1))


def flipped(rng: Random, data: bytes) -> bytes:
    """Turn over one to eight bits."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def overwritten(rng: Random, data: bytes) -> bytes:
    """Put a few random bytes in the place of others."""
    at, length = rng.randrange(len(data)), rng.randint(1, 8)
    return data[:at] + rng.randbytes(length) + data[at + length :]


def cut(rng: Random, data: bytes) -> bytes:
    """Leave out the end, or the beginning."""
    at = rng.randrange(len(data))
    return data[:at] if rng.random() < 0.8 else data[at:]


def without_chunk(rng: Random, data: bytes) -> bytes:
    """Leave out a run of bytes."""
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def with_chunk_again(rng: Random, data: bytes) -> bytes:
    """Say a run of bytes again, behind itself or elsewhere."""
    start, end = _span(rng, data)
    at = end if rng.random() < 0.5 else rng.randrange(len(data))
    times = rng.choice((1, 1, 1, 2, 50))
    return data[:at] + data[start:end] * times + data[at:]


def with_insertion(rng: Random, data: bytes) -> bytes:
    """Put in random bytes, or one byte many times."""
    at, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 8, 64, 1000))
    new = rng.randbytes(length) if rng.random() < 0.5 else bytes([rng.randrange(256)]) * length
    return data[:at] + new + data[at:]


def with_swap(rng: Random, data: bytes) -> bytes:
    """Let two runs of bytes change places."""
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(4))
    a, b, c, d = cuts
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def with_integer(rng: Random, data: bytes) -> bytes:
    """Put an edge value of some width and byte order where a field may be."""
    width, order = rng.choice((1, 2, 4, 8)), rng.choice("<>")
    value = edge(rng) & ((1 << 8 * width) - 1)
    code = {1: "B", 2: "H", 4: "I", 8: "Q"}[width]
    at = rng.randrange(len(data))
    return data[:at] + struct.pack(order + code, value) + data[at + width :]


def with_decimal(rng: Random, data: bytes) -> bytes:
    """Put an edge value where digits stand in a text."""
    found = list(_NUMBER.finditer(data))
    if not found:
        return with_integer(rng, data)
    place = rng.choice(found)
    return data[: place.start()] + rng.choice(_DECIMALS) + data[place.end() :]


def spliced(rng: Random, data: bytes, other: bytes) -> bytes:
    """Put a run of bytes of another file in the place of one of these."""
    start, end = _span(rng, data)
    first, last = _span(rng, other)
    return data[:start] + other[first:last] + data[end:]


_ALL: tuple[Mutation, ...] = (
    flipped, flipped, overwritten, cut, without_chunk, with_chunk_again, with_insertion,
    with_swap, with_integer, with_integer, with_decimal,
)  # fmt: skip


def mutated(rng: Random, data: bytes, other: bytes = b"") -> bytes:
    """Change the bytes in one to four ways; `other` is a good file to take pieces from."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        if not data:
            return data
        if other and rng.random() < 0.1:
            data = spliced(rng, data, other)
        else:
            data = rng.choice(_ALL)(rng, data)
        data = data[:_MOST_BYTES]
    return data


def picked(rng: Random, items: "dict[str, Item]") -> tuple[str, Item]:
    """Return one entry of a dictionary."""
    name = rng.choice(sorted(items))
    return name, items[name]


def _span(rng: Random, data: bytes) -> tuple[int, int]:
    start = rng.randrange(len(data))
    length = rng.choice((1, 2, 4, 8, 16, 64, 256, len(data)))
    return start, min(len(data), start + rng.randint(1, length))
