"""Where reports go: several formats of one run, checked before any work, whole or not at all."""

import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import torch
from jsonschema import Draft202012Validator
from torch import nn

from lipaudit import __main__, api
from lipaudit.cli import delivery
from lipaudit.errors import ExitCode
from lipaudit.formats import outputs
from lipaudit.report.catalog import NAMES, REPORTERS
from tests import offline

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def lipaudit(*arguments: str | Path) -> Done:
    """Run the command in this process: torch is imported once."""
    line = ["lipaudit", *map(str, arguments)]
    out, complaints = io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", line), redirect_stdout(out), redirect_stderr(complaints):
        code = __main__._run()
    return Done(code, out.getvalue(), complaints.getvalue())


@pytest.fixture
def net(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "net.pt"
    torch.save(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), path)
    return path


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("command", ["inspect", "bound", "clip"])
def test_one_run_writes_every_format(command: str, net: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"report.{name}" for name in REPORTERS}
    wanted = [word for name, file in files.items() for word in ("--report", f"{name}={file}")]
    own = ("--to", "0.5", "-o", tmp_path / "clipped.pt") if command == "clip" else ()
    with mock.patch.object(api, command, side_effect=getattr(api, command)) as work:
        done = lipaudit(command, net, *own, "-f", "json", *wanted)
    assert done.returncode == 0, done.stderr
    assert work.call_count == 1
    assert json.loads(files["json"].read_text(encoding="utf-8")) == json.loads(done.stdout)
    for name, file in files.items():
        text = file.read_text(encoding="utf-8")
        assert text.endswith("\n")
        if name != "github":  # which names findings, and there are none
            assert "net.pt" in text
    assert ET.parse(files["junit"]).getroot().tag == "testsuites"  # noqa: S314 - our own document
    assert json.loads(files["sarif"].read_text(encoding="utf-8"))["version"] == "2.1.0"
    assert not {name for name in left(tmp_path) if name.startswith(".")}


