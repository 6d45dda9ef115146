"""`lipaudit clip`: a copy that meets its limit."""

from typing import Annotated

import typer

from lipaudit.cli import options, streams
from lipaudit.cli.app import app


@app.command(epilog="Example: lipaudit clip model.pt --to 1.0 -o clipped.pt")
def clip(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Model file or folder.")],
    *,
    to: Annotated[float, typer.Option("--to", metavar="C", help="Largest norm of any layer.")],
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="OUT", help="The new file or folder.")
    ],
    layers: options.Layers = None,
    input_shape: options.InputShape = None,
    model: options.Model = None,
    force: options.Force = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure the clipped copy, and throw it away.")
    ] = False,
    report_format: options.Format = "table",
    device: options.Device = "auto",
    max_memory: options.Memory = None,
) -> None:
    """Write a copy in which every layer's proved norm is at most C."""
    from lipaudit import api  # noqa: PLC0415 - torch is imported only when a command runs
    from lipaudit.report.catalog import REPORTERS  # noqa: PLC0415 - the same

    streams.check_format(report_format)
    with streams.progress() as progress, streams.about(path):
        report = api.clip(
            path,
            to=to,
            output=output,
            layers=layers,
            input_shape=options.input_shape(input_shape),
            model=model,
            force=force,
            dry_run=dry_run,
            device=device,
            max_memory=options.memory(max_memory),
            progress=progress,
            warn=streams.warn,
        )
    reporter = REPORTERS[report_format]
    streams.deliver(reporter.clip(report, streams.canvas(to_file=False)), None, force=False)
