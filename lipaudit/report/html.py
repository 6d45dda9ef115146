"""The HTML report: one self-contained page that says the verdict first.

It loads nothing, works from a disk and from an e-mail, in the dark and on paper.
"""

from lipaudit.report import clips, figures, html_changes, html_model, html_parts, numbers
from lipaudit.report.base import Canvas, Choice, Reporter, register
from lipaudit.report.html_page import page
from lipaudit.report.marks import marked
from lipaudit.report.text import short
from lipaudit.results import ClipReport, Failure, Finding, Report, Tool, Verdict

_FEW = 12
"""From so many models on a page, each gets fewer curves."""
_FINDINGS = 50
_TONES = {"error": "bad", "undecided": "unsure", "note": "soft"}


def audit(report: Report, verdict: Verdict, _canvas: Canvas, _choice: Choice) -> str:
    """Write the report of an audit."""
    curves = figures.CURVES if len(report.models) < _FEW else 8
    parts = [_verdict(report, verdict), _contents(report)]
    parts += [
        html_model.section(model, f"m{at}", curves=curves)
        for at, model in enumerate(report.models, 1)
    ]
    first = report.models[0].path if report.models else "nothing"
    more = f" and {len(report.models) - 1} more" if len(report.models) > 1 else ""
    return page(f"{short(first, 120)}{more} - lipaudit", "\n".join(parts), _foot(report.tool))


def clip(report: ClipReport, _canvas: Canvas) -> str:
    """Write what clipping did."""
    pairs = [
        figures.Pair(
            change.name,
            change.before,
            change.after,
            change.reason or f"weight moved by {numbers.change(change.relative_change)}",
            change.kind,
        )
        for change in report.changes
    ]
    said = (clips.of_the_network(report), clips.nearness(report), clips.outcome(report))
    done = ". ".join(f"{text[0].upper()}{text[1:]}" for text in said if text)
    title = clips.in_words(report)
    title = f"{title[0].upper()}{title[1:]}"
    skipped = [f"no number: {item.name}: {item.reason}" for item in report.skipped]
    unmet = [f"{change.name}: {clips.objection(change)}" for change in clips.unmet(report)]
    tone = ("good" if report.written else "") if report.met else "bad"
    lists = html_parts.items(unmet, "Limits that are not met", "bad")
    lists += html_parts.items(report.assumptions, "Assumptions")
    lists += html_parts.items(report.notes, "Notes") + html_parts.items(
        skipped, "Skipped", "unsure"
    )
    tone = "bad" if not report.met else "good" if report.written else ""
    body = (
        f'<section class="verdict {tone}">'
        f"<h1>{html_parts.text(title)}</h1><p>{html_parts.text(done)}</p>"
        f'<p class="soft">{html_parts.text(report.path)} → {html_parts.text(report.output)}, '
        f"by {html_parts.text(report.method)}</p></section>"
        f'<section class="model">{html_changes.section(pairs, "changes", limit=report.limit)}'
        f'<div class="lists">{lists}</div></section>'
    )
    return page(f"{title} - lipaudit", body, "")


def _verdict(report: Report, verdict: Verdict) -> str:
    title, tone = _title(report, verdict)
    shown = verdict.findings[:_FINDINGS]
    # With one model there is no doubt which is meant.
    several = len(report.models) + len(report.failures) > 1
    entries = "".join(_finding(finding, named=several) for finding in shown)
    unread = "".join(map(_failure, report.failures))
    listed = f'<ul class="findings">{unread}{entries}</ul>' if unread or entries else ""
    more = len(verdict.findings) - len(shown)
    rest = f"<p>{more:,} more findings stand in -f json.</p>" if more else ""
    summary = _summary(report)
    return f'<section class="verdict {tone}"><h1>{title}</h1>{summary}{listed}{rest}</section>'


