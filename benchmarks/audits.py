"""All convolutions of whole networks: the seconds of a norm audit, and the floor under them.

The networks have the shapes of the CIFAR ResNet-20 and of ResNet-18 (He et al. 2016) and random
Gaussian weights, whose flat symbols are the hard case of the search; trained ones are easier.

The floor is what the linear algebra of the proofs alone would take at the machine's float64
matrix product rate, measured in the same run:

    Σ_layers [ T(T+1)/2 · 2 s² m  +  F · (2 D s² + 4/3 s³) ]  /  rate

with, for the layer as a stride-1 convolution, T taps of s x m matrices (s the smaller side),
F Cholesky factorizations of complex s x s matrices (4/3 s³ real operations each; counted while
the audit runs), and D = (2t - 1)² coefficients of the Gram polynomial for t taps an axis: half of
them are needed, 2 operations for the real and 2 for the imaginary part of each entry. F is what
the search needed, so the floor is that of this algorithm and says nothing about better ones.
"""

import math
from dataclasses import dataclass
from unittest.mock import patch

import torch
from cases import Options
from report import table, time_cell
from timing import Contestant, race, seconds

from lipaudit.device import Compute
from lipaudit.operators import certify, search
from lipaudit.operators.base import Norm
from lipaudit.operators.certify import proves_below
from lipaudit.operators.convolution import convolution
from lipaudit.operators.geometry import ConvGeometry

TITLE = "Whole networks: every convolution's norm"
_GEMM_SIDE = 2048
_QUICK_GEMM_SIDE = 512


@dataclass(frozen=True, slots=True)
class Row:
    """One network, audited in one way. Times are seconds."""

    network: str
    inputs: str
    """ "any size", or the image."""
    layers: int
    total: float
    total_least: float
    widest: float
    """The largest upper/lower - 1 of the layers' norms."""
    factorizations: int
    gigaflops: float
    """Counted work of the floor."""
    rate: float
    """Measured Gflop/s of a float64 matrix product."""
    floor: float


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution: channels, kernel, stride, and the image it sees."""

    out: int
    inputs: int
    side: int
    stride: int
    size: int

    def geometry(self) -> ConvGeometry:
        """Return it for lipaudit."""
        padding = (self.side // 2,) * 2
        return ConvGeometry((self.stride,) * 2, (padding, padding), (1, 1))

    def taps(self) -> tuple[int, int, int]:
        """Return taps an axis, smaller and larger side, as a stride-1 convolution."""
        per_axis = math.ceil(self.side / self.stride)
        inputs = self.inputs * min(self.stride, self.side) ** 2
        return per_axis, min(self.out, inputs), max(self.out, inputs)


def resnet20() -> list[Layer]:
    """Return the convolutions of the CIFAR ResNet-20; its shortcuts have no weights."""
    return [Layer(16, 3, 3, 1, 32), *_stages((16, 32, 64), 16, 32, blocks=3, projected=False)]


def resnet18() -> list[Layer]:
    """Return the convolutions of ResNet-18 on 224 x 224."""
    stages = _stages((64, 128, 256, 512), 64, 56, blocks=2, projected=True)
    return [Layer(64, 3, 7, 2, 224), *stages]


def measure(options: Options) -> list[Row]:
    """Audit every network for any input size and at its own."""
    rate = _gemm_rate(options)
    networks = {"ResNet-20": resnet20()}
    if not options.quick:
        networks["ResNet-18"] = resnet18()
    rows = []
    for name, layers in networks.items():
        for sized in (False, True):
            rows.append(_measured(name, layers, rate, options, sized=sized))
            print(markdown(rows[-1:]).splitlines()[2], flush=True)
    return rows


def markdown(rows: list[Row]) -> str:
    """Return the table and what its columns mean."""
    header = (
        "network",
        "input",
        "convolutions",
        "lipaudit s",
        "widest enclosure",
        "factorizations",
        "counted Gflop",
        "GEMM Gflop/s",
        "floor s",
        "ours / floor",
    )
    lines = table(
        header,
        (
            (
                row.network,
                row.inputs,
                str(row.layers),
                time_cell(row.total, row.total_least),
                f"{row.widest:.1e}",
                str(row.factorizations),
                f"{row.gigaflops:.3g}",
                f"{row.rate:.0f}",
                f"{row.floor:.3g}",
                f"{row.total / row.floor:.1f}",
            )
            for row in rows
        ),
    )
    return (
        f"{lines}\n\n"
        "Random Gaussian weights. The floor is the counted work of the proofs (Gram polynomials "
        "and Cholesky factorizations; the formula stands in `audits.py`) at the measured rate "
        "of a large float64 matrix product. At a stated input the audit also looks for a lower "
        "bound on the image itself, which the floor leaves out."
    )


def _stages(
    widths: tuple[int, ...], inputs: int, size: int, *, blocks: int, projected: bool
) -> list[Layer]:
    """Return stages of basic blocks; each stage but the first begins with stride 2."""
    layers = []
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers.append(Layer(width, inputs, 3, stride, size))
            if projected and stride == 2:
                layers.append(Layer(width, inputs, 1, stride, size))
            inputs, size = width, size // stride
            layers.append(Layer(width, width, 3, 1, size))
    return layers


def _measured(name: str, layers: list[Layer], rate: float, options: Options, *, sized: bool) -> Row:
    """Count the work of one network, then time it."""
    compute = options.compute
    kernels = [he(layer, seed) for seed, layer in enumerate(layers)]
    count, flops = _counted(layers, kernels, compute, sized=sized)
    timing = race(
        [Contestant("ours", lambda: _audit(layers, kernels, compute, sized=sized))],
        device=options.device,
        repeats=options.repeats,
        limit=options.limit,
    )["ours"]
    norms = [norm.enclosure for norm in timing.result]
    return Row(
        network=name,
        inputs=f"{layers[0].size}x{layers[0].size}" if sized else "any size",
        layers=len(layers),
        total=timing.median,
        total_least=timing.least,
        widest=max(norm.upper / norm.lower - 1.0 for norm in norms),
        factorizations=count,
        gigaflops=flops / 1e9,
        rate=rate / 1e9,
        floor=flops / rate,
    )


def _audit(
    layers: list[Layer], kernels: list[torch.Tensor], compute: Compute, *, sized: bool
) -> list[Norm]:
    """Return the norm of every layer, each operator made anew."""
    norms = []
    for layer, kernel in zip(layers, kernels, strict=True):
        shape = (layer.inputs, layer.size, layer.size) if sized else None
        norms.append(convolution(kernel, layer.geometry(), shape, compute).norm())
    return norms


def he(layer: Layer, seed: int) -> torch.Tensor:
    """Return a kernel as networks are initialized (He et al. 2015)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (layer.out, layer.inputs, layer.side, layer.side)
    deviation = math.sqrt(2.0 / (layer.inputs * layer.side**2))
    return torch.randn(shape, generator=generator, dtype=torch.float64) * deviation


