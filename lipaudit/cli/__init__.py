"""The command line: parse, call the API, print, exit. No mathematics.

A command is one file, which adds itself to the application. Nothing heavy is imported before
a command runs, so that `--help` and errors are instant.
"""

from lipaudit.cli import (  # isort: skip - the order of `--help`
    inspect,
    bound,
    clip,
    check,
    diff,
    explain,
    rules,
    schema,
    cache,
    doctor,
)
from lipaudit.cli.app import app

COMMANDS = (inspect, bound, clip, check, diff, explain, rules, schema, cache, doctor)

__all__ = ["COMMANDS", "app"]
