"""Matrices measured as they are stored, piece by piece, beside the dense truth."""

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import lipaudit
from lipaudit.device import CPU, Compute
from lipaudit.enclosure import Rigor
from lipaudit.errors import NotCertified
from lipaudit.operators.base import AbstractLinearOperator
from lipaudit.operators.dense import DenseOperator
from lipaudit.operators.streamed import StreamedOperator

ROOM = Compute(CPU, max_memory=200_000)
"""Enough for a Gram matrix of side 90, and not for one of side 300."""


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


def test_without_room_for_a_proof_the_sums_hold_and_it_is_said_what_would_prove_it() -> None:
    torch.manual_seed(2)
    stored = torch.randn(400, 300)
    warnings: list[str] = []
    norm = StreamedOperator(stored, replace(ROOM, warn=warnings.append)).norm()
    top = float(truth(stored)[0])
    assert "no memory" in norm.method
    assert top * 0.99 <= norm.enclosure.lower <= top <= norm.enclosure.upper
    assert norm.enclosure.upper < 0.95 * float(torch.linalg.norm(stored))
    (warning,) = warnings
    (named,) = re.findall(r"--max-memory (\d+)", warning)
    enough = Compute(CPU, max_memory=int(named), warn=warnings.append)
    proved = StreamedOperator(stored, enough).norm().enclosure
    assert proved.lower <= top <= proved.upper <= top * (1 + 1e-4)
    assert warnings == [warning]


def test_what_is_not_a_number_is_not_measured() -> None:
    for broken in (math.nan, math.inf):
        stored = torch.ones(500, 50, dtype=torch.bfloat16)
        stored[444, 44] = broken
        with pytest.raises(NotCertified) as caught:
            StreamedOperator(stored, ROOM).norm()
        assert caught.value.slug == "non-finite"


def test_pieces_of_zeros_do_not_hide_how_small_the_others_are() -> None:
    torch.manual_seed(6)
    moderate = torch.randn(900, 60, dtype=torch.float64)
    moderate[:800] = 0
    norm = StreamedOperator(moderate * 1e-300, ROOM).norm()
    top = float(truth(moderate)[0])
    assert "Cholesky" in norm.method
    assert norm.enclosure.upper / 1e-300 == pytest.approx(top, rel=1e-6)


def test_missing_singular_values_are_explained_where_only_memory_is_missing() -> None:
    warnings: list[str] = []
    little = replace(ROOM, warn=warnings.append)
    streamed: AbstractLinearOperator = StreamedOperator(torch.ones(2000, 40), little)
    assert streamed.spectrum() is None
    (warning,) = warnings
    (named,) = re.findall(r"--max-memory (\d+)", warning)
    whole = Compute(CPU, max_memory=int(named))
    assert DenseOperator(torch.ones(2000, 40), whole).spectrum() is not None
    less = replace(whole, max_memory=int(named) - 1)
    assert DenseOperator(torch.ones(2000, 40), less).spectrum() is None
    # Norms alone are wanted, or the work would be too much anyway.
    StreamedOperator(torch.ones(2000, 40), replace(little, full_spectra=False)).spectrum()
    large = torch.ones(1, 1, dtype=torch.bfloat16).expand(60_000, 4096)
    StreamedOperator(large, little).spectrum()
    assert warnings == [warning]


@dataclass
class Gpu:
    """A played device: what is moved there, and whether it has room."""

    has_room: bool = True
    moved: list[tuple[str, torch.dtype, int]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def move(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Note the move; everything stays where it is."""
        self.moved.append((device.type, tensor.dtype, tensor.numel()))
        if device.type == "cuda" and not self.has_room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return tensor

    def compute(self, max_memory: int, device_memory: int) -> Compute:
        """Return what makes the engine use it."""
        return Compute(
            torch.device("cuda", 0),
            max_memory,
            warn=self.warnings.append,
            move=self.move,
            device_memory=device_memory,
        )


def test_a_device_gets_the_matrix_as_it_is_stored() -> None:
    torch.manual_seed(7)
    stored = torch.randn(60, 3000).to(torch.bfloat16)
    here = StreamedOperator(stored, ROOM).norm()
    for has_room in (True, False):
        gpu = Gpu(has_room)
        norm = StreamedOperator(stored, gpu.compute(200_000, 1 << 30)).norm()
        assert gpu.moved[0] == ("cuda", torch.bfloat16, 180_000)
        assert norm.method == here.method
        assert norm.enclosure.lower <= here.enclosure.upper
        assert here.enclosure.lower <= norm.enclosure.upper <= here.enclosure.upper * (1 + 1e-9)
        # What is proved is proved by a factorization on the CPU.
        assert [size for kind, _, size in gpu.moved[-2:] if kind == "cpu"] != []
        assert bool(gpu.warnings) is not has_room


def test_a_device_without_room_for_the_matrix_is_left_alone() -> None:
    gpu = Gpu()
    stored = torch.ones(60, 3000, dtype=torch.bfloat16)
    norm = StreamedOperator(stored, gpu.compute(200_000, 300_000)).norm()
    assert "Cholesky" in norm.method
    assert {kind for kind, _, _ in gpu.moved} == {"cpu"}
    assert gpu.warnings == []


def test_nothing_and_zeros() -> None:
    assert StreamedOperator(torch.zeros(0, 5), ROOM).norm().enclosure.upper == 0
    assert StreamedOperator(torch.zeros(500, 50), ROOM).norm().enclosure.upper == 0


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
