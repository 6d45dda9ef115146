"""The cost model of a large checkpoint on many workers, against a simulation.

The norm audit of an m x n matrix (m <= n) forms its Gram matrix, factors it, and goes over the
entries many times in a Krylov method. A processor does the three at different rates, so that the
model of its time is

    t = a · 2 m² n + b · 2/3 m³ + c · m n

with a, b and c fitted on one thread to a few shapes smaller than those of the checkpoint. Over W
workers a checkpoint takes max(Σ t / W, the longest t), plus the start of a worker. The simulation
knows nothing of the fit: it hands the layers out one by one, in the order in which lipaudit does,
to whoever is free, and each takes the processor time that its own shape took when it was measured.
Only the embedding, two layers of 562, takes too long for that: it is scaled up from the largest
measured shape. Beside it stands what the longest first would take, and when half of the layers are
told, which are told in the order of the file.
"""

import heapq
import math
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cases import Options
from report import table
from safetensors.torch import save_file

import lipaudit
from lipaudit.analysis.turns import operations, turns

Shape = tuple[int, int]

TITLE = "A 70B checkpoint on many workers"
_WORKERS = (1, 8, 64)
_START = 5.0
"""Seconds in which a worker imports torch and opens the file."""
_FITTED = ((1024, 2048), (1024, 4096), (2048, 4096), (2048, 8192), (4096, 4096))
"""Shapes that the model is fitted to: none of them is in the checkpoint."""
_OWN = ((1024, 8192), (8192, 8192), (8192, 28672))
"""Shapes of the checkpoint, the shorter side first, that the simulation takes the times of."""

_QUICK = ((256, 512), (512, 512))


@dataclass(frozen=True, slots=True)
class Row:
    """A number of workers: what the model and the simulation say."""

    workers: int
    layers: int
    operations: float
    gigabytes: float
    gram_rate: float
    """Fitted operations a second of one thread, in products."""
    cholesky_rate: float
    """The same, in factorizations."""
    entry_rate: float
    """Entries a second, with all that is done once or a hundred times for each."""
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
    """Measure shapes on one thread, fit the model to some, and lay the layers out by the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _seconds((64, 64))  # pays for what is imported on the way
        times = {shape: _seconds(shape) for shape in (_QUICK if options.quick else _FITTED)}
        own = times if options.quick else {shape: _seconds(shape) for shape in _OWN}
    finally:
        torch.set_num_threads(threads)
    each = fitted(times)
    error = max(abs(_modelled(shape, each) / taken - 1.0) for shape, taken in own.items())
    largest = max(own, key=operations)
    slowness = own[largest] / operations(largest)
    layers = llama_70b()
    costs = [own.get((min(s), max(s)), operations(s) * slowness) for s in layers]
    model = [_modelled(shape, each) for shape in layers]
    expected = [operations(shape) for shape in layers]
    falling = sorted(range(len(costs)), key=lambda at: -costs[at])
    rates = [1.0 / one if one > 0 else math.inf for one in each]
    rows = []
    for count in _WORKERS:
        done = finished(costs, turns(expected, count), count)
        rows.append(
            Row(
                workers=count,
                layers=len(layers),
                operations=sum(expected),
                gigabytes=sum(2.0 * a * b for a, b in layers) / 1e9,
                gram_rate=rates[0],
                cholesky_rate=rates[1],
                entry_rate=rates[2],
                error=error,
                model=_START + max(sum(model) / count, *model),
                simulated=_START + max(done),
                longest_first=_START + max(finished(costs, falling, count)),
                half_told=max(done[: len(done) // 2]) / max(done),
            )
        )
    return rows


def fitted(times: Mapping[Shape, float]) -> tuple[float, ...]:
    """Return the seconds of one operation of each kind, none negative, by relative squares."""
    parts = np.array([[kind / taken for kind in _kinds(shape)] for shape, taken in times.items()])
    kept = list(range(parts.shape[1]))
    while True:
        found = np.linalg.lstsq(parts[:, kept], np.ones(len(parts)), rcond=None)[0]
        if len(kept) == 1 or (found > 0).all():
            break
        kept.pop(int(found.argmin()))
    each = np.zeros(parts.shape[1])
    each[kept] = found
    return tuple(each.tolist())


def _kinds(shape: Shape) -> tuple[float, float, float]:
    """Return the operations of the product and of the factorization, and the entries."""
    small, large = sorted(shape)
    return 2.0 * small**2 * large, 2.0 / 3.0 * small**3, float(small * large)


def _modelled(shape: Shape, each: Sequence[float]) -> float:
    return sum(one * kind for one, kind in zip(each, _kinds(shape), strict=True))


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
        f"{first.operations:.3g} operations. Fitted to smaller shapes, a worker of one thread "
        f"does {first.gram_rate / 1e9:.3g} Gflop/s in products, {first.cholesky_rate / 1e9:.3g} in "
        f"factorizations and {first.entry_rate / 1e9:.2g} billion entries a second in the rest; "
        f"a layer of the checkpoint takes what that says within {100 * first.error:.0f} %. The "
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
