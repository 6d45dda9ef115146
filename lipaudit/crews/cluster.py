"""A cluster: Dask's scheduler sends each layer to a worker, and again when the worker is lost.

The scheduler and the workers are trusted like this machine: Dask speaks pickle.
"""

import concurrent.futures
import contextlib
import importlib
import logging
import re
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, final
from uuid import uuid4

from lipaudit.crews.base import LOST, AbstractPool, Answer
from lipaudit.crews.processes import GUARD
from lipaudit.crews.task import Outcome, Task, perform
from lipaudit.errors import NoCrew, UsageError

Result = TypeVar("Result")

LOCAL = "local"
_ADDRESS = re.compile(r"(tcp|tls|ucx|ws|wss)://(?P<host>\[[^\]]+\]|[^:/\s]+):(?P<port>\d{1,5})/?")
_ADDRESS_HINT = "give tcp://HOST:PORT of a running scheduler, or local"
WAIT = 30.0
"""Seconds to wait for a worker, where nothing else is asked for."""
_PATIENCE = 15.0
"""Seconds to wait for the scheduler."""
_LOOK = 1.0
"""Seconds without an answer, after which to see whether there is anybody to give one."""
_GLANCE = 0.2
"""Seconds between two looks at whether a worker has come."""


@final
class Cluster(AbstractPool):
    """The workers of a Dask scheduler, which may be one on this machine made for the purpose."""

    def __init__(self, address: str, count: int, wait: float = WAIT) -> None:
        """Join the scheduler at an address, or make one with so many workers.

        `wait` is how many seconds there may be no worker, at the start or later.
        """
        try:
            distributed: Any = importlib.import_module("distributed")
        except ImportError:
            raise UsageError(
                "--scheduler needs Dask", slug="dask", hint="pip install 'lipaudit[dask]'"
            ) from None
        _silence()
        self._local: Any = None
        if address != LOCAL:
            _reach(address)
        else:
            self._local = _made(distributed, count)
        self._count = count
        self._wait = wait
        self._address = address
        self._distributed = distributed
        self._client = self._connected(self._local or address)

    def workers(self) -> int:
        """Return how many tasks the workers that have come by now do at once."""
        self._check_workers()
        return sum(self._threads())

    def answers(self, work: Sequence[Task]) -> Iterator[Answer]:
        """Yield the index of each task with its outcome, in the order they get done."""
        self._check_workers()
        killed: list[int] = []
        for index, outcome in self._tried(work, range(len(work))):
            if outcome is LOST:
                killed.append(index)
            else:
                yield index, outcome
        # Dask blames every task that a dead worker had been sent, begun or not.
        for index in sorted(killed):
            yield from self._tried(work, [index])

    def close(self) -> None:
        """Leave the cluster; end one that was made here."""
        with contextlib.suppress(TimeoutError):
            _in_time(lambda: self._client.close(timeout=2), _PATIENCE)
        if self._local is not None:
            self._local.close(timeout=5)

    def _tried(self, work: Sequence[Task], indices: Sequence[int]) -> Iterator[Answer]:
        """Yield what becomes of tasks when they are given to the scheduler together."""
        run = uuid4().hex
        sharers = self._sharers()
        done: SimpleQueue[Any] = SimpleQueue()
        pending: dict[Any, int] = {}
        try:
            for index in indices:
                key = f"lipaudit-{run}-{index}"
                future = self._client.submit(perform, work[index], sharers=sharers, key=key)
                pending[future] = index
                future.add_done_callback(done.put)
            while pending:
                future = self._next(done)
                yield pending.pop(future), self._outcome(future)
        finally:
            if pending:
                self._asked(lambda: self._client.cancel(list(pending)))

    def _next(self, done: "SimpleQueue[Any]") -> Any:
        """Return the next task that is done; raise when nobody is left to do one."""
        deserted: float | None = None
        while True:
            try:
                return done.get(timeout=_LOOK)
            except Empty:
                now = time.monotonic()
                deserted = None if self._threads() else now if deserted is None else deserted
                if deserted is not None and now - deserted >= self._wait:
                    raise self._without_workers() from None

    def _sharers(self) -> int:
        """Return how many tasks may share one GPU: a worker's, where each has its own GPU."""
        return self._count if self._local is not None else max(self._threads(), default=1)

    def _threads(self) -> list[int]:
        """Return how many tasks each worker does at once."""
        found: list[int] = list(self._asked(self._client.nthreads).values())
        return found

    def _asked(self, call: Callable[[], Result]) -> Result:
        """Return what the scheduler answers; one that does not, in time, is lost."""
        try:
            return _in_time(call, _PATIENCE)
        except (OSError, TimeoutError, concurrent.futures.CancelledError):
            raise self._without_scheduler() from None

    def _outcome(self, future: Any) -> Outcome:
        if future.status == "finished":
            outcome: Outcome = future.result()
            return outcome
        if future.status in {"cancelled", "lost"}:
            raise self._without_scheduler()
        problem = future.exception()
        if isinstance(problem, self._distributed.KilledWorker):
            return LOST
        raise NoCrew(
            f"{self._address} failed: {type(problem).__name__}: {_first_line(problem)}",
            slug="worker-failed",
            hint="install lipaudit on the scheduler and on every worker, with the versions of this "
            "machine",
        )

    def _connected(self, target: Any) -> Any:
        try:
            return _in_time(
                lambda: self._distributed.Client(target, timeout=_PATIENCE, set_as_default=False),
                _PATIENCE,
            )
        except (OSError, TimeoutError, ValueError, TypeError) as error:
            raise UsageError(
                f"no Dask scheduler answers at {self._address}: {_first_line(error)}",
                slug="scheduler",
                hint=_ADDRESS_HINT,
            ) from error

    def _check_workers(self) -> None:
        started = time.monotonic()
        while not self._threads():
            if time.monotonic() - started >= self._wait:
                raise self._without_workers()
            time.sleep(_GLANCE)

    def _without_workers(self) -> NoCrew:
        return NoCrew(
            f"the scheduler {self._address} has no worker for {self._wait:g} s",
            slug="no-workers",
            hint="start some with `dask worker`, or --wait longer for those that are queued",
        )

    def _without_scheduler(self) -> NoCrew:
        return NoCrew(
            f"lost the scheduler {self._address}",
            slug="scheduler-lost",
            hint="run again; nothing was reported",
        )


