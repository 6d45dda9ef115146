"""`lipaudit rules`: what is checked."""

from typing import Annotated

import typer

from lipaudit.cli import streams
from lipaudit.cli.app import app
from lipaudit.cli.delivery import deliver
from lipaudit.errors import UsageError


@app.command(epilog="Example: lipaudit rules -f json")
def rules(
    *,
    report_format: Annotated[
        str, typer.Option("-f", "--format", metavar="table|json", help="Output format.")
    ] = "table",
) -> None:
    """List the rules."""
    import json  # noqa: PLC0415 - keeps `--help` instant
    from dataclasses import asdict  # noqa: PLC0415 - the same

    from lipaudit.gates.catalog import INFOS  # noqa: PLC0415 - the same
    from lipaudit.report.page import Page  # noqa: PLC0415 - the same

    if report_format == "json":
        document = {"schema_version": 1, "rules": [asdict(info) for info in INFOS]}
        deliver(json.dumps(document, indent=2, ensure_ascii=True))
    elif report_format == "table":
        page = Page(streams.canvas(to_file=False))
        page.table(("rule", "what is wrong"), [(x.id, x.summary) for x in INFOS], right=set())
        page.say("lipaudit explain RULE says what it means and what helps")
        deliver(page.text())
    else:
        raise UsageError(f"no format {report_format!r}", slug="format", hint="table or json")
