"""Batches: the same work on many small matrices, in pieces that fit the memory.

On the CPU pieces run side by side in threads with one BLAS thread each: for matrices of a few
hundred rows that is about twice as fast as one batched LAPACK call with all threads, because
half of every factorization cannot be split. On another device they run one after the other;
when it runs out of memory the pieces are halved, and at the end the CPU takes over.

In jobs that anybody would notice the calling thread only waits, so that Ctrl-C is answered at
once, whatever LAPACK is doing. What it waited for is then abandoned: it ends before its next piece,
and its threads take no more. In small jobs it takes its share of the pieces.
"""

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import torch

from lipaudit.device import CPU, Compute, ran_out_of_memory, release
from lipaudit.errors import NotCertified
from lipaudit.operators.lapack import numpy_on_one_thread

Result = TypeVar("Result")

PIECE = 1 << 24
"""Bytes of one piece on the CPU: more gains nothing, and leaves the caches."""
_LEAST = 16
"""Items of one piece all the same, as far as memory allows: neighbours share partial sums."""
_PIECES_EACH = 4
"""Pieces for each thread at least, or one of them would wait long for the last."""
WORTH_A_THREAD = 2e7
"""Work (operations) of a piece below which handing it to another thread costs more than it
gains: Python's threads take turns between the calls into torch."""
_WORTH_A_PIECE = 3e8
"""Work below which a thread's share is not split further. Where threads that are done within
milliseconds wait for one another to get their turns, that takes as long as the work."""
_WORTH_BETWEEN_STEPS = 3e8
"""Work of a whole job below which it stays on the calling thread between two steps of a training:
on the other cores the threads of the last step still spin."""

_own = threading.local()
"""Of each thread: how many it had outside of `one_thread`; whether it is `between_steps`; who may
abandon its work."""
_NOTICEABLE = 1e9
"""Work of a call, or of a whole job, below which nobody notices that it cannot be interrupted."""


def in_batches(
    work: Callable[[slice, torch.device], Result],
    count: int,
    *,
    bytes_each: int,
    flops_each: float,
    compute: Compute,
) -> list[Result]:
    """Return the results of `work` on consecutive runs of range(count), in order.

    `work` gets a run and the device to do it on; one item takes about so much memory and work.
    It may be called on any thread, so that nothing may depend on what torch keeps for each of them.
    """
    if count == 0:
        return []
    job = _Job(work, count, max(bytes_each, 1), max(flops_each, 1.0), compute)
    # Wherever it is done: what a device has no room for is done here.
    with numpy_on_one_thread():
        return _in_threads(job, 0) if compute.on_cpu else _on_device(job)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let small operations run on this thread alone.

    Shared among cores they gain nothing, and on a machine that has other work to do every one
    of them waits for all of its threads to get a turn.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    _own.threads = before
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        del _own.threads


@contextmanager
def between_steps() -> Iterator[None]:
    """Say that this thread works between two steps of a training, whose threads are still there."""
    _own.between_steps = True
    try:
        yield
    finally:
        del _own.between_steps


def _cores() -> int:
    """Return how many threads torch was allowed outside of `one_thread`."""
    allowed: int = getattr(_own, "threads", 0) or torch.get_num_threads()
    return allowed


class _Abandoned(Exception):
    """Ends work whose result nobody waits for any more."""


def interruptible(call: Callable[[], Result], *, flops: float) -> Result:
    """Return what the call returns; Ctrl-C is answered although it may be inside LAPACK."""
    if flops < _NOTICEABLE or threading.current_thread() is not threading.main_thread():
        return call()
    abandoned = threading.Event()
    future = _single(os.getpid(), _cores()).submit(_unless, abandoned, call)
    try:
        return future.result()
    finally:
        if not future.done():
            abandoned.set()
            # Or else the next call would wait for this one.
            _single.cache_clear()


def _unless(abandoned: threading.Event, call: Callable[[], Result]) -> Result:
    """Do work of another thread that may abandon it."""
    _own.abandoned = abandoned
    try:
        _go_on()
        return call()
    finally:
        del _own.abandoned


def _go_on() -> None:
    """Raise where nobody waits for this thread's work any more."""
    abandoned: threading.Event | None = getattr(_own, "abandoned", None)
    if abandoned is not None and abandoned.is_set():
        raise _Abandoned


@dataclass(frozen=True, slots=True)
class _Job(Generic[Result]):
    """What is to be done for every item of a range."""

    work: Callable[[slice, torch.device], Result]
    count: int
    bytes_each: int
    flops_each: float
    compute: Compute


