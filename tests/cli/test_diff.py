"""`lipaudit diff`, `explain` and `rules`: what reads reports and needs no model."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lipaudit.gates.catalog import INFOS
from lipaudit.gates.slugs import SLUGS
from tests.cli.gated import diagonal, fill, run, save

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    fill(path)
    save(path / "more.pt", diagonal(2.0, 1.0), diagonal(3.3, 1.0))
    for name in ("six", "more", "half"):
        assert (
            run("bound", path / f"{name}.pt", "-f", "json", "-o", path / f"{name}.json").code == 0
        )
    assert run("inspect", path / "six.pt", "-f", "json", "-o", path / "layers.json").code == 0
    return path


def difference(*arguments: str | Path) -> Any:
    done = run("diff", *arguments, "-f", "json")
    assert done.code == 0, done.complaints
    return json.loads(done.out)


def test_reports_are_compared_without_torch(folder: Path) -> None:
    paths = [str(folder / name) for name in ("six.json", "more.json")]
    code = (
        "import sys, lipaudit.__main__ as m\n"
        f"sys.argv = ['lipaudit', 'diff', *{paths}]\n"
        "try: m.main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'numpy', 'onnx', 'safetensors'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "by a factor of" in done.stdout


def test_what_changed(folder: Path) -> None:
    found = difference(folder / "six.json", folder / "more.json")
    (model,) = found["models"]
    by_name = {x["after"]["name"]: x for x in model["layers"] if x["after"]}
    assert by_name["0"]["status"] == "same"
    assert by_name["0"]["factor"] == 1.0
    # The second layer stands at another place and is another one.
    assert {x["status"] for x in model["layers"]} == {"same", "added", "removed"}
    assert model["after"]["bound"]["upper"] == pytest.approx(6.6, rel=1e-5)


def test_a_renamed_layer_is_found_again(folder: Path) -> None:
    save(folder / "moved.pt", diagonal(2.0, 1.0), diagonal(3.0, 1.0))
    (model,) = difference(folder / "six.pt", folder / "moved.pt")["models"]
    statuses = {(x["before"]["name"], x["after"]["name"]): x["status"] for x in model["layers"]}
    assert statuses == {("0", "0"): "same", ("2", "1"): "moved"}
    text = run("diff", folder / "six.pt", folder / "moved.pt").out
    assert "2 -> 1" in text


@pytest.mark.parametrize(
    "pair", [("six.pt", "six.json"), ("six.json", "six.pt"), ("layers.json", "six.pt")]
)
def test_models_and_reports_mix(folder: Path, pair: tuple[str, str]) -> None:
    (model,) = difference(*(folder / name for name in pair))["models"]
    assert [x["status"] for x in model["layers"]] == ["same", "same"]
    assert "both are of the same file, byte for byte" in model["notes"]


@pytest.mark.parametrize(
    ("before", "after", "allowed", "code"),
    [
        ("six.json", "six.json", "0%", 0),
        ("six.json", "six.pt", "0%", 0),
        ("six.json", "more.json", "5%", 1),
        ("six.json", "more.json", "20%", 3),  # a layer is new
        ("six.pt", "nan.pt", "900%", 3),
        ("layers.json", "layers.json", "0%", 0),
        ("six.json", "layers.json", "0%", 3),
        ("layers.json", "six.json", "0%", 3),  # nothing is known of the bound before
    ],
)
def test_a_difference_can_be_a_gate(
    folder: Path, before: str, after: str, allowed: str, code: int
) -> None:
    done = run("diff", folder / before, folder / after, "--max-increase", allowed)
    assert done.code == code, done.out
    assert ("gate: passed" in done.out) is (code == 0)
    assert run("diff", folder / before, folder / after).code == 0


def edited(folder: Path, name: str, **changes: Any) -> Path:
    """Write the report of six.pt again, with some of its fields replaced."""
    document = json.loads((folder / "six.json").read_text())
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**document, **changes}))
    return path


FAILED = {"path": "other.pt", "slug": "unreadable", "cause": "no", "hint": "", "exit_code": 2}


def test_a_missing_or_failed_model_does_not_pass(folder: Path) -> None:
    six = json.loads((folder / "six.json").read_text())["models"][0]
    other = {**six, "path": "other.pt"}
    one, empty = folder / "six.json", edited(folder, "empty", models=[])
    two = edited(folder, "two", models=[six, other])
    failed = edited(folder, "failed", models=[six], failures=[FAILED])
    none_read = edited(folder, "none-read", models=[], failures=[{**FAILED, "path": six["path"]}])
    twice = edited(folder, "twice", models=[six, six])
    for before, after in (
        (one, empty),
        (empty, empty),
        (two, one),
        (two, failed),
        (failed, failed),
        (failed, two),
        (one, none_read),
        (none_read, one),
        (twice, one),
    ):
        done = run("diff", before, after, "--max-increase", "0%")
        assert done.code == 3, (before.name, after.name, done.out)
        assert "gate: NOT passed" in done.out
        assert run("diff", before, after).code == 0
    for before, after in ((one, one), (two, two), (twice, twice)):
        assert run("diff", before, after, "--max-increase", "0%").code == 0
    document = json.loads(run("diff", two, one, "--max-increase", "0%", "-f", "json").out)
    assert [(f["severity"], f["model"]) for f in document["findings"]] == [
        ("undecided", "other.pt")
    ]


def test_layers_against_a_bound_alone_do_not_pass(folder: Path) -> None:
    six = json.loads((folder / "six.json").read_text())["models"][0]
    layers = json.loads((folder / "layers.json").read_text())["models"][0]
    assert (layers["bound"], six["bound"] is None) == (None, False)
    before = edited(folder, "of-layers", models=[layers])
    after = edited(folder, "of-a-bound", models=[{**six, "layers": []}])
    assert run("diff", before, after, "--max-increase", "0%").code == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("six.json", "missing.json"),
        ("missing.pt", "six.json"),
        ("six.json", "junk.pt"),
        ("six.json", "broken.json"),
        ("six.json", "six.json", "-f", "xml"),
        ("six.json", "six.json", "--max-increase", "5"),
    ],
)
def test_what_cannot_be_compared_is_one_line(folder: Path, arguments: tuple[str, ...]) -> None:
    (folder / "broken.json").write_text('{"schema_version": 1, "models": [{"path": 3}]}')
    full = [folder / word if "." in word else word for word in arguments]
    done = run("diff", *full)
    assert done.code == 2
    assert done.complaints.count("\n") == 1
    assert not done.out


def test_numbers_in_markdown_are_those_of_the_report(folder: Path) -> None:
    lines = run("diff", folder / "six.pt", folder / "half.pt", "-f", "markdown").out.splitlines()
    (row,) = [line for line in lines if line.startswith("| 0 |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert float(cells[1]) == pytest.approx(2.0, rel=1e-5)
    assert float(cells[2]) == pytest.approx(0.5, rel=1e-5)
    assert float(cells[3]) == pytest.approx(0.25, rel=1e-5)


def test_hostile_names_are_inert(folder: Path) -> None:
    document = json.loads((folder / "six.json").read_text())
    name = "x\x1b[31m\n| <img src=x> | **bold** [link](http://a) `code`"
    document["models"][0]["layers"][0]["name"] = name
    document["models"][0]["path"] = name
    (folder / "hostile.json").write_text(json.dumps(document))
    for form in ("table", "markdown"):
        done = run("diff", folder / "six.json", folder / "hostile.json", "--all", "-f", form)
        assert done.code == 0
        assert "\x1b" not in done.out
    assert "<img" not in done.out.replace("\\<img", "")
    assert "**bold**" not in done.out
    assert "[link]" not in done.out
    # A name cannot add a row or a column.
    rows = [line for line in done.out.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {6}


def test_a_difference_is_written_to_a_file(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "d.md"
    arguments = ("diff", folder / "six.json", folder / "more.json", "-f", "markdown", "-o", target)
    assert run(*arguments).code == 0
    assert target.read_text().startswith("### ")
    assert run(*arguments).code == 2


@pytest.mark.parametrize("topic", ["LIP001", "lip004", "needs-shape", "[zip-crc]"])
def test_rules_and_slugs_are_explained(topic: str) -> None:
    done = run("explain", topic)
    assert done.code == 0
    known = {**{info.id.lower(): info.explanation for info in INFOS}, **SLUGS}
    wanted = known[topic.strip("[]").lower()]
    assert " ".join(wanted.split()) in " ".join(done.out.split())
    assert max(map(len, done.out.splitlines())) <= 88


@pytest.mark.parametrize(
    ("topic", "near"), [("LIP01", "LIP001"), ("need-shape", "needs-shape"), ("xyzzy", "rules")]
)
def test_an_unknown_topic_has_a_neighbour(topic: str, near: str) -> None:
    done = run("explain", topic)
    assert done.code == 2
    assert near in done.complaints
    assert done.complaints.count("\n") == 1


def test_rules_are_listed() -> None:
    table = run("rules").out
    assert all(info.id in table and info.summary in table for info in INFOS)
    document = json.loads(run("rules", "-f", "json").out)
    assert [(x["id"], x["summary"], x["explanation"]) for x in document["rules"]] == [
        (info.id, info.summary, info.explanation) for info in INFOS
    ]
    assert run("rules", "-f", "xml").code == 2


def test_a_baseline_is_called_one(folder: Path) -> None:
    file = folder / "base.json"
    assert run("check", folder / "six.pt", "--baseline", file, "--write-baseline").code == 0
    for pair in ((file, folder / "six.pt"), (folder / "six.json", file)):
        done = run("diff", *pair)
        assert (done.code, done.out) == (2, "")
        assert "is a baseline, not a model or a report; hold models" in done.complaints


def variant(folder: Path, name: str, **changes: Any) -> Path:
    """Write the report of six.pt again, with some fields of its model replaced."""
    model = json.loads((folder / "six.json").read_text())["models"][0]
    return edited(folder, name, models=[{**model, **changes}])


def test_a_norm_that_became_unknown_is_not_the_same(folder: Path) -> None:
    layers = json.loads((folder / "six.json").read_text())["models"][0]["layers"]
    unknown = {"upper": None, "log10_upper": None}
    lost = [{**layers[0], "norm": {**layers[0]["norm"], **unknown}}, *layers[1:]]
    for pair in (
        (folder / "six.json", variant(folder, "lost", layers=lost)),
        (variant(folder, "lost", layers=lost), folder / "six.json"),
    ):
        (model,) = difference(*pair)["models"]
        assert [x["status"] for x in model["layers"]] == ["changed", "same"]


def test_a_bound_in_doubt_passes_no_gate(folder: Path) -> None:
    bound = json.loads((folder / "six.json").read_text())["models"][0]["bound"]
    odd = {**bound, "certified": False, "reasons": ["a quotient was found above the bound"]}
    done = run(
        "diff", folder / "six.json", variant(folder, "odd", bound=odd), "--max-increase", "5%"
    )
    assert done.code == 3
    assert "in doubt: a quotient was found" in done.out


def test_a_dangerous_pickle_is_said_whether_or_not_there_is_a_gate(folder: Path) -> None:
    after = variant(folder, "armed", alarms=["calls posix.system"])
    for gate in ((), ("--max-increase", "5%")):
        done = run("diff", folder / "six.json", after, *gate)
        assert done.code == 1
        assert "LIP005 error: the file's pickle calls posix.system" in done.out


def test_a_recurrent_node_is_held_by_the_bound_or_not_at_all(folder: Path) -> None:
    with_bound = variant(folder, "with", without_norm=["memory"])
    alone = variant(folder, "alone", without_norm=["memory"], bound=None)
    for file, code in ((with_bound, 0), (alone, 3)):
        assert run("diff", file, file, "--max-increase", "5%").code == code


def test_what_both_bounds_assume_is_said(folder: Path) -> None:
    done = run("diff", folder / "bare.pt", folder / "bare.pt")
    assert "note: both bounds assume: " in done.out
