"""Layers that work item by item, run in floating point: sums, functions of one number, choices."""

from collections.abc import Sequence

import torch

from lipaudit.analysis.propagate import is_continuous, summed
from lipaudit.analysis.rounding.arithmetic import Signal, Unprovable
from lipaudit.analysis.rounding.place import Place, largest_entry, length
from lipaudit.enclosure import ONE, Enclosure, largest, total
from lipaudit.graph.constant import Constant
from lipaudit.layers.base import AbstractLayer
from lipaudit.layers.pointwise import Pointwise
from lipaudit.operators.certify import ROOM

ELEMENTARY = (
    "elementary functions (tanh, sigmoid, erf, ...) are off by at most 8 units in the last place "
    "of their value, of their argument, and of 1"
)

_EXACT = frozenset({"Abs", "Neg", "ReLU6", "Relu", "ThresholdedRelu"})
_BY_ARITHMETIC = frozenset(
    {
        "HardSigmoid",
        "HardSwish",
        "Hardsigmoid",
        "Hardtanh",
        "LeakyRelu",
        "Shrink",
        "Softsign",
        "Threshold",
    }
)
_ELEMENTARY = frozenset(
    {
        "Asinh",
        "Atan",
        "Celu",
        "Cos",
        "Elu",
        "Erf",
        "Gelu",
        "LogSigmoid",
        "Mish",
        "Selu",
        "Sigmoid",
        "Sin",
        "Softplus",
        "Swish",
        "Tanh",
        "Tanhshrink",
    }
)
ROUNDED_FUNCTIONS = _EXACT | _BY_ARITHMETIC | _ELEMENTARY
"""The functions of one number about whose rounding something is stated."""

_CEILINGS = {
    "Atan": 2,
    "Cos": 1,
    "Erf": 1,
    "HardSigmoid": 1,
    "Hardsigmoid": 1,
    "ReLU6": 6,
    "Sigmoid": 1,
    "Sin": 1,
    "Softsign": 1,
    "Tanh": 1,
}
"""A bound of |f| everywhere."""


def moved(place: Place, signals: Sequence[Signal]) -> Signal:
    """Put items elsewhere, or choose among them: nothing is rounded, and 0 stays 0."""
    return Signal(
        summed(place.gain, [signal.value for signal in signals]),
        summed(place.gain, [signal.error for signal in signals]),
    )


def chosen(place: Place, layer: AbstractLayer, signals: Sequence[Signal]) -> Signal:
    """Choose among items and stored numbers, of which only these are rounded (to the format)."""
    leaving = moved(place, signals)
    stored = [c for c in place.constants.values() if is_continuous(c.dtype)]
    if not stored:
        return leaving
    worst = largest(_displaced(place, constant) for constant in stored)
    return Signal(
        leaving.value.plus(_at_zero(place, layer)),
        leaving.error.plus(worst.times(Enclosure.sqrt_of(place.items))),
    )


def _displaced(place: Place, constant: Constant) -> Enclosure:
    """Bound by how much a stored number moves when it is rounded to the format."""
    # An end past all numbers of the format is no end: the values are below it (`check`).
    is_end = place.node.op == "Clip"
    if is_end and bool((constant.values().abs() >= place.arithmetic.kept.largest).all()):
        return Enclosure.exactly(0)
    return largest_entry(place.held(constant).moved)


def _at_zero(place: Place, layer: AbstractLayer) -> Enclosure:
    """Bound ‖f(0)‖ of a layer that only chooses, by running it: ‖f(x)‖ <= ‖f(0)‖ + g‖x‖."""
    shapes = iter(place.shapes)
    inputs: list[torch.Tensor | None] = []
    for at, name in enumerate(place.node.inputs):
        constant = place.constants.get(at)
        if constant is not None:
            real = is_continuous(constant.dtype)
            inputs.append(constant.values() if real else constant.read())
        else:
            inputs.append(torch.zeros(next(shapes), dtype=torch.float64) if name else None)
    made = layer.forward(inputs)[0]
    if not bool(torch.isfinite(made).all()):
        raise Unprovable("it makes infinite values")
    return length(made)


def merged(place: Place, signals: Sequence[Signal]) -> Signal:
    """Add, subtract or average signals and stored tensors."""
    count = len(place.node.inputs)
    is_mean = place.node.op == "Mean"
    whole = Enclosure.exactly(count if is_mean else 1)
    held = [place.held(constant) for constant in place.constants.values()]
    shifted = total(place.spread(one.moved) for one in held).over(whole)
    # ‖c‖ <= ‖ĉ‖ + ‖ĉ - c‖.
    stored = total(place.spread(one.values) for one in held).over(whole).plus(shifted)
    value = summed(place.gain, [signal.value for signal in signals]).plus(stored)
    error = summed(place.gain, [signal.error for signal in signals]).plus(shifted)
    # A sum of k terms is rounded k - 1 times, a mean twice more: the divisor, or its inverse.
    roundings = max(count - 1, 0) + (2 if is_mean else 0)
    if not roundings:
        return Signal(value, error)
    kappa = place.arithmetic.kappa(roundings - 1, stores=roundings)
    size = value.plus(error)
    sums = size.times(whole).times(ONE.plus(kappa))
    place.arithmetic.check(sums, place.arithmetic.kept)
    lost = place.arithmetic.tiny(count if is_mean else 0, kappa, stores=count if is_mean else 0)
    lost = lost.times(Enclosure.sqrt_of(place.items))
    return Signal(value, total((error, kappa.times(size), lost)))


