"""Processes of this machine: each measures one layer at a time with one BLAS thread, or on a GPU.

They are started anew, not forked: neither threads nor GPUs survive a fork. One that dies (the
system kills the largest when memory runs out) takes the pool with it; what was not done is then
given to a new pool, and at last one layer after the other, so that the one at fault is found.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import SimpleQueue
from typing import final

import torch

from lipaudit.crews.base import LOST, AbstractPool, Answer
from lipaudit.crews.task import Outcome, Task, perform
from lipaudit.device import keep_memory
from lipaudit.errors import NoCrew

GUARD = 'a script that hires must do so under `if __name__ == "__main__":`, in a file'
"""What to look at where no process starts: each imports the main module anew."""

_TRIES = 2
"""Whole pools, before the layers that are left are measured one after the other."""

_PATIENCE = 5.0
"""Seconds in which the system ends a process that was killed."""
_LOOK = 1.0
"""Seconds between two looks at whether the process that started this one is there."""

_mine: list[tuple[str, int]] = []
"""The GPU of this process, in a worker, "" for none in particular, and how many share it."""


@final
class Processes(AbstractPool):
    """At most so many processes, started on demand; with several GPUs, each has its own."""

    def __init__(self, count: int, devices: Sequence[str] = ()) -> None:
        self._count = max(count, 1)
        self._devices = tuple(devices)
        self._pool: ProcessPoolExecutor | None = None
        self._starts = False
        """Whether a process is known to start."""

    def workers(self) -> int:
        """Return how many processes there may be."""
        return self._count

    def answers(self, work: Sequence[Task]) -> Iterator[Answer]:
        """Yield the index of each task with its outcome, in the order they get done."""
        left = set(range(len(work)))
        for _ in range(_TRIES):
            for index, outcome in self._tried(work, sorted(left)):
                left.discard(index)
                yield index, outcome
            if not left:
                return
        for index in sorted(left):
            found = dict(self._tried(work, [index]))
            yield index, found.get(index, LOST)

    def close(self) -> None:
        """Kill the processes."""
        if self._pool is None:
            return
        # Its own and no others: from Python 3.14 on there is `kill_workers` for that.
        workers = list((getattr(self._pool, "_processes", None) or {}).values())
        for process in workers:
            process.kill()
        for process in workers:
            process.join(_PATIENCE)
        # Nobody is left to wait for; its semaphores would be missed at the exit.
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None

    def _tried(self, work: Sequence[Task], indices: Sequence[int]) -> Iterator[Answer]:
        """Yield what gets done before a process dies, if one does."""
        pool = self._started()
        try:
            pending: dict[Future[Outcome], int] = {
                pool.submit(_perform, work[index]): index for index in indices
            }
            while pending:
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    index = pending.pop(future)
                    outcome = future.result()
                    self._starts = True
                    yield index, outcome
        except BrokenProcessPool:
            self.close()
            self._check_start()

    def _check_start(self) -> None:
        """Raise where it is no task that processes die of."""
        if self._starts:
            return
        try:
            self._started().submit(_nothing).result()
        except BrokenProcessPool:
            self.close()
            raise NoCrew("processes cannot be started", slug="workers-start", hint=GUARD) from None
        self._starts = True

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            devices = context.SimpleQueue()
            for number in range(self._count):
                devices.put(self._devices[number % len(self._devices)] if self._devices else "")
            sharers = -(-self._count // max(len(self._devices), 1))
            # What a GPU has no memory for is done beside it, by the cores that wait for it.
            threads = max(torch.get_num_threads() // self._count, 1) if self._devices else 1
            self._pool = ProcessPoolExecutor(
                self._count,
                mp_context=context,
                initializer=_begin,
                initargs=(devices, sharers, threads, os.getpid()),
            )
        return self._pool


def _begin(devices: "SimpleQueue[str]", sharers: int, threads: int, parent: int) -> None:
    """Make a worker of this process: the parent alone answers Ctrl-C, and nobody survives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    keep_memory()
    _mine.append((devices.get(), sharers))


def _follow(parent: int) -> None:
    """End this process when the one that started it is gone, however that ended."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os._exit(1)


def _perform(task: Task) -> Outcome:
    """Measure a layer, on the device of this process if it has one of its own."""
    own, sharers = _mine[0]
    return perform(task, own, sharers)


def _nothing() -> None:
    """Do nothing, which shows that there is somebody to do it."""
