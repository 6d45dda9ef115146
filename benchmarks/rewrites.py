"""Clipping a whole network beside one norm audit of it.

The CIFAR ResNet-20 (trained weights where the folder of models has them) as an ONNX file, every
layer brought to a certified norm of 1 by each method. The audit is `inspect --no-spectra`.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bounds import trained_resnet20
from cases import Options
from report import table, time_cell
from timing import Contestant, race

import lipaudit

TITLE = "Clipping a whole network"
_METHODS = ("project", "scale", "sedghi")


@dataclass(frozen=True, slots=True)
class Row:
    """One method. Times are seconds."""

    network: str
    method: str
    inspect: float
    inspect_least: float
    clip: float
    clip_least: float
    change: float
    """Relative change of all weights of the clipped layers together (Frobenius)."""
    largest: float
    """Largest proved norm afterwards."""


def measure(options: Options) -> list[Row]:
    """Time `inspect` and `clip` in turn."""
    net, name = trained_resnet20(options.models)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet20.onnx"
        torch.onnx.export(
            net, (torch.zeros(1, 3, 32, 32),), str(path), external_data=False, verbose=False
        )
        for method in _METHODS:
            rows.append(_measured(name, method, path, options))
            print(markdown(rows[-1:]).splitlines()[2], flush=True)
    return rows


def markdown(rows: list[Row]) -> str:
    """Return the table and what its columns mean."""
    header = ("network", "method", "inspect s", "clip s", "clip / inspect", "change", "largest")
    lines = table(
        header,
        (
            (
                row.network,
                row.method,
                time_cell(row.inspect, row.inspect_least),
                time_cell(row.clip, row.clip_least),
                f"{row.clip / row.inspect:.2f}x",
                f"{100 * row.change:.1f} %",
                f"{row.largest:.8f}",
            )
            for row in rows
        ),
    )
    return (
        f"{lines}\n\n"
        "Clip includes reading, the audit before, new weights, writing the copy, reading it back, "
        "and the proof of every norm in it. Change is ‖W' - W‖ / ‖W‖ over all layers; largest the "
        "largest proved norm afterwards (the single pass need not meet the limit)."
    )


def _measured(name: str, method: str, path: Path, options: Options) -> Row:
    def inspected() -> Any:
        return lipaudit.inspect(path, spectra=False, device=options.device)

    def clipped() -> Any:
        return lipaudit.clip(
            path,
            to=1.0,
            method=method,
            output=path.with_name("out.onnx"),
            dry_run=True,
            device=options.device,
        )

    timings = race(
        [Contestant("inspect", inspected), Contestant("clip", clipped)],
        device=options.device,
        repeats=options.repeats,
        limit=options.limit,
    )
    report, done = timings["inspect"].result, timings["clip"].result
    sizes = {layer.name: layer for layer in report.layers}
    weights = lipaudit.load(path).tensors
    squares = {
        change.name: sum(
            float(weights[key].values().square().sum()) for key in sizes[change.name].tensors[:1]
        )
        for change in done.changes
    }
    moved = sum(c.relative_change**2 * squares[c.name] for c in done.changes)
    return Row(
        network=name,
        method=method,
        inspect=timings["inspect"].median,
        inspect_least=timings["inspect"].least,
        clip=timings["clip"].median,
        clip_least=timings["clip"].least,
        change=(moved / sum(squares.values())) ** 0.5,
        largest=max(change.after.upper for change in done.changes),
    )
