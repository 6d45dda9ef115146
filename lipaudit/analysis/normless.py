"""Normless: nodes whose weights make no linear layer, so that no norm of theirs is measured.

They must not be passed over: a weight that is no number spoils the network wherever it stands,
and a limit for norms says nothing of a node that has none.
"""

from collections.abc import Iterator

from lipaudit.analysis.layerwise import Wish, kind, non_finite, title
from lipaudit.layers.base import AbstractLinearLayer
from lipaudit.layers.network import Network, Opaque, Step
from lipaudit.results import Skipped

_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_PARAMETRIC = _RECURRENT | {
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "PRelu",
    "RMSNormalization",
}
"""Nodes whose constants are learned: an infinity among them is no mask."""
_NORMALIZATIONS = frozenset({"BatchNormalization"})
_SUMS = frozenset({"Add", "Sub", "Sum"})


def recurrent(network: Network, wish: Wish | None = None) -> tuple[str, ...]:
    """Name the recurrent nodes: they have matrices, and no norm of their own."""
    return tuple(
        title(step)
        for step in network.steps
        if step.node.op in _RECURRENT
        and not isinstance(step.layer, Opaque)
        and (wish or Wish()).means(step)
    )


def broken(network: Network, wish: Wish | None = None) -> tuple[Skipped, ...]:
    """Return the nodes without a norm that hold weights which are not numbers."""
    steps = (s for s in network.steps if not isinstance(s.layer, AbstractLinearLayer | Opaque))
    return tuple(_broken(network, (step for step in steps if (wish or Wish()).means(step))))


def broken_normalizations(network: Network) -> tuple[Skipped, ...]:
    """Return the batch norms that hold statistics which are not numbers.

    Folded into the layer before it, an infinite variance is a harmless 0.
    """
    steps = (step for step in network.steps if step.node.op in _NORMALIZATIONS)
    return tuple(_broken(network, steps))


def unfit(network: Network, step: Step) -> str:
    """Name the first constant of a node that spoils what it makes; "" for none.

    NaN does everywhere. An infinity does among learned weights, and in a sum that leaves the
    network or enters a linear layer, where the difference of two is NaN; before a softmax it is
    a mask.
    """
    spoils = step.node.op in _PARAMETRIC | _NORMALIZATIONS
    spoils = spoils or (step.node.op in _SUMS and _is_lasting(network, step))
    return non_finite(tuple(step.constants.values()), infinity=spoils)


def _is_lasting(network: Network, step: Step) -> bool:
    made = set(step.node.outputs)
    return any(edge.name in made for edge in network.graph.outputs) or any(
        isinstance(after.layer, AbstractLinearLayer) and made.intersection(after.signals)
        for after in network.steps
    )


def _broken(network: Network, steps: Iterator[Step]) -> Iterator[Skipped]:
    for step in steps:
        try:
            problem = unfit(network, step)
        except TypeError:  # `Constant.read`: a dtype that torch has no name for
            continue
        if problem:
            yield Skipped(title(step), kind(step), "non-finite", problem)
