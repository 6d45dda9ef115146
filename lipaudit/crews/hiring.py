"""Hiring: who measures the layers, from what the user asks for."""

from collections.abc import Iterator
from contextlib import contextmanager

from lipaudit.analysis.audit import Crew
from lipaudit.analysis.shapes import InputShape
from lipaudit.crews import room
from lipaudit.crews.base import AbstractPool, crew
from lipaudit.crews.cluster import LOCAL, WAIT, Cluster
from lipaudit.crews.processes import Processes
from lipaudit.device import DEFAULT_MEMORY, Warn, gpus, ignore
from lipaudit.errors import UsageError
from lipaudit.graph.model import Model, Origin


class Hired:
    """Workers for as long as a command runs, or nobody."""

    def __init__(
        self, pool: AbstractPool | None, *, on_this_machine: int = 1, is_asked_for: bool = False
    ) -> None:
        """Hire a pool, of which so many workers share this machine's memory."""
        self._pool = pool
        self._on_this_machine = on_this_machine
        self._is_asked_for = is_asked_for

    def crew(
        self,
        model: Model,
        input_shape: InputShape,
        *,
        max_memory: int | None = None,
        warn: Warn = ignore,
    ) -> Crew | None:
        """Return who measures this model's layers; None: the process that asks.

        `max_memory` is what the user says that one layer may take.
        """
        if self._pool is None:
            return None
        reason = _kept_here(model)
        if reason:
            if self._is_asked_for:
                warn(
                    f"{model.path}: {reason}, so that its layers are measured here, not shared out"
                )
            return None
        share = _share(self._on_this_machine) if max_memory is None else None
        return crew(self._pool, model, input_shape, room=share)


@contextmanager
def hired(
    workers: int | None, scheduler: str | None, device: str, wait: float | None = None
) -> Iterator[Hired]:
    """Hire so many processes here, or what a scheduler has; let them go afterwards."""
    if wait is not None and scheduler is None:
        raise UsageError("--wait is for --scheduler alone", slug="workers", hint="leave it out")
    pool = _pool(workers, scheduler, device, WAIT if wait is None else wait)
    here = pool is not None and scheduler in {None, LOCAL}
    try:
        yield Hired(
            pool,
            on_this_machine=_count(workers, scheduler, device) if here else 1,
            is_asked_for=workers is not None or scheduler is not None,
        )
    finally:
        if pool is not None:
            pool.close()


def _kept_here(model: Model) -> str:
    """Say why no other process can open a model; "" where it can."""
    if not model.files:
        return "it is in no file"
    if model.origin is Origin.FACTORY:
        return "its layer graph is made by your own code"
    return ""


def _share(sharers: int) -> int:
    """Return what one of several processes may take for a layer where nobody says how much.

    As much as one alone, while all of them leave half of this machine's memory to others.
    """
    there = room.memory()
    whole = DEFAULT_MEMORY if there is None else max(there // 2, DEFAULT_MEMORY)
    return min(whole // sharers, DEFAULT_MEMORY)


def _pool(
    workers: int | None, scheduler: str | None, device: str, wait: float
) -> AbstractPool | None:
    if workers is not None and workers < 0:
        raise UsageError(f"{workers} workers", slug="workers", hint="give 0 for one for each core")
    count = _count(workers, scheduler, device)
    if scheduler is not None:
        return Cluster(scheduler, count, wait)
    # One GPU, or none: the process that asks does the work, and shares each layer out.
    if workers is None and count < 2:
        return None
    return Processes(count, gpus(device))


def _count(workers: int | None, scheduler: str | None, device: str) -> int:
    """Return how many processes of this machine there are to be."""
    if scheduler is not None:
        return workers or room.cores()
    devices = len(gpus(device))
    return devices if workers is None else workers or devices or room.cores()
