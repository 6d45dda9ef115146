"""What the program finds out about its reader, and how progress is shown to people only."""

import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn

from lipaudit import api
from lipaudit.analysis.bounds.catalog import registered
from lipaudit.cli import streams
from lipaudit.cli.meter import meter


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Pipe(io.StringIO):
    encoding = "utf-8"


def seen(stdout: io.StringIO, environment: Mapping[str, str]) -> tuple[int, bool, bool]:
    known = {"TERM": "xterm", **environment}
    with mock.patch.dict(os.environ, known, clear=True), mock.patch.object(sys, "stdout", stdout):
        found = streams.canvas(to_file=False)
    return found.width, found.colour, found.unicode


@pytest.mark.parametrize(
    ("stdout", "environment", "expected"),
    [
        (Terminal(), {"COLUMNS": "70"}, (70, True, True)),
        (Terminal(), {"COLUMNS": "70", "NO_COLOR": "1"}, (70, False, True)),
        (Terminal(), {"COLUMNS": "70", "NO_COLOR": ""}, (70, True, True)),
        (Terminal(), {"COLUMNS": "70", "TERM": "dumb"}, (70, False, True)),
        (Terminal(), {"COLUMNS": "70", "LC_ALL": "C"}, (70, True, False)),
        (Terminal(), {"COLUMNS": "70", "LANG": "POSIX"}, (70, True, False)),
        (Terminal(), {"COLUMNS": "70", "LANG": "C", "LC_CTYPE": "C.UTF-8"}, (70, True, False)),
        (Terminal(), {"COLUMNS": "70", "LANG": "C", "LC_ALL": "en_US.UTF-8"}, (70, True, True)),
        (Terminal(), {"COLUMNS": "70", "LC_ALL": "C.UTF-8"}, (70, True, True)),
        (Pipe(), {"COLUMNS": "70"}, (70, False, True)),
        (Pipe(), {"COLUMNS": "-3"}, (120, False, True)),
        (Pipe(), {"COLUMNS": "wide"}, (120, False, True)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, io.StringIO) else str(value),
)
def test_the_reader_is_found_out(
    stdout: io.StringIO, environment: dict[str, str], expected: tuple[int, bool, bool]
) -> None:
    with mock.patch.object(sys, "stderr", Pipe()):
        assert seen(stdout, environment) == expected


def test_a_file_is_wide_and_plain() -> None:
    with mock.patch.object(sys, "stdout", Terminal()):
        found = streams.canvas(to_file=True)
    assert (found.width, found.colour, found.unicode) == (140, False, True)


def test_progress_is_for_terminals_only() -> None:
    with mock.patch.object(sys, "stderr", Pipe()), meter(1) as shown:
        assert shown.of("net.pt") is None


def test_progress_says_which_layer_how_many_and_how_long() -> None:
    screen = Terminal()
    known = {"TERM": "xterm", "COLUMNS": "100"}
    with (
        mock.patch.dict(os.environ, known, clear=True),
        mock.patch.object(sys, "stderr", screen),
        meter(2) as shown,
    ):
        for path in ("a.pt", "b.pt"):
            show = shown.of(path)
            assert show is not None
            show("conv1\x1b[2J[red]", 0, 4)
            show("conv2", 1.5, 4)
            assert shown._bar is not None
            shown._bar.refresh()
    text = screen.getvalue()
    assert "1/2 conv2" in text
    assert "2/2 conv2" in text
    assert "1/4" in text
    assert "left" in text
    assert "\x1b[2J" not in text
    show = shown.of("c.pt")
    assert show is not None


def test_the_methods_that_run_behind_the_last_layer_are_told(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), tmp_path / "net.pt")
    told: list[tuple[str, float, int]] = []
    api.bound(tmp_path / "net.pt", progress=lambda *now: told.append(now))
    behind = told[told.index(("", 2, 2)) + 1 :]
    names = ["gains", *(method.name for method in registered()), "lower bound"]
    assert [name for name, _, _ in behind] == [
        f"{name} ({at} of {len(names)})" for at, name in enumerate(names, 1)
    ]
    assert {(done, total) for _, done, total in behind} == {(0, 0)}


def test_a_method_is_shown_without_a_guess_of_what_is_left() -> None:
    screen = Terminal()
    with (
        mock.patch.dict(os.environ, {"TERM": "xterm", "COLUMNS": "100"}, clear=True),
        mock.patch.object(sys, "stderr", screen),
        meter(1) as shown,
    ):
        show = shown.of("a.pt")
        assert show is not None
        show("conv1", 4, 4)
        show("sdp (6 of 7)", 0, 0)
        assert shown._bar is not None
        (task,) = shown._bar.tasks
        assert (task.description, task.total) == ("sdp (6 of 7)", None)
        shown._bar.refresh()
    assert "sdp (6 of 7)" in screen.getvalue()
