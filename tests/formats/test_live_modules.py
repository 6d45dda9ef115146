"""Live modules in programs of other people: other kinds of numbers, several threads."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import lipaudit
from lipaudit.formats.live import from_module
from lipaudit.graph.model import Topology


def wrapped(channels: int) -> nn.Conv1d:
    """Return a circular layer, whose spectrum depends on the size of its input."""
    return nn.Conv1d(channels, channels + 7, 3, padding=1, padding_mode="circular", bias=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_size_counts_whatever_numbers_a_module_takes(dtype: torch.dtype) -> None:
    module = wrapped(5).to(dtype)
    (found,) = lipaudit.spectra(module, input_shape=(1, 5, 9)).values()
    # The symbol is the FFT of the kernel (Sedghi, Gupta & Long 2019).
    weight = module.weight.detach().double()
    truth = torch.linalg.svdvals(torch.fft.fft(weight, n=9).permute(2, 0, 1)).flatten()
    assert np.allclose(found, truth.sort(descending=True).values.numpy(), rtol=1e-9)


@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_some_weights_may_be_of_another_kind(wide: torch.dtype) -> None:
    class Mixed(nn.Module):
        """Takes numbers of one kind, and has weights of a narrower one that come first."""

        def __init__(self) -> None:
            super().__init__()
            self.narrow = nn.Linear(4, 4).to(torch.float16)
            self.layer = wrapped(5).to(wide)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layer(x)
            return y

    model = from_module(Mixed(), [(1, 5, 9)])
    assert model.topology is Topology.STATED
    assert not model.notes


def test_threads_of_a_program_keep_their_streams() -> None:
    streams = sys.stdout, sys.stderr
    sizes = [11, 20, 30, 40] * 2

    def audited(channels: int) -> int:
        (found,) = lipaudit.spectra(wrapped(channels), input_shape=(1, channels, 9)).values()
        return int(found.size)

    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(audited, sizes))
    assert counts == [9 * channels for channels in sizes]
    assert (sys.stdout, sys.stderr) == streams
