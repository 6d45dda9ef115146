"""The generated blocks of a Markdown file: written from the code, checked for freshness.

    python docs/blocks.py README.md           rewrite the blocks
    python docs/blocks.py --check README.md   exit 1 if one is stale

A block stands between `<!-- block: NAME -->` and `<!-- end -->`.
"""

import argparse
import contextlib
import inspect
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from typer.testing import CliRunner

from lipaudit.analysis.bounds.catalog import registered as methods
from lipaudit.cli import app
from lipaudit.errors import ExitCode
from lipaudit.formats.catalog import registered
from lipaudit.gates.catalog import INFOS
from lipaudit.layers.catalog import all_kinds
from lipaudit.report.catalog import NAMES, REPORTERS

BLOCK = re.compile(r"(<!-- block: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

BAR = r"\|"
"""A bar inside a table cell."""

MEANINGS = {
    ExitCode.OK: "done; every requested gate proven to hold",
    ExitCode.GATE_FAILED: "a gate fails, or the file is built to run code",
    ExitCode.ERROR: "usage, unreadable or unsafe file, cannot write; nothing written",
    ExitCode.NOT_CERTIFIED: "read, but the claim cannot be proven",
    ExitCode.INTERRUPTED: "Ctrl-C, SIGTERM or SIGHUP",
    ExitCode.CLOSED_PIPE: "closed pipe",
}


def help_text() -> str:
    """Return what `lipaudit --help` prints."""
    return _shown(["--help"])


def exit_codes() -> str:
    """Return the table of exit codes."""
    rows = "".join(f"| {code.value} | {MEANINGS[code]} |\n" for code in ExitCode)
    return f"| exit | meaning |\n|---|---|\n{rows}"


def layer_table() -> str:
    """Return the table of layer kinds, operations of one meaning in one row."""
    rows: dict[tuple[str, str], list[str]] = {}
    for kind in all_kinds():
        derived = inspect.getmodule(kind.examples)
        place = (derived.__name__ if derived is not None else "").rpartition(".")[2]
        rows.setdefault((kind.summary, place), []).append(
            f"{kind.domain}.{kind.op}" if kind.domain else kind.op
        )
    lines = [
        f"| {', '.join(names)} | {summary.replace('|', BAR)} "
        f"| [{place}](lipaudit/layers/{place}.py) |\n"
        for (summary, place), names in rows.items()
    ]
    head = "| operations | Lipschitz constant (ℓ2) | derived in |\n|---|---|---|\n"
    return head + "".join(sorted(lines))


def method_table() -> str:
    """Return the table of the methods that bound a network."""
    rows = "".join(f"| {method.name} | {method.summary} |\n" for method in methods())
    return f"| method | what it multiplies and adds |\n|---|---|\n{rows}"


def rule_table() -> str:
    """Return the table of the rules."""
    rows = "".join(f"| {info.id} | {info.summary} |\n" for info in INFOS)
    return f"| rule | what is wrong |\n|---|---|\n{rows}"


def bound_help() -> str:
    """Return what `lipaudit bound --help` prints."""
    return _shown(["bound", "--help"])


def format_table() -> str:
    """Return the table of file formats."""
    rows = "".join(f"| {form.name} | {', '.join(form.suffixes)} |\n" for form in registered())
    return f"| format | usual suffixes |\n|---|---|\n{rows}"


def report_table() -> str:
    """Return the table of report formats."""
    rows = "".join(f"| {name} | {REPORTERS[name].summary} |\n" for name in NAMES)
    return f"| `-f` | what it is |\n|---|---|\n{rows}"


def example() -> str:
    """Return what `lipaudit inspect` prints of the model of the README's first section."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0, 1.0], [1.0, 2.0], [0.0, -1.0]]))
        net[2].weight.copy_(torch.tensor([[1.0, -2.0, 0.5]]))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("models").mkdir()
        torch.save(net, "models/net.pt")
        return _shown(["inspect", "models/net.pt"])


def _shown(arguments: list[str]) -> str:
    """Return what a command prints on a terminal of the usual width, wherever this runs."""
    with mock.patch.dict(os.environ, {"COLUMNS": "80", "PYTHONUTF8": "1"}):
        output = CliRunner().invoke(app, arguments, prog_name="lipaudit").output
    return f"```\n{output.strip()}\n```\n"


BLOCKS: dict[str, Callable[[], str]] = {
    "example": example,
    "help": help_text,
    "exit-codes": exit_codes,
    "layers": layer_table,
    "formats": format_table,
    "methods": method_table,
    "rules": rule_table,
    "reports": report_table,
    "bound-help": bound_help,
}


def refreshed(text: str) -> str:
    """Return the text with every block written anew."""
    return BLOCK.sub(lambda m: m.group(1) + BLOCKS[m.group(2)]() + m.group(4), text)


def main() -> None:
    """Rewrite or check the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    text = arguments.file.read_text(encoding="utf-8")
    fresh = refreshed(text)
    if arguments.check and fresh != text:
        sys.exit(f"{arguments.file}: a generated block is stale; run `make readme`")
    if not arguments.check:
        arguments.file.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    main()
