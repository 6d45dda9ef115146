"""SARIF 2.1.0, as code-scanning services read it: one result a finding, layers as locations.

A result's fingerprint is made of the rule, the end of the model's path and the layer: the same
thing found again after a retraining, or on another machine, is recognised as the same.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from lipaudit.errors import ExitCode
from lipaudit.report import clips, severities
from lipaudit.report.base import Canvas, Choice, Reporter, register
from lipaudit.report.json import (
    Json,
    audit_document,
    clip_document,
    measure_document,
    strict,
)
from lipaudit.report.marks import marked
from lipaudit.report.text import DATA_LIMIT, encodable, short
from lipaudit.report.uris import relative, tails, uri
from lipaudit.results import (
    Change,
    ClipReport,
    Failure,
    Finding,
    Report,
    RuleInfo,
    Verdict,
)
from lipaudit.version import __version__

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_FINGERPRINT = "lipaudit/v1"
_START = {"startLine": 1}
_BASE = "%SRCROOT%"
"""What relative URIs are relative to, by the name that readers of SARIF know."""
_CLIPPED = RuleInfo(
    "clipped",
    "a layer was clipped",
    "A weight was changed to bring the layer's norm down; both norms are those of files.",
)
_UNMET = RuleInfo(
    "limit-not-met",
    "a limit is not proved to be met",
    "The layer's norm, measured on the copy that was written, is not proved to be at most its "
    "limit: a single pass (--method sedghi) leaves that open. --method project meets it.",
)


def audit(report: Report, verdict: Verdict, canvas: Canvas, _choice: Choice) -> str:
    """Write the report of an audit."""
    rules = severities.rules(verdict)
    places = _Places(report, canvas.folder)
    results = list(_results(verdict, tuple(rules), places))
    run = _run(
        [_rule(rule) for rule in rules.values()],
        results,
        {
            "executionSuccessful": not report.failures,
            "exitCode": verdict.exit_code,
            "toolExecutionNotifications": [
                _notification(failure, canvas.folder) for failure in report.failures
            ],
        },
    )
    run["artifacts"] = places.artifacts
    run["logicalLocations"] = places.logical
    run["properties"] = {
        "verdict": severities.verdict_in_words(verdict),
        "models": [
            {
                "path": relative(model.path, canvas.folder),
                "bound": found["bound"],
                "assumed": list(model.assumed),
            }
            for model, found in zip(
                report.models, audit_document(report, verdict)["models"], strict=True
            )
        ],
    }
    return _dump(run)


def clip(report: ClipReport, canvas: Canvas) -> str:
    """Write the report of a clip: what was changed, for information, and what is not met."""
    document = clip_document(report)
    unmet = list(clips.unmet(report))
    results = [
        _change(report, change, figures, canvas.folder)
        for change, figures in zip(report.changes, document["changes"], strict=True)
        if change.tensors and not any(change is one for one in unmet)
    ]
    seen: Counter[str] = Counter()
    for change in unmet:
        seen[change.name] += 1
        told = clips.objection(change)
        results.append(_unmet(report, told, change.name, canvas.folder, seen[change.name]))
    if not report.met and not unmet:
        # A limited layer without a number in the copy has no change: it must be seen all the same.
        results.append(_unmet(report, clips.outcome(report), "", canvas.folder))
    code = ExitCode.OK if report.met else ExitCode.GATE_FAILED
    run = _run(
        [_rule(_CLIPPED, level="none"), _rule(_UNMET)],
        results,
        {"executionSuccessful": True, "exitCode": int(code)},
    )
    run["properties"] = {
        **{key: part for key, part in document.items() if key != "changes"},
        "path": relative(report.path, canvas.folder),
        "output": relative(report.output, canvas.folder),
    }
    return _dump(run)


def _change(report: ClipReport, change: Change, figures: Json, folder: str) -> Json:
    return {
        "ruleId": _CLIPPED.id,
        "ruleIndex": 0,
        "kind": "informational",
        "level": "none",
        "message": {"text": _change_in_words(change)},
        "locations": [_clipped(report, change.name, folder)],
        "properties": figures,
    }


def _unmet(report: ClipReport, message: str, layer: str, folder: str, number: int = 1) -> Json:
    told = f"{short(layer)}: {message}" if layer else message
    tail = tails([report.output]).get(report.output, "")
    return {
        "ruleId": _UNMET.id,
        "ruleIndex": 1,
        "kind": "fail",
        "level": "error",
        "message": {"text": told},
        "locations": [_clipped(report, layer, folder)],
        "partialFingerprints": {_FINGERPRINT: _fingerprint(_UNMET.id, tail, layer, str(number))},
    }


def _clipped(report: ClipReport, layer: str, folder: str) -> Json:
    """Return the place of a layer: in the copy, or in the file itself where none was written."""
    file = _address(report.output if report.written else report.path, folder)
    place: Json = {"physicalLocation": {"artifactLocation": file, "region": _START}}
    if layer:
        place["logicalLocations"] = [{"name": layer, "kind": "layer"}]
    return place


def _address(path: str, folder: str) -> Json:
    """Return where a file is: from the working directory, wherever that is."""
    address = uri(path, folder) or "."
    return {"uri": address} if address.startswith("file:") else {"uri": address, "uriBaseId": _BASE}


class _Places:
    """Where things are: files and layers, numbered, for results to point at."""

    def __init__(self, report: Report, folder: str) -> None:
        paths = [model.path for model in report.models]
        self.tails = tails([*paths, *(failure.path for failure in report.failures)])
        self.artifacts: list[Json] = []
        self.logical: list[Json] = []
        self._folder = folder
        self._files: dict[str, int] = {}
        self._layers: dict[tuple[str, str], int] = {}
        self._names: Counter[str] = Counter()
        for model in report.models:
            if model.path not in self._files:
                self._files[model.path] = len(self.artifacts)
                hashes = {"hashes": {"sha-256": model.sha256}} if model.sha256 else {}
                self.artifacts.append({"location": _address(model.path, folder), **hashes})
            for layer in model.layers:
                self._add(model.path, layer.name, layer.kind, measure_document(layer.norm))
            for skipped in model.skipped:
                why = {"slug": skipped.slug, "reason": skipped.reason}
                self._add(model.path, skipped.name, skipped.kind, why)

    def of(self, finding: Finding) -> Json:
        """Return the location of a finding."""
        file = self._files.get(finding.model)
        address = _address(finding.model, self._folder)
        if file is not None:
            address = {**self.artifacts[file]["location"], "index": file}
        # Services show nothing of a file without a line, even where it has none.
        place: Json = {"physicalLocation": {"artifactLocation": address, "region": _START}}
        if finding.where:
            at = self._add(finding.model, finding.where, "", {})
            place["logicalLocations"] = [{**_without_properties(self.logical[at]), "index": at}]
        return place

    def _add(self, model: str, name: str, kind: str, properties: Json) -> int:
        """Return the number of a layer, a new one if it is not known yet."""
        if (model, name) not in self._layers:
            whole = f"{short(self.tails.get(model, ''), DATA_LIMIT)}::{short(name, DATA_LIMIT)}"
            self._names[whole] += 1
            # Two long names may be the same once they are shortened.
            again = f" ({self._names[whole]})" if self._names[whole] > 1 else ""
            location: Json = {"name": name, "fullyQualifiedName": whole + again, "kind": "layer"}
            known = {"decoratedName": f"{kind} {name}", "properties": properties} if kind else {}
            self._layers[model, name] = len(self.logical)
            self.logical.append({**location, **known})
        return self._layers[model, name]


def _results(verdict: Verdict, ids: Sequence[str], places: _Places) -> Iterator[Json]:
    seen: Counter[tuple[str, str, str]] = Counter()
    for finding in verdict.findings:
        key = (finding.rule, places.tails.get(finding.model, ""), finding.where)
        seen[key] += 1
        yield {
            "ruleId": finding.rule,
            "ruleIndex": ids.index(finding.rule),
            "level": severities.level(finding),
            "message": {"text": _message(finding)},
            "locations": [places.of(finding)],
            "partialFingerprints": {_FINGERPRINT: _fingerprint(*key, str(seen[key]))},
            "properties": {
                "severity": finding.severity,
                "measured": finding.measured,
                "limit": finding.limit,
            },
        }


def _message(finding: Finding) -> str:
    return f"{short(finding.where)}: {finding.message}" if finding.where else finding.message


def _fingerprint(*parts: str) -> str:
    # Every part with its length: no two lists of parts are one text.
    text = "".join(f"{len(part)}:{part}" for part in map(encodable, parts))
    return hashlib.sha256(text.encode()).hexdigest()


def _rule(rule: RuleInfo, level: str = "error") -> Json:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": rule.explanation},
        "help": {"text": rule.explanation},
        "defaultConfiguration": {"level": level},
    }


def _notification(failure: Failure, folder: str) -> Json:
    hint = f"; {failure.hint}" if failure.hint else ""
    return {
        "level": "error",
        "descriptor": {"id": failure.slug},
        "message": {"text": f"{failure.cause}{hint}"},
        "locations": [{"physicalLocation": {"artifactLocation": _address(failure.path, folder)}}],
    }


def _change_in_words(change: Change) -> str:
    before, after = marked(change.before), marked(change.after)
    return f"{short(change.name)}: the norm was at most {before}, and is at most {after}"


def _run(rules: Sequence[Json], results: Sequence[Json], invocation: Json) -> Json:
    driver = {"name": "lipaudit", "version": __version__, "semanticVersion": __version__}
    return {
        "tool": {"driver": {**driver, "rules": list(rules)}},
        "invocations": [invocation],
        # Without its own URI: the report does not tell where it was made.
        "originalUriBaseIds": {
            _BASE: {"description": {"text": "the working directory of lipaudit"}}
        },
        "results": list(results),
        "columnKind": "utf16CodeUnits",
    }


def _without_properties(location: Json) -> Json:
    return {key: part for key, part in location.items() if key != "properties"}


def _dump(run: Json) -> str:
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [_shown(strict(run))]}
    return json.dumps(log, indent=2, allow_nan=False, ensure_ascii=True)


def _shown(value: Any) -> Any:
    """Make every word fit to be shown, since that is what SARIF is for; a URI is so already."""
    if isinstance(value, str):
        return short(value, DATA_LIMIT)
    if isinstance(value, dict):
        return {
            short(key, DATA_LIMIT): part if key == "uri" else _shown(part)
            for key, part in value.items()
        }
    return [_shown(part) for part in value] if isinstance(value, list) else value


register(Reporter("sarif", "SARIF 2.1.0 for code-scanning services", audit, clip))
