"""A second check of a model: what the cache leaves of it, beside what cannot be saved.

Each run is a process of its own, as in CI: `lipaudit check MODEL --max-norm X`. The model is a
safetensors file of float32 weights with the shapes of a ResNet, random as networks are initialized.
A second run has to start, to hash the file, and to judge; both of these are measured beside it.
Of these models and of small samples in several formats, also the time is taken from the start of
`lipaudit inspect MODEL` to the first row of its table: without a cache, and with the report known.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
_RULE = "─"
_SAMPLES = ("mlp.safetensors", "sequential.pt", "resnet.onnx", "cnn.pt2")
_BUILDER = Path(__file__).resolve().parents[1] / "sample_models" / "build.py"


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
    changed: float | None
    """With all layers but one known; None where no layer is changed."""
    changed_least: float | None
    second: float
    """With the report itself known."""
    second_least: float
    start: float
    """`lipaudit --version`: what any command costs."""
    rate: float
    """Gigabytes of a file hashed a second, as a name in the cache."""
    cold: float
    """From the start of `inspect` to its first row, without a cache."""
    cold_least: float
    warm: float
    """With the report known."""
    warm_least: float


def measure(options: Options) -> list[Row]:
    """Check every model without a cache, with an empty one, after a change, and again."""
    rate = _rate(options)
    networks = {"ResNet-20": resnet20()}
    if not options.quick:
        networks["ResNet-18"] = resnet18()
    rows = []
    for name, layers in networks.items():
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "m.safetensors"
            _save(layers, model, first_seed=0)
            row = _measured(name, model, rate, options)
            rows.append(_with_change(row, layers, model, options))
        print(markdown(rows[-1:]).splitlines()[2], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, str(_BUILDER), folder]
        subprocess.run(build, check=True, capture_output=True)  # noqa: S603 - our own script
        for name in _SAMPLES[:1] if options.quick else _SAMPLES:
            rows.append(_measured(name, Path(folder) / name, rate, options))
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
        "first row s",
        "first row again s",
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
                "" if row.changed is None else time_cell(row.changed, row.changed_least),
                time_cell(row.second, row.second_least),
                ratio_cell(row.none, row.second),
                time_cell(row.cold, row.cold_least),
                time_cell(row.warm, row.warm_least),
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
        "(whose weights were changed), and with one of the whole report. *First row* is the time "
        "from the start of `lipaudit inspect MODEL` to the first row of its table, without a cache "
        "and with the report known; the small models are the samples of `sample_models`. *Start* "
        "is `lipaudit --version`, *hash* the rate at which all threads hash a file in the page "
        "cache: a second run is these two, and the judging."
    )


def _measured(name: str, model: Path, rate: float, options: Options) -> Row:
    """Time one model, but for a change of it."""
    cache = _cache(model)

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
    _until_row(model, "--cache", str(cache))
    rows = [
        (_until_row(model, "--no-cache"), _until_row(model, "--cache", str(cache)))
        for _ in range(options.repeats)
    ]
    cold, warm = (sorted(taken) for taken in zip(*rows, strict=True))
    return Row(
        network=name,
        megabytes=model.stat().st_size / 1e6,
        none=timings["none"].median,
        none_least=timings["none"].least,
        first=timings["first"].median,
        first_least=timings["first"].least,
        changed=None,
        changed_least=None,
        second=timings["second"].median,
        second_least=timings["second"].least,
        start=timings["start"].least,
        rate=rate,
        cold=cold[len(cold) // 2],
        cold_least=cold[0],
        warm=warm[len(warm) // 2],
        warm_least=warm[0],
    )


def _with_change(row: Row, layers: Sequence[Layer], model: Path, options: Options) -> Row:
    """Time the model with another first layer, each time: one that is known would cost nothing."""
    taken = []
    for seed in range(options.repeats):
        _save(layers, model, first_seed=1000 + seed)
        taken.append(seconds(partial(_check, model, "--cache", str(_cache(model))), "cpu")[0])
    taken.sort()
    return replace(row, changed=taken[len(taken) // 2], changed_least=taken[0])


def _cache(model: Path) -> Path:
    return model.with_name(f"{model.name}-cache")


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
    subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "lipaudit", *arguments],
        check=True,
        capture_output=True,
        env=_surrounding(),
    )


def _until_row(model: Path, *options: str) -> float:
    """Return the seconds from the start of `inspect` to the first row, which is below a rule."""
    start = time.perf_counter()
    with subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "lipaudit", "inspect", str(model), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_surrounding(),
        text=True,
    ) as process:
        lines = iter(process.stdout or ())
        for line in lines:
            if line.startswith(_RULE) and next(lines, ""):
                taken = time.perf_counter() - start
                break
        else:
            raise RuntimeError(f"no table of {model}")
        for _ in lines:  # the next one must not start beside it
            pass
    return taken


def _surrounding() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("LIPAUDIT_")}


def _rate(options: Options) -> float:
    """Return the gigabytes of a file that are hashed in a second, the best of three."""
    size = _QUICK_HASHED if options.quick else _HASHED
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(os.urandom(size))
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            hashing.tree_of_files([path])
            taken.append(time.perf_counter() - start)
    return size / min(taken) / 1e9
