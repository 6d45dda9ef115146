"""The two bounds that multiply gains along the graph: `product` and `graph`.

Both hold for the difference of all inputs at once (`propagate.jointly`).
"""

from typing import ClassVar

from lipaudit.analysis.bounds.base import AbstractBound, Question, register
from lipaudit.analysis.growth import typical_growth
from lipaudit.analysis.layerwise import kind, title
from lipaudit.analysis.propagate import (
    Flow,
    Rule,
    backflow,
    flow,
    jointly,
    largest_times_own,
    summed,
)
from lipaudit.enclosure import Enclosure
from lipaudit.layers.base import Gain
from lipaudit.results import Bound, Factor, Measure


@register
class Product(AbstractBound):
    """The classical bound: norms multiplied along the longest path, each merge one factor."""

    name: ClassVar[str] = "product"
    summary: ClassVar[str] = "product of the layers' norms (Szegedy et al. 2014)"

    def bound(self, question: Question) -> Bound:
        """Propagate with the longest-path rule."""
        return _propagated(question, self.name, largest_times_own)


@register
class GraphSum(AbstractBound):
    """The bound of the graph: branches add up, concatenated ones as the root of squares."""

    name: ClassVar[str] = "graph"
    summary: ClassVar[str] = "sum over the branches of the graph (Gouk et al. 2021)"

    def bound(self, question: Question) -> Bound:
        """Propagate with the sum rule."""
        return _propagated(question, self.name, summed)


def _propagated(question: Question, name: str, rule: Rule) -> Bound:
    network = question.network
    flows = [flow(network, source, question.gains, rule) for source in question.sources]
    whole = jointly(flows, question.targets)
    assumptions = [
        *question.assumptions,
        *(text for gain in question.gains if isinstance(gain, Gain) for text in gain.assumptions),
    ]
    return Bound(
        method=name,
        measure=Measure.of(whole, name),
        assumptions=tuple(dict.fromkeys(assumptions)),
        factors=_factors(question, flows, rule),
        reasons=() if whole.is_finite else _reasons(question, flows),
    )


def _factors(question: Question, flows: list[Flow], rule: Rule) -> tuple[Factor, ...]:
    """Return every node on the way, with its own stretch when all its signals move at once."""
    factors = []
    back = backflow(question.network, question.gains, question.targets)
    typical = typical_growth(question)
    for number, (step, gain) in enumerate(zip(question.network.steps, question.gains, strict=True)):
        running = jointly(flows, step.node.outputs[:1]) if step.node.outputs else None
        if running is None or running.is_zero:
            continue
        if isinstance(gain, Gain):
            own = Measure.of(rule(gain, [Enclosure.exactly(1)] * len(gain.factors)), gain.method)
        else:
            own = Measure.of(Enclosure.unknown(), gain.reason)
        forward, backward = typical.get(step.node.outputs[0], (None, None))
        factors.append(
            Factor(
                title(step),
                kind(step),
                own,
                Measure.of(running, merged_names(step.node.origin)),
                Measure.of(back.get(step.node.outputs[0], Enclosure.exactly(0)), ""),
                question.expected.get(number, (None,))[0],
                forward,
                backward,
            )
        )
    return tuple(factors)


def merged_names(origin: tuple[str, ...]) -> str:
    """Name the file's own nodes behind a step, when a rewrite merged several."""
    return " + ".join(origin) if len(origin) > 1 else ""


def _reasons(question: Question, flows: list[Flow]) -> tuple[str, ...]:
    """Say which nodes stop the bound: those that a finite stretch enters and none leaves."""
    steps = question.network.steps
    found = {
        number: f"{kind(steps[number])} {title(steps[number])!r}: {reason}"
        for one in flows
        for number, reason in one.blocked.items()
    }
    return tuple(found[number] for number in sorted(found))
