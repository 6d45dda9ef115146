"""The single pass: the paper's own function, and dense matrices for what it does not cover."""

import math
from dataclasses import replace

import pytest
import torch

from lipaudit.device import CPU, Compute
from lipaudit.errors import ShapeError
from lipaudit.operators.geometry import ConvGeometry
from lipaudit.operators.single_pass import Torus, single_pass
from tests.oracles import appendix_a, clipped_once, singular_values, wrapped_matrix

COMPUTE = Compute(CPU)


def plain(rank: int = 2, **changes: object) -> ConvGeometry:
    base = ConvGeometry((1,) * rank, ((0, 0),) * rank, (1,) * rank)
    return replace(base, **changes)  # type: ignore[arg-type]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("limit", [0.1, 1.0, 3.0, 100.0])
@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((4, 4, 3, 3), (8, 8)),
        ((6, 3, 3, 3), (7, 7)),
        ((3, 6, 3, 3), (8, 5)),
        ((2, 5, 1, 3), (4, 9)),
        ((5, 2, 4, 2), (4, 6)),
        ((3, 3, 11, 11), (32, 32)),
        ((1, 1, 3, 3), (6, 6)),
        ((20, 17, 3, 3), (10, 10)),
    ],
)
def test_it_is_the_function_of_appendix_a(
    shape: tuple[int, ...], sizes: tuple[int, int], limit: float
) -> None:
    kernel = random(*shape)
    expected = appendix_a(kernel, sizes, limit)
    found = single_pass(kernel, plain(), sizes, limit, COMPUTE)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


CASES = {
    "1-D": ((3, 2, 3), plain(1), (7,)),
    "1-D stride": ((3, 2, 3), plain(1, stride=(2,)), (8,)),
    "1-D stride 3, fewer taps than phases": ((4, 2, 2), plain(1, stride=(3,)), (12,)),
    "1x1 with a stride": ((3, 2, 1), plain(1, stride=(2,)), (6,)),
    "1-D dilated": ((3, 2, 3), plain(1, dilation=(2,)), (7,)),
    "1-D dilated, one period": ((3, 2, 3), plain(1, dilation=(2,)), (8,)),
    "1-D groups": ((4, 2, 3), plain(1, groups=2), (6,)),
    "depthwise": ((6, 1, 3), plain(1, groups=3), (5,)),
    "stride and dilation": ((2, 3, 4), plain(1, stride=(2,), dilation=(3,)), (14,)),
    "stride divides dilation": ((2, 2, 3), plain(1, stride=(2,), dilation=(4,)), (12,)),
    "larger than its torus": ((2, 2, 5), plain(1), (3,)),
    "strided, larger than its torus": ((2, 1, 7), plain(1, stride=(2,)), (4,)),
    "dilated around the torus": ((2, 2, 3), plain(1, dilation=(4,)), (8,)),
    "one point": ((2, 2, 3), plain(1), (1,)),
    "2-D": ((2, 2, 2, 3), plain(2, stride=(1, 2), dilation=(2, 1)), (5, 6)),
    "2-D larger on one axis": ((2, 1, 3, 3), plain(2), (2, 4)),
    "2-D stride 2": ((2, 2, 3, 3), plain(2, stride=(2, 2)), (4, 6)),
    "3-D": ((2, 1, 2, 2, 2), plain(3), (3, 2, 4)),
    "3-D stride": ((2, 2, 2, 1, 2), plain(3, stride=(2, 1, 1)), (4, 2, 3)),
}


@pytest.mark.parametrize("limit", [0.3, 1.5])
@pytest.mark.parametrize("name", CASES)
def test_it_is_two_projections_of_dense_matrices(name: str, limit: float) -> None:
    shape, geometry, sizes = CASES[name]
    kernel = random(*shape)
    expected = clipped_once(kernel, geometry, sizes, limit)
    found = single_pass(kernel, geometry, sizes, limit, COMPUTE)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["2-D stride 2", "1-D groups", "1-D dilated"])
