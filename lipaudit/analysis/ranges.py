"""Ranges: which values every edge can take, and what that says about nodes without a global gain.

A product of two signals, a quotient, attention or exp stretch without bound on unbounded
signals. After a normalization or a squashing activation, or on a bounded input, they do not.
"""

import math
from collections.abc import Mapping, Sequence

import torch

from lipaudit.analysis.forward import largest_bytes
from lipaudit.analysis.propagate import StepGain
from lipaudit.errors import LipauditError
from lipaudit.layers.base import AbstractGainLayer, AbstractLinearLayer, Gain, Unbounded
from lipaudit.layers.execution import load
from lipaudit.layers.network import Network, Step
from lipaudit.layers.values import MOST_TERMS, SLACK, Values, at_least, enclosing

_BROKEN = (
    LipauditError, RuntimeError, ValueError, TypeError, IndexError, KeyError, ZeroDivisionError
)  # fmt: skip
"""An operation that does not run on such values bounds nothing."""


def refined(
    network: Network, gains: Sequence[StepGain], inputs: Mapping[str, Values], max_memory: int
) -> tuple[StepGain, ...]:
    """Return the gains with those replaced that bounds of the values can make finite."""
    if not are_open(network, gains):
        return tuple(gains)
    known = _values(network, gains, inputs, max_memory)
    return tuple(
        _within(network, step, gain, known) if _is_open(step, gain) else gain
        for step, gain in zip(network.steps, gains, strict=True)
    )


def are_open(network: Network, gains: Sequence[StepGain]) -> bool:
    """Tell whether there are gains that bounds of the values could make finite."""
    return any(_is_open(step, gain) for step, gain in zip(network.steps, gains, strict=True))


def _is_open(step: Step, gain: StepGain) -> bool:
    return isinstance(gain, Unbounded) and isinstance(step.layer, AbstractGainLayer)


def _within(network: Network, step: Step, gain: StepGain, known: Mapping[str, Values]) -> StepGain:
    """Ask a layer for its stretch between the values; keep the old answer where it has none."""
    if not isinstance(step.layer, AbstractGainLayer) or not isinstance(gain, Unbounded):
        return gain
    if gain.slug in {"non-finite", "discontinuous"}:
        return gain
    shapes = network.signal_shapes(step)
    values = [
        known.get(name, Values.unknown()).of_shape(shape)
        for name, shape in zip(step.signals, shapes, strict=True)
    ]
    try:
        return step.layer.gain_within(shapes, values)
    except _BROKEN:
        return gain


def _values(
    network: Network, gains: Sequence[StepGain], inputs: Mapping[str, Values], max_memory: int
) -> Mapping[str, Values]:
    """Bound the values of every edge, in the order of the graph."""
    known = dict(inputs)
    for step, gain in zip(network.steps, gains, strict=True):
        try:
            made = step_values(network, step, gain, known, max_memory)
        except _BROKEN:
            made = ()
        for name, values in zip(step.node.outputs, made, strict=False):
            shape = network.shapes.get(name)
            if shape is None or values.lo.shape in {torch.Size(), shape}:
                known[name] = values
    return known


def step_values(
    network: Network, step: Step, gain: StepGain, known: Mapping[str, Values], max_memory: int
) -> tuple[Values, ...]:
    """Bound the values of one step's results; () where nothing is known of them."""
    if largest_bytes(step) > max_memory:
        return ()
    arriving: list[Values | None] = []
    for at, name in enumerate(step.node.inputs):
        constant = step.constants.get(at)
        if constant is not None:
            if constant.entry_error > SLACK:
                return ()
            arriving.append(Values.exactly(load(constant, torch.float64)))
        elif name:
            arriving.append(known.get(name, Values.unknown()).of_shape(network.shapes.get(name)))
        else:
            arriving.append(None)
    if isinstance(step.layer, AbstractLinearLayer):
        return _affine(step, step.layer, gain, arriving)
    if not isinstance(step.layer, AbstractGainLayer):
        return ()
    if max((v.lo.numel() for v in arriving if v is not None), default=0) > MOST_TERMS:
        # More terms than the allowance for rounding covers could be added up.
        return step.layer.values(arriving) if not step.layer.is_rising else ()
    return step.layer.values(arriving)


def _affine(
    step: Step, layer: AbstractLinearLayer, gain: StepGain, inputs: Sequence[Values | None]
) -> tuple[Values, ...]:
    """Bound A x + c for x = m ± r: it is A m + c ± |A| r, where |A| has the moduli of the weights.

    A row of x of bounded length becomes one of at most ‖A‖ times that, and ‖c‖ more.
    """
    (at,) = (n for n, v in enumerate(inputs) if n not in step.constants and v is not None)
    x = inputs[at]
    weights = {id(weight) for weight in layer.weights()}
    main = [n for n, constant in step.constants.items() if id(constant) in weights]
    if x is None or not x.is_finite or len(main) != 1:
        return layer.values(inputs)
    weight = step.constants[main[0]]
    if weight.items > MOST_TERMS * min(weight.shape[:2], default=1):
        return ()

    def run(signal: torch.Tensor, *, moduli: bool) -> torch.Tensor:
        arguments = [None if v is None else v.lo for v in inputs]
        arguments[at] = signal
        if moduli:
            arguments[main[0]] = _modulus(arguments[main[0]])
        return layer.forward(arguments)[0]

    middle, radius = (x.lo + x.hi) / 2, (x.hi - x.lo) / 2
    zero = torch.zeros_like(middle)
    still = run(zero, moduli=False)
    spread = (run(radius, moduli=True) - still).abs()
    moduli = (run(x.magnitude, moduli=True) - still).abs() + 2.0 * still.abs()
    centre = run(middle, moduli=False)
    made = enclosing(centre - spread, centre + spread, moduli)
    rows = _rows(layer, x, gain)
    if not math.isfinite(rows):
        return (made,)
    length = rows + at_least(float(torch.linalg.vector_norm(still, dim=-1).max())).upper
    return (made.with_row(at_least(length).upper),)


def _rows(layer: AbstractLinearLayer, x: Values, gain: StepGain) -> float:
    """Bound the length of a row of A x, where A acts on each row of x by itself."""
    if x.axis != -1 or not math.isfinite(x.row) or not isinstance(gain, Gain):
        return math.inf
    return gain.factors[0].upper * x.row if layer.acts_on_rows else math.inf


def _modulus(value: torch.Tensor | None) -> torch.Tensor | None:
    return None if value is None else value.abs()
