"""JUnit XML, as CI servers read it: one suite a model, one case a layer or a gate.

What a rule objects to is a failure; what cannot be decided, or was not read, is an error.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from lipaudit.report import clips, severities
from lipaudit.report.base import Canvas, Choice, Reporter, register
from lipaudit.report.text import DATA_LIMIT, short
from lipaudit.results import ClipReport, Finding, Measure, ModelReport, Report, Verdict

_BOUND = "Lipschitz bound"
_NOTE = "system-out"


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What is to be said of a case."""

    tag: str
    """failure, error or skipped; system-out for what only informs."""
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    outcomes: tuple[_Outcome, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()

    @property
    def tag(self) -> str:
        """What the case counts as: CI servers take one outcome a case."""
        tags = {outcome.tag for outcome in self.outcomes}
        return next((tag for tag in ("failure", "error", "skipped") if tag in tags), "")


def audit(report: Report, verdict: Verdict, _canvas: Canvas, _choice: Choice) -> str:
    """Write the report of an audit."""
    suites = [(model.path, _cases(model, verdict)) for model in report.models]
    suites += [
        (f.path, [_Case("read", (_Outcome("error", f.slug, f.cause),))]) for f in report.failures
    ]
    known = {path for path, _ in suites}
    others = [finding for finding in verdict.findings if finding.model not in known]
    if others:
        suites.append(("lipaudit", [_gate(finding, verdict) for finding in others]))
    if verdict.passed is False and not any(case.tag for _, cases in suites for case in cases):
        # A gate that did not pass must be seen, whatever the reason.
        refused = _Outcome("error", "gate", severities.verdict_in_words(verdict))
        suites.append(("lipaudit", [_Case("gate", (refused,))]))
    return _document(suites)


def clip(report: ClipReport, _canvas: Canvas) -> str:
    """Write the report of a clip: one case a layer, skipped where it was left alone."""
    cases = []
    if report.bound is not None:
        ends = (("before", report.bound.before), ("after", report.bound.after))
        numbers = [figure for name, end in ends for figure in _figures(name, end)]
        cases.append(_Case(_BOUND, (), (*numbers, *_assumed(report.assumptions))))
    unmet = list(clips.unmet(report))
    for change in report.changes:
        said: tuple[_Outcome, ...] = ()
        if any(change is one for one in unmet):
            said = (_Outcome("failure", "limit", clips.objection(change)),)
        elif not change.tensors:
            said = (_Outcome("skipped", "left alone", change.reason),)
        figures = (*_figures("before", change.before), *_figures("after", change.after))
        moved = (("relative_change", _number(change.relative_change)),)
        cases.append(_Case(change.name, said, (*figures, *moved)))
    cases += [
        _Case(skipped.name, (_Outcome("skipped", skipped.slug, skipped.reason),))
        for skipped in report.skipped
    ]
    if not report.met and not unmet:
        # A limited layer without a number in the copy has no change: it must be seen all the same.
        cases.append(_Case("limits", (_Outcome("failure", "limit", clips.outcome(report)),)))
    return _document([(report.path, cases)])


def _cases(model: ModelReport, verdict: Verdict) -> list[_Case]:
    found: dict[str, list[Finding]] = {}
    for finding in verdict.findings:
        if finding.model == model.path:
            found.setdefault(finding.where, []).append(finding)
    cases = []
    if model.bound is not None:
        measure = model.bound.measure
        why = (("reason", "; ".join(model.bound.reasons)),) if model.bound.reasons else ()
        told = (*_figures("bound", measure), *why, *_assumed(model.assumed))
        cases.append(_Case(_BOUND, (), told))
    cases += [_gate(finding, verdict) for finding in found.pop("", [])]
    for layer in model.layers:
        outcomes = tuple(map(_outcome, found.pop(layer.name, [])))
        cases.append(_Case(layer.name, outcomes, _figures("norm", layer.norm)))
    for skipped in model.skipped:
        refused = tuple(map(_outcome, found.pop(skipped.name, [])))
        told = refused or (_Outcome("skipped", skipped.slug, skipped.reason),)
        cases.append(_Case(skipped.name, told))
    for where, findings in found.items():
        cases.append(_Case(where, tuple(map(_outcome, findings))))
    return cases


def _gate(finding: Finding, verdict: Verdict) -> _Case:
    summary = severities.rules(verdict)[finding.rule].summary
    return _Case(f"{finding.rule} {summary}", (_outcome(finding),))


def _outcome(finding: Finding) -> _Outcome:
    tag = {"error": "failure", "warning": "error", "note": _NOTE}[severities.level(finding)]
    figures = [
        f"{name} {_number(value)}"
        for name, value in (("measured", finding.measured), ("limit", finding.limit))
        if value is not None and math.isfinite(value)
    ]
    told = f" ({', '.join(figures)})" if figures else ""
    return _Outcome(tag, finding.rule, f"{finding.message}{told}")


def _figures(name: str, measure: Measure) -> tuple[tuple[str, str], ...]:
    return (
        (f"{name}_lower", _number(measure.lower)),
        (f"{name}_upper", _number(measure.upper)),
        (f"{name}_log10_lower", _number(measure.log10_lower)),
        (f"{name}_log10_upper", _number(measure.log10_upper)),
        (f"{name}_rigor", measure.rigor.label),
        (f"{name}_method", measure.method),
    )


def _assumed(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return (("assumed", "; ".join(texts)),) if texts else ()


def _number(value: float) -> str:
    """Write a number with every digit; "" for one that is none."""
    return repr(value) if math.isfinite(value) else ""


def _document(suites: Sequence[tuple[str, Sequence[_Case]]]) -> str:
    cases = [case for _, own in suites for case in own]
    lines = ['<?xml version="1.0" encoding="UTF-8"?>']
    lines.append(f"<testsuites{_attributes({'name': 'lipaudit', **_counts(cases)})}>")
    for name, own in suites:
        lines.append(f"  <testsuite{_attributes({'name': name, **_counts(own)})}>")
        for case in own:
            lines += _drawn(case, name)
        lines.append("  </testsuite>")
    return "\n".join([*lines, "</testsuites>"]) + "\n"


def _counts(cases: Sequence[_Case]) -> dict[str, str]:
    tags = [case.tag for case in cases]
    return {
        "tests": str(len(cases)),
        "failures": str(tags.count("failure")),
        "errors": str(tags.count("error")),
        "skipped": str(tags.count("skipped")),
        "time": "0",
    }


def _drawn(case: _Case, suite: str) -> Iterable[str]:
    yield f"    <testcase{_attributes({'name': case.name, 'classname': suite, 'time': '0'})}>"
    if case.properties:
        yield "      <properties>"
        for name, value in case.properties:
            yield f"        <property{_attributes({'name': name, 'value': value})}/>"
        yield "      </properties>"
    # One element a case: of several outcomes the one it counts as, with the words of all.
    told = [outcome for outcome in case.outcomes if outcome.tag == case.tag]
    if told:
        message = "; ".join(outcome.message for outcome in told)
        kind = " ".join(dict.fromkeys(outcome.kind for outcome in told))
        yield f"      <{case.tag}{_attributes({'type': kind, 'message': message})}/>"
    notes = [outcome.message for outcome in case.outcomes if outcome.tag == _NOTE]
    if notes:
        text = escape(short("; ".join(notes), DATA_LIMIT), quote=False)
        yield f"      <{_NOTE}>{text}</{_NOTE}>"
    yield "    </testcase>"


def _attributes(values: Mapping[str, str]) -> str:
    return "".join(
        f' {key}="{escape(short(value, DATA_LIMIT), quote=True)}"' for key, value in values.items()
    )


register(Reporter("junit", "JUnit XML for CI servers", audit, clip))
