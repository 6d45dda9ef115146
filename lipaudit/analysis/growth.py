"""Growth: how a random movement, and a random gradient, typically grow with depth. An estimate.

A layer stretches a random direction by √(Σσ² / n), its root mean square; the movements of
branches are taken for independent, so that their squares add up. A function of one number is
taken to pass what its slopes are on average: the root of the mean square of their ends.
"""

import math
from collections.abc import Mapping

from lipaudit.analysis.bounds.base import Question
from lipaudit.layers.base import AbstractGainLayer, AbstractLinearLayer, Gain


def typical_growth(question: Question) -> Mapping[str, tuple[float, float]]:
    """Return for every edge the growth from the input to it, and of gradients back to it.

    Empty where the stretch of some layer is not known.
    """
    network = question.network
    forward = dict.fromkeys(question.sources, 1.0)
    shares: list[tuple[tuple[float, ...], tuple[float, ...]]] = []
    for number, step in enumerate(network.steps):
        known = _shares(question, number)
        if known is None:
            return {}
        shares.append(known)
        arriving = [forward.get(name, 0.0) for name in step.signals]
        leaving = math.hypot(*(g * x for g, x in zip(known[0], arriving, strict=True)))
        forward.update({name: leaving for name in step.node.outputs if name})
    backward = dict.fromkeys(question.targets, 1.0)
    for step, (_, back) in zip(reversed(network.steps), reversed(shares), strict=True):
        leaving = math.hypot(*(backward.get(name, 0.0) for name in step.node.outputs if name))
        for share, name in zip(back, step.signals, strict=True):
            backward[name] = math.hypot(backward.get(name, 0.0), share * leaving)
    return {
        name: (value, backward.get(name, 0.0))
        for name, value in forward.items()
        if math.isfinite(value) and math.isfinite(backward.get(name, 0.0))
    }


def _shares(question: Question, number: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the typical stretch of each signal, forward and backward; None where unknown."""
    step, gain = question.network.steps[number], question.gains[number]
    if not step.signals:  # a layer of the file that the network does not reach
        return (), ()
    if isinstance(step.layer, AbstractLinearLayer):
        known = question.expected.get(number)
        return None if known is None else ((known[0],), (known[1],))
    if not isinstance(gain, Gain) or not all(factor.is_finite for factor in gain.factors):
        return None
    worst = tuple(factor.upper for factor in gain.factors)
    slopes = step.layer.slopes if isinstance(step.layer, AbstractGainLayer) else None
    if slopes is not None:
        low, high = float(slopes.lo), float(slopes.hi)
        worst = (math.sqrt((low * low + high * high) / 2),)
    return worst, worst
