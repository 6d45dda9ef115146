"""`lipaudit check`: one run over many models, and what its exit code says."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import lipaudit
from tests import offline
from tests.cli.gated import diagonal, fill, run, save


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("LIPAUDIT_") and name != "LIPAUDIT_CACHE":
            monkeypatch.delenv(name)
    fill(tmp_path)
    return tmp_path


def config(text: str, name: str = "lipaudit.toml") -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def findings(*arguments: str) -> list[tuple[str, str, str, str]]:
    document: Any = json.loads(run("check", *arguments, "-f", "json").out)
    return [(f["rule"], f["severity"], f["model"], f["where"]) for f in document["findings"]]


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["half.pt"], 0),
        (["six.pt"], 1),
        (["nan.pt"], 3),
        (["bare.pt"], 3),
        (["junk.pt"], 2),
        (["half.pt", "six.pt"], 1),
        (["half.pt", "nan.pt"], 3),
        (["six.pt", "nan.pt"], 1),
        (["six.pt", "nan.pt", "junk.pt"], 2),
    ],
)
def test_all_models_are_looked_at_and_the_worst_code_wins(names: list[str], code: int) -> None:
    config(f"max-bound = 1\n[[models]]\npath = {names}")
    done = run("check", "-f", "json")
    assert done.code == code
    read = [name for name in names if name != "junk.pt"]
    if read:
        document = json.loads(done.out)
        assert [model["path"] for model in document["models"]] == read
        assert document["verdict"] == {"passed": code == 0, "exit_code": code}
    assert done.complaints.count("\n") == names.count("junk.pt")


def test_the_process_ends_with_that_code() -> None:
    config("[tool.lipaudit]\nmodels = [{path = 'six.pt', max-bound = 6.1}]", "pyproject.toml")
    environment = {**os.environ, "PYTHONPATH": offline.PATH}

    def code(**variables: str) -> int:
        command = [sys.executable, "-m", "lipaudit", "check"]
        return subprocess.run(
            command, check=False, capture_output=True, env={**environment, **variables}
        ).returncode

    assert code() == 0
    assert code(LIPAUDIT_MAX_BOUND="5.9") == 1
    assert code(LIPAUDIT_MAX_BOUND="nan") == 2


def test_command_line_over_environment_over_file(monkeypatch: pytest.MonkeyPatch) -> None:
    config("max-norm = 0.1\n[[models]]\npath = 'half.pt'")
    assert run("check").code == 1
    monkeypatch.setenv("LIPAUDIT_MAX_NORM", "0.6")
    assert run("check").code == 0
    assert run("check", "--max-norm", "0.4").code == 1
    monkeypatch.setenv("LIPAUDIT_MAX_NORM", "much")
    assert run("check").code == 2


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LIPAUDIT_CONFIG", "nowhere.toml"),
        ("LIPAUDIT_BASELINE", "nowhere.json"),
        ("LIPAUDIT_MAX_INCREASE", "5"),
        ("LIPAUDIT_INPUT_SHAPE", "3y"),
        ("LIPAUDIT_INPUT_RANGE", "1"),
        ("LIPAUDIT_MODEL", "nowhere"),
        ("LIPAUDIT_DEVICE", "tpu"),
        ("LIPAUDIT_MAX_MEMORY", "much"),
        ("LIPAUDIT_ASSUME_SEQUENTIAL", "perhaps"),
    ],
)
def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    config("max-bound = 1\n[[models]]\npath = 'half.pt'")
    assert run("check").code == 0
    monkeypatch.setenv(variable, value)
    done = run("check")
    assert done.code == 2
    assert done.complaints.count("\n") == 1


def test_a_misspelt_variable_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    config("max-bound = 1\n[[models]]\npath = 'half.pt'")
    monkeypatch.setenv("LIPAUDIT_MAXBOUND", "0.1")
    assert "did you mean 'LIPAUDIT_MAX_BOUND'?" in run("check").complaints


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", ()),
        ("max-bound = 1", ()),
        ("[[models]]\npath = 'half.pt'", ()),
        ("max-bound = nan\n[[models]]\npath = 'half.pt'", ()),
        ("max-bound = '1'\n[[models]]\npath = 'half.pt'", ()),
        ("max-bond = 1\n[[models]]\npath = 'half.pt'", ()),
        ("max-bound = 1\n[[models]]\npath = 'none*.pt'", ()),
        ("max-bound = 1\n[[models]]\npath = 'half.pt'\ninput-shape = '7'", ()),
        ("max-bound = 1\n[[models]]\npath = 'half.pt'\nexecuted = 'float32'", ()),
        ("max-bound = 1\n[[models]]\npath = 'half.pt'\n[constants]\nRelu = 1", ()),
        ("max-bound = ", ()),
        ("max-bound = 1", ("missing.pt",)),
        ("[[models]]\npath = 'half.pt'", ("--max", "nan")),
        ("[[models]]\npath = 'half.pt'", ("--max-norm", "-1")),
        ("[[models]]\npath = 'half.pt'", ("--max-increase", "5%")),
        ("max-norm = 1\n[[models]]\npath = 'half.pt'", ("--baseline", "lipaudit.toml")),
        ("max-norm = 1\n[[models]]\npath = 'half.pt'", ("-f", "xml")),
    ],
)
def test_what_makes_no_sense_is_one_line(
    folder: Path, text: str, arguments: tuple[str, ...]
) -> None:
    config(text)
    before = sorted(path.name for path in folder.iterdir())
    done = run("check", *arguments)
    assert done.code == 2
    assert done.complaints.count("\n") == 1
    assert done.complaints.startswith("lipaudit: error: ")
    assert not done.out
    assert sorted(path.name for path in folder.iterdir()) == before


def test_without_a_config_there_is_nothing_to_check() -> None:
    assert "no config was found" in run("check").complaints
    assert run("check", "half.pt").code == 2
    assert run("check", "half.pt", "--max", "1").code == 0
    assert run("check", "./six.pt", "half.pt", "--max", "1").code == 1


def test_limits_by_layer() -> None:
    config("max-norm = 1\nmodels = [{path='*.pt'}]\n[layers]\n'2' = 3.1")
    assert findings("six.pt") == [("LIP002", "error", "six.pt", "0")]
    assert findings("six.pt", "--max-norm", "3.05") == []
    # half.pt has no layer "2": the glob finds nothing there, and that is no success.
    assert findings("half.pt", "--max-norm", "2.1") == [("LIP004", "undecided", "half.pt", "")]


@pytest.mark.parametrize("globs", ["2", "2*", "0, 2"])
def test_max_norm_given_by_hand_is_for_every_layer(
    monkeypatch: pytest.MonkeyPatch, globs: str
) -> None:
    # The layers of six.pt have the norms 2 and 3.
    config(f"models = [{{path='six.pt', layers={{'{globs}' = 100}}}}]")
    assert findings() == []
    over = [("LIP002", "error", "six.pt", "2")]
    assert findings("--max-norm", "2.5") == over
    monkeypatch.setenv("LIPAUDIT_MAX_NORM", "2.5")
    assert findings() == over
    assert run("check").code == 1
    # It lowers a limit, and never raises one.
    config("models = [{path='six.pt', layers={'2' = 2.9}}]")
    assert findings("--max-norm", "50") == over


def test_an_assumed_chain_passes_only_when_it_is_taken_for_true() -> None:
    config("max-bound = 6.1\n[[models]]\npath = 'bare.pt'")
    assert findings() == [("LIP007", "undecided", "bare.pt", "")]
    assert findings("--assume-sequential") == [("LIP007", "note", "bare.pt", "")]
    config("max-bound = 6.1\nassume-sequential = true\n[[models]]\npath = 'bare.pt'")
    assert run("check").code == 0
    assert run("check", "--no-assume-sequential").code == 3


def test_layers_are_judged_as_the_file_stores_them(folder: Path) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(2)
    with torch.no_grad():
        norm.weight.fill_(10.0)
    torch.save(nn.Sequential(diagonal(1.0, 0.5), norm).eval(), folder / "bn.pt")
    config("max-norm = 10.1\n[[models]]\npath = 'bn.pt'")
    for limits in (("--max-norm", "10.1"), ("--max-norm", "10.1", "--max", "10.1")):
        done = run("check", *limits, "-f", "json")
        assert done.code == 0, done.out
        (model,) = json.loads(done.out)["models"]
        assert [layer["name"] for layer in model["layers"]] == ["0", "1"]
        assert model["layers"][0]["norm"]["upper"] == pytest.approx(1.0, rel=1e-6)


def test_ignores() -> None:
    entry = "[[ignore]]\nrule = 'LIP002'\nlayers = '0'\nreason = 'why'\nexpires = {}"
    text = "max-norm = 1\n[[models]]\npath = 'six.pt'\nlayers = {{'2' = 9}}\n" + entry
    config(text.format("2999-01-01"))
    assert run("check").code == 0
    assert findings() == [("LIP002", "note", "six.pt", "0")]
    config(text.format("2020-01-01"))
    assert run("check").code == 1
    assert [rule for rule, *_ in findings()] == ["LIP002", "LIP009"]


def test_a_baseline_holds_what_was(folder: Path) -> None:
    config("max-norm = 9\nbaseline = 'base.json'\n[[models]]\npath = ['half.pt', 'six.pt']")
    assert run("check").code == 2  # there is none yet
    assert run("check", "--write-baseline").code == 0
    first = Path("base.json").read_text()
    assert run("check").code == 0
    save(folder / "half.pt", diagonal(0.52, 0.25))
    assert findings() == [
        ("LIP006", "error", "half.pt", ""),
        ("LIP006", "error", "half.pt", "0"),
    ]
    assert run("check").code == 1
    assert run("check", "--max-increase", "5%").code == 0
    assert run("check", "--max-increase", "3%").code == 1
    assert run("check", "--write-baseline").code == 0
    changed = [
        one
        for one, other in zip(
            first.splitlines(), Path("base.json").read_text().splitlines(), strict=True
        )
        if one != other
    ]
    assert len(changed) == 2  # the bound and the one layer
    assert run("check").code == 0


def test_a_baseline_is_for_every_working_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "deep").mkdir()
    config("max-norm = 9\nbaseline = 'base.json'\n[[models]]\npath = 'six.pt'")
    assert run("check", "--write-baseline").code == 0
    monkeypatch.chdir(folder / "deep")
    assert run("check").code == 0


def test_a_baseline_needs_no_limit_and_covers_only_its_models() -> None:
    assert run("check", "half.pt", "--write-baseline").code == 0
    assert run("check", "half.pt", "--baseline", "lipaudit-baseline.json").code == 0
    done = run("check", "six.pt", "--baseline", "lipaudit-baseline.json")
    assert done.code == 3
    assert "is not in" in done.out


def test_a_baseline_of_other_inputs_is_not_compared(folder: Path) -> None:
    torch.manual_seed(0)
    torch.save(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1)), folder / "conv.pt")
    arguments = ("check", "conv.pt", "--baseline", "base.json", "--input-shape")
    assert run(*arguments, "1x8x8", "--write-baseline").code == 0
    assert run(*arguments, "1x8x8").code == 0
    done = run(*arguments, "1x6x6")
    assert done.code == 3
    assert "measured on inputs" in done.out


def test_a_model_without_a_bound_has_a_baseline_of_layers(folder: Path) -> None:
    torch.save({"a.weight": torch.eye(3), "b.weight": torch.ones(5, 7)}, folder / "loose.pt")
    done = run("check", "loose.pt", "--write-baseline")
    assert "no finite bound" in done.complaints
    assert run("check", "loose.pt", "--baseline", "lipaudit-baseline.json").code == 0


def test_a_baseline_replaces_nothing_else(folder: Path) -> None:
    before = (folder / "six.pt").read_bytes()
    assert run("check", "half.pt", "--baseline", "six.pt", "--write-baseline").code == 2
    assert (folder / "six.pt").read_bytes() == before
    assert run("check", "half.pt", "--baseline", "no/b.json", "--write-baseline").code == 2


def test_a_baseline_of_some_models_keeps_the_others() -> None:
    config("baseline = 'base.json'\n[[models]]\npath = ['half.pt', 'six.pt']")
    assert run("check", "--write-baseline").code == 0
    before = Path("base.json").read_text()
    assert run("check", "half.pt", "--write-baseline").code == 0
    assert Path("base.json").read_text() == before


def test_a_link_is_a_model_of_its_own(folder: Path) -> None:
    (folder / "current.pt").symlink_to("half.pt")
    config("baseline = 'base.json'\n[[models]]\npath = ['current.pt', 'half.pt', 'six.pt']")
    assert run("check", "--write-baseline").code == 0
    assert run("check").code == 0
    (folder / "current.pt").unlink()
    (folder / "current.pt").symlink_to("six.pt")
    assert run("check").code == 1


def test_a_baseline_never_replaces_the_config() -> None:
    config("max-norm = 9\n[[models]]\npath = 'half.pt'")
    before = Path("lipaudit.toml").read_text()
    done = run("check", "--write-baseline", "--baseline", "lipaudit.toml", "--force")
    assert done.code == 2
    assert Path("lipaudit.toml").read_text() == before


@pytest.mark.parametrize("rule", ["LIP003", "LIP004", "LIP007", "LIP009"])
def test_what_keeps_a_gate_honest_cannot_be_ignored(rule: str) -> None:
    entry = f"[[ignore]]\nrule = '{rule}'\nreason = 'why'\nexpires = 2999-01-01"
    config("max-norm = 9\n[[models]]\npath = 'half.pt'\n" + entry)
    done = run("check")
    assert done.code == 2
    assert "cannot be ignored" in done.complaints


def test_limits_of_an_entry_stand_beside_those_of_the_project() -> None:
    config("[layers]\n'0' = 1\n[[models]]\npath = 'six.pt'\n[models.layers]\n'2' = 100")
    assert run("check").code == 1
    config("[layers]\n'*' = 1\n[[models]]\npath = 'six.pt'\n[models.layers]\n'*' = 100")
    assert run("check").code == 0


def test_an_unread_model_leaves_the_baseline_alone() -> None:
    assert run("check", "half.pt", "junk.pt", "--write-baseline").code == 2
    assert not Path("lipaudit-baseline.json").exists()


def mystery(path: Path) -> None:
    weight = numpy_helper.from_array(2 * np.eye(3, dtype=np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="fc"),
            helper.make_node("Mystery", ["h"], ["y"], domain="acme", name="m"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [weight],
    )
    sets = [helper.make_opsetid("", 20), helper.make_opsetid("acme", 1)]
    onnx.save(helper.make_model(graph, opset_imports=sets), path)


def test_a_declared_constant_is_an_assumption(folder: Path) -> None:
    mystery(folder / "m.onnx")
    text = "max-bound = {}\n[[models]]\npath = 'm.onnx'\n"
    config(text.format(3.1))
    assert run("check").code == 3
    constants = "[constants]\n'acme.Mystery' = 1.5\n"
    config(text.format(3.1) + constants)
    done = run("check", "-f", "json")
    assert done.code == 0
    (model,) = json.loads(done.out)["models"]
    said = "acme.Mystery has a Lipschitz constant of at most 1.5, as declared"
    assert said in model["assumptions"]
    assert all(said in bound["assumptions"] for bound in model["bounds"])
    assert 3.0 <= model["bound"]["upper"] <= 3.0001
    config(text.format(2.9) + constants)
    assert run("check").code == 1


def test_the_same_in_python() -> None:
    config("max-bound = 1\n[[models]]\npath = ['half.pt', 'six.pt']")
    report, verdict = lipaudit.check()
    assert [model.path for model in report.models] == ["half.pt", "six.pt"]
    assert (verdict.passed, verdict.exit_code) == (False, 1)
    assert lipaudit.check("lipaudit.toml", "half.pt")[1].passed is True


def test_a_hostile_config_is_shown_harmlessly() -> None:
    config('"\\u001b[31m\\n::error::" = 1')
    done = run("check")
    assert done.code == 2
    assert "\x1b" not in done.complaints
    assert done.complaints.count("\n") == 1
