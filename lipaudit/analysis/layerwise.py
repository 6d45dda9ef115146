"""Layerwise: every layer with a weight, measured one at a time."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from lipaudit import globs
from lipaudit.analysis import remembered, rounded_weights
from lipaudit.analysis.remembered import Numbers, Question
from lipaudit.device import Compute, ran_out_of_memory
from lipaudit.enclosure import Enclosure
from lipaudit.errors import FileError, LipauditError, NotCertified
from lipaudit.graph.constant import Constant
from lipaudit.layers import matrix
from lipaudit.layers.base import AbstractLinearLayer
from lipaudit.layers.network import Network, Step
from lipaudit.operators.base import Norm
from lipaudit.operators.convolution import as_circular
from lipaudit.operators.estimates import power_iteration
from lipaudit.operators.scaling import in_double
from lipaudit.operators.spectrum import Leading, Spectrum
from lipaudit.results import LayerResult, Measure, Skipped, SpectrumSummary

Progress = Callable[[str, float, int], None]
"""Called with (layer name, how many are done, how many there are); a layer counts in parts.

Behind the last layer every method that bounds the network is told as 0 of 0: nobody knows how
long it takes."""

Told = Callable[[LayerResult | Skipped], None]
"""Called with each layer as soon as it and all before it are done; shares and ties come later."""

Keep = Callable[[str, Spectrum], None]
"""Called with (layer name, all singular values that were computed): reports hold only a summary."""

_WEIGHT = ".weight"
_PIECE = 1 << 22
"""Entries of a weight that are looked at in one go."""
_FLOAT64 = 8
"""Bytes of a number."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Which layers are to be measured, and as what."""

    only: str | None = None
    """A glob of names; None: all."""
    circular: bool = False
    """Whether every convolution is taken as a circular one, as in the paper."""
    power_steps: int | None = None
    """Steps of the power iteration to compare with; None: not wanted."""
    keep: Keep | None = None
    """Gets every spectrum as soon as it is known; None: not wanted."""
    told: Told | None = None
    """Gets every layer as soon as it is measured; None: not wanted."""
    enough: Mapping[str, float] = field(default_factory=dict)
    """First outputs of nodes -> upper ends of norms that need not be improved on."""
    places: frozenset[str] | None = None
    """First outputs of the nodes that are meant; None: all."""

    def means(self, step: Step) -> bool:
        """Tell whether a layer is to be measured."""
        meant = self.places is None or step.node.outputs[0] in self.places
        return meant and matches(title(step), self.only)


