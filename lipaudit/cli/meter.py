"""Meter: which layer of which model is being measured, and for how long yet."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lipaudit.cli import streams
from lipaudit.report.text import short

if TYPE_CHECKING:
    from rich.progress import Progress

Show = Callable[[str, float, int], None]
"""Called with (layer name, how many are done, how many there are); a layer counts in parts."""


class Meter:
    """A bar on stderr, or nothing at all where no person looks."""

    def __init__(self, bar: "Progress | None", models: int) -> None:
        self._bar = bar
        self._models = models
        self._begun = 0

    def of(self, path: str) -> Show | None:
        """Begin with the next model; return what is told of each of its layers."""
        bar = self._bar
        if bar is None:
            return None
        self._begun += 1
        before = f"{self._begun}/{self._models} " if self._models > 1 else ""
        room = max(bar.console.width // 3 - len(before), _SHORTEST)
        # Each model has its own clock: the time left is guessed from its own layers.
        for old in bar.task_ids:
            bar.remove_task(old)
        task = bar.add_task(before + short(path, room), total=None)

        def show(name: str, done: float, total: int) -> None:
            what = short(name or path, room)
            bar.update(task, description=before + what, completed=done, total=total)

        return show


_SHORTEST = 8


@contextlib.contextmanager
def meter(models: int) -> Iterator[Meter]:
    """Show a bar while the block runs, on a terminal only, and take it away afterwards."""
    if not streams.is_terminal(sys.stderr):
        yield Meter(None, models)
        return
    from rich import progress  # noqa: PLC0415 - keeps `--help` instant
    from rich.console import Console  # noqa: PLC0415 - the same

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=20),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(compact=True),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Meter(bar, models)
