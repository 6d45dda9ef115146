"""Auditing: several files, one report, the worst exit code."""

from typing import TYPE_CHECKING

import typer

from lipaudit.cli import streams
from lipaudit.cli.meter import meter
from lipaudit.errors import ExitCode, LipauditError, worst

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lipaudit.cli.delivery import Delivery
    from lipaudit.gates.policy import Policy
    from lipaudit.report.base import Choice
    from lipaudit.results import Report


def audit(
    paths: list[str],
    examine: "Callable[[str, Callable[[str, float, int], None] | None], Report]",
    policy: "Policy | Mapping[str, Policy]",
    choice: "Choice",
    delivery: "Delivery",
    *,
    also: "Callable[[Report], None] | None" = None,
) -> None:
    """Audit every path, deliver one report in every wanted format, exit with the worst code.

    A model that cannot be read is a failure in the report; where none can be, the error lines
    have said it all and nothing is written. So it is where nobody is left to audit any.
    `also` gets the report before it is delivered, to write what was asked for besides: stdout
    may be a pipe that closes.
    """
    from dataclasses import replace  # noqa: PLC0415 - keeps `--help` instant

    from lipaudit.formats.source import opened  # noqa: PLC0415 - the same
    from lipaudit.gates.judge import judge  # noqa: PLC0415 - the same
    from lipaudit.results import Failure  # noqa: PLC0415 - the same

    delivery.check(paths)
    codes: list[ExitCode] = []
    reports: list[Report] = []
    failures: list[Failure] = []
    with meter(len(paths)) as shown:
        for path in paths:
            try:
                with streams.about(path):
                    opened(path)  # what is missing is said before torch is imported
                    reports.append(examine(path, shown.of(path)))
            except LipauditError as error:
                if error.ends_run:
                    raise
                streams.complain(error)
                codes.append(error.exit_code)
                code = int(error.exit_code)
                failures.append(Failure(path, error.slug, error.cause, error.hint, code))
    if reports:
        models = tuple(m for one in reports for m in one.models)
        report = replace(reports[0], models=models, failures=tuple(failures))
        verdict = judge(report, policy)
        codes.append(ExitCode(verdict.exit_code))
        # A file that could not be read passes no gate.
        passed = verdict.passed and worst(codes) is ExitCode.OK
        verdict = replace(verdict, exit_code=int(worst(codes)), passed=passed)
        if also is not None:
            also(report)
        delivery.send(
            paths, lambda reporter, canvas: reporter.audit(report, verdict, canvas, choice)
        )
    raise typer.Exit(int(worst(codes)))
