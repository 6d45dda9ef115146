"""`lipaudit diff`: two models or reports side by side."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipaudit.cli import options, streams
from lipaudit.cli.app import app
from lipaudit.cli.delivery import check_output, deliver
from lipaudit.cli.machine import Machine
from lipaudit.cli.meter import meter
from lipaudit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lipaudit.comparison import Snapshot
    from lipaudit.gates.config import Settings


@app.command(epilog="Example: lipaudit diff before.json after.json --max-increase 5%")
def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="A model, or a JSON report.")],
    after: Annotated[str, typer.Argument(metavar="B", help="What it is compared with.")],
    *,
    max_increase: Annotated[
        str | None,
        typer.Option(metavar="5%", help="Gate: no bound and no norm may have grown by more."),
    ] = None,
    input_shape: options.InputShape = None,
    model: options.Model = None,
    hf: options.Hf = False,
    all_layers: Annotated[
        bool, typer.Option("--all", help="Also list the layers that are the same.")
    ] = False,
    report_format: Annotated[
        str,
        typer.Option("-f", "--format", metavar="table|json|markdown|html", help="Output format."),
    ] = "table",
    output: options.Output = None,
    force: options.Force = False,
    device: options.Device = "auto",
    max_memory: options.Memory = None,
    workers: options.Workers = None,
    scheduler: options.Scheduler = None,
    wait: options.Wait = None,
) -> None:
    """Show what changed between two models or JSON reports."""
    from lipaudit.gates.config import Settings  # noqa: PLC0415 - `--help` is instant
    from lipaudit.gates.differing import compare, exit_code  # noqa: PLC0415 - the same
    from lipaudit.gates.recorded import is_report, read  # noqa: PLC0415 - the same
    from lipaudit.report.comparing import FORMATS  # noqa: PLC0415 - the same

    if report_format not in FORMATS:
        raise UsageError(
            f"no format {report_format!r}", slug="format", hint=f"there are {', '.join(FORMATS)}"
        )
    check_output(output, (before, after), force=force)
    allowed = options.increase(max_increase)
    settings = Settings(input_shape=options.input_shape(input_shape), model=model, hf=hf or None)
    recorded = {path: read(path) for path in (before, after) if is_report(path)}
    # A model is measured the way the report it is compared with was.
    pattern = next(iter(recorded.values()), None)
    with Machine(device, None, workers, scheduler, wait=wait) as machine:
        way = _Way(settings, machine, options.memory(max_memory))
        sides = [
            (path, recorded[path] if path in recorded else way.measured(path, pattern))
            for path in (before, after)
        ]
    found = compare(sides[0], sides[1], allowed)
    canvas = streams.canvas(to_file=output is not None)
    text = FORMATS[report_format](found, canvas, all_layers)
    deliver(text, output, inputs=(before, after), force=force)
    raise typer.Exit(int(exit_code(found)))


class _Way:
    """How models are measured that are no reports yet."""

    def __init__(self, settings: "Settings", machine: Machine, room: int | None) -> None:
        self._settings, self._machine, self._room = settings, machine, room

    def measured(self, path: str, pattern: "Sequence[Snapshot] | None") -> "tuple[Snapshot, ...]":
        """Audit a model: its bound and its layers as stored, or as the pattern has them."""
        from lipaudit import api  # noqa: PLC0415 - two reports are compared without torch
        from lipaudit.comparison import Snapshot  # noqa: PLC0415 - the same
        from lipaudit.gates.orders import Order  # noqa: PLC0415 - the same
        from lipaudit.gates.policy import Policy  # noqa: PLC0415 - the same

        needs_bound = not pattern or any(one.bound is not None for one in pattern)
        settings = self._settings
        with meter(1) as shown, streams.about(path):
            common: dict[str, Any] = {
                **self._machine.hire(),
                "max_memory": self._room,
                "progress": shown.of(path),
                "warn": streams.warn,
            }
            if any(one.folded for one in pattern or ()):
                report = api.bound(
                    path,
                    input_shape=settings.input_shape,
                    model=settings.model,
                    hf=bool(settings.hf),
                    **common,
                )
            else:
                order = Order(path, settings, Policy(), needs_bound)
                report = api.examine(order, **common)
        return tuple(Snapshot.of(one, report.tool.version) for one in report.models)