def scaled(place: Place, signal: Signal) -> Signal:
    """Multiply with a stored factor, or divide by a stored divisor."""
    (constant,) = place.constants.values()
    is_rounded = not place.held(constant).is_exact
    sizes = constant.values().abs()
    if is_rounded and bool(((sizes > 0) & (sizes < place.arithmetic.kept.normal)).any()):
        raise Unprovable(f"{constant.name!r} has numbers that underflow")
    # The rounded constant counts twice, since 1/(1 - u) > 1 + u.
    kappa = place.arithmetic.kappa(2 if is_rounded else 0, stores=3 if is_rounded else 1)
    kappa = kappa.plus(Enclosure.exactly(4 * constant.entry_error))
    tiny = place.arithmetic.tiny(1, kappa, stores=1).times(Enclosure.sqrt_of(place.items))
    gain = place.factor
    error = total((gain.times(signal.error), kappa.times(gain.times(signal.reach)), tiny))
    return Signal(gain.times(signal.value), error)


def applied(place: Place, layer: Pointwise, signal: Signal) -> Signal:
    """Apply f to every item: |computed - f(x̂)| <= c(|f(x̂)| + s|x̂| + max(1, s)).

    With s the largest slope, that is an error forward, backward and absolute: libraries compute
    x·Φ(x) with an error of a few u·|x| where Φ(x) is tiny, and erf(x), exp(x) - 1 or
    log(1 + exp x) with one of a few u. A few sums and products do better (`_few_roundings`).
    """
    op, slope, kept = place.node.op, place.factor, place.arithmetic.kept
    root = Enclosure.sqrt_of(place.items)
    # Elementary functions at 0 in float64 are right to a few units; ROOM is 8192 of them.
    start = float(layer.function(torch.zeros(1, dtype=torch.float64)).abs())
    at_zero = root.times(Enclosure.at_most(start * ROOM))
    ceiling = root.times(Enclosure.at_most(_CEILINGS[op])) if op in _CEILINGS else None
    value = _lower_of(slope.times(signal.value).plus(at_zero), ceiling)
    if op in _EXACT:
        return Signal(value, slope.times(signal.error))
    attained = _lower_of(slope.times(signal.reach).plus(at_zero), ceiling)
    if op in _BY_ARITHMETIC:
        return Signal(value, _few_roundings(place, signal, attained))
    if op not in ROUNDED_FUNCTIONS:
        raise Unprovable("how its arithmetic rounds is not modelled")
    place.assumed.add(ELEMENTARY)
    # 8 units in the last place are 16u; a half may be stored on the way, in up to 4 roundings.
    is_mixed, unit = place.arithmetic.is_mixed, Enclosure.exactly(16 * place.arithmetic.summed.unit)
    doubt = unit.plus(Enclosure.exactly(4 * kept.unit if is_mixed else 0.0))
    absolute = unit.plus(Enclosure.exactly(4 * kept.least)).times(ONE.larger(slope)).times(root)
    rounding = doubt.times(attained.plus(slope.times(signal.reach))).plus(absolute)
    return Signal(value, slope.times(signal.error).plus(rounding))


def leaky(place: Place, signal: Signal) -> Signal:
    """Multiply the negative items by a stored slope."""
    (constant,) = place.constants.values()
    if constant.entry_error:
        raise Unprovable(f"{constant.name!r} is computed, not stored")
    place.held(constant)
    attained = place.factor.times(signal.reach)
    error = _few_roundings(place, signal, attained)
    return Signal(place.factor.times(signal.value), error)


def _few_roundings(place: Place, signal: Signal, attained: Enclosure) -> Enclosure:
    """Return the error of a function made of a few sums and products: c = 6u in `applied`.

    The worst is clip(αx + β): α, β, the product and the sum are rounded, which is 3u|αx| + 2u|β|,
    and |β| <= |αx + β| + |αx|; x times it has a product more, but 3/2 for its steepest slope.
    """
    kept, slope = place.arithmetic.kept, place.factor
    rounding = Enclosure.exactly(6 * kept.unit).times(attained.plus(slope.times(signal.reach)))
    # A factor that underflows is off by η/2, times |x|; so is each product, and a stored end.
    lost = signal.reach.plus(Enclosure.sqrt_of(4 * place.items)).times(ONE.plus(slope))
    tiny = Enclosure.exactly(kept.least).times(lost)
    return total((slope.times(signal.error), rounding, tiny))


def _lower_of(bound: Enclosure, ceiling: Enclosure | None) -> Enclosure:
    return bound if ceiling is None or bound.hi <= ceiling.hi else ceiling
