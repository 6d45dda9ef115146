"""Recorded audits: a JSON report of an earlier run, read back to be compared."""

import os

from lipaudit import strict_json
from lipaudit.comparison import LayerSnapshot, Snapshot, doubt, is_folded
from lipaudit.errors import MalformedFile, UnsupportedFormat
from lipaudit.gates import baseline, document
from lipaudit.gates.document import Entry
from lipaudit.gates.measures import measure
from lipaudit.results import SCHEMA_VERSION

_HEAD = 256


def is_report(path: str) -> bool:
    """Tell whether a file is to be read as a report: JSON that states its schema.

    A model's index (`model.safetensors.index.json`) and a `config.json` are JSON as well.
    """
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir, False for what is too long
        return False
    start = document.head(path, _HEAD).lstrip()
    if not start.startswith(b"{"):
        return False
    if baseline.is_baseline(path):
        raise UnsupportedFormat(
            "is a baseline, not a model or a report",
            slug="document",
            path=path,
            hint="hold models against it with lipaudit check --baseline",
        )
    if b'"schema_version"' in start:
        return True
    data = document.read(path)
    value = strict_json.parse(data, "document", path=path) if b'"schema_version"' in data else None
    return isinstance(value, dict) and "schema_version" in value


def read(path: str) -> tuple[Snapshot, ...]:
    """Return what a report says about its models; every field that is used is checked.

    A model that could not be audited is one without a layer and without a bound.
    """
    whole = Entry.parse(path)
    version = whole.whole("schema_version")
    if version != SCHEMA_VERSION:
        raise UnsupportedFormat(
            f"report of schema version {version}, this lipaudit reads {SCHEMA_VERSION}",
            slug="report-version",
            path=path,
            hint="audit the model again",
        )
    if "models" not in whole.values:
        raise MalformedFile(
            "is not the report of an audit",
            slug="document",
            path=path,
            hint="compare what inspect, bound or check wrote with -f json",
        )
    tool = whole.entry("tool")
    made_by = tool.text("version", "") if tool is not None else ""
    models = tuple(_snapshot(model, made_by) for model in whole.entries("models"))
    failures = whole.entries("failures") if "failures" in whole.values else ()
    return *models, *(Snapshot(one.text("path"), (), version=made_by) for one in failures)


def _snapshot(model: Entry, version: str) -> Snapshot:
    shapes = model.entry("input_shapes")
    bound = model.entry("bound")
    assumptions = {text for one in model.entries("bounds") for text in one.texts("assumptions")}
    layers = tuple(_layer(layer) for layer in model.entries("layers"))
    return Snapshot(
        path=model.text("path"),
        layers=layers,
        bound=measure(bound) if bound is not None else None,
        input_shapes=None
        if shapes is None
        else {name: shapes.shape(value, name) for name, value in shapes.values.items()},
        assumptions=tuple(sorted(assumptions)),
        skipped=tuple(skipped.text("name") for skipped in model.entries("skipped")),
        version=version,
        sha256=model.text("sha256", ""),
        folded=is_folded(bound is not None, model.texts("notes"), [x.name for x in layers]),
        alarms=model.texts("alarms"),
        doubt=""
        if bound is None
        else doubt(model.text("topology", ""), bound.flag("certified"), bound.texts("reasons")),
        without_norm=model.texts("without_norm"),
    )


def _layer(layer: Entry) -> LayerSnapshot:
    norm = layer.entry("norm")
    if norm is None:
        raise layer.wrong("norm", "an object")
    return LayerSnapshot(
        name=layer.text("name"),
        norm=measure(norm),
        kind=layer.text("kind", ""),
        shape=layer.shape(layer.values.get("shape", []), "shape"),
        frobenius=layer.number("frobenius"),
    )
