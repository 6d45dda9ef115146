"""Markdown for job summaries and comments: the verdict, the bound, then the layers.

Bounds are rounded outward to six digits, as in the table.
"""

from collections.abc import Iterator, Sequence

from lipaudit.report import clips, numbers, severities
from lipaudit.report.base import Canvas, Choice, Reporter, register
from lipaudit.report.choices import chosen
from lipaudit.report.marked_up import code, prose, table
from lipaudit.report.marks import marked
from lipaudit.results import (
    Change,
    ClipReport,
    Finding,
    Headline,
    LayerResult,
    Measure,
    ModelReport,
    Report,
    Skipped,
    Verdict,
)

_MOST = 500
"""Layers of one model: a job summary may have one megabyte."""
_ICONS = {True: "✅", False: "❌", None: "📏"}
_MARKS = {"error": "❌", "warning": "❔", "note": "ℹ"}
_LAYER_TITLES = ("layer", "kind", "shape", "σ_max ≤", "σ_max ≥", "is", "rank", "share")
_RIGHT = frozenset({"σ_max ≤", "σ_max ≥", "share", "bound ≤", "log10", "measured", "limit"}) | {
    "before ≤",
    "after ≤",
    "change",
}


def audit(report: Report, verdict: Verdict, _canvas: Canvas, choice: Choice) -> str:
    """Write the report of an audit."""
    parts = [
        f"## {_ICONS[verdict.passed]} lipaudit: {severities.verdict_in_words(verdict)}",
        *_findings(report, verdict),
    ]
    for model in report.models:
        parts += _model(model, choice)
    tool = report.tool
    parts.append(f"<sub>lipaudit {tool.version} on {prose(tool.device)}, {prose(tool.dtype)}</sub>")
    return "\n\n".join(parts) + "\n"


def clip(report: ClipReport, _canvas: Canvas) -> str:
    """Write the report of a clip."""
    parts = [
        f"## {'✂' if report.met else _ICONS[False]} lipaudit {clips.in_words(report)}",
        f"{code(report.path)} → {code(report.output)}",
        _table(
            ("layer", "before ≤", "after ≤", "change", "why not"),
            [_change_row(change) for change in report.changes],
        ),
        *_skipped(report.skipped),
        *(
            f"- **limit not met:** {code(change.name)}: {prose(clips.objection(change))}"
            for change in clips.unmet(report)
        ),
        *(f"- assumed: {prose(text)}" for text in report.assumptions),
        *(f"- note: {prose(note)}" for note in report.notes),
        *(text for text in (clips.of_the_network(report), clips.nearness(report)) if text),
        clips.outcome(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _findings(report: Report, verdict: Verdict) -> Iterator[str]:
    rules = severities.rules(verdict)
    rows = [_finding_row(finding, rules[finding.rule].summary) for finding in verdict.findings]
    rows += [
        (_MARKS["error"], "cannot be audited", code(f.path), "", prose(f.cause), "", "")
        for f in report.failures
    ]
    if rows:
        yield _table(("", "rule", "model", "where", "what", "measured", "limit"), rows)


def _finding_row(finding: Finding, summary: str) -> tuple[str, ...]:
    return (
        _MARKS[severities.level(finding)],
        prose(f"{finding.rule} {summary}"),
        code(finding.model),
        code(finding.where),
        prose(finding.message),
        numbers.measured(finding.measured),
        "" if finding.limit is None else prose(numbers.limit(finding.limit)),
    )


def _model(model: ModelReport, choice: Choice) -> list[str]:
    shapes = ", ".join(f"{code(k)} {numbers.shape(s)}" for k, s in model.input_shapes.items())
    parts = [
        f"### {code(model.path)}",
        (
            f"{prose(model.format)}, {numbers.counted(len(model.layers), 'layer')} measured, "
            f"layer graph {prose(model.topology)}, input {shapes or 'of any size'}"
        ),
        *(f"**DANGER:** its pickle {prose(alarm)}" for alarm in model.alarms),
    ]
    if model.bound is not None:
        parts += _bound(model, model.bound)
    parts += _layers(model, choice)
    parts += _skipped(model.skipped)
    said = [("assumed", text) for text in model.assumed]
    said += [("note", text) for text in model.notes]
    said += [("advice", model.advice)] if model.advice else []
    if said:
        parts.append("\n".join(f"- {label}: {prose(text)}" for label, text in said))
    return parts


def _bound(model: ModelReport, headline: Headline) -> list[str]:
    measure = headline.measure
    part = f" of the part {code(model.part)}" if model.part else ""
    lines = [
        f"**Lipschitz bound (ℓ2){part}: ≤ {marked(measure)}** "
        f"({measure.rigor.label}, {prose(measure.method)}), ≥ {_lower(measure)}"
        if measure.is_finite
        else f"**Lipschitz bound (ℓ2){part}: none**"
    ]
    if headline.reasons or not headline.certified:
        lines.append(f"**Not certified:** {prose('; '.join(headline.reasons))}")
    rows = [
        (
            prose(bound.method),
            marked(bound.measure),
            numbers.exponent(bound.measure.log10_upper),
            bound.measure.rigor.label if bound.measure.is_finite else "",
            prose("; ".join(bound.reasons)),
        )
        for bound in model.bounds
    ]
    return [*lines, _table(("method", "bound ≤", "log10", "is", "why not"), rows)]


def _layers(model: ModelReport, choice: Choice) -> list[str]:
    shown = chosen(model.layers, choice)
    if not shown:
        return []
    parts = [_table(_LAYER_TITLES, [_layer_row(layer) for layer in shown[:_MOST]])]
    hidden = len(model.layers) - len(shown[:_MOST])
    return [*parts, f"{numbers.counted(hidden, 'more layer')} not shown"] if hidden else parts


def _layer_row(layer: LayerResult) -> tuple[str, ...]:
    spectrum = layer.spectrum
    return (
        code(layer.name),
        prose(layer.kind),
        numbers.shape(layer.shape),
        numbers.upper(layer.norm.upper, layer.norm.log10_upper),
        _lower(layer.norm),
        layer.norm.rigor.label,
        "" if spectrum is None else f"{spectrum.numerical_rank}/{spectrum.count}",
        numbers.percent(layer.log_share),
    )


def _lower(measure: Measure) -> str:
    return numbers.lower(measure.lower, measure.log10_lower)


def _skipped(skipped: Sequence[Skipped]) -> list[str]:
    if not skipped:
        return []
    rows = [
        (code(item.name), prose(item.kind), f"{prose(item.reason)} ({code(item.slug)})")
        for item in skipped[:_MOST]
    ]
    hidden = len(skipped) - len(rows)
    more = [f"{numbers.count(hidden)} more without a number not shown"] if hidden else []
    return [_table(("no number", "kind", "why"), rows), *more]


def _change_row(change: Change) -> tuple[str, ...]:
    return (
        code(change.name),
        marked(change.before),
        marked(change.after),
        numbers.change(change.relative_change),
        prose(change.reason),
    )


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return table(titles, rows, right=_RIGHT)


register(Reporter("markdown", "for job summaries and comments", audit, clip))
