"""The command line: parse, call the API, print, exit. No mathematics.

Nothing heavy is imported before a command runs, so that `--help` and errors are instant.
"""

from lipaudit.cli.commands import app

__all__ = ["app"]
