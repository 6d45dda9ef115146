"""Workflow commands: findings as annotations of a GitHub Actions run."""

import math
from collections.abc import Iterator

from lipaudit.report import clips, severities
from lipaudit.report.base import Canvas, Choice, Reporter, register
from lipaudit.report.marks import marked
from lipaudit.report.numbers import counted
from lipaudit.report.text import DATA_LIMIT, short
from lipaudit.report.uris import inside
from lipaudit.results import ClipReport, Finding, Report, Verdict

_COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}


def audit(report: Report, verdict: Verdict, canvas: Canvas, _choice: Choice) -> str:
    """Write one command a finding, and one about the gate."""
    return "".join(f"{line}\n" for line in _audit_lines(report, verdict, canvas.folder))


def clip(report: ClipReport, canvas: Canvas) -> str:
    """Write one command about the clip, and one for every layer that is not as it should be."""
    assumed = f"; assumed: {'; '.join(report.assumptions)}" if report.assumptions else ""
    said = f"{clips.in_words(report)}; {clips.outcome(report)}{assumed}"
    code = "notice" if report.met else "error"
    lines = [_command(code, "lipaudit clip", said, inside(report.output, canvas.folder))]
    lines += [
        _command("error", "limit not met", f"{short(change.name)}: {clips.objection(change)}")
        for change in clips.unmet(report)
    ]
    lines += [
        _command(
            "warning", f"no number [{skipped.slug}]", f"{short(skipped.name)}: {skipped.reason}"
        )
        for skipped in report.skipped
    ]
    return "".join(f"{line}\n" for line in lines)


def _audit_lines(report: Report, verdict: Verdict, folder: str) -> Iterator[str]:
    rules = severities.rules(verdict)
    for failure in report.failures:
        hint = f"; {failure.hint}" if failure.hint else ""
        message = f"{short(failure.path)}: {failure.cause}{hint}"
        yield _command("error", "cannot be audited", message, inside(failure.path, folder))
    for finding in verdict.findings:
        yield _command(
            _COMMANDS[severities.level(finding)],
            f"{finding.rule} {rules[finding.rule].summary}",
            _message(finding),
            inside(finding.model, folder),
        )
    for model in report.models:
        if model.bound is not None and model.bound.measure.is_finite:
            measure = model.bound.measure
            what = f"{short(model.path)}: Lipschitz bound (l2) {marked(measure)}"
            assumed = f"; assumed: {'; '.join(model.assumed)}" if model.assumed else ""
            yield _command("notice", "bound", f"{what} ({measure.rigor.label}){assumed}")
    code = "error" if verdict.passed is False else "notice"
    models = counted(len(report.models), "model")
    yield _command(code, "lipaudit", f"{models}: {severities.verdict_in_words(verdict)}")


def _message(finding: Finding) -> str:
    where = f" at {short(finding.where)}" if finding.where else ""
    numbers = [
        f"{name} {value!r}"
        for name, value in (("measured", finding.measured), ("limit", finding.limit))
        if value is not None and math.isfinite(value)
    ]
    figures = f" ({', '.join(numbers)})" if numbers else ""
    return f"{short(finding.model)}{where}: {finding.message}{figures}"


def _command(name: str, title: str, message: str, file: str = "") -> str:
    """Write a command; a file outside of the checkout cannot be annotated and is left out."""
    properties = {"file": file, "line": "1" if file else "", "title": title}
    written = ",".join(f"{key}={_property(text)}" for key, text in properties.items() if text)
    return f"::{name} {written}::{_data(short(message, DATA_LIMIT))}"


def _data(text: str) -> str:
    # As the runner's own toolkit does it: what is not encoded would end the command.
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(short(text, DATA_LIMIT)).replace(":", "%3A").replace(",", "%2C")


register(Reporter("github", "annotations of a GitHub Actions run", audit, clip))
