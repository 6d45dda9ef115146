"""Resizing and padding: torch's own interpolation and dense Jacobians as truth."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from lipaudit.graph.constant import computed
from lipaudit.graph.node import Attribute, Node
from lipaudit.layers.base import Call, Gain, Unbounded, UnsupportedNode
from lipaudit.layers.resampling import Pad, Resize
from tests.layers.runtime import jacobian, outputs_of, reference_outputs_of

OPSET = 22


def _resize(constants: dict[int, torch.Tensor], **attributes: Attribute) -> tuple[Node, Resize]:
    names = tuple("x" if at == 0 else f"c{at}" if at in constants else "" for at in range(4))
    node = Node("Resize", "resize", names, ("y",), attributes)
    known = {at: computed(f"c{at}", value) for at, value in constants.items()}
    return node, Resize.from_node(Call(node, known))


def _pad(pads: list[int], **attributes: Attribute) -> tuple[Node, Pad]:
    node = Node("Pad", "pad", ("x", "pads"), ("y",), attributes)
    return node, Pad.from_node(Call(node, {1: computed("pads", torch.tensor(pads))}))


def _upper(layer: Resize | Pad, shape: tuple[int, ...] | None) -> float:
    gain = layer.gain((shape,))
    assert isinstance(gain, Gain)
    return gain.factors[0].upper


# torch's interpolation in ONNX's words. (Its "pytorch_half_pixel" differs from what torch does
# where one item is made.)
TORCH = {
    "nearest": {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    },
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    "bicubic": {"mode": "cubic", "coordinate_transformation_mode": "half_pixel"},
}


@pytest.mark.parametrize(
    ("mode", "aligned"),
    [("nearest", False), *((mode, a) for mode in ("bilinear", "bicubic") for a in (False, True))],
)
@pytest.mark.parametrize(
    ("size", "made"), [((4, 4), (8, 8)), ((5, 3), (7, 8)), ((6, 7), (3, 2)), ((1, 4), (3, 1))]
)
def test_the_norm_is_that_of_torchs_own_interpolation(
    mode: str, aligned: bool, size: tuple[int, int], made: tuple[int, int]
) -> None:
    attributes: dict[str, Any] = dict(TORCH[mode])
    if aligned:
        attributes["coordinate_transformation_mode"] = "align_corners"
    _, layer = _resize({3: torch.tensor(made)}, axes=(2, 3), **attributes)
    count = math.prod(size)
    eye = torch.eye(count, dtype=torch.float64).reshape(count, 1, *size)
    wanted = functional.interpolate(
        eye, made, mode=mode, align_corners=None if mode == "nearest" else aligned
    )
    torch.testing.assert_close(layer.forward([eye])[0], wanted)
    truth = float(torch.linalg.matrix_norm(wanted.reshape(count, -1), 2))
    assert truth * (1 - 1e-12) <= _upper(layer, (1, 1, *size)) <= truth * (1 + 1e-9)


@given(
    st.integers(1, 9),
    st.floats(0.3125, 3.5, width=32),
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(
        ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]
    ),
    st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
)
def test_resizing_by_any_scale_runs_like_onnxruntime(
    size: int, scale: float, mode: str, coordinates: str, nearest: str
) -> None:
    scales = torch.tensor([1.0, 1.0, 1.0, scale])
    node, layer = _resize(
        {2: scales}, mode=mode, coordinate_transformation_mode=coordinates, nearest_mode=nearest
    )
    x = torch.randn(1, 1, 3, size, generator=torch.Generator().manual_seed(size))
    if layer.forward([x])[0].numel() == 0:
        return
    # Where the size stays the same onnxruntime copies, whatever the scale; the standard does not.
    same = math.floor(size * scale) == size
    truth = reference_outputs_of if same else outputs_of
    theirs = truth(node, [x, None, scales, None], OPSET)[0]
    (ours,) = layer.forward([x])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    matrix = jacobian(lambda v: layer.forward([v])[0], x.double())
    norm = float(torch.linalg.matrix_norm(matrix, 2))
    assert norm * (1 - 1e-12) <= _upper(layer, tuple(x.shape)) <= norm * (1 + 1e-9)


def test_the_constants_of_doubling_a_picture_of_six_by_six() -> None:
    # DESIGN section 3: nearest 2, bilinear with aligned corners 2.0975, bicubic 2.0345.
    for mode, coordinates, wanted in (
        ("nearest", "asymmetric", 2.0),
        ("linear", "align_corners", 2.0975),
        ("cubic", "pytorch_half_pixel", 2.0345),
    ):
        _, layer = _resize(
            {3: torch.tensor([1, 1, 12, 12])},
            mode=mode,
            coordinate_transformation_mode=coordinates,
        )
        assert _upper(layer, (1, 1, 6, 6)) == pytest.approx(wanted, abs=5e-5)


@pytest.mark.parametrize(
    ("constants", "attributes"),
    [
        ({}, {}),
        ({3: torch.tensor([1, 1, 2, 2])}, {"mode": "area"}),
        ({3: torch.tensor([1, 1, 2, 2])}, {"coordinate_transformation_mode": "somewhere"}),
        ({3: torch.tensor([1, 1, 2, 2])}, {"nearest_mode": "up"}),
        ({3: torch.tensor([1, 1, 2, 2])}, {"antialias": 1, "mode": "linear"}),
        ({3: torch.tensor([1, 1, 2, 2])}, {"keep_aspect_ratio_policy": "maybe"}),
        ({2: torch.tensor([1.0, 1.0, 0.0, 2.0])}, {}),
        ({2: torch.tensor([1.0, 1.0, -1.0, 2.0])}, {}),
    ],
)
def test_resizes_that_are_not_modelled_are_refused(
    constants: dict[int, torch.Tensor], attributes: dict[str, Attribute]
) -> None:
    with pytest.raises(UnsupportedNode):
        _resize(constants, **attributes)


def test_a_resize_of_unknown_size_needs_the_shape() -> None:
    _, layer = _resize({2: torch.tensor([1.0, 2.0])})
    verdict = layer.gain((None,))
    assert isinstance(verdict, Unbounded)
    assert verdict.slug == "needs-shape"


def test_a_file_that_asks_for_billions_of_pixels_gets_no_memory() -> None:
    _, layer = _resize({3: torch.tensor([1, 1 << 40])}, mode="linear")
    verdict = layer.gain(((1, 5),))
    assert isinstance(verdict, Unbounded)
    assert verdict.slug == "memory"
    assert layer.forward([torch.empty(1, 5, device="meta")])[0].shape == (1, 1 << 40)
    _, pad = _pad([0, 1 << 40], mode="edge")
    assert _upper(pad, (5,)) == pytest.approx(2.0**20)
    assert pad.forward([torch.empty(5, device="meta")])[0].shape == (5 + (1 << 40),)


@given(
    st.sampled_from(["reflect", "edge", "wrap", "constant"]),
    st.lists(st.integers(2, 5), min_size=1, max_size=2),
    st.data(),
)
def test_pads_run_like_onnxruntime_and_count_their_copies(
    mode: str, sizes: list[int], data: st.DataObject
) -> None:
    most = [size - 1 for size in sizes]
    pads = [data.draw(st.integers(0, limit)) for limit in most * 2]
    node, layer = _pad(pads, mode=mode)
    x = torch.randn(sizes, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        layer.forward([x])[0], outputs_of(node, [x, torch.tensor(pads)], OPSET)[0]
    )
    truth = float(
        torch.linalg.matrix_norm(jacobian(lambda v: layer.forward([v])[0], x.double()), 2)
    )
    assert _upper(layer, tuple(sizes)) == pytest.approx(truth, rel=1e-12)
    assert _upper(layer, None) >= truth * (1 - 1e-12)


def test_padding_nothing_with_copies_is_an_error() -> None:
    _, layer = _pad([1, 1], mode="wrap")
    with pytest.raises(ValueError, match="without items"):
        layer.forward([torch.zeros(0)])


def test_pads_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UnsupportedNode):
        _pad([1, 1], mode="mirror")
    with pytest.raises(UnsupportedNode):
        Pad.from_node(Call(Node("Pad", "pad", ("x", "pads"), ("y",)), {}))
