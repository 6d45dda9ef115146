"""The JSON report: strict, versioned, every number with what it is.

An infinite or missing number is null, and `reason`, `reasons` or `missing` beside it says why.
Lower ends are rounded down and upper ends up when they became floats, so reading them back
keeps their meaning. What a document looks like is stated in schema.json, beside this file, and
what `diff`, `rules` and `doctor` write in schema_diff.json and so on.
"""

import json
import math
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Any

from lipaudit.report.base import Canvas, Choice, Reporter, register
from lipaudit.report.text import encodable
from lipaudit.results import (
    SCHEMA_VERSION,
    Bound,
    BoundChange,
    Certificates,
    Change,
    ClipReport,
    Factor,
    Failure,
    Finding,
    Headline,
    LayerResult,
    Measure,
    ModelReport,
    Report,
    Running,
    Skipped,
    SpectrumSummary,
    Tool,
    Verdict,
)

Json = dict[str, Any]

SCHEMAS: Mapping[str, str] = MappingProxyType(
    {
        "report": "schema.json",
        "diff": "schema_diff.json",
        "rules": "schema_rules.json",
        "doctor": "schema_doctor.json",
    }
)
"""What is published as JSON -> the file that states how it looks."""

_NO_BOUND = "no finite upper bound is known"
_OVERFLOW = "past the float range: see log10_upper"
_UNDERFLOW = "the lower end is 0, which has no logarithm"
_NAUGHT = "the number is 0, which has no logarithm"
_NO_LIMIT = "a radius that is null is infinite: no movement changes the class"
_NOT_FINITE = "not a finite number"
_MISSING = {
    "in_shape": "the input size is not known",
    "out_shape": "the input size is not known",
    "reshaped_norm": "the weight is no (outputs x rest) matrix",
    "power_iteration": "not asked for, or the input size is not known",
    "expected_stretch": "no samples were given",
    "frobenius": "the input size is not known",
    "spectrum": "not asked for, or too large",
    "log_share": "no norm has a finite logarithm other than 0",
}
"""Why a number of a layer may be missing; the ranks are missing with the spectrum."""
_OF_SPECTRUM = ("stable_rank", "entropy_rank", "numerical_rank")


def audit(report: Report, verdict: Verdict, _canvas: Canvas, _choice: Choice) -> str:
    """Write the report of an audit."""
    return _dump(audit_document(report, verdict))


def clip(report: ClipReport, _canvas: Canvas) -> str:
    """Write the report of a clip."""
    return _dump(clip_document(report))


def audit_document(report: Report, verdict: Verdict) -> Json:
    """Return the report of an audit as strict JSON values."""
    document = {
        "schema_version": report.schema_version,
        "tool": _tool(report.tool),
        "models": [_model(model) for model in report.models],
        "failures": [_failure(failure) for failure in report.failures],
        "findings": [_finding(finding) for finding in verdict.findings],
        "verdict": {"passed": verdict.passed, "exit_code": verdict.exit_code},
    }
    found: Json = strict(document)
    return found


def clip_document(report: ClipReport) -> Json:
    """Return the report of a clip as strict JSON values."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "path": report.path,
        "output": report.output,
        "limit": report.limit,
        "bound": _bound_change(report.bound) if report.bound is not None else None,
        "method": report.method,
        "written": report.written,
        "met": report.met,
        "assumptions": list(report.assumptions),
        "changes": [_change(change) for change in report.changes],
        "skipped": [skipped_document(skipped) for skipped in report.skipped],
        "notes": list(report.notes),
    }
    found: Json = strict(document)
    return found


def schema(document: str = "report") -> str:
    """Return the JSON Schema of a kind of documents: one of `SCHEMAS`."""
    file = resources.files(__package__).joinpath(SCHEMAS[document])
    return file.read_text(encoding="utf-8")


def _dump(document: Json) -> str:
    # ASCII only: names from files must not reach a terminal as they are.
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=True)


def strict(value: Any) -> Any:
    """Return the value as strict JSON holds it: no NaN, no infinity, no lone surrogate."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return {encodable(str(key)): strict(part) for key, part in value.items()}
    return [strict(part) for part in value] if isinstance(value, (list, tuple)) else value


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _tool(tool: Tool) -> Json:
    return {
        "name": "lipaudit",
        "version": tool.version,
        "libraries": dict(tool.libraries),
        "device": tool.device,
        "dtype": tool.dtype,
    }


