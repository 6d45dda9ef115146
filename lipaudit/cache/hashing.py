"""Hashing: SHA-256 of files and of memory, by one thread or as a tree by several.

The plain SHA-256 of a file is what a report states; one thread computes it, at 0.4 GB/s where the
processor has no instruction for it. Names in the cache need no such number but a fast one: a tree,
the SHA-256 of the SHA-256 of all blocks of 4 MiB, which as many threads compute as there are cores.
Two trees that collide hold two blocks that do (Merkle 1987). Where a file is hashed for a report
anyway, its tree comes of the same reading, if somebody wants to know it.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar, copy_context
from pathlib import Path

_BLOCK = 4 << 20
"""Bytes of a block and of a read: the system call no longer counts, and two stay in the cache."""
_THREADS = 8
"""At most so many blocks or files at a time: hashing leaves Python's lock alone."""

State = tuple[int, int, int, int, int]
"""Device, inode, size and both times of a file: what it was when it was hashed."""

_wanted: ContextVar["dict[State, str] | None"] = ContextVar("wanted", default=None)
_own = threading.local()
"""A block of memory of each thread."""


def of_bytes(data: bytes | memoryview) -> str:
    """Return the SHA-256 of what lies in memory, in hexadecimal; nothing is copied."""
    return hashlib.sha256(data).hexdigest()


def of_descriptor(descriptor: int, size: int) -> str:
    """Return the SHA-256 of the first bytes of an open file; raise `EOFError` if it has fewer.

    The next block is read while one is hashed; inside of `trees` it also becomes a leaf.
    """
    wanted = _wanted.get()
    before = state(os.fstat(descriptor)) if wanted is not None else None
    total, leaves = hashlib.sha256(), []
    with ExitStack() as helpers:
        beside = helpers.enter_context(ThreadPoolExecutor(1)) if wanted is not None else None
        for block in _blocks(descriptor, size, helpers):
            leaf = None if beside is None else beside.submit(_leaf, block)
            total.update(block)
            if leaf is not None:
                leaves.append(leaf.result())
    if wanted is not None and before is not None and before == state(os.fstat(descriptor)):
        wanted[before] = _root(size, leaves)
    return total.hexdigest()


def combined(digests: Sequence[str]) -> str:
    """Return the digest of one file, or for several the SHA-256 of all of theirs in order."""
    return digests[0] if len(digests) == 1 else of_bytes("".join(digests).encode("ascii"))


def of_each(files: Sequence[Callable[[], str]]) -> str:
    """Return the combined digest of files, each given by what hashes it; several at a time."""
    if len(files) == 1:
        return files[0]()
    with ThreadPoolExecutor(_threads()) as pool:
        # A thread does not know what the one that waits for it was asked to note.
        jobs = [pool.submit(copy_context().run, file) for file in files]
        return combined([job.result() for job in jobs])


def tree_of_memory(data: memoryview, threads: int = 1) -> str:
    """Return the tree of bytes in memory, by so many threads; nothing is copied."""
    blocks = [data[start : start + _BLOCK] for start in range(0, len(data), _BLOCK)]
    if threads < 2 or len(blocks) < 2:
        return _root(len(data), map(_leaf, blocks))
    with ThreadPoolExecutor(min(threads, _THREADS)) as pool:
        return _root(len(data), pool.map(_leaf, blocks))


@contextmanager
def trees() -> "Iterator[Mapping[State, str]]":
    """Note the tree of every file that is hashed meanwhile, and what the file was."""
    found: dict[State, str] = {}
    before = _wanted.set(found)
    try:
        yield found
    finally:
        _wanted.reset(before)


def tree_of_files(paths: Sequence[Path], known: "Mapping[State, str] | None" = None) -> str:
    """Return the combined trees of plain files; those that are known are not read."""
    with ThreadPoolExecutor(_threads()) as pool:
        return combined([_tree(path, known or {}, pool) for path in paths])


def state(status: os.stat_result) -> State:
    """Return what a file is, apart from its bytes."""
    times = status.st_mtime_ns, status.st_ctime_ns
    return status.st_dev, status.st_ino, status.st_size, *times


def _tree(path: Path, known: "Mapping[State, str]", pool: ThreadPoolExecutor) -> str:
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if state(status) in known:
            return known[state(status)]
        size = status.st_size
        starts = range(0, size, _BLOCK)
        return _root(size, pool.map(lambda start: _leaf_of(descriptor, start, size), starts))
    finally:
        os.close(descriptor)


def _root(size: int, leaves: "Sequence[str] | Iterator[str]") -> str:
    """Return the digest of all blocks' digests; the size says how many there are."""
    return of_bytes(f"tree {_BLOCK} {size} {' '.join(leaves)}".encode("ascii"))


def _leaf(block: memoryview) -> str:
    return hashlib.sha256(block).hexdigest()


def _leaf_of(descriptor: int, start: int, size: int) -> str:
    """Read a block into this thread's own memory, and hash it."""
    if not hasattr(_own, "block"):
        _own.block = memoryview(bytearray(_BLOCK))
    return _leaf(_filled(descriptor, _own.block, start, min(_BLOCK, size - start)))


def _blocks(descriptor: int, size: int, helpers: ExitStack) -> Iterator[memoryview]:
    """Yield the blocks of a file, the next of which is read meanwhile."""
    spare = [memoryview(bytearray(min(_BLOCK, size))) for _ in range(2 if size > _BLOCK else 1)]
    if size <= _BLOCK:
        yield _filled(descriptor, spare[0], 0, size)
        return
    reader = helpers.enter_context(ThreadPoolExecutor(1))
    coming: Future[memoryview] = reader.submit(_filled, descriptor, spare[0], 0, _BLOCK)
    for count, offset in enumerate(range(_BLOCK, size + _BLOCK, _BLOCK)):
        block = coming.result()
        if offset < size:
            length = min(_BLOCK, size - offset)
            coming = reader.submit(_filled, descriptor, spare[(count + 1) % 2], offset, length)
        yield block


def _filled(descriptor: int, block: memoryview, offset: int, length: int) -> memoryview:
    """Read exactly so many bytes from there on."""
    done = 0
    while done < length:
        count = os.preadv(descriptor, [block[done:length]], offset + done)
        if not count:
            raise EOFError
        done += count
    return block[:length]


def _threads() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(allowed or 1, _THREADS)
