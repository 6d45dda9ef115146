"""Auditing: several files, one report, the worst exit code."""

from typing import TYPE_CHECKING

import typer

from lipaudit.cli import streams
from lipaudit.errors import ExitCode, LipauditError, worst

if TYPE_CHECKING:
    from collections.abc import Callable

    from lipaudit.gates.policy import Policy
    from lipaudit.report.base import Choice
    from lipaudit.results import Report


def audit(
    paths: list[str],
    examine: "Callable[[str, Callable[[str, float, int], None] | None], Report]",
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
                    reports.append(examine(path, progress))
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
