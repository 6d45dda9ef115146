"""Matrices measured as they are stored, piece by piece, beside the dense truth."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import lipaudit
from lipaudit.device import CPU, Compute
from lipaudit.enclosure import Rigor
from lipaudit.operators.streamed import StreamedOperator

ROOM = Compute(CPU, max_memory=200_000)
"""Enough for a Gram matrix of side 91; a quarter of it for a piece."""


def truth(stored: torch.Tensor) -> torch.Tensor:
    values: torch.Tensor = torch.linalg.svdvals(stored.to(torch.float64))
    return values


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(900, 60), (60, 900), (1, 5000), (5000, 1), (90, 90), (3, 2)])
def test_the_norm_is_enclosed(shape: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(sum(shape))
    stored = torch.randn(shape).to(dtype)
    operator = StreamedOperator(stored, ROOM)
    norm = operator.norm()
    (top, *_) = truth(stored).tolist()
    assert norm.enclosure.rigor is Rigor.PROVED
    assert norm.enclosure.lower <= top * (1 + 1e-14)
    assert norm.enclosure.upper >= top * (1 - 1e-14)
    assert norm.enclosure.upper <= norm.enclosure.lower * (1 + 1e-4)
    assert operator.frobenius() == pytest.approx(float(truth(stored).square().sum().sqrt()))
    x, y = torch.randn(shape[1], dtype=torch.float64), torch.randn(shape[0], dtype=torch.float64)
    torch.testing.assert_close(operator.apply(x), stored.to(torch.float64) @ x)
    torch.testing.assert_close(operator.adjoint(y), stored.to(torch.float64).mT @ y)


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e30, 1e300])
def test_any_size_of_entries(size: float) -> None:
    torch.manual_seed(1)
    moderate = torch.randn(700, 50, dtype=torch.float64)
    norm = StreamedOperator(moderate * size, ROOM).norm().enclosure
    top = float(truth(moderate)[0])
    assert math.isclose(norm.upper / size, top, rel_tol=1e-4)
    assert norm.lower / size <= top * (1 + 1e-12) <= norm.upper / size * (1 + 1e-11)


def test_without_room_for_a_proof_the_frobenius_norm_holds() -> None:
    torch.manual_seed(2)
    stored = torch.randn(400, 300)
    norm = StreamedOperator(stored, ROOM).norm()
    (top, *_) = truth(stored).tolist()
    assert "no memory" in norm.method
    assert norm.enclosure.lower <= top <= norm.enclosure.upper
    assert norm.enclosure.upper == pytest.approx(float(torch.linalg.norm(stored)), rel=1e-6)


def test_nothing_and_zeros() -> None:
    assert StreamedOperator(torch.zeros(0, 5), ROOM).norm().enclosure.upper == 0
    assert StreamedOperator(torch.zeros(500, 50), ROOM).norm().enclosure.upper < 1e-100


def test_a_repeated_largest_value() -> None:
    torch.manual_seed(3)
    q, _ = torch.linalg.qr(torch.randn(900, 60, dtype=torch.float64))
    norm = StreamedOperator(3.0 * q, ROOM).norm().enclosure
    assert norm.lower <= 3.0 <= norm.upper <= 3.0 * (1 + 1e-6)


def test_a_layer_over_the_memory_is_measured_as_it_is_stored(tmp_path: Path) -> None:
    torch.manual_seed(4)
    weight = torch.randn(2000, 40).to(torch.bfloat16)
    path = tmp_path / "net.safetensors"
    save_file({"fc.weight": weight}, path)
    (layer,) = lipaudit.inspect(path, max_memory=200_000).models[0].layers
    top = float(truth(weight)[0])
    assert "piece by piece" in layer.norm.method
    assert layer.norm.lower <= top <= layer.norm.upper <= top * 1.001
    whole = lipaudit.inspect(path).models[0].layers[0]
    assert whole.spectrum is not None
    assert layer.spectrum is None
    (skipped,) = lipaudit.inspect(path, max_memory=100_000).models[0].skipped
    assert skipped.slug == "memory"
    assert "--max-memory" in skipped.reason
