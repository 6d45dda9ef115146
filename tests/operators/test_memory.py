"""Memory: a layer whose symbol alone would be gigabytes stays within its budget."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STATUS = Path("/proc/self/status")
PROGRAM = """
import sys, torch
from pathlib import Path
from lipaudit.device import choose
from lipaudit.operators.convolution import convolution
from lipaudit.operators.geometry import ConvGeometry, PaddingMode

channels, side, size, budget = map(int, sys.argv[1:])

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10

def measure(channels):
    pad = ((side // 2, side // 2),) * 2
    geometry = ConvGeometry((1, 1), pad, (1, 1), mode=PaddingMode.CIRCULAR)
    kernel = torch.randn(channels, channels, side, side, dtype=torch.float64) / side
    compute = choose("cpu", max_memory=budget)
    spectrum = convolution(kernel, geometry, (channels, size, size), compute).spectrum()
    assert spectrum is not None and spectrum.values.size == channels * size**2

measure(2)  # libraries and their threads are no part of a layer
before = peak()
measure(channels)
print(before, peak())
"""


MATRIX = """
import torch
from pathlib import Path
from lipaudit.device import choose
from lipaudit.operators.convolution import convolution
from lipaudit.operators.geometry import ConvGeometry

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10

def measure(side, size):
    geometry = ConvGeometry((1, 1), ((side // 2, side // 2),) * 2, (1, 1))
    kernel = torch.randn(2, 2, side, side, dtype=torch.float64)
    compute = choose("cpu", max_memory=500 << 20)
    assert "exact" in convolution(kernel, geometry, (2, size, size), compute).norm().method

measure(3, 14)
before = peak()
measure(25, 14)
print(before, peak())
"""

HELD = """
import ctypes, sys, torch
from lipaudit.device import keep_memory

class Heap(ctypes.Structure):
    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_int) for name in _names.split()]

heap = ctypes.CDLL(None).mallinfo
heap.restype = Heap
if sys.argv[1] == "kept":
    keep_memory()
batch = torch.ones(100, 64, 64, dtype=torch.complex128)
del batch
print(heap().fordblks)
"""
"""Prints the free bytes that glibc has not given back."""


def peaks(*arguments: int, program: str = PROGRAM) -> tuple[int, int]:
    """Return the peak resident bytes of a fresh process before and after a spectrum."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    before, after = map(int, done.stdout.split())
    return before, after


@pytest.mark.skipif(not STATUS.exists(), reason="this system does not tell a process's peak")
def test_a_spectrum_keeps_to_the_kernel_and_the_budget() -> None:
    # The whole symbol would be 40² · 40² · 16 = 41 MB, and its Gram matrices as much again.
    before, after = peaks(40, 5, 40, 8 << 20)
    assert after - before < 30 << 20


@pytest.mark.skipif(not STATUS.exists(), reason="this system does not tell a process's peak")
def test_a_matrix_is_written_without_a_column_for_every_window() -> None:
    # The matrix has 392² entries, 1.2 MB; all windows of all unit inputs are 770 MB.
    before, after = peaks(program=MATRIX)
    assert after - before < 40 << 20


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="this system does not tell a process's peak")
def test_a_symbol_of_four_gigabytes_takes_less_than_one_and_a_half() -> None:
    _, after = peaks(256, 11, 64, 512 << 20)
    assert after < 1.5e9


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is the one meant")
def test_a_batch_leaves_its_pages_to_the_next_where_the_process_keeps_them() -> None:
    # glibc's usual thresholds, stated: it would raise them by what torch frees while it starts.
    usual = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}

    def held(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", HELD, how],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env=os.environ | usual,
        )
        return int(done.stdout)

    batch = 100 * 64 * 64 * 16
    assert held("as it is") < batch <= held("kept")
