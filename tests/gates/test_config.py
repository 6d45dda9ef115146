"""Config: what each key takes, and that nothing wrong in it passes silently."""

from datetime import date
from pathlib import Path

import pytest

from lipaudit.errors import LipauditError, UsageError
from lipaudit.gates import config_file
from lipaudit.gates.config import Config, Settings
from lipaudit.gates.orders import orders
from lipaudit.gates.policy import LayerLimit

TODAY = date(2026, 6, 1)
FULL = """
max-bound = 100
max-norm = 2.5
max-increase = "5%"
input-shape = "3x32x32"
input-range = [0, 1]
model = "pkg.mod:factory"
assume-sequential = true
executed = "float32"
input-radius = 10
baseline = "base.json"
device = "cpu"
max-memory = "2G"
layers = {"head.*" = 5}
constants = {"acme.Mystery" = 1.5}

[[models]]
path = "*.pt"
max-bound = 7
input-shape = {x = [1, 2], y = "3"}
input-range = {x = [-1, 1]}

[[ignore]]
rule = "LIP002"
reason = "known"
expires = 2026-06-01
models = "a*"
layers = "fc"
"""


def loaded(folder: Path, text: str) -> Config:
    file = folder / "lipaudit.toml"
    file.write_text(text, encoding="utf-8")
    config = config_file.load(str(file), today=TODAY)
    assert config is not None
    return config


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(LipauditError) as caught:
        loaded(folder, text)
    assert caught.value.exit_code == 2
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(folder / "lipaudit.toml"))
    return line


def test_every_key(tmp_path: Path) -> None:
    config = loaded(tmp_path, FULL)
    assert config.defaults == Settings(
        max_bound=100.0,
        max_norm=2.5,
        max_increase=0.05,
        layers=(LayerLimit("head.*", 5.0),),
        input_shape={"": "3x32x32"},
        input_range={"": (0.0, 1.0)},
        model="pkg.mod:factory",
        assume_sequential=True,
        executed="float32",
        input_radius=10.0,
        constants={"acme.Mystery": 1.5},
    )
    assert config.baseline == str(tmp_path / "base.json")
    assert (config.device, config.max_memory) == ("cpu", 2 << 30)
    (entry,) = config.models
    assert entry.paths == ("*.pt",)
    merged = entry.settings.over(config.defaults)
    assert (merged.max_bound, merged.max_norm) == (7.0, 2.5)
    assert merged.input_shape == {"x": "1x2", "y": "3"}
    assert merged.input_range == {"x": (-1.0, 1.0)}
    (ignore,) = config.ignores
    assert (ignore.rule, ignore.models, ignore.layers) == ("LIP002", "a*", "fc")
    assert not ignore.expired  # it counts on its last day


