"""Hiring: what can be shared out, what is said where it cannot, and what each worker may take."""

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lipaudit
from lipaudit.analysis import audit
from lipaudit.crews import hiring, room
from lipaudit.crews.base import Answer
from lipaudit.crews.hiring import Hired
from lipaudit.crews.task import Task
from lipaudit.device import CPU, DEFAULT_MEMORY, Compute
from lipaudit.errors import CrewError, UsageError
from lipaudit.gates.config import Settings
from lipaudit.gates.orders import Order
from lipaudit.gates.policy import Policy
from lipaudit.graph.model import Model, Origin
from tests.crews.networks import written
from tests.crews.test_processes import Here, numbers


class Sent(Here):
    """A pool that does what it is sent as if it had come from another process."""

    def __init__(self) -> None:
        super().__init__()
        self.work: list[Task] = []

    def answers(self, work: Sequence[Task]) -> Iterator[Answer]:
        sent = [pickle.loads(pickle.dumps(task)) for task in work]  # noqa: S301 - our own
        self.work += sent
        yield from super().answers(sent)


@pytest.fixture
def pool() -> Sent:
    return Sent()


def factory() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3))


def normalized(path: Path) -> Path:
    """Write a network with a batch norm, and return its path."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4).eval()
    torch.nn.init.uniform_(norm.weight, 1, 2)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(48, 2)
    )
    torch.save(net.eval(), path)
    return path


def test_a_part_is_measured_by_others_too(tmp_path: Path, pool: Sent) -> None:
    path = normalized(tmp_path / "net.pt")
    asked: dict[str, Any] = {"input_shape": "2x8x8", "start": "3", "end": "4"}
    found = lipaudit.bound(path, **asked, crew=Hired(pool, is_asked_for=True))
    assert [task.graph.part for task in pool.work] == [("3", "4")]
    assert numbers(found) == numbers(lipaudit.bound(path, **asked))
    assert [layer.name for layer in found.models[0].layers] == ["3"]


def test_what_runs_unfolded_is_measured_by_others_too(tmp_path: Path, pool: Sent) -> None:
    path = normalized(tmp_path / "net.pt")
    asked: dict[str, Any] = {"input_shape": "2x8x8", "executed": "float32", "input_radius": 1.0}
    found = lipaudit.bound(path, **asked, crew=Hired(pool))
    assert [task.folded for task in pool.work] == [True] * 3 + [False] * 4
    alone = lipaudit.bound(path, **asked)
    assert numbers(found) == numbers(alone)
    assert found.models[0].running == alone.models[0].running


def test_a_declared_constant_goes_with_the_task(tmp_path: Path, pool: Sent) -> None:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Mystery", ["h"], ["y"], domain="acme"),
    ]
    weight = onnx.numpy_helper.from_array(torch.diag(torch.tensor([3.0, 1.0])).numpy(), "w")
    edges = [helper.make_tensor_value_info(name, 1, [1, 2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", edges[:1], edges[1:], [weight])
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    order = Order(str(path), Settings(constants={"acme.Mystery": 1.5}), Policy(max_bound=9), True)
    (found,) = lipaudit.api.examine(order, crew=Hired(pool)).models
    assert [task.graph.constants for task in pool.work] == [(("acme.Mystery", 1.5),)]
    assert found.bound is not None
    assert found.bound.measure.upper == pytest.approx(4.5)


def test_what_is_in_no_file_is_measured_here_and_that_is_said(tmp_path: Path, pool: Sent) -> None:
    warnings: list[str] = []
    path = tmp_path / "bare.pt"
    torch.save(factory().state_dict(), path)
    asked: dict[str, Any] = {"input_shape": "3", "model": f"{__name__}:factory"}
    asked["warn"] = warnings.append
    assert lipaudit.inspect(path, **asked, crew=Hired(pool)).models[0].layers
    assert not warnings  # several GPUs are taken unasked
    crew = Hired(pool, is_asked_for=True)
    assert lipaudit.inspect(path, **asked, crew=crew).models[0].layers
    assert lipaudit.inspect(nn.Linear(3, 3), crew=crew, warn=warnings.append).models[0].layers
    clipped: Any = {**asked, "to": 0.5, "output": tmp_path / "out.pt"}
    assert lipaudit.clip(path, **clipped, crew=crew).met
    assert not pool.work
    here = "so that its layers are measured here, not shared out"
    code, live = f"its layer graph is made by your own code, {here}", f"it is in no file, {here}"
    assert [text.partition(": ")[2] for text in warnings] == [code, live, code]


def test_a_copy_is_measured_by_others_before_and_after(tmp_path: Path, pool: Sent) -> None:
    path = written(tmp_path)
    warnings: list[str] = []
    with pytest.raises(lipaudit.LipauditError):  # NaN: as alone
        lipaudit.clip(path, to=1.0, output=tmp_path / "out.pt", crew=Hired(pool))
    weights = torch.load(path, weights_only=True)
    del weights["bad.weight"]
    torch.save(weights, path)
    pool.work.clear()
    outputs = [tmp_path / "alone.pt", tmp_path / "shared.pt"]
    alone = lipaudit.clip(path, to=1.0, output=outputs[0])
    crew = Hired(pool, is_asked_for=True)
    shared = lipaudit.clip(path, to=1.0, output=outputs[1], crew=crew, warn=warnings.append)
    assert shared.changes == alone.changes
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert {task.path for task in pool.work} > {str(path)}
    assert not warnings


def test_spectra_are_sent_back_whole(tmp_path: Path, pool: Sent) -> None:
    path = written(tmp_path)
    alone, shared = lipaudit.spectra(path), lipaudit.spectra(path, crew=Hired(pool))
    assert pool.work
    assert {k: v.tolist() for k, v in alone.items()} == {k: v.tolist() for k, v in shared.items()}


def rooms(pool: Sent, path: Path, crew: Hired, **asked: Any) -> set[int]:
    """Return how much memory the tasks of an audit may take for one layer."""
    pool.work.clear()
    lipaudit.inspect(path, crew=crew, **asked)
    return {task.compute.max_memory for task in pool.work}


def test_memory_that_nobody_states_is_divided(
    tmp_path: Path, pool: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    gigabyte = 1 << 30
    four, two = (Hired(pool, on_this_machine=count) for count in (4, 2))
    monkeypatch.setattr(room, "memory", lambda: 64 * gigabyte)
    assert rooms(pool, path, four) == {DEFAULT_MEMORY}
    monkeypatch.setattr(room, "memory", lambda: 6 * gigabyte)
    assert rooms(pool, path, four) == {3 * gigabyte // 4}
    assert rooms(pool, path, two) == {3 * gigabyte // 2}
    assert rooms(pool, path, Hired(pool)) == {DEFAULT_MEMORY}
    assert rooms(pool, path, four, max_memory=5 * gigabyte) == {5 * gigabyte}
    for known in (None, gigabyte):  # at least as much as one process would take
        monkeypatch.setattr(room, "memory", lambda known=known: known)
        assert rooms(pool, path, four) == {DEFAULT_MEMORY // 4}


def test_workers_of_this_machine_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[object, ...]] = []

    class Noted(Here):
        def __init__(self, *wanted: object) -> None:
            super().__init__()
            made.append(wanted)

    monkeypatch.setattr(hiring, "Processes", Noted)
    monkeypatch.setattr(hiring, "Cluster", Noted)
    monkeypatch.setattr(room, "cores", lambda: 6)
    counted = []
    for asked in ((0, None), (3, None), (None, "local"), (4, "local"), (4, "tcp://h:1")):
        with lipaudit.hired(*asked, device="cpu") as crew:
            counted.append(crew._on_this_machine)
    assert counted == [6, 3, 6, 4, 1]
    assert [one[0] for one in made] == [6, 3, "local", "local", "tcp://h:1"]


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give this process a control group in a container, and eight processors."""
    monkeypatch.setattr(room, "_MOUNT", tmp_path / "cgroup")
    monkeypatch.setattr(room, "_OWN", tmp_path / "own")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    (tmp_path / "own").write_text("12:cpu,cpuacct:/job\n11:memory:/job\n0::/a/b\n")
    return tmp_path / "cgroup"


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_processors_are_those_that_the_container_may_use(groups: Path) -> None:
    assert room.cores() == 8
    group(groups / "a" / "b", cpu__max="max 100000")
    assert room.cores() == 8
    group(groups / "a", cpu__max="350000 100000")
    assert room.cores() == 3
    group(groups / "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert room.cores() == 3
    group(groups / "cpu", cpu__cfs_quota_us="200000", cpu__cfs_period_us="100000")
    assert room.cores() == 2
    group(groups, cpu__max="50000 100000")
    assert room.cores() == 1
    group(groups, cpu__max="nonsense")
    assert room.cores() == 2


def test_memory_is_what_the_container_may_take(groups: Path) -> None:
    machine = room.memory()
    assert machine is not None
    group(groups / "a" / "b", memory__max="max")
    group(groups / "memory", memory__limit_in_bytes="9223372036854771712")
    assert room.memory() == machine
    group(groups / "a", memory__max="3000")
    assert room.memory() == 3000
    group(groups / "memory" / "job", memory__limit_in_bytes="2000")
    assert room.memory() == 2000


def test_a_cluster_says_how_many_workers_have_come() -> None:
    distributed: Any = pytest.importorskip("distributed", reason="Dask is the extra [dask]")
    from lipaudit.crews.cluster import Cluster  # noqa: PLC0415 - needs Dask

    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, dashboard_address=None
    ) as running:
        pool = Cluster(running.scheduler_address, 1)
        try:
            assert pool.workers() == 2
        finally:
            pool.close()


