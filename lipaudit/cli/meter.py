"""Meter: which layer of which model is being measured, and for how long yet."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lipaudit.cli import streams
from lipaudit.report.text import short

if TYPE_CHECKING:
    from rich.progress import Progress

Show = Callable[[str, float, int], None]
"""Called with (layer name, how many are done, how many there are); a layer counts in parts, and
what is no layer as 0 of 0."""


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
        task = bar.add_task(before + short(path, room), total=None, **_UNKNOWN)

        def show(name: str, done: float, total: int) -> None:
            nonlocal task
            what = short(name or path, room)
            if not total:  # with a clock of its own, and no guess of what is left
                bar.remove_task(task)
                task = bar.add_task(before + what, total=None, **_UNKNOWN)
                return
            known: dict[str, Any] = {"count": f"{int(done)}/{total}", "left": "left"}
            bar.update(task, description=before + what, completed=done, total=total, **known)

        return show


_SHORTEST = 8
_UNKNOWN: Mapping[str, Any] = MappingProxyType({"count": "", "left": ""})
"""What is said of something whose end nobody knows."""


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
        progress.TextColumn("{task.fields[count]}", style="progress.download"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[left]}"),
        progress.TimeRemainingColumn(compact=True),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Meter(bar, models)
