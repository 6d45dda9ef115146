"""Stated: what a file says of the values between its nodes, to be held against what follows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lipaudit.graph.constant import Shape
from lipaudit.graph.dtypes import torch_type

Axes = tuple[int | str | None, ...]
"""Sizes as stated: a number, a symbol that stands for the same number everywhere, or open."""


@dataclass(frozen=True, slots=True)
class Stated:
    """Sizes and item types that a file states although they follow from its nodes.

    Nothing vouches for them. A translation that needs such a size takes it, and says so: the
    size is then checked wherever the network is built, and where it cannot be worked out, what
    reads the value has no meaning.
    """

    shapes: Mapping[str, Axes] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    relied: frozenset[str] = frozenset()
    """The values whose stated sizes, or type, decide what nodes mean."""
    relied_types: frozenset[str] = frozenset()

    def binds(self, inputs: Mapping[str, Shape | None]) -> Mapping[str, int]:
        """Return what the symbols stand for, given the shapes of the inputs."""
        known: dict[str, int] = {}
        for name, shape in inputs.items():
            stated = self.shapes.get(name)
            if stated is None or shape is None or len(stated) != len(shape):
                continue
            for axis, size in zip(stated, shape, strict=True):
                if isinstance(axis, str):
                    known.setdefault(axis, size)
        return known

    def contradicts(self, name: str, shape: Shape, symbols: Mapping[str, int]) -> bool:
        """Tell whether an edge cannot have a shape if the statement is true."""
        stated = self.shapes.get(name)
        if stated is None:
            return False
        wanted = [symbols.get(axis) if isinstance(axis, str) else axis for axis in stated]
        return len(wanted) != len(shape) or any(
            axis is not None and axis != size for axis, size in zip(wanted, shape, strict=True)
        )

    def differs_in_kind(self, name: str, dtype: str) -> bool:
        """Tell whether an edge is stated to hold integers or truth values where it does not."""
        stated = self.dtypes.get(name)
        if stated is None or stated == dtype:
            return False
        return name in self.relied_types or _kind(stated) != _kind(dtype)

    def text(self, name: str) -> str:
        """Write the stated sizes of an edge as 3x4."""
        return as_text(self.shapes.get(name, ()))


def as_text(sizes: Axes) -> str:
    """Write sizes as 3x4."""
    return "x".join("?" if size is None else str(size) for size in sizes) or "a single number"


def _kind(dtype: str) -> str:
    known = torch_type(dtype)
    if known is None or known.is_floating_point or known.is_complex:
        return "real"
    return "bool" if dtype == "bool" else "integer"


NOTHING = Stated()