def _made(distributed: Any, count: int) -> Any:
    """Start a scheduler and its workers on this machine."""
    try:
        # Any free port, for nobody else: the usual one may be another Dask's, which would be said.
        return distributed.LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        )
    except RuntimeError as error:
        raise NoCrew("workers cannot be started", slug="workers-start", hint=GUARD) from error


def _reach(address: str) -> None:
    """Refuse an address at which nobody listens: Dask would take its time to find out."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise UsageError(
            f"{address!r} is no address of a scheduler", slug="scheduler", hint=_ADDRESS_HINT
        )
    try:
        socket.create_connection((found["host"].strip("[]"), int(found["port"])), _PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {address}: {_first_line(error)}",
            slug="scheduler",
            hint=_ADDRESS_HINT,
        ) from error


def _in_time(call: Callable[[], Result], seconds: float) -> Result:
    """Return what a call returns; raise `TimeoutError` where that takes longer.

    Not every call of Dask's can be given a time, and where a scheduler is frozen, or something
    else listens at its address, some wait for ever.
    """
    done: SimpleQueue[tuple[Result | None, BaseException | None]] = SimpleQueue()

    def work() -> None:
        try:
            done.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            done.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = done.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no answer for {seconds:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # None only where the call returns it


def _silence() -> None:
    """Keep Dask's own messages back: what happens is said in one line of ours.

    Its loggers have handlers of their own each.
    """
    warnings.filterwarnings("ignore", module="distributed")
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def installed() -> str:
    """Return the version of Dask's scheduler that is installed, "" for none."""
    try:
        return metadata.version("distributed")
    except metadata.PackageNotFoundError:
        return ""


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
