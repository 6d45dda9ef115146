"""Comparing: two audits side by side, as a table, as Markdown, as JSON and as a page."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from lipaudit.comparison import Comparison, LayerChange, LayerSnapshot, ModelChange, Snapshot
from lipaudit.report import change_words as words
from lipaudit.report import figures, html_changes, html_parts
from lipaudit.report.base import Canvas
from lipaudit.report.page import Page
from lipaudit.report.text import safe
from lipaudit.results import SCHEMA_VERSION, Finding, Measure

_TITLES = ("layer", "norm before ≤", "after ≤", "factor", "")
_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<|#~"})
"""What would be read as markup; `safe` has taken line ends out."""


def table(found: Comparison, canvas: Canvas, every: bool) -> str:
    """Draw the changes for a terminal."""
    page = Page(canvas)
    for change in found.models:
        page.say(words.title(change), bold=True)
        page.say(words.bounds(change))
        rows = [words.row(layer, page.name_limit) for layer in words.shown(change, every)]
        if rows:
            page.table(_TITLES, rows, right={1, 2, 3})
        page.say(words.summary(change))
        for note in change.notes:
            page.say(f"note: {safe(note)}")
        page.gap()
    for finding in found.findings:
        page.say(words.objection(finding))
    if found.passed is not None:
        page.say("gate: passed" if found.passed else "gate: NOT passed", bold=True)
    return page.text()


def markdown(found: Comparison, _canvas: Canvas, every: bool) -> str:
    """Write the changes as Markdown, for a pull request."""
    lines: list[str] = []
    for change in found.models:
        lines += [f"### {_escaped(words.title(change))}", "", _escaped(words.bounds(change)), ""]
        rows = [words.row(layer, 120) for layer in words.shown(change, every)]
        if rows:
            lines += ["| layer | norm before ≤ | after ≤ | factor | |", "|---|--:|--:|--:|---|"]
            lines += [f"| {' | '.join(map(_escaped, row))} |" for row in rows]
            lines.append("")
        lines += [_escaped(words.summary(change)), ""]
        lines += [f"- {_escaped(safe(note))}" for note in change.notes]
    lines += [f"- {_escaped(words.objection(finding))}" for finding in found.findings]
    if found.passed is not None:
        lines += ["", f"**gate: {'passed' if found.passed else 'NOT passed'}**"]
    return "\n".join(lines).rstrip() + "\n"


def as_json(found: Comparison, _canvas: Canvas, _every: bool) -> str:
    """Write everything as strict JSON."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "before": found.before,
        "after": found.after,
        "models": [_model(change) for change in found.models],
        "findings": [_finding(finding) for finding in found.findings],
        "passed": found.passed,
    }
    return json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False)


def html(found: Comparison, _canvas: Canvas, every: bool) -> str:
    """Write a page with a chart and a table of all changes."""
    pairs = [pair for change in found.models for pair in _pairs(change, found, every)]
    sentences = [
        line
        for change in found.models
        for line in (
            f"{words.title(change)}: {words.bounds(change)}",
            words.summary(change),
            *(f"note: {safe(note)}" for note in change.notes),
        )
    ]
    sentences += [words.objection(finding) for finding in found.findings]
    failed = any(finding.severity == "error" for finding in found.findings)
    heading, tone = {
        None: ("What changed", ""),
        True: ("Passed: nothing grew by more than it may", "good"),
        False: ("Not passed", "bad" if failed else "unsure"),
    }[found.passed]
    return html_changes.comparison(heading, sentences, pairs, tone=tone)


def _pairs(change: ModelChange, found: Comparison, every: bool) -> Iterator[figures.Pair]:
    """Yield the bound and the layers, with the model's name where there are several."""
    start = f"{words.title(change)}: " if len(found.models) > 1 else ""
    before = change.before.bound if change.before is not None else None
    after = change.after.bound if change.after is not None else None
    if before is not None or after is not None:
        yield figures.Pair(f"{start}whole network", before, after, "", "bound")
    for layer in words.shown(change, every):
        sides = [side for side in (layer.after, layer.before) if side is not None]
        yield figures.Pair(
            start + words.name(layer, html_parts.NAME_LIMIT),
            layer.before.norm if layer.before is not None else None,
            layer.after.norm if layer.after is not None else None,
            words.note(layer),
            sides[0].kind,
        )


FORMATS: Mapping[str, Callable[[Comparison, Canvas, bool], str]] = MappingProxyType(
    {"table": table, "json": as_json, "markdown": markdown, "html": html}
)


def _escaped(text: str) -> str:
    return text.translate(_MARKDOWN)


def _model(change: ModelChange) -> dict[str, Any]:
    one, other = change.before, change.after
    return {
        "before": _snapshot(one) if one is not None else None,
        "after": _snapshot(other) if other is not None else None,
        "layers": [_layer(layer) for layer in change.layers],
        "notes": list(change.notes),
    }


def _snapshot(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "path": snapshot.path,
        "sha256": snapshot.sha256 or None,
        "bound": _measure(snapshot.bound) if snapshot.bound is not None else None,
    }


def _layer(change: LayerChange) -> dict[str, Any]:
    one, other = change.before, change.after
    return {
        "status": change.status,
        "factor": change.factor,
        "before": _side(one) if one is not None else None,
        "after": _side(other) if other is not None else None,
    }


def _side(layer: LayerSnapshot) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "shape": list(layer.shape),
        "norm": _measure(layer.norm),
    }


def _measure(measure: Measure) -> dict[str, Any]:
    return {
        "lower": _number(measure.lower),
        "upper": _number(measure.upper),
        "log10_upper": _number(measure.log10_upper),
        "rigor": measure.rigor.label,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule,
        "severity": finding.severity,
        "model": finding.model,
        "where": finding.where,
        "message": finding.message,
        "measured": _number(finding.measured),
        "limit": _number(finding.limit),
    }


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
