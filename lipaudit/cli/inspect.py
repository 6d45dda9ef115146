"""`lipaudit inspect`: every layer measured."""

from typing import TYPE_CHECKING

from lipaudit.cli import auditing, drawings, options, streams
from lipaudit.cli.app import app
from lipaudit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lipaudit.results import Report


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
    plot: options.Plot = False,
    plots: options.Plots = None,
    plot_format: options.PlotFormat = "svg",
    export: options.Export = None,
    report_format: options.Format = "table",
    output: options.Output = None,
    reports: options.Reports = None,
    github_summary: options.GithubSummary = False,
    force: options.Force = False,
    device: options.Device = "auto",
    max_memory: options.Memory = None,
) -> None:
    """Measure every layer: norm, ranks, share of the bound."""
    from lipaudit import api  # noqa: PLC0415 - torch is imported only when a command runs
    from lipaudit.cli.delivery import Delivery  # noqa: PLC0415 - the same
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
    extras = drawings.Drawings(paths, plots, plot_format, export, force=force)
    extras.check(spectra=spectra)
    shape = options.input_shape(input_shape)
    room = options.memory(max_memory)

    def audit(path: str, progress: "Callable[[str, float, int], None] | None") -> "Report":
        return api.inspect(
            path,
            keep=extras.keeper(path),
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

    delivery = Delivery(
        report_format,
        output,
        force,
        tuple(reports or ()),
        github_summary,
        taken=extras.targets,
    )
    auditing.audit(paths, audit, policy, Choice(sort, top, plot), delivery, also=extras.write)
