"""Layers measured by the workers of a Dask scheduler; real schedulers, workers and losses."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import lipaudit
from lipaudit.analysis.layerwise import Wish
from lipaudit.crews import cluster
from lipaudit.crews.base import AbstractPool, Answer
from lipaudit.crews.cluster import Cluster
from lipaudit.crews.hiring import Hired
from lipaudit.crews.task import Task, tasks
from lipaudit.device import CPU, Compute
from lipaudit.errors import CrewError, NoCrew, UsageError
from tests.crews.networks import Deadly, Held, written
from tests.crews.schedulers import Process, joined, started
from tests.crews.test_processes import numbers

distributed: Any = pytest.importorskip("distributed", reason="Dask is the extra [dask]")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("cluster"))


class Holding(AbstractPool):
    """A pool in which one of the tasks is held, and its first worker killed as soon as it is."""

    def __init__(self, pool: AbstractPool, held: int, folder: Path) -> None:
        self._pool = pool
        self._held = held
        self._folder = folder

    def workers(self) -> int:
        return self._pool.workers()

    def answers(self, work: Sequence[Task]) -> Iterator[Answer]:
        given: list[Any] = list(work)
        given[self._held] = Held(given[self._held], self._folder)
        killer = threading.Thread(target=self._kill)
        killer.start()
        yield from self._pool.answers(given)
        killer.join()

    def close(self) -> None:
        self._pool.close()

    def _kill(self) -> None:
        while not any(self._folder.iterdir()):
            time.sleep(0.05)
        os.kill(int(next(self._folder.iterdir()).name), signal.SIGKILL)


def test_the_report_is_that_of_one_process_though_a_worker_is_killed(
    checkpoint: Path, tmp_path: Path
) -> None:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as running:
        pool = Holding(Cluster(running.scheduler_address, 2), 3, tmp_path)
        found = lipaudit.inspect(checkpoint, crew=Hired(pool))
        pool.close()
    assert numbers(found) == numbers(lipaudit.inspect(checkpoint))
    assert len(list(tmp_path.iterdir())) == 2  # the one that was killed, and another


def test_a_layer_that_kills_is_lost_and_those_queued_behind_it_are_not(checkpoint: Path) -> None:
    model = lipaudit.load(checkpoint)
    places = [node.outputs[0] for node in model.graph.nodes]
    work: list[Any] = tasks(model, places[:3], Wish(), Compute(CPU), None, folded=False)
    work.insert(0, Deadly())
    # By its first death a worker's tasks are all called bad: so it is after four, but sooner.
    dask: Any = pytest.importorskip("dask")
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=4, dashboard_address=None
        ) as running,
    ):
        pool = Cluster(running.scheduler_address, 1)
        answers = dict(pool.answers(work))
        pool.close()
    assert [answers[index].slug for index in range(4)] == ["worker-lost", "", "", ""]


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, Process]]:
    with started(tmp_path) as running:
        yield running


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """Write so much work that most of it is left when the first layer is done."""
    path = tmp_path / "slow.pt"
    torch.save({f"fc{number}.weight": torch.randn(900, 901) for number in range(8)}, path)
    return path


def test_a_scheduler_without_workers(slow: Path, scheduler: tuple[str, Process]) -> None:
    with (
        lipaudit.hired(scheduler=scheduler[0], wait=1.0) as helpers,
        pytest.raises(CrewError, match="has no worker for 1 s"),
    ):
        lipaudit.inspect(slow, crew=helpers)


def test_workers_that_all_go_leave_no_report(slow: Path, scheduler: tuple[str, Process]) -> None:
    with joined(scheduler[0]) as worker:
        with distributed.Client(scheduler[0], set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
        with (
            lipaudit.hired(scheduler=scheduler[0], wait=1.0) as helpers,
            pytest.raises(CrewError, match="has no worker") as raised,
        ):
            lipaudit.inspect(slow, crew=helpers, told=lambda _: worker.kill())
    assert raised.value.ends_run


def test_a_scheduler_that_is_lost_leaves_no_report(
    slow: Path, scheduler: tuple[str, Process]
) -> None:
    address, process = scheduler
    with (
        joined(address),
        lipaudit.hired(scheduler=address) as helpers,
        pytest.raises(CrewError, match="lost the scheduler"),
    ):
        lipaudit.inspect(slow, crew=helpers, told=lambda _: process.kill())


def test_a_worker_has_the_threads_that_both_variables_say(
    scheduler: tuple[str, Process],
) -> None:
    # As the recipes of docs/scale.md say: a nanny sets to 1 what is not set, and MKL's goes first.
    with (
        joined(scheduler[0], nanny=True, OMP_NUM_THREADS="2", MKL_NUM_THREADS="2"),
        distributed.Client(scheduler[0], set_as_default=False) as client,
    ):
        client.wait_for_workers(1, timeout=60)
        assert set(client.run(torch.get_num_threads).values()) == {2}


def test_workers_that_do_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_options: object) -> None:
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr(distributed, "LocalCluster", refuse)
    with (
        pytest.raises(CrewError, match="workers cannot be started; a script that hires"),
        lipaudit.hired(scheduler="local", workers=1),
    ):
        pass


def test_addresses_nobody_answers_at() -> None:
    for address in ("tcp://127.0.0.1:9", "nonsense", "tcp://127.0.0.1:99999", "http://x:1"):
        with (
            pytest.raises(UsageError, match=r"answers at|no address"),
            lipaudit.hired(scheduler=address),
        ):
            pass


def test_without_dask_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(UsageError, match=r"pip install 'lipaudit\[dask\]'"),
        lipaudit.hired(scheduler="local"),
    ):
        pass


def test_something_else_at_the_address_is_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_PATIENCE", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(UsageError, match="no Dask scheduler answers"):
            Cluster(address, 1)
        assert time.monotonic() - start < 30


def test_a_frozen_scheduler_is_a_lost_one(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    monkeypatch.setattr(cluster, "_PATIENCE", 3.0)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None
    ) as running:
        pool = Cluster(running.scheduler_address, 1)
        # As if every answer of its took for ever.
        monkeypatch.setattr(pool._client, "nthreads", lambda: time.sleep(60))
        with pytest.raises(NoCrew, match="lost the scheduler"):
            lipaudit.inspect(checkpoint, crew=Hired(pool))
        pool.close()
