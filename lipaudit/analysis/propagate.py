"""Propagation: from the stretch of each node to the stretch from an input to every edge."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from lipaudit.analysis.normless import unfit
from lipaudit.enclosure import (
    ONE,
    ZERO,
    Enclosure,
    largest,
    root_sum_of_squares,
    total,
)
from lipaudit.layers.base import AbstractGainLayer, AbstractLinearLayer, Combine, Gain, Unbounded
from lipaudit.layers.network import Network, Opaque, Step
from lipaudit.operators.base import Norm

StepGain = Gain | Unbounded
Rule = Callable[[Gain, Sequence[Enclosure]], Enclosure]
"""Combine a node's gain with the stretch of each of its signals."""

Refine = Callable[[str, Mapping[str, Enclosure], Enclosure], Enclosure]
"""Return the least that is known of an edge: its name, all edges before, what the rule gave."""


@dataclass(frozen=True, slots=True)
class Flow:
    """The stretch from one graph input (the others held still) to every edge."""

    source: str
    edges: Mapping[str, Enclosure]
    blocked: Mapping[int, str]
    """Step number -> why nothing finite leaves it, where something reaches it."""


def step_gains(network: Network, norms: Mapping[int, Norm | str]) -> tuple[StepGain, ...]:
    """Return the gain of every step; `norms` holds the linear ones by step number.

    A linear step whose norm could not be found has the reason instead.
    """
    return tuple(
        _step_gain(network, step, norms.get(number)) for number, step in enumerate(network.steps)
    )


def _step_gain(network: Network, step: Step, norm: Norm | str | None) -> StepGain:
    layer = step.layer
    if isinstance(layer, Opaque):
        return Unbounded(layer.slug, layer.reason)
    if isinstance(norm, str):
        return Unbounded("not-measured", norm)
    if norm is not None:
        return Gain((norm.enclosure,), method=norm.method)
    if isinstance(layer, AbstractLinearLayer):
        return Unbounded("not-measured", "its norm was not measured")
    discrete = _discrete_output(network, step)
    if discrete:
        return Unbounded("discontinuous", discrete)
    broken = unfit(network, step)
    if broken:
        return Unbounded("non-finite", broken)
    if isinstance(layer, AbstractGainLayer):
        try:
            return layer.gain(network.signal_shapes(step))
        except (RuntimeError, ValueError, TypeError, IndexError, ZeroDivisionError) as error:
            # Axes or positions that its signals do not have, where no shape was inferred.
            return Unbounded("shape", f"it does not fit its signals: {error}")
    return Unbounded("needs-shape", "its result is the shape of a signal, which is not known")


def _discrete_output(network: Network, step: Step) -> str:
    """Say why a node that turns real numbers into integers or truth values has no constant."""
    made = network.dtypes.get(step.node.outputs[0], "float32") if step.node.outputs else "float32"
    if is_continuous(made) or not any(
        is_continuous(network.dtypes.get(s, "")) for s in step.signals
    ):
        return ""
    return f"it turns real numbers into {made}"


def is_continuous(dtype: str) -> bool:
    """Tell whether values of this type can move by a little."""
    known = getattr(torch, dtype, None)
    return isinstance(known, torch.dtype) and (known.is_floating_point or known.is_complex)


def flow(
    network: Network,
    source: str,
    gains: Sequence[StepGain],
    rule: Rule,
    refine: Refine | None = None,
) -> Flow:
    """Carry a difference at one input through the graph; all other inputs stand still.

    `refine` may know a lower bound for an edge than the rule gives, from those before it.
    """
    edges: dict[str, Enclosure] = {
        edge.name: ONE if edge.name == source else ZERO for edge in network.graph.inputs
    }
    blocked: dict[int, str] = {}
    read = {name for step in network.steps for name in step.signals}
    read |= {edge.name for edge in network.graph.outputs}
    for number, (step, gain) in enumerate(zip(network.steps, gains, strict=True)):
        arriving = [edges.get(name, Enclosure.unknown()) for name in step.signals]
        if all(signal.is_zero for signal in arriving):
            leaving = ZERO  # whatever the node does, its inputs do not move
        elif isinstance(gain, Unbounded):
            leaving = Enclosure.unknown()
            if all(signal.is_finite for signal in arriving):
                blocked[number] = gain.reason
        else:
            leaving = rule(gain, arriving).without_lower()
        for position, name in enumerate(step.node.outputs):
            if not name:
                continue
            edges[name] = leaving if refine is None else refine(name, edges, leaving)
            if position in _discrete_positions(step) and not leaving.is_zero:
                edges[name] = Enclosure.unknown()
                if name in read and number not in blocked:
                    blocked[number] = "the positions it yields jump"
    return Flow(source, edges, blocked)


def jointly(flows: Sequence[Flow], targets: Sequence[str]) -> Enclosure:
    """Bound the movement of all targets together when all sources move together.

    |d_o| <= Σ_i L_oi |d_i| <= √(Σ_i L_oi²) |d|, and the same root again over the targets.
    """
    return root_sum_of_squares(
        root_sum_of_squares(one.edges.get(target, ZERO) for one in flows) for target in targets
    )


def backflow(
    network: Network, gains: Sequence[StepGain], targets: Sequence[str]
) -> Mapping[str, Enclosure]:
    """Bound by how much all targets together move when one edge moves by 1, for every edge."""
    edges: dict[str, Enclosure] = dict.fromkeys(targets, ONE)
    for step, gain in zip(reversed(network.steps), reversed(gains), strict=True):
        leaving = total(edges.get(name, ZERO) for name in step.node.outputs if name)
        for at, name in enumerate(step.signals):
            sent = gain.factors[at].times(leaving) if isinstance(gain, Gain) else leaving
            if not isinstance(gain, Gain) and not leaving.is_zero:
                sent = Enclosure.unknown()
            edges[name] = edges.get(name, ZERO).plus(sent).without_lower()
    return edges


def _discrete_positions(step: Step) -> Sequence[int]:
    """Return which outputs hold positions or truth values beside real numbers (TopK)."""
    return step.layer.discrete_outputs if isinstance(step.layer, AbstractGainLayer) else ()


def summed(gain: Gain, arriving: Sequence[Enclosure]) -> Enclosure:
    """Add up: Σ g_i L_i, or √Σ (g_i L_i)² where the signals end in disjoint parts of the result."""
    terms = [factor.times(signal) for factor, signal in zip(gain.factors, arriving, strict=True)]
    return total(terms) if gain.combine is Combine.SUM else root_sum_of_squares(terms)


def largest_times_own(gain: Gain, arriving: Sequence[Enclosure]) -> Enclosure:
    """Multiply the largest L_i by the node's own stretch when all its signals move at once.

    Σ g_i L_i <= (Σ g_i) max L_i, and the same for root sums of squares: the bound of the
    longest path, in which a merge counts as one factor.
    """
    own = total(gain.factors) if gain.combine is Combine.SUM else root_sum_of_squares(gain.factors)
    return own.times(largest(arriving))
