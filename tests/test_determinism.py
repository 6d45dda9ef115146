"""The same input gives the same output: in every run, and with another number of threads.

Every command runs in processes of its own, since the order of sets and the threads of the linear
algebra are chosen when a process starts.
"""

import contextlib
import hashlib
import importlib
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load

from tests import offline, shared_models

ROOT = Path(__file__).resolve().parents[1]
FORMATS = ("table", "json", "jsonl", "csv", "markdown", "sarif", "junit", "github", "html")
OTHERS = {
    "burn_mnist/weights__mnist.pt": ("inspect",),
    "burn_mnist/weights__mnist.safetensors": ("clip",),
    "marabou/conv_mp1.onnx": ("inspect",),
    "marabou/fc1.onnx": ("bound",),
}
SLOW = {
    "marabou/conv_mp1.onnx": ("inspect", "bound", "clip"),
    "ort_examples/MNIST__mnist.onnx": ("inspect", "bound", "clip"),
    "tract/keras-tract-tf2__example.onnx": ("inspect", "bound"),
    "wonnx/opt-mnist.onnx": ("inspect", "clip"),
    "abcrown/mnist_cnn_a_adv.model": ("inspect", "clip"),
    "ort_ext/pytorch_super_resolution.onnx": ("inspect", "bound"),
}
SAMPLES = {"mlp.pt": "MLP", "sequential.pt": "sequential"}

ROUNDING = 1e-9
"""By how much two numbers of threads may move a measured number: it is printed to six digits."""
CLIPPED = 1e-5
"""The nearest weights are the limit of an iteration, which ends where it is near enough."""
DRAWN = 0.101
"""Coordinates are written to a tenth of a pixel."""
_TAG = re.compile(r"<[^>]*>")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")

_RUN = """
import contextlib, io, json, os, sys
from pathlib import Path
import torch
from lipaudit.__main__ import _run
found = []
for arguments in json.loads(sys.stdin.read()):
    sys.argv = ["lipaudit", *arguments]
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        code = _run()
    found.append([code, out.getvalue(), said.getvalue()])
json.dump({"threads": torch.get_num_threads(), "found": found}, sys.stdout)
"""


@dataclass(frozen=True)
class Outcome:
    """What one process did: by command what it said, and every file by name."""

    threads: int
    said: dict[str, list[Any]]
    files: dict[str, bytes]


def lines(models: Path, others: Mapping[str, tuple[str, ...]]) -> list[list[str]]:
    """Return the command lines, relative to a folder for the outputs."""
    every = [word for name in FORMATS for word in ("--report", f"{name}={{}}.{name}")]
    wanted: dict[str, tuple[str, ...]] = dict.fromkeys(
        (str(models / name) for name in SAMPLES), ("inspect", "bound", "clip")
    )
    if shared_models.FOLDER.is_dir():
        wanted |= {str(shared_models.FOLDER / name): what for name, what in others.items()}
    found = []
    for number, (path, commands) in enumerate(wanted.items()):
        for command in commands:
            name = f"{number}-{command}"
            own = ["--to", "1", "-o", f"{name}-copy"] if command == "clip" else []
            found.append([command, path, *own, *(word.replace("{}", name) for word in every)])
    config = str(models / "lipaudit.toml")
    found.append(["check", "--config", config, "--report", "json=check.json", "-f", "table"])
    found.append(["inspect", str(models / "mlp.pt"), "--plots=plots", "--export=spectra.npz"])
    return found


@dataclass(frozen=True)
class Work:
    """Commands to be run, and a place for what they write."""

    models: Path
    others: Mapping[str, tuple[str, ...]]
    folder: Path

    def outcome(self, name: str, *, seed: int, threads: int) -> Outcome:
        return outcome(lines(self.models, self.others), self.folder / name, seed, threads)


