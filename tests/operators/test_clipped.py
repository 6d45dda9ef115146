"""Clipped weights: dense ones by an independent SVD, kernels by matrices that torch writes out."""

from dataclasses import replace

import pytest
import torch

from lipaudit.device import CPU, Compute
from lipaudit.operators.clipped import Clipped, clipped_kernel, clipped_matrices
from lipaudit.operators.geometry import ConvGeometry, PaddingMode
from tests.oracles import clipped_matrix, conv_matrix, singular_values

COMPUTE = Compute(CPU)


def clipped(
    kernel: torch.Tensor, geometry: ConvGeometry, in_shape: tuple[int, ...] | None, limit: float
) -> Clipped:
    """Clip where there is work space enough, as there is here."""
    found = clipped_kernel(kernel, geometry, in_shape, limit, COMPUTE)
    assert found is not None
    return found


LINE = ConvGeometry((1,), ((1, 1),), (1,))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (1, 7), (7, 1), (1, 1)])
@pytest.mark.parametrize("limit", [0.2, 1.0, 100.0])
def test_a_matrix_is_clipped_as_by_its_svd(
    shape: tuple[int, int], dtype: torch.dtype, limit: float
) -> None:
    torch.manual_seed(1)
    stored = torch.randn(shape).to(dtype)
    expected = clipped_matrix(stored.double(), limit)
    found = clipped_matrices(stored, limit, COMPUTE)
    torch.testing.assert_close(found.weight, expected, rtol=0, atol=1e-7)
    assert found.least == pytest.approx(float((expected - stored.double()).norm()), abs=1e-7)


def test_each_matrix_of_a_stack_is_clipped() -> None:
    torch.manual_seed(2)
    stack = torch.randn(2, 3, 4, 5, dtype=torch.float64) * torch.logspace(-2, 1, 3)[:, None, None]
    found = clipped_matrices(stack, 1.0, COMPUTE)
    expected = torch.stack(
        [torch.stack([clipped_matrix(matrix, 1.0) for matrix in row]) for row in stack]
    )
    torch.testing.assert_close(found.weight, expected, rtol=0, atol=1e-7)
    assert torch.equal(found.weight[:, 0], stack[:, 0])
    assert found.least == pytest.approx(float((expected - stack).norm()))


@pytest.mark.parametrize("exponent", [-1000, 1000])
def test_squares_neither_overflow_nor_underflow(exponent: int) -> None:
    torch.manual_seed(3)
    matrix, scale = torch.randn(4, 6, dtype=torch.float64), 2.0**exponent
    found = clipped_matrices(matrix * scale, scale, COMPUTE)
    torch.testing.assert_close(found.weight / scale, clipped_matrix(matrix, 1.0), rtol=0, atol=1e-7)


def norm(kernel: torch.Tensor, geometry: ConvGeometry, in_shape: tuple[int, ...]) -> float:
    return float(singular_values(conv_matrix(kernel, geometry, in_shape))[0])


def test_taps_that_touch_no_data_stay() -> None:
    torch.manual_seed(4)
    kernel = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    geometry = ConvGeometry((1, 1), ((6, 6), (2, 2)), (6, 2))
    in_shape = (2, 5, 5)
    limit = 0.5 * norm(kernel, geometry, in_shape)
    found = clipped(kernel, geometry, in_shape, limit)
    middle = found.weight[:, :, 1]
    assert torch.equal(found.weight[:, :, [0, 2]], kernel[:, :, [0, 2]])
    assert not torch.equal(middle, kernel[:, :, 1])
    assert norm(found.weight, geometry, in_shape) <= limit * (1.0 + 1e-6)
    # With one axis left it is the same as that axis alone.
    line = replace(geometry, stride=(1,), padding=((2, 2),), dilation=(2,))
    alone = clipped(kernel[:, :, 1], line, (2, 5), limit)
    distance = float((middle - kernel[:, :, 1]).norm())
    assert distance == pytest.approx(float((alone.weight - kernel[:, :, 1]).norm()), rel=1e-2)


def test_a_kernel_that_touches_no_data_stays() -> None:
    kernel = torch.randn(2, 2, 2, dtype=torch.float64)
    geometry = ConvGeometry((1,), ((4, 2),), (9,))
    assert norm(kernel, geometry, (2, 4)) == 0.0
    found = clipped(kernel, geometry, (2, 4), 1e-3)
    assert torch.equal(found.weight, kernel)


@pytest.mark.parametrize("share", [0.3, 0.8, 0.97])
@pytest.mark.parametrize("size", [3, 4, 9])
@pytest.mark.parametrize("mode", list(PaddingMode), ids=str)
def test_the_norm_at_the_size_of_the_input_counts(
    mode: PaddingMode, size: int, share: float
) -> None:
    """Every padding, by torch's own; less padding than the reach makes circular ones no torus."""
    torch.manual_seed(5)
    kernel = torch.randn(3, 2, 3, 2, dtype=torch.float64)
    geometry = ConvGeometry((1, 2), ((1, 1), (1, 1)), (1, 1), mode=mode)
    in_shape = (2, size, size)
    before = norm(kernel, geometry, in_shape)
    found = clipped(kernel, geometry, in_shape, share * before)
    assert norm(found.weight, geometry, in_shape) <= share * before * (1.0 + 1e-6)
    scaled = (1.0 - share) * float(kernel.norm())
    assert float((found.weight - kernel).norm()) <= scaled * (1.0 + 1e-6)
    assert found.least <= scaled


@pytest.mark.parametrize("mode", [PaddingMode.REFLECT, PaddingMode.REPLICATE], ids=str)
def test_padding_that_repeats_pixels_counts_at_every_size(mode: PaddingMode) -> None:
    kernel = torch.ones(1, 1, 3, dtype=torch.float64)
    geometry = replace(LINE, mode=mode)
    found = clipped(kernel, geometry, None, 1.0)
    for size in range(2, 12):
        assert norm(found.weight, geometry, (1, size)) <= 1.0 + 1e-9
