"""The command as a user types it: exit codes, one error line, quiet ends."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import offline

ROOT = Path(__file__).resolve().parents[1]


def lipaudit(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lipaudit", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": offline.PATH, **environment},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    torch.save(net, path / "net.pt")
    torch.save(net.state_dict(), path / "bare.pt")
    broken = net.state_dict()
    broken["0.weight"][0, 0] = torch.nan
    torch.save(broken, path / "nan.pt")
    return path


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, lipaudit.__main__ as m; sys.argv = ['lipaudit', '--help']\n"
        "try: m.main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'onnx', 'safetensors'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "inspect" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        "inspect missing.pt",
        "bound missing.pt gone.onnx",
        "clip missing.pt --to 1 -o out.pt",
        "check missing.pt --max 1",
        "diff missing.pt gone.pt",
        "inspect net.pt -f xml",
        "bound net.pt --max nan",
        "bound net.pt --report json=-",
        "inspect --frobnicate",
        "schema other",
    ],
)
def test_an_error_exit_imports_nothing_heavy(arguments: str, folder: Path) -> None:
    code = (
        f"import sys, lipaudit.__main__ as m; sys.argv = ['lipaudit', *{arguments.split()!r}]\n"
        "try: m.main()\nexcept SystemExit as done: code = done.code\n"
        "heavy = {'torch', 'numpy', 'onnx', 'safetensors', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    environment = {**os.environ, "PYTHONPATH": offline.PATH}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert all(line.startswith("lipaudit: error: ") for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("inspect", "net.pt"), 0),
        (("bound", "net.pt", "--max", "1000"), 0),
        (("bound", "net.pt", "--max", "0.0001"), 1),
        (("inspect", "net.pt", "--max-norm", "0.0001"), 1),
        (("bound", "bare.pt"), 0),
        (("bound", "bare.pt", "--max", "1000"), 3),
        (("bound", "bare.pt", "--max", "1000", "--assume-sequential"), 0),
        (("inspect", "nan.pt"), 3),
        (("inspect", "nan.pt", "--max-norm", "1000"), 3),
        (("bound", "nan.pt", "--max", "1000", "--assume-sequential"), 3),
        (("inspect", "missing.pt"), 2),
        (("inspect", "missing.pt", "net.pt"), 2),
        (("bound", "net.pt", "--max", "nan"), 2),
        (("bound", "net.pt", "--input-shape", "7"), 2),
        (("inspect", "net.pt", "--device", "tpu"), 2),
        (("inspect", "net.pt", "-f", "xml"), 2),
        (("clip", "net.pt", "--to", "0", "-o", "x.pt"), 2),
        (("inspect", "--frobnicate"), 2),
        (("frobnicate",), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_exit_codes(arguments: tuple[str, ...], code: int, folder: Path) -> None:
    before = sorted(path.name for path in folder.iterdir())
    full = [str(folder / word) if word.endswith(".pt") else word for word in arguments]
    done = lipaudit(*full)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if code == 2:
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith("lipaudit: error: ")
    assert sorted(path.name for path in folder.iterdir()) == before


def strict(text: str) -> Any:
    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_has_the_published_fields(folder: Path) -> None:
    document = strict(lipaudit("bound", folder / "net.pt", "--max", "1e6", "-f", "json").stdout)
    assert document["schema_version"] == 1
    assert document["tool"]["name"] == "lipaudit"
    assert document["verdict"] == {"passed": True, "exit_code": 0}
    (model,) = document["models"]
    assert model["topology"] == "stated"
    assert len(model["sha256"]) == 64
    for layer in model["layers"]:
        truth = layer["norm"]
        assert truth["lower"] <= truth["upper"]
        assert truth["rigor"] == "proved"
    methods = {bound["method"] for bound in model["bounds"]}
    assert methods == {"product", "graph", "averaged", "closed-form", "sdp"}
    assert model["bound"]["certified"] is True


def test_json_says_null_where_there_is_no_number(folder: Path) -> None:
    document = strict(lipaudit("bound", folder / "nan.pt", "-f", "json").stdout)
    (model,) = document["models"]
    assert model["bound"]["upper"] is None
    assert model["bound"]["reasons"]
    assert model["skipped"][0]["slug"] == "non-finite"


def test_hostile_names_are_inert(tmp_path: Path) -> None:
    name = "x\x1b[31m\n::error::[red]\u202e.weight"
    torch.save({name: torch.eye(3)}, tmp_path / "m.pt")
    done = lipaudit("inspect", tmp_path / "m.pt", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert "::error::" not in [line[:9] for line in done.stdout.splitlines()]
    assert "\\x1b" in done.stdout


@pytest.mark.parametrize("width", [20, 80, 140])
def test_tables_keep_to_the_terminal(width: int, folder: Path) -> None:
    done = lipaudit("inspect", folder / "net.pt", COLUMNS=str(width))
    assert done.returncode == 0
    table = [line for line in done.stdout.splitlines() if "─" in line]
    assert table
    assert all(len(line) <= width for line in table)


def test_an_ascii_terminal_gets_ascii(folder: Path) -> None:
    done = lipaudit("inspect", folder / "net.pt", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert "sigma_max" in done.stdout


def test_a_closed_pipe_is_quiet(folder: Path) -> None:
    command = f"{sys.executable} -m lipaudit inspect {folder / 'net.pt'} -f json"
    script = f"set -o pipefail; {command} | true"
    done = subprocess.run(
        ["bash", "-c", script],  # noqa: S607 - bash is what the test is about
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": offline.PATH},
    )
    assert done.returncode in {0, 141}
    assert not done.stderr


def test_reports_are_written_whole_and_never_over_others(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    first = lipaudit("inspect", folder / "net.pt", "-f", "json", "-o", target)
    assert first.returncode == 0
    assert not first.stdout
    assert strict(target.read_text(encoding="utf-8"))["models"]
    assert lipaudit("inspect", folder / "net.pt", "-o", target).returncode == 2
    assert lipaudit("inspect", folder / "net.pt", "-o", target, "--force").returncode == 0


def test_an_interrupt_while_the_program_is_loaded_is_quiet() -> None:
    code = (
        "import sys\n"
        "class Impatient:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'lipaudit.cli': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "from lipaudit.__main__ import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_stdout_that_was_closed_is_one_line(tmp_path: Path) -> None:
    def closed(arguments: str) -> subprocess.CompletedProcess[str]:
        script = f"{sys.executable} -m lipaudit {arguments} >&-"
        return subprocess.run(
            ["bash", "-c", script],  # noqa: S607 - bash is what the test is about
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": offline.PATH},
        )

    done = closed("rules")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("lipaudit: error: standard output: cannot be written: ")
    assert closed("rules 2>&-").returncode == 2
    file = tmp_path / "report.json"
    (tmp_path / "a.json").write_text('{"schema_version": 1, "models": []}')
    assert closed(f"diff {tmp_path}/a.json {tmp_path}/a.json -f json -o {file}").returncode == 0
    assert strict(file.read_text(encoding="utf-8"))["models"] == []
