"""Execution: the graph run in torch, to check the readers and to take Jacobians."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import torch

from lipaudit.errors import NotCertified, UsageError
from lipaudit.graph.constant import Constant
from lipaudit.graph.dtypes import dtype_name
from lipaudit.graph.node import Edge, Graph
from lipaudit.layers.invocation import invoke
from lipaudit.layers.network import Network, Opaque, Step, build, is_loose


def run(
    network: Network | Graph, inputs: Mapping[str, torch.Tensor], dtype: torch.dtype | None
) -> dict[str, torch.Tensor]:
    """Return the outputs by name, computed in one floating type, or in the file's own (None).

    Only steps that an output depends on are run. Raise `NotCertified` when one of them cannot
    be, and `ShapeError` when shapes do not fit.
    """
    if isinstance(network, Graph):
        network = build(_fed(network, inputs))
    absent = [edge.name for edge in network.graph.inputs if edge.name not in inputs]
    if absent:
        raise UsageError(f"no value for input {absent[0]!r}", slug="input-name")
    values = {name: _typed(value, dtype) for name, value in inputs.items()}
    wanted = {edge.name for edge in network.graph.outputs}
    needed = _needed(network, wanted)
    readers = Counter(name for step in needed for name in step.signals)
    for step in needed:
        made = _result(step, values, dtype)
        values.update(zip(step.node.outputs, made, strict=False))
        for name in step.signals:
            readers[name] -= 1
            if not readers[name] and name not in wanted:
                values.pop(name, None)
    constants = network.graph.constants
    return {
        name: values[name] if name in values else load(constants[name], dtype)
        for name in (edge.name for edge in network.graph.outputs)
    }


def load(constant: Constant, dtype: torch.dtype | None) -> torch.Tensor:
    """Return a constant's values for a run in that type, None for its own."""
    reader = constant.read if dtype is None else constant.unrounded or constant.read
    try:
        return _typed(reader(), dtype)
    except TypeError as error:  # a dtype that torch has no name for
        raise NotCertified(f"{constant.name!r}: {error}", slug="dtype") from error


def _typed(value: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value


def _fed(graph: Graph, inputs: Mapping[str, torch.Tensor]) -> Graph:
    """Declare exactly the given tensors as inputs, names captured by a subgraph included."""
    edges = (Edge(name, tuple(v.shape), dtype_name(v.dtype)) for name, v in inputs.items())
    declared = (edge for edge in graph.inputs if edge.name not in inputs)
    constants = {name: c for name, c in graph.constants.items() if name not in inputs}
    return replace(graph, inputs=(*edges, *declared), constants=constants)


def _needed(network: Network, wanted: set[str]) -> list[Step]:
    """Return the steps that some wanted edge depends on, in order."""
    reached = set(wanted)
    needed = []
    for step in reversed(network.steps):
        if reached.intersection(step.node.outputs):
            reached.update(step.signals)
            needed.append(step)
    return needed[::-1]


def _result(
    step: Step, values: Mapping[str, torch.Tensor], dtype: torch.dtype | None
) -> tuple[torch.Tensor, ...]:
    node = step.node
    if isinstance(step.layer, Opaque):
        raise NotCertified(
            f"node {node.name!r} ({node.op}) cannot be run: {step.layer.reason}",
            slug=step.layer.slug,
        )
    if is_loose(node):
        raise NotCertified(f"node {node.name!r} ({node.op}) is not connected", slug="loose")
    inputs = [
        load(step.constants[position], dtype)
        if position in step.constants
        else values[name]
        if name
        else None
        for position, name in enumerate(node.inputs)
    ]
    return invoke(node, step.layer, inputs, dtype)
