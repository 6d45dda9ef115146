"""Convolutions of every geometry against the matrix of torch's own operation."""

import json
import math
import re
from dataclasses import replace
from typing import Any, TypeVar
from unittest import mock

import mpmath
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from lipaudit.device import choose
from lipaudit.enclosure import Rigor
from lipaudit.errors import NotCertified, ShapeError
from lipaudit.operators import circular, padded
from lipaudit.operators import torus_spectrum as spectra
from lipaudit.operators.base import AbstractLinearOperator
from lipaudit.operators.cells import Grid
from lipaudit.operators.convolution import (
    SizedConvolution,
    as_circular,
    convolution,
    reshaped_norm,
)
from lipaudit.operators.geometry import ConvGeometry, PaddingMode
from lipaudit.operators.strided import polyphase
from lipaudit.operators.torus_spectrum import torus_spectrum
from tests import oracles, shared_models

T = TypeVar("T")
CPU = choose("cpu")
NORM_ONLY = replace(CPU, full_spectra=False)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def geometry(rank: int = 2, pad: int = 0, **others: Any) -> ConvGeometry:
    """Return a geometry with the same numbers on every axis."""
    others = {"stride": (1,) * rank, "dilation": (1,) * rank} | others
    return ConvGeometry(padding=((pad, pad),) * rank, **others)


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, ConvGeometry, tuple[int, ...]]:
    """Draw a kernel, a geometry and an input shape that torch accepts."""
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    axis = st.integers(1, {1: 10, 2: 6, 3: 3}[rank])

    def axes(strategy: st.SearchStrategy[T]) -> list[T]:
        return draw(st.lists(strategy, min_size=rank, max_size=rank))

    sizes = axes(axis)
    kernel = axes(st.integers(1, 4 if rank < 3 else 2))
    stride, dilation = axes(st.integers(1, 3)), axes(st.integers(1, 3))
    groups, outer, inner = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 2)),
        draw(st.integers(1, 2)),
    )
    transposed = draw(st.booleans()) and draw(st.booleans())
    mode = PaddingMode.ZEROS if transposed else draw(st.sampled_from(list(PaddingMode)))
    pads = axes(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    extra: tuple[int, ...] = ()
    if transposed:
        pads = [(low, low) for low, _ in pads]
        extra = tuple(
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
        )
    if mode is PaddingMode.CIRCULAR and draw(st.booleans()):
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        pads = [(r // 2, r - r // 2) for r in reach]
    weight = noise(outer * groups, inner, *kernel, seed=draw(st.integers(0, 10**6)))
    shape = draw(st.sampled_from(["noise", "positive", "ones", "one tap", "zero"]))
    if shape == "positive":
        weight = weight.abs()
    if shape == "ones":
        weight = torch.ones_like(weight)
    if shape in {"one tap", "zero"}:
        weight = torch.zeros_like(weight)
        weight[..., -1] = float(shape == "one tap")
    described = ConvGeometry(
        tuple(stride), tuple(pads), tuple(dilation), groups, mode, transposed, extra
    )
    channels = (outer if transposed else inner) * groups
    return weight, described, (channels, *sizes)


def built(case: tuple[torch.Tensor, ConvGeometry, tuple[int, ...]]) -> SizedConvolution | None:
    """Return the operator of a case; None where the shape is refused, and then torch agrees."""
    kernel, described, shape = case
    try:
        operator = convolution(kernel, described, shape, CPU)
    except ShapeError:
        with pytest.raises(RuntimeError):
            oracles.run_conv(kernel, described, torch.zeros(1, *shape, dtype=torch.float64))
        return None
    assert isinstance(operator, SizedConvolution)
    return operator


def holds(operator: AbstractLinearOperator, truth: float) -> None:
    """Check an enclosure against a float64 value that may itself be a few ulp off."""
    enclosure = operator.norm().enclosure
    assert enclosure.rigor is Rigor.PROVED
    assert enclosure.lower <= truth * (1 + 1e-13)
    assert truth * (1 - 1e-13) <= enclosure.upper


@settings(max_examples=150)
@given(cases())
def test_everything_agrees_with_the_matrix_of_torchs_own_operation(
    case: tuple[torch.Tensor, ConvGeometry, tuple[int, ...]],
) -> None:
    operator = built(case)
    if operator is None:
        return
    kernel, described, shape = case
    matrix = oracles.conv_matrix(kernel, described, shape)
    truth = oracles.singular_values(matrix)
    x, y = noise(2, *operator.in_shape), noise(2, *operator.out_shape, seed=1)
    torch.testing.assert_close(operator.apply(x).reshape(2, -1), x.reshape(2, -1) @ matrix.mT)
    torch.testing.assert_close((operator.apply(x) * y).sum(), (x * operator.adjoint(y)).sum())
    holds(operator, float(truth[0]))
    spectrum = operator.spectrum()
    assert spectrum is not None
    assert spectrum.of == ""
    assert (spectrum.rows, spectrum.columns) == tuple(matrix.shape)
    np.testing.assert_allclose(spectrum.values, truth, rtol=0, atol=1e-11 * truth[0] + 1e-300)
    assert operator.frobenius() == pytest.approx(float(torch.linalg.matrix_norm(matrix)), rel=1e-12)


@settings(max_examples=150)
@given(cases())
def test_bounds_without_the_matrix_hold(
    case: tuple[torch.Tensor, ConvGeometry, tuple[int, ...]],
) -> None:
    operator = built(case)
    if operator is None:
        return
    kernel, described, shape = case
    truth = float(oracles.singular_values(oracles.conv_matrix(kernel, described, shape))[0])
    bounded = padded.bounded(operator.conv, CPU, "")
    assert bounded.enclosure.lower <= truth * (1 + 1e-13)
    assert truth * (1 - 1e-13) <= bounded.enclosure.upper
    # For every size ...
    free = convolution(kernel, described, None, CPU).norm().enclosure
    assert truth * (1 - 1e-13) <= free.upper
    # ... and, with zero padding, for every geometry.
    if described.mode is PaddingMode.ZEROS:
        unstated = ConvGeometry.unstated(described.rank)
        unknown = convolution(kernel, unstated, None, CPU).norm().enclosure
        assert truth * (1 - 1e-13) <= unknown.upper
        assert unknown.lower == 0


@settings(max_examples=80)
@given(cases(), st.lists(st.integers(1, 3), min_size=3, max_size=3))
def test_torus_spectrum_is_that_of_the_wrapped_operator(
    case: tuple[torch.Tensor, ConvGeometry, tuple[int, ...]], factors: list[int]
) -> None:
    kernel, described, _ = case
    # Not the operator of the case but its kernel on a torus, which may be smaller than the kernel.
    sizes = tuple(s * f for s, f in zip(described.stride, factors, strict=False))
    truth = oracles.singular_values(oracles.wrapped_matrix(kernel, described, sizes))
    symbol = polyphase(kernel, described)
    points = tuple(n // s for n, s in zip(sizes, described.stride, strict=True))
    spectrum = torus_spectrum(symbol, points, CPU)
    assert spectrum is not None
    assert spectrum.rigor is Rigor.PROVED
    # Columns that no tap acts on are left out, and with them zeros.
    zeros = np.zeros(len(truth) - len(spectrum.values))
    values = np.concatenate([spectrum.values, zeros])
    np.testing.assert_allclose(values, truth, rtol=0, atol=1e-12 * truth[0] + 1e-300)
    assert spectrum.radius <= 1e-12 * max(truth.size, 4) * truth[0] + 1e-200
    with mock.patch.object(spectra, "_QUICK", 0.0):
        by_gram = torus_spectrum(symbol, points, CPU)
    assert by_gram is not None
    assert by_gram.rigor is Rigor.NUMERICAL
    off = np.abs(np.concatenate([by_gram.values, zeros]) - truth)
    assert np.all(off <= np.where(truth >= 1e-4 * truth[0], 1e-11, 2e-8) * truth[0] + 1e-300)
    enclosure = circular.torus_norm(symbol, Grid(points, (0,) * len(points)), CPU).enclosure
    assert enclosure.lower <= truth[0] * (1 + 1e-13)
    assert truth[0] * (1 - 1e-13) <= enclosure.upper
    assert enclosure.upper <= enclosure.lower * (1 + 1e-4)


@settings(max_examples=100)
@given(cases())
def test_the_circular_twin_is_the_wrapped_operator(
    case: tuple[torch.Tensor, ConvGeometry, tuple[int, ...]],
) -> None:
    operator = built(case)
    if operator is None:
        return
    kernel, described, (_, *sizes) = case
    if described.transposed:
        # Of the plain convolution that it is the adjoint of: stride times as many points.
        points = tuple(n * s for n, s in zip(sizes, described.stride, strict=True))
    else:
        points = tuple(sizes)
    if any(n % s for n, s in zip(points, described.stride, strict=True)):
        with pytest.raises(ShapeError):
            as_circular(operator)
        return
    twin = as_circular(operator)
    truth = oracles.singular_values(oracles.wrapped_matrix(kernel, described, points))
    holds(twin, float(truth[0]))
    spectrum = twin.spectrum()
    assert spectrum is not None
    assert spectrum.of == ""
    np.testing.assert_allclose(spectrum.values, truth, rtol=0, atol=2e-8 * truth[0] + 1e-300)


@pytest.mark.parametrize("points", [3, 7])
@pytest.mark.parametrize("compute", [CPU, NORM_ONLY], ids=["spectrum", "norm only"])
def test_zero_padding_is_not_circular(points: int, compute: Any) -> None:
    # Eigenvalues of the second-difference matrix: 2 - 2cos(jπ/(n+1)). The circular operator has
    # norm 3 on 3 points and 3.802 on 7: less than the truth.
    kernel = torch.tensor([[[-1.0, 2.0, -1.0]]], dtype=torch.float64)
    operator = convolution(kernel, geometry(1, 1), (1, points), compute)
    with mpmath.workdps(30):
        truth = 2 + 2 * mpmath.cos(mpmath.pi / (points + 1))
        enclosure = operator.norm().enclosure
        assert mpmath.mpf(str(enclosure.lo)) <= truth <= mpmath.mpf(str(enclosure.hi))
    assert enclosure.upper == pytest.approx({3: 3.41421356, 7: 3.84775907}[points], abs=1e-8)


def test_large_zero_padded_bounds_are_tight() -> None:
    # The same kernel on so many points that no matrix is written out: the truth is a formula.
    kernel = torch.tensor([[[-1.0, 2.0, -1.0]]], dtype=torch.float64)
    operator = convolution(kernel, geometry(1, 1), (1, 5000), CPU)
    truth = 2 + 2 * math.cos(math.pi / 5001)
    holds(operator, truth)
    assert "exact" not in operator.norm().method
    assert operator.norm().enclosure.upper <= operator.norm().enclosure.lower * 1.0001


@pytest.mark.parametrize("scale", [1e308, 1e-310])
@pytest.mark.parametrize("shape", [None, (1, 7)])
def test_extreme_scales(scale: float, shape: tuple[int, ...] | None) -> None:
    kernel = torch.tensor([[[-0.5, 1.0, -0.5]]], dtype=torch.float64) * scale
    operator = convolution(kernel, geometry(1, 1), shape, CPU)
    truth = 2.0 if shape is None else 1.923879532511287
    enclosure = operator.norm().enclosure
    with mpmath.workdps(30):
        ratio = mpmath.mpf(scale)
        assert mpmath.mpf(str(enclosure.lo)) / ratio <= truth + 1e-12
        assert truth - 1e-12 <= mpmath.mpf(str(enclosure.hi)) / ratio <= truth * 1.0002


def test_broken_kernel_is_named_and_counted() -> None:
    kernel = noise(1, 1, 3)
    kernel[0, 0, 1] = math.nan
    with pytest.raises(NotCertified, match="1 of 3 values are NaN"):
        convolution(kernel, geometry(1), None, CPU)


@pytest.mark.parametrize(
    ("shape", "pad"), [((1, 2), 0), ((2, 5), 0), ((1, 5, 5), 0)], ids=["small", "channels", "rank"]
)
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...], pad: int) -> None:
    with pytest.raises(ShapeError):
        convolution(noise(1, 1, 3), geometry(1, pad), shape, CPU)


@pytest.mark.parametrize("groups", [3, 5])
def test_groups_that_do_not_divide_are_refused(groups: int) -> None:
    with pytest.raises(ShapeError, match="groups"):
        convolution(noise(4, 1, 3), geometry(1, groups=groups), None, CPU)


@pytest.mark.parametrize("shape", [None, (1, 6)])
@pytest.mark.parametrize("kernel", [torch.zeros(2, 1, 3), torch.zeros(0, 1, 3)])
def test_zero_and_empty_kernels(kernel: torch.Tensor, shape: tuple[int, ...] | None) -> None:
    operator = convolution(kernel.to(torch.float64), geometry(1, 1), shape, CPU)
    assert operator.norm().enclosure.is_zero
    assert operator.reshaped_norm() == 0.0
    spectrum = operator.spectrum()
    assert spectrum is None or not spectrum.values.any()


def test_kernel_of_many_taps_gets_a_true_bound_quickly() -> None:
    kernel = noise(2, 1, 24, 24)
    enclosure = convolution(kernel, geometry(2, groups=2), None, CPU).norm().enclosure
    truth = max(
        float(torch.fft.fft2(kernel, s=(128, 128), dim=(2, 3)).abs().max()), enclosure.lower
    )
    assert enclosure.lower > 0
    assert truth <= enclosure.upper


def test_operator_for_every_size_cannot_be_applied() -> None:
    operator = convolution(noise(1, 1, 3), geometry(1), None, CPU)
    assert operator.in_shape is None
    assert operator.out_shape is None
    assert operator.frobenius() is None
    with pytest.raises(ShapeError, match="every input size"):
        operator.apply(noise(1, 1, 3))
    with pytest.raises(ShapeError, match="every input size"):
        operator.adjoint(noise(1, 1, 3))


@pytest.mark.parametrize("transposed", [False, True])
def test_reference_spectrum_says_whose_it_is(transposed: bool) -> None:
    kernel = noise(3, 2, 3, 1)
    described = geometry(2, 0, stride=(3, 1), transposed=transposed)
    spectrum = convolution(kernel, described, None, CPU).spectrum()
    assert spectrum is not None
    assert spectrum.of == "circular 18x1"
    wrapped = oracles.wrapped_matrix(kernel, described, (18, 1))
    truth = oracles.singular_values(wrapped)
    np.testing.assert_allclose(spectrum.values, truth, atol=1e-11 * truth[0])
    shape = wrapped.mT.shape if transposed else wrapped.shape
    assert (spectrum.rows, spectrum.columns) == tuple(shape)
    assert convolution(kernel, described, None, NORM_ONLY).spectrum() is None


@pytest.mark.parametrize("transposed", [False, True])
def test_reshaped_norm_is_what_torchs_spectral_norm_divides_by(transposed: bool) -> None:
    layer: torch.nn.Module
    layer = (
        torch.nn.ConvTranspose2d(3, 4, 3, bias=False, dtype=torch.float64)
        if transposed
        else torch.nn.Conv2d(3, 4, 3, bias=False, dtype=torch.float64)
    )
    kernel = torch.as_tensor(layer.weight).detach().clone()
    normed = torch.nn.utils.parametrizations.spectral_norm(layer, n_power_iterations=500)
    normed(torch.zeros(1, 3, 4, 4, dtype=torch.float64))
    normed.eval()
    divided = torch.as_tensor(normed.weight).detach()
    ratio = float(torch.linalg.vector_norm(kernel) / torch.linalg.vector_norm(divided))
    assert reshaped_norm(kernel, transposed=transposed) == pytest.approx(ratio, rel=1e-6)


def single_layers() -> list[str]:
    """Return the shared one-layer convolution models."""
    found = shared_models.every("model.onnx")
    return [name for name in found if re.search(r"onnx_backend/test_Conv\w*__model\.onnx$", name)]


@pytest.mark.parametrize("name", single_layers())
def test_convolutions_of_other_peoples_models(name: str) -> None:
    model = onnx.load(str(shared_models.path(name)))
    (node,) = [node for node in model.graph.node if node.op_type in {"Conv", "ConvTranspose"}]
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    kernel = torch.from_numpy(weights[node.input[1]].astype(np.float64))
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    (source,) = [value for value in model.graph.input if value.name == node.input[0]]
    shape = tuple(axis.dim_value for axis in source.type.tensor_type.shape.dim)
    rank = kernel.dim() - 2
    pads = attributes.get("pads", [0] * 2 * rank)
    described = ConvGeometry(
        tuple(attributes.get("strides", [1] * rank)),
        tuple(zip(pads[:rank], pads[rank:], strict=True)),
        tuple(attributes.get("dilations", [1] * rank)),
        attributes.get("group", 1),
        transposed=node.op_type == "ConvTranspose",
        output_padding=tuple(attributes.get("output_padding", ())),
    )
    operator = convolution(kernel, described, shape[1:], NORM_ONLY)
    reference = json.loads(shared_models.path("REFERENCE.json").read_text())[name]["onnx"]
    ((_, _, norm),) = reference["layers"]
    holds(operator, norm)
    assert operator.norm().enclosure.upper >= reference["jac_lb"] * (1 - 1e-12)
