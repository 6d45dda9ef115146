"""Sharing: every layer of a network measured, one after the other here or shared out."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from lipaudit.analysis import layerwise, turns
from lipaudit.analysis.layerwise import Found, Measured, Progress, Wish
from lipaudit.device import Compute
from lipaudit.layers.base import AbstractLinearLayer
from lipaudit.layers.network import Network, Step
from lipaudit.results import LayerResult, Skipped


@final
@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Those who measure layers on other machines or in other processes."""

    workers: Callable[[], int]
    """How many layers they measure at a time; asked when there is work for them."""
    measured: Callable[[Sequence[str], Wish, Compute], Iterator[tuple[int, Found]]]
    """Measures layers, given by their first outputs and begun in that order. Yields the index of
    each with what was found, in the order in which they get done."""


def measure(
    network: Network,
    compute: Compute,
    *,
    wish: Wish | None = None,
    ties: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    elsewhere: Elsewhere | None = None,
) -> tuple[Measured, ...]:
    """Measure the linear layers, in the order of the graph."""
    wish = wish or Wish()
    steps = [step for step in network.steps if _is_meant(step, wish)]
    if elsewhere is None:
        found = _here(network, steps, compute, wish, progress)
    else:
        found = _shown(_there(steps, compute, wish, elsewhere), steps, progress)
    measured = [
        Measured(step, item.norm, item.result)
        for step, item in zip(steps, _in_order(found, wish), strict=True)
    ]
    if progress is not None and steps:
        progress("", len(steps), len(steps))
    return _with_shares(_with_ties(measured, ties or {}))


def _is_meant(step: Step, wish: Wish) -> bool:
    return isinstance(step.layer, AbstractLinearLayer) and wish.means(step)


def _here(
    network: Network,
    steps: Sequence[Step],
    compute: Compute,
    wish: Wish,
    progress: Progress | None,
) -> Iterator[tuple[int, Found]]:
    """Measure one layer after the other in this process."""
    for count, step in enumerate(steps):
        if progress is not None:
            name = layerwise.title(step)
            progress(name, count, len(steps))
            compute = replace(compute, tick=_within(progress, name, count, len(steps)))
        yield count, layerwise.measured(network, step, compute, wish)


def _there(
    steps: Sequence[Step], compute: Compute, wish: Wish, elsewhere: Elsewhere
) -> Iterator[tuple[int, Found]]:
    """Hand the layers out in an order that keeps everybody busy."""
    if not steps:
        return
    order = turns.turns([_cost(step) for step in steps], elsewhere.workers())
    places = [steps[at].node.outputs[0] for at in order]
    for turn, item in elsewhere.measured(places, wish, compute):
        yield order[turn], item


def _cost(step: Step) -> float:
    if not isinstance(step.layer, AbstractLinearLayer):
        return 0.0
    return sum(turns.operations(weight.shape) for weight in step.layer.weights())


def _shown(
    found: Iterator[tuple[int, Found]], steps: Sequence[Step], progress: Progress | None
) -> Iterator[tuple[int, Found]]:
    """Pass on what is found, and tell how much is done."""
    for done, (index, item) in enumerate(found, 1):
        if progress is not None:
            progress(layerwise.title(steps[index]), done, len(steps))
        if isinstance(item.result, Skipped):
            # Who lost it knows only its place; limits are found by the name.
            named = replace(
                item.result, name=layerwise.title(steps[index]), kind=layerwise.kind(steps[index])
            )
            yield index, replace(item, result=named)
        else:
            yield index, item


def _in_order(found: Iterator[tuple[int, Found]], wish: Wish) -> Iterator[Found]:
    """Bring what is found into the order of the graph, and tell those who want to know."""
    early: dict[int, Found] = {}
    due = 0
    for index, item in found:
        early[index] = item
        while due in early:
            ready = early.pop(due)
            if wish.keep is not None and ready.spectrum is not None:
                wish.keep(ready.result.name, ready.spectrum)
            if wish.told is not None:
                wish.told(ready.result)
            yield ready
            due += 1


def _within(progress: Progress, name: str, before: int, total: int) -> Callable[[float], None]:
    """Return what is told which share of one layer is done."""
    return lambda share: progress(name, before + share, total)


def _with_ties(measured: Sequence[Measured], ties: Mapping[str, str]) -> Iterator[Measured]:
    """Mark every layer whose main weight is stored once and used before."""
    owners: dict[str, str] = {}
    for item in measured:
        result = item.result
        if isinstance(result, LayerResult) and result.tensors:
            key = ties.get(result.tensors[0], result.tensors[0])
            owner = owners.setdefault(key, result.name)
            if owner != result.name:
                yield replace(item, result=replace(result, tied_with=owner))
                continue
        yield item


def _with_shares(measured: Iterator[Measured]) -> tuple[Measured, ...]:
    """Add each layer's share of the log of the product of all norms."""
    items = tuple(measured)
    logs = [
        item.result.norm.log10_upper if isinstance(item.result, LayerResult) else math.nan
        for item in items
    ]
    total = sum(abs(log) for log in logs if math.isfinite(log))
    return tuple(
        replace(item, result=replace(item.result, log_share=log / total))
        if isinstance(item.result, LayerResult) and math.isfinite(log) and total > 0
        else item
        for item, log in zip(items, logs, strict=True)
    )
