"""The application: what `lipaudit` is called with, before any command."""

from pathlib import Path
from typing import Annotated

import typer

from lipaudit.errors import UsageError
from lipaudit.version import __version__

app = typer.Typer(
    name="lipaudit",
    help="Audit a neural network: exact layer spectra, proved norms, Lipschitz bounds, clipping.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"lipaudit {__version__}")
        raise typer.Exit


@app.callback()
def main(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Audit a neural network: exact layer spectra, proved norms, Lipschitz bounds, clipping."""
    try:
        Path.cwd()
    except OSError as error:
        # The linear algebra below torch ends the process in such a place.
        raise UsageError(
            f"the working directory cannot be used: {error.strerror}",
            slug="folder-gone",
            hint="cd into a folder that exists",
        ) from error
