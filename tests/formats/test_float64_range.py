"""Parametrized weights at the ends of float64's range: exact fractions, and no false proof."""

import math
from fractions import Fraction
from pathlib import Path

import mpmath
import pytest
import torch
from safetensors.torch import save_file

import lipaudit
from lipaudit.enclosure import Rigor
from lipaudit.formats.detect import read_model
from lipaudit.results import ModelReport
from tests.formats.putting import assert_near, rewritten, weights

PARTS = "0.parametrizations.weight."


def stored(folder: Path, **parts: torch.Tensor) -> Path:
    path = folder / "w.safetensors"
    save_file({PARTS + key.replace("at0_", "0."): part for key, part in parts.items()}, path)
    return path


def doubles(*values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def inspected(path: Path) -> ModelReport:
    (model,) = lipaudit.inspect(path).models
    return model


@pytest.mark.parametrize(
    "v",
    [
        [[1e200]],
        [[2e-162]],
        [[5e-324]],
        [[1.7e308]],
        [[1e300, 0.0], [0.0, 3e-300]],
        [[3e-170, 4e-170], [-4e200, 3e200]],
    ],
)
def test_lengths_of_directions_do_not_matter(v: list[list[float]], tmp_path: Path) -> None:
    g = torch.ones(len(v), 1, dtype=torch.float64)
    (layer,) = inspected(stored(tmp_path, original0=g, original1=doubles(*v))).layers
    truth = 1.0  # of orthogonal rows of length 1
    assert layer.norm.rigor is Rigor.PROVED
    assert layer.norm.lower <= truth <= layer.norm.upper
    assert layer.norm.upper <= 1 + 1e-9


def test_every_entry_is_within_its_stated_error(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = doubles(1e-310, 1e-170, 1e-20, 1.0, 1e160, 1e307).unsqueeze(1)
    v = torch.randn(6, 9, dtype=torch.float64) * sizes
    g = torch.randn(6, 1, dtype=torch.float64)
    model = read_model(str(stored(tmp_path, original0=g, original1=v)))
    weight = weights(model)["0"]
    assert weight.entry_error < 1e-14
    with mpmath.workdps(60):
        for row, length, made in zip(v, g, weight.values(), strict=True):
            size = mpmath.sqrt(sum(mpmath.mpf(float(x)) ** 2 for x in row))
            for x, found in zip(row, made, strict=True):
                exact = mpmath.mpf(float(length)) * mpmath.mpf(float(x)) / size
                assert abs(mpmath.mpf(float(found)) - exact) <= weight.entry_error * abs(exact)


@pytest.mark.parametrize(
    ("g", "v"),
    [(1.0, [1e200, 1e-150]), (1e-200, [1.0, 1e-120]), (5e-324, [1.0, 1.0])],
)
def test_digits_lost_to_underflow_are_not_called_exact(
    g: float, v: list[float], tmp_path: Path
) -> None:
    parts = {"original0": doubles([g]), "original1": doubles(v)}
    assert math.isinf(weights(read_model(str(stored(tmp_path, **parts))))["0"].entry_error)


@pytest.mark.parametrize("size", [1e-305, 1e-162, 1e200, 1e305])
def test_directions_out_of_range_of_squares_are_written(size: float, tmp_path: Path) -> None:
    torch.manual_seed(1)
    v = torch.rand(3, 4, dtype=torch.float64) * size
    path = stored(tmp_path, original0=torch.ones(3, 1, dtype=torch.float64), original1=v)
    wanted, made = rewritten(path, tmp_path / "out.safetensors", "0")
    assert_near(made, wanted, torch.float64)


@pytest.mark.parametrize(
    ("original", "divisor"),
    [(1e-300, 1e20), (5e-324, 3.0), (1e300, 1e-20), (3.0, 1.0), (1e-300, 1e-300)],
)
def test_quotients_are_within_their_stated_error(
    original: float, divisor: float, tmp_path: Path
) -> None:
    path = stored(tmp_path, original=doubles([original]), at0__divisor=doubles(divisor)[0])
    weight = weights(read_model(str(path)))["0"]
    exact = Fraction(original) / Fraction(divisor)
    found = float(weight.values())
    if math.isinf(weight.entry_error):
        assert exact < Fraction(2) ** -1022 or math.isinf(found)
    else:
        assert abs(Fraction(found) - exact) <= Fraction(weight.entry_error) * exact


@pytest.mark.parametrize(
    ("original", "u", "v"),
    [(1e200, 1e200, 1e200), (1e-200, 1e-200, 1e300), (1e308, -1e308, 1.0)],
)
def test_a_divisor_out_of_range_is_no_internal_error(
    original: float, u: float, v: float, tmp_path: Path
) -> None:
    parts = {"original": doubles([original]), "at0__u": doubles(u), "at0__v": doubles(v)}
    path = stored(tmp_path, **parts)
    assert math.isinf(weights(read_model(str(path)))["0"].entry_error)
    for layer in inspected(path).layers:
        assert layer.norm.rigor is not Rigor.PROVED
