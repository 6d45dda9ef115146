"""Layers measured in processes: the report of one process, whatever becomes of the workers."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lipaudit
from lipaudit.analysis import audit
from lipaudit.analysis.layerwise import Wish
from lipaudit.crews.base import AbstractPool, Answer, crew
from lipaudit.crews.hiring import hired
from lipaudit.crews.processes import Processes
from lipaudit.crews.task import Task, perform, tasks
from lipaudit.device import CPU, Compute
from lipaudit.errors import CrewError, UsageError
from lipaudit.operators.spectrum import Spectrum
from lipaudit.results import LayerResult, Report, Skipped
from tests.crews.networks import written


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("crew"))


class Here(AbstractPool):
    """A pool that does the tasks in this process, after something has happened."""

    def __init__(self, happens: Callable[[], object] = lambda: None) -> None:
        self._happens = happens

    def answers(self, work: Sequence[Task]) -> Iterator[Answer]:
        self._happens()
        yield from ((index, perform(task)) for index, task in reversed(list(enumerate(work))))

    def close(self) -> None:
        pass


class Deadly:
    """A task that kills whoever unpacks it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (9,)


def numbers(report: Report) -> list[tuple[Any, ...]]:
    (model,) = report.models
    layers = [(layer.name, layer.norm, layer.spectrum, layer.log_share) for layer in model.layers]
    return [*layers, *((skipped.name, skipped.slug) for skipped in model.skipped)]


def measured(path: Path, pool: AbstractPool) -> Any:
    model = lipaudit.load(path)
    return audit.inspect(model, Compute(CPU), crew=crew(pool, model, None))


def test_two_processes_report_what_one_does(checkpoint: Path) -> None:
    told: list[LayerResult | Skipped] = []
    spectra: dict[str, int] = {}

    def keep(name: str, spectrum: Spectrum) -> None:
        spectra[name] = spectrum.values.size

    alone = lipaudit.inspect(checkpoint)
    with lipaudit.hired(workers=2) as helpers:
        found = lipaudit.inspect(
            checkpoint,
            crew=helpers,
            told=told.append,
            keep=keep,
        )
        bounded = lipaudit.bound(checkpoint, crew=helpers)
    assert numbers(found) == numbers(alone)
    assert numbers(bounded) == numbers(lipaudit.bound(checkpoint))
    names = [layer.name for layer in alone.models[0].layers]
    assert [layer.name for layer in told if isinstance(layer, LayerResult)] == names
    assert set(spectra) == {layer.name for layer in alone.models[0].layers if layer.spectrum}
    assert not multiprocessing.active_children()


def test_killed_workers_lose_nothing(checkpoint: Path) -> None:
    killed: list[int] = []

    def kill(_layer: object) -> None:
        if not killed:
            for process in multiprocessing.active_children():
                if process.pid is not None:
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)

    with lipaudit.hired(workers=2) as helpers:
        found = lipaudit.inspect(checkpoint, crew=helpers, told=kill)
    assert killed
    assert numbers(found) == numbers(lipaudit.inspect(checkpoint))


def test_the_layer_that_kills_is_found_and_the_others_measured(checkpoint: Path) -> None:
    model = lipaudit.load(checkpoint)
    places = [node.outputs[0] for node in model.graph.nodes]
    work: list[Any] = tasks(model, places[:2], Wish(), Compute(CPU), None, folded=False)
    pool = Processes(2)
    work.insert(1, Deadly())
    answers = dict(pool.answers(work))
    pool.close()
    assert [answers[index].slug for index in range(3)] == ["", "worker-lost", ""]


def test_a_lost_layer_stays_in_the_report_as_skipped(checkpoint: Path) -> None:
    class Losing(Here):
        def answers(self, work: Sequence[Task]) -> Iterator[Answer]:
            for index, outcome in super().answers(work):
                lost = replace(outcome, found=None, slug="worker-lost", cause="gone")
                yield index, lost if index == 2 else outcome

    report = measured(checkpoint, Losing())
    # By the layer's own name, or a limit for it would not find it, and pass.
    (lost,) = (skipped for skipped in report.skipped if skipped.slug == "worker-lost")
    whole = lipaudit.inspect(checkpoint).models[0].layers
    assert {lost.name} == {layer.name for layer in whole} - {layer.name for layer in report.layers}
    assert len(report.layers) == len(lipaudit.inspect(checkpoint).models[0].layers) - 1


def test_other_software_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Here(lambda: monkeypatch.setattr("lipaudit.crews.task.__version__", "0.0.0"))
    with pytest.raises(CrewError, match=r"has lipaudit 0\.0\.0, .*; the driver has"):
        measured(checkpoint, pool)


def test_a_copy_with_the_same_bytes_will_do(checkpoint: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(checkpoint, tmp_path / "net.pt"))
    report = measured(path, Here(lambda: os.utime(path, (1, 1))))
    assert len(report.layers) == len(lipaudit.inspect(checkpoint).models[0].layers)


def test_another_file_on_the_worker_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(checkpoint, tmp_path / "net.pt"))
    model = lipaudit.load(path)
    digest = model.digest
    assert digest is not None
    known = digest()

    def other() -> None:
        weights = torch.load(path, weights_only=True)
        torch.save({key: 2 * value for key, value in weights.items()}, path)

    with pytest.raises(CrewError, match="another file"):
        audit.inspect(
            replace(model, digest=lambda: known),
            Compute(CPU),
            crew=crew(Here(other), model, None),
        )


def test_a_worker_without_the_file_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(checkpoint, tmp_path / "net.pt"))
    with pytest.raises(CrewError, match="no such file"):
        measured(path, Here(path.unlink))


def test_a_damaged_file_ends_the_run_as_it_does_alone(checkpoint: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(checkpoint, tmp_path / "net.pt"))
    status = path.stat()

    def damage() -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    with pytest.raises(CrewError):
        measured(path, Here(damage))


def test_a_graph_from_code_is_not_sent_away(checkpoint: Path) -> None:
    model = replace(lipaudit.load(checkpoint), factory="pkg.mod:net")
    with hired(2, None, "cpu") as helpers:
        assert helpers.crew(model, None) is None
        assert helpers.crew(lipaudit.load(torch.nn.Linear(2, 2)), None) is None


def test_each_gpu_gets_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, tuple[str, ...]]] = []

    class Noted(Here):
        def __init__(self, count: int, devices: Sequence[str] = ()) -> None:
            super().__init__()
            seen.append((count, tuple(devices)))

    names = ["cuda:0", "cuda:1", "cuda:2"]
    monkeypatch.setattr("lipaudit.crews.hiring.Processes", Noted)
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(names))
    for workers, device in ((None, "auto"), (0, "cuda"), (5, "auto"), (2, "cpu")):
        with hired(workers, None, device):
            pass
    assert seen == [(3, tuple(names)), (3, tuple(names)), (5, tuple(names)), (2, ())]
    with pytest.raises(UsageError, match="-1 workers"), hired(-1, None, "cpu"):
        pass
