"""Baseline: what the models of a project measured once, in a file for version control.

One layer is one line, models and layers are sorted, paths are relative to the file: a change
of one layer is a change of one line, on every machine.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lipaudit.comparison import LayerSnapshot, Snapshot
from lipaudit.errors import MalformedFile, UnsupportedFormat
from lipaudit.gates import document
from lipaudit.gates.document import Entry
from lipaudit.gates.measures import measure
from lipaudit.results import Measure

VERSION = 1
FILE = "lipaudit-baseline.json"
_KEY = "lipaudit_baseline"


def text(
    snapshots: Sequence[Snapshot],
    file: str,
    version: str,
    *,
    kept: Mapping[str, Snapshot] | None = None,
) -> str:
    """Write the baseline that is to lie at `file`, with what is kept of an older one."""
    named = dict(kept or {}) | {key(snapshot.path, file): snapshot for snapshot in snapshots}
    models = ",\n".join(_model(name, named[name]) for name in sorted(named))
    head = f'  "{_KEY}": {VERSION},\n  "version": {json.dumps(version)},\n'
    return f'{{\n{head}  "models": [\n{models}\n  ]\n}}\n'


def key(path: str, file: str) -> str:
    """Return the name of a model in a baseline: its path as seen from the file's folder."""
    folder = Path(file).resolve().parent
    # A link is a model of its own: what it points to may be exchanged.
    own = Path(path).absolute()
    return Path(os.path.relpath(own.parent.resolve() / own.name, folder)).as_posix()


def read(path: str) -> Mapping[str, Snapshot]:
    """Return the snapshots of a baseline by the models' names in it."""
    whole = Entry.parse(path)
    if _KEY not in whole.values:
        raise MalformedFile(
            "is no baseline of lipaudit",
            slug="document",
            path=path,
            hint="write one with lipaudit check --write-baseline",
        )
    if whole.whole(_KEY) != VERSION:
        raise UnsupportedFormat(
            f"baseline of version {whole.whole(_KEY)}, this lipaudit reads {VERSION}",
            slug="report-version",
            path=path,
            hint="write it again with lipaudit check --write-baseline",
        )
    made_by = whole.text("version")
    found: dict[str, Snapshot] = {}
    for model in whole.entries("models"):
        name = model.text("path")
        if name in found:
            raise MalformedFile(f"{name!r} stands in it twice", slug="document", path=path)
        found[name] = _snapshot(model, made_by)
    return found


def is_baseline(path: str) -> bool:
    """Tell whether a file may be replaced by a new baseline without a question."""
    return f'"{_KEY}"'.encode() in document.head(path, 256)


def _model(name: str, snapshot: Snapshot) -> str:
    lines = [f'      "path": {json.dumps(name)}']
    shapes = {at: list(sizes) for at, sizes in sorted((snapshot.input_shapes or {}).items())}
    lines.append(f'      "input_shapes": {json.dumps(shapes)}')
    # Where there is no finite bound only the layers are held: a null would never pass.
    if snapshot.bound is not None and snapshot.bound.is_finite:
        lines.append(f'      "assumptions": {json.dumps(list(snapshot.assumptions))}')
        lines.append(f'      "bound": {json.dumps(_numbers(snapshot.bound))}')
    layers = sorted(snapshot.layers, key=lambda layer: layer.name)
    rows = ",\n".join(f"        {json.dumps(_layer(layer))}" for layer in layers)
    lines.append(f'      "layers": [\n{rows}\n      ]' if rows else '      "layers": []')
    return "    {\n" + ",\n".join(lines) + "\n    }"


def _layer(layer: LayerSnapshot) -> dict[str, Any]:
    return {
        "name": layer.name,
        **_numbers(layer.norm),
        "kind": layer.kind,
        "shape": list(layer.shape),
        "frobenius": layer.frobenius if _is_number(layer.frobenius) else None,
    }


def _numbers(measure: Measure) -> dict[str, Any]:
    found: dict[str, Any] = {"upper": measure.upper if _is_number(measure.upper) else None}
    if found["upper"] is None and _is_number(measure.log10_upper):
        found["log10_upper"] = measure.log10_upper
    return {**found, "rigor": measure.rigor.label}


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _snapshot(model: Entry, version: str) -> Snapshot:
    shapes = model.entry("input_shapes")
    bound = model.entry("bound")
    if bound is None and "bound" in model.values:
        raise model.wrong("bound", "an object")
    return Snapshot(
        path=model.text("path"),
        layers=tuple(_read_layer(layer) for layer in model.entries("layers")),
        bound=measure(bound) if bound is not None else None,
        input_shapes=None
        if shapes is None
        else {name: shapes.shape(value, name) for name, value in shapes.values.items()},
        assumptions=model.texts("assumptions"),
        version=version,
    )


def _read_layer(layer: Entry) -> LayerSnapshot:
    return LayerSnapshot(
        name=layer.text("name"),
        norm=measure(layer),
        kind=layer.text("kind", ""),
        shape=layer.shape(layer.values.get("shape", []), "shape"),
        frobenius=layer.number("frobenius"),
    )
