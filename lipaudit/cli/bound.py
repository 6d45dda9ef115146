"""`lipaudit bound`: the whole network bounded."""

from typing import TYPE_CHECKING

from lipaudit.cli import auditing, options, streams
from lipaudit.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Callable

    from lipaudit.results import Report


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
    report_format: options.Format = "table",
    output: options.Output = None,
    reports: options.Reports = None,
    github_summary: options.GithubSummary = False,
    force: options.Force = False,
    device: options.Device = "auto",
    max_memory: options.Memory = None,
) -> None:
    """Bound the Lipschitz constant (l2) of the whole network."""
    from lipaudit import api  # noqa: PLC0415 - torch is imported only when a command runs
    from lipaudit.cli.delivery import Delivery  # noqa: PLC0415 - the same
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
    delivery = Delivery(
        report_format,
        output,
        force,
        tuple(reports or ()),
        github_summary,
        sources=() if data is None else (data,),
    )
    # The page draws them; the other formats show the bound alone.
    drawn = "html" in delivery.formats if spectra is None else spectra

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
            spectra=drawn,
            device=device,
            max_memory=room,
            progress=progress,
            warn=streams.warn,
        )

    auditing.audit(paths, audit, policy, Choice(), delivery)