def _counted(
    layers: list[Layer], kernels: list[torch.Tensor], compute: Compute, *, sized: bool
) -> tuple[int, float]:
    """Run the audit once and count; return factorizations and the flops of the floor."""
    total, flops = 0, 0.0
    for layer, kernel in zip(layers, kernels, strict=True):
        per_axis, side, other = layer.taps()
        taps = per_axis**2
        flops += taps * (taps + 1) / 2 * 2.0 * side**2 * other
        for matrix_side, count, screens in _factorized(layer, kernel, compute, sized=sized):
            evaluated = 0.0 if screens else 2.0 * (2 * per_axis - 1) ** 2 * matrix_side**2
            flops += count * (evaluated + 4.0 / 3.0 * matrix_side**3)
            total += count
    return total, flops


def _factorized(
    layer: Layer, kernel: torch.Tensor, compute: Compute, *, sized: bool
) -> list[tuple[int, int, bool]]:
    """Return (side, matrices, screens) of every batch of proofs in the audit of one layer.

    What screens the open centres takes the matrices that are there.
    """
    calls = []

    def counting(
        grams: torch.Tensor, error: torch.Tensor | float, bound: torch.Tensor | float
    ) -> torch.Tensor:
        """Note the shape and go on."""
        screens = isinstance(error, float) and error == 0
        calls.append((grams.shape[-1], math.prod(grams.shape[:-2]), screens))
        return proves_below(grams, error, bound)

    with (
        patch.object(certify, "proves_below", counting),
        patch.object(search, "proves_below", counting),
    ):
        _audit([layer], [kernel], compute, sized=sized)
    return calls


def _gemm_rate(options: Options) -> float:
    """Return the operations a second of a float64 matrix product, the best of three."""
    side = _QUICK_GEMM_SIDE if options.quick else _GEMM_SIDE
    matrix = torch.randn(side, side, dtype=torch.float64, device=options.compute.device)
    taken = min(seconds(lambda: matrix @ matrix, options.device)[0] for _ in range(4))
    return 2.0 * side**3 / taken
