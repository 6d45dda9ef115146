"""Budget: limits of the layers that bring the bound of the whole network under one number.

Least total change: minimize Σ_i D_i(c_i)² subject to L(c) <= B, where D_i(c)² = Σ (σ - c)₊² is
what clipping layer i to c takes away (of its spectrum, scaled to the size of its weight) and L is
the graph's bound. At the minimum every layer gains as much by a little more room as every other:

    2 c Σ (σ - c)₊ = λ ∂log L/∂log c_i      (λ > 0 the same for all layers)

The left side rises as c falls from σ_1, and falls again when most of the layer is gone: to give a
layer up altogether can be the smallest change of all. Nobody means that, so each limit stays where
the left side still rises; if that is not enough, all are lowered by one factor from there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import numpy.typing as npt

from lipaudit.analysis import bounding
from lipaudit.analysis.bounding import Subject
from lipaudit.analysis.clipping.plan import place
from lipaudit.analysis.layerwise import Measured, matches, title
from lipaudit.analysis.propagate import StepGain, backflow, flow, jointly, summed
from lipaudit.device import Compute
from lipaudit.enclosure import ZERO, Enclosure
from lipaudit.graph.constant import put_of, rescale_of
from lipaudit.layers.base import AbstractLinearLayer, Gain
from lipaudit.results import LayerResult

Floats = npt.NDArray[np.float64]
_HALVINGS = 60
_ROUNDS = 8
_GRID = 400
"""Points between nothing and σ_1 at which the price of a limit is known."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A layer that may be clipped: what it costs to bring its norm to a share of what it is."""

    number: int
    """Of its step."""
    place: str
    norm: float
    shares: Floats
    """Falling from 1 to the least share that is sensible."""
    prices: Floats
    """2 c Σ (σ - c)₊ at these shares, rising."""

    @classmethod
    def of(cls, number: int, item: Measured, values: Floats, weight: float) -> "Layer":
        """Take the prices from singular values; they are scaled to the norm of the weight."""
        norm = item.result.norm.upper if isinstance(item.result, LayerResult) else 0.0
        relative = values / values[0]
        shares = np.linspace(1.0, 0.0, _GRID, endpoint=False)
        beyond = np.maximum(relative - shares[:, None], 0.0).sum(axis=1)
        prices = 2.0 * shares * beyond * weight**2 / np.square(relative).sum()
        last = int(prices.argmax()) + 1
        return cls(number, place(item), norm, shares[:last], np.maximum.accumulate(prices[:last]))

    def share(self, price: float) -> float:
        """Return the share at which the layer is worth so much."""
        return float(np.interp(price, self.prices, self.shares))


def limits_for(subject: Subject, bound: float, *, only: str | None) -> Mapping[str, float] | None:
    """Return a limit for every layer that has to change, by place; empty where none has to.

    None where even layers of no weight would not reach the bound.
    """
    gains = bounding.gains_of(subject)
    layers = _layers(subject, gains, only)
    shares = dict.fromkeys((layer.number for layer in layers), 1.0)
    if _bound(subject, gains, shares) <= bound:
        return {}
    for _ in range(_ROUNDS):
        weights = _weights(subject, _scaled(gains, shares))
        found = _priced(subject, gains, layers, weights, bound)
        moved = max(abs(math.log(found[n] / shares[n])) for n in shares) if shares else 0.0
        shares = found
        if moved < 1e-3:
            break
    shares = _lowered(subject, gains, shares, bound)
    if not all(shares.values()):
        return None
    return {
        layer.place: layer.norm * shares[layer.number]
        for layer in layers
        if shares[layer.number] < 1.0
    }


