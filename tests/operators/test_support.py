"""Convolutions much of which never touches data, against the matrix of torch's own operation.

Dilations and paddings beyond the image, strides beyond the kernel and the image, crops.
"""

import math
import time
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from lipaudit.device import choose
from lipaudit.enclosure import Rigor
from lipaudit.errors import ShapeError
from lipaudit.operators import convolution as convolutions
from lipaudit.operators import correlation
from lipaudit.operators.base import AbstractLinearOperator
from lipaudit.operators.convolution import as_circular, convolution
from lipaudit.operators.geometry import ConvGeometry, PaddingMode
from lipaudit.operators.scaled import ScaledOperator
from lipaudit.operators.strided import polyphase, reduced
from tests import oracles
from tests.operators.kernels import pick

CPU = choose("cpu")
NORM_ONLY = replace(CPU, full_spectra=False)
Shape = tuple[int, ...]
Values = npt.NDArray[np.float64]
_CONV = (functional.conv1d, functional.conv2d, functional.conv3d)
_SPREAD = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def run(kernel: torch.Tensor, g: ConvGeometry, x: torch.Tensor) -> torch.Tensor:
    """Run torch's convolution with zeros added and cut as told; transposed: cut and added."""
    pads = list(g.padding)
    if not g.transposed:
        return _CONV[g.rank - 1](_around(x, pads), kernel, None, g.stride, 0, g.dilation, g.groups)
    full = _SPREAD[g.rank - 1](x, kernel, None, g.stride, 0, 0, g.groups, g.dilation)
    extra = g.output_padding or (0,) * g.rank
    cuts = [(-low, more - high) for (low, high), more in zip(pads, extra, strict=True)]
    return _around(full, cuts)


def _around(x: torch.Tensor, pads: list[tuple[int, int]]) -> torch.Tensor:
    """Add zeros, then cut, one axis after the other; cuts may go beyond the data."""
    for axis, (low, high) in enumerate(pads, start=2):
        room = [0, 0] * (x.dim() - 1 - axis) + [max(low, 0), max(high, 0)]
        x = functional.pad(x, room)
        x = x[(slice(None),) * axis + (slice(max(-low, 0), x.shape[axis] - max(-high, 0)),)]
    return x


def strange(seed: int) -> tuple[torch.Tensor, ConvGeometry, Shape]:
    """Draw a zero-padded convolution most of which may well stand beside the image."""
    generator = torch.Generator().manual_seed(seed)
    rank = (1, 1, 2, 2, 3)[pick(generator, 0, 4)]

    def axes(low: int, high: int) -> Shape:
        return tuple(pick(generator, low, high) for _ in range(rank))

    while True:
        sizes = axes(1, {1: 8, 2: 5, 3: 3}[rank])
        taps = axes(1, {1: 9, 2: 5, 3: 3}[rank])
        stride, dilation = axes(1, (3, 12)[pick(generator, 0, 1)]), axes(1, 7)
        transposed = pick(generator, 0, 3) == 0
        low, high = axes(-4, 12), axes(-4, 12)
        extra = tuple(pick(generator, 0, s - 1) for s in stride) if transposed else ()
        groups = pick(generator, 1, 2)
        out, inner = pick(generator, 1, 3), pick(generator, 1, 2)
        kernel = noise(out * groups, inner, *taps, seed=seed)
        if pick(generator, 0, 3) == 0:
            kernel = kernel * (noise(*taps, seed=seed + 1) > 0.5)
        g = ConvGeometry(
            stride,
            tuple(zip(low, high, strict=True)),
            dilation,
            groups,
            transposed=transposed,
            output_padding=extra,
        )
        reach = [d * (k - 1) for d, k in zip(dilation, taps, strict=True)]
        if transposed:
            made = [
                (n - 1) * s + r + 1 + e - a - b
                for n, s, r, e, a, b in zip(sizes, stride, reach, extra, low, high, strict=True)
            ]
        else:
            made = [n + a + b - r for n, a, b, r in zip(sizes, low, high, reach, strict=True)]
        if min(made) >= 1 and math.prod(made) <= 3000:
            return kernel, g, ((out if transposed else inner) * groups, *sizes)


