"""The fuzz of `make test`: fixed seeds, and everything that was ever found. `make fuzz` goes on."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.commands import Commands
from tests.fuzz import atheris_targets, planted
from tests.fuzz.case import Case, parsed
from tests.fuzz.corpus import good
from tests.fuzz.long import REGRESSIONS
from tests.fuzz.minimizing import minimized
from tests.fuzz.mutations import mutated
from tests.fuzz.property import check, snapshot
from tests.fuzz.structured import GENERATORS, STRUCTURED, case_of
from tests.fuzz.workers import Worker

ROOT = Path(__file__).resolve().parents[2]
CASES = 96
"""Of each generator; every fourth is audited."""
COMMANDS = 3
FOUND = sorted(REGRESSIONS.glob("*.txt"))
MODEL = "checked.safetensors"
COMMAND = {
    "model": ("inspect", "TARGET"),
    "config": ("check", MODEL, "--config", "TARGET"),
    "baseline": ("check", MODEL, "--baseline", "TARGET"),
    "report": ("diff", "TARGET", "TARGET"),
}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    made = Worker(tmp_path_factory.mktemp("fuzz"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    server = Commands(tmp_path_factory.mktemp("commands"))
    yield server
    server.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Make an empty folder the working directory."""
    place, old = tmp_path / "place", Path.cwd()
    place.mkdir()
    os.chdir(place)
    yield place
    os.chdir(old)


def ask(commands: Commands, case: Case, folder: Path) -> None:
    """Hold the real command line against the promise."""
    path = case.write(folder)
    if MODEL in COMMAND[case.reader]:
        (folder / MODEL).write_bytes(good()["safetensors"].files["model.safetensors"])
    before = snapshot(folder)
    arguments = [path if word == "TARGET" else word for word in COMMAND[case.reader]]
    done = commands.run(*arguments, cwd=folder, seconds=60)
    assert snapshot(folder) == before
    assert done.code in {0, 1, 2, 3}, done
    assert "Traceback" not in done.stderr, done
    assert "internal error" not in done.stderr, done
    assert "\x1b" not in done.stdout + done.stderr
    if done.code == 2:
        (line,) = done.stderr.splitlines()
        assert line.startswith("lipaudit: error: ")
    for name in before:
        (folder / name).unlink()


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_what_was_found_stays_mended(path: Path, worker: Worker) -> None:
    assert not worker.check(path.read_text())


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_what_was_found_is_no_crash_of_the_command(
    path: Path, commands: Commands, folder: Path
) -> None:
    ask(commands, parsed(path.read_text()), folder)


@pytest.mark.parametrize("kind", sorted(good()))
def test_good_files_are_read(kind: str, folder: Path) -> None:
    expected = "config-models" if kind == "config" else "ok"  # its models are not there
    assert check(good()[kind], folder) == expected


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_fixed_seeds(name: str, worker: Worker) -> None:
    done = worker.run(name, 0, CASES)
    assert not done.failures, done.failures[0]
    assert sum(done.outcomes.values()) == CASES
    # A generator whose files all fail in one way tests one line.
    assert len(done.outcomes) > 1, done.outcomes


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("name", sorted(STRUCTURED))
@given(rng=st.randoms(use_true_random=False))
def test_files_that_hypothesis_can_shrink(
    name: str, rng: Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place, old = tmp_path_factory.mktemp("place"), Path.cwd()
    os.chdir(place)
    try:
        check(STRUCTURED[name](rng), place)
    finally:
        os.chdir(old)
        shutil.rmtree(place)


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_the_command_itself(name: str, commands: Commands, folder: Path) -> None:
    for seed in range(COMMANDS):
        ask(commands, case_of(name, 500_000 + seed), folder)


def test_the_fuzzer_notices_what_it_looks_for(tmp_path: Path) -> None:
    worker = Worker(tmp_path, planted.__name__)
    for fault, (_, expected) in planted.FAULTS.items():
        why = worker.check(planted.planted(fault))
        assert expected in why if expected else not why, (fault, why)
    worker.close()


def test_a_large_process_that_starts_a_worker_hides_nothing(tmp_path: Path) -> None:
    """A process begins with the largest size of the one that started it."""
    code = f"""
from pathlib import Path
from tests.fuzz import planted
from tests.fuzz.workers import Worker
held = bytearray(1 << 30)
worker = Worker(Path({str(tmp_path)!r}), planted.__name__)
print(worker.check(planted.planted("memory")))
worker.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert planted.FAULTS["memory"][1] in done.stdout


def test_a_process_that_dies_is_a_finding(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    worker.run("json-report", 0, 4)
    worker.end()
    done = worker.run("json-report", 4, 4)
    worker.close()
    assert [failure.name for failure in done.failures] == ["json-report 4"]
    assert sum(done.outcomes.values()) == 4


def test_a_failing_case_becomes_small() -> None:
    case = good()["module"]
    small = minimized(case, lambda one: b"LeakyReLU" in b"".join(one.files.values()))
    assert small.size < 300
    assert parsed(small.text("why")) == small


def test_seeds_say_what_a_case_is() -> None:
    for name in GENERATORS:
        assert case_of(name, 3) == case_of(name, 3)
    sizes = Counter(case_of("bytes-pt", seed).size for seed in range(50))
    assert len(sizes) > 5


def test_atheris_is_asked_for_in_words_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(atheris_targets, "find_spec", lambda _: None)
    assert atheris_targets.main(["pickle"]) == 2
    assert "pip install 'lipaudit[fuzz]'" in capsys.readouterr().err
    assert atheris_targets.main(["tar"]) == 2
    assert "name a target: pickle, zip" in capsys.readouterr().err


@pytest.mark.parametrize("target", sorted(atheris_targets.TARGETS))
def test_the_targets_of_atheris_take_anything(target: str) -> None:
    take = atheris_targets.TARGETS[target]()
    rng = Random(7)  # noqa: S311 - nothing is kept secret
    for data in atheris_targets.seeds(target):
        for _ in range(20):
            take(mutated(rng, data))


def test_what_atheris_found_becomes_a_regression(tmp_path: Path) -> None:
    (tmp_path / "crash-1").write_bytes(b"PK\x03\x04 and no more")
    case = parsed(atheris_targets.save(tmp_path / "crash-1", tmp_path).read_text())
    assert case.files == {"model.pt": b"PK\x03\x04 and no more"}
