"""The JSON report: strict, versioned, every number with what it is.

Infinite and missing numbers are null; the reason stands beside them. Lower ends are rounded
down and upper ends up when they became floats, so reading them back keeps their meaning.
"""

import json
import math
from typing import Any

from lipaudit.report.base import Canvas, Choice, Reporter, register
from lipaudit.results import (
    SCHEMA_VERSION,
    Bound,
    Certificates,
    Change,
    ClipReport,
    Factor,
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


def audit(report: Report, verdict: Verdict, _canvas: Canvas, _choice: Choice) -> str:
    """Write the report of an audit."""
    return _dump(
        {
            "schema_version": report.schema_version,
            "tool": _tool(report.tool),
            "models": [_model(model) for model in report.models],
            "findings": [_finding(finding) for finding in verdict.findings],
            "verdict": {"passed": verdict.passed, "exit_code": verdict.exit_code},
        }
    )


def clip(report: ClipReport, _canvas: Canvas) -> str:
    """Write the report of a clip."""
    return _dump(
        {
            "schema_version": SCHEMA_VERSION,
            "path": report.path,
            "output": report.output,
            "limit": report.limit,
            "method": report.method,
            "written": report.written,
            "changes": [_change(change) for change in report.changes],
            "skipped": [_skipped(skipped) for skipped in report.skipped],
            "notes": list(report.notes),
        }
    )


def _dump(document: Json) -> str:
    # ASCII only: names from files must not reach a terminal as they are.
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=True)


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
        "layers": [_layer(layer) for layer in model.layers],
        "skipped": [_skipped(skipped) for skipped in model.skipped],
        "bounds": [_bound(bound) for bound in model.bounds],
        "bound": _headline(model.bound) if model.bound is not None else None,
        "part": model.part or None,
        "pairs": [
            {"source": p.source, "target": p.target, **_measure(p.measure), "method": p.method}
            for p in model.pairs
        ],
        "running": _running(model.running) if model.running is not None else None,
        "certificates": _certificates(model.certificates) if model.certificates else None,
        "advice": model.advice or None,
    }


def _running(running: Running) -> Json:
    return {
        "dtype": running.dtype,
        "input_radius": running.radius,
        "error": _measure(running.error),
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
    }


def _measure(measure: Measure) -> Json:
    return {
        "lower": _number(measure.lower),
        "upper": _number(measure.upper),
        "log10_lower": _number(measure.log10_lower),
        "log10_upper": _number(measure.log10_upper),
        "rigor": measure.rigor.label,
        "method": measure.method,
    }


def _layer(layer: LayerResult) -> Json:
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
        "norm": _measure(layer.norm),
        "reshaped_norm": _number(layer.reshaped_norm),
        "power_iteration": _number(layer.power_iteration),
        "expected_stretch": _number(layer.expected_stretch),
        "frobenius": _number(layer.frobenius),
        "stable_rank": spectrum.stable_rank if spectrum else None,
        "entropy_rank": spectrum.entropy_rank if spectrum else None,
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
    }


def _skipped(skipped: Skipped) -> Json:
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
        "assumptions": list(bound.assumptions),
        "reasons": list(bound.reasons),
        "factors": [_factor(factor) for factor in bound.factors],
    }


def _factor(factor: Factor) -> Json:
    return {
        "name": factor.name,
        "kind": factor.kind,
        "gain": _measure(factor.gain),
        "running": _measure(factor.running),
        "remaining": _measure(factor.remaining),
        "expected": _number(factor.expected),
        "typical": _number(factor.typical),
        "typical_back": _number(factor.typical_back),
    }


def _headline(headline: Headline) -> Json:
    return {
        **_measure(headline.measure),
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


def _change(change: Change) -> Json:
    return {
        "name": change.name,
        "kind": change.kind,
        "tensors": list(change.tensors),
        "before": _measure(change.before),
        "after": _measure(change.after),
        "relative_change": _number(change.relative_change),
        "reason": change.reason or None,
    }


register(Reporter("json", "strict JSON with a versioned schema", audit, clip))
