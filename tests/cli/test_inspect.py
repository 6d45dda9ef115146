"""`lipaudit inspect`: what its options make of a convolution."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn import functional

from lipaudit import __main__
from lipaudit.errors import ExitCode
from tests import offline

ENVIRONMENT = {**os.environ, "PYTHONPATH": offline.PATH}


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def inspected(*arguments: str | Path) -> Done:
    """Run the command in this process: torch is imported once."""
    line = ["lipaudit", "inspect", *map(str, arguments)]
    out, complaints = io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", line), redirect_stdout(out), redirect_stderr(complaints):
        code = __main__._run()
    return Done(code, out.getvalue(), complaints.getvalue())


def layers(*arguments: str | Path) -> list[dict[str, Any]]:
    done = inspected(*arguments, "-f", "json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["models"][0]["layers"]
    return found


@pytest.fixture(scope="module")
def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, stride=2))


@pytest.fixture(scope="module")
def file(convolutions: nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "net.pt"
    torch.save(convolutions, path)
    return path


def truth(weight: torch.Tensor, size: int, *, stride: int, padding: int, wraps: bool) -> float:
    """Return the norm of torch's own operation."""
    kernel = weight.detach().to(torch.float64)

    def run(x: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(x, (padding,) * 4, mode="circular" if wraps else "constant")
        return functional.conv2d(padded, kernel, stride=stride)

    unit = torch.eye(kernel.shape[1] * size**2, dtype=torch.float64)
    images = run(unit.reshape(-1, kernel.shape[1], size, size))
    return float(torch.linalg.matrix_norm(images.flatten(1), 2))


def test_circular_padding_is_asked_for_and_said(convolutions: nn.Sequential, file: Path) -> None:
    first, second = (convolutions[at].get_parameter("weight") for at in (0, 2))
    shape = ("--input-shape", "3x8x8")
    own, circular = layers(file, *shape), layers(file, *shape, "--padding", "circular")
    wanted = [
        (own[0], truth(first, 8, stride=1, padding=1, wraps=False)),
        (own[1], truth(second, 8, stride=2, padding=0, wraps=False)),
        (circular[0], truth(first, 8, stride=1, padding=1, wraps=True)),
        (circular[1], truth(second, 8, stride=2, padding=1, wraps=True)),
    ]
    for layer, norm in wanted:
        assert layer["norm"]["lower"] <= norm * (1 + 1e-12)
        assert norm * (1 - 1e-12) <= layer["norm"]["upper"] <= norm * (1 + 1e-4)
        assert layer["norm"]["rigor"] == "proved"
        assert layer["spectrum"]["quantiles"][0] == pytest.approx(norm, rel=1e-11)
        assert layer["spectrum"]["of"] == "the layer"
    text = inspected(file, *shape, "--padding", "circular").stdout
    assert "taken as a circular one, not as the network pads it" in " ".join(text.split())


def test_a_stride_that_does_not_divide_has_no_circular_convolution(file: Path) -> None:
    done = inspected(file, "--input-shape", "3x9x9", "--padding", "circular", "-f", "json")
    (skipped,) = json.loads(done.stdout)["models"][0]["skipped"]
    assert (skipped["name"], skipped["slug"]) == ("2", "circular")


@pytest.mark.parametrize(
    "arguments", [("--padding", "circular", "--max-norm", "1"), ("--padding", "wrapped")]
)
def test_what_circular_padding_is_not_for(arguments: tuple[str, ...], file: Path) -> None:
    done = inspected(file, *arguments)
    assert done.returncode == ExitCode.ERROR
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("lipaudit: error: ")


@pytest.mark.parametrize(
    ("chosen", "code"), [("0, 2", 0), ("0, tow", 3), ("tow", 3), ("0,", 3), ("*", 0)]
)
def test_a_gate_over_chosen_layers_needs_all_of_them(chosen: str, code: int, file: Path) -> None:
    done = inspected(file, "--layers", chosen, "--max-norm", "99", "-f", "json")
    assert done.returncode == code
    assert json.loads(done.stdout)["verdict"]["passed"] is (code == 0)


def test_power_iteration_stands_beside_the_norm(file: Path) -> None:
    few, many = (
        layers(file, "--input-shape", "3x8x8", "--power-iteration", steps) for steps in ("1", "400")
    )
    for one, other in zip(few, many, strict=True):
        assert one["power_iteration"] < one["norm"]["lower"]
        assert other["power_iteration"] == pytest.approx(other["norm"]["lower"], rel=1e-3)
    # Without a size there is no one map to iterate with.
    assert layers(file, "--power-iteration", "5")[0]["power_iteration"] is None
    assert layers(file)[0]["power_iteration"] is None


def test_every_spectrum_is_proved_when_asked(tmp_path: Path) -> None:
    torch.manual_seed(1)
    path = tmp_path / "wide.pt"
    torch.save(nn.Sequential(nn.Conv2d(96, 96, 3, padding=1, padding_mode="circular")), path)
    arguments = (path, "--input-shape", "96x40x40")
    (quick,), (proved,) = layers(*arguments), layers(*arguments, "--svd")
    assert (quick["spectrum"]["rigor"], proved["spectrum"]["rigor"]) == ("numerical", "proved")
    assert 0 < proved["spectrum"]["radius"] <= 1e-10 * proved["norm"]["upper"]
    # What a float64 Gram route promises, and no less.
    pairs = zip(quick["spectrum"]["quantiles"], proved["spectrum"]["quantiles"], strict=True)
    top = proved["norm"]["upper"]
    for fast, slow in pairs:
        assert abs(fast - slow) <= (1e-11 if slow >= 1e-4 * top else 2e-8) * top


def test_a_layer_too_large_for_its_matrix_lists_lower_bounds(file: Path) -> None:
    (first, _) = layers(file, "--input-shape", "3x40x40")
    leading = first["leading"]["lower_bounds"]
    assert leading == sorted(leading, reverse=True)
    assert leading[0] <= first["norm"]["upper"]
    assert leading[0] >= 0.98 * first["norm"]["upper"]
    assert first["spectrum"]["of"] == "circular 40x40"
    # A small one has its own spectrum instead.
    assert layers(file, "--input-shape", "3x8x8")[0]["leading"] is None


def test_an_interrupt_is_answered_inside_of_lapack(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    torch.save({"a.weight": torch.randn(4000, 4000)}, path)
    with subprocess.Popen(
        [sys.executable, "-m", "lipaudit", "inspect", path, "--svd"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as running:
        # Past the imports and into a decomposition of half a minute and more.
        time.sleep(8)
        assert running.poll() is None
        running.send_signal(signal.SIGINT)
        out, complaint = running.communicate(timeout=10)
    assert running.returncode == ExitCode.INTERRUPTED
    assert (out, complaint) == (b"", b"")


@pytest.mark.parametrize("shape", [(), ("--input-shape", "3x8x8")])
def test_a_state_dict_keeps_its_bounds_when_a_shape_is_given(
    convolutions: nn.Sequential, tmp_path: Path, shape: tuple[str, ...]
) -> None:
    path = tmp_path / "state.pt"
    torch.save({**convolutions.state_dict(), "head.weight": torch.ones(2, 50)}, path)
    free = layers(path)
    assert layers(path, *shape) == free
    assert [layer["geometry"] for layer in free] == [{"geometry": "not stated"}] * 2 + [{}]
    for layer, module in zip(free, (convolutions[0], convolutions[2]), strict=False):
        # One step of one of the operators the kernel may belong to.
        kernel = torch.as_tensor(module.weight).detach().double()
        x = torch.ones(1, kernel.shape[1], 30, 30, dtype=torch.float64)
        stretched = torch.linalg.vector_norm(functional.conv2d(x, kernel, padding=1))
        assert stretched <= layer["norm"]["upper"] * torch.linalg.vector_norm(x)
    # What is missing is not a shape.
    said = " ".join(inspected(path, *shape).stdout.split())
    assert "--model gives the real" in said
    assert "give --input-shape" not in said
    assert "too large" not in said


def test_a_shape_that_does_not_fit_is_to_be_checked(file: Path) -> None:
    done = inspected(file, "--input-shape", "5x8x8")
    assert done.returncode == ExitCode.ERROR
    assert done.stderr.endswith("; check the input's shape (--input-shape)\n")
