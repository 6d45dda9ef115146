"""The cost model of a large checkpoint on many workers, against a simulation.

The norm audit of an m x n matrix (m <= n) forms its Gram matrix, factors it, and goes over the
entries in a Krylov method. A processor does the three at different rates, so that the model of its
time is

    t = a · 2 m² n + b · 1/3 m³ + c · 200 m n

with a hundred Krylov steps of two passes each, and a, b and c the times of one matrix product, one
factorization and one pass on one thread. Over W workers a checkpoint takes max(Σ t / W, the longest
t), plus the start of a worker. The simulation knows nothing of these rates: it hands the layers out
one by one, in the order in which lipaudit does, to whoever is free, and each takes the processor
time that a whole audit of its own shape took when it was measured.
Only the embedding, two layers of 562, takes too long for that: it is scaled up from the largest
measured shape. Beside it stands what the longest first would take, and when half of the layers are
told, which are told in the order of the file.
"""

import heapq
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from cases import Options
from report import table
from safetensors.torch import save_file

import lipaudit
from lipaudit.analysis.turns import operations, turns
from lipaudit.operators.certify import crude_upper, gram, proves_below

Shape = tuple[int, int]

TITLE = "A 70B checkpoint on many workers"
_WORKERS = (1, 8, 64)
_START = 5.0
"""Seconds in which a worker imports torch and opens the file."""
_STEPS = 100
"""Of the Krylov method, two passes over the matrix each."""
_RATED = (4096, 8192)
"""The matrix on which the three rates are measured: it does not fit a cache."""
_OWN = ((1024, 8192), (8192, 8192), (8192, 28672))
"""Shapes of the checkpoint, the shorter side first, that the simulation takes the times of."""
_QUICK_RATED = (512, 1024)
_QUICK_OWN = ((256, 512), (512, 512))


@dataclass(frozen=True, slots=True)
class Row:
    """A number of workers: what the model and the simulation say."""

    workers: int
    layers: int
    operations: float
    gigabytes: float
    gram_rate: float
    """Operations a second of one thread, in products."""
    cholesky_rate: float
    """The same, in factorizations."""
    entry_rate: float
    """Entries a second, in a pass over a matrix."""
    error: float
    """Largest relative error of the model's time for a shape of the checkpoint."""
    model: float
    simulated: float
    longest_first: float
    half_told: float
    """When half of the layers are told, as a share of the whole time."""


def llama_70b() -> list[tuple[int, int]]:
    """Return the matrices of an 80-layer decoder with 8192 channels and grouped queries."""
    block = [(8192, 8192), (1024, 8192), (1024, 8192), (8192, 8192)]
    block += [(28672, 8192), (28672, 8192), (8192, 28672)]
    return [(128256, 8192), *(block * 80), (128256, 8192)]


def measure(options: Options) -> list[Row]:
    """Measure the rates and some whole layers on one thread, and lay the checkpoint out by both."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _seconds((64, 64))  # pays for what is imported on the way
        each = rates(_QUICK_RATED if options.quick else _RATED)
        own = {shape: _seconds(shape) for shape in (_QUICK_OWN if options.quick else _OWN)}
    finally:
        torch.set_num_threads(threads)
    error = max(abs(_modelled(shape, each) / taken - 1.0) for shape, taken in own.items())
    largest = max(own, key=operations)
    slowness = own[largest] / operations(largest)
    layers = llama_70b()
    costs = [own.get((min(s), max(s)), operations(s) * slowness) for s in layers]
    model = [_modelled(shape, each) for shape in layers]
    expected = [operations(shape) for shape in layers]
    falling = sorted(range(len(costs)), key=lambda at: -costs[at])
    rows = []
    for count in _WORKERS:
        done = finished(costs, turns(expected, count), count)
        rows.append(
            Row(
                workers=count,
                layers=len(layers),
                operations=sum(expected),
                gigabytes=sum(2.0 * a * b for a, b in layers) / 1e9,
                gram_rate=1.0 / each[0],
                cholesky_rate=1.0 / each[1],
                entry_rate=1.0 / each[2],
                error=error,
                model=_START + max(sum(model) / count, *model),
                simulated=_START + max(done),
                longest_first=_START + max(finished(costs, falling, count)),
                half_told=max(done[: len(done) // 2]) / max(done),
            )
        )
    return rows


def rates(shape: Shape) -> tuple[float, float, float]:
    """Return the seconds of one operation of a product, of a factorization, and of one entry."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    grams, error = gram(matrix.unsqueeze(0))
    above = 2.0 * crude_upper(matrix.unsqueeze(0))
    x, y = torch.ones(shape[1], dtype=torch.float64), torch.ones(shape[0], dtype=torch.float64)
    product, factorization, passes = kinds(shape)
    return (
        _least(lambda: gram(matrix.unsqueeze(0))) / product,
        _least(lambda: proves_below(grams, error, above)) / factorization,
        _STEPS * _least(lambda: (matrix @ x, y @ matrix)) / passes,
    )


