"""Layers measured in processes: the report of one process, whatever becomes of the workers."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import lipaudit
from lipaudit import device as devices
from lipaudit.analysis import audit, layerwise
from lipaudit.analysis.layerwise import Wish
from lipaudit.cache import keys
from lipaudit.crews.base import AbstractPool, Answer, crew
from lipaudit.crews.hiring import hired
from lipaudit.crews.processes import Processes
from lipaudit.crews.task import Task, perform, tasks, versions
from lipaudit.device import CPU, Compute, choose
from lipaudit.errors import CrewError, UsageError
from lipaudit.graph.model import Origin
from lipaudit.operators.spectrum import Spectrum
from lipaudit.results import LayerResult, Report, Skipped
from tests import offline
from tests.crews.networks import Deadly, written


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("crew"))


class Here(AbstractPool):
    """A pool that does the tasks in this process, after something has happened."""

    def __init__(self, happens: Callable[[], object] = lambda: None) -> None:
        self._happens = happens

    def workers(self) -> int:
        return 1

    def answers(self, work: Sequence[Task]) -> Iterator[Answer]:
        self._happens()
        yield from ((index, perform(task)) for index, task in reversed(list(enumerate(work))))

    def close(self) -> None:
        pass


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


def test_a_pool_is_not_as_small_as_its_first_job(checkpoint: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.pt"
    torch.save({"fc.weight": torch.randn(4, 5)}, small)
    counts: list[int] = []

    def count(_layer: object) -> None:
        counts.append(len(multiprocessing.active_children()))

    with lipaudit.hired(workers=2) as helpers:
        for path in (small, checkpoint):
            lipaudit.inspect(path, crew=helpers, told=count)
    assert counts[0] == 1  # started on demand
    assert counts[-1] == 2


def test_a_script_without_a_guard_is_told_so(checkpoint: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import lipaudit\n"
        "with lipaudit.hired(workers=2) as crew:\n"
        f"    lipaudit.inspect({str(checkpoint)!r}, crew=crew)\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": offline.PATH},
        check=False,
        timeout=120,
    )
    last = done.stderr.splitlines()[-1]
    assert "NoCrew: processes cannot be started; " in last
    assert '`if __name__ == "__main__":`' in last
    assert done.stdout == ""


def test_other_software_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = versions()
    theirs = tuple("numpy 0.0" if item.startswith("numpy") else item for item in ours)
    pool = Here(lambda: monkeypatch.setattr("lipaudit.crews.task.versions", lambda: theirs))
    with pytest.raises(CrewError, match=r"has numpy 0\.0; the driver has numpy [^,]*;") as raised:
        measured(checkpoint, pool)
    assert raised.value.ends_run


def test_another_source_is_other_software(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = versions()
    monkeypatch.setattr("lipaudit.cache.keys.program", lambda _: "0" * 64)
    # For other processors a version is built anew, and is the same version.
    monkeypatch.setattr(
        "lipaudit.cache.keys._version", lambda name: f"{metadata.version(name)}+xpu"
    )
    keys.setting.cache_clear()
    try:
        theirs = versions()
    finally:
        keys.setting.cache_clear()
    (differing,) = set(ours) - set(theirs)
    assert differing.startswith("source ")


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


def test_a_copy_that_is_written_to_meanwhile_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(checkpoint, tmp_path / "net.pt"))
    measure_place = layerwise.measure_place

    def write(*given: Any) -> Any:
        found = measure_place(*given)
        with path.open("r+b") as file:
            file.write(file.read(1))
        os.utime(path, ns=(1, 1))
        return found

    monkeypatch.setattr("lipaudit.analysis.layerwise.measure_place", write)
    with pytest.raises(CrewError, match="changed while it was read"):
        measured(path, Here())


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.randn(4, 5)}, tmp_path / "shard.bin")
    index = {"weight_map": {"fc.weight": "shard.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    better = {"fc.weight": torch.randn(4, 5)}  # what a folder is read from where there is one
    pool = Here(lambda: save_file(better, tmp_path / "model.safetensors"))
    with pytest.raises(CrewError, match="other files than the driver's") as raised:
        measured(tmp_path, pool)
    assert raised.value.slug == "worker-copy"


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
    model = replace(lipaudit.load(checkpoint), origin=Origin.FACTORY)
    with hired(2, None, "cpu") as helpers:
        assert helpers.crew(model, None) is None
        assert helpers.crew(lipaudit.load(torch.nn.Linear(2, 2)), None) is None


def test_a_worker_chooses_by_what_it_has(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free, half = 80 << 30, 32 << 30  # the power of two below
    model = lipaudit.load(checkpoint)
    place = model.graph.nodes[0].outputs[0]
    taken: list[Compute] = []

    def note(*given: Any) -> None:
        taken.append(given[2])

    def sent(name: str, max_memory: int | None, own: str, sharers: int) -> Compute:
        monkeypatch.setattr("torch.cuda.is_available", lambda: name == "cuda")
        monkeypatch.setattr("torch.cuda.device_count", lambda: int(name == "cuda"))
        compute = choose(name, max_memory=max_memory)
        (task,) = tasks(model, [place], Wish(), compute, None, folded=False)
        # The worker has two GPUs, whatever the driver has.
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
        assert perform(task, own, sharers).slug == ""
        return taken[-1]

    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (free, free))
    monkeypatch.setattr("lipaudit.analysis.layerwise.measure_place", note)
    devices._here.cache_clear()
    for name, max_memory, own, sharers, device, memory in (
        ("auto", None, "", 1, "cuda", half),
        ("auto", None, "cuda:1", 4, "cuda:1", half // 4),
        ("cuda", None, "", 5, "cuda", half // 5),
        ("auto", 1 << 30, "cuda:1", 4, "cuda:1", 1 << 30),
        ("cpu", None, "cuda:1", 4, "cpu", None),
    ):
        found = sent(name, max_memory, own, sharers)
        assert (str(found.device), found.device_memory) == (device, memory)
        assert found.max_memory == max_memory or max_memory is None
    devices._here.cache_clear()


def test_a_gpu_that_a_worker_lacks_ends_the_run(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (1 << 33, 1 << 33))
    compute = choose("cuda")
    pool = Here(lambda: monkeypatch.setattr("torch.cuda.device_count", lambda: 0))
    devices._here.cache_clear()
    model = lipaudit.load(checkpoint)
    with pytest.raises(CrewError, match=r"device 'cuda' is not there \(on worker") as raised:
        audit.inspect(model, compute, crew=crew(pool, model, None))
    assert raised.value.ends_run


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


def test_nobody_survives_a_command_that_is_killed(checkpoint: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import lipaudit, os, signal\n"
        "from concurrent.futures.process import ProcessPoolExecutor\n"
        'if __name__ == "__main__":\n'
        "    with lipaudit.hired(workers=2) as crew:\n"
        f"        lipaudit.inspect({str(checkpoint)!r}, crew=crew)\n"
        "        workers = crew._pool._pool._processes\n"
        "        print(*workers, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": offline.PATH},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    workers = [int(word) for word in done.stdout.split()]
    assert workers
    give_up = time.monotonic() + 30
    while any(map(is_running, workers)):
        assert time.monotonic() < give_up, "a worker outlives the command"
        time.sleep(0.1)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
        stated = Path(f"/proc/{process}/stat").read_text(encoding="ascii")
    except (ProcessLookupError, FileNotFoundError):
        return False
    return stated.rsplit(")", 1)[1].split()[0] != "Z"
