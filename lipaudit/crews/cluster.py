"""A cluster: Dask's scheduler sends each layer to a worker, and again when the worker is lost.

The scheduler and the workers are trusted like this machine: Dask speaks pickle.
"""

import importlib
import logging
import re
import socket
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any, final
from uuid import uuid4

from lipaudit.crews.base import LOST, AbstractPool, Answer
from lipaudit.crews.task import Outcome, Task, perform
from lipaudit.errors import CrewError, UsageError

LOCAL = "local"
_ADDRESS = re.compile(r"(tcp|tls|ucx|ws|wss)://(?P<host>\[[^\]]+\]|[^:/\s]+):(?P<port>\d{1,5})/?")
_ADDRESS_HINT = "give tcp://HOST:PORT of a running scheduler, or local"
_PATIENCE = 15.0
"""Seconds to wait for the scheduler, and for its first worker."""
_RETRIES = 3
"""Times a layer is given to another worker after its own was lost."""


@final
class Cluster(AbstractPool):
    """The workers of a Dask scheduler, which may be one on this machine made for the purpose."""

    def __init__(self, address: str, count: int) -> None:
        try:
            distributed: Any = importlib.import_module("distributed")
        except ImportError:
            raise UsageError(
                "--scheduler needs Dask", slug="dask", hint="pip install 'lipaudit[dask]'"
            ) from None
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        self._local: Any = None
        if address != LOCAL:
            _reach(address)
        else:
            self._local = distributed.LocalCluster(
                n_workers=count, threads_per_worker=1, dashboard_address=None
            )
        self._address = address
        self._distributed = distributed
        self._client = self._connected(self._local or address)

    def answers(self, work: Sequence[Task]) -> Iterator[Answer]:
        """Yield the index of each task with its outcome, in the order they get done."""
        self._check_workers()
        run = uuid4().hex
        pending = {
            self._client.submit(
                perform, task, key=f"lipaudit-{run}-{index}", retries=_RETRIES
            ): index
            for index, task in enumerate(work)
        }
        try:
            finished = self._distributed.as_completed(
                list(pending), loop=self._client.loop, raise_errors=False
            )
            for future in finished:
                yield pending.pop(future), self._outcome(future)
        finally:
            self._client.cancel(list(pending))

    def close(self) -> None:
        """Leave the cluster; end one that was made here."""
        self._client.close(timeout=2)
        if self._local is not None:
            self._local.close(timeout=5)

    def _outcome(self, future: Any) -> Outcome:
        if future.status == "finished":
            outcome: Outcome = future.result()
            return outcome
        if future.status in {"cancelled", "lost"}:
            raise CrewError(
                f"lost the scheduler {self._address}",
                slug="scheduler-lost",
                hint="run again; nothing was reported",
            )
        problem = future.exception()
        if isinstance(problem, self._distributed.KilledWorker):
            return LOST
        raise CrewError(
            f"a worker of {self._address} failed: {type(problem).__name__}: {problem}",
            slug="worker-failed",
            hint="install lipaudit on every worker, with the versions of this machine",
        )

    def _connected(self, target: Any) -> Any:
        try:
            return self._distributed.Client(target, timeout=_PATIENCE, set_as_default=False)
        except (OSError, TimeoutError, ValueError, TypeError) as error:
            raise UsageError(
                f"no Dask scheduler answers at {self._address}: {_first_line(error)}",
                slug="scheduler",
                hint=_ADDRESS_HINT,
            ) from error

    def _check_workers(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError:
            raise CrewError(
                f"the scheduler {self._address} has no worker",
                slug="no-workers",
                hint="start some with `dask worker`",
            ) from None


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


def installed() -> str:
    """Return the version of Dask's scheduler that is installed, "" for none."""
    try:
        return metadata.version("distributed")
    except metadata.PackageNotFoundError:
        return ""


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
