"""`lipaudit schema`: what the JSON report looks like, for those who read it with a program."""

from lipaudit.cli.app import app
from lipaudit.cli.delivery import deliver


@app.command(epilog="Example: lipaudit schema > lipaudit.schema.json")
def schema() -> None:
    """Print the JSON Schema of the JSON report."""
    from lipaudit.report import json  # noqa: PLC0415 - keeps `--help` instant

    deliver(json.schema())
