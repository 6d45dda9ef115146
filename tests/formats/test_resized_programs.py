"""Resizing read through torch.export: the stated factor decides where results lie."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import lipaudit
from tests.formats.programs import Applied, Shape, assert_same

FACTORS = (0.6, 1.3, 1.7)
SHAPES: dict[str, Shape] = {
    "linear": (1, 1, 7),
    "bilinear": (1, 1, 7, 6),
    "trilinear": (1, 1, 3, 4, 5),
    "bicubic": (1, 1, 7, 6),
}
NEAREST: tuple[Shape, ...] = ((1, 1, 7), (1, 1, 7, 6), (1, 1, 3, 4, 5))
CASES = [
    (mode, shape, factor, {"align_corners": corners})
    for (mode, shape), factor, corners in itertools.product(
        SHAPES.items(), FACTORS, (False, True)
    )
] + [
    (mode, shape, factor, {})
    for mode, shape, factor in itertools.product(("nearest", "nearest-exact"), NEAREST, FACTORS)
]  # fmt: skip


def resizing(mode: str, **options: Any) -> nn.Module:
    return Applied(lambda x: functional.interpolate(x, mode=mode, **options))


@pytest.mark.parametrize(("mode", "shape", "factor", "options"), CASES)
def test_a_stated_factor_is_the_scale(
    mode: str, shape: Shape, factor: float, options: dict[str, object], tmp_path: Path
) -> None:
    module = resizing(mode, scale_factor=factor, **options)
    assert_same(module, [shape], tmp_path)
    # Column by column: torch's backward of some neighbours is not that of its forward.
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape[1:])
    truth = float(torch.linalg.matrix_norm(module(basis).flatten(1), 2))
    found = lipaudit.bound(module, input_shape=shape[1:]).models[0].bound
    assert found is not None
    assert found.certified
    assert truth * (1 - 1e-12) <= found.measure.upper <= truth * (1 + 1e-6)


def test_a_factor_for_each_axis(tmp_path: Path) -> None:
    assert_same(resizing("bilinear", scale_factor=(0.6, 1.3)), [(1, 2, 7, 5)], tmp_path)


@pytest.mark.parametrize(
    "options", [{"size": (5, 9)}, {"scale_factor": 1.3, "recompute_scale_factor": True}]
)
def test_sizes_are_the_scale_where_they_alone_are_stated(
    options: dict[str, object], tmp_path: Path
) -> None:
    for mode in ("bilinear", "bicubic", "nearest"):
        assert_same(resizing(mode, **options), [(1, 2, 7, 5)], tmp_path)


def test_factors_beside_sizes_are_taken(tmp_path: Path) -> None:
    def default(x: torch.Tensor) -> torch.Tensor:
        made = torch.ops.aten.upsample_bilinear2d.default(x, [4, 9], False, 0.6, 1.3)
        assert isinstance(made, torch.Tensor)
        return made

    assert_same(Applied(default), [(1, 2, 7, 7)], tmp_path)


@pytest.mark.parametrize(("mode", "factor"), [("nearest", 1.2), ("nearest-exact", 2.9)])
def test_ties_between_neighbours_are_broken_as_torch_does(
    mode: str, factor: float, tmp_path: Path
) -> None:
    assert_same(resizing(mode, scale_factor=factor), [(1, 1, 17)], tmp_path)
    assert_same(resizing(mode, scale_factor=(factor, 1.05)), [(1, 1, 16, 3)], tmp_path)


def test_a_factor_that_keeps_the_size_still_moves_cubics_and_neighbours(tmp_path: Path) -> None:
    for mode in ("bilinear", "bicubic", "nearest"):
        assert_same(resizing(mode, scale_factor=(1.15, 2.0)), [(1, 1, 5, 4)], tmp_path)


def test_known_norm_of_a_shrunken_picture() -> None:
    module = resizing("bilinear", scale_factor=0.6)
    found = lipaudit.bound(module, input_shape=(1, 7, 7)).models[0].bound
    assert found is not None
    assert 1.0 <= found.measure.upper <= 1.0 + 1e-6
