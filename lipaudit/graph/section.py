"""Section: the part of a graph between two places."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lipaudit.errors import UsageError
from lipaudit.graph.constant import Shape
from lipaudit.graph.node import Edge, Graph, Node


@dataclass(frozen=True, slots=True)
class Places:
    """Nodes by the names at which a section may begin and end."""

    starts: Mapping[str, Node]
    ends: Mapping[str, Node]
    inside: Mapping[str, Node]
    """The same by all names, also of nodes that were merged into one and lie inside of it."""


def section(
    graph: Graph,
    ends: tuple[str | None, str | None],
    places: Places,
    types: tuple[Mapping[str, Shape | None], Mapping[str, str]],
) -> tuple[Graph, tuple[str, ...]]:
    """Return the graph from what one node receives to what another yields, and where it starts.

    A place is the name of a node or of an edge; None is
    the network's own end. What else the section reads stays an input, to be held fixed. `types`
    are the shapes and dtypes of the edges.
    """
    start, end = ends
    entering = _entering(graph, start, places)
    leaving = _leaving(graph, end, places)
    made = {name for node in graph.nodes for name in node.outputs if name}
    needed, nodes = set(leaving), list[Node]()
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs) and not set(node.outputs) & set(entering):
            nodes.append(node)
            needed.update(node.inputs)
    shapes, dtypes = types
    known = {edge.name: edge for edge in graph.inputs}
    inputs = [
        known.get(name) or Edge(name, shapes.get(name), dtypes.get(name, "float32"))
        for name in entering
    ]
    inputs += [e for e in graph.inputs if e.name in needed and e.name not in entering]
    outputs = tuple(Edge(name, shapes.get(name), dtypes.get(name, "float32")) for name in leaving)
    if not made.issuperset(set(leaving) - set(entering) - set(known)):
        raise _unknown(next(iter(set(leaving) - made)), graph)
    reached = set(entering)
    for node in nodes[::-1]:
        if reached.intersection(node.inputs):
            reached.update(node.outputs)
    if start is not None and end is not None and not reached.intersection(leaving):
        raise UsageError(
            f"{start!r} does not lead to {end!r}",
            slug="node-order",
            hint="exchange --from and --to",
        )
    part = replace(graph, nodes=tuple(nodes[::-1]), inputs=tuple(inputs), outputs=outputs)
    return part, entering


def _entering(graph: Graph, start: str | None, places: Places) -> tuple[str, ...]:
    if start is None:
        return tuple(edge.name for edge in graph.inputs)
    node = places.starts.get(start)
    if node is not None:
        return tuple(dict.fromkeys(n for n in node.inputs if n and n not in graph.constants))
    return (_edge(graph, start, places),)


def _leaving(graph: Graph, end: str | None, places: Places) -> tuple[str, ...]:
    if end is None:
        return tuple(edge.name for edge in graph.outputs)
    node = places.ends.get(end)
    return (node.outputs[0],) if node is not None else (_edge(graph, end, places),)


def _edge(graph: Graph, name: str, places: Places) -> str:
    merged = places.inside.get(name)
    if merged is not None:
        raise UsageError(
            f"{name!r} was merged with its neighbours into {merged.name!r}",
            slug="node-name",
            hint="name that one, its first part as a beginning or its last as an end",
        )
    edges = {edge.name for edge in graph.inputs}
    edges |= {made for node in graph.nodes for made in node.outputs}
    if name not in edges:
        raise _unknown(name, graph)
    return name


def _unknown(name: str, graph: Graph) -> UsageError:
    some = [node.name or node.op for node in graph.nodes]
    listed = ", ".join(repr(known) for known in some[:6]) + (", ..." if len(some) > 6 else "")
    return UsageError(f"there is no node {name!r}", slug="node-name", hint=f"there are {listed}")
