"""Einsum: sums of products written as an equation, of one signal and at most one stored tensor."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch

from lipaudit.device import Compute
from lipaudit.enclosure import Enclosure
from lipaudit.errors import NotCertified
from lipaudit.graph.constant import Constant, Shape
from lipaudit.layers.base import (
    AbstractGainLayer,
    AbstractLayer,
    AbstractLinearLayer,
    Call,
    Examples,
    Gain,
    Unbounded,
    UnsupportedNode,
    example,
    unary,
)
from lipaudit.layers.matrices import measured
from lipaudit.layers.operands import Inputs, Outputs, operand, operands
from lipaudit.layers.registry import layer
from lipaudit.operators.base import AbstractLinearOperator
from lipaudit.operators.clipped import Clipped, clipped_matrices

_DOTS = "..."


@dataclass(frozen=True, slots=True)
class Equation:
    """The letters of each term and of the result; dots stand for further axes."""

    terms: tuple[str, ...]
    result: str

    @classmethod
    def of(cls, call: Call) -> "Equation":
        """Parse the attribute; without an arrow the result has every letter that occurs once."""
        text = call.attribute("equation", "").replace(" ", "")
        left, arrow, result = text.partition("->")
        terms = tuple(left.split(","))
        letters = Counter("".join(terms).replace(_DOTS, ""))
        if not arrow:
            once = sorted(letter for letter, count in letters.items() if count == 1)
            result = (_DOTS if _DOTS in left else "") + "".join(once)
        kept = result.replace(_DOTS, "")
        if not all(letter.isalpha() for letter in (*letters, *kept)) or set(kept) - set(letters):
            raise UnsupportedNode(f"equation {text!r} makes no sense")
        if len(terms) != len(call.node.inputs) or len(set(kept)) < len(kept):
            raise UnsupportedNode(f"equation {text!r} does not fit {len(call.node.inputs)} inputs")
        return cls(terms, result)

    def run(self, inputs: Inputs) -> Outputs:
        """Evaluate the equation."""
        return (torch.einsum(f"{','.join(self.terms)}->{self.result}", *operands(inputs)),)


def _examples() -> Examples:
    grid = torch.arange(12.0).reshape(3, 4).sin()
    stack = torch.arange(24.0).reshape(2, 3, 4).cos()
    yield example("Einsum", (2, 5, 3), constants={1: grid}, equation="bti,io->bto")
    yield example("Einsum", (2, 5, 3), constants={1: grid}, equation="...i,io->...o")
    yield example("Einsum", (2, 4, 5), constants={0: stack}, equation="hij,hjt->hit")
    yield example("Einsum", (3, 4), constants={1: grid}, equation="ij,ij")
    yield example("Einsum", (3, 4), constants={1: grid}, equation="ij,ij->ij")
    yield example(
        "Einsum", (2, 3), constants={1: torch.ones(4)}, equation="ij,k->ijk", exact_gain=2
    )
    yield example("Einsum", (2, 3, 4), equation="ijk->kij", exact_gain=1.0)
    yield example("Einsum", (3, 4), equation="ij->i", exact_gain=2.0)
    yield example("Einsum", (3, 3), equation="ii->i", exact_gain=1.0)
    yield example("Einsum", (3, 3), equation="ii", exact_gain=3**0.5)
    yield example("Einsum", (2, 3, 4), (2, 4, 3), equation="bij,bjk->bik")


@layer("Einsum", summary="largest singular value; none for two signals", examples=_examples)
@final
@dataclass(frozen=True, slots=True)
class Einsum(AbstractLinearLayer):
    """A sum of products of one signal with one stored tensor."""

    weight: Constant
    equation: Equation
    weight_first: bool

    @classmethod
    def from_node(cls, call: Call) -> AbstractLayer:
        """Take the stored tensor; other numbers of operands are other layers."""
        equation = Equation.of(call)
        if len(equation.terms) == 1:
            return Contraction(equation)
        if len(call.signals) != 1:
            return SignalEinsum(equation)
        if len(equation.terms) != 2:
            raise UnsupportedNode("several stored factors")
        made = cls(
            call.constants[0] if 0 in call.constants else call.weight(1, "a factor"),
            equation,
            0 in call.constants,
        )
        made.check()
        return made

    def check(self) -> None:
        """Raise `UnsupportedNode` unless each result sums plain products."""
        signal, stored = self._signal, self._stored
        plain = all(len(set(term)) == len(term) for term in (signal, stored))
        if not plain or _DOTS in self._own_term or len(stored) != len(self.weight.shape):
            raise UnsupportedNode("repeated letters, or dots in a stored factor")
        if (set(signal) ^ set(stored)) - set(self.equation.result):
            raise UnsupportedNode("it also sums over one factor alone")

    def forward(self, inputs: Inputs) -> Outputs:
        """Evaluate the equation."""
        return self.equation.run(inputs)

    def weights(self) -> tuple[Constant, ...]:
        """Return the stored tensor."""
        return (self.weight,)

    def with_weight(self, weight: Constant) -> "Einsum":
        """See `AbstractLinearLayer.with_weight`."""
        return replace(self, weight=weight)

    def operator(self, shape: Shape | None, compute: Compute) -> AbstractLinearOperator:
        """Return the matrices that act side by side along the letters that all three share.

        Letters that only the signal has are copies of the same map.
        """
        return measured(self._blocks(self.weight.values(), shape), compute)

    def clipped(self, shape: Shape | None, limit: float, compute: Compute) -> Clipped:
        """See `AbstractLinearLayer.clipped`."""
        values = self.weight.values()
        places = self._blocks(torch.arange(values.numel()).reshape(values.shape), shape)
        found = clipped_matrices(values.flatten()[places], limit, compute)
        weight = torch.empty_like(values).flatten()
        weight[places.flatten()] = found.weight.flatten()
        return replace(found, weight=weight.reshape(values.shape))

    def _blocks(self, values: torch.Tensor, shape: Shape | None) -> torch.Tensor:
        signal, stored, result = self._signal, self._stored, self.equation.result
        sizes = dict(zip(stored, self.weight.shape, strict=True))
        self._check_sizes(shape, sizes)
        shared = [letter for letter in stored if letter in signal and letter in result]
        summed = [letter for letter in stored if letter in signal and letter not in result]
        own = [letter for letter in stored if letter not in signal]
        order = [stored.index(letter) for letter in (*shared, *own, *summed)]
        blocks = torch.Size(sizes[letter] for letter in shared).numel()
        outputs = torch.Size(sizes[letter] for letter in own).numel()
        inputs = torch.Size(sizes[letter] for letter in summed).numel()
        return values.permute(order).reshape(blocks, outputs, inputs)

    def geometry(self) -> Mapping[str, str]:
        """Return the equation."""
        return {"equation": f"{','.join(self.equation.terms)}->{self.equation.result}"}

    @property
    def _own_term(self) -> str:
        return self.equation.terms[0 if self.weight_first else 1]

    @property
    def _stored(self) -> str:
        return self._own_term.replace(_DOTS, "")

    @property
    def _signal(self) -> str:
        return self.equation.terms[1 if self.weight_first else 0].replace(_DOTS, "")

    def _check_sizes(self, shape: Shape | None, sizes: Mapping[str, int]) -> None:
        """Raise unless shared axes have equal sizes: runtimes broadcast an axis of one item."""
        if not set(self._signal) & set(self._stored):
            return
        if shape is not None:
            term = self.equation.terms[1 if self.weight_first else 0]
            before, _, after = term.partition(_DOTS)
            known = dict(zip(before, shape, strict=False))
            known |= dict(zip(reversed(after), reversed(shape), strict=False))
            if all(known.get(letter, size) == size for letter, size in sizes.items()):
                return
        raise NotCertified(
            f"whether {self.weight.name!r} is broadcast depends on the input's shape",
            slug="needs-shape",
            hint="give --input-shape",
        )


@final
@dataclass(frozen=True, slots=True)
class Contraction(AbstractGainLayer):
    """An equation with a single term: axes permuted, summed over, or taken along a diagonal."""

    equation: Equation

    @classmethod
    def from_node(cls, call: Call) -> "Contraction":
        """Parse the equation."""
        return cls(Equation.of(call))

    def forward(self, inputs: Inputs) -> Outputs:
        """Evaluate the equation."""
        return self.equation.run([operand(inputs)])

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Return √n of n items summed; a diagonal only drops items."""
        (shape,) = shapes
        (term,) = self.equation.terms
        if _DOTS in term and _DOTS not in self.equation.result:
            return Unbounded("unsupported", "it sums over axes that dots stand for")
        summed = set(term.replace(_DOTS, "")) - set(self.equation.result)
        if not summed:
            return unary(Enclosure.at_most(1), "axes permuted, or items dropped")
        if shape is None:
            return Unbounded("needs-shape", "√n of n items summed: the sizes are not known")
        before, _, after = term.partition(_DOTS)
        sizes = dict(zip(before, shape, strict=False))
        sizes |= dict(zip(reversed(after), reversed(shape), strict=False))
        items = torch.Size(sizes[letter] for letter in summed).numel()
        return unary(Enclosure.sqrt_of(items), f"√n of n = {items} items summed")


@final
@dataclass(frozen=True, slots=True)
class SignalEinsum(AbstractGainLayer):
    """An equation with several signals."""

    equation: Equation

    @classmethod
    def from_node(cls, call: Call) -> "SignalEinsum":
        """Parse the equation."""
        return cls(Equation.of(call))

    def forward(self, inputs: Inputs) -> Outputs:
        """Evaluate the equation."""
        return self.equation.run(inputs)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """State that there is no finite constant."""
        del shapes
        return Unbounded("bilinear", "it multiplies two signals")
