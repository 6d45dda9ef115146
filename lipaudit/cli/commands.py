"""The commands: inspect, bound, clip."""

from typing import TYPE_CHECKING, Annotated

import typer

from lipaudit.cli import options, streams
from lipaudit.errors import ExitCode, LipauditError, UsageError, worst
from lipaudit.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from lipaudit.gates.policy import Policy
    from lipaudit.report.base import Choice
    from lipaudit.results import Report

app = typer.Typer(
    name="lipaudit",
    help="Audit a neural network: exact layer spectra, proved norms, Lipschitz bounds, clipping.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"lipaudit {__version__}")
        raise typer.Exit


@app.callback()
def main(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Audit a neural network: exact layer spectra, proved norms, Lipschitz bounds, clipping."""


@app.command(epilog="Example: lipaudit inspect model.pt --sort norm --top 10")
def inspect(
    paths: options.Paths,
    *,
    input_shape: options.InputShape = None,
    layers: options.Layers = None,
    sort: options.Sort = "",
    top: options.Top = None,
    max_norm: options.MaxNorm = None,
    spectra: options.Spectra = True,
    by_svd: options.BySvd = False,
    padding: options.Padding = "own",
    power_steps: options.PowerSteps = None,
    model: options.Model = None,
    report_format: options.Format = "table",
    output: options.Output = None,
    force: options.Force = False,
    device: options.Device = "auto",
    max_memory: options.Memory = None,
) -> None:
    """Measure every layer: norm, ranks, share of the bound."""
    from lipaudit import api  # noqa: PLC0415 - torch is imported only when a command runs
    from lipaudit.gates.policy import Policy  # noqa: PLC0415 - the same
    from lipaudit.report.base import Choice  # noqa: PLC0415 - the same

    options.check_sort(sort)
    if padding == "circular" and max_norm is not None:
        raise UsageError(
            "--max-norm judges the layers as they run",
            slug="padding",
            hint="leave --padding circular out",
        )
    policy = Policy(max_norm=options.limit(max_norm, "--max-norm"))
    shape = options.input_shape(input_shape)
    room = options.memory(max_memory)

    def audit(path: str, progress: "Callable[[str, float, int], None] | None") -> "Report":
        return api.inspect(
            path,
            input_shape=shape,
            model=model,
            layers=layers,
            spectra=spectra,
            by_svd=by_svd,
            padding=padding,
            power_steps=power_steps,
            device=device,
            max_memory=room,
            progress=progress,
            warn=streams.warn,
        )

    _audit(
        paths,
        audit,
        policy,
        Choice(sort, top),
        report_format=report_format,
        output=output,
        force=force,
    )


@app.command(epilog="Example: lipaudit bound model.onnx --input-shape 3x32x32 --max 100")
def bound(
    paths: options.Paths,
    *,
    input_shape: options.InputShape = None,
    max_bound: Annotated[
        float | None, typer.Option("--max", metavar="X", help="Gate: no bound above this.")
    ] = None,
    max_norm: options.MaxNorm = None,
    assume_sequential: Annotated[
        bool,
        typer.Option(
            "--assume-sequential",
            help="Let the gate accept a chain that was assumed from a bare state dict.",
        ),
    ] = False,
    start: options.Start = None,
    end: options.End = None,
    input_range: options.InputRange = None,
    executed: options.Executed = None,
    input_radius: options.Radius = None,
    data: options.Data = None,
    eps: options.Eps = None,
    model: options.Model = None,
    report_format: options.Format = "table",
    output: options.Output = None,
    force: options.Force = False,
    device: options.Device = "auto",
    max_memory: options.Memory = None,
) -> None:
    """Bound the Lipschitz constant (l2) of the whole network."""
    from lipaudit import api  # noqa: PLC0415 - torch is imported only when a command runs
    from lipaudit.gates.policy import Policy  # noqa: PLC0415 - the same
    from lipaudit.report.base import Choice  # noqa: PLC0415 - the same

    policy = Policy(
        max_bound=options.limit(max_bound, "--max"),
        max_norm=options.limit(max_norm, "--max-norm"),
        accept_assumed=assume_sequential,
    )
    shape = options.input_shape(input_shape)
    spans = options.input_ranges(input_range)
    room = options.memory(max_memory)

    def audit(path: str, progress: "Callable[[str, float, int], None] | None") -> "Report":
        return api.bound(
            path,
            input_shape=shape,
            model=model,
            start=start,
            end=end,
            input_range=spans,
            executed=executed,
            input_radius=input_radius,
            data=data,
            eps=tuple(eps or ()),
            limit=policy.max_bound,
            device=device,
            max_memory=room,
            progress=progress,
            warn=streams.warn,
        )

    _audit(paths, audit, policy, Choice(), report_format=report_format, output=output, force=force)


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


def _audit(
    paths: list[str],
    audit: "Callable[[str, Callable[[str, float, int], None] | None], Report]",
    policy: "Policy",
    choice: "Choice",
    *,
    report_format: str,
    output: str | None,
    force: bool,
) -> None:
    """Audit every path, print one report, exit with the worst code."""
    from dataclasses import replace  # noqa: PLC0415 - keeps `--help` instant

    from lipaudit.gates.judge import judge  # noqa: PLC0415 - the same
    from lipaudit.report.catalog import REPORTERS  # noqa: PLC0415 - the same

    streams.check_format(report_format)
    codes: list[ExitCode] = []
    reports: list[Report] = []
    with streams.progress() as progress:
        for path in paths:
            try:
                with streams.about(path):
                    reports.append(audit(path, progress))
            except LipauditError as error:
                streams.complain(error)
                codes.append(error.exit_code)
    if reports:
        report = replace(reports[0], models=tuple(m for one in reports for m in one.models))
        verdict = judge(report, policy)
        codes.append(ExitCode(verdict.exit_code))
        # A file that could not be read passes no gate.
        passed = verdict.passed and worst(codes) is ExitCode.OK
        verdict = replace(verdict, exit_code=int(worst(codes)), passed=passed)
        canvas = streams.canvas(to_file=output is not None)
        text = REPORTERS[report_format].audit(report, verdict, canvas, choice)
        streams.deliver(text, output, force=force)
    raise typer.Exit(int(worst(codes)))