def _least(call: Callable[[], object]) -> float:
    """Return the processor time of the quickest of a few calls."""
    taken = []
    for _ in range(3):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken)


def kinds(shape: Shape) -> tuple[float, float, float]:
    """Return the operations of the product and of the factorization, and the entries read."""
    small, large = sorted(shape)
    return 2.0 * small**2 * large, small**3 / 3.0, 2.0 * _STEPS * small * large


def _modelled(shape: Shape, each: Sequence[float]) -> float:
    return sum(one * kind for one, kind in zip(each, kinds(shape), strict=True))


def finished(costs: Sequence[float], order: Sequence[int], workers: int) -> list[float]:
    """Return when each layer is done, where whoever is free takes the next one of an order."""
    free = [0.0] * workers
    done = [0.0] * len(costs)
    for at in order:
        done[at] = heapq.heappop(free) + costs[at]
        heapq.heappush(free, done[at])
    return done


def markdown(rows: list[Row]) -> str:
    """Return the table and what it was made from."""
    header = (
        "workers",
        "model h",
        "simulated h",
        "model / simulated",
        "longest first h",
        "half of the layers told at",
    )
    lines = [
        (
            str(row.workers),
            f"{row.model / 3600:.2f}",
            f"{row.simulated / 3600:.2f}",
            f"{row.model / row.simulated:.3f}",
            f"{row.longest_first / 3600:.2f}",
            f"{100 * row.half_told:.0f} %",
        )
        for row in rows
    ]
    first = rows[0]
    kinds = ", ".join(f"{n} of {a}x{b}" for (a, b), n in Counter(llama_70b()).items())
    return (
        f"{table(header, lines)}\n\n"
        f"{first.layers} matrices ({kinds}), {first.gigabytes:.0f} GB in bf16, "
        f"{first.operations:.3g} operations. A worker of one thread does "
        f"{first.gram_rate / 1e9:.3g} Gflop/s in products, {first.cholesky_rate / 1e9:.3g} in "
        f"factorizations, and reads {first.entry_rate / 1e9:.2g} billion entries a second; a layer "
        f"takes what these three say within {100 * first.error:.0f} %. The "
        "simulation takes times that were measured for the shapes themselves (the two of "
        "128256x8192 are scaled up from 8192x28672). Reading takes no part in it while the "
        "storage yields more than "
        f"{first.gigabytes / (first.simulated / rows[-1].workers):.2g} GB/s for all workers."
    )


def _seconds(shape: tuple[int, int]) -> float:
    """Return the processor time of one norm audit: what a worker of one thread takes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.safetensors"
        generator = torch.Generator().manual_seed(1)
        weight = torch.randn(shape, generator=generator) / shape[1] ** 0.5
        save_file({"fc.weight": weight.to(torch.bfloat16)}, path)
        del weight
        start = time.process_time()
        lipaudit.inspect(path, spectra=False)
        taken = time.process_time() - start
    print(f"{shape[0]}x{shape[1]}: {taken:.2f} s", flush=True)
    return taken