def test_the_graph_of_transformers_is_made_by_the_worker_too(tmp_path: Path, pool: Sent) -> None:
    pytest.importorskip("transformers", minversion="5.0", reason="needs lipaudit[hf]")
    from tests.formats.test_hugging_face import SMALL, saved  # noqa: PLC0415 - needs transformers

    saved("llama", tmp_path / "llama", **SMALL["llama"])
    asked: dict[str, Any] = {"hf": True, "input_shape": "3", "spectra": False}
    path = tmp_path / "llama"
    found = lipaudit.inspect(path, **asked, crew=Hired(pool))
    layers = {layer.name for layer in found.models[0].layers}
    assert len(pool.work) == len(layers) > 7
    assert numbers(found) == numbers(lipaudit.inspect(path, **asked))
    # A file of weights lies beside no config.json: the copy's is that of the original.
    pool.work.clear()
    output = tmp_path / "clipped.safetensors"
    report = lipaudit.clip(path, to=0.1, output=output, hf=True, input_shape="3", crew=Hired(pool))
    assert report.met
    assert len({task.path for task in pool.work}) == 2
    assert {change.name for change in report.changes} <= layers


def test_another_config_on_the_worker_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers", minversion="5.0", reason="needs lipaudit[hf]")
    from tests.formats.test_hugging_face import SMALL, saved  # noqa: PLC0415 - needs transformers

    saved("llama", tmp_path / "llama", **SMALL["llama"])
    config = tmp_path / "llama" / "config.json"

    def other() -> None:
        # The same weights as a network without the head: its table is a layer apart.
        config.write_text(config.read_text().replace("LlamaForCausalLM", "LlamaModel"))

    model = lipaudit.load(tmp_path / "llama", hf=True, input_shape="3")
    crew = Hired(Here(other)).crew(model, None)
    with pytest.raises(CrewError, match="another layer graph") as caught:
        audit.inspect(model, Compute(CPU, full_spectra=False), crew=crew)
    assert caught.value.slug == "worker-graph"


@pytest.mark.parametrize(("slug", "times"), [("hf-build", 3), ("hf-build", 9), ("hf-family", 1)])
def test_a_graph_that_torch_could_not_take_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slug: str, times: int
) -> None:
    model = lipaudit.load(written(tmp_path))
    config = tmp_path / "config.json"
    stated = replace(model, origin=Origin.CONFIG, config=config, examples=((1, 2),))
    calls: list[object] = []

    def failing(read: Model, examples: object, file: Path) -> Model:
        calls.append((examples, file))
        if len(calls) <= times:
            raise UsageError("torch.export could not take its graph", slug=slug)
        return read

    monkeypatch.setattr("lipaudit.formats.hugging_face.from_config", failing)
    crew = Hired(Here()).crew(stated, None)
    if times == 3:
        assert audit.inspect(stated, Compute(CPU, full_spectra=False), crew=crew).layers
        assert calls == [(((1, 2),), config)] * 4
    else:
        with pytest.raises(CrewError, match="could not take"):
            audit.inspect(stated, Compute(CPU, full_spectra=False), crew=crew)
        assert len(calls) == (4 if slug == "hf-build" else 1)
