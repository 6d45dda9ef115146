"""`lipaudit` and `python -m lipaudit`: run the command line, turn every end into an exit code."""

import os
import signal
import sys
import traceback
from pathlib import Path

try:
    import typer

    from lipaudit.cli import app, streams
    from lipaudit.errors import ExitCode, LipauditError, UnreadableFile, UsageError
except KeyboardInterrupt:  # nothing has begun that would have to be ended
    sys.exit(130)


def main() -> None:
    """Run the command line and exit."""
    streams.reopen()
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    _open_streams()
    code = _run()
    if code == ExitCode.INTERRUPTED:
        # Threads may be deep inside LAPACK; an ordinary exit would wait for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _open_streams() -> None:
    """Put something in the place of streams that the caller closed: there they are None.

    Else the next file that is opened would get their number. What is printed to a stdout that
    was closed is refused; an error line that nobody can read is dropped.
    """
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - for good
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for good


def _run() -> int:
    try:
        code = app(standalone_mode=False)
    except typer.Exit as done:
        code = done.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        return streams.silence_broken_pipe()
    except LipauditError as error:
        streams.complain(error)
        return int(error.exit_code)
    except Exception as error:  # noqa: BLE001 - the last line of defence
        return _unexpected(error)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return streams.silence_broken_pipe()
    return code if isinstance(code, int) else int(ExitCode.OK)


def _unexpected(error: Exception) -> int:
    message = getattr(error, "format_message", None)
    if message is not None:  # click's usage errors say what is wrong with the command line
        streams.complain(UsageError(message(), slug="usage", hint="see --help"))
        return int(ExitCode.ERROR)
    if isinstance(error, ImportError) and not (error.name or "").startswith("lipaudit"):
        cause = f"{error.name or 'a library'} cannot be imported: {error}"
        hint = "install lipaudit and torch anew, into one environment"
        streams.complain(UsageError(cause, slug="installation", hint=hint))
        return int(ExitCode.ERROR)
    if isinstance(error, OSError) and error.strerror:
        place = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
        streams.complain(UnreadableFile(error.strerror, slug="unreadable", path=place))
        return int(ExitCode.ERROR)
    traceback.print_exc()
    sys.stderr.write("lipaudit: internal error: this is a bug in lipaudit; please report it\n")
    return int(ExitCode.ERROR)


def _interrupt(_signal: int, _frame: object) -> None:
    # As on Ctrl-C: hidden folders are taken away on the way out.
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
