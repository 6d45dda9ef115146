"""Cells: they cover every frequency, and their limits hold between the centres."""

import itertools
import math

import pytest
import torch

from lipaudit.operators.cells import TURN, Diamonds, Grid, GridBlocks
from lipaudit.operators.symbol import Symbol

RADII = [(1.0,), (2.5,), (1.0, 1.0), (0.5, 3.0), (1.0, 0.0), (0.0, 2.0), (1.0, 0.5, 1.5), (0.0,)]
SIZES = [(1,), (2,), (7,), (8,), (3, 5), (4, 4), (1, 6), (2, 3, 4)]


def random_symbol(radii: tuple[float, ...], seed: int) -> Symbol:
    """Return a symbol whose taps fill the box of these half widths."""
    generator = torch.Generator().manual_seed(seed)
    offsets = tuple(itertools.product(*(range(int(2 * r) + 1) for r in radii)))
    taps = torch.randn(len(offsets), 1, 2, 3, generator=generator, dtype=torch.float64)
    return Symbol(taps, offsets)


def norms(symbol: Symbol, angles: torch.Tensor) -> torch.Tensor:
    """Return ‖P(θ)‖ for each row of angles, as the definition says."""
    offsets = torch.tensor(symbol.offsets, dtype=torch.float64)
    turned = angles @ offsets.mT
    phases = torch.polar(torch.ones_like(turned), -turned)
    matrices = torch.einsum("nt,tij->nij", phases, symbol.taps[:, 0].to(torch.complex128))
    found: torch.Tensor = torch.linalg.matrix_norm(matrices, 2)
    return found


def distances(cells: Diamonds, point: torch.Tensor) -> torch.Tensor:
    """Return Σ r_i|δ_i| from every centre to the point, the short way around."""
    away = (cells.centres - point) % TURN
    away = torch.minimum(away, TURN - away).to(torch.float64) * (2 * math.pi / TURN)
    return away @ torch.tensor(cells.radii, dtype=torch.float64)


@pytest.mark.parametrize("radii", RADII)
@pytest.mark.parametrize("angle", [1.1, 0.4])
def test_diamonds_cover_every_frequency_or_its_mirror(
    radii: tuple[float, ...], angle: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    cells = Diamonds.covering(radii, 1, angle)
    points = torch.randint(TURN, (200, len(radii)), generator=generator)
    # Borders and corners too: multiples of large powers of two.
    corners = torch.randint(16, (100, len(radii)), generator=generator) * (TURN // 16)
    for _ in range(2):
        for point in torch.cat([points, corners]):
            both = torch.minimum(distances(cells, point), distances(cells, -point))
            assert bool((both <= cells.angles).any())
        assert float(cells.angles.max()) <= angle + 1e-9
        if not cells.can_split:
            return
        cells, angle = cells.split(), angle / 2


@pytest.mark.parametrize("radii", [r for r in RADII if any(r)])
def test_what_a_diamond_may_hide_is_below_the_bound(radii: tuple[float, ...]) -> None:
    # If the norm at a centre is below the limit for U, no global maximum above U is in the cell.
    for seed in range(5):
        symbol = random_symbol(radii, seed)
        scan = torch.rand(20_000, len(radii), dtype=torch.float64) * 2 * math.pi
        values = norms(symbol, scan)
        top, upper = scan[values.argmax()], float(values.max()) * (1 - 1e-9)
        cells = Diamonds.covering(radii, 1, 0.8)
        point = (top / (2 * math.pi) * TURN).to(torch.int64)
        for mirrored in (point, -point):
            holding = distances(cells, mirrored) <= cells.angles
            centres = cells.centres[holding].to(torch.float64) * (2 * math.pi / TURN)
            # They hold a point above U, so that none of them may be closed.
            assert bool((norms(symbol, centres) > cells.limits(upper)[holding]).all())


def grid_angles(grid: Grid) -> torch.Tensor:
    lines = [
        (torch.arange(n, dtype=torch.float64) + t / 2) * (2 * math.pi / n)
        for n, t in zip(grid.sizes, grid.twists, strict=True)
    ]
    return torch.cartesian_prod(*lines).reshape(-1, len(lines))


def members(blocks: GridBlocks, index: int) -> torch.Tensor:
    """Return the angles of a block's grid points."""
    grid = blocks.grid
    lines = [
        (torch.arange(int(first), int(first + count), dtype=torch.float64) + t / 2)
        * (2 * math.pi / n)
        for first, count, n, t in zip(
            blocks.first[index], blocks.count[index], grid.sizes, grid.twists, strict=True
        )
    ]
    return torch.cartesian_prod(*lines).reshape(-1, len(lines))


def rounded(angles: torch.Tensor) -> set[tuple[float, ...]]:
    """Return angles as comparable tuples, ±θ and whole turns made one."""
    found = set()
    for angle in angles:
        forms = []
        for sign in (1, -1):
            turned = torch.remainder(sign * angle / (2 * math.pi) + 1e-9, 1.0) - 1e-9
            forms.append(tuple(round(float(part), 6) + 0.0 for part in turned))
        found.add(min(forms))
    return found


@pytest.mark.parametrize("sizes", SIZES)
def test_blocks_are_half_of_the_grid(sizes: tuple[int, ...]) -> None:
    for twists in itertools.product((0, 1), repeat=len(sizes)):
        grid = Grid(sizes, twists)
        blocks = GridBlocks.covering(grid, (1.0,) * len(sizes), 1, 10.0, 1)
        while True:
            parts = [members(blocks, index) for index in range(len(blocks))]
            covered = torch.cat(parts)
            # Every point or its mirror, and none is in two blocks.
            assert rounded(covered) == rounded(grid_angles(grid))
            assert len(torch.unique((covered * 1e6).round(), dim=0)) == len(covered)
            for part, centre, angle in zip(parts, blocks.centres, blocks.angles, strict=True):
                middle = centre.to(torch.float64) * (2 * math.pi / blocks.period)
                away = torch.remainder(part - middle + math.pi, 2 * math.pi) - math.pi
                assert float(away.abs().sum(-1).max()) <= float(angle) + 1e-9
            if not blocks.can_split:
                assert bool(blocks.hits.all())
                break
            blocks = blocks.split()


@pytest.mark.parametrize("twist", [0, 1])
def test_what_a_block_may_hide_is_below_the_bound(twist: int) -> None:
    closed = 0
    for seed in range(20):
        symbol = random_symbol((1.0, 1.0), seed)
        fine = torch.rand(20_000, 2, dtype=torch.float64) * 2 * math.pi
        # At least the supremum: a scan so fine misses less than this.
        supremum = float(norms(symbol, fine).max()) * 1.01
        grid = Grid((24, 30), (twist, twist))
        blocks = GridBlocks.covering(grid, symbol.radii, 1, supremum, 60)
        for share in (0.5, 0.8, 0.95):
            upper = share * supremum
            limits = blocks.limits(upper)
            centres = blocks.centres.to(torch.float64) * (2 * math.pi / blocks.period)
            for index in (norms(symbol, centres) <= limits).nonzero().flatten().tolist():
                closed += 1
                assert float(norms(symbol, members(blocks, index)).max()) <= upper
    assert closed > 100
