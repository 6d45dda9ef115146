"""The published JSON Schema: real reports fit it, those with less or with something else do not."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from torch import nn

import lipaudit
from lipaudit.gates.judge import judge
from lipaudit.gates.policy import Policy
from lipaudit.report import json as reporter
from lipaudit.report.jsonl import audit_records, clip_records
from lipaudit.results import ClipReport, Report, Verdict
from tests.report.hostile import CLIP, HOSTILE, REPORT, VERDICT

SCHEMA: dict[str, Any] = json.loads(reporter.schema())


def closed(schema: Any) -> Any:
    """Return the schema without the freedom to add fields, which only later versions may use."""
    if isinstance(schema, dict):
        inner = {key: closed(part) for key, part in schema.items()}
        is_known = "properties" in schema and "required" in schema
        return {**inner, "additionalProperties": False} if is_known else inner
    return [closed(part) for part in schema] if isinstance(schema, list) else schema


STRICT = Draft202012Validator(closed(SCHEMA))


def audited(report: Report, verdict: Verdict) -> Any:
    return json.loads(json.dumps(reporter.audit_document(report, verdict), allow_nan=False))


def clipped(report: ClipReport) -> Any:
    return json.loads(json.dumps(reporter.clip_document(report), allow_nan=False))


def in_short() -> tuple[Report, Verdict]:
    """Return the hostile report without its megabytes."""
    model = replace(HOSTILE, layers=HOSTILE.layers[-7:], skipped=HOSTILE.skipped[:1])
    verdict = replace(VERDICT, findings=VERDICT.findings[:1])
    return replace(REPORT, models=(model,)), verdict


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Documents of real runs that between them fill every optional field."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    torch.save(net, folder / "net.pt")
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), folder / "conv.pt")
    broken = net.state_dict()
    broken["0.weight"][0, 0] = torch.nan
    torch.save(broken, folder / "nan.pt")
    samples = np.random.default_rng(0).normal(size=(6, 4))
    np.savez(folder / "data.npz", x=samples, y=np.zeros(6, dtype=np.int64))
    everything = lipaudit.bound(
        folder / "net.pt",
        input_range=(-1.0, 1.0),
        executed="float32",
        input_radius=10.0,
        data=folder / "data.npz",
        eps=(0.1,),
        limit=0.001,
    )
    part = lipaudit.bound(folder / "net.pt", start="2")
    layers = lipaudit.inspect(folder / "conv.pt", input_shape="3x8x8", power_steps=5)
    large = lipaudit.inspect(folder / "conv.pt", input_shape="3x40x40")
    without = lipaudit.inspect(folder / "nan.pt", folder / "conv.pt", spectra=False)
    clip = lipaudit.clip(folder / "net.pt", to=0.1, output=folder / "out.pt")
    gate = Policy(max_bound=0.001, max_norm=0.001)
    return {
        "everything": audited(everything, judge(everything, gate)),
        "part": audited(part, judge(part, Policy())),
        "layers": audited(layers, judge(layers, Policy(max_norm=100.0))),
        "large": audited(large, judge(large, Policy())),
        "without": audited(without, judge(without, gate)),
        "clip": clipped(clip),
        "hostile": audited(REPORT, VERDICT),
        "hostile, in short": audited(*in_short()),
        "hostile clip": clipped(CLIP),
    }


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator.check_schema(STRICT.schema)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_real_reports_fit_it_with_nothing_unknown(real: dict[str, Any]) -> None:
    for document in real.values():
        STRICT.validate(document)
        Draft202012Validator(SCHEMA).validate(document)


def test_between_them_they_fill_every_field(real: dict[str, Any]) -> None:
    # Else a field could be anything and no report here would show it.
    filled = {path for document in real.values() for path, value in _paths(document) if value}
    for name in ("running", "certificates", "advice", "part", "pairs", "bound", "skipped"):
        assert f"models.{name}" in filled, name
    for name in ("spectrum", "leading", "power_iteration", "expected_stretch", "in_shape"):
        assert f"models.layers.{name}" in filled, name
    assert {"findings", "failures", "changes.tensors", "models.bounds.factors"} <= filled


def _paths(value: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            path = f"{before}.{key}".lstrip(".")
            yield path, part
            yield from _paths(part, path)
    elif isinstance(value, list):
        for part in value:
            yield from _paths(part, before)


def _places(value: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield every object with each of its keys."""
    if isinstance(value, dict):
        yield from ((value, key) for key in value)
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, (dict, list)):
            yield from _places(part)


FREE = frozenset({"libraries", "input_shapes", "geometry", "missing"})
"""Objects whose keys are names, not fields."""


@pytest.mark.parametrize("name", ["everything", "hostile, in short", "clip"])
def test_a_field_that_is_gone_fails(real: dict[str, Any], name: str) -> None:
    document = copy.deepcopy(real[name])
    free = {id(value[key]) for value, key in _places(document) if key in FREE}
    seen = set()
    for value, key in list(_places(document)):
        if id(value) in free or (shape := (frozenset(value), key)) in seen:
            continue
        seen.add(shape)
        kept = value.pop(key)
        assert not Draft202012Validator(SCHEMA).is_valid(document), key
        value[key] = kept
    assert len(seen) > 10
    STRICT.validate(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), 2),
        (("verdict", "exit_code"), 4),
        (("models", 0, "topology"), "guessed"),
        (("models", 0, "layers", 0, "norm", "upper"), "1.0"),
        (("models", 0, "layers", 0, "norm", "upper"), -1.0),
        (("models", 0, "layers", 0, "norm", "upper"), None),
        (("models", 0, "layers", 0, "norm", "rigor"), "certain"),
        (("models", 0, "layers", 0, "parameters"), 1.5),
        (("models", 0, "bound", "log10_upper"), None),
        (("models", 0, "bounds", 0, "upper"), None),
        (("findings", 0, "severity"), "fatal"),
    ],
    ids=str,
)
def test_a_wrong_value_fails(real: dict[str, Any], path: tuple[Any, ...], value: object) -> None:
    document = copy.deepcopy(real["everything"])
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ValidationError):
        Draft202012Validator(SCHEMA).validate(document)


def test_what_a_later_version_adds_is_allowed(real: dict[str, Any]) -> None:
    document = {**real["layers"], "added": 1}
    Draft202012Validator(SCHEMA).validate(document)
    with pytest.raises(ValidationError):
        STRICT.validate(document)


def test_every_null_has_its_reason(real: dict[str, Any]) -> None:
    for document in real.values():
        for model in document.get("models", []):
            for layer in model["layers"]:
                nulls = {key for key, value in layer.items() if value is None}
                assert nulls - {"tied_with", "leading"} == set(layer["missing"])


@pytest.mark.parametrize("passed", [True, False, None])
def test_lines_hold_what_the_document_holds(passed: bool | None) -> None:
    verdict = replace(VERDICT, passed=passed)
    whole = audited(REPORT, verdict)
    records = [json.loads(json.dumps(r, allow_nan=False)) for r in audit_records(REPORT, verdict)]
    layers = [
        {"record": "layer", "model": m["path"], **x} for m in whole["models"] for x in m["layers"]
    ]
    assert [r for r in records if r["record"] == "layer"] == layers
    assert [r["record"] for r in records].count("finding") == len(VERDICT.findings)
    assert records[0]["verdict"] == whole["verdict"]
    assert len(list(clip_records(CLIP))) == 1 + len(CLIP.changes) + len(CLIP.skipped)
