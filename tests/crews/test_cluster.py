"""Layers measured by the workers of a Dask scheduler; real schedulers, workers and losses."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import lipaudit
from lipaudit.errors import CrewError, UsageError
from tests.crews.networks import written
from tests.crews.test_processes import numbers

distributed: Any = pytest.importorskip("distributed", reason="Dask is the extra [dask]")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("cluster"))


@pytest.fixture
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as running:
        yield running


def test_the_report_is_that_of_one_process_though_a_worker_is_killed(
    checkpoint: Path, cluster: Any
) -> None:
    killed: list[int] = []

    def kill(_layer: object) -> None:
        if not killed:
            with distributed.Client(cluster, set_as_default=False) as client:
                pids = client.run(os.getpid).values()
            killed.append(next(iter(pids)))
            os.kill(killed[0], signal.SIGKILL)

    with lipaudit.hired(scheduler=cluster.scheduler_address) as helpers:
        found = lipaudit.inspect(checkpoint, crew=helpers, told=kill)
    assert killed
    assert numbers(found) == numbers(lipaudit.inspect(checkpoint))


def silently(command: list[str]) -> "subprocess.Popen[bytes]":
    # Dask's page of statistics listens on every address, which the tests' own guard refuses.
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = os.pathsep.join(path for path in paths if Path(path).name != "offline")
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": kept},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Start a scheduler in a process of its own, without workers."""
    place = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard"]
    options = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(place)]
    process = silently([*command, *options])
    until = time.monotonic() + 60
    while not place.exists() and time.monotonic() < until:
        time.sleep(0.1)
    yield json.loads(place.read_text())["address"], process
    process.kill()
    process.wait()


def test_a_scheduler_without_workers(
    checkpoint: Path,
    scheduler: tuple[str, "subprocess.Popen[bytes]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lipaudit.crews.cluster._PATIENCE", 3.0)
    with (
        lipaudit.hired(scheduler=scheduler[0]) as helpers,
        pytest.raises(CrewError, match="has no worker"),
    ):
        lipaudit.inspect(checkpoint, crew=helpers)


def test_a_scheduler_that_is_lost_leaves_no_report(
    tmp_path: Path, scheduler: tuple[str, "subprocess.Popen[bytes]"]
) -> None:
    # So much work that most of it is left when the first layer is done.
    slow = tmp_path / "slow.pt"
    torch.save({f"fc{number}.weight": torch.randn(900, 901) for number in range(8)}, slow)
    address, process = scheduler
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"]
    with silently([*command, "--no-dashboard"]) as worker:
        with (
            lipaudit.hired(scheduler=address) as helpers,
            pytest.raises(CrewError, match="lost the scheduler"),
        ):
            lipaudit.inspect(slow, crew=helpers, told=lambda _: process.kill())
        worker.kill()


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