def _model(model: ModelReport) -> Json:
    return {
        "path": model.path,
        "sha256": model.sha256,
        "format": model.format,
        "input_shapes": {name: list(shape) for name, shape in model.input_shapes.items()},
        "input_shape_source": model.input_shape_source,
        "topology": model.topology,
        "assumptions": list(model.assumptions),
        "notes": list(model.notes),
        "alarms": list(model.alarms),
        "layers": [layer_document(layer) for layer in model.layers],
        "skipped": [skipped_document(skipped) for skipped in model.skipped],
        "bounds": [_bound(bound) for bound in model.bounds],
        "bound": _headline(model.bound) if model.bound is not None else None,
        "part": model.part or None,
        "pairs": [
            {
                "source": p.source,
                "target": p.target,
                **measure_document(p.measure),
                "method": p.method,
            }
            for p in model.pairs
        ],
        "running": _running(model.running) if model.running is not None else None,
        "certificates": _certificates(model.certificates) if model.certificates else None,
        "advice": model.advice or None,
        "without_norm": list(model.without_norm),
    }


def _running(running: Running) -> Json:
    return {
        "dtype": running.dtype,
        "input_radius": running.radius,
        "error": measure_document(running.error),
        "assumptions": list(running.assumptions),
        "reasons": list(running.reasons),
    }


def _certificates(found: Certificates) -> Json:
    return {
        "data": found.path,
        "of": found.of,
        "count": found.count,
        "correct": found.correct,
        "labelled": found.labelled,
        "median_radius": _number(found.median),
        "radii": [_number(radius) for radius in found.radii],
        "accuracy": [
            {"eps": distance, "certified": share} for distance, share in found.accuracy.items()
        ],
        "rigor": found.rigor.label,
        "reason": None if all(map(math.isfinite, found.radii)) else _NO_LIMIT,
    }


def measure_document(measure: Measure) -> Json:
    """Return a number with what it is."""
    return {
        "lower": _number(measure.lower),
        "upper": _number(measure.upper),
        "log10_lower": _number(measure.log10_lower),
        "log10_upper": _number(measure.log10_upper),
        "rigor": measure.rigor.label,
        "method": measure.method,
        "reason": _why_null(measure),
    }


def _why_null(measure: Measure) -> str | None:
    """Say why an end of the measure is null; None when neither is."""
    above = _why_no_upper(measure)
    if measure.log10_upper > -math.inf and not math.isfinite(measure.log10_lower):
        return f"{above}; {_UNDERFLOW}" if above else _UNDERFLOW
    return above


def _why_no_upper(measure: Measure) -> str | None:
    if not math.isfinite(measure.upper):
        return _OVERFLOW if measure.is_finite else _NO_BOUND
    return _NAUGHT if measure.log10_upper == -math.inf else None


def layer_document(layer: LayerResult) -> Json:
    """Return one layer as the report has it."""
    found = _numbers(layer)
    missing = {key: _MISSING[key] for key in _MISSING if found[key] is None}
    for key in _OF_SPECTRUM:
        if found[key] is None:
            missing[key] = _NOT_FINITE if layer.spectrum else _MISSING["spectrum"]
    return {**found, "missing": missing}


