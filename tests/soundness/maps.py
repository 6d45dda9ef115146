"""Maps: networks as functions of one flat row, run by torch or from their graph."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from lipaudit.analysis.forward import Forward, observed
from lipaudit.analysis.propagate import is_continuous
from lipaudit.graph.node import Edge, Graph
from lipaudit.layers.network import Network, build
from tests.soundness.attack import Map
from tests.soundness.files import in_double
from tests.soundness.modules import Drawn

_LONG = 2.0**40


class OfModule:
    """A module of torch, in float64."""

    def __init__(self, drawn: Drawn) -> None:
        self._module = in_double(drawn.module)
        self._shape = drawn.shape
        self.size = math.prod(drawn.shape)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self._module(rows.reshape(len(rows), *self._shape)).flatten(1)
        return made


class OfNetwork:
    """A graph, run in float64 by lipaudit's own forward pass, which is held against others."""

    def __init__(
        self,
        network: Network,
        moving: Sequence[str],
        held: Mapping[str, torch.Tensor],
        targets: Sequence[str],
    ) -> None:
        self._forward = Forward(network)
        self.shapes = {name: network.shapes[name] or () for name in moving}
        self._held = {
            name: value.double() if value.is_floating_point() else value
            for name, value in held.items()
        }
        self._targets = targets
        self.size = sum(math.prod(shape) for shape in self.shapes.values())

    def fed(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return every input by name, one row for each row."""
        parts = torch.split(rows, [math.prod(shape) for shape in self.shapes.values()], 1)
        named = {
            name: part.reshape(len(rows), *self.shapes[name])
            for name, part in zip(self.shapes, parts, strict=True)
        }
        still = {n: v.expand(len(rows), *v.shape) for n, v in self._held.items()}
        return named | still

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        made = self._forward(self.fed(rows))
        real = [made[n] for n in self._targets if made[n].is_floating_point() and made[n].numel()]
        if not real:
            return torch.zeros(len(rows), 1, dtype=torch.float64)
        return torch.cat([value.reshape(len(rows), -1) for value in real], 1)


def real_inputs(graph: Graph) -> list[str]:
    """Return the inputs that can move a little."""
    return [edge.name for edge in graph.inputs if is_continuous(edge.dtype)]


def of_graph(graph: Graph, held: Mapping[str, torch.Tensor]) -> OfNetwork:
    """Return the map of a whole graph."""
    network = build(graph)
    targets = [edge.name for edge in graph.outputs]
    return OfNetwork(network, real_inputs(graph), held, targets)


def part_of(
    graph: Graph, entering: Sequence[str], leaving: str, held: Mapping[str, torch.Tensor]
) -> OfNetwork:
    """Return the map from some edges to another, every input of the network held.

    Edges that cannot move a little, as the condition of a choice, are held where those put them.
    """
    whole = build(graph)
    made = [
        replace(node, outputs=tuple("" if n in entering else n for n in node.outputs))
        for node in graph.nodes
    ]
    edges = [Edge(name, whole.shapes[name], whole.dtypes.get(name, "float32")) for name in entering]
    kept = [edge for edge in graph.inputs if edge.name not in entering]
    cut = replace(
        graph,
        nodes=tuple(node for node in made if any(node.outputs)),
        inputs=(*kept, *edges),
        outputs=(Edge(leaving),),
    )
    fixed = {name: value for name, value in held.items() if name not in entering}
    moving = [name for name in entering if is_continuous(whole.dtypes.get(name, "float32"))]
    still = [name for name in entering if name not in moving and name not in held]
    if still:
        rows = {n: v.double() if v.is_floating_point() else v for n, v in held.items()}
        values = Forward(observed(whole, still))({name: row[None] for name, row in rows.items()})
        fixed |= {name: values[name][0] for name in still}
    return OfNetwork(build(cut), moving, fixed, [leaving])


def quotient_norm(function: Map, size: int) -> float:
    """Return the norm of an affine map, written out column by column.

    With columns so long that the rounding of a bias beside them does not matter.
    """
    with torch.no_grad():
        zero = function(torch.zeros(1, size, dtype=torch.float64))
        matrix = function(_LONG * torch.eye(size, dtype=torch.float64)) - zero
    return float(torch.linalg.matrix_norm(matrix / _LONG, 2))