def agrees(operator: AbstractLinearOperator, matrix: torch.Tensor) -> None:
    """Check everything an operator says about itself against its matrix."""
    truth = oracles.singular_values(matrix)
    top = float(truth[0])
    found = operator.norm().enclosure
    assert found.rigor is Rigor.PROVED
    assert found.lower <= top * (1 + 1e-13)
    assert top * (1 - 1e-13) <= found.upper <= top * (1 + 1e-9)
    frobenius = operator.frobenius()
    assert frobenius == pytest.approx(float(torch.linalg.matrix_norm(matrix)), rel=1e-12)
    spectrum = operator.spectrum()
    assert spectrum is not None
    assert (spectrum.of, spectrum.rows, spectrum.columns) == ("", *matrix.shape)
    np.testing.assert_allclose(spectrum.values, truth, rtol=0, atol=1e-11 * top + 1e-300)
    assert operator.in_shape is not None
    assert operator.out_shape is not None
    x, y = noise(2, *operator.in_shape), noise(2, *operator.out_shape, seed=1)
    torch.testing.assert_close(operator.apply(x).reshape(2, -1), x.reshape(2, -1) @ matrix.mT)
    torch.testing.assert_close((operator.apply(x) * y).sum(), (x * operator.adjoint(y)).sum())


@pytest.mark.parametrize("part", range(4))
def test_what_never_touches_data_changes_nothing(part: int) -> None:
    for seed in range(75 * part, 75 * part + 75):
        kernel, g, shape = strange(seed)
        matrix = oracles.dense(partial(run, kernel, g), shape)
        agrees(convolution(kernel, g, shape, CPU), matrix)


def test_bounds_without_the_matrix_know_what_touches_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "_DENSE_ENTRIES", 0)
    for seed in range(120):
        kernel, g, shape = strange(seed)
        truth = float(oracles.singular_values(oracles.dense(partial(run, kernel, g), shape))[0])
        found = convolution(kernel, g, shape, NORM_ONLY).norm().enclosure
        assert found.lower <= truth * (1 + 1e-13)
        assert truth * (1 - 1e-13) <= found.upper
        # Of what touches no data the bound must not speak: 0 is 0.
        assert (found.upper == 0) == (truth == 0)


def test_a_map_is_the_same_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correlation, "_COLUMNS_BYTES", 1)
    for seed in range(60):
        kernel, g, shape = strange(seed)
        matrix = oracles.dense(partial(run, kernel, g), shape)
        operator = convolution(kernel, g, shape, NORM_ONLY)
        assert operator.out_shape is not None
        x, y = noise(2, *shape), noise(2, *operator.out_shape, seed=1)
        torch.testing.assert_close(operator.apply(x).reshape(2, -1), x.reshape(2, -1) @ matrix.mT)
        torch.testing.assert_close(operator.adjoint(y).reshape(2, -1), y.reshape(2, -1) @ matrix)


def square(pad: int, *, stride: int = 1, dilation: int = 1) -> ConvGeometry:
    return ConvGeometry((stride,) * 2, ((pad, pad),) * 2, (dilation,) * 2)


@pytest.mark.parametrize("compute", [CPU, NORM_ONLY], ids=["spectrum", "norm only"])
def test_a_dilation_as_large_as_the_image_leaves_the_middle_tap(compute: object) -> None:
    assert isinstance(compute, type(CPU))
    kernel = noise(64, 64, 3, 3)
    truth = float(oracles.singular_values(kernel[:, :, 1, 1])[0])
    found = convolution(kernel, square(18, dilation=18), (64, 16, 16), compute).norm().enclosure
    assert found.lower <= truth * (1 + 1e-13)
    assert truth * (1 - 1e-13) <= found.upper <= truth * (1 + 1e-6)


def test_taps_that_touch_nothing_may_be_of_any_size() -> None:
    kernel = torch.full((2, 2, 3, 3), 1e150, dtype=torch.float64)
    kernel[:, :, 1, 1] = noise(2, 2) * 1e-150
    truth = float(oracles.singular_values(kernel[:, :, 1, 1] * 1e150)[0])
    operator = convolution(kernel, square(30, dilation=30), (2, 20, 20), CPU)
    found = operator.norm().enclosure
    assert float(found.lo) <= truth * 1e-150 * (1 + 1e-12)
    assert truth * 1e-150 * (1 - 1e-12) <= float(found.hi) <= truth * 1e-150 * (1 + 1e-6)
    spectrum = operator.spectrum()
    assert spectrum is not None
    assert spectrum.values[0] == pytest.approx(truth * 1e-150, rel=1e-9)
    assert isinstance(operator, ScaledOperator)
    # On the torus all of them meet data: at frequency 0 they add up to 8e150 in each entry.
    wrapped = as_circular(operator).norm().enclosure
    assert float(wrapped.lo) == pytest.approx(1.6e151, rel=1e-3)
    assert operator.reshaped_norm() == pytest.approx(1e150 * math.sqrt(2 * 16), rel=1e-9)
    kernel[:, :, 1, 1] = 0
    nothing = convolution(kernel, square(30, dilation=30), (2, 20, 20), CPU)
    assert nothing.norm().enclosure.is_zero
    assert nothing.frobenius() == 0
    zeros = nothing.spectrum()
    assert zeros is not None
    assert (zeros.of, zeros.rigor, zeros.values.size) == ("", Rigor.PROVED, 800)
    assert not zeros.values.any()


