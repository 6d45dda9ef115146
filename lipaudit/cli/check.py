"""`lipaudit check`: the models of a project held against the limits of its config."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lipaudit.cli import auditing, options, streams
from lipaudit.cli.app import app
from lipaudit.errors import ExitCode, UsageError, WriteRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lipaudit.gates.config import Config
    from lipaudit.gates.orders import Order
    from lipaudit.results import Report

_VARIABLE = "LIPAUDIT_"
Paths = Annotated[
    list[str] | None,
    typer.Argument(metavar="PATH", help="Only these models; else all that the config names."),
]
ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        envvar=f"{_VARIABLE}CONFIG",
        help="A lipaudit.toml or pyproject.toml; else the nearest one from here upward.",
    ),
]
MaxBound = Annotated[
    float | None,
    typer.Option(
        "--max",
        metavar="X",
        envvar=f"{_VARIABLE}MAX_BOUND",
        help="Gate: no bound above this.",
    ),
]
MaxNorm = Annotated[
    float | None,
    typer.Option(
        metavar="X", envvar=f"{_VARIABLE}MAX_NORM", help="Gate: no layer's norm above this."
    ),
]
InputShape = Annotated[
    str | None,
    typer.Option(
        metavar="3x32x32",
        envvar=f"{_VARIABLE}INPUT_SHAPE",
        help="Shape of the input of every model.",
    ),
]
InputRange = Annotated[
    str | None,
    typer.Option(
        metavar="LO,HI",
        envvar=f"{_VARIABLE}INPUT_RANGE",
        help="Between which numbers the items of every input lie.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="PKG.MOD:FACTORY",
        envvar=f"{_VARIABLE}MODEL",
        help="Your function that returns the module, for all models.",
    ),
]
Assume = Annotated[
    bool | None,
    typer.Option(
        "--assume-sequential/--no-assume-sequential",
        envvar=f"{_VARIABLE}ASSUME_SEQUENTIAL",
        help="Whether a chain that was assumed from a bare state dict may pass.",
        show_default=False,
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        envvar=f"{_VARIABLE}BASELINE",
        help="Gate: nothing may have grown since this was written.",
    ),
]
Increase = Annotated[
    str | None,
    typer.Option(
        metavar="5%",
        envvar=f"{_VARIABLE}MAX_INCREASE",
        help="By how much it may have grown all the same.",
    ),
]
WriteBaseline = Annotated[
    bool,
    typer.Option(
        "--write-baseline", help="Write what is measured to the baseline, and compare with none."
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="auto|cpu|cuda[:N]", envvar=f"{_VARIABLE}DEVICE", help="Where to compute."
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="2G",
        envvar=f"{_VARIABLE}MAX_MEMORY",
        help="Work space for one layer.",
    ),
]


@app.command(epilog="Example: lipaudit check --config lipaudit.toml")
def check(
    context: typer.Context,
    models: Paths = None,
    *,
    config_file: ConfigFile = None,
    max_bound: MaxBound = None,
    max_norm: MaxNorm = None,
    input_shape: InputShape = None,
    input_range: InputRange = None,
    model: Model = None,
    assume_sequential: Assume = None,
    baseline: Baseline = None,
    max_increase: Increase = None,
    write_baseline: WriteBaseline = False,
    report_format: options.Format = "table",
    output: options.Output = None,
    reports: options.Reports = None,
    github_summary: options.GithubSummary = False,
    force: options.Force = False,
    device: Device = None,
    max_memory: Memory = None,
) -> None:
    """Hold the models of a config against its limits."""
    from dataclasses import replace  # noqa: PLC0415 - keeps `--help` instant

    from lipaudit.cli.delivery import Delivery  # noqa: PLC0415 - the same
    from lipaudit.gates import config_file as files  # noqa: PLC0415 - the same
    from lipaudit.gates.config import Config, Settings  # noqa: PLC0415 - the same
    from lipaudit.gates.orders import orders  # noqa: PLC0415 - the same
    from lipaudit.report.base import Choice  # noqa: PLC0415 - the same

    _check_variables(context)
    config = files.load(config_file) or Config()
    config = replace(
        config,
        baseline=baseline or config.baseline,
        device=device or config.device,
        max_memory=options.memory(max_memory) or config.max_memory,
    )
    overrides = Settings(
        max_bound=options.limit(max_bound, "--max"),
        max_norm=options.limit(max_norm, "--max-norm"),
        max_increase=options.increase(max_increase),
        input_shape=options.input_shape([input_shape] if input_shape else None),
        input_range=options.input_ranges([input_range]) if input_range else None,
        model=model,
        assume_sequential=assume_sequential,
    )
    target = _target(config, force=force) if write_baseline else None
    work = orders(
        config, paths=tuple(models or ()), overrides=overrides, write_baseline=write_baseline
    )
    delivery = Delivery(
        report_format,
        output,
        force,
        tuple(reports or ()),
        github_summary,
        taken=() if target is None else (target,),
        sources=tuple(file for file in (config.file, config.baseline) if file),
    )
    examine, found = _examiner(config, work, spectra="html" in delivery.formats)
    paths = [order.path for order in work]
    policies = {order.path: order.policy for order in work}
    try:
        auditing.audit(paths, examine, policies, Choice(), delivery)
    except typer.Exit as done:
        if target is not None and done.exit_code != ExitCode.ERROR:
            _write_baseline(found, paths, target, partly=bool(models))
        raise


def _examiner(
    config: "Config", work: "Sequence[Order]", *, spectra: bool
) -> "tuple[Callable[[str, Callable[[str, float, int], None] | None], Report], list[Report]]":
    """Return what audits one model by its path, and the list in which it keeps the reports."""
    from lipaudit import api  # noqa: PLC0415 - torch is imported only when a command runs

    by_path = {order.path: order for order in work}
    reports: list[Report] = []

    def examine(path: str, progress: "Callable[[str, float, int], None] | None") -> "Report":
        report = api.examine(
            by_path[path],
            device=config.device or "auto",
            max_memory=config.max_memory,
            spectra=spectra,  # the page draws them; no gate needs them
            progress=progress,
            warn=streams.warn,
        )
        reports.append(report)
        return report

    return examine, reports


def _check_variables(context: typer.Context) -> None:
    """Warn of a misspelt variable: a limit that nobody reads gates nothing."""
    from lipaudit.gates.toml_table import suggestion  # noqa: PLC0415 - keeps `--help` instant

    known = {str(p.envvar) for p in context.command.params if p.envvar}
    for name in sorted(os.environ):
        if name.startswith(_VARIABLE) and name not in known:
            streams.warn(f"{name} is no variable of lipaudit check; {suggestion(name, known)}")


def _target(config: "Config", *, force: bool) -> str:
    """Return where the baseline is to be written; refuse to write over anything else."""
    from lipaudit.gates import baseline  # noqa: PLC0415 - keeps `--help` instant

    target = config.baseline or str(Path(config.folder) / baseline.FILE)
    if os.path.lexists(target) and not force and not baseline.is_baseline(target):
        raise WriteRefused(
            "exists and is no baseline",
            slug="write-exists",
            path=target,
            hint="use --force to replace it",
        )
    if config.file and os.path.realpath(target) == os.path.realpath(config.file):
        raise WriteRefused("is the config itself", slug="write-input", path=target)
    if not Path(target).absolute().parent.is_dir():
        raise UsageError("its folder does not exist", slug="baseline-folder", path=target)
    return target


def _write_baseline(
    reports: "Sequence[Report]", paths: "Sequence[str]", target: str, *, partly: bool
) -> None:
    """Write what was measured; of some models only, beside what the baseline knows of others."""
    from lipaudit.cli.delivery import deliver  # noqa: PLC0415 - keeps `--help` instant
    from lipaudit.comparison import Snapshot  # noqa: PLC0415 - the same
    from lipaudit.gates import baseline  # noqa: PLC0415 - the same
    from lipaudit.version import __version__  # noqa: PLC0415 - the same

    snapshots = [Snapshot.of(model, __version__) for one in reports for model in one.models]
    for snapshot in snapshots:
        if snapshot.bound is None or not snapshot.bound.is_finite:
            streams.warn(f"{snapshot.path}: no finite bound; the baseline holds only its layers")
    kept = baseline.read(target) if partly and os.path.lexists(target) else {}
    written = baseline.text(snapshots, target, __version__, kept=kept)
    deliver(written, target, inputs=paths, force=True)
