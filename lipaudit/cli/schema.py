"""`lipaudit schema`: what the JSON documents look like, for those who read them with a program."""

from typing import Annotated

import typer

from lipaudit.cli.app import app
from lipaudit.cli.delivery import deliver
from lipaudit.errors import UsageError


@app.command(epilog="Example: lipaudit schema > lipaudit.schema.json")
def schema(
    document: Annotated[
        str,
        typer.Argument(
            metavar="[report|diff|rules|doctor]",
            help="Of what: the reports of inspect, bound, clip and check, or another command.",
        ),
    ] = "report",
) -> None:
    """Print the JSON Schema of a JSON document."""
    from lipaudit.report import json  # noqa: PLC0415 - keeps `--help` instant

    if document not in json.SCHEMAS:
        raise UsageError(
            f"no schema of {document!r}", slug="schema", hint=f"there are {', '.join(json.SCHEMAS)}"
        )
    deliver(json.schema(document))
