"""Hiring: who measures the layers, from what the user asks for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lipaudit.analysis.audit import Crew
from lipaudit.analysis.shapes import InputShape
from lipaudit.crews.base import AbstractPool, crew
from lipaudit.crews.cluster import Cluster
from lipaudit.crews.processes import Processes
from lipaudit.device import gpus
from lipaudit.errors import UsageError
from lipaudit.graph.model import Model


class Hired:
    """Workers for as long as a command runs, or nobody."""

    def __init__(self, pool: AbstractPool | None) -> None:
        self._pool = pool

    def crew(self, model: Model, input_shape: InputShape) -> Crew | None:
        """Return who measures this model's layers; None: the process that asks."""
        # A graph that is in no file is in no worker's file.
        if self._pool is None or not model.files or model.factory:
            return None
        return crew(self._pool, model, input_shape)


@contextmanager
def hired(workers: int | None, scheduler: str | None, device: str) -> Iterator[Hired]:
    """Hire so many processes here, or what a scheduler has; let them go afterwards."""
    pool = _pool(workers, scheduler, device)
    try:
        yield Hired(pool)
    finally:
        if pool is not None:
            pool.close()


def _pool(workers: int | None, scheduler: str | None, device: str) -> AbstractPool | None:
    if workers is not None and workers < 0:
        raise UsageError(f"{workers} workers", slug="workers", hint="give 0 for one for each core")
    if scheduler is not None:
        return Cluster(scheduler, workers or _cores())
    devices = gpus(device)
    if workers is None:
        # One GPU, or none: the process that asks does the work, and shares each layer out.
        return Processes(len(devices), devices) if len(devices) > 1 else None
    return Processes(workers or len(devices) or _cores(), devices)


def _cores() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(min(allowed or 1, torch.get_num_threads()), 1)