def _title(report: Report, verdict: Verdict) -> tuple[str, str]:
    if verdict.passed is True:
        return "Passed: every gate is proved to hold", "good"
    if verdict.passed is False:
        failed = any(finding.severity == "error" for finding in verdict.findings)
        unread = "a file could not be read" if not verdict.findings else ""
        why = "a limit is exceeded" if failed else unread or "a claim could not be proved"
        return f"Not passed: {why}", "bad" if failed else "unsure"
    if any(finding.severity == "error" for finding in verdict.findings):
        return "Something is wrong", "bad"
    bounded = [model.bound for model in report.models if model.bound is not None]
    if not bounded:
        return "Layers measured; no gate was set", ""
    if all(bound.certified for bound in bounded):
        return "Certified; no gate was set", "good"
    return "Not certified; no gate was set", "unsure"


def _summary(report: Report) -> str:
    if len(report.models) != 1:
        return f"<p>{len(report.models)} models.</p>"
    (model,) = report.models
    if model.bound is None or not model.bound.measure.is_finite:
        return f'<p class="soft">{html_parts.text(model.path)}</p>'
    measure = model.bound.measure
    where = ", under the assumptions below" if model.assumed else " for all inputs x and y"
    return (
        f"<p>‖f(x) − f(y)‖ ≤ <strong>{marked(measure)}</strong> · ‖x − y‖, "
        f"{measure.rigor.label}{where}.</p>"
        f'<p class="soft">{html_parts.text(model.path)}</p>'
    )


def _finding(finding: Finding, *, named: bool) -> str:
    tone = _TONES.get(finding.severity, "soft")
    where = f" <code>{html_parts.text(short(finding.where, 120))}</code>" if finding.where else ""
    path = html_parts.text(short(finding.model, 120))
    model = f' <span class="soft">{path}</span>' if named else ""
    return (
        f'<li><span class="badge {tone}">{html_parts.text(finding.rule)}</span>'
        f"{where} {html_parts.text(finding.message)}{_measured(finding)}{model}</li>"
    )


def _failure(failure: Failure) -> str:
    hint = f"; {failure.hint}" if failure.hint else ""
    return (
        f'<li><span class="badge bad">{html_parts.text(failure.slug)}</span> '
        f"<code>{html_parts.text(short(failure.path, 120))}</code> "
        f"{html_parts.text(failure.cause + hint)}</li>"
    )


def _measured(finding: Finding) -> str:
    measured = numbers.measured(finding.measured)
    if not measured:
        return ""
    limit = f", limit {numbers.limit(finding.limit)}" if finding.limit is not None else ""
    return f" (measured {measured}{limit})"


def _contents(report: Report) -> str:
    """List the models with their bounds, each a link to its section."""
    if len(report.models) < 2:
        return ""
    rows = []
    for at, model in enumerate(report.models, 1):
        link = html_parts.name(model.path)
        shown = f'<a href="#m{at}">{link.shown}</a>'
        bound = model.bound
        largest = max(model.layers, key=lambda x: x.norm.log10_upper, default=None)
        rows.append(
            [
                html_parts.Cell(shown, link.key, link.classes),
                html_parts.upper(bound.measure) if bound else html_parts.number(None),
                html_parts.plain("" if bound is None else "yes" if bound.certified else "no"),
                html_parts.upper(largest.norm) if largest else html_parts.number(None),
                html_parts.count(len(model.layers)),
            ]
        )
    titles = (
        ("model", ""),
        ("bound ≤", "of the whole network"),
        ("certified", ""),
        ("largest norm ≤", "of any layer"),
        ("layers", "measured"),
    )
    made = html_parts.Table("contents", "Models", titles, rows)
    return f'<nav class="model" aria-label="Models"><h2>Models</h2>{html_parts.table(made)}</nav>'


def _foot(tool: Tool) -> str:
    libraries = ", ".join(f"{key} {value}" for key, value in tool.libraries.items())
    return (
        f"<p>lipaudit {html_parts.text(tool.version)} on {html_parts.text(tool.device)}, "
        f"{html_parts.text(tool.dtype)}; {html_parts.text(libraries)}. Upper ends are rounded up, "
        "lower ends down; ~ computed, not proved; ? estimated. Bounds are of the exact-real "
        "function of the stored weights.</p>"
        "<p>Spectra as in Sedghi, Gupta &amp; Long, The Singular Values of Convolutional Layers "
        "(ICLR 2019), Figures 5 to 7.</p>"
    )


register(Reporter("html", "one self-contained page with plots", audit, clip))
