"""One pass of clipping: the function of the paper's appendix A beside lipaudit's single pass.

Both project once onto the norm ball of the circular convolution and once onto the kernels of
the support. The limit is half of the norm, where every frequency sticks out of the ball, and 0.9
of it, where few do, as after a few steps of training; trained layers are clipped to 1.
"""

import math
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
import trained
from baselines import clip_operator_norm, two_liner
from cases import Options, gaussian
from report import error_cell, ratio_cell, table, time_cell
from timing import Contestant, race

from lipaudit.operators.geometry import ConvGeometry
from lipaudit.operators.single_pass import single_pass

TITLE = "One pass of clipping"
_CASES = (
    (3, 16, (32, 64, 128, 256, 512)),
    (5, 32, (32, 64, 128)),
    (11, 32, (32, 64, 128)),
)
"""Side of the kernel, size of the image, channels."""
_QUICK = ((3, 16, (32, 64)), (11, 32, (32,)))
_SHARES = (0.5, 0.9)
_PRECISIONS = (torch.float64, torch.float32)
"""Checkpoints hold the second; the paper's function takes what it is given, too."""
_TRAINED_SIZE = 16
_PLAIN = ConvGeometry((1, 1), ((0, 0), (0, 0)), (1, 1))


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel clipped to one limit. Times are seconds."""

    kernel: str
    precision: str
    """Of the numbers both are given."""
    channels: str
    size: int
    share: float
    """Limit over norm."""
    beyond: float
    """Share of the frequencies whose matrices stick out of the ball."""
    numpy: float
    numpy_least: float
    ours: float
    ours_least: float
    difference: float
    """Largest difference of the two results, relative to the largest entry."""

    @property
    def ratio(self) -> float:
        """How many times ours the paper's function takes."""
        return self.numpy / self.ours


def measure(options: Options) -> list[Row]:
    """Time every kernel at every limit."""
    rows = []
    for side, size, channels in _QUICK if options.quick else _CASES:
        for count in channels:
            kernel = gaussian(count, side)
            norm = float(two_liner(kernel, size).max())
            for share, dtype in product(_SHARES, _PRECISIONS):
                name = f"{side}x{side} Gaussian"
                rows.append(_measured(name, kernel.to(dtype), size, share * norm, options))
    for (name, kernel), dtype in product(_trained(options), _PRECISIONS):
        rows.append(_measured(name, kernel.to(dtype), _TRAINED_SIZE, 1.0, options))
    return rows


def markdown(rows: list[Row]) -> str:
    """Return the table, the geometric mean of the ratios, and what the columns mean."""
    header = (
        "kernel",
        "precision",
        "channels",
        "n",
        "limit / norm",
        "beyond",
        "appendix A s",
        "lipaudit s",
        "/ ours",
        "difference",
    )
    means = "; ".join(
        _mean(precision, [row.ratio for row in rows if row.precision == precision])
        for precision in sorted({row.precision for row in rows}, reverse=True)
    )
    return (
        f"{table(header, map(_cells, rows))}\n\n"
        f"{means}. Both are given the same kernel, work on the n x n torus "
        "and return the same kernel; difference is the largest one of an entry, relative "
        "to the largest entry. Beyond is the share of the frequencies at which the symbol's norm "
        "exceeds the limit: only there lipaudit looks for singular vectors."
    )


def _mean(precision: str, ratios: list[float]) -> str:
    """Return the geometric mean and the least of some ratios, in words."""
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return f"{precision}: geometric mean {mean:.3g}x, least {min(ratios):.3g}x"


def _cells(row: Row) -> tuple[str, ...]:
    """Return one line of the table."""
    return (
        row.kernel,
        row.precision,
        row.channels,
        str(row.size),
        f"{row.share:.2g}",
        f"{100 * row.beyond:.0f} %",
        time_cell(row.numpy, row.numpy_least),
        time_cell(row.ours, row.ours_least),
        ratio_cell(row.numpy, row.ours),
        error_cell(row.difference),
    )


def _trained(options: Options) -> list[tuple[str, torch.Tensor]]:
    """Return trained kernels, if there are any."""
    kernels = [] if options.models is None else trained.kernels(options.models)
    return kernels[-1:] if options.quick else kernels


def _measured(name: str, kernel: torch.Tensor, size: int, limit: float, options: Options) -> Row:
    """Time both on one kernel, and compare what they return."""
    turned = np.ascontiguousarray(kernel.permute(2, 3, 0, 1).numpy())
    on_device = kernel.to(options.compute.device)
    contestants = [
        Contestant("numpy", partial(clip_operator_norm, turned, (size, size), limit)),
        Contestant(
            "ours", partial(single_pass, on_device, _PLAIN, (size, size), limit, options.compute)
        ),
    ]
    timings = race(contestants, device=options.device, repeats=options.repeats, limit=options.limit)
    theirs = torch.from_numpy(timings["numpy"].result).permute(2, 3, 0, 1)
    difference = float((timings["ours"].result.cpu() - theirs).abs().max() / theirs.abs().max())
    values = two_liner(kernel, size).max(-1)
    row = Row(
        kernel=name,
        precision=str(kernel.dtype).removeprefix("torch."),
        channels="x".join(map(str, kernel.shape[:2])),
        size=size,
        share=limit / float(values.max()),
        beyond=float((values > limit).mean()),
        numpy=timings["numpy"].median,
        numpy_least=timings["numpy"].least,
        ours=timings["ours"].median,
        ours_least=timings["ours"].least,
        difference=difference,
    )
    print(markdown([row]).splitlines()[2], flush=True)
    return row
