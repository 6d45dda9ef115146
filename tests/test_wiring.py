"""What other systems start lipaudit with: the GitHub Action, the pre-commit hook, the GitLab job.

Their steps are run as they stand in the files, on a small repository; only the installation,
which needs a network, is looked at and not done.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lipaudit.errors import ExitCode
from lipaudit.formats.catalog import registered
from tests import offline
from tests.cli.gated import diagonal, fill, save

ROOT = Path(__file__).resolve().parents[1]
ACTION = ROOT / "action.yml"
HOOKS = ROOT / ".pre-commit-hooks.yaml"
GITLAB = ROOT / "docs" / "ci" / "gitlab.yml"
BASH = shutil.which("bash")
CONFIG = 'max-bound = 1\n[[models]]\npath = "models/*.pt"\n'
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")

pytestmark = pytest.mark.skipif(BASH is None, reason="there is no bash")


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a repository with a model of bound 0.5 and a config that allows 1."""
    folder = tmp_path / "a project"
    (folder / "models").mkdir(parents=True)
    save(folder / "models" / "half.pt", diagonal(0.5, 0.25))
    (folder / "lipaudit.toml").write_text(CONFIG, encoding="utf-8")
    return folder


@pytest.fixture
def runner(tmp_path: Path) -> Path:
    """Make the folder in which the first step installs lipaudit: with this very lipaudit."""
    programs = tmp_path / "runner temp" / "lipaudit" / "bin"
    programs.mkdir(parents=True)
    program = programs / "lipaudit"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lipaudit "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return programs.parents[1]


