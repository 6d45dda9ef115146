"""`lipaudit cache`: where results are kept, how much there is, and away with it."""

from enum import StrEnum
from typing import Annotated

import typer

from lipaudit.cli import remembering
from lipaudit.cli.app import app
from lipaudit.cli.delivery import deliver


class Action(StrEnum):
    """What is to be done with it."""

    SHOW = "show"
    CLEAR = "clear"


@app.command(epilog="Example: lipaudit cache clear")
def cache(
    action: Annotated[Action, typer.Argument(help="What to do with it.")] = Action.SHOW,
    *,
    folder: remembering.Cache = None,
    size: remembering.CacheSize = None,
) -> None:
    """Show where results are kept for the next run, or clear them away."""
    from lipaudit.gates import config_file  # noqa: PLC0415 - keeps `--help` instant
    from lipaudit.report.text import safe  # noqa: PLC0415 - the same

    config = config_file.load()
    configured = None if config is None else config.cache
    store = remembering.opened(folder, size, configured=configured)
    if store is not None and action is Action.CLEAR:
        store.clear()
    deliver(safe(remembering.described(remembering.state(store))))
