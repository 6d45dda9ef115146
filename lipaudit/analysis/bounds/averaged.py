"""The bound that lets singular vectors speak: norms of whole stretches of layers.

With the bends split as in `linear_parts`, the movement s_k of e_k obeys

    s_k <= r_k ‖dz_k‖,    ‖dz_k‖ <= Σ_j ‖M_kj‖ s_j

over the input (s = 1) and all earlier bends j. For activations with slopes in [0, 1], where c
and r are 1/2, this is theorem 4.2 of Combettes & Pesquet (SIAM J. Math. Data Sci. 2, 2020): θ_0 =
1, θ_k = Σ_j θ_j ‖W_k ... W_{j+1}‖, L <= θ_m / 2^(m-1). It holds for every range of slopes, and for
skips and branches as for chains: M_kj is the sum over all ways from j to k.

What is bounded by going one node at a time, as in the graph bound, is bounded so where that
is less.
"""

from collections.abc import Mapping
from typing import ClassVar

from lipaudit.analysis.bounds.base import AbstractBound, Question, register
from lipaudit.analysis.linear_parts import Bend, LinearParts
from lipaudit.analysis.propagate import Flow, flow, jointly, summed
from lipaudit.enclosure import ONE, ZERO, Enclosure, total
from lipaudit.layers.base import Gain
from lipaudit.results import Bound, Measure


@register
class Averaged(AbstractBound):
    """The norms of all stretches between two bends, weighted by how the bends average."""

    name: ClassVar[str] = "averaged"
    summary: ClassVar[str] = "norms of stretches of layers (Combettes & Pesquet 2020)"

    def bound(self, question: Question) -> Bound | None:
        """Add up over all stretches, for each input and output."""
        parts = question.parts
        if parts is None or not parts.written:
            return None
        flows = [movements(question, source) for source in question.sources]
        whole = jointly(flows, question.targets)
        used = [gain for gain in question.gains if isinstance(gain, Gain)]
        assumptions = [*question.assumptions, *(text for g in used for text in g.assumptions)]
        return Bound(
            method=self.name,
            measure=Measure.of(whole, f"{len(parts.parts)} stretches written out"),
            assumptions=tuple(dict.fromkeys(assumptions)),
            factors=(),
        )


def movements(question: Question, source: str) -> Flow:
    """Bound how far every edge moves when one input moves by 1 and the others stand still."""
    parts = question.parts
    if parts is None:
        return flow(question.network, source, question.gains, summed)
    bends = {bend.output: bend for bend in parts.bends}
    rests = {name: ONE if name == source else ZERO for name in question.sources}

    def refined(name: str, edges: Mapping[str, Enclosure], leaving: Enclosure) -> Enclosure:
        bend = bends.get(name)
        if bend is not None:
            rests[name] = _rest(bend, edges)
        written = _written(parts, name, rests)
        return written if written is not None and written.hi < leaving.hi else leaving

    return flow(question.network, source, question.gains, summed, refined)


def _rest(bend: Bend, edges: Mapping[str, Enclosure]) -> Enclosure:
    arriving = [edges.get(name, Enclosure.unknown()) for name in bend.signals]
    return ZERO if all(s.is_zero for s in arriving) else summed(bend.rest, arriving)


def _written(parts: LinearParts, edge: str, rests: Mapping[str, Enclosure]) -> Enclosure | None:
    """Return Σ_j ‖M_kj‖ s_j for an edge k, None where a matrix that counts is not written out."""
    terms = []
    for source, rest in rests.items():
        if rest.is_zero:
            continue
        part = parts.parts.get((edge, source))
        if part is not None:
            terms.append(part.norm.times(rest))
        elif source not in parts.written:
            return None
    if not terms:
        return None
    whole = total(terms)
    return Enclosure.at_most(whole.hi, min(whole.rigor, parts.rigor))