def step(
    number: int, folder: Path, runner: Path, inputs: dict[str, str], **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run a step of the action as GitHub does: inputs put into `env`, the script given to bash."""
    action = parsed(ACTION)
    defaults = {name: about["default"] for name, about in action["inputs"].items()}
    values = {f"inputs.{name}": text for name, text in (defaults | inputs).items()}
    values["github.action_path"] = str(ROOT)
    what = action["runs"]["steps"][number]
    env = {key: EXPRESSION.sub(lambda m: values[m[1]], text) for key, text in what["env"].items()}
    assert what["shell"] == "bash"
    return subprocess.run(
        [BASH or "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", what["run"]],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": offline.PATH,
            "RUNNER_TEMP": str(runner),
            **env,
            **extra,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def check(
    folder: Path, runner: Path, inputs: dict[str, str] | None = None, **extra: str
) -> subprocess.CompletedProcess[str]:
    return step(1, folder, runner, inputs or {}, **extra)


def test_the_action_says_what_it_takes() -> None:
    action = parsed(ACTION)
    assert list(action["inputs"]) == ["path", "config", "max-bound", "baseline", "sarif"]
    assert all(about["description"] for about in action["inputs"].values())
    assert action["runs"]["using"] == "composite"


def test_no_expression_stands_in_a_script() -> None:
    for what in parsed(ACTION)["runs"]["steps"]:
        assert "${{" not in what["run"]
        assert all(EXPRESSION.fullmatch(text) for text in what["env"].values())


def test_the_action_passes_and_writes_sarif(project: Path, runner: Path, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    done = check(project, runner, GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == ExitCode.OK, done.stderr
    (run,) = json.loads((project / "lipaudit.sarif").read_text(encoding="utf-8"))["runs"]
    assert run["results"] == []
    assert run["artifacts"][0]["location"]["uri"] == "models/half.pt"
    assert "half.pt" in summary.read_text(encoding="utf-8")
    assert check(project, runner).returncode == ExitCode.OK  # a second run in the same checkout


def test_the_action_fails_where_a_limit_is_exceeded(project: Path, runner: Path) -> None:
    fill(project / "models")
    (project / "models" / "junk.pt").unlink()
    done = check(project, runner)
    assert done.returncode == ExitCode.GATE_FAILED, done.stderr
    assert re.search(r"^::error [^\n]*six\.pt", done.stdout, re.MULTILINE)
    (run,) = json.loads((project / "lipaudit.sarif").read_text(encoding="utf-8"))["runs"]
    rules = {(r["ruleId"], r["level"]) for r in run["results"]}
    assert ("LIP001", "error") in rules


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({"path": "models/half.pt"}, 0),
        ({"path": "models/ha*.pt"}, 0),
        ({"path": "models/half.pt\n  models/none.pt \n"}, 2),
        ({"path": "models/*.onnx"}, 2),
        ({"max-bound": "0.6"}, 0),
        ({"max-bound": "0.4"}, 1),
        ({"max-bound": "nan"}, 2),
        ({"config": "lipaudit.toml"}, 0),
        ({"config": "other.toml"}, 2),
        ({"baseline": "missing.json"}, 2),
        ({"path": "models/half.pt", "config": "lipaudit.toml", "max-bound": "0.4"}, 1),
    ],
)
def test_the_inputs_of_the_action(
    inputs: dict[str, str], code: int, project: Path, runner: Path
) -> None:
    done = check(project, runner, inputs)
    assert done.returncode == code, done.stdout + done.stderr


def test_the_action_compares_with_a_baseline(project: Path, runner: Path) -> None:
    made = subprocess.run(
        [runner / "lipaudit" / "bin" / "lipaudit", "check", "--write-baseline"],
        cwd=project,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": offline.PATH},
        capture_output=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    baseline = {"baseline": "lipaudit-baseline.json", "sarif": ""}
    assert check(project, runner, baseline).returncode == ExitCode.OK
    assert not (project / "lipaudit.sarif").exists()
    save(project / "models" / "half.pt", diagonal(0.6, 0.25))
    assert check(project, runner, baseline).returncode == ExitCode.GATE_FAILED


@pytest.mark.parametrize("name", ["path", "config", "max-bound", "baseline", "sarif"])
@pytest.mark.parametrize(
    "attack",
    [
        "$(touch hurt)",
        "`touch hurt`",
        '"; touch hurt; "',
        "'; touch hurt; '",
        "x\ntouch hurt",
        "--help",
        "-o hurt",
        "a[$(touch hurt)]",
    ],
)
def test_an_input_is_never_run(attack: str, name: str, project: Path, runner: Path) -> None:
    (runner / "lipaudit" / "bin" / "lipaudit").write_text(
        '#!/bin/sh\nfor word in "$@"; do printf "%s\\0" "$word"; done\n', encoding="utf-8"
    )
    done = check(project, runner, {name: attack})
    assert not (project / "hurt").exists()
    before, _, after = done.stdout.rstrip("\0").partition("\0--\0")
    if name == "path":
        assert after.split("\0") == attack.split("\n")
    else:
        assert attack in before


def test_a_path_that_looks_like_an_option_is_a_path(project: Path, runner: Path) -> None:
    (project / "models" / "half.pt").rename(project / "--max=9.pt")
    done = check(project, runner, {"path": "--max=9.pt"})
    assert done.returncode == ExitCode.OK, done.stderr


def test_the_action_installs_itself_torch_first(project: Path, tmp_path: Path) -> None:
    """Played with a python3 that only writes down how it was called."""
    programs, log = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    fake = programs / "python3"
    fake.write_text(
        f'#!/bin/sh\nprintf "%s|" "$@" >> "{log}"\necho >> "{log}"\n'
        'if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi\n',
        encoding="utf-8",
    )
    fake.chmod(0o755)
    temp = tmp_path / "runner temp"
    temp.mkdir()
    done = step(0, project, temp, {}, PATH=f"{programs}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    _, venv, torch, own = log.read_text(encoding="utf-8").splitlines()
    assert venv == f"-m|venv|{temp}/lipaudit|"
    assert "download.pytorch.org/whl/cpu|torch|" in torch
    assert own.endswith(f"|{ROOT}|")


def test_the_action_refuses_an_old_python(project: Path, tmp_path: Path) -> None:
    fake = tmp_path / "python3"
    fake.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    fake.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = step(0, project, tmp_path, {}, PATH=path)
    assert done.returncode == ExitCode.ERROR
    assert "::error::lipaudit needs Python 3.11" in done.stdout


def test_the_gitlab_job_gates_and_leaves_its_reports(project: Path, runner: Path) -> None:
    job = parsed(GITLAB)["lipaudit"]
    path = f"{runner / 'lipaudit' / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def script() -> int:
        done = subprocess.run(
            [BASH or "bash", "-eo", "pipefail", "-c", "\n".join(job["script"])],
            cwd=project,
            env={"PATH": path, "PYTHONPATH": offline.PATH},
            capture_output=True,
            check=False,
        )
        return done.returncode

    kept = [*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]]
    assert script() == ExitCode.OK
    assert all((project / name).stat().st_size > 0 for name in kept)
    for name in kept:
        (project / name).unlink()
    fill(project / "models")
    assert script() == ExitCode.ERROR  # junk.pt is no model
    assert all((project / name).stat().st_size > 0 for name in kept)
    torch, own = job["before_script"]
    assert "whl/cpu torch" in torch
    assert own.endswith('install "$LIPAUDIT_SOURCE"')


def test_the_hook_looks_at_models_and_configs() -> None:
    (hook,) = parsed(HOOKS)
    pattern = re.compile(hook["files"])
    suffixes = {suffix for form in registered() for suffix in form.suffixes}
    for name in (*(f"models/net{suffix}" for suffix in suffixes), "lipaudit.toml"):
        assert pattern.search(name), name
    for name in ("README.md", "net.pt.md", "not-lipaudit.toml", "src/model.py"):
        assert not pattern.search(name), name


@pytest.fixture
def committed(project: Path) -> Path:
    """Make the project a git repository whose hook is ours, run by this very Python."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    pytest.importorskip("pre_commit", reason="pre-commit is not installed")
    (hook,) = parsed(HOOKS)
    # An environment of its own needs a network; entry, files and arguments are the hook's.
    hook |= {"language": "system", "additional_dependencies": []}
    hook["entry"] = f"'{sys.executable}' -m {hook['entry']}"
    config = {"repos": [{"repo": "local", "hooks": [hook]}]}
    (project / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    git(project, "init", "--quiet")
    git(project, "add", "--all")
    return project


def git(folder: Path, *arguments: str) -> None:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    subprocess.run(command, cwd=folder, check=True, env=alone(folder))


def alone(folder: Path) -> dict[str, str]:
    """Return an environment in which git and pre-commit know of nothing but the project."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": offline.PATH,
        "HOME": str(folder.parent),
        "PRE_COMMIT_HOME": str(folder.parent / "pre-commit"),
        "GIT_CONFIG_NOSYSTEM": "1",
    }


def pre_commit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pre_commit", *arguments],
        cwd=folder,
        env=alone(folder),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_manifest_is_valid(committed: Path) -> None:
    done = pre_commit(committed, "validate-manifest", str(HOOKS))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_hook_runs_when_a_model_changes(committed: Path) -> None:
    done = pre_commit(committed, "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"lipaudit check\.+Passed", done.stdout)
    git(committed, "commit", "--quiet", "--message", "a model")
    (committed / "notes.md").write_text("nothing to check", encoding="utf-8")
    git(committed, "add", "--all")
    assert "Skipped" in pre_commit(committed, "run").stdout
    save(committed / "models" / "half.pt", diagonal(2.0, 0.25))
    git(committed, "add", "--all")
    done = pre_commit(committed, "run")
    assert done.returncode == 1
    assert "LIP001" in done.stdout