def test_a_transposed_convolution_is_clipped_as_its_adjoint(name: str) -> None:
    shape, geometry, sizes = CASES[name]
    kernel = random(*shape)
    expected = clipped_once(kernel, geometry, sizes, 0.5)
    found = single_pass(kernel, replace(geometry, transposed=True), sizes, 0.5, COMPUTE)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_zero_taps_belong_to_the_support() -> None:
    kernel = random(3, 3, 3, 3)
    kernel[..., 0, :] = 0.0
    kernel[..., 2] = 0.0
    expected = appendix_a(kernel, (8, 8), 0.7)
    found = single_pass(kernel, plain(), (8, 8), 0.7, COMPUTE)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert found[..., 0, :].abs().max() > 1e-3


def test_a_kernel_inside_the_ball_keeps_its_bits() -> None:
    kernel = random(4, 3, 3, 3)
    kernel /= 1.01 * float(singular_values(wrapped_matrix(kernel, plain(), (6, 6))).max())
    assert torch.equal(single_pass(kernel, plain(), (6, 6), 1.0, COMPUTE), kernel)
    assert not torch.equal(single_pass(kernel, plain(), (6, 6), 0.98, COMPUTE), kernel)


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_single_precision_is_that_of_the_kernel(size: float) -> None:
    kernel = (random(8, 8, 3, 3) * size).float()
    found = single_pass(kernel, plain(), (8, 8), 1.0, COMPUTE)
    expected = appendix_a(kernel.double(), (8, 8), 1.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5 * size)


def test_the_default_torus_holds_the_supremum_for_any_dilation() -> None:
    kernel = random(3, 3, 3, 3)
    dilated = single_pass(kernel, plain(dilation=(3, 2)), None, 1.0, COMPUTE)
    usual = single_pass(kernel, plain(), None, 1.0, COMPUTE)
    torch.testing.assert_close(dilated, usual, rtol=0, atol=0)
    torch.testing.assert_close(usual, appendix_a(kernel, (12, 12), 1.0), rtol=0, atol=1e-9)


def test_a_single_tap_needs_one_matrix() -> None:
    torus = Torus.of((5, 4, 1, 1), plain(stride=(2, 2)), None)
    assert torus.matrices == 1
    kernel = random(5, 4, 1, 1)
    found = single_pass(kernel, plain(stride=(2, 2)), None, 0.5, COMPUTE)
    values = singular_values(found.flatten(1))
    assert math.isclose(float(values.max()), 0.5, rel_tol=1e-12)


def test_chosen_frequencies_are_enough_where_the_others_lie_inside() -> None:
    kernel = random(4, 4, 3, 3)
    torus = Torus.of((4, 4, 3, 3), plain(), (9, 9))
    _, norms = torus.correction(kernel, 1e-3, COMPUTE)
    largest = norms.amax(1)
    limit = float(largest.median())
    whole, _ = torus.correction(kernel, limit, COMPUTE)
    chosen = torch.nonzero(largest > limit).squeeze(1)
    some, again = torus.correction(kernel, limit, COMPUTE, chosen)
    assert len(chosen) < len(largest)
    torch.testing.assert_close(some, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(again.amax(1), largest[chosen], rtol=1e-9, atol=0)
    truth = singular_values(wrapped_matrix(kernel, plain(), (9, 9)))
    assert math.isclose(float(largest.max()), float(truth.max()), rel_tol=1e-9)


def test_little_memory_changes_nothing() -> None:
    kernel = random(8, 8, 3, 3)
    small = single_pass(kernel, plain(), (8, 8), 1.0, Compute(CPU, max_memory=1 << 16))
    large = single_pass(kernel, plain(), (8, 8), 1.0, COMPUTE)
    torch.testing.assert_close(small, large, rtol=0, atol=1e-12)


def test_a_torus_that_the_stride_does_not_divide_is_refused() -> None:
    with pytest.raises(ShapeError, match="7x8 points"):
        single_pass(random(2, 2, 3, 3), plain(stride=(2, 2)), (7, 8), 1.0, COMPUTE)
