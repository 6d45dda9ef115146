"""Order: the nodes of an ONNX graph so that each comes after those it reads from.

ONNX demands this order, and most files have it. Where it can be restored without moving more
than needed it is; a cycle cannot.
"""

import heapq
from collections.abc import Collection, Sequence

from lipaudit.errors import MalformedFile
from lipaudit.graph.node import Node

Position = int


def order(nodes: Sequence[Node], known: Collection[str], *, path: str) -> tuple[Position, ...]:
    """Return the positions of the nodes in an order that works, the given one if it does.

    `known` are the names that exist before any node runs. A name that nothing makes is left to
    the graph's own check.
    """
    makers = _makers(nodes, path)
    needs = [_needed(node, makers, known) for node in nodes]
    if all(need < position for position, some in enumerate(needs) for need in some):
        return tuple(range(len(nodes)))
    users: list[list[Position]] = [[] for _ in nodes]
    for position, some in enumerate(needs):
        for need in some:
            users[need].append(position)
    waiting = [len(some) for some in needs]
    ready = [position for position, count in enumerate(waiting) if not count]
    ordered: list[Position] = []
    while ready:
        position = heapq.heappop(ready)
        ordered.append(position)
        for user in users[position]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, user)
    if len(ordered) < len(nodes):
        raise _cycle(nodes, needs, waiting, path)
    return tuple(ordered)


def _makers(nodes: Sequence[Node], path: str) -> dict[str, Position]:
    makers: dict[str, Position] = {}
    for position, node in enumerate(nodes):
        for name in node.outputs:
            if name and makers.setdefault(name, position) != position:
                raise MalformedFile(
                    f"node {node.name!r} ({node.op}) makes {name!r}, which exists already",
                    slug="graph-duplicate",
                    path=path,
                )
    return makers


def _needed(node: Node, makers: dict[str, Position], known: Collection[str]) -> set[Position]:
    names = (*node.inputs, *node.captures)
    return {makers[name] for name in names if name in makers and name not in known}


def _cycle(
    nodes: Sequence[Node],
    needs: Sequence[Collection[Position]],
    waiting: Sequence[int],
    path: str,
) -> MalformedFile:
    """Name a node of the cycle: going back from a waiting node ends in one."""
    position = next(at for at, count in enumerate(waiting) if count)
    passed: set[Position] = set()
    while position not in passed:
        passed.add(position)
        position = min(need for need in needs[position] if waiting[need])
    node = nodes[position]
    read = next(
        name
        for name in (*node.inputs, *node.captures)
        if any(waiting[need] and name in nodes[need].outputs for need in needs[position])
    )
    return MalformedFile(
        f"node {node.name!r} ({node.op}) uses {read!r} before it is made: the graph has a cycle",
        slug="graph-order",
        path=path,
    )
