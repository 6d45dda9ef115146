"""`lipaudit doctor`, where all is well and where little is."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from lipaudit.analysis import health
from lipaudit.device import choose
from tests import offline
from tests.cli.gated import run


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".git").mkdir()  # the search for a config ends here
    monkeypatch.chdir(tmp_path)
    return tmp_path


def report() -> Any:
    done = run("doctor", "--json")
    found = json.loads(done.out)
    assert found["exit_code"] == done.code
    return found


def test_a_sound_installation() -> None:
    found = report()
    assert found["exit_code"] == 0
    assert found["versions"]["torch"] == metadata.version("torch")
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert found["config"] == {"file": None, "problem": None}
    assert len(found["trials"]) >= 4
    assert all(trial["passed"] for trial in found["trials"])
    done = run("doctor")
    assert done.code == 0
    assert "all is well" in done.out
    assert f"torch: {metadata.version('torch')}" in done.out


def test_a_missing_extra_is_named_and_is_no_fault() -> None:
    def version(name: str) -> str:
        if name == "matplotlib":
            raise metadata.PackageNotFoundError(name)
        return "1"

    with mock.patch.object(metadata, "version", version):
        found = report()
        shown = run("doctor").out
    assert (found["extras"]["matplotlib"], found["exit_code"]) == (None, 0)
    assert "pip install 'lipaudit[plot]'" in shown


def test_a_missing_library_is_a_fault() -> None:
    def version(name: str) -> str:
        if name == "onnx":
            raise metadata.PackageNotFoundError(name)
        return "1"

    with mock.patch.object(metadata, "version", version):
        found = report()
    assert (found["versions"]["onnx"], found["exit_code"]) == (None, 2)


def test_a_proof_that_proves_too_much_is_found() -> None:
    def everything(grams: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.ones(grams.shape[:-2], dtype=torch.bool)

    with mock.patch.object(health, "proves_below", everything):
        found = report()
    failed = [trial["name"] for trial in found["trials"] if not trial["passed"]]
    assert failed == ["what is false is not proved"]
    assert found["exit_code"] == 3


def test_a_proof_that_proves_nothing_is_found() -> None:
    def nothing(grams: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.zeros(grams.shape[:-2], dtype=torch.bool)

    with mock.patch.object(health, "proves_below", nothing):
        assert report()["exit_code"] == 3


def test_numbers_flushed_to_zero_are_found() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormal numbers")
    try:
        found = {trial.name: trial.passed for trial in health.trials(choose("cpu"))}
    finally:
        torch.set_flush_denormal(False)
    assert found["tiny numbers are kept"] is False


@pytest.mark.parametrize(
    ("text", "code", "problem"),
    [("max-bound = 1\n", 0, None), ("max-bond = 1\n", 2, "did you mean 'max-bound'")],
)
def test_the_config_is_named_and_judged(text: str, code: int, problem: str | None) -> None:
    Path("lipaudit.toml").write_text(text, encoding="utf-8")
    found = report()
    assert found["exit_code"] == code
    assert found["config"]["file"] == "lipaudit.toml"
    assert (problem or "") in (found["config"]["problem"] or "")


def lipaudit(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": offline.PATH} | options.pop("env", {})
    return subprocess.run(
        [sys.executable, "-m", "lipaudit", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        **options,
    )


def test_nothing_is_needed_of_the_environment(folder: Path) -> None:
    folder.chmod(0o555)
    try:
        done = lipaudit("doctor", "--json", env={"HOME": "/nonexistent", "TMPDIR": "/nonexistent"})
    finally:
        folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert sorted(path.name for path in folder.iterdir()) == [".git"]


def test_a_folder_that_is_gone_is_one_line() -> None:
    code = (
        "import os, sys, lipaudit.__main__ as m\n"
        "os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n"
        "sys.argv = ['lipaudit', 'doctor']; m.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": offline.PATH},
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("lipaudit: error: the working directory cannot be used")


def test_a_broken_library_is_one_line(folder: Path) -> None:
    (folder / "torch.py").write_text("raise ImportError('libcudart', name='torch')\n")
    done = lipaudit("doctor", env={"PYTHONPATH": f"{folder}{os.pathsep}{offline.PATH}"})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("lipaudit: error: torch cannot be imported: libcudart")
