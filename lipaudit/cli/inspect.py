"""`lipaudit inspect`: every layer measured."""

from functools import partial
from typing import TYPE_CHECKING, Any

from lipaudit.cli import auditing, drawings, options, remembering, streams
from lipaudit.cli.app import app
from lipaudit.cli.machine import Machine
from lipaudit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lipaudit.archive import Archive
    from lipaudit.gates.policy import Policy
    from lipaudit.results import LayerResult, Report, Skipped


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
    hf: options.Hf = False,
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
    workers: options.Workers = None,
    scheduler: options.Scheduler = None,
    wait: options.Wait = None,
    cache: remembering.Cache = None,
    cache_size: remembering.CacheSize = None,
    no_cache: remembering.NoCache = False,
) -> None:
    """Measure every layer: norm, ranks, share of the bound."""
    from lipaudit.cli.delivery import Delivery  # noqa: PLC0415 - keeps `--help` instant
    from lipaudit.report.base import Choice  # noqa: PLC0415 - the same

    options.check_sort(sort)
    if padding == "circular" and max_norm is not None:
        raise UsageError(
            "--max-norm judges the layers as they run",
            slug="padding",
            hint="leave --padding circular out",
        )
    policy = _policy(options.limit(max_norm, "--max-norm"), layers)
    extras = drawings.Drawings(paths, plots, plot_format, export, force=force)
    extras.check(spectra=spectra)
    asked: dict[str, Any] = {
        "input_shape": options.input_shape(input_shape),
        "layers": layers,
        "spectra": spectra,
        "by_svd": by_svd,
        "padding": padding,
        "power_steps": power_steps,
        "max_memory": options.memory(max_memory),
    }
    store = remembering.opened(cache, cache_size, off=no_cache)
    # Own code and another package are no data, and of whole spectra reports hold a summary.
    is_plain = model is None and not hf and export is None
    kept = remembering.archive(store, device, {"inspect": asked}) if is_plain else None
    others = tuple(reports or ())
    delivery = Delivery(report_format, output, force, others, github_summary, taken=extras.targets)
    choice = Choice(sort, top, plot)
    with Machine(device, store, workers, scheduler, wait=wait) as machine:
        show = streams.show if delivery.is_stream else None
        graph = {"model": model, "hf": hf}
        audit = _auditor(asked, kept, extras, (machine, show), graph)
        auditing.audit(paths, audit, policy, choice, delivery, also=extras.write)


def _auditor(
    asked: dict[str, Any],
    kept: "Archive | None",
    extras: drawings.Drawings,
    where: "tuple[Machine, Callable[[str, LayerResult | Skipped], None] | None]",
    graph: dict[str, Any],
) -> "Callable[[str, Callable[[str, float, int], None] | None], Report]":
    """Return what audits one model by its path, and who is told of every layer when it is done."""
    machine, show = where

    def audit(path: str, progress: "Callable[[str, float, int], None] | None") -> "Report":
        def anew(listener: remembering.Listener) -> "tuple[Report, remembering.Files]":
            from lipaudit import api  # noqa: PLC0415 - torch is imported only where it is needed

            settings = machine.hire()
            source = api.load(path, input_shape=asked["input_shape"], **graph)
            report = api.inspect(
                source,
                **asked,
                **settings,
                keep=extras.keeper(path),
                told=listener.told,
                progress=progress,
                warn=listener.warn,
            )
            return report, source.fingerprints

        tell = None if show is None else partial(show, path)
        return remembering.audited(kept, path, anew, tell)

    return audit


def _policy(limit: float | None, layers: str | None) -> "Policy":
    """Return a gate over the layers that were chosen; a glob that finds none must not pass."""
    from lipaudit.gates.policy import LayerLimit, Policy  # noqa: PLC0415 - keeps `--help` instant

    chosen = () if limit is None or layers is None else (LayerLimit(layers, limit),)
    return Policy(max_norm=limit, layer_limits=chosen)
