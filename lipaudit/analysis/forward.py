"""Forward: a network run in float64 on many inputs at once."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch.nn import functional

from lipaudit.errors import LipauditError, NotCertified
from lipaudit.graph.constant import Constant, computed
from lipaudit.graph.node import Edge
from lipaudit.layers.base import AbstractLayer, Call
from lipaudit.layers.execution import load, run
from lipaudit.layers.network import Network, Step
from lipaudit.layers.operands import Outputs, operand, operands

Rows = Mapping[str, torch.Tensor]
"""Values by name, one input a row: a first axis in front of the shape that the network knows."""

_MOST_KEPT = 1 << 26
"""Numbers of constants that are kept in float64 between runs (half a gigabyte)."""
_FLOAT64 = 8
_AGREEMENT = 1e-9
"""Runs side by side add up in another order than one alone; anything beyond that is a bug."""


@final
class Forward:
    """The map from a network's inputs to its outputs, on rows of inputs.

    Graphs are written for one batch size, which their constants repeat, so that rows cannot be
    joined to a batch. `torch.vmap` runs the graph as it is written on all rows side by side;
    where an operation does not allow that, one row is run after the other.
    """

    def __init__(self, network: Network) -> None:
        self._network = at_hand(network)
        self._side_by_side: bool | None = None

    @property
    def side_by_side(self) -> bool:
        """Whether rows are run together, as far as is known."""
        return self._side_by_side is not False

    def __call__(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Return the outputs by name, one row for each row of the inputs."""
        count = min(len(values) for values in rows.values())
        if count > 1 and self._side_by_side is not False:
            made = self._together(rows)
            if made is not None:
                return made
        each = [
            self._one({name: values[at] for name, values in rows.items()}) for at in range(count)
        ]
        return {name: torch.stack([values[name] for values in each]) for name in each[0]}

    def _one(self, inputs: Rows) -> dict[str, torch.Tensor]:
        return run(self._network, inputs, dtype=torch.float64)

    def _together(self, rows: Rows) -> dict[str, torch.Tensor] | None:
        try:
            with warnings.catch_warnings():
                # It warns of operations that it runs row by row: they are right, only slow.
                warnings.simplefilter("ignore")
                made: dict[str, torch.Tensor] = torch.vmap(self._one)(dict(rows))
        except (LipauditError, RuntimeError, ValueError, TypeError):
            self._side_by_side = False
            return None
        if self._side_by_side is None:
            with torch.no_grad():
                alone = self._one({name: values[0] for name, values in rows.items()})
            self._side_by_side = all(_same(made[name][0], alone[name]) for name in alone)
        return made if self._side_by_side else None


def at_hand(network: Network) -> Network:
    """Return the network with its constants read and converted once, if they are not too many."""
    if taken_bytes(network) > _FLOAT64 * _MOST_KEPT:
        return network
    kept: dict[int, Constant] = {}

    def kept_one(constant: Constant) -> Constant:
        if id(constant) not in kept:
            try:
                values = load(constant, torch.float64).detach()
            except NotCertified:  # the run will say so, if it needs the constant
                return constant
            kept[id(constant)] = computed(constant.name, values)
        return kept[id(constant)]

    return replace(
        network,
        steps=tuple(
            replace(step, constants={at: kept_one(c) for at, c in step.constants.items()})
            for step in network.steps
        ),
    )


def largest_bytes(step: Step) -> int:
    """Return what the largest constant of a step takes in float64."""
    return _FLOAT64 * max((constant.items for constant in step.constants.values()), default=0)


def taken_bytes(network: Network) -> int:
    """Return what all constants take in float64, each of them once."""
    stored = {id(one): one.items for step in network.steps for one in step.constants.values()}
    return _FLOAT64 * sum(stored.values())


def observed(network: Network, edges: Sequence[str]) -> Network:
    """Return the network with other outputs: any edges of it."""
    outputs = tuple(Edge(name, dtype=network.dtypes.get(name, "float32")) for name in edges)
    return replace(network, graph=replace(network.graph, outputs=outputs))


def softened(network: Network, width: float) -> Network | None:
    """Return the network with the kinks of its ReLUs rounded off; None when it has none.

    It is another function. Its second derivatives say where the slopes of the true one change,
    which the true one's, zero wherever they exist, do not.
    """
    steps = tuple(_softened(step, width) for step in network.steps)
    return None if steps == network.steps else replace(network, steps=steps)


def _softened(step: Step, width: float) -> Step:
    if step.node.op not in _KINKED or step.node.domain or not isinstance(step.layer, AbstractLayer):
        return step
    made = Softened.from_node(Call(step.node, step.constants))
    return replace(step, layer=replace(made, width=width))


_KINKED = frozenset({"Relu", "LeakyRelu", "PRelu"})


@final
@dataclass(frozen=True, slots=True)
class Softened(AbstractLayer):
    """Relu, LeakyRelu or PRelu with softplus in place of the kink."""

    below: float | None
    """Slope left of 0; None: the second input."""
    width: float = 1.0
    """Of the rounded part, in units of the signal's root mean square."""

    @classmethod
    def from_node(cls, call: Call) -> "Softened":
        """Read the slope."""
        if call.node.op == "PRelu":
            return cls(None)
        return cls(call.attribute("alpha", 0.01) if call.node.op == "LeakyRelu" else 0.0)

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> Outputs:
        """Return a·x + (1 - a)·w·softplus(x/w)."""
        signal = operand(inputs)
        below = operands(inputs)[1] if self.below is None else self.below
        reach = self.width * signal.detach().square().mean().sqrt() + 1e-300
        return (below * signal + (1 - below) * reach * functional.softplus(signal / reach),)


def _same(mine: torch.Tensor, truth: torch.Tensor) -> bool:
    mine, truth = mine.detach(), truth.detach()
    if mine.shape != truth.shape:
        return False
    scale = float(truth.abs().max()) if truth.is_floating_point() and truth.numel() else 0.0
    slack = _AGREEMENT * scale if scale < float("inf") else 0.0
    return torch.allclose(mine, truth, rtol=_AGREEMENT, atol=slack, equal_nan=True)
