"""`inspect --plot`, `--plots` and `--export`, and the pages of `bound` and `clip`."""

import importlib.util
import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from torch import nn

import lipaudit
from lipaudit import __main__

CHARTS = {
    *("values", "ratios", "shares", "values-log", "ratios-log", "shares-log", "waterfall", "ranks")
}


@pytest.fixture(scope="module")
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 300), nn.ReLU(), nn.Linear(300, 200), nn.Linear(200, 3))


@pytest.fixture
def file(net: nn.Sequential, tmp_path: Path) -> Path:
    path = tmp_path / "net.pt"
    torch.save(net, path)
    return path


def run(*arguments: str | Path) -> tuple[int, str, str]:
    line = ["lipaudit", *map(str, arguments)]
    out, complaints = io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", line), redirect_stdout(out), redirect_stderr(complaints):
        code = __main__._run()
    return code, out.getvalue(), complaints.getvalue()


def truth(net: nn.Sequential) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    weights = [layer.weight for layer in net if isinstance(layer, nn.Linear)]
    return [torch.linalg.svdvals(weight.detach().double()).numpy() for weight in weights]


def test_spectra_are_arrays_by_name(net: nn.Sequential, file: Path) -> None:
    found = lipaudit.spectra(file)
    assert list(found) == ["0", "2", "3"]
    for values, expected in zip(found.values(), truth(net), strict=True):
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, expected, atol=1e-6 * expected[0])
    assert list(lipaudit.spectra(file, layers="2")) == ["2"]


def test_export_holds_every_singular_value(net: nn.Sequential, file: Path, tmp_path: Path) -> None:
    code, _, _ = run("inspect", file, "--export", tmp_path / "s.npz")
    assert code == 0
    with np.load(tmp_path / "s.npz", allow_pickle=False) as found:
        for name, expected in zip(["0", "2", "3"], truth(net), strict=True):
            np.testing.assert_allclose(found[name], expected, atol=1e-6 * expected[0])


def test_the_curve_in_the_json_is_the_spectrum_thinned(net: nn.Sequential, file: Path) -> None:
    _, out, _ = run("inspect", file, "-f", "json")
    for layer, expected in zip(json.loads(out)["models"][0]["layers"], truth(net), strict=True):
        curve = layer["spectrum"]["curve"]
        assert len(curve["ranks"]) <= 128
        assert curve["ranks"][-1] == expected.size
        known = expected[np.array(curve["ranks"]) - 1]
        np.testing.assert_allclose(curve["values"], known, atol=1e-6 * expected[0])


def test_export_replaces_nothing_without_force(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "s.npz"
    target.write_bytes(b"mine")
    code, out, error = run("inspect", file, "--export", target)
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    assert "exists already" in error
    assert target.read_bytes() == b"mine"
    assert run("inspect", file, "--export", target, "--force")[0] == 0
    assert run("inspect", file, "--export", file, "--force")[0] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pt", "s.npz"]


def test_export_without_spectra_makes_no_sense(file: Path, tmp_path: Path) -> None:
    code, _, error = run("inspect", file, "--no-spectra", "--export", tmp_path / "s.npz")
    assert code == 2
    assert "leave --no-spectra out" in error
    assert not (tmp_path / "s.npz").exists()


def test_plots_are_files(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plots"
    assert run("inspect", file, "--plots", folder)[0] == 0
    assert {path.name for path in folder.iterdir()} == {f"{name}.svg" for name in CHARTS}
    for path in folder.iterdir():
        ET.fromstring(path.read_text(encoding="utf-8"))  # noqa: S314 - our own
    code, out, error = run("inspect", file, "--plots", folder)
    assert (code, out) == (2, "")
    assert "exists already" in error
    assert run("inspect", file, "--plots", folder, "--force")[0] == 0


def test_plots_as_png(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "plots"
    assert run("inspect", file, "--plots", folder, "--plot-format", "png")[0] == 0
    assert {path.name for path in folder.iterdir()} == {f"{name}.png" for name in CHARTS}


def test_png_without_matplotlib_is_one_line_before_any_work(file: Path, tmp_path: Path) -> None:
    with mock.patch.object(importlib.util, "find_spec", return_value=None):
        code, out, error = run("inspect", file, "--plots", tmp_path / "p", "--plot-format", "png")
    assert (code, out) == (2, "")
    assert error == (
        "lipaudit: error: PNG plots need matplotlib; pip install 'lipaudit[plot]', "
        "or leave --plot-format at svg\n"
    )
    assert not (tmp_path / "p").exists()


def test_an_unknown_plot_format_is_refused(file: Path, tmp_path: Path) -> None:
    code, _, error = run("inspect", file, "--plots", tmp_path / "p", "--plot-format", "gif")
    assert code == 2
    assert "no plot format 'gif'" in error


def test_a_file_where_the_folder_should_be_is_one_line(file: Path, tmp_path: Path) -> None:
    code, _, error = run("inspect", file, "--plots", file)
    assert code == 2
    assert error.count("\n") == 1
    assert tmp_path.joinpath("net.pt").stat().st_size > 0


def test_the_plot_stands_under_the_table(file: Path) -> None:
    code, out, _ = run("inspect", file, "--plot")
    assert code == 0
    assert "singular value σ" in out or "singular value sigma" in out
    assert "a 0\nb 2\nc 3\n" in out


def test_a_bound_as_a_page_draws_spectra(file: Path) -> None:
    code, out, _ = run("bound", file, "-f", "html")
    assert code == 0
    assert out.startswith("<!DOCTYPE html>")
    assert 'data-view="values"' in out
    assert 'data-view="values"' not in run("bound", file, "-f", "html", "--no-spectra")[1]


def test_a_clip_as_a_page_says_what_changed(file: Path, tmp_path: Path) -> None:
    code, out, _ = run("clip", file, "--to", "0.5", "-o", tmp_path / "c.pt", "-f", "html")
    assert code == 0
    assert "Before and after" in out
