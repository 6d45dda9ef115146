"""Checkpoints larger than memory should be: one tensor at a time, whatever the folder holds."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

_MEGABYTE = 1 << 20
_IDLE = 1
"""Side of the layer in the file that is measured to know what a process takes anyway."""


def written(
    folder: Path,
    layers: int,
    shape: tuple[int, int],
    suffix: str,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write one layer a shard, with an index; every layer is twice the one before."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(shape, generator=generator).to(dtype)
    names = {}
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    for layer in range(layers):
        file = f"{stem}-{layer + 1:05d}-of-{layers:05d}.{suffix}"
        tensors = {f"layers.{layer}.weight": 2.0**layer * first}
        if suffix == "safetensors":
            save_file(tensors, folder / file)
        else:
            torch.save(tensors, folder / file)
        names[next(iter(tensors))] = file
    index = {
        "metadata": {"total_size": first.itemsize * layers * first.numel()},
        "weight_map": names,
    }
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    return folder


def run(path: Path, *options: str) -> tuple[list[Any], float]:
    """Return the records of `inspect -f jsonl`, and the megabytes the process held at most."""
    kept = ("--cache", str(path.with_name("cache")))  # as it is unless told otherwise
    command = [sys.executable, "-m", "lipaudit", "inspect", str(path), "-f", "jsonl"]
    command += [*kept, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    records = [json.loads(line) for line in process.stdout]
    _, status, used = os.wait4(process.pid, 0)
    process.stdout.close()
    assert status == 0
    return records, used.ru_maxrss / 1024


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Return what a process takes that measures next to nothing."""
    place = tmp_path_factory.mktemp("idle") / "idle"
    return run(written(place, 1, (_IDLE, _IDLE), "safetensors"), "--no-spectra")[1]


def assert_measured(records: list[Any], layers: int) -> None:
    first = [record for record in records if record["record"] == "measured"]
    last = [record for record in records if record["record"] == "layer"]
    assert [record["name"] for record in first] == [f"layers.{layer}" for layer in range(layers)]
    uppers = [record["norm"]["upper"] for record in last]
    assert [record["norm"]["upper"] for record in first] == uppers
    for layer, upper in enumerate(uppers):
        assert upper == pytest.approx(2.0**layer * uppers[0], rel=1e-6)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_folder_takes_the_memory_of_its_largest_layer(
    tmp_path: Path, idle: float, suffix: str
) -> None:
    layers, shape = 10, (256, 51_200)
    folder = written(tmp_path / "folder", layers, shape, suffix)
    stored = sum(file.stat().st_size for file in folder.iterdir()) / _MEGABYTE
    assert stored > 499
    records, held = run(folder, "--no-spectra", "--max-memory", "256M")
    assert_measured(records, layers)
    # The largest layer takes 100 MB as float64: as read, as it is scaled, and as it is scanned.
    assert held - idle < 450


def test_a_layer_too_large_for_float64_takes_its_bytes_and_the_budget(
    tmp_path: Path, idle: float
) -> None:
    layers, shape = 5, (256, 204_800)
    folder = written(tmp_path / "folder", layers, shape, "safetensors", torch.bfloat16)
    stored = sum(file.stat().st_size for file in folder.iterdir()) / _MEGABYTE
    assert stored > 499
    records, held = run(folder, "--no-spectra", "--max-memory", "128M")
    assert_measured(records, layers)
    last = [record for record in records if record["record"] == "layer"]
    assert {record["norm"]["method"] for record in last} == {"Cholesky proof, piece by piece"}
    assert all(record["norm"]["upper"] <= record["norm"]["lower"] * 1.001 for record in last)
    # 100 MB as stored; in float64 it would be 400 MB.
    assert held - idle < 100 + 128 + 50


@pytest.mark.slow
def test_eight_gigabytes(tmp_path: Path, idle: float) -> None:
    layers, shape = 32, (1024, 65_536)
    folder = written(tmp_path / "folder", layers, shape, "safetensors")
    records, held = run(folder, "--no-spectra")
    assert_measured(records, layers)
    assert held - idle < 2600


@pytest.mark.slow
def test_a_matrix_whose_decomposition_would_take_an_hour(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = 0.02 * torch.randn(8192, 28672, generator=generator)
    weight[0] = 1.0  # ‖(1, ..., 1)‖ = √28672 = 169.3: the norm is near it
    save_file({"down_proj.weight": weight.to(torch.bfloat16)}, tmp_path / "big.safetensors")
    records, held = run(tmp_path / "big.safetensors", "--no-spectra")
    (layer,) = [record for record in records if record["record"] == "layer"]
    stored = weight.to(torch.bfloat16).to(torch.float64)
    vector = torch.ones(28672, dtype=torch.float64) / 28672**0.5
    assert layer["norm"]["rigor"] == "proved"
    assert layer["norm"]["lower"] >= float(torch.linalg.vector_norm(stored @ vector)) * (1 - 1e-6)
    assert layer["norm"]["upper"] <= layer["norm"]["lower"] * 1.001
    assert held < 6000
