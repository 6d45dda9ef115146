"""Crew: those who measure the layers of a file, and how their answers become results."""

import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lipaudit.analysis.audit import Crew
from lipaudit.analysis.layerwise import Elsewhere, Found, Wish
from lipaudit.analysis.shapes import InputShape
from lipaudit.crews.task import Outcome, Task, tasks
from lipaudit.device import Compute
from lipaudit.errors import CrewError
from lipaudit.graph.model import Model
from lipaudit.results import Skipped

Answer = tuple[int, Outcome]
_OTHER_COPY = "worker-copy"
LOST = Outcome(
    None,
    slug="worker-lost",
    cause="every worker that measured the layer was lost, perhaps for want of memory",
    hint="give a smaller --max-memory, or workers with more memory",
)


class AbstractPool(abc.ABC):
    """Workers that do tasks, side by side."""

    @abc.abstractmethod
    def answers(self, work: Sequence[Task]) -> Iterator[Answer]:
        """Yield the index of each task with its outcome, in the order they get done.

        A task whose worker is lost is given to another one, a few times.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Let the workers go; at once, whatever they are doing."""


def crew(pool: AbstractPool, model: Model, input_shape: InputShape) -> Crew:
    """Return who measures the layers of one model that was read from files."""

    def of(folded: bool) -> Elsewhere:
        def measure(
            places: Sequence[str], wish: Wish, compute: Compute
        ) -> Iterator[tuple[int, Found]]:
            work = tasks(model, list(places), wish, compute, input_shape, folded=folded)
            return _measured(pool, model, work, compute)

        return measure

    return of


def _measured(
    pool: AbstractPool, model: Model, work: list[Task], compute: Compute
) -> Iterator[tuple[int, Found]]:
    """Yield what is found; where workers see copies of the files, ask again with a digest."""
    apart: list[int] = []
    for index, outcome in pool.answers(work):
        if outcome.slug == _OTHER_COPY:
            apart.append(index)
        else:
            yield index, _accepted(outcome, work[index], compute.warn)
    if not apart:
        return
    sha256 = model.digest() if model.digest is not None else ""
    again = [replace(work[index], sha256=sha256) for index in apart]
    for index, outcome in pool.answers(again):
        yield apart[index], _accepted(outcome, again[index], compute.warn)


def _accepted(outcome: Outcome, task: Task, warn: Callable[[str], None]) -> Found:
    """Return what was found; raise where the worker is at fault, skip the layer where it is not."""
    for warning in outcome.warnings:
        warn(warning)
    if outcome.found is not None:
        return outcome.found
    if outcome.is_fatal or outcome.slug == _OTHER_COPY:
        raise CrewError(
            outcome.cause,
            slug=outcome.slug,
            hint=outcome.hint or "every worker must see the same file under the same path",
            path=task.path,
        )
    return Found(None, Skipped(Path(task.place).name, "layer", outcome.slug, outcome.cause))
