"""Advice: which clip would bring the bound under its limit."""

import math
from dataclasses import replace

from lipaudit.analysis.bounds.base import Question
from lipaudit.analysis.propagate import StepGain, flow, jointly, summed
from lipaudit.enclosure import Enclosure
from lipaudit.layers.base import AbstractLinearLayer, Gain
from lipaudit.results import Headline

_HALVINGS = 40


def advice(question: Question, limit: float | None, headline: Headline | None) -> str:
    """Say to which norm all layers must be clipped; "" where the bound is finite and low enough.

    The bound of the graph grows with every layer's norm, so that the largest such number is
    found by halving.
    """
    if limit is None or headline is None or headline.measure.upper <= limit:
        return ""
    norms = [_norm(question, number) for number in range(len(question.gains))]
    largest = max((norm for norm in norms if norm is not None), default=0.0)
    if not 0 < largest < math.inf or not _clipped(question, norms, 0.0) <= limit:
        return "no clip of the layers' norms brings the bound under the limit"
    low, high = 0.0, largest
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _clipped(question, norms, middle) <= limit else (low, middle)
    if low == 0:
        return "no clip of the layers' norms brings the bound under the limit"
    shown = math.floor(low * 10 ** (3 - math.floor(math.log10(low)))) / 10 ** (
        3 - math.floor(math.log10(low))
    )
    above = sum(norm is not None and norm > shown for norm in norms)
    count = sum(norm is not None for norm in norms)
    folded = any(len(step.node.origin) > 1 for step in question.network.steps)
    option = " --fold-bn" if folded else ""
    way = f"lipaudit clip{option} --to {shown:.4g} would"
    return f"{way} bring the bound to {limit:g} or less ({above} of {count} layers are above)"


def _norm(question: Question, number: int) -> float | None:
    gain = question.gains[number]
    is_layer = isinstance(question.network.steps[number].layer, AbstractLinearLayer)
    return gain.factors[0].upper if is_layer and isinstance(gain, Gain) else None


def _clipped(question: Question, norms: list[float | None], to: float) -> float:
    """Return the graph's bound with every layer's norm at most that."""
    gains: list[StepGain] = [
        replace(gain, factors=(Enclosure.at_most(min(norm, to)),))
        if norm is not None and isinstance(gain, Gain)
        else gain
        for gain, norm in zip(question.gains, norms, strict=True)
    ]
    flows = [flow(question.network, source, gains, summed) for source in question.sources]
    return jointly(flows, question.targets).upper
