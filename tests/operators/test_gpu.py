"""On a GPU: what it proves overlaps what the CPU proves. Run where there is one."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from lipaudit.device import Compute, choose
from lipaudit.enclosure import Rigor
from lipaudit.operators.base import AbstractLinearOperator
from lipaudit.operators.convolution import convolution
from lipaudit.operators.dense import DenseOperator
from lipaudit.operators.geometry import ConvGeometry, PaddingMode
from lipaudit.operators.streamed import StreamedOperator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
CPU = choose("cpu")
PLAIN = ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1))
CIRCULAR = replace(PLAIN, mode=PaddingMode.CIRCULAR)


def kernel(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LAYERS: dict[str, Callable[[Compute], AbstractLinearOperator]] = {
    "any size": lambda c: convolution(kernel(64, 48, 3, 3), PLAIN, None, c),
    "any size, 7x7": lambda c: convolution(kernel(8, 3, 7, 7), PLAIN, None, c),
    "1-D": lambda c: convolution(
        kernel(16, 16, 9), ConvGeometry((1,), ((4, 4),), (1,)), (16, 300), c
    ),
    "depthwise": lambda c: convolution(
        kernel(32, 1, 3, 3), replace(PLAIN, groups=32), (32, 28, 28), c
    ),
    "strided": lambda c: convolution(
        kernel(32, 16, 3, 3), replace(PLAIN, stride=(2, 2)), (16, 56, 56), c
    ),
    "zero padding": lambda c: convolution(kernel(64, 64, 3, 3), PLAIN, (64, 14, 14), c),
    "circular": lambda c: convolution(kernel(64, 64, 3, 3), CIRCULAR, (64, 32, 32), c),
    "circular, proved": lambda c: convolution(
        kernel(24, 24, 3, 3), CIRCULAR, (24, 16, 16), replace(c, by_svd=True)
    ),
    "rank one": lambda c: convolution(
        torch.ones(16, 16, 3, 3, dtype=torch.float64), CIRCULAR, (16, 20, 20), c
    ),
    "dense": lambda c: DenseOperator(kernel(300, 500), c),
    "dense, norm only": lambda c: DenseOperator(kernel(700, 600), replace(c, full_spectra=False)),
    "dense, piece by piece": lambda c: StreamedOperator(kernel(700, 300).to(torch.bfloat16), c),
    "tiny weights": lambda c: convolution(kernel(8, 8, 3, 3) * 1e-300, PLAIN, None, c),
}


@pytest.mark.parametrize("max_memory", [None, 1 << 22])
@pytest.mark.parametrize("name", LAYERS)
def test_results_lie_in_the_enclosures_of_the_cpu(name: str, max_memory: int | None) -> None:
    there = LAYERS[name](choose("cuda", max_memory=max_memory))
    here = LAYERS[name](CPU if max_memory is None else replace(CPU, max_memory=max_memory))
    theirs, ours = there.norm().enclosure, here.norm().enclosure
    assert theirs.rigor is Rigor.PROVED
    assert max(theirs.lo, ours.lo) <= min(theirs.hi, ours.hi)
    assert theirs.upper <= ours.upper * (1 + 3e-4)
    spectrum, wanted = there.spectrum(), here.spectrum()
    assert (spectrum is None) == (wanted is None)
    if spectrum is None or wanted is None:
        return
    assert spectrum.rigor is wanted.rigor
    large = wanted.values >= 1e-4 * wanted.largest
    off = np.abs(spectrum.values - wanted.values)
    assert np.all(off <= np.where(large, 1e-11, 2e-8) * wanted.largest)


def test_the_whole_line_of_cuda_devices() -> None:
    for index in range(torch.cuda.device_count()):
        operator = DenseOperator(kernel(50, 60), choose(f"cuda:{index}"))
        truth = float(torch.linalg.matrix_norm(kernel(50, 60), 2))
        enclosure = operator.norm().enclosure
        assert enclosure.lower <= truth * (1 + 1e-13)
        assert truth * (1 - 1e-13) <= enclosure.upper