@dataclass(frozen=True, slots=True)
class Measured:
    """One linear step with its numbers, or the reason why there are none."""

    step: Step
    norm: Norm | None
    result: LayerResult | Skipped


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of one layer: plain data, wherever it was measured."""

    norm: Norm | None
    result: LayerResult | Skipped
    spectrum: Spectrum | None = None
    """Where somebody wants all of it."""


Elsewhere = Callable[[Sequence[str], Wish, Compute], Iterator[tuple[int, Found]]]
"""Measures layers, given by their first outputs, on other machines or in other processes. Yields
the index of each with what was found, in the order in which they get done."""


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
        # The largest first, or the last worker would begin with the longest layer at the end.
        order = sorted(range(len(steps)), key=lambda index: -_items(steps[index]))
        places = [steps[index].node.outputs[0] for index in order]
        there = elsewhere(places, wish, compute)
        found = _shown(((order[index], item) for index, item in there), steps, progress)
    measured = [
        Measured(step, item.norm, item.result)
        for step, item in zip(steps, _in_order(found, wish), strict=True)
    ]
    if progress is not None and steps:
        progress("", len(steps), len(steps))
    return _with_shares(_with_ties(measured, ties or {}))


def measure_place(network: Network, place: str, compute: Compute, wish: Wish) -> Found:
    """Measure the one layer whose node has this first output."""
    for step in network.steps:
        if step.node.outputs[0] == place and isinstance(step.layer, AbstractLinearLayer):
            return _measure(network, step, step.layer, _as_wished(compute, step, wish), wish)
    raise LipauditError(f"there is no layer {place!r}", slug="place")


def _items(step: Step) -> int:
    return step.layer.weights()[0].items if isinstance(step.layer, AbstractLinearLayer) else 0


def _is_meant(step: Step, wish: Wish) -> bool:
    return isinstance(step.layer, AbstractLinearLayer) and wish.means(step)


def _as_wished(compute: Compute, step: Step, wish: Wish) -> Compute:
    enough = wish.enough.get(step.node.outputs[0])
    return compute if enough is None else replace(compute, enough=enough)


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
            progress(title(step), count, len(steps))
            compute = replace(compute, tick=_within(progress, title(step), count, len(steps)))
        local = _as_wished(compute, step, wish)
        if isinstance(step.layer, AbstractLinearLayer):
            yield count, _measure(network, step, step.layer, local, wish)


def _shown(
    found: Iterator[tuple[int, Found]], steps: Sequence[Step], progress: Progress | None
) -> Iterator[tuple[int, Found]]:
    """Pass on what is found, and tell how much is done."""
    for done, (index, item) in enumerate(found, 1):
        if progress is not None:
            progress(title(steps[index]), done, len(steps))
        if isinstance(item.result, Skipped):
            # Who lost it knows only its place; limits are found by the name.
            named = replace(item.result, name=title(steps[index]), kind=kind(steps[index]))
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


def title(step: Step) -> str:
    """Return the name a person knows the layer by: its place in the code, if the file tells.

    Exporters call nodes `node_conv2d_3` and their weights `block1.conv2.weight`; the second is
    the name in the source code.
    """
    if isinstance(step.layer, AbstractLinearLayer):
        key = next(iter(step.layer.weights()[0].sources), "")
        if key.endswith(_WEIGHT) and "." in key and "/" not in key and not step.node.sources:
            return key.removesuffix(_WEIGHT)
    return step.node.name or next(iter(step.node.outputs), step.node.op)


def kind(step: Step) -> str:
    """Return the kind of layer: the operation, with the dimension for convolutions."""
    if isinstance(step.layer, AbstractLinearLayer) and step.node.op.startswith("Conv"):
        return f"{step.node.op}{len(step.layer.weights()[0].shape) - 2}d"
    return step.node.op


def matches(name: str, glob: str | None) -> bool:
    """Tell whether a layer is meant by a glob; any of several, split at commas."""
    return glob is None or globs.matches(name, glob)


def _measure(
    network: Network, step: Step, layer: AbstractLinearLayer, compute: Compute, wish: Wish
) -> Found:
    shape = network.signal_shapes(step)[0] if step.signals else None
    if shape is not None and _FLOAT64 * math.prod(shape) > compute.max_memory:
        shape = None  # a file may declare an input of any size: then what holds for every one
    question = Question(
        layer, tuple(step.constants.values()), shape, wish.circular, wish.power_steps
    )
    whole: list[Spectrum] = []
    if wish.keep is not None:
        # Of a whole spectrum only a summary is remembered.
        compute = replace(compute, cache=None)

    def found(compute: Compute) -> Numbers:
        _check(step, layer, compute)
        return _numbers(question, compute, whole.append)

    try:
        numbers = remembered.numbers(question, compute, found)
    except FileError:  # its values are found to be damaged when they are read
        raise
    except LipauditError as error:
        return _unmeasured(step, error.slug, error.cause)
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        reason = "this machine has not enough memory for the layer"
        return _unmeasured(step, "memory", reason)
    return _found(step, layer, numbers, whole[0] if wish.keep is not None and whole else None)


def _check(step: Step, layer: AbstractLinearLayer, compute: Compute) -> None:
    """Raise where the layer's constants are nothing that could be measured."""
    constants = [*layer.weights(), *step.constants.values()]
    largest = max(constants, key=lambda constant: constant.items)
    in_pieces = layer.is_read_in_pieces and largest is layer.weights()[0]
    taken = matrix.room(largest, in_pieces=in_pieces)
    if taken > compute.max_memory:
        raise NotCertified(
            f"{largest.name!r} takes {taken:,} bytes{'' if in_pieces else ' in float64'}, over "
            f"--max-memory ({compute.max_memory:,} bytes)",
            slug="memory",
        )
    try:
        problem = non_finite(constants)
    except TypeError as error:  # `Constant.read`: a dtype that torch has no name for
        raise NotCertified(str(error), slug="weight-type") from error
    if problem:
        raise NotCertified(problem, slug="non-finite")


