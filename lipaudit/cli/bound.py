"""`lipaudit bound`: the whole network bounded."""

from functools import partial
from typing import TYPE_CHECKING, Any

from lipaudit.cli import auditing, options, remembering, streams
from lipaudit.cli.app import app
from lipaudit.cli.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from lipaudit.archive import Archive
    from lipaudit.results import LayerResult, Report, Skipped


@app.command(epilog="Example: lipaudit bound model.onnx --input-shape 3x32x32 --max 100")
def bound(
    paths: options.Paths,
    *,
    input_shape: options.InputShape = None,
    max_bound: options.MaxBound = None,
    max_norm: options.MaxNorm = None,
    assume_sequential: options.AssumeSequential = False,
    start: options.Start = None,
    end: options.End = None,
    input_range: options.InputRange = None,
    executed: options.Executed = None,
    input_radius: options.Radius = None,
    data: options.Data = None,
    eps: options.Eps = None,
    spectra: options.AddedSpectra = None,
    model: options.Model = None,
    hf: options.Hf = False,
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
    """Bound the Lipschitz constant (l2) of the whole network."""
    from lipaudit.cli.delivery import Delivery  # noqa: PLC0415 - keeps `--help` instant
    from lipaudit.gates.policy import Policy  # noqa: PLC0415 - the same
    from lipaudit.report.base import Choice  # noqa: PLC0415 - the same

    policy = Policy(
        max_bound=options.limit(max_bound, "--max"),
        max_norm=options.limit(max_norm, "--max-norm"),
        accept_assumed=assume_sequential,
    )
    read = () if data is None else (data,)
    delivery = Delivery(
        report_format, output, force, tuple(reports or ()), github_summary, sources=read
    )
    asked: dict[str, Any] = {
        "input_shape": options.input_shape(input_shape),
        "start": start,
        "end": end,
        "input_range": options.input_ranges(input_range),
        "executed": executed,
        "input_radius": input_radius,
        "data": data,
        "eps": tuple(eps or ()),
        "limit": policy.max_bound,
        # The page draws them; the other formats show the bound alone.
        "spectra": "html" in delivery.formats if spectra is None else spectra,
        "max_memory": options.memory(max_memory),
    }
    store = remembering.opened(cache, cache_size, off=no_cache)
    kept = None
    if model is None and not hf:  # own code and another package are no data
        kept = remembering.archive(store, device, {"bound": asked}, read)
    with Machine(device, store, workers, scheduler, wait=wait) as machine:
        show = streams.show if delivery.is_stream else None
        audit = _auditor(asked, kept, (machine, show), {"model": model, "hf": hf})
        auditing.audit(paths, audit, policy, Choice(), delivery)


def _auditor(
    asked: dict[str, Any],
    kept: "Archive | None",
    where: "tuple[Machine, Callable[[str, LayerResult | Skipped], None] | None]",
    graph: dict[str, Any],
) -> "Callable[[str, Callable[[str, float, int], None] | None], Report]":
    """Return what audits one model by its path, and who is told of every layer when it is done.

    `graph` says where the model's graph comes from.
    """
    machine, show = where

    def audit(path: str, progress: "Callable[[str, float, int], None] | None") -> "Report":
        def anew(listener: remembering.Listener) -> "tuple[Report, remembering.Files]":
            from lipaudit import api  # noqa: PLC0415 - torch is imported only where it is needed

            beside = machine.hire()
            source = api.load(path, input_shape=asked["input_shape"], **graph)
            report = api.bound(
                source,
                **asked,
                **beside,
                told=listener.told,
                progress=progress,
                warn=listener.warn,
            )
            return report, source.fingerprints

        tell = None if show is None else partial(show, path)
        return remembering.audited(kept, path, anew, tell)

    return audit
