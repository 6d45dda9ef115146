"""Layerwise: every layer with a weight, measured one at a time."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from lipaudit import globs
from lipaudit.device import Compute, ran_out_of_memory
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.errors import LipauditError
from lipaudit.graph.constant import Constant
from lipaudit.layers.base import AbstractLinearLayer
from lipaudit.layers.network import Network, Step
from lipaudit.operators.base import AbstractLinearOperator, Norm
from lipaudit.operators.convolution import as_circular
from lipaudit.operators.estimates import power_iteration
from lipaudit.operators.spectrum import Leading, Spectrum
from lipaudit.results import LayerResult, Measure, Skipped, SpectrumSummary

Progress = Callable[[str, float, int], None]
"""Called with (layer name, how many are done, how many there are); a layer counts in parts."""

Keep = Callable[[str, Spectrum], None]
"""Called with (layer name, all singular values that were computed): reports hold only a summary."""

_WEIGHT = ".weight"


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


def measure(
    network: Network,
    compute: Compute,
    *,
    wish: Wish | None = None,
    ties: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> tuple[Measured, ...]:
    """Measure the linear layers, in the order of the graph."""
    wish = wish or Wish()
    steps = [
        (step, step.layer)
        for step in network.steps
        if isinstance(step.layer, AbstractLinearLayer) and wish.means(step)
    ]
    measured = []
    for count, (step, layer) in enumerate(steps):
        if progress is not None:
            progress(title(step), count, len(steps))
            compute = replace(compute, tick=_within(progress, title(step), count, len(steps)))
        enough = wish.enough.get(step.node.outputs[0])
        local = compute if enough is None else replace(compute, enough=enough)
        measured.append(_measure(network, step, layer, local, wish))
    if progress is not None and steps:
        progress("", len(steps), len(steps))
    return _with_shares(_with_ties(measured, ties or {}))


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
) -> Measured:
    try:
        return _unfit(step, layer) or _numbers(network, step, layer, compute, wish)
    except LipauditError as error:
        return _unmeasured(step, error.slug, error.cause)
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        reason = "this machine has not enough memory for the layer"
        return _unmeasured(step, "memory", reason)


def _unfit(step: Step, layer: AbstractLinearLayer) -> Measured | None:
    """Say what keeps the layer's constants from being looked at, None for nothing."""
    try:
        problem = non_finite([*layer.weights(), *step.constants.values()])
    except TypeError as error:  # `Constant.read`: a dtype that torch has no name for
        return _unmeasured(step, "dtype", str(error))
    return _unmeasured(step, "non-finite", problem) if problem else None


def _numbers(
    network: Network, step: Step, layer: AbstractLinearLayer, compute: Compute, wish: Wish
) -> Measured:
    weights = layer.weights()
    shape = network.signal_shapes(step)[0] if step.signals else None
    operator = layer.operator(shape, _with_room(compute, weights[0]))
    if wish.circular:
        operator = as_circular(operator)
    norm = _widened(operator.norm(), weights[0])
    spectrum = operator.spectrum() if compute.full_spectra else None
    spectrum = _loosened(spectrum, weights[0])
    if wish.keep is not None and spectrum is not None:
        wish.keep(title(step), spectrum)
    leading = _trusted_leading(operator, weights[0]) if compute.full_spectra else None
    norm = _at_least(norm, leading)
    estimate = None
    if wish.power_steps is not None:
        estimate = power_iteration(operator, wish.power_steps)
    result = LayerResult(
        name=title(step),
        kind=kind(step),
        tensors=tuple(dict.fromkeys(key for weight in weights for key in weight.sources)),
        shape=weights[0].shape,
        dtype=weights[0].dtype,
        parameters=sum(weight.items for weight in weights),
        geometry=dict(layer.geometry()),
        in_shape=operator.in_shape,
        out_shape=operator.out_shape,
        norm=Measure.of(norm.enclosure, norm.method),
        reshaped_norm=operator.reshaped_norm(),
        frobenius=operator.frobenius(),
        spectrum=_summary(spectrum) if spectrum is not None else None,
        leading=leading.values if leading is not None else (),
        leading_method=leading.method if leading is not None else "",
        power_iteration=estimate,
    )
    return Measured(step, norm, result)


def _unmeasured(step: Step, slug: str, reason: str) -> Measured:
    return Measured(step, None, Skipped(title(step), kind(step), slug, reason))


def non_finite(constants: Sequence[Constant], *, infinity: bool = True) -> str:
    """Name the first constant with NaN (or infinite) values, before LAPACK sees it; "" for none.

    A NaN anywhere makes the whole function NaN. Infinities are honest in attention masks, so
    that only weights and biases must be without them.
    """
    for weight in constants:
        values = weight.read()
        if not values.is_floating_point():
            continue
        nan = torch.isnan(values.to(torch.float64))
        unfit = nan | torch.isinf(values.to(torch.float64)) if infinity else nan
        if bool(unfit.any()):
            nans, bad = int(nan.sum()), int(unfit.sum())
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


def _widened(norm: Norm, weight: Constant) -> Norm:
    """Let the enclosure cover the rounding of a weight that was computed, not stored."""
    slack = _slack(weight)
    if slack is None:
        known = norm.enclosure
        least = min(known.rigor, Rigor.NUMERICAL)
        return replace(norm, enclosure=Enclosure(known.lo, known.hi, least))
    return replace(norm, enclosure=norm.enclosure.widened(slack)) if slack.hi else norm


def _with_room(compute: Compute, weight: Constant) -> Compute:
    """Let what is enough leave room for what the rounding of a computed weight will add."""
    if compute.enough is None or weight.entry_error == 0:
        return compute
    slack = _slack(weight)
    left = 0.0 if slack is None else compute.enough - slack.upper * (1.0 + 2.0**-50)
    return replace(compute, enough=left if left > 0 else None)


def _loosened(spectrum: Spectrum | None, weight: Constant) -> Spectrum | None:
    """Let the radius of a spectrum cover it likewise (Weyl's inequality)."""
    if spectrum is None or spectrum.rigor is not Rigor.PROVED:
        return spectrum
    slack = _slack(weight)
    if slack is None:
        return replace(spectrum, rigor=Rigor.NUMERICAL, radius=0.0, accuracy=spectrum.radius)
    radius = slack.plus(Enclosure.exactly(spectrum.radius)).upper if slack.hi else spectrum.radius
    return replace(spectrum, radius=radius)


def _slack(weight: Constant) -> Enclosure | None:
    """Bound by how much a rounded weight moves the operator; None where nobody can.

    If every entry is off by at most ε relatively, the operator is off by a convolution whose
    taps E_p have |E_p| <= ε|K_p|; its norm is at most Σ_p ‖E_p‖_F <= ε √taps ‖K‖_F.
    Without such an ε (the weight is a sum that was folded) nothing is proved.
    """
    if weight.entry_error == 0:
        return Enclosure.exactly(0)
    if math.isinf(weight.entry_error):
        return None
    taps = math.prod(weight.shape[2:])
    values = weight.values().abs()
    # Σ|w| >= ‖K‖_F, and the factor 2 covers its own rounding and ε relative to the computed.
    return Enclosure.exactly(2 * weight.entry_error * taps).times(
        Enclosure.exactly(float(values.sum()))
    )


def _trusted_leading(operator: AbstractLinearOperator, weight: Constant) -> Leading | None:
    """Return the leading values, unless they are those of a weight that is itself rounded."""
    return operator.leading() if weight.entry_error == 0 else None


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