def _numbers(question: Question, compute: Compute, keep: Callable[[Spectrum], None]) -> Numbers:
    weight = question.layer.weights()[0]
    operator = question.layer.operator(question.shape, rounded_weights.with_room(compute, weight))
    if question.circular:
        operator = as_circular(operator)
    norm = rounded_weights.widened(operator.norm(), weight)
    spectrum = operator.spectrum() if compute.full_spectra else None
    spectrum = rounded_weights.loosened(spectrum, weight)
    if spectrum is not None:
        keep(spectrum)
    leading = rounded_weights.trusted_leading(operator, weight) if compute.full_spectra else None
    norm = _at_least(norm, leading)
    estimate = None
    if question.power_steps is not None:
        estimate = power_iteration(operator, question.power_steps)
    return Numbers(
        in_shape=operator.in_shape,
        out_shape=operator.out_shape,
        norm=norm,
        reshaped_norm=operator.reshaped_norm(),
        frobenius=operator.frobenius(),
        spectrum=_summary(spectrum) if spectrum is not None else None,
        leading=leading.values if leading is not None else (),
        leading_method=leading.method if leading is not None else "",
        power_iteration=estimate,
    )


def _found(
    step: Step, layer: AbstractLinearLayer, numbers: Numbers, spectrum: Spectrum | None
) -> Found:
    """Put the names to the numbers."""
    weights = layer.weights()
    result = LayerResult(
        name=title(step),
        kind=kind(step),
        tensors=tuple(dict.fromkeys(key for weight in weights for key in weight.sources)),
        shape=weights[0].shape,
        dtype=weights[0].dtype,
        parameters=sum(weight.items for weight in weights),
        geometry=dict(layer.geometry()),
        in_shape=numbers.in_shape,
        out_shape=numbers.out_shape,
        norm=Measure.of(numbers.norm.enclosure, numbers.norm.method),
        reshaped_norm=numbers.reshaped_norm,
        frobenius=numbers.frobenius,
        spectrum=numbers.spectrum,
        leading=numbers.leading,
        leading_method=numbers.leading_method,
        power_iteration=numbers.power_iteration,
    )
    return Found(numbers.norm, result, spectrum)


def _unmeasured(step: Step, slug: str, reason: str) -> Found:
    return Found(None, Skipped(title(step), kind(step), slug, reason))


def non_finite(constants: Sequence[Constant], *, infinity: bool = True) -> str:
    """Name the first constant with NaN (or infinite) values, before LAPACK sees it; "" for none.

    A NaN anywhere makes the whole function NaN. Infinities are honest in attention masks, so
    that only weights and biases must be without them.
    """
    for weight in constants:
        stored = weight.read()
        if not stored.is_floating_point() and not stored.is_complex():
            continue
        nans = bad = 0
        # In pieces: the largest layer of a large checkpoint is as large as memory allows.
        for piece in torch.split(stored.flatten(), _PIECE):
            part = in_double(piece)  # of the small types torch knows no NaN
            unknown = int(part.isnan().sum())
            nans += unknown
            bad += unknown + (int((part.isinf() & ~part.isnan()).sum()) if infinity else 0)
        if bad:
            what = "NaN" if nans == bad else "infinite" if nans == 0 else "NaN or infinite"
            return f"{weight.name!r}: {bad:,} of {weight.items:,} values are {what}"
    return ""


def _at_least(norm: Norm, leading: Leading | None) -> Norm:
    """Raise the lower end to the first of the leading values, which is proved too."""
    known = norm.enclosure
    if leading is None or not leading.values or leading.values[0] <= known.lower:
        return norm
    lower = min(Enclosure.exactly(leading.values[0]).lo, known.hi)
    return replace(norm, enclosure=Enclosure(lower, known.hi, known.rigor))


def _summary(spectrum: Spectrum) -> SpectrumSummary:
    count = min(spectrum.rows, spectrum.columns)
    values = spectrum.values
    steps = np.linspace(0, max(values.size - 1, 0), 11).round().astype(int)
    return SpectrumSummary(
        count=count,
        complete=values.size == count,
        of=spectrum.of,
        rigor=spectrum.rigor,
        radius=spectrum.radius,
        method=spectrum.method,
        stable_rank=spectrum.stable_rank,
        entropy_rank=spectrum.entropy_rank,
        numerical_rank=spectrum.numerical_rank,
        tolerance=spectrum.tolerance,
        at_least_one=spectrum.count_at_least(1.0),
        quantiles=tuple(float(values[step]) for step in steps) if values.size else (),
        curve=spectrum.curve(),
    )


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
