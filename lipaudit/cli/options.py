"""Options that several commands share, and how their text is read."""

import math
from typing import Annotated

import typer

from lipaudit.errors import UsageError
from lipaudit.gates import quantities
from lipaudit.report.names import NAMES

Paths = Annotated[list[str], typer.Argument(metavar="PATH...", help="Model files or folders.")]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="[NAME=]3x32x32",
        help="Shape of an input, without or with the batch axis. Repeat for several inputs.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="PKG.MOD:FACTORY",
        help="Your function that returns the module: gives a bare checkpoint its layer graph. "
        "This runs your code, never the file's.",
    ),
]
Hf = Annotated[
    bool,
    typer.Option(
        "--hf",
        help="Take the layer graph from the config.json beside the weights, by the code of the "
        "transformers package (extra 'hf'), offline.",
    ),
]
Layers = Annotated[
    str | None, typer.Option(metavar="GLOB", help="Only layers of these names, as in 'conv*,fc'.")
]
Sort = Annotated[
    str, typer.Option(metavar="name|norm|share|size|kind", help="Order of the layers.")
]
Top = Annotated[int | None, typer.Option(min=1, help="Show only the first N layers.")]
MaxBound = Annotated[
    float | None, typer.Option("--max", metavar="X", help="Gate: no bound above this.")
]
AssumeSequential = Annotated[
    bool,
    typer.Option(
        "--assume-sequential",
        help="Let the gate accept a chain that was assumed from a bare state dict.",
    ),
]
MaxNorm = Annotated[
    float | None, typer.Option(metavar="X", help="Gate: no layer's norm above this.")
]
Spectra = Annotated[bool, typer.Option("--spectra/--no-spectra", help="Whether to work out ranks.")]
AddedSpectra = Annotated[
    bool | None,
    typer.Option(
        "--spectra/--no-spectra", help="Whether to work out spectra too; html draws them."
    ),
]
Plot = Annotated[bool, typer.Option("--plot", help="Draw the spectra in the terminal.")]
Export = Annotated[
    str | None,
    typer.Option(metavar="FILE.npz", help="Write all singular values, by layer, as arrays."),
]
Plots = Annotated[
    str | None, typer.Option(metavar="DIR", help="Write every plot as a file into this folder.")
]
PlotFormat = Annotated[
    str, typer.Option("--plot-format", metavar="svg|png", help="Of --plots; png needs matplotlib.")
]
BySvd = Annotated[
    bool, typer.Option("--svd", help="Decompose and prove every spectrum, whatever it costs.")
]
Padding = Annotated[
    str,
    typer.Option(
        metavar="own|circular",
        help="Take every convolution as it pads, or as a circular one of its input's size.",
    ),
]
PowerSteps = Annotated[
    int | None,
    typer.Option(
        "--power-iteration", metavar="T", min=0, help="Also show T steps of it: an estimate."
    ),
]
Format = Annotated[
    str, typer.Option("-f", "--format", metavar="FORMAT", help=f"One of {', '.join(NAMES)}.")
]
Output = Annotated[
    str | None, typer.Option("-o", "--output", metavar="FILE", help="Write the report here.")
]
Reports = Annotated[
    list[str] | None,
    typer.Option(
        "--report",
        metavar="FORMAT=FILE",
        help="Also write the report like this; to - (stdout) where -o takes the other. Repeatable.",
    ),
]
GithubSummary = Annotated[
    bool, typer.Option("--github-summary", help="Also add it to the job summary of GitHub Actions.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output file.")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]", help="Where to compute.")]
Memory = Annotated[
    str | None, typer.Option("--max-memory", metavar="2G", help="Work space for one layer.")
]


Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=0, help="Measure N layers side by side, in processes; 0: one a core."
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="tcp://HOST:PORT|local", help="Let the workers of a Dask scheduler measure them."
    ),
]
Wait = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", min=0, help="How long the scheduler may have no worker (30)."),
]
Start = Annotated[
    str | None,
    typer.Option("--from", metavar="NODE", help="Only the part from what this node receives."),
]
End = Annotated[
    str | None, typer.Option("--to", metavar="NODE", help="Only the part up to what it yields.")
]
InputRange = Annotated[
    list[str] | None,
    typer.Option(
        "--input-range",
        metavar="[NAME=]LO,HI",
        help="Between which numbers every item of an input lies: makes gates, attention and "
        "quotients finite. Repeat for several inputs.",
    ),
]
Executed = Annotated[
    str | None,
    typer.Option(
        metavar="float32|float16|bfloat16",
        help="Also bound the error E of the network as it runs in this type.",
    ),
]
Radius = Annotated[
    float | None,
    typer.Option("--input-radius", metavar="R", help="Largest l2 norm of the inputs, for E."),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.npz",
        help="Inputs (and labels): starts of the lower bound, certified radii, typical stretch.",
    ),
]
Eps = Annotated[
    list[float] | None,
    typer.Option(metavar="E", help="Certified accuracy at this l2 distance. Repeat for several."),
]


def input_ranges(texts: list[str] | None) -> dict[str, tuple[float, float]]:
    """Read `0,1` and `name=0,1`; the unnamed one stands under ""."""
    found: dict[str, tuple[float, float]] = {}
    for text in texts or []:
        name, _, span = text.rpartition("=")
        ends = span.split(",")
        try:
            low, high = (float(end) for end in ends)
        except ValueError as error:
            raise UsageError(
                f"{text!r} is no range", slug="input-range", hint="write it like 0,1"
            ) from error
        if name in found:
            raise UsageError(
                "two ranges for one input", slug="input-name", hint="name them, as in NAME=0,1"
            )
        found[name] = (low, high)
    return found


def input_shape(texts: list[str] | None) -> dict[str, str] | None:
    """Read `3x32x32` and `name=3x32x32`; the unnamed one stands under ""."""
    if not texts:
        return None
    shapes: dict[str, str] = {}
    for text in texts:
        name, _, shape = text.rpartition("=")
        if name in shapes:
            raise UsageError(
                "two shapes for one input", slug="input-name", hint="name them, as in NAME=3x32x32"
            )
        shapes[name] = shape
    return shapes


def check_sort(order: str) -> None:
    """Refuse an order that there is not."""
    if order not in {"", "name", "norm", "share", "size", "kind"}:
        raise UsageError(
            f"cannot sort by {order!r}", slug="sort", hint="name, norm, share, size or kind"
        )


def memory(text: str | None) -> int | None:
    """Read `500M` or `2GB` as bytes."""
    if text is None:
        return None
    amount = quantities.memory(text)
    if amount is None:
        raise UsageError(f"{text!r} is no amount of memory", slug="memory", hint="write it like 2G")
    return amount


def limit(value: float | None, name: str) -> float | None:
    """Check that a limit is a number one can hold something against."""
    if value is not None and not (value >= 0 and math.isfinite(value)):
        raise UsageError(f"{name} {value} is no limit", slug="limit", hint="give a number >= 0")
    return value


def increase(text: str | None) -> float | None:
    """Read `5%` as 0.05."""
    share = quantities.percent(text) if text is not None else None
    if text is not None and share is None:
        raise UsageError(
            f"--max-increase {text!r} is no percentage", slug="limit", hint='write it like "5%"'
        )
    return share
