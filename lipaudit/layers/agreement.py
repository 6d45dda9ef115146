"""Agreement: the sizes a file states for its edges, held against those that its nodes make."""

from collections.abc import Mapping

from lipaudit.errors import MalformedFile, NotCertified, ShapeError
from lipaudit.graph.constant import Constant, Shape
from lipaudit.graph.node import Graph
from lipaudit.graph.stated import as_text


def check(
    graph: Graph, shapes: Mapping[str, Shape | None], constants: Mapping[str, Constant]
) -> None:
    """Raise where an edge cannot be what the file states.

    `MalformedFile` if the inputs are of the sizes that the file states for them itself. Other
    sizes, of the user or for open axes, need agree only where a statement decides what a node
    means: elsewhere a network that was exported for one size may well run on another.
    """
    stated = graph.stated
    entering = {edge.name: shapes.get(edge.name) for edge in graph.inputs}
    symbols = stated.binds(entering)
    as_exported = not any(
        shape is not None and stated.contradicts(name, shape, symbols)
        for name, shape in entering.items()
    )
    for name, sizes in stated.shapes.items():
        held = constants.get(name)
        shape = held.shape if held is not None else shapes.get(name)
        if held is not None and stated.differs_in_kind(name, held.dtype):
            raise NotCertified(
                f"value {name!r} is declared {stated.dtypes[name]}, is {held.dtype}", slug="dtype"
            )
        if shape is None or not stated.contradicts(name, shape, symbols):
            continue
        if as_exported and not symbols:
            raise MalformedFile(
                f"value {name!r} is declared {as_text(sizes)}, is {as_text(shape)}",
                slug="graph-shape",
            )
        if as_exported or name in stated.relied:
            raise ShapeError(
                f"value {name!r} is {as_text(sizes)} in the file, {as_text(shape)} for this input",
                slug="shape",
                hint="give the input's shape that it was exported for (--input-shape)",
            )