def _numbers(layer: LayerResult) -> Json:
    spectrum = layer.spectrum
    return {
        "name": layer.name,
        "kind": layer.kind,
        "tensors": list(layer.tensors),
        "shape": list(layer.shape),
        "dtype": layer.dtype,
        "parameters": layer.parameters,
        "geometry": dict(layer.geometry),
        "in_shape": list(layer.in_shape) if layer.in_shape is not None else None,
        "out_shape": list(layer.out_shape) if layer.out_shape is not None else None,
        "norm": measure_document(layer.norm),
        "reshaped_norm": _number(layer.reshaped_norm),
        "power_iteration": _number(layer.power_iteration),
        "expected_stretch": _number(layer.expected_stretch),
        "frobenius": _number(layer.frobenius),
        "stable_rank": _number(spectrum.stable_rank) if spectrum else None,
        "entropy_rank": _number(spectrum.entropy_rank) if spectrum else None,
        "numerical_rank": spectrum.numerical_rank if spectrum else None,
        "log_share": _number(layer.log_share),
        "tied_with": layer.tied_with or None,
        "spectrum": _spectrum(spectrum) if spectrum else None,
        "leading": _leading(layer) if layer.leading else None,
    }


def _leading(layer: LayerResult) -> Json:
    return {"lower_bounds": list(layer.leading), "method": layer.leading_method}


def _spectrum(spectrum: SpectrumSummary) -> Json:
    return {
        "of": spectrum.of or "the layer",
        "count": spectrum.count,
        "complete": spectrum.complete,
        "rigor": spectrum.rigor.label,
        "radius": _number(spectrum.radius),
        "method": spectrum.method,
        "tolerance": _number(spectrum.tolerance),
        "at_least_one": spectrum.at_least_one,
        "quantiles": list(spectrum.quantiles),
        "curve": {
            "ranks": [rank for rank, _ in spectrum.curve],
            "values": [_number(value) for _, value in spectrum.curve],
        },
    }


def skipped_document(skipped: Skipped) -> Json:
    """Return what has no number as the report has it."""
    return {
        "name": skipped.name,
        "kind": skipped.kind,
        "slug": skipped.slug,
        "reason": skipped.reason,
    }


def _bound(bound: Bound) -> Json:
    return {
        "method": bound.method,
        "upper": _number(bound.measure.upper),
        "log10_upper": _number(bound.measure.log10_upper),
        "rigor": bound.measure.rigor.label,
        "reason": _why_no_upper(bound.measure),
        "assumptions": list(bound.assumptions),
        "reasons": list(bound.reasons),
        "factors": [_factor(factor) for factor in bound.factors],
    }


def _factor(factor: Factor) -> Json:
    return {
        "name": factor.name,
        "kind": factor.kind,
        "gain": measure_document(factor.gain),
        "running": measure_document(factor.running),
        "remaining": measure_document(factor.remaining),
        "expected": _number(factor.expected),
        "typical": _number(factor.typical),
        "typical_back": _number(factor.typical_back),
    }


def _headline(headline: Headline) -> Json:
    return {
        **measure_document(headline.measure),
        "certified": headline.certified,
        "reasons": list(headline.reasons),
    }


def _finding(finding: Finding) -> Json:
    return {
        "rule": finding.rule,
        "severity": finding.severity,
        "model": finding.model,
        "where": finding.where,
        "message": finding.message,
        "measured": _number(finding.measured),
        "limit": _number(finding.limit),
    }


def _failure(failure: Failure) -> Json:
    return {
        "path": failure.path,
        "slug": failure.slug,
        "cause": failure.cause,
        "hint": failure.hint or None,
        "exit_code": failure.exit_code,
    }


def _change(change: Change) -> Json:
    return {
        "name": change.name,
        "kind": change.kind,
        "tensors": list(change.tensors),
        "before": measure_document(change.before),
        "after": measure_document(change.after),
        "limit": change.limit,
        "relative_change": _number(change.relative_change),
        "least_change": change.least_change,
        "reason": change.reason or None,
    }


def _bound_change(change: BoundChange) -> Json:
    return {
        "limit": change.limit,
        "before": measure_document(change.before),
        "after": measure_document(change.after),
    }


register(Reporter("json", "strict JSON with a versioned schema", audit, clip))
