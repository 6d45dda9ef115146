"""`lipaudit check`: the models of a project held against the limits of its config."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipaudit.cli import auditing, options, remembering, streams
from lipaudit.cli.app import app
from lipaudit.cli.machine import Machine
from lipaudit.errors import UsageError, WriteRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lipaudit.cli.delivery import Delivery
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
Hf = Annotated[
    bool | None,
    typer.Option(
        "--hf/--no-hf",
        envvar=f"{_VARIABLE}HF",
        help="Whether to take the layer graphs from the config.json beside the weights.",
        show_default=False,
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
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        envvar=f"{_VARIABLE}WORKERS",
        help="Measure N layers side by side, in processes; 0: one a core.",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="tcp://HOST:PORT|local",
        envvar=f"{_VARIABLE}SCHEDULER",
        help="Let the workers of a Dask scheduler measure them.",
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
    hf: Hf = None,
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
    workers: Workers = None,
    scheduler: Scheduler = None,
    wait: options.Wait = None,
    cache: remembering.Cache = None,
    cache_size: remembering.CacheSize = None,
    no_cache: remembering.NoCache = False,
) -> None:
    """Hold the models of a config against its limits."""
    from lipaudit.cli.delivery import Delivery  # noqa: PLC0415 - keeps `--help` instant
    from lipaudit.gates.config import Settings  # noqa: PLC0415 - the same
    from lipaudit.gates.orders import orders  # noqa: PLC0415 - the same

    _check_variables(context)
    memory = options.memory(max_memory)
    stated = {"max_memory": memory, "workers": workers, "scheduler": scheduler or None}
    config = _config(config_file, baseline=baseline or None, device=device or None, **stated)
    overrides = Settings(
        max_bound=options.limit(max_bound, "--max"),
        max_norm=options.limit(max_norm, "--max-norm"),
        max_increase=options.increase(max_increase),
        input_shape=options.input_shape([input_shape] if input_shape else None),
        input_range=options.input_ranges([input_range]) if input_range else None,
        model=model,
        hf=hf,
        assume_sequential=assume_sequential,
    )
    work = orders(
        config, paths=tuple(models or ()), overrides=overrides, write_baseline=write_baseline
    )
    paths = [order.path for order in work]
    target = _target(config, paths, force=force) if write_baseline else None
    taken = () if target is None else (target,)
    read = tuple(file for file in (config.file, config.baseline) if file)
    others = tuple(reports or ())
    delivery = Delivery(
        report_format, output, force, others, github_summary, taken=taken, sources=read
    )
    store = remembering.opened(cache, cache_size, off=no_cache, configured=config.cache)
    also = None
    if target is not None:
        kept = _kept(target) if models else {}
        also = partial(_write_baseline, paths=paths, target=target, kept=kept)
    with Machine(
        config.device or "auto", store, config.workers, config.scheduler, wait=wait
    ) as machine:
        _audit(work, machine, config.max_memory, delivery, also)


def _config(file: str | None, **stated: str | int | None) -> "Config":
    """Return the config, under what the command line says for all models: fields by their names."""
    from dataclasses import replace  # noqa: PLC0415 - keeps `--help` instant

    from lipaudit.gates import config_file  # noqa: PLC0415 - the same
    from lipaudit.gates.config import Config  # noqa: PLC0415 - the same

    config = config_file.load(file) or Config()
    above: dict[str, Any] = {name: value for name, value in stated.items() if value is not None}
    if {"workers", "scheduler"} & above.keys():
        # One answer to who measures: --workers 2 is not for the config's scheduler.
        config = replace(config, workers=None, scheduler=None)
    return replace(config, **above)


def _audit(
    work: "Sequence[Order]",
    machine: Machine,
    max_memory: int | None,
    delivery: "Delivery",
    also: "Callable[[Report], None] | None",
) -> None:
    """Audit every model that is ordered, and deliver the report."""
    from lipaudit.report.base import Choice  # noqa: PLC0415 - keeps `--help` instant

    examine = _examiner(work, machine, max_memory, delivery)
    policies = {order.path: order.policy for order in work}
    auditing.audit(list(policies), examine, policies, Choice(), delivery, also=also)


def _examiner(
    work: "Sequence[Order]",
    machine: Machine,
    max_memory: int | None,
    delivery: "Delivery",
) -> "Callable[[str, Callable[[str, float, int], None] | None], Report]":
    """Return what audits one model by its path."""
    by_path = {order.path: order for order in work}
    spectra = "html" in delivery.formats  # the page draws them; no gate needs them

    def examine(path: str, progress: "Callable[[str, float, int], None] | None") -> "Report":
        order = by_path[path]

        def anew(listener: remembering.Listener) -> "tuple[Report, remembering.Files]":
            from lipaudit import api  # noqa: PLC0415 - torch is imported only where it is needed

            beside = machine.hire()
            settings = order.settings
            graph: dict[str, Any] = {"model": settings.model, "hf": bool(settings.hf)}
            source = api.load(path, input_shape=settings.input_shape, **graph)
            report = api.examine(
                order,
                source=source,
                max_memory=max_memory,
                spectra=spectra,
                told=listener.told,
                progress=progress,
                warn=listener.warn,
                **beside,
            )
            return report, source.fingerprints

        kept = None
        if order.settings.model is None and not order.settings.hf:  # own code is no data
            asked = {**_measured(order), "spectra": spectra, "max_memory": max_memory}
            kept = remembering.archive(machine.store, machine.device, {"check": asked})
        tell = partial(streams.show, path) if delivery.is_stream else None
        return remembering.audited(kept, path, anew, tell)

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
    report: "Report",
    paths: "Sequence[str]",
    target: str,
    kept: "Mapping[str, Snapshot]",
) -> None:
    """Write what was measured, unless something was not, beside what is kept of other models."""
    from lipaudit.cli.delivery import deliver  # noqa: PLC0415 - keeps `--help` instant
    from lipaudit.comparison import Snapshot  # noqa: PLC0415 - the same
    from lipaudit.gates import baseline  # noqa: PLC0415 - the same
    from lipaudit.version import __version__  # noqa: PLC0415 - the same

    if report.failures:
        return
    snapshots = [Snapshot.of(model, __version__) for model in report.models]
    for snapshot in snapshots:
        if snapshot.bound is None or not snapshot.bound.is_finite:
            streams.warn(f"{snapshot.path}: no finite bound; the baseline holds only its layers")
    written = baseline.text(snapshots, target, __version__, kept=kept)
    deliver(written, target, inputs=paths, force=True)
