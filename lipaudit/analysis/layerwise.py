"""Layerwise: one layer with a weight, measured, and what it is called."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from lipaudit import globs
from lipaudit.analysis import remembered, rounded_weights
from lipaudit.analysis.reading import Reading
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


def measured(network: Network, step: Step, compute: Compute, wish: Wish) -> Found:
    """Measure the layer of a step."""
    layer = step.layer
    if not isinstance(layer, AbstractLinearLayer):
        raise LipauditError(f"{title(step)!r} is no linear layer", slug="place")
    return _measure(network, step, layer, _as_wished(compute, step, wish), wish)


def measure_place(network: Network, place: str, compute: Compute, wish: Wish) -> Found:
    """Measure the one layer whose node has this first output."""
    for step in network.steps:
        if step.node.outputs[0] == place and isinstance(step.layer, AbstractLinearLayer):
            return measured(network, step, compute, wish)
    raise LipauditError(f"there is no layer {place!r}", slug="place")


def _as_wished(compute: Compute, step: Step, wish: Wish) -> Compute:
    enough = wish.enough.get(step.node.outputs[0])
    return compute if enough is None else replace(compute, enough=enough)


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
    reading = Reading(compute.max_memory)
    constants = reading.constants(step.constants.values())
    question = Question(reading.layer(layer), constants, shape, wish.circular, wish.power_steps)
    whole: list[Spectrum] = []
    if wish.keep is not None:
        # Of a whole spectrum only a summary is remembered.
        compute = replace(compute, cache=None)

    def found(compute: Compute) -> Numbers:
        _check_values(question)
        reading.end(question.layer)
        return _numbers(question, compute, whole.append)

    try:
        _check_size(step, layer, compute)  # before anybody reads it, be it for its key
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


def _check_size(step: Step, layer: AbstractLinearLayer, compute: Compute) -> None:
    """Raise where one of the layer's constants is larger than memory allows; none is read."""
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


def _check_values(question: Question) -> None:
    """Raise where the layer's constants are no numbers that could be measured."""
    try:
        problem = non_finite([*question.layer.weights(), *question.constants])
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
