"""Norms proved with a third of the memory, beside truth that is not rounded."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from lipaudit.device import CPU, Compute, move
from lipaudit.operators import certify, krylov, packed, tall
from lipaudit.operators.certify import gram, product_constant
from lipaudit.operators.dense import DenseOperator
from lipaudit.operators.packed import PackedGram
from lipaudit.operators.streamed import StreamedOperator
from lipaudit.operators.tall import TallMatrix
from tests.operators import kernels
from tests.operators.test_memory import ROOT, STATUS
from tests.operators.test_rigor_certificates import bounds_near, floats_around, matrix_of
from tests.oracles import ExactNorm

SCALES = (0, 0, 0, -1000, -300, 300, 900)
"""Powers of two."""
DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def stored(family: str, seed: int) -> torch.Tensor:
    """Return a matrix of the family, up to 12 x 11, of any size that its type holds."""
    dtype = DTYPES[seed % 3]
    matrix = matrix_of(family, 1 + seed % 12, 1 + seed % 11, seed)
    power = SCALES[seed % 7] if dtype is torch.float64 else max(min(SCALES[seed % 7], 100), -120)
    return (matrix * 2.0 ** (power // 2) * 2.0 ** (power - power // 2)).to(dtype)


def narrow(matrix: torch.Tensor) -> int:
    return tall.room(min(matrix.shape))


@pytest.mark.parametrize("family", kernels.FAMILIES)
def test_the_truth_is_held_with_the_least_memory_and_with_less(family: str) -> None:
    proofs = 0
    for seed in range(42):
        matrix = stored(family, seed)
        truth = ExactNorm.of(matrix.to(torch.float64))
        for memory in (narrow(matrix), narrow(matrix) - 1, narrow(matrix) // 3):
            warnings: list[str] = []
            norm = StreamedOperator(matrix, Compute(CPU, memory, warn=warnings.append)).norm()
            assert truth.is_at_most(norm.enclosure.hi)
            assert truth.is_at_least(norm.enclosure.lo)
            if memory == narrow(matrix) and bool(matrix.any()):
                assert norm.method == "Cholesky proof, piece by piece"
                assert norm.enclosure.upper <= norm.enclosure.lower * (1 + 1e-7)
                assert warnings == []
                proofs += 1
            elif bool(matrix.any()):
                (warning,) = warnings
                assert f"--max-memory {narrow(matrix)} " in warning
    assert proofs > 30 or family == "zero"


@pytest.mark.parametrize("shape", [(90, 64), (64, 90), (70, 70)])
def test_without_memory_the_lower_end_is_attained(shape: tuple[int, int]) -> None:
    matrix = matrix_of("noise", *shape, 3)
    matrix[0] = 1.0  # a direction that stands out
    truth = float(torch.linalg.svdvals(matrix)[0])
    enclosure = StreamedOperator(matrix, Compute(CPU, 60_000)).norm().enclosure
    assert truth * (1 - 1e-3) <= enclosure.lower <= truth * (1 + 1e-13)
    sums = float((matrix.abs().sum(0).max() * matrix.abs().sum(1).max()).sqrt())
    least = min(sums, float(torch.linalg.matrix_norm(matrix)))
    assert least <= enclosure.upper * (1 + 1e-12)
    assert enclosure.upper <= least * (1 + 1e-9)


def false_proofs(matrix: torch.Tensor, bounds: torch.Tensor, error: float) -> int:
    """Count the bounds below the norm that are said to be proved, all entries in one strip."""
    truth, found = ExactNorm.of(matrix), 0
    for bound in bounds.tolist():
        made = PackedGram(matrix.shape[1], CPU)
        made.add(matrix[: len(matrix) // 2])
        made.add(matrix[len(matrix) // 2 :])
        found += made.proves_below(error, bound, move) and not truth.is_at_most(bound)
    return found


@pytest.mark.parametrize("size", [1, 2, 5, 11])
def test_no_bound_below_the_norm_is_ever_proved(size: int) -> None:
    for family in kernels.FAMILIES:
        for seed in range(2):
            matrix = matrix_of(family, size + seed, size, seed)
            if bool(matrix.any()):
                error = float(gram(matrix.unsqueeze(0))[1])
                assert false_proofs(matrix, bounds_near(matrix)[::2], error) == 0


def test_the_allowances_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def violations() -> int:
        # Integers, so that the Gram matrix is exact and only the factorization rounds.
        matrices = [matrix_of("whole", 14, 12, seed) for seed in range(30)]
        near = [float(torch.linalg.matrix_norm(matrix, 2)) for matrix in matrices]
        return sum(
            false_proofs(matrix, floats_around(norm, 4), 0.0)
            for matrix, norm in zip(matrices, near, strict=True)
        )

    assert violations() == 0
    monkeypatch.setattr(packed, "cholesky_constant", lambda *_, **__: 0.0)
    monkeypatch.setattr(certify, "UNIT", 0.0)
    assert violations() > 0


@pytest.mark.parametrize("side", [1, 2, 15, 16, 17, 40, 100])
def test_the_strips_hold_the_gram_matrix(side: int) -> None:
    generator = torch.Generator().manual_seed(side)
    matrix = torch.randn(130, side, generator=generator, dtype=torch.float64)
    made = PackedGram(side, CPU)
    for run in torch.split(matrix, 37):
        made.add(run)
    x = torch.randn(side, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(made.apply(x), matrix.mT @ (matrix @ x))
    top = float(torch.linalg.svdvals(matrix)[0])
    error = float(torch.linalg.matrix_norm(matrix)) ** 2 * product_constant(130, is_complex=False)
    assert made.proves_below(error, top * (1 + 1e-9), move)
    assert packed.strips_bytes(side) <= 4 * side * (side + 1) * 17 / 16 + 8 * side


def aside(factor: float, rest: torch.Tensor) -> torch.Tensor:
    """Return a symmetric matrix whose largest value has a vector that no Krylov start sees.

    That is so but for rounding, which a few steps do not bring forth.
    """
    start = krylov.scrambled((len(rest) + 1,), CPU)
    turn, _ = torch.linalg.qr(torch.stack([start, torch.randn_like(start)], 1), mode="complete")
    order = torch.cat([turn[:, :1], turn[:, 2:]], 1)
    hidden = turn[:, 1:2]
    made: torch.Tensor = order @ torch.diag(rest) @ order.mT + factor * hidden @ hidden.mT
    return made


def as_tall(matrix: torch.Tensor) -> TallMatrix:
    def runs(size: int) -> Iterator[torch.Tensor]:
        return iter(torch.split(matrix, size))

    rows, columns = matrix.shape
    return TallMatrix(rows, columns, runs, CPU)


@pytest.mark.parametrize(("factor", "widest"), [(1.0, 1.12), (1.05, 1.12), (3.0, 30.0)])
def test_a_direction_that_krylov_misses(
    factor: float, widest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)
    matrix = aside(factor, torch.linspace(0.1, 1.0, 39, dtype=torch.float64))
    monkeypatch.setattr(tall, "_STEPS", 6)
    norm = as_tall(matrix).norm(Compute(CPU, 1 << 20)).enclosure
    truth = float(torch.linalg.svdvals(matrix)[0])
    assert norm.lower <= truth * (1 + 1e-13)
    assert truth * (1 - 1e-13) <= norm.upper <= widest * truth


def test_a_dense_layer_of_the_same_size_is_proved_too() -> None:
    matrix = matrix_of("noise", 150, 120, 1)
    warnings: list[str] = []
    memory = narrow(matrix)
    assert memory < 3 * 8 * 120**2
    compute = Compute(CPU, memory, full_spectra=False, warn=warnings.append)
    norm = DenseOperator(matrix, compute).norm()
    assert "Cholesky proof" in norm.method
    assert norm.enclosure.upper <= norm.enclosure.lower * (1 + 1e-6)
    assert warnings == []
    crude = DenseOperator(matrix, Compute(CPU, memory - 1, False, warn=warnings.append)).norm()
    assert crude.enclosure.lower <= norm.enclosure.upper <= crude.enclosure.upper
    assert f"--max-memory {memory} " in warnings[0]


PROGRAM = """
import torch
from pathlib import Path
from lipaudit.device import CPU, Compute
from lipaudit.operators import tall
from lipaudit.operators.streamed import StreamedOperator

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10

def measure(rows, side):
    stored = torch.ones(rows, side, dtype=torch.bfloat16)
    assert tall.room(side) <= 48 << 20
    norm = StreamedOperator(stored, Compute(CPU, max_memory=48 << 20)).norm()
    assert "Cholesky" in norm.method, norm.method

measure(300, 200)
before = peak()
measure(3000, 2048)
print(before, peak())
"""


@pytest.mark.skipif(not STATUS.exists(), reason="this system does not tell a process's peak")
def test_the_proof_keeps_to_its_budget() -> None:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    before, after = map(int, done.stdout.split())
    # As stored 12 MB; in float64 49 MB, its Gram matrix and the two copies of it 101 MB.
    assert after - before < (12 + 48 + 20) << 20
