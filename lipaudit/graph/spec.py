"""What a legal graph is; checked after reading and after every rewrite."""

from lipaudit.errors import MalformedFile
from lipaudit.graph.node import Graph


def check(graph: Graph, *, path: str) -> Graph:
    """Return the graph if it is legal, or raise naming the node that breaks it.

    Legal: every edge is made once, before it is read; every output is made.
    """
    known = set(graph.constants) | {edge.name for edge in graph.inputs}
    made: set[str] = {edge.name for edge in graph.inputs}
    for node in graph.nodes:
        for name in node.inputs:
            if name and name not in known:
                raise MalformedFile(
                    f"node {node.name!r} ({node.op}) uses {name!r} before it is made",
                    slug="graph-order",
                    path=path,
                )
        for name in node.outputs:
            if not name:
                continue
            if name in made or name in graph.constants:
                raise MalformedFile(
                    f"node {node.name!r} ({node.op}) makes {name!r}, which exists already",
                    slug="graph-duplicate",
                    path=path,
                )
            made.add(name)
            known.add(name)
    for edge in graph.outputs:
        if edge.name not in known:
            raise MalformedFile(
                f"output {edge.name!r} is made by no node", slug="graph-output", path=path
            )
    return graph
