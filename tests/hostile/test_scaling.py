"""Four times as much takes about four times as long, whatever a file has much of."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lipaudit.formats import parametrizations
from lipaudit.graph.constant import computed
from lipaudit.report.base import Canvas, Choice
from lipaudit.report.catalog import REPORTERS
from tests.commands import Commands, Done
from tests.hostile import growing_files, growing_onnx, growing_pickles
from tests.hostile.growth import Growth
from tests.report import reports

CASES = (*growing_pickles.CASES, *growing_files.CASES, *growing_onnx.CASES)
MORE = 4
RATIO = 8.0
"""Between the 4 of what is linear and the 16 of what is quadratic."""
SECONDS = 0.1
"""Of processor time below which nothing is compared: a busy machine doubles them. What passes
below it takes less than a second with four times as much."""
MEMORY = 16 << 20
ENOUGH = 60.0
"""Seconds after which a command is ended, on a busy machine: what takes them has failed."""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    server = Commands(tmp_path_factory.mktemp("commands"))
    yield server
    server.close()


def read(case: Growth, count: int, folder: Path, commands: Commands) -> Done:
    folder.mkdir()
    path = case.build(folder, count)
    done = commands.run(*case.command, path, cwd=folder, seconds=ENOUGH)
    assert done.code in {0, 1, 2, 3}, (count, done.code, done.stderr)
    return done


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_four_times_as_much_takes_about_four_times_as_long(
    case: Growth, commands: Commands, tmp_path: Path
) -> None:
    once = read(case, case.count, tmp_path / "once", commands)
    more = read(case, MORE * case.count, tmp_path / "more", commands)
    assert more.seconds < RATIO * max(once.seconds, SECONDS), (once.seconds, more.seconds)
    assert more.memory < RATIO * max(once.memory, MEMORY), (once.memory, more.memory)


def test_what_lies_beside_a_parametrized_weight_is_found_without_looking_at_every_name() -> None:
    def seconds(count: int) -> float:
        parts = ("original", "0._divisor", "0.left")
        ones = (
            computed(f"l{at}.parametrizations.weight.{part}", torch.ones(1))
            for at in range(count)
            for part in parts
        )
        named = {one.name: one for one in ones}
        start = time.process_time()
        assert len(parametrizations.effective(named)) == count
        return time.process_time() - start

    assert seconds(MORE * 1_000) < RATIO * max(seconds(1_000), SECONDS)


@pytest.mark.parametrize("name", REPORTERS)
def test_a_report_of_four_times_as_many_layers_takes_about_four_times_as_long(name: str) -> None:
    def seconds(count: int) -> float:
        layers = (reports.layer(f"block.{at}.fc", 1 + at % 7 / 1e9) for at in range(count))
        report = reports.report(reports.model(*layers))
        start = time.process_time()
        REPORTERS[name].audit(report, reports.QUIET, Canvas(), Choice())
        return time.process_time() - start

    more = min(seconds(MORE * 500) for _ in range(3))  # the least: others disturb the caches
    assert more < RATIO * max(seconds(500), SECONDS)
