"""Hashing: SHA-256 of files and of memory, as fast as the processor hashes."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_BLOCK = 4 << 20
"""Bytes a read: the system call no longer counts, and two blocks stay in the cache."""
_THREADS = 8
"""At most so many files at a time: hashing leaves Python's lock alone."""


def of_bytes(data: bytes | memoryview) -> str:
    """Return the SHA-256 of what lies in memory, in hexadecimal; nothing is copied."""
    return hashlib.sha256(data).hexdigest()


def of_descriptor(descriptor: int, size: int) -> str:
    """Return the SHA-256 of the first bytes of an open file; raise `EOFError` if it has fewer.

    The next block is read while one is hashed.
    """
    total = hashlib.sha256()
    blocks = tuple(memoryview(bytearray(min(_BLOCK, size))) for _ in range(2))
    if size <= _BLOCK:
        total.update(_filled(descriptor, blocks[0], 0, size))
        return total.hexdigest()
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(_filled, descriptor, blocks[0], 0, _BLOCK)
        for count, offset in enumerate(range(_BLOCK, size + _BLOCK, _BLOCK)):
            block = coming.result()
            if offset < size:
                length = min(_BLOCK, size - offset)
                spare = blocks[(count + 1) % 2]
                coming = reader.submit(_filled, descriptor, spare, offset, length)
            total.update(block)
    return total.hexdigest()


def combined(digests: Sequence[str]) -> str:
    """Return the digest of one file, or for several the SHA-256 of all of theirs in order."""
    return digests[0] if len(digests) == 1 else of_bytes("".join(digests).encode("ascii"))


def of_files(paths: Sequence[Path]) -> str:
    """Return the combined digest of plain files, several of them at a time."""
    with ThreadPoolExecutor(min(len(paths), os.cpu_count() or 1, _THREADS) or 1) as pool:
        return combined(tuple(pool.map(_of_file, paths)))


def _of_file(path: Path) -> str:
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return of_descriptor(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def _filled(descriptor: int, block: memoryview, offset: int, length: int) -> memoryview:
    """Read exactly so many bytes from there on."""
    done = 0
    while done < length:
        count = os.preadv(descriptor, [block[done:length]], offset + done)
        if not count:
            raise EOFError
        done += count
    return block[:length]
