"""The cost model of a large checkpoint on many workers, against a simulation.

The norm audit of an m x n matrix (m <= n) reads it once, forms its Gram matrix, factors it, and
multiplies by it in a Krylov method:

    operations = 2 m² n + 2/3 m³ + 240 m n

Their rate is measured on one thread at a few shapes. The model of a
checkpoint over W workers is max(Σ t / W, the longest t), plus the start of a worker; the
simulation hands the layers out one by one, the longest first, to whoever is free, each taking
what its shape took when it was measured (or, where a shape is too large to be measured here,
what the fit says).
"""

import heapq
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from cases import Options
from report import table
from safetensors.torch import save_file
from timing import Contestant, race

import lipaudit

TITLE = "A 70B checkpoint on many workers"
_WORKERS = (1, 8, 64)
_KRYLOV = 240.0
"""Operations for each entry: 60 steps with two products of 2 operations."""
_START = 5.0
"""Seconds in which a worker imports torch and opens the file."""
_MEASURED = ((512, 2048), (1024, 4096), (1024, 8192), (2048, 4096), (2048, 8192), (4096, 4096))
_QUICK = ((256, 512), (512, 512))


@dataclass(frozen=True, slots=True)
class Row:
    """A number of workers: what the model and the simulation say."""

    workers: int
    layers: int
    operations: float
    gigabytes: float
    rate: float
    """Measured operations a second of one thread."""
    error: float
    """Largest relative error of the fit at a measured shape."""
    model: float
    simulated: float


def llama_70b() -> list[tuple[int, int]]:
    """Return the matrices of an 80-layer decoder with 8192 channels and grouped queries."""
    block = [(8192, 8192), (1024, 8192), (1024, 8192), (8192, 8192)]
    block += [(28672, 8192), (28672, 8192), (8192, 28672)]
    return [(128256, 8192), *(block * 80), (128256, 8192)]


def operations(shape: tuple[int, int]) -> float:
    """Return the operations of a norm audit."""
    small, large = sorted(shape)
    return 2.0 * small**2 * large + 2.0 / 3.0 * small**3 + _KRYLOV * small * large


def measure(options: Options) -> list[Row]:
    """Measure a few shapes on one thread, fit the rate, and lay the layers out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        shapes = _QUICK if options.quick else _MEASURED
        times = {shape: _seconds(shape, options) for shape in shapes}
    finally:
        torch.set_num_threads(threads)
    # The larger shapes count most: those of the checkpoint are larger still.
    rate = sum(map(operations, times)) / sum(times.values())
    error = max(abs(operations(shape) / rate / taken - 1.0) for shape, taken in times.items())
    layers = llama_70b()
    costs = [times.get((min(s), max(s)), operations(s) / rate) for s in layers]
    fitted = [operations(shape) / rate for shape in layers]
    longest = max(fitted)
    return [
        Row(
            workers=count,
            layers=len(layers),
            operations=sum(map(operations, layers)),
            gigabytes=sum(2.0 * a * b for a, b in layers) / 1e9,
            rate=rate,
            error=error,
            model=_START + max(sum(fitted) / count, longest),
            simulated=_START + makespan(costs, count),
        )
        for count in _WORKERS
    ]


def makespan(costs: Sequence[float], workers: int) -> float:
    """Return when the last worker is done, each taking the longest layer left when it is free."""
    free = [0.0] * workers
    for cost in sorted(costs, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + cost)
    return max(free)


def markdown(rows: list[Row]) -> str:
    """Return the table and what it was made from."""
    header = ("workers", "model h", "simulated h", "model / simulated")
    lines = [
        (
            str(row.workers),
            f"{row.model / 3600:.2f}",
            f"{row.simulated / 3600:.2f}",
            f"{row.model / row.simulated:.3f}",
        )
        for row in rows
    ]
    first = rows[0]
    kinds = ", ".join(f"{n} of {a}x{b}" for (a, b), n in Counter(llama_70b()).items())
    return (
        f"{table(header, lines)}\n\n"
        f"{first.layers} matrices ({kinds}), {first.gigabytes:.0f} GB in bf16, "
        f"{first.operations:.3g} operations; workers of one thread at {first.rate / 1e9:.3g} "
        f"Gflop/s, fitted to measured shapes within {100 * first.error:.0f} %. Reading takes "
        "no part in it while the storage yields more than "
        f"{first.gigabytes / (first.model / rows[-1].workers):.2g} GB/s for all workers."
    )


def _seconds(shape: tuple[int, int], options: Options) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.safetensors"
        generator = torch.Generator().manual_seed(1)
        weight = torch.randn(shape, generator=generator) / shape[1] ** 0.5
        save_file({"fc.weight": weight.to(torch.bfloat16)}, path)
        contestant = Contestant("ours", lambda: lipaudit.inspect(path, spectra=False))
        timings = race(
            [contestant], device=options.device, repeats=options.repeats, limit=options.limit
        )
    taken = timings["ours"].median
    print(f"{shape[0]}x{shape[1]}: {taken:.2f} s", flush=True)
    return taken
