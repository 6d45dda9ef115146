"""Kernels on which bounds break, and random geometries around them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lipaudit.operators.geometry import ConvGeometry, PaddingMode

Family = Callable[[tuple[int, ...], torch.Generator], torch.Tensor]
"""Makes a kernel of shape (out, in, *sizes)."""


def noise(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return independent normal entries."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def pick(generator: torch.Generator, low: int, high: int) -> int:
    """Return a whole number between two, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def orthogonal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """Return part of an orthogonal matrix: all its singular values are 1, but for rounding."""
    side = max(rows, columns)
    turned: torch.Tensor = torch.linalg.qr(noise((side, side), generator)).Q
    return turned[:rows, :columns].contiguous()


def _in_one_tap(matrix: torch.Tensor, sizes: tuple[int, ...], tap: int) -> torch.Tensor:
    kernel = torch.zeros(*matrix.shape, math.prod(sizes), dtype=torch.float64)
    kernel[:, :, tap] = matrix
    return kernel.reshape(*matrix.shape, *sizes)


def _any_tap(sizes: tuple[int, ...], generator: torch.Generator) -> int:
    return pick(generator, 0, math.prod(sizes) - 1)


def delta(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return a shift: the identity in one tap."""
    out, inner, *sizes = shape
    one = torch.eye(out, inner, dtype=torch.float64)
    return _in_one_tap(one, tuple(sizes), _any_tap(tuple(sizes), generator))


def signed_permutation(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return one ±1 at most in every row and column, in one tap."""
    out, inner, *sizes = shape
    side = max(out, inner)
    signs = torch.randint(0, 2, (side, 1), generator=generator, dtype=torch.float64) * 2 - 1
    matrix = (torch.eye(side, dtype=torch.float64) * signs)[
        torch.randperm(side, generator=generator)
    ]
    return _in_one_tap(matrix[:out, :inner], tuple(sizes), _any_tap(tuple(sizes), generator))


def orthogonal_tap(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return an orthogonal matrix in one tap: every singular value is the same."""
    out, inner, *sizes = shape
    matrix = orthogonal(out, inner, generator)
    return _in_one_tap(matrix, tuple(sizes), _any_tap(tuple(sizes), generator))


def flat_symbol(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return an orthogonal convolution of several taps: Q(Π + (I - Π)e^{-iθ}), Π a projection."""
    out, inner, *sizes = shape
    side, taps = max(out, inner), math.prod(sizes)
    kept = (torch.arange(side) < side // 2).to(torch.float64)
    rotation = orthogonal(side, side, generator)
    other = orthogonal(side, side, generator)
    kernel = _in_one_tap((rotation * kept) @ other, tuple(sizes), 0)
    kernel += _in_one_tap((rotation * (1.0 - kept)) @ other, tuple(sizes), taps - 1)
    return kernel[:out, :inner].contiguous()


def nearly_flat(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return an orthogonal convolution that is off by rounding-sized to small amounts."""
    size = 10.0 ** -pick(generator, 5, 17)
    return flat_symbol(shape, generator) + size * noise(shape, generator)


def positive(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return entries of one sign: largest at frequency 0."""
    return noise(shape, generator).abs()


def ones(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return one number everywhere, which no short sum of its squares represents exactly."""
    return torch.full(shape, 1.0 + pick(generator, 0, 999) / 997.0, dtype=torch.float64)


def alternating(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return signs like a chess board's: largest at the highest frequency."""
    signs = torch.zeros(shape, dtype=torch.int64)
    for axis, size in enumerate(shape):
        view = [1] * len(shape)
        view[axis] = size
        signs = signs + torch.arange(size).reshape(view)
    return ones(shape, generator) * (1.0 - 2.0 * (signs % 2))


def rank_one(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return a product of one vector an axis."""
    kernel = torch.ones((), dtype=torch.float64)
    for size in shape:
        kernel = kernel.unsqueeze(-1) * noise((size,), generator)
    return kernel


def repeated(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return one filter for every pair of equal channels: each singular value comes often."""
    out, inner, *sizes = shape
    one = torch.eye(out, inner, dtype=torch.float64)
    return torch.einsum("oi,...->oi...", one, noise(tuple(sizes), generator)).contiguous()


def graded(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return entries spread over thirteen decades."""
    decades = torch.randint(0, 13, shape, generator=generator)
    return noise(shape, generator) * 10.0 ** -decades.to(torch.float64)


def whole(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return small whole numbers: exact ties and exact zeros."""
    return torch.randint(-2, 3, shape, generator=generator).to(torch.float64)


def sparse(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return mostly zeros."""
    kept = torch.rand(shape, generator=generator) < 0.3
    return noise(shape, generator) * kept


def dominated(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return noise beside one entry that is a hundred million times larger."""
    kernel = noise(shape, generator).flatten()
    kernel[pick(generator, 0, len(kernel) - 1)] = 1e8
    return kernel.reshape(shape)


def zero(shape: tuple[int, ...], _: torch.Generator) -> torch.Tensor:
    """Return nothing but zeros."""
    return torch.zeros(shape, dtype=torch.float64)


FAMILIES: dict[str, Family] = {
    family.__name__: family
    for family in (
        noise, delta, signed_permutation, orthogonal_tap, flat_symbol, nearly_flat, positive, ones,
        alternating, rank_one, repeated, graded, whole, sparse, dominated, zero,
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One convolution at one input size."""

    kernel: torch.Tensor
    geometry: ConvGeometry
    in_shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.kernel.tolist()} {self.geometry} on {self.in_shape}"


def drawn(family: str, seed: int) -> Case:
    """Draw a kernel of the family, a geometry and an input shape that torch accepts."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        case = _any_case(FAMILIES[family], generator)
        if _fits(case):
            return case


def _any_case(family: Family, generator: torch.Generator) -> Case:
    """Draw without regard to what fits: kernels larger than the image are wanted."""
    rank = (1, 1, 2, 2, 3)[pick(generator, 0, 4)]

    def axes(low: int, high: int) -> tuple[int, ...]:
        return tuple(pick(generator, low, high) for _ in range(rank))

    sizes = axes(1, {1: 8, 2: 4, 3: 2}[rank])
    taps = axes(1, {1: 5, 2: 3, 3: 2}[rank])
    stride = axes(1, 3) if pick(generator, 0, 2) == 0 else (1,) * rank
    dilation = axes(1, 2) if pick(generator, 0, 3) == 0 else (1,) * rank
    groups = pick(generator, 2, 3) if pick(generator, 0, 3) == 0 else 1
    out, inner = pick(generator, 1, 3 if groups == 1 else 2), pick(generator, 1, 2)
    transposed = pick(generator, 0, 4) == 0
    modes = list(PaddingMode)
    mode = PaddingMode.ZEROS if transposed else modes[pick(generator, 0, len(modes) - 1)]
    low, high = axes(0, 3), axes(0, 3)
    if mode is PaddingMode.CIRCULAR and pick(generator, 0, 1):
        # With padding of exactly the reach the operator is a torus.
        reach = tuple(d * (k - 1) for d, k in zip(dilation, taps, strict=True))
        low, high = tuple(r // 2 for r in reach), tuple(r - r // 2 for r in reach)
    kernel = torch.cat([family((out, inner, *taps), generator) for _ in range(groups)])
    geometry = ConvGeometry(
        stride,
        tuple(zip(low, low if transposed else high, strict=True)),
        dilation,
        groups,
        mode,
        transposed,
        tuple(pick(generator, 0, s - 1) for s in stride) if transposed else (),
    )
    return Case(kernel, geometry, ((out if transposed else inner) * groups, *sizes))


def _fits(case: Case) -> bool:
    """Tell whether there is at least one output, and padding that torch accepts."""
    g = case.geometry
    for axis, n in enumerate(case.in_shape[1:]):
        reach = g.dilation[axis] * (case.kernel.shape[2 + axis] - 1)
        low, high = g.padding[axis]
        if g.transposed:
            if (n - 1) * g.stride[axis] - low - high + reach + g.output_padding[axis] < 0:
                return False
            continue
        most = {PaddingMode.CIRCULAR: n, PaddingMode.REFLECT: n - 1}.get(g.mode, low + high)
        if n + low + high <= reach or max(low, high) > most:
            return False
    return True
