"""Streams: stdout is data, stderr is progress and one error line."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lipaudit.errors import ExitCode, LipauditError, UsageError, WriteRefused
from lipaudit.report.text import safe

if TYPE_CHECKING:
    from collections.abc import Callable

    from lipaudit.report.base import Canvas

_DEFAULT_WIDTH = 100


def complain(error: LipauditError) -> None:
    """Print the one error line."""
    sys.stderr.write(f"lipaudit: error: {safe(str(error))}\n")


def warn(text: str) -> None:
    """Print one line about something that was done another way than asked."""
    sys.stderr.write(f"lipaudit: warning: {safe(text)}\n")


def canvas(*, to_file: bool) -> "Canvas":
    """Find out what stdout can show."""
    from lipaudit.report.base import Canvas  # noqa: PLC0415 - keeps `--help` instant

    terminal = sys.stdout.isatty() and not to_file
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    width = int(os.environ.get("COLUMNS") or 0)
    if width <= 0:
        width = shutil.get_terminal_size((_DEFAULT_WIDTH, 24)).columns
    return Canvas(
        width=width,
        colour=terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        unicode=to_file or encoding.startswith("utf"),
    )


def deliver(text: str, output: str | None, *, force: bool) -> None:
    """Print a report, or write it to a file that appears whole."""
    if output is None:
        try:
            sys.stdout.write(text if text.endswith("\n") else text + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            raise typer.Exit(silence_broken_pipe()) from None
        return
    target = Path(output)
    if os.path.lexists(target) and not force:
        raise WriteRefused(
            "exists already", slug="write-exists", path=output, hint="use --force to replace it"
        )
    try:
        descriptor, name = tempfile.mkstemp(prefix=".lipaudit-", dir=target.absolute().parent)
        staged = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as out:
                out.write(text if text.endswith("\n") else text + "\n")
                out.flush()
                os.fsync(out.fileno())
            staged.chmod(0o666 & ~_umask())
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)
    except OSError as error:
        cause = f"cannot be written: {error.strerror or error}"
        raise WriteRefused(cause, slug="write-failed", path=output) from error


def check_format(name: str) -> None:
    """Refuse an unknown report format before any work is done."""
    from lipaudit.report.catalog import REPORTERS  # noqa: PLC0415 - keeps `--help` instant

    if name not in REPORTERS:
        raise UsageError(
            f"no format {name!r}", slug="format", hint=f"there are {', '.join(REPORTERS)}"
        )


@contextlib.contextmanager
def about(path: str) -> "Iterator[None]":
    """Name the file in every error that does not name one itself."""
    try:
        yield
    except LipauditError as error:
        error.path = error.path or path
        raise


@contextlib.contextmanager
def progress() -> "Iterator[Callable[[str, float, int], None] | None]":
    """Show which layer is being measured, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 - keeps `--help` instant
    from rich.progress import Progress  # noqa: PLC0415 - the same

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(name: str, done: float, total: int) -> None:
            description = safe(name)[:40].replace("[", "\\[")
            bar.update(task, description=description, completed=done, total=total)

        yield show


def silence_broken_pipe() -> int:
    """Let Python's own flush at exit find nobody to write to, quietly."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(descriptor, sys.stdout.fileno())
    return int(ExitCode.CLOSED_PIPE)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