@pytest.mark.parametrize(
    ("shape", "pads", "stride", "n"),
    [
        ((8, 8, 1, 1), (1, 100), 101, 100),  # reads zeros only
        ((8, 8, 3, 3), (2, 0), 103, 100),  # one pixel
        ((16, 16, 1, 1), (0, 0), 199, 200),
        ((8, 8, 1, 1), (0, 0), 32, 64),
        ((8, 8, 2, 2), (0, 0), 10**7, 64),
    ],
)
def test_strides_beyond_the_kernel_cost_nothing(
    shape: Shape, pads: tuple[int, int], stride: int, n: int
) -> None:
    kernel, started = noise(*shape), time.perf_counter()
    g = ConvGeometry((stride,) * 2, (pads, pads), (1, 1))
    operator = convolution(kernel, g, (shape[1], n, n), CPU)
    found, spectrum = operator.norm().enclosure, operator.spectrum()
    frobenius = operator.frobenius()
    # Any size: the symbol has no columns for the pixels between windows.
    free = convolution(kernel, g, None, CPU)
    bound = free.norm().enclosure
    stand_in = free.spectrum()
    assert time.perf_counter() - started < 2
    values = _of_windows(kernel, pads, stride, n)
    assert spectrum is not None
    np.testing.assert_allclose(spectrum.values, values, atol=1e-12 * (1 + values[0]))
    assert found.lower <= values[0] * (1 + 1e-13) <= found.upper * (1 + 2e-13)
    assert found.upper <= values[0] * (1 + 1e-6)
    assert frobenius == pytest.approx(math.sqrt(float((values**2).sum())), rel=1e-12)
    whole = float(oracles.singular_values(kernel.flatten(1))[0])
    assert bound.lower <= whole * (1 + 1e-13) <= bound.upper * (1 + 2e-13)
    assert bound.upper <= whole * (1 + 1e-6)
    assert stand_in is not None
    assert stand_in.columns > 10 * stand_in.rows


def _of_windows(kernel: torch.Tensor, pads: tuple[int, int], stride: int, n: int) -> Values:
    """Return the singular values of windows that share no pixel, a matrix each."""
    low, high = pads
    size = kernel.shape[2]
    starts = range(-low, n + high - size + 1, stride)
    lines = [slice(max(-at, 0), max(min(size, n - at), 0)) for at in starts]
    parts = (kernel[:, :, rows, columns].flatten(1) for rows in lines for columns in lines)
    found = [oracles.singular_values(part) for part in parts if part.numel()]
    count = min(kernel.shape[0] * len(lines) ** 2, kernel.shape[1] * n**2)
    values = np.concatenate([*found, np.zeros(count)])
    return np.sort(values)[::-1][:count]


def test_phases_that_no_tap_reads_are_no_columns() -> None:
    for dilation, expected in ((1, 3), (3, 3), (4, 3), (6, 2), (12, 1)):
        g = ConvGeometry((12,), ((0, 0),), (dilation,))
        assert polyphase(noise(2, 5, 3), g).taps.shape[3] == 5 * expected
    assert reduced(noise(2, 5, 1, 1), square(0, stride=1000)).taps.shape[3] == 5


@pytest.mark.parametrize("side", [64, 512])
def test_a_kernel_of_one_pixel_is_measured_as_a_matrix(side: int) -> None:
    kernel = noise(side, side, 1, 1)
    truth = float(torch.linalg.matrix_norm(kernel[:, :, 0, 0], 2))
    for shape in (None, (side, 28, 28)):
        found = convolution(kernel, square(0), shape, NORM_ONLY).norm().enclosure
        assert found.lower <= truth * (1 + 1e-13)
        assert truth * (1 - 1e-13) <= found.upper <= found.lower * (1 + 1e-4)


