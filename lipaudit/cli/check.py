"""`lipaudit check`: the models of a project held against the limits of its config."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipaudit.cli import auditing, options, remembering, streams
from lipaudit.cli.app import app
from lipaudit.cli.machine import Machine
from lipaudit.errors import UsageError, WriteRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lipaudit.comparison import Snapshot
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
    workers: options.Workers = None,
    scheduler: options.Scheduler = None,
    cache: remembering.Cache = None,
    no_cache: remembering.NoCache = False,
) -> None:
    """Hold the models of a config against its limits."""
    from lipaudit.cli.delivery import Delivery  # noqa: PLC0415 - keeps `--help` instant
    from lipaudit.gates.config import Settings  # noqa: PLC0415 - the same
    from lipaudit.gates.orders import orders  # noqa: PLC0415 - the same
    from lipaudit.report.base import Choice  # noqa: PLC0415 - the same

    _check_variables(context)
    config = _config(config_file, baseline, device, options.memory(max_memory))
    overrides = Settings(
        max_bound=options.limit(max_bound, "--max"),
        max_norm=options.limit(max_norm, "--max-norm"),
        max_increase=options.increase(max_increase),
        input_shape=options.input_shape([input_shape] if input_shape else None),
        input_range=options.input_ranges([input_range]) if input_range else None,
        model=model,
        assume_sequential=assume_sequential,
    )
    work = orders(
        config, paths=tuple(models or ()), overrides=overrides, write_baseline=write_baseline
    )
    paths = [order.path for order in work]
    target = _target(config, paths, force=force) if write_baseline else None
    kept = _kept(target) if target is not None and models else {}
    taken = () if target is None else (target,)
    read = tuple(file for file in (config.file, config.baseline) if file)
    others = tuple(reports or ())
    delivery = Delivery(
        report_format, output, force, others, github_summary, taken=taken, sources=read
    )
    store = remembering.opened(cache, off=no_cache, configured=config.cache)
    policies = {order.path: order.policy for order in work}
    found: list[Report] = []

    def keep(report: "Report") -> None:
        if target is not None and not report.failures:
            _write_baseline(found, paths, target, kept)

    with Machine(config.device or "auto", store, workers, scheduler) as machine:
        drawn = "html" in delivery.formats
        examine = _examiner(work, found, machine, config.max_memory, spectra=drawn)
        auditing.audit(paths, examine, policies, Choice(), delivery, also=keep)


def _config(
    file: str | None, baseline: str | None, device: str | None, max_memory: int | None
) -> "Config":
    """Return the config, under what the command line says for all models."""
    from dataclasses import replace  # noqa: PLC0415 - keeps `--help` instant

    from lipaudit.gates import config_file  # noqa: PLC0415 - the same
    from lipaudit.gates.config import Config  # noqa: PLC0415 - the same

    config = config_file.load(file) or Config()
    return replace(
        config,
        baseline=baseline or config.baseline,
        device=device or config.device,
        max_memory=max_memory or config.max_memory,
    )


def _examiner(
    work: "Sequence[Order]",
    reports: "list[Report]",
    machine: Machine,
    max_memory: int | None,
    *,
    spectra: bool,
) -> "Callable[[str, Callable[[str, float, int], None] | None], Report]":
    """Return what audits one model by its path, and keeps the reports in the list."""
    by_path = {order.path: order for order in work}

    def examine(path: str, progress: "Callable[[str, float, int], None] | None") -> "Report":
        order = by_path[path]

        def anew(warn: remembering.Warn) -> "tuple[Report, remembering.Files]":
            from lipaudit import api  # noqa: PLC0415 - torch is imported only where it is needed

            settings = order.settings
            graph: dict[str, Any] = {"model": settings.model, "hf": bool(settings.hf)}
            source = api.load(path, input_shape=settings.input_shape, **graph)
            report = api.examine(
                order,
                source=source,
                max_memory=max_memory,
                spectra=spectra,  # the page draws them; no gate needs them
                progress=progress,
                warn=warn,
                **machine.settings(),
            )
            return report, source.fingerprints

        kept = None
        if order.settings.model is None and not order.settings.hf:  # own code is no data
            asked = {**_measured(order), "spectra": spectra, "max_memory": max_memory}
            kept = remembering.archive(machine.store, machine.device, {"check": asked})
        reports.append(remembering.audited(kept, path, anew))
        return reports[-1]

    return examine


def _measured(order: "Order") -> dict[str, Any]:
    """Return what of an order has to do with the report; the rest judges it."""
    settings = order.settings
    return {
        "bound": order.needs_bound,
        "input_shape": settings.input_shape,
        "input_range": settings.input_range,
        "executed": settings.executed,
        "input_radius": settings.input_radius,
        "limit": settings.max_bound,
        "constants": settings.constants,
    }


def _check_variables(context: typer.Context) -> None:
    """Warn of a misspelt variable: a limit that nobody reads gates nothing."""
    from lipaudit.gates.toml_table import suggestion  # noqa: PLC0415 - keeps `--help` instant

    known = {str(p.envvar) for p in context.command.params if p.envvar}
    for name in sorted(os.environ):
        if name.startswith(_VARIABLE) and name not in known:
            streams.warn(f"{name} is no variable of lipaudit check; {suggestion(name, known)}")


def _target(config: "Config", paths: "Sequence[str]", *, force: bool) -> str:
    """Return where the baseline is to be written; refuse to write over anything else."""
    from lipaudit.cli.delivery import check_output  # noqa: PLC0415 - keeps `--help` instant
    from lipaudit.gates import baseline  # noqa: PLC0415 - the same

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
    check_output(target, paths, force=True)
    return target


def _kept(target: str) -> "Mapping[str, Snapshot]":
    """Return what a baseline of which only some models are written anew knows."""
    from lipaudit.gates import baseline  # noqa: PLC0415 - keeps `--help` instant

    return baseline.read(target) if os.path.lexists(target) else {}


def _write_baseline(
    reports: "Sequence[Report]",
    paths: "Sequence[str]",
    target: str,
    kept: "Mapping[str, Snapshot]",
) -> None:
    """Write what was measured, beside what is kept of other models."""
    from lipaudit.cli.delivery import deliver  # noqa: PLC0415 - keeps `--help` instant
    from lipaudit.comparison import Snapshot  # noqa: PLC0415 - the same
    from lipaudit.gates import baseline  # noqa: PLC0415 - the same
    from lipaudit.version import __version__  # noqa: PLC0415 - the same

    snapshots = [Snapshot.of(model, __version__) for one in reports for model in one.models]
    for snapshot in snapshots:
        if snapshot.bound is None or not snapshot.bound.is_finite:
            streams.warn(f"{snapshot.path}: no finite bound; the baseline holds only its layers")
    written = baseline.text(snapshots, target, __version__, kept=kept)
    deliver(written, target, inputs=paths, force=True)