def outcome(work: list[list[str]], folder: Path, seed: int, threads: int) -> Outcome:
    folder.mkdir()
    number = {"PYTHONHASHSEED": str(seed), "PYTHONPATH": offline.PATH, "COLUMNS": "120"}
    # Two threads that wait for each other by turning round and round take a busy machine's time.
    number |= {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
    number |= {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")}
    done = subprocess.run(
        [sys.executable, "-c", _RUN],
        input=json.dumps(work),
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, **number},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    said = {" ".join(line): what for line, what in zip(work, report["found"], strict=True)}
    assert len(said) == len(work)
    return Outcome(report["threads"], said, files)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    sys.path.insert(0, str(ROOT / "sample_models"))
    try:
        build: Any = importlib.import_module("build")
    finally:
        sys.path.remove(str(ROOT / "sample_models"))
    torch.save(build.seeded(build.MLP).state_dict(), folder / "mlp.pt")
    torch.save(build.seeded(build.sequential), folder / "sequential.pt")
    config = 'assume-sequential = true\nmax-bound = 0.001\n[[models]]\npath = ["*.pt"]\n'
    (folder / "lipaudit.toml").write_text(config, encoding="utf-8")
    return folder


@pytest.fixture(
    scope="module",
    params=[OTHERS, pytest.param(SLOW, marks=pytest.mark.slow)],
    ids=["quick", "thorough"],
)
def work(
    request: pytest.FixtureRequest, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Work:
    return Work(models, request.param, tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def first(work: Work) -> Outcome:
    return work.outcome("first", seed=0, threads=1)


def test_every_command_did_its_work(first: Outcome) -> None:
    for command, (code, out, said) in first.said.items():
        assert code in {0, 1, 3}, (command, said)
        assert out, command
    assert sum(name.endswith("-copy") for name in first.files) >= 1


def test_another_run_gives_the_same_bytes(first: Outcome, work: Work) -> None:
    """Under another order of sets, in another folder of outputs."""
    again = work.outcome("again", seed=1, threads=1)
    assert again.said == first.said
    assert hashes(again) == hashes(first)


def test_two_threads_give_the_same_digits(first: Outcome, work: Work) -> None:
    """Bytes where digits are rounded; within the enclosures where all are written."""
    two = work.outcome("two", seed=0, threads=2)
    assert (first.threads, two.threads) == (1, 2)
    assert two.said == first.said
    assert set(two.files) == set(first.files)
    exact = {name for name, data in first.files.items() if two.files[name] == data}
    for name in set(first.files) - exact:
        mine, theirs = first.files[name], two.files[name]
        tolerance = CLIPPED if "-clip" in name else ROUNDING
        if name.endswith("-copy"):
            assert_same_weights(mine, theirs)
        elif name.endswith(".json"):
            assert_within(json.loads(mine), json.loads(theirs), tolerance, name)
        elif name.endswith((".jsonl", ".csv", ".junit", ".sarif")):  # every digit of a number
            assert_near(mine.decode(), theirs.decode(), tolerance, name)
        elif name.endswith(".npz"):
            assert_same_arrays(mine, theirs, name)
        else:
            assert name.endswith((".html", ".svg")), name
            assert_same_page(mine.decode(), theirs.decode(), name)


def assert_same_page(mine: str, theirs: str, where: str) -> None:
    """Hold two pages against each other: the same is read, and drawn where it is to be seen."""
    assert _TAG.split(mine) == _TAG.split(theirs), where
    assert _NUMBER.sub("#", mine) == _NUMBER.sub("#", theirs), where
    for one, other in zip(_NUMBER.findall(mine), _NUMBER.findall(theirs), strict=True):
        assert one == other or abs(float(one) - float(other)) <= DRAWN, where


def assert_same_arrays(mine: bytes, theirs: bytes, where: str) -> None:
    """Hold two files of singular values against each other."""
    one, other = np.load(io.BytesIO(mine)), np.load(io.BytesIO(theirs))
    assert set(one) == set(other), where
    for key in one:
        assert one[key].dtype == other[key].dtype, (where, key)
        if one[key].dtype.kind == "f":
            largest = np.abs(one[key]).max(initial=0.0)
            np.testing.assert_allclose(one[key], other[key], ROUNDING, ROUNDING * largest)
        else:
            np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ('<p x="1.04">3.25 is <b>proved</b></p>', True),
        ('<p x="1.4">3.25 is <b>proved</b></p>', False),
        ('<p x="1">3.26 is <b>proved</b></p>', False),
        ('<p x="1">3.25 is <i>proved</i></p>', False),
    ],
)
def test_pages_are_told_apart(other: str, same: bool) -> None:
    page = '<p x="1">3.25 is <b>proved</b></p>'
    with contextlib.nullcontext() if same else pytest.raises(AssertionError):
        assert_same_page(page, other, "")


@pytest.mark.parametrize(("moved", "same"), [(1e-11, True), (1e-7, False)])
def test_arrays_are_told_apart(moved: float, same: bool) -> None:
    files = []
    for by in (0.0, moved):
        held = io.BytesIO()
        np.savez(held, layer=np.array([3.0, 1.0 + by]), names=np.array(["a"]))
        files.append(held.getvalue())
    with contextlib.nullcontext() if same else pytest.raises(AssertionError):
        assert_same_arrays(files[0], files[1], "")


def assert_same_weights(mine: bytes, theirs: bytes) -> None:
    """Hold two clipped copies against each other."""
    one, other = weights(mine), weights(theirs)
    assert one
    assert set(one) == set(other)
    for key, tensor in one.items():
        torch.testing.assert_close(tensor, other[key], rtol=0, atol=CLIPPED)


def weights(data: bytes) -> dict[str, torch.Tensor]:
    """Return what a copy holds by the readers of its own format."""
    if data.startswith(b"PK"):
        state: dict[str, torch.Tensor] = torch.load(io.BytesIO(data), weights_only=True)
        return state
    if data[8:9] == b"{":
        return load(data)
    initializers = onnx.load_from_string(data).graph.initializer
    return {
        each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in initializers
    }


def hashes(done: Outcome) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in done.files.items()}


def assert_near(mine: str, theirs: str, tolerance: float, where: str) -> None:
    """Hold two texts against each other: they are equal but for the last digits of numbers."""
    assert _NUMBER.sub("#", mine) == _NUMBER.sub("#", theirs), where
    for one, other in zip(_NUMBER.findall(mine), _NUMBER.findall(theirs), strict=True):
        assert one == other or math.isclose(
            float(one), float(other), rel_tol=tolerance, abs_tol=1e-12
        ), where


def assert_within(mine: Any, theirs: Any, tolerance: float, where: str) -> None:
    """Hold two reports against each other: enclosures meet, all else is equal but for rounding."""
    assert type(mine) is type(theirs), where
    if isinstance(mine, dict):
        assert set(mine) == set(theirs), where
        if mine.get("lower") is not None and mine.get("upper") is not None:
            # What is clipped is not quite the same weight, so neither is its norm.
            slack = 1.0 + (CLIPPED if where.endswith(".after") else 0.0)
            assert mine["lower"] <= theirs["upper"] * slack, where
            assert theirs["lower"] <= mine["upper"] * slack, where
        for key, part in mine.items():
            assert_within(part, theirs[key], tolerance, f"{where}.{key}")
    elif isinstance(mine, list):
        assert len(mine) == len(theirs), where
        for at, (part, other) in enumerate(zip(mine, theirs, strict=True)):
            assert_within(part, other, tolerance, f"{where}[{at}]")
    elif isinstance(mine, float):
        assert math.isclose(mine, theirs, rel_tol=tolerance, abs_tol=1e-12), where
    else:
        assert mine == theirs, where
