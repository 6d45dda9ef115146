"""JSON lines: the JSON report cut into records, one a line, for tools that read streams.

With `inspect` each layer is first written as soon as it is measured, as a record `measured`; what
depends on the other layers (its share, ties) and on all of them stands in the records of the
report, which follow. Those begin with `run`: a stream without it was cut short, and is no report.

A record is what the JSON report holds at that place, plus `record`, which says what it is, and
`model`, which says of which model.
"""

import json
from collections.abc import Iterator, Mapping

from lipaudit.report.base import Canvas, Choice, Reporter, register
from lipaudit.report.json import (
    Json,
    audit_document,
    clip_document,
    layer_document,
    skipped_document,
)
from lipaudit.results import ClipReport, LayerResult, Report, Skipped, Verdict

_OF_A_MODEL = {"layers": "layer", "skipped": "skipped", "bounds": "bound", "pairs": "pair"}
"""Lists of a model -> what one of their items is called."""
_OF_A_CLIP = {"changes": "change", "skipped": "skipped"}


def audit(report: Report, verdict: Verdict, _canvas: Canvas, _choice: Choice) -> str:
    """Write the report of an audit."""
    return _lines(audit_records(report, verdict))


def clip(report: ClipReport, _canvas: Canvas) -> str:
    """Write the report of a clip."""
    return _lines(clip_records(report))


def audit_records(report: Report, verdict: Verdict) -> Iterator[Json]:
    """Yield the run, then every model followed by what belongs to it, then what was found."""
    document = audit_document(report, verdict)
    yield {
        "record": "run",
        "schema_version": document["schema_version"],
        "tool": document["tool"],
        "verdict": document["verdict"],
    }
    for model in document["models"]:
        yield from _cut("model", model, _OF_A_MODEL)
    for failure in document["failures"]:
        yield {"record": "failure", "model": failure.pop("path"), **failure}
    for finding in document["findings"]:
        yield {"record": "finding", **finding}


def ahead(path: str, layer: LayerResult | Skipped) -> str:
    """Write a layer before the report is done: it may take hours."""
    if isinstance(layer, LayerResult):
        found = {"as": "layer", **layer_document(layer)}
    else:
        found = {"as": "skipped", **skipped_document(layer)}
    return _lines(iter([{"record": "measured", "model": path, **found}]))


def clip_records(report: ClipReport) -> Iterator[Json]:
    """Yield the clip as a whole, then every layer."""
    yield from _cut("clip", clip_document(report), _OF_A_CLIP)


def _cut(name: str, whole: Json, lists: Mapping[str, str]) -> Iterator[Json]:
    """Yield the whole without its lists, then their items."""
    path = whole["path"]
    yield {"record": name, **{key: part for key, part in whole.items() if key not in lists}}
    for key, single in lists.items():
        for item in whole[key]:
            yield {"record": single, "model": path, **item}


def _lines(records: Iterator[Json]) -> str:
    return "".join(
        json.dumps(record, allow_nan=False, ensure_ascii=True) + "\n" for record in records
    )


register(Reporter("jsonl", "JSON, one record a line", audit, clip))
