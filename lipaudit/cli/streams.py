"""Streams: stdout is data, stderr is progress and one error line."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lipaudit.errors import ExitCode, LipauditError, UsageError, WriteRefused
from lipaudit.report.names import NAMES
from lipaudit.report.text import LINE_LIMIT, short

if TYPE_CHECKING:
    from typing import TextIO

    from lipaudit.report.base import Canvas
    from lipaudit.results import LayerResult, Skipped

_PIPE_WIDTH = 120
"""Columns for a reader that is no terminal."""
_FILE_WIDTH = 140
_COERCED = frozenset({"C.UTF-8", "C.utf8", "UTF-8"})
_ASCII_LOCALES = frozenset({"C", "POSIX"})


def reopen() -> None:
    """Put something behind the streams that the caller closed.

    Else the next file that is opened would get their numbers, and their text. What is written
    to a closed stdout fails, as it should; nobody waits for a closed stderr.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number < 2 else os.O_WRONLY)  # the lowest free
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def complain(error: LipauditError) -> None:
    """Print the one error line; what a file puts into it may be a megabyte."""
    sys.stderr.write(f"lipaudit: error: {short(str(error), LINE_LIMIT)}\n")


def warn(text: str) -> None:
    """Print one line about something that was done another way than asked."""
    sys.stderr.write(f"lipaudit: warning: {short(text, LINE_LIMIT)}\n")


def canvas(*, to_file: bool) -> "Canvas":
    """Find out what the reader of the report can show."""
    from lipaudit.report.base import Canvas  # noqa: PLC0415 - keeps `--help` instant

    folder = str(Path.cwd())
    if to_file:
        return Canvas(width=_FILE_WIDTH, folder=folder)
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    return Canvas(
        width=_width(os.environ),
        colour=is_terminal(sys.stdout) and not os.environ.get("NO_COLOR"),
        unicode=encoding.startswith("utf") and not _asks_for_ascii(os.environ),
        folder=folder,
    )


def to_stdout(text: str) -> None:
    """Print data; end quietly if nobody reads it, with an error line if it cannot be kept."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        # Formats for programs are UTF-8 whatever the locale; the table was drawn to suit it.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise typer.Exit(silence_broken_pipe()) from None
    except OSError as error:
        silence_broken_pipe()
        raise WriteRefused(
            f"cannot be written: {error.strerror or error}",
            slug="write-failed",
            path="standard output",
        ) from error


def show(path: str, layer: "LayerResult | Skipped") -> None:
    """Print a layer of a model as soon as it is measured, for a stream of records."""
    from lipaudit.report import jsonl  # noqa: PLC0415 - keeps `--help` instant

    to_stdout(jsonl.ahead(path, layer))


def check_format(name: str) -> None:
    """Refuse an unknown report format before any work is done."""
    if name not in NAMES:
        raise UsageError(f"no format {name!r}", slug="format", hint=f"there are {', '.join(NAMES)}")


@contextlib.contextmanager
def about(path: str) -> "Iterator[None]":
    """Name the file in every error that does not name one itself."""
    try:
        yield
    except LipauditError as error:
        if not error.ends_run:
            error.path = error.path or path
        raise


def silence_broken_pipe() -> int:
    """Let Python's own flush at exit find nobody to write to, quietly."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(descriptor, sys.stdout.fileno())
    return int(ExitCode.CLOSED_PIPE)


def is_terminal(stream: "TextIO") -> bool:
    """Tell whether a person looks at it on a screen that can draw."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _width(environment: Mapping[str, str]) -> int:
    """Return how wide a table may be: as asked, as the terminal is, or a width for pipes."""
    asked = environment.get("COLUMNS", "")
    if asked.isascii() and asked.isdigit() and int(asked) > 0:
        return int(asked)
    # `lipaudit ... | less`: stdout is a pipe, but the terminal behind stderr is the reader's.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            columns = os.get_terminal_size(stream.fileno()).columns
            if columns > 0:
                return columns
    return _PIPE_WIDTH


def _asks_for_ascii(environment: Mapping[str, str]) -> bool:
    """Tell whether the user chose the C locale, which Python on its own turns into UTF-8."""
    if environment.get("PYTHONIOENCODING") or environment.get("PYTHONUTF8") == "1":
        return False
    names = [environment.get(key, "") for key in ("LC_ALL", "LC_CTYPE", "LANG")]
    # Python itself sets LC_CTYPE when it coerces a C locale (PEP 538).
    chosen = [name for at, name in enumerate(names) if name and not (at == 1 and name in _COERCED)]
    return bool(chosen) and chosen[0] in _ASCII_LOCALES
