"""The command line: parse, call the API, print, exit. No mathematics.

A command is one file, which adds itself to the application. Nothing heavy is imported before
a command runs, so that `--help` and errors are instant.
"""

from lipaudit.cli import inspect, bound, clip  # isort: skip - the order of `--help`
from lipaudit.cli.app import app

COMMANDS = (inspect, bound, clip)

__all__ = ["COMMANDS", "app"]
