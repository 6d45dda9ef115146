"""The published schemas of diff, rules and doctor: what the commands print fits, less does not."""

import copy
import json
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from torch import nn

from lipaudit.report import json as reporter
from tests.cli.gated import fill, run
from tests.report.test_schema import _places, closed

SCHEMAS = {name: json.loads(reporter.schema(name)) for name in reporter.SCHEMAS}
OTHERS = tuple(name for name in SCHEMAS if name != "report")
FREE = frozenset({"versions", "extras", "linear algebra", "thread variables"})
"""Objects whose keys are names, not fields."""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Print with the commands what between it has every optional field filled and empty."""
    folder = tmp_path_factory.mktemp("models")
    fill(folder)
    torch.save(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), folder / "else.pt")
    for name, paths in (("both", ("half.pt", "six.pt")), ("one", ("nan.pt",))):
        target = folder / f"{name}.json"
        run("bound", *(folder / path for path in paths), "-f", "json", "-o", target)
    pairs = [("half.pt", "six.pt"), ("six.pt", "else.pt"), ("both.json", "one.json")]
    pairs += [("one.json", "both.json"), ("half.pt", "nan.pt"), ("six.pt", "half.pt")]
    pairs += [("six.pt", "six.pt")]
    diffs = [
        json.loads(run("diff", folder / a, folder / b, *gate, "-f", "json").out)
        for a, b in pairs
        for gate in ((), ("--max-increase", "5%"))
    ]
    return {
        "diff": diffs,
        "rules": [json.loads(run("rules", "-f", "json").out)],
        "doctor": [json.loads(run("doctor", "--json").out)],
    }


@pytest.mark.parametrize("name", OTHERS)
def test_it_is_a_schema_and_printed(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])
    done = run("schema", name)
    assert (done.code, json.loads(done.out)) == (0, SCHEMAS[name])


def test_the_report_is_the_default_and_what_there_is_not_is_refused() -> None:
    assert run("schema").out == run("schema", "report").out
    done = run("schema", "clip")
    assert (done.code, done.out) == (2, "")
    assert "there are report, diff, rules, doctor" in done.complaints


@pytest.mark.parametrize("name", OTHERS)
def test_real_documents_fit_with_nothing_unknown(real: dict[str, list[Any]], name: str) -> None:
    strict = Draft202012Validator(closed(SCHEMAS[name]))
    for document in real[name]:
        strict.validate(document)


@pytest.mark.parametrize("name", OTHERS)
def test_a_field_that_is_gone_fails(real: dict[str, list[Any]], name: str) -> None:
    seen = set()
    for whole in real[name]:
        document = copy.deepcopy(whole)
        free = {id(value[key]) for value, key in _places(document) if key in FREE}
        for value, key in list(_places(document)):
            if id(value) in free or (shape := (frozenset(value), key)) in seen:
                continue
            seen.add(shape)
            kept = value.pop(key)
            assert not Draft202012Validator(SCHEMAS[name]).is_valid(document), key
            value[key] = kept
    assert len(seen) >= 5


def test_the_differences_are_of_every_kind(real: dict[str, list[Any]]) -> None:
    # Else a field could be anything and no document here would show it.
    layers = [x for one in real["diff"] for model in one["models"] for x in model["layers"]]
    assert {layer["status"] for layer in layers} >= {"added", "removed", "changed", "same"}
    assert {one["passed"] for one in real["diff"]} >= {None, False}
    assert any(one["findings"] for one in real["diff"])
    assert any(model["before"] is None for one in real["diff"] for model in one["models"])
    assert any(model["after"] is None for one in real["diff"] for model in one["models"])


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("diff", "schema_version", 2),
        ("diff", "passed", "yes"),
        ("rules", "rules", []),
        ("doctor", "exit_code", 1),
        ("doctor", "trials", [{"name": "x", "expected": "1", "found": "1", "passed": 1}]),
    ],
)
def test_a_wrong_value_fails(
    real: dict[str, list[Any]], name: str, key: str, value: object
) -> None:
    with pytest.raises(ValidationError):
        Draft202012Validator(SCHEMAS[name]).validate({**real[name][0], key: value})
