"""A small network in a file, with layers of every sort of work, and tasks that go wrong."""

import os
import time
from pathlib import Path
from typing import Any

import torch

from lipaudit.crews.task import Task


def written(folder: Path) -> Path:
    """Write a checkpoint of twelve layers and return its path."""
    torch.manual_seed(3)
    weights: dict[str, torch.Tensor] = {}
    for number in range(8):
        weights[f"conv{number}.weight"] = torch.randn(8, 8, 3, 3)
    for number in range(3):
        weights[f"fc{number}.weight"] = torch.randn(24 + number, 32)
    weights["bad.weight"] = torch.full((4, 4), torch.nan)
    path = folder / "net.pt"
    torch.save(weights, path)
    return path


class Deadly:
    """A task that kills whoever begins it, which is by looking at its versions."""

    @property
    def versions(self) -> tuple[str, ...]:
        os._exit(9)


class Held:
    """A task that the first to begin it never ends; it notes in a folder who begins it."""

    def __init__(self, task: Task, folder: Path) -> None:
        self._task = task
        self._folder = folder

    @property
    def versions(self) -> tuple[str, ...]:
        """Return those of the task."""
        is_first = not any(self._folder.iterdir())
        (self._folder / str(os.getpid())).touch()
        if is_first:
            time.sleep(600)
        return self._task.versions

    def __reduce__(self) -> tuple[Any, ...]:
        return Held, (self._task, self._folder)

    def __getattr__(self, name: str) -> object:
        return getattr(self._task, name)
