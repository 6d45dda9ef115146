"""Pointwise: a function of one number, applied to every item of a signal.

By the mean value theorem such a layer stretches a difference by at most the supremum of
|slope|, and by no less: one item suffices to attain it. So a kind needs no class, only a row
in the table `SLOPES`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import final

import torch

from lipaudit.graph.node import ONNX_DOMAIN, Attribute, Node
from lipaudit.layers.base import (
    AbstractGainLayer,
    Call,
    Example,
    Examples,
    Gain,
    Unbounded,
    unary,
)
from lipaudit.layers.operands import operand
from lipaudit.layers.registry import layer
from lipaudit.layers.slope import Slope

Function = Callable[[torch.Tensor], torch.Tensor]


def steep(why: str) -> Unbounded:
    """Return the verdict on a function whose slope has no finite supremum."""
    return Unbounded("unbounded-slope", why)


def jump(where: str) -> Unbounded:
    """Return the verdict on a function that is not continuous."""
    return Unbounded("discontinuous", where)


Meaning = Callable[[Call], tuple[Slope | Unbounded, Function]]
"""What a node's attributes make of an operation."""


def always(range_: Slope | Unbounded, function: Function) -> Meaning:
    """Return the meaning of an operation that has no attributes."""
    return lambda _call: (range_, function)


_NO_ATTRIBUTES: Mapping[str, Attribute] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Case:
    """Attributes for an example, and the Lipschitz constant they give where it is known."""

    attributes: Mapping[str, Attribute] = field(default_factory=lambda: _NO_ATTRIBUTES)
    exact: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One pointwise operation."""

    summary: str
    """Its constant, for the README's table."""
    meaning: Meaning
    cases: tuple[Case, ...] = (Case(),)
    module: str = ""
    aten: str = ""


_slopes: dict[tuple[str, str], Row] = {}
SLOPES: Mapping[tuple[str, str], Row] = MappingProxyType(_slopes)
"""(domain, op) -> its row. `tabulate` is the way in."""


def tabulate(rows: Mapping[str, Row], domain: str = ONNX_DOMAIN) -> None:
    """Add operations to the table and announce them to the registry."""
    for op, row in rows.items():
        _slopes[domain, op] = row
        layer(
            op,
            summary=row.summary,
            examples=_examples_of(op, row, domain),
            domain=domain,
            module=row.module,
            aten=row.aten,
        )(Pointwise)


def _examples_of(op: str, row: Row, domain: str) -> Callable[[], Examples]:
    def examples() -> Iterator[Example]:
        for case in row.cases:
            node = Node(op, op, ("x",), ("y",), case.attributes, domain)
            yield Example(node, shapes=((3, 5),), constants={}, exact_gain=case.exact)

    return examples


@final
@dataclass(frozen=True, slots=True)
class Pointwise(AbstractGainLayer):
    """A function of one number on every item of its signal."""

    slope: Slope | Unbounded
    function: Function

    @classmethod
    def from_node(cls, call: Call) -> "Pointwise":
        """Look the operation up in `SLOPES`."""
        return cls(*SLOPES[call.node.domain, call.node.op].meaning(call))

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Apply the function to every item."""
        return (self.function(operand(inputs)),)

    @property
    def slopes(self) -> Slope | None:
        """See `AbstractGainLayer.slopes`."""
        return self.slope if isinstance(self.slope, Slope) else None

    def gain(self, shapes: Sequence[tuple[int, ...] | None]) -> Gain | Unbounded:
        """Return the supremum of |slope|, whatever the shape."""
        del shapes
        if isinstance(self.slope, Unbounded):
            return self.slope
        return unary(self.slope.stretch, "supremum of the slope")
