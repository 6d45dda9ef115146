"""Workers and the cache: each keeps what it measures, and what cannot be kept is one line."""

import pickle
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import lipaudit
from lipaudit.analysis import layerwise
from lipaudit.analysis.layerwise import Wish
from lipaudit.cache.store import LAYERS, Store
from lipaudit.crews import task
from lipaudit.crews.hiring import Hired
from lipaudit.crews.task import Task, perform, tasks
from lipaudit.device import CPU, Compute
from tests.crews.test_processes import numbers


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write layers each of which takes so long that it is worth keeping."""
    path = tmp_path_factory.mktemp("cached") / "net.safetensors"
    generator = torch.Generator().manual_seed(0)
    weights = {f"fc{n}.weight": torch.randn(250 + n, 251, generator=generator) for n in range(6)}
    save_file(weights, path)
    return path


@pytest.fixture(scope="module")
def helpers() -> Iterator[Hired]:
    with lipaudit.hired(workers=2) as found:
        yield found


def work(path: Path, store: Store) -> list[Task]:
    model = lipaudit.load(path)
    places = [node.outputs[0] for node in model.graph.nodes]
    compute = Compute(CPU, cache=store)
    return tasks(model, places[:3], Wish(), compute, None, folded=False)


def entries(folder: Path) -> int:
    return sum(path.is_file() for path in (folder / LAYERS).rglob("*"))


def test_workers_keep_what_they_measure(
    checkpoint: Path, tmp_path: Path, helpers: Hired, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a function to be warned by that no process could be sent."""
    said: list[str] = []

    def warn(text: str) -> None:
        said.append(text)

    folder = tmp_path / "cache"
    first = lipaudit.inspect(checkpoint, crew=helpers, cache=folder, warn=warn)
    count = entries(folder)
    assert count > 2
    measured: list[Any] = []
    real = layerwise._numbers

    def counting(question, *rest):  # type: ignore[no-untyped-def]
        measured.append(question)
        return real(question, *rest)

    monkeypatch.setattr(layerwise, "_numbers", counting)
    assert lipaudit.inspect(checkpoint, cache=folder) == first
    assert len(measured) == len(first.layers) - count, "those that took no time"
    assert numbers(first) == numbers(lipaudit.inspect(checkpoint))
    assert not said


def test_a_cache_that_cannot_be_written_is_one_line(
    checkpoint: Path, tmp_path: Path, helpers: Hired
) -> None:
    (tmp_path / "file").write_bytes(b"")
    place = tmp_path / "file" / "cache"
    said: list[str] = []
    for count in (1, 2):  # each run says it, though the workers are the same
        found = lipaudit.inspect(checkpoint, crew=helpers, cache=place, warn=said.append)
        assert len(found.layers) == 6
        assert ["the cache cannot be written" in text for text in said] == [True] * count


def test_a_task_says_where_the_cache_is_and_holds_none(checkpoint: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", limit=123_456_789, warn=lambda _: None)
    sent = pickle.loads(pickle.dumps(work(checkpoint, store)))  # noqa: S301
    for one in sent:
        assert one.compute.cache is None
        assert one.kept is not None
        assert (one.kept.folder, one.kept.limit) == (str(store.folder), store.limit)


def test_a_worker_looks_through_the_folder_once(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lipaudit.analysis.remembered.WORTH", 0.0)
    looks: list[Any] = []
    real = Store._shrink

    def counting(store: Store, limit: int) -> None:
        looks.append(store)
        real(store, limit)

    monkeypatch.setattr(Store, "_shrink", counting)
    for one in work(checkpoint, Store(tmp_path / "cache")):
        assert perform(one).found is not None
    assert entries(tmp_path / "cache") == 3
    assert len(looks) == 1


@pytest.mark.parametrize("expected", [True, False])
def test_a_worker_elsewhere_makes_no_folder_in_a_home_of_the_driver(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: bool
) -> None:
    monkeypatch.setattr("lipaudit.analysis.remembered.WORTH", 0.0)
    folder = tmp_path / "cache"
    sent = work(checkpoint, Store(folder, expected=expected))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(platform, "node", lambda: "another machine")
        assert perform(sent[0]).found is not None
    assert folder.exists() is expected, "a folder that was stated may be one that is shared"
    monkeypatch.setattr(task, "_SHELVES", task._Shelves())
    assert perform(sent[0]).found is not None
    assert entries(folder) == 1
