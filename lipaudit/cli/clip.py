"""`lipaudit clip`: a copy that meets its limit."""

from typing import Annotated

import typer

from lipaudit.cli import options, streams
from lipaudit.cli.app import app
from lipaudit.cli.machine import Machine
from lipaudit.cli.meter import meter
from lipaudit.errors import ExitCode

OutputFile = Annotated[
    str, typer.Option("-o", "--output", metavar="OUT", help="The new file or folder.")
]
To = Annotated[float | None, typer.Option("--to", metavar="C", help="Largest norm of any layer.")]
Bound = Annotated[
    float | None,
    typer.Option(
        metavar="B",
        help="Largest bound of the whole network; the layers' limits are chosen for the "
        "least change. Folds batch norms.",
    ),
]
LimitsFile = Annotated[
    str | None, typer.Option(metavar="FILE.toml", help="Limits of single layers, by glob.")
]
Method = Annotated[
    str,
    typer.Option(
        metavar="project|scale|sedghi",
        help="The nearest weights; the weights times a number; the paper's single pass, "
        "which may miss the limit (exit 1).",
    ),
]
FoldBn = Annotated[
    bool, typer.Option("--fold-bn", help="Take a layer and the batch norm after it as one.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Measure the clipped copy, and throw it away.")
]


@app.command(epilog="Example: lipaudit clip model.pt --to 1.0 -o clipped.pt")
def clip(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Model file or folder.")],
    *,
    output: OutputFile,
    to: To = None,
    bound: Bound = None,
    limits: LimitsFile = None,
    method: Method = "project",
    fold_bn: FoldBn = False,
    layers: options.Layers = None,
    input_shape: options.InputShape = None,
    model: options.Model = None,
    hf: options.Hf = False,
    force: options.Force = False,
    dry_run: DryRun = False,
    report_format: options.Format = "table",
    reports: options.Reports = None,
    github_summary: options.GithubSummary = False,
    device: options.Device = "auto",
    max_memory: options.Memory = None,
    workers: options.Workers = None,
) -> None:
    """Write a copy whose layers, or which as a whole, provably meet a limit."""
    from lipaudit.cli.delivery import Delivery  # noqa: PLC0415 - keeps `--help` instant
    from lipaudit.formats.source import opened  # noqa: PLC0415 - the same

    delivery = Delivery(
        report_format, None, force, tuple(reports or ()), github_summary, taken=(output,)
    )
    delivery.check([path])
    with (
        meter(1) as shown,
        streams.about(path),
        Machine(device, None, workers, None, wait=None) as machine,
    ):
        opened(path)
        from lipaudit import api  # noqa: PLC0415 - torch is imported only for a file that is there

        report = api.clip(
            path,
            output=output,
            to=to,
            bound=bound,
            limits=limits,
            method=method,
            layers=layers,
            fold_bn=fold_bn,
            input_shape=options.input_shape(input_shape),
            model=model,
            hf=hf,
            force=force,
            dry_run=dry_run,
            max_memory=options.memory(max_memory),
            device=device,
            crew=machine.hire()["crew"],
            progress=shown.of(path),
            warn=streams.warn,
        )
    delivery.send([path], lambda reporter, canvas: reporter.clip(report, canvas))
    if not report.met:
        raise typer.Exit(int(ExitCode.GATE_FAILED))