@pytest.mark.parametrize("pads", [(-30, 33), (33, -30), (-35, 38)])
def test_a_crop_of_the_whole_image_is_the_zero_operator(pads: tuple[int, int]) -> None:
    g = ConvGeometry((1, 1), (pads, (1, 1)), (1, 1))
    for compute in (CPU, NORM_ONLY):
        operator = convolution(noise(2, 2, 3, 3), g, (2, 30, 30), compute)
        assert operator.norm().enclosure.is_zero
        assert operator.frobenius() == 0
        assert operator.out_shape is not None
        assert not operator.apply(noise(1, 2, 30, 30)).any()
        assert not operator.adjoint(noise(1, *operator.out_shape)).any()
    spectrum = convolution(noise(2, 2, 3, 3), g, (2, 30, 30), CPU).spectrum()
    assert spectrum is not None
    assert not spectrum.values.any()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("sizes", "kernel", "g"),
    [
        ((2, 2), noise(2, 3, 7, 7), square(0)),
        ((4, 4), noise(2, 3, 11, 11), square(0)),
        ((4, 4), noise(4, 3, 7, 3), ConvGeometry((2, 4), ((0, 0),) * 2, (1, 1), 2)),
        ((3,), noise(2, 3, 8), ConvGeometry((3,), ((0, 0),), (1,))),
        ((6,), noise(4, 3, 5), ConvGeometry((2,), ((0, 0),), (7,), 2)),
        ((5,), noise(2, 3, 3), ConvGeometry((1,), ((0, 0),), (10**15 + 2,))),
        ((2, 1, 3), noise(2, 3, 5, 2, 4), ConvGeometry((2, 1, 1), ((0, 0),) * 3, (1, 3, 1))),
    ],
)
def test_a_kernel_larger_than_its_torus_wraps(
    sizes: Shape, kernel: torch.Tensor, g: ConvGeometry, transposed: bool
) -> None:
    # As a layer it has the padding that it needs; the twin does not ask for it.
    reach = [d * (k - 1) for d, k in zip(g.dilation, kernel.shape[2:], strict=True)]
    g = replace(g, padding=tuple((r // 2, r - r // 2) for r in reach), transposed=transposed)
    shape: Shape = (3 * g.groups, *sizes)
    if transposed:
        shape = (2 * g.groups, *(n // s for n, s in zip(sizes, g.stride, strict=True)))
        g = replace(g, output_padding=tuple(s - 1 for s in g.stride))
    twin = as_circular(convolution(kernel, g, shape, CPU))
    # The matrix goes around by itself; only its indices must not outgrow 64 bits.
    plain = replace(g, dilation=tuple(d % n for d, n in zip(g.dilation, sizes, strict=True)))
    matrix = oracles.wrapped_matrix(kernel, plain, sizes)
    truth = oracles.singular_values(matrix)
    found = twin.norm().enclosure
    assert found.rigor is Rigor.PROVED
    assert found.lower <= truth[0] * (1 + 1e-13) <= found.upper * (1 + 2e-13)
    assert found.upper <= truth[0] * (1 + 1e-4)
    spectrum = twin.spectrum()
    assert spectrum is not None
    np.testing.assert_allclose(spectrum.values, truth, atol=2e-8 * truth[0])
    assert (spectrum.rows, spectrum.columns) == (matrix.mT if transposed else matrix).shape
    if max(g.dilation) > 100:
        return
    made = oracles.dense(twin.apply, shape)
    np.testing.assert_allclose(oracles.singular_values(made), truth, atol=1e-12 * truth[0])
    assert twin.frobenius() == pytest.approx(float(torch.linalg.matrix_norm(matrix)), rel=1e-12)


def test_circular_padding_of_a_layer_is_still_what_torch_accepts() -> None:
    g = ConvGeometry((1,), ((4, 4),), (1,), mode=PaddingMode.CIRCULAR)
    with pytest.raises(ShapeError, match="circular padding does not fit"):
        convolution(noise(1, 1, 9), g, (1, 3), CPU)


def test_a_lower_bound_looks_where_the_windows_are() -> None:
    # Every other row is read, and after a padding of 3 it is the odd ones.
    g = ConvGeometry((2, 2), ((1, 1), (3, 3)), (1, 1), mode=PaddingMode.CIRCULAR)
    operator = convolution(noise(2, 1, 5, 1), g, (1, 8, 8), replace(NORM_ONLY, max_memory=60_000))
    truth = oracles.singular_values(oracles.conv_matrix(noise(2, 1, 5, 1), g, (1, 8, 8)))[0]
    assert 0.5 * truth < operator.norm().enclosure.lower <= truth * (1 + 1e-13)
