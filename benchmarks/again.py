"""A second check of a model: what the cache leaves of it, beside what cannot be saved.

Each run is a process of its own, as in CI: `lipaudit check MODEL --max-norm X`. The model is a
safetensors file of float32 weights with the shapes of a ResNet, random as networks are initialized.
A second run has to start, to hash the file, and to judge; both of these are measured beside it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from audits import Layer, he, resnet18, resnet20
from cases import Options
from report import ratio_cell, table, time_cell
from safetensors.torch import save_file
from timing import Contestant, Timing, race, seconds

from lipaudit.cache import hashing

TITLE = "A second check"
_LIMIT = "1e6"
_HASHED = 1 << 28
_QUICK_HASHED = 1 << 26


@dataclass(frozen=True, slots=True)
class Row:
    """One model, checked in four ways. Times are seconds."""

    network: str
    megabytes: float
    none: float
    """Without a cache."""
    none_least: float
    first: float
    """With an empty one."""
    first_least: float
    changed: float
    """With all layers but one known."""
    changed_least: float
    second: float
    """With the report itself known."""
    second_least: float
    start: float
    """`lipaudit --version`: what any command costs."""
    rate: float
    """Gigabytes hashed a second."""


def measure(options: Options) -> list[Row]:
    """Check every model without a cache, with an empty one, after a change, and again."""
    rate = _rate(options)
    networks = {"ResNet-20": resnet20()}
    if not options.quick:
        networks["ResNet-18"] = resnet18()
    rows = []
    for name, layers in networks.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append(_measured(name, layers, Path(folder), rate, options))
        print(markdown(rows[-1:]).splitlines()[2], flush=True)
    return rows


def markdown(rows: list[Row]) -> str:
    """Return the table and what its columns mean."""
    header = (
        "network",
        "MB",
        "no cache s",
        "first s",
        "one layer changed s",
        "second s",
        "no cache / second",
        "start s",
        "hash GB/s",
    )
    lines = table(
        header,
        (
            (
                row.network,
                f"{row.megabytes:.1f}",
                time_cell(row.none, row.none_least),
                time_cell(row.first, row.first_least),
                time_cell(row.changed, row.changed_least),
                time_cell(row.second, row.second_least),
                ratio_cell(row.none, row.second),
                f"{row.start:.2f}",
                f"{row.rate:.2f}",
            )
            for row in rows
        ),
    )
    return (
        f"{lines}\n\n"
        "Each run is a process of its own: `lipaudit check MODEL --max-norm X` on random float32 "
        "weights, with `--no-cache`, with an empty cache, with one of every layer but the first "
        "(whose weights were changed), and with one of the whole report. *Start* is `lipaudit "
        "--version`, *hash* the rate of SHA-256 on a file in the page cache: a second run is "
        "these two, and the judging."
    )


def _measured(
    name: str, layers: Sequence[Layer], folder: Path, rate: float, options: Options
) -> Row:
    """Time one model."""
    model, cache = folder / "m.safetensors", folder / "cache"
    _save(layers, model, first_seed=0)

    def first() -> None:
        """Begin with nothing."""
        shutil.rmtree(cache, ignore_errors=True)
        _check(model, "--cache", str(cache))

    plain = Contestant("none", partial(_check, model, "--no-cache"))
    timings = _raced([plain, Contestant("first", first)], options)
    timings |= _raced(
        [Contestant("second", partial(_check, model, "--cache", str(cache)))], options
    )
    timings |= _raced([Contestant("start", partial(_lipaudit, "--version"))], options)
    # Each time another first layer: a layer that is known already would cost nothing.
    taken = []
    for seed in range(options.repeats):
        _save(layers, model, first_seed=1000 + seed)
        taken.append(seconds(partial(_check, model, "--cache", str(cache)), "cpu")[0])
    changed_times = sorted(taken)
    return Row(
        network=name,
        megabytes=model.stat().st_size / 1e6,
        none=timings["none"].median,
        none_least=timings["none"].least,
        first=timings["first"].median,
        first_least=timings["first"].least,
        changed=changed_times[len(changed_times) // 2],
        changed_least=changed_times[0],
        second=timings["second"].median,
        second_least=timings["second"].least,
        start=timings["start"].least,
        rate=rate,
    )


def _raced(contestants: list[Contestant], options: Options) -> dict[str, Timing]:
    return race(contestants, device="cpu", repeats=options.repeats, limit=options.limit)


def _save(layers: Sequence[Layer], path: Path, *, first_seed: int) -> None:
    """Write a checkpoint; the first layer is drawn from a seed of its own."""
    tensors = {
        f"conv{count}.weight": he(layer, seed=count or first_seed).to(torch.float32)
        for count, layer in enumerate(layers)
    }
    save_file(tensors, path)


def _check(model: Path, *options: str) -> None:
    _lipaudit("check", str(model), "--max-norm", _LIMIT, *options)


def _lipaudit(*arguments: str) -> None:
    """Run a command in an empty surrounding; a failure ends the benchmark."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LIPAUDIT_")}
    subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "lipaudit", *arguments],
        check=True,
        capture_output=True,
        env=environment,
    )


def _rate(options: Options) -> float:
    """Return the gigabytes of a file that are hashed in a second, the best of three."""
    size = _QUICK_HASHED if options.quick else _HASHED
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(os.urandom(size))
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            hashing.of_files([path])
            taken.append(time.perf_counter() - start)
    return size / min(taken) / 1e9
