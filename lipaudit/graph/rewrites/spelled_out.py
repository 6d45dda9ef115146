"""A function that a file spells out in elementary operations becomes the one node that means it.

Exporters write a layer norm as seven nodes. Apart, one squares its signal and another divides by
a signal, so that neither has a Lipschitz constant; together they have one.

What is looked for stands in `spelled_gates` and `spelled_norms`, one function a pattern.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from lipaudit.graph.constant import Shape
from lipaudit.graph.node import Graph, Node
from lipaudit.graph.rewrites import spelled_gates, spelled_norms
from lipaudit.graph.rewrites.formula import Formula

_PRODUCTS = (*spelled_gates.PATTERNS, *spelled_norms.PATTERNS)


def join_spelled_out(graph: Graph, shapes: Mapping[str, Shape | None]) -> Graph:
    """Join the nodes of each function that is spelled out; the same graph if there is none."""
    formula = Formula.of(graph, shapes)
    joined: dict[int, Node] = {}
    dropped: set[int] = set()
    # From the end, since the whole of a function is made after its parts.
    for position in reversed(range(len(graph.nodes))):
        if position in dropped:
            continue
        found = _found(formula, graph.nodes[position])
        if found is not None:
            joined[position], parts = found
            dropped.update(part for part in parts if part != position)
    if not joined:
        return graph
    nodes = (
        joined.get(position, node)
        for position, node in enumerate(graph.nodes)
        if position not in dropped
    )
    return replace(graph, nodes=tuple(nodes))


def _found(formula: Formula, root: Node) -> tuple[Node, tuple[int, ...]] | None:
    """Return the one node that ends in the root, and the positions of those it replaces."""
    for meaning in _meanings(formula, root):
        parts = formula.between(meaning.inputs[0], root)
        if parts is not None:
            origins = (formula.graph.nodes[part].origin for part in parts)
            sources = tuple(dict.fromkeys(name for origin in origins for name in origin))
            return replace(meaning, name=root.name, outputs=root.outputs, sources=sources), parts
    return None


def _meanings(formula: Formula, root: Node) -> Iterator[Node]:
    """Yield what the root may be the last node of."""
    made = next(iter(root.outputs), "")
    if formula.maker(made, "Log") is root:
        yield from spelled_norms.log_sums(formula, made)
    elif formula.maker(made, "Mul", "Div") is root:
        product = formula.monomial(made)
        if product is not None and product.is_exact:
            for pattern in _PRODUCTS:
                yield from pattern(formula, product)