def _layers(subject: Subject, gains: Sequence[StepGain], only: str | None) -> list[Layer]:
    """Return the layers that may be changed and take part in the bound."""
    numbers = {id(step): number for number, step in enumerate(subject.network.steps)}
    compute = replace(subject.compute, full_spectra=True)
    layers = []
    for item in subject.measured:
        layer, number = item.step.layer, numbers[id(item.step)]
        if not isinstance(item.result, LayerResult) or not isinstance(layer, AbstractLinearLayer):
            continue
        weight = layer.weights()[0]
        writable = put_of(weight) is not None or rescale_of(weight) is not None
        gain = gains[number]
        if not writable or not isinstance(gain, Gain) or not matches(title(item.step), only):
            continue
        if not 0.0 < item.result.norm.upper < math.inf:
            continue
        size = float(weight.values().norm())
        layers.append(Layer.of(number, item, _values(subject, item, layer, compute), size))
    return layers


def _values(
    subject: Subject, item: Measured, layer: AbstractLinearLayer, compute: Compute
) -> Floats:
    """Return singular values of the layer; where they are out of reach, as many equal ones."""
    shapes = subject.network.signal_shapes(item.step)
    operator = layer.operator(shapes[0] if item.step.signals else None, compute)
    spectrum = operator.spectrum()
    if spectrum is not None and spectrum.values.size and spectrum.values[0] > 0:
        return spectrum.values
    size = operator.frobenius() or float(layer.weights()[0].values().norm())
    count = max(1, round((size / operator.norm().enclosure.upper) ** 2))
    return np.ones(count)


def _scaled(gains: Sequence[StepGain], shares: Mapping[int, float]) -> list[StepGain]:
    """Return the gains with the layers at a share of their norms."""
    return [
        replace(gain, factors=(Enclosure.at_most(gain.factors[0].upper * shares[number]),))
        if number in shares and isinstance(gain, Gain)
        else gain
        for number, gain in enumerate(gains)
    ]


def _bound(subject: Subject, gains: Sequence[StepGain], shares: Mapping[int, float]) -> float:
    scaled = _scaled(gains, shares)
    flows = [flow(subject.network, source, scaled, summed) for source in subject.sources]
    return jointly(flows, subject.targets).upper


def _weights(subject: Subject, gains: Sequence[StepGain]) -> dict[int, float]:
    """Return about ∂log L/∂log c of each step: its share in the sum over all paths."""
    back = backflow(subject.network, gains, subject.targets)
    flows = [flow(subject.network, source, gains, summed) for source in subject.sources]
    whole = max(jointly(flows, subject.targets).log10_upper, -300.0)
    weights = {}
    for number, step in enumerate(subject.network.steps):
        if not step.signals or not step.node.outputs:
            continue
        out = step.node.outputs[0]
        reached = jointly(flows, [out]).log10_upper
        onward = back.get(out, ZERO).log10_upper
        weights[number] = 10.0 ** min(reached + onward - whole, 0.0)
    return weights


def _priced(
    subject: Subject,
    gains: Sequence[StepGain],
    layers: Sequence[Layer],
    weights: Mapping[int, float],
    bound: float,
) -> dict[int, float]:
    """Return the shares at the least price for which the bound is met, by halving."""

    def at(price: float) -> dict[int, float]:
        return {
            layer.number: layer.share(price * weights.get(layer.number, 0.0)) for layer in layers
        }

    highest = max(
        (
            float(layer.prices[-1]) / weights[layer.number]
            for layer in layers
            if weights.get(layer.number, 0.0) > 0
        ),
        default=0.0,
    )
    low, high = -40.0, math.log(max(highest, 1e-30))
    low += high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _bound(subject, gains, at(math.exp(middle))) <= bound:
            high = middle
        else:
            low = middle
        if high - low < 1e-4:
            break
    return at(math.exp(high))


def _lowered(
    subject: Subject, gains: Sequence[StepGain], shares: dict[int, float], bound: float
) -> dict[int, float]:
    """Lower all shares by one factor where the prices alone do not reach the bound."""
    if _bound(subject, gains, shares) <= bound or not shares:
        return shares
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2 if low else high / 4
        if _bound(subject, gains, {n: share * middle for n, share in shares.items()}) <= bound:
            low = middle
        else:
            high = middle
        if (low and high / low < 1.0001) or high < 1e-280:
            break
    return {number: share * low for number, share in shares.items()}