def test_stdout_and_files_tell_the_same(net: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    first = lipaudit("inspect", net, "-f", "csv", "--report", f"csv={target}")
    assert first.stdout == target.read_text(encoding="utf-8")


def test_a_dash_is_stdout(net: Path, tmp_path: Path) -> None:
    done = lipaudit("inspect", net, "-o", tmp_path / "a.txt", "--report", "json=-")
    assert done.returncode == 0
    assert json.loads(done.stdout)["models"]


@pytest.mark.parametrize(
    ("options", "slug"),
    [
        (("--report", "xml={}/a.xml"), "no format 'xml'"),
        (("-f", "xml"), "no format 'xml'"),
        (("--report", "json"), "names no format and file"),
        (("--report", "=a"), "names no format and file"),
        (("--report", "json="), "names no format and file"),
        (("--report", "json={}/a", "--report", "csv={}/a"), "two outputs go to"),
        (("--report", "json={}/a", "--report", "csv={}/./b/../a"), "two outputs go to"),
        (("-o", "{}/a", "--report", "csv={}/a"), "two outputs go to"),
        (("--report", "csv=-"), "2 reports (table, csv) go to standard output; print one with -f"),
        (("--report", "csv=-", "--report", "json=-"), "3 reports (table, csv, json) go to"),
        (("-o", "{}/a", "--report", "csv=-", "--report", "json=-"), "2 reports (csv, json) go to"),
        (("--report", "csv={}/old.csv"), "exists already"),
        (("-o", "{}/old.csv"), "exists already"),
        (("--report", "csv={}/none/a.csv"), "no such folder"),
        (("--report", "csv={}/b"), "is a folder that exists"),
        (("--report", "csv={}/b", "--force"), "is a folder"),
        (("--report", "csv={}/net.pt", "--force"), "is the input itself"),
        (("-o", "{}/net.pt", "--force"), "is the input itself"),
        (("--github-summary",), "no GITHUB_STEP_SUMMARY is set"),
    ],
    ids=str,
)
@pytest.mark.parametrize("command", ["inspect", "bound"])
def test_what_cannot_be_delivered_is_refused_before_any_work(
    command: str,
    options: tuple[str, ...],
    slug: str,
    net: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "old.csv").write_text("old", encoding="utf-8")
    (tmp_path / "b").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with mock.patch.object(api, command, side_effect=AssertionError("some work was done")):
        done = lipaudit(command, net, *(word.replace("{}", str(tmp_path)) for word in options))
    assert done.returncode == ExitCode.ERROR
    assert not done.stdout
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("lipaudit: error: ")
    assert slug in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_clip_and_its_report_need_two_files(net: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.pt"
    done = lipaudit("clip", net, "--to", "1", "-o", target, "--report", f"json={target}")
    assert done.returncode == ExitCode.ERROR
    assert "two outputs go to" in done.stderr
    assert left(tmp_path) == {"net.pt"}


def test_force_replaces_a_report(net: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old", encoding="utf-8")
    target.chmod(0o640)
    assert lipaudit("inspect", net, "--report", f"json={target}", "--force").returncode == 0
    assert json.loads(target.read_text(encoding="utf-8"))["models"]
    assert target.stat().st_mode & 0o777 == 0o640


def test_when_one_report_fails_none_appears(net: Path, tmp_path: Path) -> None:
    real = outputs._write
    calls = []

    def second_fails(path: Path, content: bytes, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise outputs.refused(target, OSError(28, "No space left on device"))
        real(path, content, target)

    first, second = tmp_path / "a.json", tmp_path / "b.csv"
    with mock.patch.object(outputs, "_write", second_fails):
        done = lipaudit("inspect", net, "--report", f"json={first}", "--report", f"csv={second}")
    assert done.returncode == ExitCode.ERROR
    assert "No space left on device" in done.stderr
    assert left(tmp_path) == {"net.pt"}


def test_a_model_that_cannot_be_read_is_a_failure_in_the_report(net: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"abc")
    suite = tmp_path / "junit.xml"
    gate = ("--max-norm", "100", "--report", f"junit={suite}")
    done = lipaudit("inspect", net, broken, "-f", "json", *gate)
    assert done.returncode == ExitCode.ERROR
    document = json.loads(done.stdout)
    (failure,) = document["failures"]
    assert failure["path"] == str(broken)
    assert failure["exit_code"] == ExitCode.ERROR
    assert document["verdict"] == {"passed": False, "exit_code": 2}
    root = ET.parse(suite).getroot()  # noqa: S314 - our own document
    assert root.get("errors") == "1"
    # With nothing read at all there is nothing to report, and nothing is written.
    alone = tmp_path / "alone.xml"
    assert lipaudit("inspect", broken, "--report", f"junit={alone}").returncode == ExitCode.ERROR
    assert not alone.exists()


def test_the_job_summary_is_added_to(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("# before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert lipaudit("bound", net, "--max", "1000", "--github-summary").returncode == 0
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("# before\n## ✅ lipaudit: the gate passed\n")
    assert lipaudit("bound", net, "--max", "0.001", "--github-summary").returncode == 1
    again = summary.read_text(encoding="utf-8")
    assert again.startswith(text)
    assert "❌ lipaudit: the gate did NOT pass" in again
    clipped = tmp_path / "c.pt"
    assert lipaudit("clip", net, "--to", "1", "-o", clipped, "--github-summary").returncode == 0
    assert "lipaudit clipped" in summary.read_text(encoding="utf-8")
    # Nothing is written there unless it is asked for.
    before = summary.read_bytes()
    assert lipaudit("bound", net).returncode == 0
    assert summary.read_bytes() == before


def test_a_job_summary_keeps_to_its_megabyte(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_bytes(b"x" * ((1 << 20) - 20))
    with redirect_stderr(io.StringIO()) as complaint:
        delivery._append(summary, "line one\nline two\nline three\n")
    assert summary.read_bytes().endswith(b"xline one\nline two\n")
    assert summary.stat().st_size <= 1 << 20
    assert complaint.getvalue().startswith("lipaudit: warning: ")


def test_the_schema_is_printed_without_torch() -> None:
    code = (
        "import sys, lipaudit.__main__ as m; sys.argv = ['lipaudit', 'schema']\n"
        "try: m.main()\nexcept SystemExit as done: code = done.code\n"
        "heavy = {'torch', 'numpy', 'onnx', 'rich.console'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    Draft202012Validator.check_schema(json.loads(done.stdout))


def test_help_lists_every_format() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lipaudit", "inspect", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": offline.PATH, "COLUMNS": "200"},
    )
    said = " ".join(done.stdout.split())
    assert f"One of {', '.join(NAMES)}." in said
