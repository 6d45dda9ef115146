"""Convolutions and pools with random windows.

onnxruntime is the judge of the forward pass, the dense Jacobian of the norm.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from lipaudit.device import Compute
from lipaudit.graph.constant import computed
from lipaudit.graph.node import ONNX_DOMAIN, TORCH_DOMAIN, Attribute, Node
from lipaudit.layers import catalog
from lipaudit.layers.axis_maps import AxisMap, TooManyTaps
from lipaudit.layers.base import (
    AbstractGainLayer,
    AbstractLayer,
    AbstractLinearLayer,
    Call,
    Gain,
    Unbounded,
    UnsupportedNode,
)
from lipaudit.layers.windows import Windows
from tests.layers.runtime import jacobian, outputs_of

CPU = Compute(torch.device("cpu"))
OPSET = 22


def _layer(
    op: str,
    constants: Mapping[int, torch.Tensor] | None = None,
    domain: str = ONNX_DOMAIN,
    **attributes: Attribute,
) -> tuple[Node, AbstractLayer]:
    known = {at: computed(f"c{at}", value) for at, value in (constants or {}).items()}
    names = tuple(f"c{at}" if at in known else "x" for at in range(len(known) + 1))
    node = Node(op, op, names, ("y",), attributes, domain)
    kind = catalog.find(op, domain)
    assert kind is not None
    return node, kind.layer.from_node(Call(node, known))


def _gain(layer: AbstractLayer, shape: tuple[int, ...] | None) -> Gain:
    assert isinstance(layer, AbstractGainLayer)
    gain = layer.gain((shape,))
    assert isinstance(gain, Gain)
    return gain


def _norm(matrix: torch.Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Draw a shape and the attributes of a pool that fits it."""
    rank = draw(st.integers(1, 2))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, dilation = each(1, 4), each(1, 3)
    auto = draw(
        st.sampled_from(["NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
    )
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": each(1, 4),
        "dilations": dilation,
    }
    if auto == "NOTSET":
        pads = [draw(st.integers(0, size - 1)) for size in kernel * 2]
        attributes |= {"pads": tuple(pads), "ceil_mode": draw(st.integers(0, 1))}
    else:
        # onnxruntime refuses, or miscounts, dilated windows with automatic padding; where the
        # stride exceeds the kernel, runtimes disagree on which items are skipped.
        dilation = (1,) * rank
        steps = tuple(map(min, attributes["strides"], kernel))
        attributes |= {"auto_pad": auto, "dilations": dilation, "strides": steps}
    sizes = tuple(
        draw(st.integers((k - 1) * d + 1, 9)) if (k - 1) * d < 9 else (k - 1) * d + 1
        for k, d in zip(kernel, dilation, strict=True)
    )
    return (1, 1, *sizes), attributes


@given(windows())
def test_max_pools_run_like_onnxruntime_and_count_their_overlap(
    case: tuple[tuple[int, ...], dict[str, Any]],
) -> None:
    shape, attributes = case
    node, layer = _layer("MaxPool", **attributes)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    (ours,) = layer.forward([x])
    torch.testing.assert_close(ours, outputs_of(node, [x], OPSET)[0])
    gain = _gain(layer, shape)
    # An input whose largest item is alone: it wins every window that it is in.
    attained = 0.0
    for item in range(x.numel()):
        alone = torch.zeros(x.numel(), dtype=torch.float64)
        alone[item] = 1.0
        made = layer.forward([alone.reshape(shape)])[0]
        attained = max(attained, float(torch.linalg.vector_norm(made.clamp(min=0))))
    assert gain.factors[0].upper == pytest.approx(attained, rel=1e-12)
    assert _gain(layer, None).factors[0].upper >= attained * (1 - 1e-12)


@given(windows(), st.integers(0, 1))
def test_average_pools_run_like_onnxruntime_and_have_the_norm_of_their_matrix(
    case: tuple[tuple[int, ...], dict[str, Any]], counted: int
) -> None:
    shape, attributes = case
    node, layer = _layer("AveragePool", count_include_pad=counted, **attributes)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    (ours,) = layer.forward([x])
    torch.testing.assert_close(ours, outputs_of(node, [x], OPSET)[0], rtol=1e-5, atol=1e-6)
    truth = _norm(jacobian(lambda v: layer.forward([v])[0], x.double()))
    gain = _gain(layer, shape).factors[0]
    assert gain.lower <= truth * (1 + 1e-12)
    assert truth * (1 - 1e-12) <= gain.upper <= truth * (1 + 1e-9)
    assert _gain(layer, None).factors[0].upper >= truth * (1 - 1e-12)


def test_padding_that_is_not_counted_makes_an_average_pool_steeper() -> None:
    counted = _gain(
        _layer("AveragePool", kernel_shape=(2, 2), pads=(1,) * 4, count_include_pad=1)[1],
        (1, 1, 7, 7),
    )
    apart = _gain(_layer("AveragePool", kernel_shape=(2, 2), pads=(1,) * 4)[1], (1, 1, 7, 7))
    # Both figures from torch's own operation, column by column.
    eye = torch.eye(49, dtype=torch.float64).reshape(49, 1, 7, 7)
    for gain, include in ((counted, True), (apart, False)):
        pooled = functional.avg_pool2d(eye, 2, 1, 1, count_include_pad=include)
        assert gain.factors[0].upper == pytest.approx(_norm(pooled.reshape(49, -1)), rel=1e-9)
    assert apart.factors[0].upper > 1 > counted.factors[0].upper


@pytest.mark.parametrize(("size", "outputs"), [(7, 3), (5, 4), (6, 6), (3, 5), (1, 4)])
def test_adaptive_pools_overlap_where_sizes_do_not_divide(size: int, outputs: int) -> None:
    eye = torch.eye(size, dtype=torch.float64)[:, None]
    averaged = functional.adaptive_avg_pool1d(eye, outputs)[:, 0]
    largest = functional.adaptive_max_pool1d(eye, outputs)[:, 0]
    for op, truth in (
        ("AdaptiveAveragePool", _norm(averaged)),
        ("AdaptiveMaxPool", math.sqrt(float(largest.sum(1).max()))),
    ):
        _, layer = _layer(op, domain=TORCH_DOMAIN, output_size=(outputs,))
        assert _gain(layer, (1, 1, size)).factors[0].upper == pytest.approx(truth, rel=1e-9)
        assert isinstance(layer, AbstractGainLayer)
        assert isinstance(layer.gain((None,)), Unbounded)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_lp_pools_never_exceed_their_bound_near_a_kink(power: int) -> None:
    _, layer = _layer("LpPool", kernel_shape=(3,), strides=(1,), pads=(1, 1), p=power)
    gain = _gain(layer, (1, 1, 8)).factors[0].upper
    x = torch.full((1, 1, 8), 1e-3, dtype=torch.float64)
    assert _norm(jacobian(lambda v: layer.forward([v])[0], x)) <= gain * (1 + 1e-12)


def test_a_long_axis_is_bounded_without_a_matrix() -> None:
    for attributes in (
        {"kernel_shape": (3,), "strides": (2,)},
        {"kernel_shape": (4,), "pads": (2, 1)},
    ):
        _, layer = _layer("AveragePool", **attributes)
        short, long = _gain(layer, (1, 1, 300)), _gain(layer, (1, 1, 5000))
        # The norm grows with the length towards the sup of the symbol; 300 is nearly there.
        assert long.factors[0].upper >= short.factors[0].upper * (1 - 1e-9)
        assert long.factors[0].upper <= short.factors[0].upper * (1 + 1e-3)


@given(st.integers(2, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
def test_the_trial_vector_bound_is_true(size: int, results: int, taps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(0, size, (results, taps), generator=generator)
    weight = torch.randn(results, taps, generator=generator, dtype=torch.float64)
    dense = torch.zeros(results, size, dtype=torch.float64).scatter_add_(1, index, weight)
    made = AxisMap(index, weight, size)
    assert made._from_trial_vector().upper >= _norm(dense) * (1 - 1e-12)
    assert made.norm().lower <= _norm(dense) * (1 + 1e-12)
    assert made.norm().upper >= _norm(dense) * (1 - 1e-12)


def test_a_file_that_asks_for_billions_of_windows_gets_no_memory() -> None:
    huge = (1, 1, 1 << 40)
    _, pool = _layer("MaxPool", kernel_shape=(1 << 30,), strides=(1,), pads=(0, 0))
    assert _gain(pool, huge).factors[0].upper == pytest.approx(2.0**15)
    _, mean = _layer("AveragePool", kernel_shape=(1 << 30,), strides=(1 << 29,))
    assert _gain(mean, huge).factors[0].upper == pytest.approx(math.sqrt(2 / 2**30))
    assert mean.forward([torch.empty(huge, device="meta")])[0].shape == (1, 1, 2047)
    with pytest.raises(TooManyTaps):
        mean.forward([torch.zeros(1).expand(huge)])
    _, adaptive = _layer("AdaptiveAveragePool", domain=TORCH_DOMAIN, output_size=(1 << 40,))
    assert isinstance(adaptive, AbstractGainLayer)
    verdict = adaptive.gain((huge,))
    assert isinstance(verdict, Unbounded)
    assert verdict.slug == "memory"


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"kernel_shape": (2,), "strides": (0,)},
        {"kernel_shape": (2,), "strides": (1, 1)},
        {"kernel_shape": (2,), "pads": (1,)},
        {"kernel_shape": (2,), "dilations": (-1,)},
        {"kernel_shape": (2.5,)},
        {"kernel_shape": (2,), "auto_pad": "SAME"},
    ],
)
def test_windows_that_make_no_sense_are_refused(attributes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedNode):
        _layer("MaxPool", **attributes)


def test_a_pool_that_also_returns_positions_is_refused() -> None:
    node = Node("MaxPool", "pool", ("x",), ("y", "where"), {"kernel_shape": (2,)})
    kind = catalog.find("MaxPool", ONNX_DOMAIN)
    assert kind is not None
    with pytest.raises(UnsupportedNode):
        kind.layer.from_node(Call(node, {}))


@given(windows(), st.integers(1, 2), st.booleans())
@settings(max_examples=30)
def test_convolutions_run_like_onnxruntime_and_enclose_their_norm(
    case: tuple[tuple[int, ...], dict[str, Any]], groups: int, transposed: bool
) -> None:
    shape, attributes = case
    attributes.pop("ceil_mode", None)
    sizes = attributes["kernel_shape"]
    generator = torch.Generator().manual_seed(3)
    kernel = torch.randn((2 * groups, 2, *sizes), generator=generator)
    op = "ConvTranspose" if transposed else "Conv"
    attributes |= {"group": groups}
    node, layer = _layer(op, {1: kernel}, **attributes)
    x = torch.randn(1, 2 * groups, *shape[2:], generator=generator)
    wanted = layer.forward([x.to("meta"), kernel.to("meta")])[0].shape
    assume(min(wanted) > 0)  # pads that cut everything away
    theirs = outputs_of(node, [x, kernel], OPSET)[0]
    (ours,) = layer.forward([x, kernel])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert isinstance(layer, AbstractLinearLayer)
    truth = _norm(jacobian(lambda v: layer.forward([v, kernel.double()])[0], x.double()))
    here = layer.operator(tuple(x.shape), CPU).norm().enclosure
    anywhere = layer.operator(None, CPU).norm().enclosure
    assert here.lower <= truth * (1 + 1e-9)
    assert here.upper >= truth * (1 - 1e-9)
    assert anywhere.upper >= truth * (1 - 1e-9)


def _first(layer: AbstractLayer, kernel: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return layer.forward([x, kernel])[0]


@given(windows(), st.integers(0, 50))
@settings(max_examples=25)
def test_a_kernel_of_unknown_geometry_is_bounded_for_every_one(
    case: tuple[tuple[int, ...], dict[str, Any]], seed: int
) -> None:
    shape, attributes = case
    attributes.pop("ceil_mode", None)
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn((2, 2, *attributes["kernel_shape"]), generator=generator)
    _, loose = _layer("Conv", {1: kernel}, geometry="unstated")
    assert isinstance(loose, AbstractLinearLayer)
    bound = loose.operator((1, 2, *shape[2:]), CPU).norm().enclosure.upper
    assert loose.geometry() == {"geometry": "not stated"}
    for op in ("Conv", "ConvTranspose"):
        _, layer = _layer(op, {1: kernel}, **attributes)
        x = torch.randn(1, 2, *shape[2:], generator=generator, dtype=torch.float64)
        try:
            matrix = jacobian(functools.partial(_first, layer, kernel.double()), x)
        except RuntimeError:
            continue  # pads that cut everything away
        if matrix.numel():
            assert _norm(matrix) <= bound * (1 + 1e-9)
    with pytest.raises(UnsupportedNode, match="not its stride"):
        loose.forward([x, kernel.double()])


def test_an_output_of_nothing_but_output_padding_is_zeros() -> None:
    _, layer = _layer(
        "ConvTranspose",
        {1: torch.ones(1, 1, 1)},
        kernel_shape=(1,),
        strides=(4,),
        pads=(2, 0),
        output_padding=(3,),
    )
    (made,) = layer.forward([torch.ones(1, 1, 1), torch.ones(1, 1, 1)])
    assert torch.equal(made, torch.zeros(1, 1, 2))


def test_a_convolution_says_its_geometry() -> None:
    kernel = torch.ones(2, 1, 3, 3)
    _, layer = _layer(
        "Conv", {1: kernel}, strides=(2, 1), pads=(1, 0, 1, 2), dilations=(1, 2), group=2
    )
    assert isinstance(layer, AbstractLinearLayer)
    assert layer.geometry() == {
        "stride": "2x1",
        "padding": "1x0+2",
        "dilation": "1x2",
        "groups": "2",
    }


def test_parts_that_the_network_computes_are_not_taken_for_weights() -> None:
    kind = catalog.find("Conv", ONNX_DOMAIN)
    assert kind is not None
    dynamic = Node("Conv", "conv", ("x", "k"), ("y",), {"kernel_shape": (3,)})
    layer = kind.layer.from_node(Call(dynamic, {}))
    assert isinstance(layer, AbstractGainLayer)
    verdict = layer.gain((None, None))
    assert isinstance(verdict, Unbounded)
    assert verdict.slug == "bilinear"
    biased = Node("Conv", "conv", ("x", "k", "b"), ("y",), {})
    with pytest.raises(UnsupportedNode):
        kind.layer.from_node(Call(biased, {1: computed("k", torch.ones(1, 1, 3))}))


def test_the_number_of_windows_is_that_of_onnx() -> None:
    # ceil((5 + 0 - 2) / 3) + 1 = 2 windows, the second one from item 3 on.
    call = Call(Node("MaxPool", "p", ("x",), ("y",), {"ceil_mode": 1, "strides": (3,)}), {})
    assert Windows.of(call, (2,)).counts_on((5,)) == (2,)
    # ... but none that would start in the padding behind the input.
    padded: dict[str, Attribute] = {"ceil_mode": 1, "strides": (3,), "pads": (0, 1)}
    call = Call(Node("MaxPool", "p", ("x",), ("y",), padded), {})
    assert Windows.of(call, (2,)).counts_on((3,)) == (1,)


@pytest.mark.parametrize(("size", "pad"), [(1, 0), (2, 0), (1, 1)])
def test_a_last_window_may_be_wider_than_the_whole_input(size: int, pad: int) -> None:
    """ceil((1 - 3) / 3) + 1 = 1 window, of which only the first items are there."""
    attributes: dict[str, Any] = {
        "kernel_shape": (4,), "strides": (4,), "pads": (pad, pad), "ceil_mode": 1
    }  # fmt: skip
    x = torch.randn(1, 2, size, generator=torch.Generator().manual_seed(0))
    node, most = _layer("MaxPool", **attributes)
    truth = functional.max_pool1d(x, 4, 4, pad, ceil_mode=True)
    torch.testing.assert_close(most.forward([x])[0], truth)
    torch.testing.assert_close(most.forward([x])[0], outputs_of(node, [x], OPSET)[0])
    assert _gain(most, (1, 2, size)).factors[0].upper == 1
    _, mean = _layer("AveragePool", count_include_pad=1, **attributes)
    truth = functional.avg_pool1d(x, 4, 4, pad, ceil_mode=True)
    torch.testing.assert_close(mean.forward([x])[0], truth)
    rows = jacobian(lambda y: mean.forward([y])[0], x.double())
    assert _gain(mean, (1, 2, size)).factors[0].upper == pytest.approx(_norm(rows), rel=1e-9)


def test_a_window_wider_than_the_input_fits_nowhere_without_rounding_up() -> None:
    call = Call(Node("MaxPool", "p", ("x",), ("y",), {"kernel_shape": (4,), "strides": (4,)}), {})
    with pytest.raises(ValueError, match="does not fit"):
        Windows.of(call, (4,)).counts_on((2,))
