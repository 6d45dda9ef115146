"""Baselines and recorded reports: written to be read by people, read as what nobody vouches for."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lipaudit.comparison import LayerSnapshot, Snapshot
from lipaudit.enclosure import Rigor
from lipaudit.errors import LipauditError
from lipaudit.gates import baseline, recorded
from lipaudit.gates.differing import compare, exit_code
from lipaudit.gates.judge import judge
from lipaudit.gates.policy import Policy
from lipaudit.report import json as json_report
from lipaudit.report.base import Canvas, Choice
from tests.gates.reports import layer, measure, model, report


def snapshot(path: str, **norms: float) -> Snapshot:
    return Snapshot(
        path,
        tuple(LayerSnapshot(n, measure(x), "Linear", (3, 4), 2 * x) for n, x in norms.items()),
        bound=measure(2.5),
        input_shapes={"x": (1, 4)},
        assumptions=("one thing",),
    )


def written(folder: Path, *snapshots: Snapshot) -> str:
    file = folder / "base.json"
    file.write_text(baseline.text(snapshots, str(file), "0.1.0"), encoding="utf-8")
    return str(file)


def test_a_baseline_says_what_was_measured(tmp_path: Path) -> None:
    one = snapshot(str(tmp_path / "models" / "m.pt"), b=0.1 + 0.2, a=1.0)
    found = baseline.read(written(tmp_path, one))
    assert list(found) == ["models/m.pt"]
    again = found["models/m.pt"]
    assert again.version == "0.1.0"
    assert again.bound is not None
    assert again.bound.upper == 2.5
    assert again.assumptions == ("one thing",)
    assert again.input_shapes == {"x": (1, 4)}
    assert {x.name: x.norm.upper for x in again.layers} == {"a": 1.0, "b": 0.1 + 0.2}
    assert all(x.norm.rigor is Rigor.PROVED for x in again.layers)


def test_a_change_of_one_layer_is_one_line() -> None:
    models = [snapshot(f"{name}.pt", b=1.0, a=2.0) for name in "yxz"]
    first = baseline.text(models, "base.json", "0.1.0")
    assert baseline.text(models[::-1], "base.json", "0.1.0") == first
    first_layer, *others = models[0].layers
    grown = replace(first_layer, norm=measure(3.0))
    changed = replace(models[0], layers=(grown, *others))
    second = baseline.text([changed, *models[1:]], "base.json", "0.1.0")
    differing = [
        (one, other)
        for one, other in zip(first.splitlines(), second.splitlines(), strict=True)
        if one != other
    ]
    assert len(differing) == 1


def test_a_bound_that_nobody_knows_is_left_out(tmp_path: Path) -> None:
    one = replace(snapshot("m.pt", a=math.inf), bound=measure(math.inf))
    file = written(tmp_path, one)
    assert "bound" not in json.loads(Path(file).read_text())["models"][0]
    (again,) = baseline.read(file).values()
    assert again.bound is None
    assert not again.layers[0].norm.is_finite


def test_bounds_past_the_range_of_floats_keep_their_logarithm(tmp_path: Path) -> None:
    huge = replace(measure(math.inf), log10_upper=512.5)
    (again,) = baseline.read(written(tmp_path, replace(snapshot("m.pt"), bound=huge))).values()
    assert again.bound is not None
    assert (again.bound.upper, again.bound.log10_upper) == (math.inf, 512.5)


def broken(change: Any) -> str:
    document: Any = json.loads(baseline.text([snapshot("m.pt", a=1.0)], "base.json", "0.1.0"))
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"lipaudit_baseline": 1, "lipaudit_baseline": 1}',
        '{"a":' * 100_000,
        "[" * 2_000_000,
        broken(lambda d: d.update(lipaudit_baseline=2)),
        broken(lambda d: d.update(lipaudit_baseline=True)),
        broken(lambda d: d.pop("version")),
        broken(lambda d: d.update(models={})),
        broken(lambda d: d.update(models=[1])),
        broken(lambda d: d["models"].append(d["models"][0])),
        broken(lambda d: d["models"][0].pop("path")),
        broken(lambda d: d["models"][0].pop("layers")),
        broken(lambda d: d["models"][0].update(path=3)),
        broken(lambda d: d["models"][0].update(bound=None)),
        broken(lambda d: d["models"][0].update(bound=3)),
        broken(lambda d: d["models"][0].update(input_shapes={"x": [1, "4"]})),
        broken(lambda d: d["models"][0].update(input_shapes={"x": [True]})),
        broken(lambda d: d["models"][0].update(assumptions="x")),
        broken(lambda d: d["models"][0]["layers"][0].update(upper="1")),
        broken(lambda d: d["models"][0]["layers"][0].update(upper=True)),
        broken(lambda d: d["models"][0]["layers"][0].update(upper=-1)),
        broken(lambda d: d["models"][0]["layers"][0].update(upper=math.nan)),
        broken(lambda d: d["models"][0]["layers"][0].update(upper=math.inf)),
        broken(lambda d: d["models"][0]["layers"][0].update(upper=10**400)),
        broken(lambda d: d["models"][0]["layers"][0].update(upper=None, log10_upper=-5.0)),
        broken(lambda d: d["models"][0]["layers"][0].update(rigor="certain")),
        broken(lambda d: d["models"][0]["layers"][0].pop("rigor")),
        broken(lambda d: d["models"][0]["layers"][0].pop("name")),
        broken(lambda d: d["models"][0]["layers"][0].update(shape=[-1])),
    ],
)
def test_a_baseline_that_is_broken_is_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "base.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(LipauditError) as caught:
        baseline.read(str(file))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_an_entry_of_null_never_passes(tmp_path: Path) -> None:
    file = tmp_path / "base.json"
    text = broken(lambda d: d["models"][0]["layers"][0].update(upper=None))
    file.write_text(text, encoding="utf-8")
    (old,) = baseline.read(str(file)).values()
    new = snapshot("m.pt", a=1e-9)
    found = compare(("a", [old]), ("b", [new]), 10.0)
    assert found.passed is False
    assert exit_code(found) == 3


def test_only_a_plain_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none", "a\0b"):
        with pytest.raises(LipauditError):
            baseline.read(str(path))


def as_json(folder: Path, name: str = "r.json", **changes: Any) -> str:
    one = model(2.5, **changes)
    text = json_report.audit(report(one), judge(report(one), Policy()), Canvas(), Choice())
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_a_report_is_read_back(tmp_path: Path) -> None:
    layers = (layer("a", 1.25, frobenius=3.5), layer("b", measure(math.inf)))
    path = as_json(tmp_path, layers=layers, assumptions=("x",))
    assert recorded.is_report(path)
    (again,) = recorded.read(path)
    one = model(2.5, layers=layers)
    assert again == replace(
        Snapshot.of(one, "0.1.0"),
        layers=again.layers,
        bound=again.bound,
    )
    assert [x.norm.upper for x in again.layers] == [1.25, math.inf]
    assert again.layers[0].frobenius == 3.5
    assert again.bound is not None
    assert again.bound.upper == 2.5


def test_a_zero_layer_is_no_unknown_one(tmp_path: Path) -> None:
    (again,) = recorded.read(as_json(tmp_path, layers=(layer("a", 0.0),)))
    assert again.layers[0].norm.is_finite
    assert again.layers[0].norm.upper == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(schema_version=2),
        lambda d: d.update(schema_version="1"),
        lambda d: d.pop("models"),
        lambda d: d["models"][0].pop("layers"),
        lambda d: d["models"][0]["layers"][0].pop("norm"),
        lambda d: d["models"][0]["layers"][0]["norm"].update(lower=5.0),
        lambda d: d["models"][0]["layers"][0]["norm"].update(upper=[1]),
        lambda d: d["models"][0]["layers"][0].update(name=None),
        lambda d: d["models"][0]["layers"][0].update(shape="3x4"),
        lambda d: d["models"][0]["layers"][0].update(frobenius=math.nan),
        lambda d: d["models"][0]["bound"].update(rigor=2),
        lambda d: d["models"][0].update(skipped=[3]),
        lambda d: d["tool"].update(version=1),
    ],
)
def test_a_report_is_believed_as_a_whole_or_not_at_all(change: Any, tmp_path: Path) -> None:
    path = as_json(tmp_path)
    document = json.loads(Path(path).read_text())
    change(document)
    Path(path).write_text(json.dumps(document))
    with pytest.raises(LipauditError) as caught:
        recorded.read(path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_models_and_their_indexes_are_no_reports(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"metadata": {}, "weight_map": {}}')
    (tmp_path / "m.pt").write_bytes(b"PK\x03\x04")
    assert not recorded.is_report(str(index))
    assert not recorded.is_report(str(tmp_path / "m.pt"))
    assert not recorded.is_report(str(tmp_path))


def changes(one: Snapshot, other: Snapshot) -> dict[str, str]:
    (found,) = compare(("a", [one]), ("b", [other])).models
    return {
        f"{x.before.name if x.before else ''}>{x.after.name if x.after else ''}": x.status
        for x in found.layers
    }


def test_layers_are_found_again() -> None:
    one = snapshot("m.pt", a=1.0, b=2.0, c=3.0, gone=4.0)
    other = snapshot("n.pt", a=1.0, b=2.5, renamed=3.0, new=9.0)
    assert changes(one, other) == {
        "a>a": "same",
        "b>b": "changed",
        "c>renamed": "moved",
        ">new": "added",
        "gone>": "removed",
    }


def test_the_same_norm_of_another_weight_is_no_move() -> None:
    one, other = snapshot("m.pt", a=1.0), snapshot("m.pt", b=1.0)
    other = replace(other, layers=(replace(other.layers[0], frobenius=2.1),))
    assert changes(one, other) == {">b": "added", "a>": "removed"}
    unknown = replace(other, layers=(replace(other.layers[0], frobenius=None),))
    assert changes(one, unknown) == {">b": "added", "a>": "removed"}
    shaped = replace(other, layers=(replace(one.layers[0], name="b", shape=(4, 3)),))
    assert changes(one, shaped) == {">b": "added", "a>": "removed"}


def test_layers_of_one_name_keep_their_order() -> None:
    twice = tuple(LayerSnapshot("a", measure(x), "Linear", (3, 4), x) for x in (1.0, 2.0))
    one = replace(snapshot("m.pt"), layers=twice)
    assert [x.status for x in compare(("", [one]), ("", [one])).models[0].layers] == ["same"] * 2


def test_models_are_paired_by_path_unless_there_is_one_each() -> None:
    one, other, third = (snapshot(path, a=1.0) for path in ("m", "n", "o"))
    found = compare(("", [one, other]), ("", [other, third])).models
    paths = [(x.before.path if x.before else "", x.after.path if x.after else "") for x in found]
    assert paths == [("n", "n"), ("", "o"), ("m", "")]


@pytest.mark.parametrize(
    ("norm", "bound", "allowed", "code"),
    [
        (1.0, 2.5, 0.0, 0),
        (1.04, 2.5, 0.05, 0),
        (1.06, 2.5, 0.05, 1),
        (1.0, 2.7, 0.05, 1),
        (1.0, math.inf, 0.05, 3),
    ],
)
def test_a_difference_can_be_a_gate(norm: float, bound: float, allowed: float, code: int) -> None:
    one = snapshot("m", a=1.0)
    other = replace(snapshot("m", a=norm), bound=measure(bound))
    found = compare(("", [one]), ("", [other]), allowed)
    assert exit_code(found) == code
    assert found.passed is (code == 0)
    assert compare(("", [one]), ("", [other])).passed is None


def test_nothing_compared_is_no_success() -> None:
    assert exit_code(compare(("", []), ("", []), 0.5)) == 3
    one = snapshot("m", a=1.0)
    empty = replace(one, layers=(), bound=None)
    assert exit_code(compare(("", [empty]), ("", [empty]), 0.5)) == 3
    skipped = replace(one, skipped=("c",))
    assert exit_code(compare(("", [one]), ("", [skipped]), 0.5)) == 3
    assert (
        exit_code(
            compare(("", [snapshot("n", a=1.0), one]), ("", [snapshot("o", a=1.0), one]), 0.5)
        )
        == 3
    )
