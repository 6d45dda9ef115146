"""Formulas: a graph read as the arithmetic that it spells out.

A product can be written in many orders, 0.5·(x·g), (0.5·x)·g or x·(g/2), each operand on either
side. `Formula.monomial` reads them all as the same factor and powers, so that a rewrite says once
what it looks for. Stored numbers become fractions: nothing is rounded on the way.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, final

from lipaudit.errors import LipauditError
from lipaudit.graph.constant import Constant, Shape
from lipaudit.graph.dtypes import torch_type
from lipaudit.graph.node import ONNX_DOMAIN, Graph, Node

Powers = Mapping[str, Fraction]

_ONE = Fraction(1)
_HALF = Fraction(1, 2)
_BINARY = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Expand", "Reshape"})
_OUTSIDE = -1
"""Stands for the caller among the readers of an edge: it is an output of the graph."""
_MOST_AXES = 64
_MOST_FACTORS = 8
_MOST_NODES = 24
"""No function in use takes more; a long chain of products must not be walked from every node."""


@final
@dataclass(frozen=True, slots=True)
class Monomial:
    """A number times powers of edges."""

    factor: Fraction
    powers: Powers
    is_exact: bool
    """Whether the factor is stored; else the file computes it, and it is known up to rounding."""

    def is_power(self, edge: str, power: Fraction | int = 1) -> bool:
        """Tell whether it is a number times this one power."""
        return self.powers == {edge: power}

    def is_plain(self, edge: str, power: Fraction | int = 1) -> bool:
        """Tell whether it is this one power, times nothing."""
        return self.is_power(edge, power) and self.factor == 1 and self.is_exact

    def quotient(self, power: Fraction | int) -> tuple[str, str] | None:
        """Return x and y where it is x·y^power, times nothing."""
        one = [edge for edge, found in self.powers.items() if found == 1]
        other = [edge for edge, found in self.powers.items() if found == power]
        if len(self.powers) != 2 or len(one) != 1 or len(other) != 1 or self.factor != 1:
            return None
        return one[0], other[0]


class _Part(NamedTuple):
    """A factor of a product."""

    edge: str
    power: Fraction = _ONE
    beside: str = ""
    """The other factor; "" for none."""
    is_open: bool = True
    """Whether a product in its place multiplies its own factors in."""


@final
@dataclass(frozen=True, slots=True)
class Reduction:
    """A reduction whose axes stay in place, with size 1."""

    source: str
    axes: tuple[int, ...]
    """Counted from the end, so negative; ascending."""

    @property
    def is_trailing(self) -> bool:
        """Whether the axes are the last ones."""
        return self.axes == tuple(range(-len(self.axes), 0))


@final
@dataclass(frozen=True, slots=True)
class Formula:
    """A graph, and who makes and who reads each of its edges."""

    graph: Graph
    shapes: Mapping[str, Shape | None]
    makers: Mapping[str, int]
    """Edge -> position of the node that makes it."""
    readers: Mapping[str, tuple[int, ...]]
    """Edge -> positions of the nodes that read it, once for each time."""

    @classmethod
    def of(cls, graph: Graph, shapes: Mapping[str, Shape | None]) -> "Formula":
        """Index a graph."""
        makers: dict[str, int] = {}
        readers: dict[str, list[int]] = {}
        for position, node in enumerate(graph.nodes):
            makers.update((name, position) for name in node.outputs if name)
            for name in (*node.inputs, *node.captures):
                readers.setdefault(name, []).append(position)
        for edge in graph.outputs:
            readers.setdefault(edge.name, []).append(_OUTSIDE)
        return cls(graph, shapes, makers, {name: tuple(at) for name, at in readers.items()})

    def maker(self, edge: str, *ops: str) -> Node | None:
        """Return the node that makes an edge if it is one of these operations of ONNX."""
        position = self.makers.get(edge)
        node = self.graph.nodes[position] if position is not None else None
        if node is None or node.op not in ops or node.domain != ONNX_DOMAIN:
            return None
        needed = 2 if node.op in _BINARY else 1
        is_whole = len(node.inputs) >= needed and all(node.inputs[:needed])
        return node if is_whole and len(node.outputs) == 1 else None

    def number(self, name: str, beside: str, *, is_exact: bool = True) -> Fraction | None:
        """Return a stored real number that leaves the shape of the edge beside it alone."""
        constant = self._single(name, beside)
        dtype = torch_type(constant.dtype) if constant is not None else None
        if constant is None or dtype is None or not dtype.is_floating_point:
            return None
        return None if is_exact and constant.entry_error else _value(constant)

    def shifted(self, edge: str) -> tuple[str, Fraction] | None:
        """Return x and c where an edge is x + c."""
        for one, other in self.operands(edge, "Add"):
            number = self.number(other, one)
            if number is not None:
                return one, number
        return None

    def operands(self, edge: str, *ops: str) -> Iterator[tuple[str, str]]:
        """Yield the two operands of a commutative operation, in both orders."""
        node = self.maker(edge, *ops)
        if node is not None and len(node.inputs) == 2:
            yield node.inputs[0], node.inputs[1]
            yield node.inputs[1], node.inputs[0]

    def monomial(self, edge: str, x: str = "") -> Monomial | None:
        """Read an edge as a product, None if it is none; `x` is not taken apart.

        Nor is what others read too: it is a factor of its own.
        """
        factor, is_exact, powers = _ONE, True, dict[str, Fraction]()
        waiting = [_Part(edge)]
        for _ in range(2 * _MOST_FACTORS):
            if not waiting:
                return Monomial(factor, powers, is_exact)
            name, power, _, is_open = waiting.pop()
            is_shared = name != edge and len(self.readers.get(name, ())) != 1
            parts = self._parts(name) if is_open and not is_shared and name != x else None
            if parts is None and not _multiplied(powers, name, power):
                return None
            for part in parts or ():
                number = self.number(part.edge, part.beside, is_exact=False)
                if number is None:
                    waiting.append(part._replace(power=power * part.power))
                    continue
                if number == 0:
                    return None
                factor *= number ** int(power * part.power)
                is_exact = is_exact and not self.graph.constants[part.edge].entry_error
        return None

    def _parts(self, edge: str) -> "list[_Part] | None":
        """Return the factors of a product or a power, None for anything else."""
        node = self.maker(edge, "Mul", "Div", "Reciprocal", "Sqrt", "Pow")
        if node is None:
            return None
        first, second = (*node.inputs, "")[:2]
        if node.op == "Reciprocal":
            return [_Part(first, -_ONE)]
        if node.op in {"Mul", "Div"}:
            over = _ONE if node.op == "Mul" else -_ONE
            return [_Part(first, _ONE, second), _Part(second, over, first)]
        # A root of a product is no product of roots: √(a·a) is |a|.
        if node.op == "Sqrt":
            return [_Part(first, _HALF, is_open=False)]
        exponent = self._single(second, first)
        power = _value(exponent) if exponent is not None and not exponent.entry_error else None
        return [_Part(first, power, is_open=False)] if power else None

    def reduction(self, edge: str, op: str) -> Reduction | None:
        """Return the reduction that makes an edge, its axes kept or put back at once."""
        node = self.maker(edge, op)
        if node is not None:
            found = self._axes(node)
            return found if node.attributes.get("keepdims", 1) else None
        back = self.maker(edge, "Reshape", "Unsqueeze")
        node = self.maker(back.inputs[0], op) if back is not None else None
        found = self._axes(node) if node is not None else None
        if node is None or found is None or node.attributes.get("keepdims", 1):
            return None
        shape = self.shapes.get(found.source)
        if shape is None or self.shapes.get(edge) != _kept(shape, found.axes):
            return None
        return found

    def _axes(self, node: Node) -> Reduction | None:
        source, stated = (*node.inputs, "")[:2]
        shape = self.shapes.get(source)
        constant = self.graph.constants.get(stated)
        if stated and constant is None:
            return None
        axes = _integers(constant) if constant is not None else ()
        if axes is None:
            return None
        if not axes:
            if node.attributes.get("noop_with_empty_axes", 0) or shape is None:
                return None
            axes = tuple(range(len(shape)))
        if shape is not None:
            axes = tuple(axis - len(shape) if axis >= 0 else axis for axis in axes)
        if max(axes, default=0) >= 0:
            return None
        return Reduction(source, tuple(sorted(set(axes))))

    def between(self, source: str, root: Node) -> tuple[int, ...] | None:
        """Return the positions of the nodes that make the root of one edge and constants alone.

        None where they make anything else that is read elsewhere.
        """
        last = self.makers[root.outputs[0]]
        found, waiting = {last}, list(root.inputs)
        while waiting:
            name = waiting.pop()
            if not name or name == source or name in self.graph.constants:
                continue
            position = self.makers.get(name)
            if position is None or len(found) > _MOST_NODES:
                return None
            if position not in found:
                found.add(position)
                waiting.extend(self.graph.nodes[position].inputs)
        for position in found - {last}:
            for name in self.graph.nodes[position].outputs:
                if not found.issuperset(self.readers.get(name, ())):
                    return None
        return tuple(sorted(found))

    def _single(self, name: str, beside: str) -> Constant | None:
        """Return a constant of one item that has no more axes than the edge beside it."""
        constant = self.graph.constants.get(name)
        if constant is None or constant.items != 1:
            return None
        room = self.shapes.get(beside)
        return constant if len(constant.shape) <= len(room or ()) else None


def _value(constant: Constant) -> Fraction | None:
    try:
        value = constant.values().item()
    except (LipauditError, TypeError):  # it cannot be read, or torch has no such type
        return None
    return Fraction(value) if isinstance(value, float) and math.isfinite(value) else None


def _integers(constant: Constant) -> tuple[int, ...] | None:
    if constant.dtype not in {"int32", "int64"} or constant.items > _MOST_AXES:
        return None
    try:
        return constant.integers()
    except LipauditError:  # it cannot be read
        return None


def _multiplied(powers: dict[str, Fraction], edge: str, power: Fraction) -> bool:
    """Multiply a power into a product; not where it would cancel, or join two roots."""
    known = powers.get(edge)
    if known is None:
        powers[edge] = power
        return len(powers) <= _MOST_FACTORS
    if min(known, power) < 0 or known.denominator != 1 or power.denominator != 1:
        return False
    powers[edge] = known + power
    return True


def _kept(shape: Shape, axes: tuple[int, ...]) -> Shape:
    return tuple(1 if at - len(shape) in axes else size for at, size in enumerate(shape))
