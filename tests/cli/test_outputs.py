"""What every command writes goes the same way: whole or not at all, never over what is read."""

import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from lipaudit import api
from lipaudit.errors import ExitCode, WriteRefused
from lipaudit.formats import outputs
from lipaudit.report.catalog import REPORTERS
from tests import offline
from tests.cli.gated import fill, run

CONFIG = 'max-bound = 1\n[[models]]\npath = ["half.pt", "six.pt"]\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("LIPAUDIT_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    fill(tmp_path)
    Path("lipaudit.toml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


def test_check_writes_every_format_and_the_job_summary(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    wanted = [word for name in REPORTERS for word in ("--report", f"{name}=report.{name}")]
    done = run("check", "-f", "json", "--github-summary", *wanted)
    assert done.code == ExitCode.GATE_FAILED
    assert json.loads(Path("report.json").read_text(encoding="utf-8")) == json.loads(done.out)
    assert all(Path(f"report.{name}").stat().st_size > 0 for name in REPORTERS)
    page = Path("report.html").read_text(encoding="utf-8")
    assert "Not passed: a limit is exceeded" in page
    assert 'data-view="values"' in page  # a page wants the spectra drawn
    assert "six.pt" in Path("summary.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kept", ["lipaudit.toml", "half.pt", "old.json"])
def test_no_report_takes_the_place_of_what_is_read(kept: str) -> None:
    assert run("check", "--baseline", "old.json", "--write-baseline").code == 1
    before = Path(kept).read_bytes()
    done = run("check", "--baseline", "old.json", "-f", "json", "-o", kept, "--force")
    assert done.code == ExitCode.ERROR
    assert "is the input itself" in done.complaints
    assert Path(kept).read_bytes() == before


def test_a_baseline_and_a_report_need_two_files() -> None:
    done = run("check", "--write-baseline", "-f", "json", "-o", "lipaudit-baseline.json")
    assert done.code == ExitCode.ERROR
    assert "two outputs go to" in done.complaints
    assert not Path("lipaudit-baseline.json").exists()


def test_a_baseline_never_takes_the_place_of_a_model() -> None:
    before = Path("half.pt").read_bytes()
    done = run("check", "half.pt", "--baseline", "half.pt", "--write-baseline", "--force")
    assert done.code == ExitCode.ERROR
    assert Path("half.pt").read_bytes() == before


@pytest.mark.parametrize(
    "outputs_of",
    [
        ("-o", "shut/x.json"),
        ("--report", "sarif=shut/x.sarif"),
        ("--write-baseline", "--baseline", "shut/x.json"),
        ("--github-summary",),
    ],
)
def test_a_folder_that_may_not_be_written_is_said_before_any_work(
    folder: Path, outputs_of: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    shut = folder / "shut"
    shut.mkdir()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(shut / "summary.md"))
    # As on a read-only file system, where even root is refused.
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != shut and access(path, mode))
    with mock.patch.object(api, "examine") as work:
        done = run("check", *outputs_of)
    assert (done.code, done.out, work.call_count) == (ExitCode.ERROR, "", 0)
    assert done.complaints.count("\n") == 1
    assert not list(shut.iterdir())


def test_a_broken_baseline_is_said_before_any_work() -> None:
    Path("old.json").write_text('{"lipaudit_baseline": 1, "models": 3}', encoding="utf-8")
    with mock.patch.object(api, "examine") as work:
        done = run("check", "half.pt", "--write-baseline", "--baseline", "old.json")
    assert (done.code, work.call_count) == (ExitCode.ERROR, 0)


def test_a_page_wants_spectra_wherever_it_goes() -> None:
    assert run("bound", "six.pt", "--report", "html=a.html").code == 0
    assert 'data-view="values"' in Path("a.html").read_text(encoding="utf-8")
    assert run("bound", "six.pt", "--report", "html=b.html", "--no-spectra").code == 0
    assert 'data-view="values"' not in Path("b.html").read_text(encoding="utf-8")
    records = json.loads(run("bound", "six.pt", "-f", "json").out)["models"][0]["layers"]
    assert {layer["spectrum"] for layer in records} == {None}


def test_a_difference_is_a_page_without_torch() -> None:
    for name in ("half", "six"):
        assert run("bound", f"{name}.pt", "-f", "json", "-o", f"{name}.json").code == 0
    code = (
        "import sys, lipaudit.__main__ as m\n"
        "sys.argv = 'lipaudit diff half.json six.json -f html -o page.html "
        "--max-increase 5%'.split()\n"
        "try: m.main()\nexcept SystemExit as end: assert end.code == 1, end.code\n"
        "heavy = {'torch', 'numpy', 'onnx', 'safetensors'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    environment = {**os.environ, "PYTHONPATH": offline.PATH}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    page = Path("page.html").read_text(encoding="utf-8")
    assert "<h1>Not passed</h1>" in page
    assert "whole network" in page
    assert "by a factor of 12" in page
    assert "+1.1e+03%" in page  # 6 is 12 times 0.5: 1100 % more


def test_a_difference_goes_where_it_may_or_nowhere() -> None:
    assert run("bound", "six.pt", "-f", "json", "-o", "six.json").code == 0
    before = Path("six.json").read_bytes()
    done = run("diff", "six.json", "six.json", "-f", "json", "-o", "six.json", "--force")
    assert (done.code, "is the input itself" in done.complaints) == (ExitCode.ERROR, True)
    assert Path("six.json").read_bytes() == before
    # Refused before a model is opened: this one could not be.
    done = run("diff", "junk.pt", "six.json", "-o", "six.pt")
    assert "is the input itself" not in done.complaints
    assert "exists already" in done.complaints


def test_a_pipe_is_written_to_and_a_device_stays_one() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source:
        assert run("inspect", "six.pt", "--export", f"/dev/fd/{writing}").code == 0
        os.close(writing)
        arrays = np.load(io.BytesIO(source.read()))
    np.testing.assert_allclose(arrays["0"], [2.0, 1.0])
    done = run("inspect", "six.pt", "--export", "/dev/null", "-o", "/dev/null")
    assert "two outputs go to" in done.complaints
    assert run("inspect", "six.pt", "--export", "/dev/null").code == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_plot_and_a_report_need_two_files(folder: Path) -> None:
    done = run("inspect", "six.pt", "--plots", folder, "-o", "values.svg")
    assert done.code == ExitCode.ERROR
    assert "two outputs go to" in done.complaints
    assert not Path("values.svg").exists()


def test_plots_appear_all_or_none(folder: Path) -> None:
    Path("ratios.svg").write_text("mine", encoding="utf-8")
    before = sorted(folder.iterdir())
    done = run("inspect", "six.pt", "--plots", folder)
    assert done.code == ExitCode.ERROR
    assert "exists already" in done.complaints
    assert sorted(folder.iterdir()) == before


def test_what_is_a_device(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert outputs.is_device(folder / "pipe")
    assert outputs.is_device(Path("/dev/stdout"))
    assert not outputs.is_device(folder / "six.pt")
    assert not outputs.is_device(folder)
    assert not outputs.is_device(folder / "missing")


def test_what_is_added_comes_in_one_step() -> None:
    path = Path("summary.md")
    path.write_bytes(b"old\n")
    with mock.patch("os.write", side_effect=os.write) as write:
        outputs.append(path, b"new\n" * 100_000)
    assert write.call_count == 1
    assert path.read_bytes() == b"old\n" + b"new\n" * 100_000


@pytest.mark.parametrize("foreign", [b"", b"somebody else's\n"])
@pytest.mark.parametrize("old", [None, b"old\n"])
def test_what_cannot_be_added_goes_alone(old: bytes | None, foreign: bytes) -> None:
    """Ours is taken back, unless another has written behind it: never what is another's."""
    path = Path("summary.md")
    if old is not None:
        path.write_bytes(old)

    def full(_descriptor: int) -> None:
        with path.open("ab") as other:
            other.write(foreign)
        raise OSError(28, "No space left on device")

    with mock.patch("os.fsync", full), pytest.raises(WriteRefused, match="No space left"):
        outputs.append(path, b"ours\n")
    left = path.read_bytes() if path.exists() else None
    assert left == ((old or b"") + b"ours\n" + foreign if foreign else old)


def test_a_write_that_is_broken_up_is_taken_back_as_far_as_it_is_ours() -> None:
    path = Path("summary.md")
    path.write_bytes(b"old\n")
    plain, seen = os.write, []

    def broken(descriptor: int, data: bytes) -> int:
        seen.append(bytes(data))
        if len(seen) == 1:
            count = plain(descriptor, data[:2])
            with path.open("ab") as other:
                other.write(b"theirs\n")
            return count
        if len(seen) == 2:
            return plain(descriptor, data[:2])
        raise OSError(28, "No space left on device")

    with mock.patch("os.write", broken), pytest.raises(WriteRefused, match="No space left"):
        outputs.append(path, b"ours\n")
    assert path.read_bytes() == b"old\nou" + b"theirs\n"
