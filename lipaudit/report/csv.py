"""CSV: one row a layer, a bound, a finding; for spreadsheets and data frames.

Numbers have every digit; a missing one is an empty cell, and `reason` says why. Programs that
show such a file run cells which begin like a formula, so those of text get a ' in front.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lipaudit.report.base import Canvas, Choice, Reporter, register
from lipaudit.report.json import Json, audit_document, clip_document
from lipaudit.report.numbers import shape
from lipaudit.report.text import DATA_LIMIT, short
from lipaudit.results import ClipReport, Report, Verdict

COLUMNS = (
    *("record", "model", "name", "kind", "shape", "geometry", "parameters", "method", "rigor"),
    *("lower", "upper", "log10_lower", "log10_upper", "certified"),
    *("reshaped_norm", "power_iteration", "expected_stretch", "frobenius", "stable_rank"),
    *("entropy_rank", "numerical_rank", "singular_values", "at_least_one", "log_share"),
    *("tied_with", "rule", "severity", "measured", "limit", "reason"),
)
"""What a row of an audit has; which of them are filled depends on `record`."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Beginnings that a spreadsheet takes for a formula, the full-width ones included (OWASP)."""


def audit(report: Report, verdict: Verdict, _canvas: Canvas, _choice: Choice) -> str:
    """Write the report of an audit."""
    return _table(COLUMNS, _rows(audit_document(report, verdict)))


def clip(report: ClipReport, _canvas: Canvas) -> str:
    """Write the report of a clip: one row a layer, nested numbers as before.upper."""
    document = clip_document(report)
    whole = {key: part for key, part in document.items() if not isinstance(part, list)}
    rows = [
        {"record": "clip", **_flat(whole)},
        *({"record": "change", **_flat(change)} for change in document["changes"]),
        *({"record": "skipped", **skipped} for skipped in document["skipped"]),
        *({"record": "assumption", "reason": text} for text in document["assumptions"]),
        *({"record": "note", "reason": note} for note in document["notes"]),
    ]
    return _table(tuple(dict.fromkeys(key for row in rows for key in row)), rows)


def _rows(document: Json) -> Iterator[Json]:
    for model in document["models"]:
        path = model["path"]
        if model["bound"] is not None:
            yield {"record": "bound", "model": path, **_with_reasons(model["bound"])}
        for bound in model["bounds"]:
            yield {"record": "method", "model": path, **_with_reasons(bound)}
        for layer in model["layers"]:
            yield {"record": "layer", "model": path, **_layer(layer)}
        for skipped in model["skipped"]:
            yield {"record": "skipped", "model": path, **skipped}
        of_bounds = (text for bound in model["bounds"] for text in bound["assumptions"])
        for text in dict.fromkeys((*model["assumptions"], *of_bounds)):
            yield {"record": "assumption", "model": path, "reason": text}
    for failure in document["failures"]:
        yield {"record": "failure", "model": failure["path"], "reason": failure["cause"]}
    for finding in document["findings"]:
        yield {
            "record": "finding",
            "name": finding["where"],
            "reason": finding["message"],
            **finding,
        }
    verdict = document["verdict"]
    passed = {True: "passed", False: "not passed", None: "no gate"}[verdict["passed"]]
    yield {"record": "verdict", "reason": f"{passed}, exit code {verdict['exit_code']}"}


def _with_reasons(bound: Json) -> Json:
    reasons = [bound["reason"], *bound["reasons"]]
    return {**bound, "reason": "; ".join(reason for reason in reasons if reason)}


def _layer(layer: Json) -> Json:
    norm, spectrum = layer["norm"], layer["spectrum"] or {}
    missing = [f"{key}: {why}" for key, why in layer["missing"].items() if key in COLUMNS]
    return {
        **layer,
        **norm,
        "shape": shape(tuple(layer["shape"])),
        "geometry": " ".join(f"{key}={value}" for key, value in layer["geometry"].items()),
        "singular_values": spectrum.get("count"),
        "at_least_one": spectrum.get("at_least_one"),
        "reason": "; ".join([*([norm["reason"]] if norm["reason"] else []), *missing]),
    }


def _flat(record: Json, before: str = "") -> Json:
    """Return the record with nested objects spread out and lists as words."""
    flat: Json = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[before + key] = " ".join(map(str, value)) if isinstance(value, list) else value
    return flat


def _table(columns: Sequence[str], rows: Iterable[Json]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return out.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    text = short(str(value), DATA_LIMIT)
    # What stands behind blanks begins the cell too for some programs.
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


register(Reporter("csv", "one row a layer, bound and finding", audit, clip))