def _in_threads(job: _Job[Result], first: int) -> list[Result]:
    """Do the items from `first` on, on the CPU."""
    threads, left = _cores(), job.count - first
    wanted = max(PIECE // job.bytes_each, _LEAST)
    size = max(1, min(wanted, job.compute.max_memory // (2 * threads) // job.bytes_each))
    worth = math.ceil(WORTH_A_THREAD / job.flops_each)
    alone = getattr(_own, "between_steps", False) and left * job.flops_each < _WORTH_BETWEEN_STEPS
    shared = not _is_helper() and left > 2 * worth and not alone
    soon = left * job.flops_each < _NOTICEABLE and left * job.bytes_each <= job.compute.max_memory
    if shared:
        least = 1 if soon else min(math.ceil(_WORTH_A_PIECE / job.flops_each), -(-left // threads))
        size = min(size, max(worth, least, -(-left // (_PIECES_EACH * threads))))
        # As many for each thread, and those as large as one another.
        rounds = max(1, round(left / (size * threads)))
        size = min(size, -(-left // (rounds * threads)))
    pieces = [slice(at, min(at + size, job.count)) for at in range(first, job.count, size)]
    if not shared or len(pieces) == 1:
        return interruptible(
            lambda: [_guarded(job.work, piece) for piece in pieces], flops=left * job.flops_each
        )
    if soon:
        return _side_by_side(job, pieces, threads)
    futures: list[Future[Result]] = []
    done: list[Result] = []
    used = 0
    abandoned = threading.Event()
    try:
        pool = _pool(os.getpid(), threads)
        futures.extend(
            pool.submit(_unless, abandoned, partial(_guarded, job.work, piece)) for piece in pieces
        )
        for future, piece in zip(futures, pieces, strict=True):
            done.append(future.result())
            job.compute.tick(piece.stop / job.count)
            used += (piece.stop - piece.start) * job.bytes_each
            if used > job.compute.max_memory // 2:
                release(CPU)
                used = 0
    finally:
        if len(done) < len(pieces):
            abandoned.set()
            _pool.cache_clear()
            for future in futures:
                future.cancel()
    return done


def _side_by_side(job: _Job[Result], pieces: Sequence[slice], threads: int) -> list[Result]:
    """Do pieces on this thread and on helpers, whoever is there first.

    A core that sleeps may take milliseconds to wake up; by then this thread is done with much of
    a small job, or with all of it, and nobody is waited for.
    """
    left = SimpleQueue[int]()
    for at in range(len(pieces)):
        left.put(at)
    done: dict[int, Result] = {}

    ended = threading.Event()

    def take() -> None:
        try:
            while not ended.is_set():
                try:
                    at = left.get_nowait()
                except Empty:
                    return
                done[at] = _guarded(job.work, pieces[at])
        except BaseException:
            ended.set()  # for the others too
            raise

    helpers: list[Future[None]] = []
    try:
        pool = _pool(os.getpid(), threads)
        helpers.extend(pool.submit(take) for _ in range(min(threads, len(pieces)) - 1))
        with one_thread():
            take()
        for helper in helpers:
            if not helper.cancel():
                helper.result()
    finally:
        if len(done) < len(pieces):
            ended.set()
            for helper in helpers:
                helper.cancel()
    job.compute.tick(pieces[-1].stop / job.count)
    return [done[at] for at in range(len(pieces))]


def _on_device(job: _Job[Result]) -> list[Result]:
    """Do the items on another device, with less at a time when its memory runs out."""
    compute = job.compute
    done: list[Result] = []
    first = 0
    size = max(1, min(job.count, compute.memory_on(compute.device) // job.bytes_each))
    while first < job.count:
        last = min(first + size, job.count)
        try:
            done.append(job.work(slice(first, last), compute.device))
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
        else:
            first = last
            compute.tick(first / job.count)
            continue
        # Outside of the handler: until it ends, its traceback holds the failed try's memory.
        release(compute.device)
        if last - first == 1:
            compute.warn(
                f"{compute.device} ran out of memory on a single matrix; "
                "the rest of the layer is done on the CPU"
            )
            return done + _in_threads(job, first)
        size = (last - first) // 2
    return done


def _guarded(work: Callable[[slice, torch.device], Result], run: slice) -> Result:
    """Do a piece on the CPU; running out of memory there is an error a person can read."""
    _go_on()
    try:
        return work(run, CPU)
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        raise NotCertified(
            "this machine has not enough memory for the layer",
            slug="memory",
            hint="give a smaller --max-memory",
        ) from error


def _is_helper() -> bool:
    return threading.current_thread().name.startswith("lipaudit")


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return the threads of this process (a forked child needs its own)."""
    del process
    return ThreadPoolExecutor(
        threads, thread_name_prefix="lipaudit", initializer=torch.set_num_threads, initargs=(1,)
    )


@cache
def _single(process: int, threads: int) -> ThreadPoolExecutor:
    """Return one thread that may use every core inside of one call."""
    del process
    return ThreadPoolExecutor(
        1, thread_name_prefix="lipaudit", initializer=torch.set_num_threads, initargs=(threads,)
    )
