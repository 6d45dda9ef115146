"""Input shapes: what the user says, what the file says, and what is left open."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lipaudit.errors import UsageError
from lipaudit.graph.constant import Constant, Shape
from lipaudit.graph.node import Edge, Graph, Node

InputShape = str | Sequence[int] | Mapping[str, Sequence[int] | str] | None


@dataclass(frozen=True, slots=True)
class InputShapes:
    """The shape of every input that is known, batch axis included, and who said so."""

    known: Mapping[str, Shape]
    source: str
    notes: tuple[str, ...]
    is_guess: bool = False
    """Whether an open first axis was taken for the batch: then a misfit is our mistake."""


def resolve(graph: Graph, wanted: InputShape) -> InputShapes:
    """Match the user's shapes with the graph's inputs; fill the rest from the file."""
    asked = _by_name(graph, wanted)
    known: dict[str, Shape] = {}
    notes: list[str] = []
    for edge in graph.inputs:
        if edge.name in asked:
            known[edge.name] = _with_batch(graph, edge, asked[edge.name])
            continue
        declared = _declared(edge, notes) or _dense_input(graph, edge)
        if declared is not None:
            known[edge.name] = declared
    source = "command line" if asked else "file"
    guess = any(
        e.name in known and e.name not in asked and e.known_shape is None for e in graph.inputs
    )
    return InputShapes(known, source if known else "unknown", tuple(notes), guess)


def of_examples(wanted: InputShape) -> tuple[Shape, ...]:
    """Return the shapes of example inputs for code that has no graph yet, as they are stated."""
    if wanted is None:
        return ()
    asked = wanted.values() if isinstance(wanted, Mapping) else (wanted,)
    return tuple(_sizes(shape) for shape in asked)


def parse(text: str) -> Shape:
    """Turn `3x32x32` into (3, 32, 32)."""
    try:
        sizes = tuple(
            int(part) for part in text.lower().replace("×", "x").replace(",", "x").split("x")
        )
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise UsageError(
            f"{text!r} is not a shape", slug="shape-syntax", hint="write it like 3x32x32"
        )
    return sizes


def _by_name(graph: Graph, wanted: InputShape) -> dict[str, Shape]:
    if wanted is None:
        return {}
    if isinstance(wanted, Mapping):
        asked = {name: _sizes(shape) for name, shape in wanted.items()}
        if "" in asked:
            return _by_name(graph, asked[""])
        unknown = [name for name in asked if name not in {edge.name for edge in graph.inputs}]
        if unknown and graph.inputs:
            names = ", ".join(repr(edge.name) for edge in graph.inputs)
            raise UsageError(
                f"the network has no input {unknown[0]!r}",
                slug="input-name",
                hint=f"it has {names}",
            )
        return asked
    shape = _sizes(wanted)
    if len(graph.inputs) > 1:
        names = ", ".join(repr(edge.name) for edge in graph.inputs)
        raise UsageError(
            f"one shape for {len(graph.inputs)} inputs",
            slug="input-name",
            hint=f"name them, as in NAME=3x32x32 ({names})",
        )
    return {edge.name: shape for edge in graph.inputs}


def _sizes(shape: str | Sequence[int]) -> Shape:
    return parse(shape) if isinstance(shape, str) else parse("x".join(map(str, shape)))


def _with_batch(graph: Graph, edge: Edge, shape: Shape) -> Shape:
    """Add the batch axis when the user left it out, as `3x32x32` for images does."""
    known = edge.known_shape or ()
    if any(known[:at] + known[at + 1 :] == shape for at, n in enumerate(known) if n == 1):
        return known
    rank = len(edge.shape) if edge.shape is not None else _rank_wanted(graph, edge)
    if rank is None or len(shape) == rank - 1:
        batch = edge.shape[0] if edge.shape and isinstance(edge.shape[0], int) else 1
        return (batch, *shape)
    return shape


def _rank_wanted(graph: Graph, edge: Edge) -> int | None:
    """Return the rank that the first convolution on this input wants, if there is one."""
    for node in graph.nodes:
        if edge.name in node.inputs and node.op in {"Conv", "ConvTranspose"}:
            weight = _weight(graph, node)
            return len(weight.shape) if weight is not None else None
    return None


def _dense_input(graph: Graph, edge: Edge) -> Shape | None:
    """Return the shape that a dense first layer wants, where nothing is declared."""
    readers = [node for node in graph.nodes if edge.name in node.inputs]
    if edge.shape is not None or len(readers) != 1 or readers[0].op != "Linear":
        return None
    weight = _weight(graph, readers[0])
    return (1, weight.shape[1]) if weight is not None and len(weight.shape) == 2 else None


def _weight(graph: Graph, node: Node) -> Constant | None:
    """Return the stored weight of a layer; None where a hook or the network computes it."""
    return graph.constants.get(node.inputs[1]) if len(node.inputs) > 1 else None


def _declared(edge: Edge, notes: list[str]) -> Shape | None:
    """Return the file's own shape, an open batch axis taken as one sample."""
    if edge.shape is None:
        return None
    sizes = list(edge.shape)
    if sizes and not isinstance(sizes[0], int):
        notes.append(f"input {edge.name!r}: one sample at a time (its batch axis is open)")
        sizes[0] = 1
    if not all(isinstance(size, int) for size in sizes):
        open_axes = ", ".join(str(size or "?") for size in sizes if not isinstance(size, int))
        notes.append(f"input {edge.name!r}: size of {open_axes} not stated; give --input-shape")
        return None
    return tuple(size for size in sizes if isinstance(size, int))