def test_an_ignore_expires_after_its_last_day(tmp_path: Path) -> None:
    (ignore,) = loaded(
        tmp_path, FULL.replace("expires = 2026-06-01", "expires = 2026-05-31")
    ).ignores
    assert ignore.expired


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_bound = 3", "unknown key 'max_bound'; did you mean 'max-bound'?"),
        ("max-nrom = 3", "did you mean 'max-norm'?"),
        ("[[models]]\npath = 'a'\nmaxbound = 3", "unknown key 'models[0].maxbound'; did you mean"),
        ("[[ignore]]\nrule='LIP001'\nreason='x'\nexpires=2030-01-01\nlayer='a'", "'layers'"),
        ("frobnicate = 1", "unknown key 'frobnicate'; there are "),
        ("[[models]]\nmax-bound = 3", "models[0].path is missing"),
        ("models = 3", "models must be a list of tables"),
        ("models = [3]", "models[0] must be a table, not 3"),
        ("[[models]]\npath = []", "must be a glob or a list of globs"),
        ("[[models]]\npath = 'a[b'", "bad glob 'a[b': a bracket is not closed"),
        ("[[models]]\npath = ''", "bad glob '': it is empty"),
        ("layers = {'[x' = 1}", "a bracket is not closed"),
        ("layers = {'conv[1,2]' = 1}", "bad glob 'conv[1': a bracket is not closed"),
        ("layers = {'conv*,' = 1}", "bad glob '': it is empty"),
        ("[[ignore]]\nrule='LIP002'\nlayers='a,,b'\nreason='x'\nexpires=2030-01-01", "bad glob ''"),
        ("layers = 3", "layers must be a table, not 3"),
        ("layers = {a = 'x'}", "layers.a must be a number, not the string 'x'"),
        ("constants = {Op = -1}", "constants.Op must be a number >= 0, not -1"),
        ("input-shape = '3x'", "must be a shape"),
        ("input-shape = [3, 0]", "must be a shape"),
        ("input-shape = [3, true]", "must be a shape"),
        ("input-shape = []", "must be a shape"),
        ("input-range = [1, 0]", "whose first number is not above the second"),
        ("input-range = [0, inf]", "must be a finite number, not inf"),
        ("input-range = [0]", "must be two numbers"),
        ("assume-sequential = 1", "must be true or false, not 1"),
        ("assume-sequential = 'yes'", "must be true or false"),
        ("model = 3", "model must be a string, not 3"),
        ("max-increase = 5", 'must be a percentage, not 5; write it like "5%"'),
        ("max-increase = '5'", "must be a percentage"),
        ("max-increase = '-5%'", "must be a percentage"),
        ("max-increase = 'nan%'", "must be a percentage"),
        ("max-increase = '1e999%'", "must be a percentage"),
        ("max-memory = 3", "must be an amount of memory"),
        ("max-memory = '2X'", "must be an amount of memory"),
        ("[[ignore]]\nreason='x'\nexpires=2030-01-01", "ignore[0].rule is missing"),
        ("[[ignore]]\nrule='LIP001'\nexpires=2030-01-01", "ignore[0].reason is missing"),
        ("[[ignore]]\nrule='LIP001'\nreason='x'", "ignore[0].expires is missing"),
        ("[[ignore]]\nrule='LIP001'\nreason=' '\nexpires=2030-01-01", "must be a string"),
        ("[[ignore]]\nrule='LIP01'\nreason='x'\nexpires=2030-01-01", "did you mean 'LIP001'?"),
        ("[[ignore]]\nrule='LIP009'\nreason='x'\nexpires=2030-01-01", "cannot be ignored"),
        ("[[ignore]]\nrule='LIP001'\nreason='x'\nexpires='soon'", "must be a date"),
        ("[[ignore]]\nrule='LIP001'\nreason='x'\nexpires=2030-01-01T00:00:00", "must be a date"),
        ("max-bound = = 3", "is not valid TOML: "),
        ("max-bound = 3\n\nx = ]", "line 3, column 5"),
        ("max-bound = 1\nmax-bound = 2", "is not valid TOML"),
        ("[tool.lipaudit]\nmax-bond = 1", "did you mean 'max-bound'?"),
        ("[tool]\nlipaudit = 3", "tool.lipaudit must be a table"),
        ("x = " + "[" * 100_000, "nested too deep"),
        ("max-bound = " + "9" * 10_000, "is not valid TOML: "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    assert said in complaint(tmp_path, text)


@pytest.mark.parametrize("key", ["max-bound", "max-norm", "input-radius"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "true", "'3'", "[3]", "{a = 1}"])
def test_a_limit_is_a_finite_number_that_is_not_negative(
    key: str, value: str, tmp_path: Path
) -> None:
    line = complaint(tmp_path, f"{key} = {value}")
    assert f"{key} must be a" in line


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "lipaudit.toml"
    file.write_bytes(b"max-bound = 3 # \xff")
    with pytest.raises(UsageError, match="is not UTF-8 at byte 16"):
        config_file.load(str(file))
    file.write_bytes(b"#" * 2_000_000)
    with pytest.raises(LipauditError, match="is larger than 1,000,000 bytes"):
        config_file.load(str(file))


def test_the_nearest_config_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "repository" / "deep" / "deeper"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    (tmp_path / "repository" / ".git").mkdir()
    (tmp_path / "lipaudit.toml").write_text("max-bound = 1")
    # Outside of the repository nobody looks: the file may be anyone's.
    assert config_file.load() is None
    project = tmp_path / "repository" / "pyproject.toml"
    project.write_text("[project]\nname = 'x'")
    assert config_file.load() is None
    project.write_text("[tool.lipaudit]\nmax-bound = 2\nbaseline = 'b.json'")
    found = config_file.load()
    assert found is not None
    assert found.defaults.max_bound == 2
    assert Path(found.baseline or "").resolve() == project.parent / "b.json"
    (inner / "lipaudit.toml").write_text("max-bound = 3")
    nearer = config_file.load()
    assert nearer is not None
    assert nearer.defaults.max_bound == 3


@pytest.mark.parametrize("broken", ["link", "folder"])
def test_no_other_config_counts_in_place_of_one_that_cannot_be_read(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    (tmp_path / "lipaudit.toml").write_text("max-bound = 1e300")
    own = inner / "lipaudit.toml"
    own.symlink_to("nowhere.toml") if broken == "link" else own.mkdir()
    with pytest.raises(LipauditError) as caught:
        config_file.load()
    assert caught.value.path == "lipaudit.toml"


def test_two_configs_side_by_side_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lipaudit.toml").write_text("max-bound = 1")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'")
    assert config_file.load() is not None
    (tmp_path / "pyproject.toml").write_text("[tool.lipaudit]\nmax-bound = 2")
    with pytest.raises(UsageError, match="stand side by side"):
        config_file.load()


def test_a_project_without_a_table_is_no_config(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text("[project]\nname = 'x'")
    with pytest.raises(UsageError, match=r"has no \[tool.lipaudit\] table"):
        config_file.load(str(project))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "deep").mkdir(parents=True)
    for name in ("a.pt", "b.pt", "deep/c.pt", "odd[1].pt"):
        (tmp_path / "models" / name).write_bytes(b"x")
    return tmp_path


def listed(folder: Path, text: str, *paths: str, **changes: object) -> dict[str, float | None]:
    config = loaded(folder, text)
    made = orders(config, paths=paths, **changes)  # type: ignore[arg-type]  # by name
    return {order.path: order.policy.max_bound for order in made}


def test_globs_are_relative_to_the_config(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "max-bound = 3\n[[models]]\npath = ['models/*.pt']\n"
        "[[models]]\npath = 'models/**/c.pt'\nmax-bound = 4"
    )
    wanted = {
        "models/a.pt": 3.0,
        "models/b.pt": 3.0,
        "models/odd[1].pt": 3.0,
        "models/deep/c.pt": 4.0,
    }
    assert listed(folder, text) == wanted
    monkeypatch.chdir(folder / "models" / "deep")
    assert listed(folder, text)["c.pt"] == 4.0


def test_a_name_with_brackets_is_a_name_first(folder: Path) -> None:
    text = "max-bound = 3\n[[models]]\npath = 'models/odd[1].pt'"
    assert listed(folder, text) == {"models/odd[1].pt": 3.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max-bound = 3", "no models are named"),
        ("max-bound = 3\n[[models]]\npath = 'models/z.pt'", "models[0].path: there is no file"),
        ("max-bound = 3\n[[models]]\npath = 'modles/*.pt'", "'modles/*.pt' matches nothing"),
        (
            "models = [{path='models/*.pt', max-norm = 3}, {path='models/a.pt', max-norm = 4}]",
            "models[0].path and models[1].path both name 'models/a.pt', and differ",
        ),
        ("[[models]]\npath = 'models/*.pt'", "no limit is stated: there is nothing to check"),
        (
            "[[models]]\npath='models/a.pt'\nmax-norm=1\n[[models]]\npath='models/b.pt'",
            "no limit for models/b.pt",
        ),
        (
            "max-norm = 1\nmax-increase = '5%'\n[[models]]\npath='models/a.pt'",
            "max-increase says nothing without a baseline",
        ),
        (
            """max-norm = 1
            models = [{path = 'models/a.pt'}]
            ignore = [{rule='LIP002', reason='x', expires=2030-01-01, models='modles/*'}]""",
            "ignore[0].models: 'modles/*' matches no model",
        ),
        ("max-norm=1\nbaseline='b.json'\n[[models]]\npath='models/a.pt'", "no such file"),
    ],
)
def test_a_config_that_would_gate_nothing_is_refused(folder: Path, text: str, said: str) -> None:
    with pytest.raises(LipauditError) as caught:
        listed(folder, text)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_same_said_twice_is_no_conflict(folder: Path) -> None:
    text = "max-norm = 1\n[[models]]\npath = 'models/*.pt'\n[[models]]\npath = 'models/a.pt'"
    assert len(listed(folder, text)) == 3


