"""The published packages, where they are installed: deel-torchlip and orthogonium.

They are no dependencies: what is missing is named and left out. Both measure norms in order to
train with them, so their numbers are estimates made to be cheap, or bounds of known looseness.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Literal

import torch
from cases import Options, gaussian, our_norm
from report import ratio_cell, table, time_cell
from timing import Contestant, race

TITLE = "Published packages: the norm of a 3x3 convolution"
_CHANNELS = (16, 32, 64)
_SIZE = 32
_POWER_STEPS = 100
_ZERO_STEPS = 4
"""orthogonium's own default; the support of its iterated kernel doubles with each."""
_CIRCULAR_STEPS = 6


@dataclass(frozen=True, slots=True)
class Row:
    """One package on one kernel. Times are seconds."""

    method: str
    channels: int
    seconds: float
    least: float
    ours: float
    excess: float
    """Its value over lipaudit's proved upper end, less 1; negative: it is below that end."""


Method = Callable[[torch.Tensor], float]


def measure(options: Options) -> list[Row]:
    """Time every package that can be imported."""
    channels = _CHANNELS[:1] if options.quick else _CHANNELS
    methods = {**_torchlip(), **_orthogonium()}
    return [row for c in channels for row in _measured(c, methods, options)] if methods else []


def markdown(rows: list[Row]) -> str:
    """Return the table and what its columns mean."""
    header = ("method", "channels", "seconds", "lipaudit s", "/ ours", "value over our upper end")
    lines = table(
        header,
        (
            (
                row.method,
                str(row.channels),
                time_cell(row.seconds, row.least),
                f"{row.ours:.3g}",
                ratio_cell(row.seconds, row.ours),
                f"{row.excess:+.1e}",
            )
            for row in rows
        ),
    )
    return (
        f"{lines}\n\n"
        f"Gaussian kernels. torchlip: {_POWER_STEPS} power steps on the reshaped kernel, over its "
        f"factor for convolutions. orthogonium: {_ZERO_STEPS} Gram iterations for zero padding, "
        f"{_CIRCULAR_STEPS} for circular padding on {_SIZE}x{_SIZE}, whose norm may be less than "
        "that for any size."
    )


def _measured(channels: int, methods: dict[str, Method], options: Options) -> list[Row]:
    """Time all packages on one kernel."""
    kernel, compute = gaussian(channels, 3), options.compute
    on_device = kernel.to(compute.device)
    contestants = [Contestant("ours", lambda: our_norm(kernel, compute))]
    for name, method in methods.items():
        contestants.append(Contestant(name, partial(method, on_device)))
    timings = race(contestants, device=options.device, repeats=options.repeats, limit=options.limit)
    ours = timings.pop("ours")
    return [
        Row(
            method=name,
            channels=channels,
            seconds=timing.median,
            least=timing.least,
            ours=ours.median,
            excess=timing.result / ours.result.enclosure.upper - 1.0,
        )
        for name, timing in timings.items()
    ]


def _torchlip() -> dict[str, Method]:
    """Return what deel-torchlip normalizes a SpectralConv2d by."""
    normalizers = _imported("deel.torchlip.normalizers", "deel-torchlip")
    if normalizers is None:
        return {}
    factors = importlib.import_module("deel.torchlip.utils.lconv_norm")

    def norm(kernel: torch.Tensor) -> float:
        """Return sigma over torchlip's factor."""
        # Its own start vector would be float32.
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(1, kernel[0].numel(), generator=generator, dtype=kernel.dtype)
        _, _, sigma = normalizers.spectral_normalization(
            kernel.flatten(1), start.to(kernel.device), eps=0.0, maxiter=_POWER_STEPS
        )
        return float(sigma) / float(factors.compute_lconv_coef(tuple(kernel.shape[2:])))

    return {"deel-torchlip": norm}


def _orthogonium() -> dict[str, Method]:
    """Return orthogonium's two bounds (Delattre et al. 2023 and 2024)."""
    found = _imported("orthogonium.layers.conv.singular_values", "orthogonium")
    if found is None:
        return {}

    def norm(kernel: torch.Tensor, mode: Literal["zeros", "circular"], steps: int) -> float:
        """Return the value for a plain convolution of this kernel."""
        out, inputs, side, _ = kernel.shape
        layer = torch.nn.Conv2d(inputs, out, side, padding=side // 2, padding_mode=mode)
        layer.weight = torch.nn.Parameter(kernel, requires_grad=False)
        value = found.get_conv_sv(layer, n_iter=steps, return_stab_rank=False, imsize=_SIZE)
        return float(value)

    return {
        "orthogonium, zeros": lambda kernel: norm(kernel, "zeros", _ZERO_STEPS),
        "orthogonium, circular": lambda kernel: norm(kernel, "circular", _CIRCULAR_STEPS),
    }


def _imported(module: str, package: str) -> ModuleType | None:
    """Return a module, or say which package is not there."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        print(f"left out: {package} ({error})")
        return None
