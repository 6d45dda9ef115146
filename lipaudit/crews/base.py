"""Crew: those who measure the layers of a file, and how their answers become results."""

import abc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lipaudit.analysis.audit import Crew, Part
from lipaudit.analysis.layerwise import Found, Wish
from lipaudit.analysis.shapes import InputShape
from lipaudit.analysis.sharing import Elsewhere
from lipaudit.crews.task import Outcome, Task, tasks
from lipaudit.device import Compute
from lipaudit.errors import CrewError, NoCrew
from lipaudit.graph.model import Model
from lipaudit.results import Skipped

Answer = tuple[int, Outcome]
_OTHER_COPY = "worker-copy"
_UNFIT = frozenset({"worker-version", "device"})
"""Slugs of what is wrong with a worker, whatever the file."""
LOST = Outcome(
    None,
    slug="worker-lost",
    cause="every worker that measured the layer was lost, perhaps for want of memory",
    hint="give a smaller --max-memory, or workers with more memory",
)


class AbstractPool(abc.ABC):
    """Workers that do tasks, side by side."""

    @abc.abstractmethod
    def workers(self) -> int:
        """Return how many tasks are done at a time, as far as that is known."""

    @abc.abstractmethod
    def answers(self, work: Sequence[Task]) -> Iterator[Answer]:
        """Yield the index of each task with its outcome, in the order they get done.

        A task whose worker is lost is given to another one, a few times; only one that was
        lost while nothing else was being done is `LOST`.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Let the workers go; at once, whatever they are doing."""


def crew(
    pool: AbstractPool, model: Model, input_shape: InputShape, *, room: int | None = None
) -> Crew:
    """Return who measures the layers of one model that was read from files.

    `room` is the memory one of them may take, where that is less than the driver would.
    """

    def of(folded: bool, part: Part) -> Elsewhere:
        def measured(
            places: Sequence[str], wish: Wish, compute: Compute
        ) -> Iterator[tuple[int, Found]]:
            if room is not None:
                compute = replace(compute, max_memory=min(compute.max_memory, room))
            work = tasks(model, list(places), wish, compute, input_shape, folded=folded, part=part)
            return _measured(pool, model, work, compute)

        return Elsewhere(pool.workers, measured)

    return of


def _measured(
    pool: AbstractPool, model: Model, work: list[Task], compute: Compute
) -> Iterator[tuple[int, Found]]:
    """Yield what is found; where workers see copies of the files, ask again with a digest."""
    apart: list[int] = []
    for index, outcome in pool.answers(work):
        if outcome.slug == _OTHER_COPY and not outcome.is_fatal:
            apart.append(index)
        else:
            yield index, _accepted(outcome, work[index], compute)
    if not apart:
        return
    sha256 = model.digest() if model.digest is not None else ""
    again = [replace(work[index], sha256=sha256) for index in apart]
    for index, outcome in pool.answers(again):
        yield apart[index], _accepted(outcome, again[index], compute)


def _accepted(outcome: Outcome, task: Task, compute: Compute) -> Found:
    """Return what was found; raise where the worker is at fault, skip the layer where it is not."""
    for warning in outcome.warnings:
        compute.warn(warning)
    if outcome.unkept and compute.cache is not None:
        compute.cache.complain(outcome.unkept)
    if outcome.found is not None:
        return outcome.found
    if outcome.slug in _UNFIT:
        raise NoCrew(outcome.cause, slug=outcome.slug, hint=outcome.hint)
    if outcome.is_fatal or outcome.slug == _OTHER_COPY:
        raise CrewError(
            outcome.cause,
            slug=outcome.slug,
            hint=outcome.hint or "every worker must see the same file under the same path",
            path=task.path,
        )
    return Found(None, Skipped(Path(task.place).name, "layer", outcome.slug, outcome.cause))