def test_paths_by_hand_have_the_settings_of_their_entry(folder: Path) -> None:
    text = (
        "max-bound = 3\n[[models]]\npath = 'models/a*'\nmax-bound = 4\n[[models]]\npath='nothing*'"
    )
    assert listed(folder, text, "./models/a.pt", "models/deep/c.pt") == {
        "./models/a.pt": 4.0,
        "models/deep/c.pt": 3.0,
    }
    # What is said on the command line is above both.
    above = Settings(max_bound=9.0)
    assert set(listed(folder, text, "models/a.pt", overrides=above).values()) == {9.0}


def test_a_path_through_a_link_has_the_settings_of_its_entry(folder: Path) -> None:
    (folder / "elsewhere").symlink_to(folder / "models")
    text = "max-bound = 99\n[[models]]\npath = 'models/a.pt'\nmax-bound = 4"
    for path in ("elsewhere/a.pt", "elsewhere/../models/a.pt", str(folder / "elsewhere" / "a.pt")):
        assert listed(folder, text, path) == {path: 4.0}


def test_ignores_are_for_the_models_they_name(folder: Path) -> None:
    text = (
        "max-norm = 1\n[[models]]\npath = 'models/*.pt'\n[[ignore]]\nrule='LIP002'\nreason='x'\n"
        "expires=2030-01-01\nmodels='models/a*'"
    )
    made = orders(loaded(folder, text))
    assert {order.path for order in made if order.policy.ignores} == {"models/a.pt"}


def test_the_network_is_bounded_only_where_that_is_gated(folder: Path) -> None:
    text = (
        "max-norm = 1\n[[models]]\npath='models/a.pt'\n[[models]]\npath='models/b.pt'\nmax-bound=2"
    )
    config = loaded(folder, text)
    assert [order.needs_bound for order in orders(config)] == [False, True]
    assert [order.needs_bound for order in orders(config, write_baseline=True)] == [True, True]
