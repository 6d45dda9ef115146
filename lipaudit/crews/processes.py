"""Processes of this machine: each measures one layer at a time with one BLAS thread, or on a GPU.

They are started anew, not forked: neither threads nor GPUs survive a fork. One that dies (the
system kills the largest when memory runs out) takes the pool with it; what was not done is then
given to a new pool, and at last each layer to a process of its own, so that the one layer at
fault is found.
"""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.queues import SimpleQueue
from typing import final

import torch

from lipaudit.crews.base import LOST, AbstractPool, Answer
from lipaudit.crews.task import Outcome, Task, perform

_TRIES = 2
"""Whole pools, before each layer that is left gets a process of its own."""

_PATIENCE = 5.0
"""Seconds in which the system ends a process that was killed."""

_mine: list[str] = []
"""The device of this process, in a worker."""


@final
class Processes(AbstractPool):
    """So many processes; with several GPUs, each has its own."""

    def __init__(self, count: int, devices: Sequence[str] = ()) -> None:
        self._count = max(count, 1)
        self._devices = tuple(devices)
        self._pool: ProcessPoolExecutor | None = None

    def answers(self, work: Sequence[Task]) -> Iterator[Answer]:
        """Yield the index of each task with its outcome, in the order they get done."""
        left = set(range(len(work)))
        for _ in range(_TRIES):
            for index, outcome in self._tried(work, sorted(left), self._count):
                left.discard(index)
                yield index, outcome
            if not left:
                return
        for index in sorted(left):
            found = dict(self._tried(work, [index], 1))
            yield index, found.get(index, LOST)

    def close(self) -> None:
        """Kill the processes."""
        if self._pool is None:
            return
        # Its own and no others: from Python 3.14 on there is `kill_workers` for that.
        workers = list((getattr(self._pool, "_processes", None) or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in workers:
            process.kill()
        for process in workers:
            process.join(_PATIENCE)
        self._pool = None

    def _tried(self, work: Sequence[Task], indices: Sequence[int], count: int) -> Iterator[Answer]:
        """Yield what gets done before a process dies, if one does."""
        pool = self._started(min(count, len(indices)))
        try:
            pending: dict[Future[Outcome], int] = {
                pool.submit(_perform, work[index]): index for index in indices
            }
            while pending:
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    index = pending.pop(future)
                    yield index, future.result()
        except BrokenProcessPool:
            self.close()

    def _started(self, count: int) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            devices = context.SimpleQueue()
            for number in range(count):
                devices.put(self._devices[number % len(self._devices)] if self._devices else "")
            self._pool = ProcessPoolExecutor(
                count, mp_context=context, initializer=_begin, initargs=(devices,)
            )
        return self._pool


def _begin(devices: "SimpleQueue[str]") -> None:
    """Make a worker of this process: the parent alone answers Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    device = devices.get()
    if device:
        _mine.append(device)


def _perform(task: Task) -> Outcome:
    """Measure a layer, on the device of this process if it has one of its own."""
    if _mine and not task.compute.on_cpu:
        task = replace(task, compute=replace(task.compute, device=torch.device(_mine[0])))
    return perform(task)
