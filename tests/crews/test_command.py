"""The command with helpers that cannot help: exit 2, one line, no report."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import lipaudit
from lipaudit.crews import base, task
from tests.cli.gated import Done, run
from tests.crews.schedulers import joined, started

pytest.importorskip("distributed", reason="Dask is the extra [dask]")
COMMANDS = ("inspect", "bound", "check")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    first = tmp_path_factory.mktemp("command") / "net.pt"
    torch.save({"0.weight": torch.randn(4, 5), "2.weight": torch.randn(3, 4)}, first)
    return [first, Path(shutil.copy(first, first.with_name("other.pt")))]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started(tmp_path_factory.mktemp("scheduler")) as (address, _):
        yield address


def refused(done: Done, says: str) -> None:
    assert done.code == 2
    assert done.out == ""
    (line,) = done.complaints.splitlines()
    assert line.startswith("lipaudit: error: ")
    assert says in line


@pytest.mark.parametrize("command", COMMANDS)
def test_a_scheduler_out_of_reach_ends_the_run_at_once(
    command: str, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lipaudit.api.load", None)  # no file is read for nothing
    limit = ["--max-norm", "9"] if command == "check" else []
    done = run(command, *files, *limit, "-f", "json", "--scheduler", "tcp://127.0.0.1:9")
    refused(done, "error: no Dask scheduler answers at tcp://127.0.0.1:9")


def test_a_scheduler_without_workers_ends_the_run(files: list[Path], address: str) -> None:
    done = run("inspect", *files, "-f", "json", "--scheduler", address, "--wait", "0.5")
    refused(done, f"error: the scheduler {address} has no worker for 0.5 s; start some")


def test_a_worker_with_another_source_ends_the_run(
    files: list[Path], address: str, tmp_path: Path
) -> None:
    source = Path(lipaudit.__file__).parent
    package = shutil.copytree(source, tmp_path / "lipaudit")
    with (package / "version.py").open("a") as file:
        file.write("# edited\n")
    with joined(address, folder=tmp_path):
        done = run("inspect", *files, "-f", "json", "--scheduler", address, "--wait", "60")
    refused(done, "; the driver has source ")


def test_a_worker_without_the_file(
    files: list[Path], address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(files[0], tmp_path / "net.pt"))

    def gone(*given: Any, **named: Any) -> list[task.Task]:
        work = task.tasks(*given, **named)
        path.unlink()  # the driver has it open, and a worker comes too late
        return work

    monkeypatch.setattr(base, "tasks", gone)
    with joined(address):
        done = run("inspect", path, "-f", "json", "--scheduler", address, "--wait", "60")
    refused(done, f"{path}: no such file (on worker ")


def test_processes_report_what_none_do(files: list[Path]) -> None:
    alone, shared = (
        run("inspect", *files, "--no-spectra", "-f", "csv", *workers)
        for workers in ([], ["--workers", "2"])
    )
    assert (shared.code, shared.out, shared.complaints) == (alone.code, alone.out, alone.complaints)
