"""A folder of small models, and the command run on it in this process."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from lipaudit import __main__


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    complaints: str


def run(*arguments: str | Path) -> Done:
    """Run the command in this process: torch is imported once."""
    out, complaints = io.StringIO(), io.StringIO()
    line = ["lipaudit", *map(str, arguments)]
    with mock.patch.object(sys, "argv", line), redirect_stdout(out), redirect_stderr(complaints):
        code = __main__._run()
    return Done(code, out.getvalue(), complaints.getvalue())


def diagonal(*values: float) -> nn.Linear:
    """Return a layer whose norm is the largest value, exactly."""
    layer = nn.Linear(len(values), len(values))
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor(values)))
    return layer


def save(path: Path, *layers: nn.Module) -> None:
    torch.save(nn.Sequential(*layers), path)


def fill(folder: Path) -> None:
    """Write models of known bounds: half.pt 0.5, six.pt 6, bare.pt 6 (assumed), nan.pt none."""
    save(folder / "half.pt", diagonal(0.5, 0.25))
    six = nn.Sequential(diagonal(2.0, 1.0), nn.ReLU(), diagonal(3.0, 1.0))
    torch.save(six, folder / "six.pt")
    torch.save(six.state_dict(), folder / "bare.pt")
    save(folder / "nan.pt", diagonal(float("nan"), 1.0))
    (folder / "junk.pt").write_bytes(b"no model at all, but long enough to be looked at" * 3)
