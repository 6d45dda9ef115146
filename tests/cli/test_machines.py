"""The options, variables and keys that say who measures the layers, and of which graph."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lipaudit
from lipaudit.crews.hiring import Hired
from tests.cli.gated import Done, fill, run, save
from tests.crews.test_hiring import Sent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Office:
    """Notes who is to be hired, and hires somebody in this process."""

    def __init__(self) -> None:
        self.asked: list[tuple[int | None, str | None, str]] = []
        self.pool = Sent()

    @contextlib.contextmanager
    def hired(
        self,
        workers: int | None = None,
        scheduler: str | None = None,
        *,
        device: str = "auto",
        **_others: object,
    ) -> Iterator[Hired]:
        self.asked.append((workers, scheduler, device))
        yield Hired(self.pool, is_asked_for=True)


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Office:
    made = Office()
    monkeypatch.setattr("lipaudit.api.hired", made.hired)
    return made


def records(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.out.splitlines()]


def config(folder: Path, text: str) -> None:
    (folder / "lipaudit.toml").write_text(text)


def test_the_config_says_who_measures(folder: Path, office: Office) -> None:
    config(folder, 'max-bound = 1\nworkers = 2\nscheduler = "local"\ndevice = "cpu"\n')
    assert run("check", "half.pt").code == 0
    assert office.asked == [(2, "local", "cpu")]
    assert {task.path for task in office.pool.work} == {str(folder / "half.pt")}


def test_variables_stand_above_the_config_and_options_above_both(
    folder: Path, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    config(folder, 'max-bound = 1\nworkers = 2\nscheduler = "local"\n')
    # Who measures is one answer: the workers asked for here are not the scheduler's.
    monkeypatch.setenv("LIPAUDIT_WORKERS", "3")
    assert run("check", "half.pt").code == 0
    assert run("check", "half.pt", "--workers", "0").code == 0
    monkeypatch.setenv("LIPAUDIT_SCHEDULER", "tcp://10.0.0.5:8786")
    done = run("check", "half.pt", "--workers", "1")
    assert done.code == 0
    assert not done.complaints  # both variables are known
    monkeypatch.delenv("LIPAUDIT_WORKERS")
    assert run("check", "half.pt").code == 0
    assert [one[:2] for one in office.asked] == [
        (3, None),
        (0, None),
        (1, "tcp://10.0.0.5:8786"),
        (None, "tcp://10.0.0.5:8786"),
    ]


@pytest.mark.parametrize("value", ["-1", "true", "1.5", '"2"'])
def test_no_number_of_workers(folder: Path, value: str) -> None:
    config(folder, f"max-bound = 1\nworkers = {value}\n")
    done = run("check", "half.pt")
    assert done.code == 2
    assert "workers must be a number of processes, 0 for one a core" in done.complaints


def test_layers_are_told_as_they_get_done(folder: Path) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3).eval()
    torch.nn.init.uniform_(norm.weight, 1, 2)
    save(folder / "norm.pt", nn.Conv2d(2, 3, 3), norm, nn.ReLU(), nn.Conv2d(3, 2, 3))
    shape = ("--input-shape", "2x8x8")
    checked = ("check", "norm.pt", "six.pt", "--max", "1e9", "-f", "jsonl")
    for line in (("bound", "norm.pt", *shape, "-f", "jsonl"), checked):
        found = records(run(*line))
        kinds = [record["record"] for record in found]
        ahead = found[: kinds.index("run")]
        assert {record["record"] for record in ahead} == {"measured"}
        layers = [record for record in found if record["record"] == "layer"]
        pairs = [[(r["model"], r["name"], r["norm"]) for r in part] for part in (ahead, layers)]
        assert pairs[0] == pairs[1]
        assert len(layers) == (2 if line[0] == "bound" else 5)  # as stored, norms by themselves
    silent = run(*checked, "-o", "report.jsonl")
    assert not silent.out
    assert '"record": "measured"' not in (folder / "report.jsonl").read_text()


@pytest.mark.usefixtures("folder")
def test_two_models_are_compared_by_others(office: Office) -> None:
    done = run("diff", "half.pt", "six.pt", "--workers", "2", "-f", "json")
    assert done.code == 0
    assert office.asked == [(2, None, "auto")]
    assert {Path(task.path).name for task in office.pool.work} == {"half.pt", "six.pt"}


@pytest.mark.usefixtures("folder")
def test_a_copy_is_measured_by_others(office: Office) -> None:
    done = run("clip", "six.pt", "--to", "1", "-o", "out.pt", "--workers", "2")
    assert done.code == 0
    assert office.asked == [(2, None, "auto")]
    assert len({task.path for task in office.pool.work}) == 2
    norms = [layer.norm.upper for layer in lipaudit.inspect("out.pt").models[0].layers]
    assert max(norms) <= 1


@pytest.mark.usefixtures("folder")
def test_two_reports_are_compared_by_nobody(office: Office) -> None:
    for name in ("half", "six"):
        run("inspect", f"{name}.pt", "-f", "json", "-o", f"{name}.json")
    office.asked.clear()
    assert run("diff", "half.json", "six.json", "--workers", "2").code == 0
    assert not office.asked


def test_the_api_checks_with_what_it_is_given(folder: Path) -> None:
    config(folder, 'max-bound = 1\nmax-memory = "1G"\nscheduler = "tcp://nobody:1"\n')
    pool, told = Sent(), list[str]()
    asked: dict[str, Any] = {"crew": Hired(pool), "told": lambda layer: told.append(layer.name)}
    report, verdict = lipaudit.check(None, "half.pt", **asked)
    assert verdict.passed
    assert told == [layer.name for layer in report.models[0].layers]
    lipaudit.check(None, "half.pt", crew=Hired(pool), device="cpu", max_memory=1 << 29)
    assert [task.compute.max_memory for task in pool.work] == [1 << 30, 1 << 29]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers", minversion="5.0", reason="needs lipaudit[hf]")
    from tests.formats.test_hugging_face import SMALL, saved  # noqa: PLC0415 - the same

    place = tmp_path_factory.mktemp("hf") / "llama"
    saved("llama", place, **SMALL["llama"])
    return place


@pytest.mark.usefixtures("folder")
def test_check_takes_the_graph_of_transformers(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("check", network, "--max-norm", "100", "-f", "json", "--input-shape", "2")

    def noted(*options: str) -> bool:
        done = run(*line, *options)
        assert not done.complaints
        return any("transformers'" in note for note in json.loads(done.out)["models"][0]["notes"])

    assert not noted()
    assert noted("--hf")
    monkeypatch.setenv("LIPAUDIT_HF", "1")
    assert noted()
    assert not noted("--no-hf")


@pytest.mark.usefixtures("folder")
def test_diff_and_clip_take_it_too(network: Path) -> None:
    hf = ("--hf", "--input-shape", "2")
    clipped = run("clip", network, "--to", "0.1", "-o", "copy", *hf)
    assert clipped.code == 0, clipped.complaints
    done = run("diff", network, "copy", "-f", "json", *hf)
    assert done.code == 0, done.complaints
    (pair,) = json.loads(done.out)["models"]
    names = {layer["before"]["name"] for layer in pair["layers"]}
    assert pair["before"]["bound"]["upper"]  # by the graph, that the weights alone do not tell
    assert "model.layers.0.mlp.up_proj" in names
    found = lipaudit.spectra("copy", hf=True, input_shape="2")
    assert {name for name in found if "proj" in name}
    assert max(float(values[0]) for values in found.values()) < 0.11
