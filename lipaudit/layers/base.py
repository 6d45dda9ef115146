"""AbstractLayer: what a node does to a signal, and by how much it can stretch a difference.

A layer sees all inputs of its node by position. Those that are constants it may take as
`Constant`s when it is built (`Call`); the others are *signals*, and the layer's gain speaks
about them only.
"""

import abc
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, TypeVar

import torch

from lipaudit.device import Compute
from lipaudit.enclosure import ONE, Enclosure
from lipaudit.graph.constant import Constant, Shape
from lipaudit.graph.node import Attribute, Node
from lipaudit.layers.slope import Slope
from lipaudit.layers.values import Values, rising
from lipaudit.operators.base import AbstractLinearOperator
from lipaudit.operators.clipped import Clipped

Value = TypeVar("Value", int, float, str, tuple[int, ...], tuple[float, ...], tuple[str, ...])


COMPUTED_PARAMETER = "computed-parameter"
"""Slug of the one `UnsupportedNode` that still leaves the node runnable (see `Deferred`)."""


class UnsupportedNode(Exception):
    """Raised by `from_node` for a variant of a known operation that lipaudit does not model.

    It never reaches a user: the node stays in the graph as an opaque one with this reason.
    """

    def __init__(self, reason: str, *, slug: str = "unsupported") -> None:
        super().__init__(reason)
        self.reason = reason
        self.slug = slug


class ValuesNeeded(Exception):
    """Raised by `forward` on the meta device where even the shape depends on the values."""


@dataclass(frozen=True, slots=True)
class Unbounded:
    """No finite Lipschitz constant can be stated, and why. Never a number in disguise."""

    slug: str
    reason: str


class Combine(Enum):
    """How the stretched differences of several signals add up."""

    SUM = "sum"
    """‖f(x) - f(y)‖ <= Σ g_i ‖x_i - y_i‖"""
    ROOT_SUM_SQUARES = "root-sum-squares"
    """‖f(x) - f(y)‖ <= √(Σ g_i² ‖x_i - y_i‖²): the signals end in disjoint parts"""


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much a layer can stretch a difference (ℓ2): one factor a signal."""

    factors: tuple[Enclosure, ...]
    """In the order of the node's non-constant inputs. `lower` is attained or 0."""
    combine: Combine = Combine.SUM
    method: str = ""
    """One phrase on where the number comes from: "sup of the slope", "√n of n classes"."""
    assumptions: tuple[str, ...] = ()


def unary(factor: Enclosure, method: str = "") -> Gain:
    """Return the gain of a layer with one signal."""
    return Gain((factor,), method=method)


NONEXPANSIVE = unary(ONE, "an isometry or a projection")


@dataclass(frozen=True, slots=True)
class Call:
    """A node together with those of its inputs that are constants, as `from_node` sees it."""

    node: Node
    constants: Mapping[int, Constant]
    """By input position. What is neither here nor omitted is a signal."""

    def constant(self, position: int) -> Constant | None:
        """Return the constant at an input position, None when it is a signal or omitted."""
        return self.constants.get(position)

    def given(self, position: int) -> bool:
        """Tell whether the node has this input at all."""
        return position < len(self.node.inputs) and (
            bool(self.node.inputs[position]) or position in self.constants
        )

    def weight(self, position: int, what: str) -> Constant:
        """Return an input that must be a constant for the layer to be linear in its signal."""
        constant = self.constants.get(position)
        if constant is None:
            raise UnsupportedNode(
                f"{what} is computed by the network, not stored", slug=COMPUTED_PARAMETER
            )
        return constant

    def integers(self, position: int) -> tuple[int, ...] | None:
        """Return a constant integer input (axes, a shape), None when it is omitted."""
        if not self.given(position):
            return None
        return self.weight(position, f"input {position} of {self.node.op}").integers()

    def attribute(self, name: str, default: Value) -> Value:
        """Return an attribute of the default's type; an integer also serves as a float.

        A stated float must be finite: no operation is defined with another one.
        """
        value: Attribute = self.node.attributes.get(name, default)
        if isinstance(default, float) and isinstance(value, int):
            value = float(value)
        if not isinstance(value, type(default)):
            raise UnsupportedNode(f"attribute {name!r} is not a {type(default).__name__}")
        if self.has(name) and isinstance(value, float) and not math.isfinite(value):
            raise UnsupportedNode(f"attribute {name!r} is {value}")
        return value

    def whole_numbers(self, name: str) -> tuple[int, ...]:
        """Return an attribute that lists integers; () when it is omitted."""
        value: Attribute = self.node.attributes.get(name, ())
        if not isinstance(value, tuple):
            raise UnsupportedNode(f"attribute {name!r} is not a list")
        integers = tuple(entry for entry in value if isinstance(entry, int))
        if len(integers) < len(value):
            raise UnsupportedNode(f"attribute {name!r} does not list integers")
        return integers

    def has(self, name: str) -> bool:
        """Tell whether the node states an attribute."""
        return name in self.node.attributes

    @property
    def signals(self) -> tuple[int, ...]:
        """Positions of the inputs that are not constants."""
        return tuple(
            position
            for position, name in enumerate(self.node.inputs)
            if name and position not in self.constants
        )


@dataclass(frozen=True, slots=True)
class Folding:
    """What is left of a stored tensor when a layer fed by constants alone is evaluated away."""

    rounding: float = math.inf
    """Bound of the relative error that each entry gets in float64, on top of the sum of the
    relative errors of the inputs. Infinite where there is none, since sums cancel."""
    linear_in: tuple[int, ...] = ()
    """Positions of the inputs in each of which the result is linear, the others held fixed:
    multiplying that tensor by a number multiplies the result by it."""
    same_weight: bool = False
    """Whether the result has the items of that input, each once: still "the same weight"."""
    factors: bool = False
    """Whether each item of the result is the item of that input at its place, broadcast, times
    a number that the other inputs say."""


COMPUTED = Folding()
MOVED = Folding(rounding=0.0, linear_in=(0,), same_weight=True)
COPIED = Folding(rounding=0.0, linear_in=(0,))
GATHERED = Folding(rounding=0.0)


class AbstractLayer(abc.ABC):
    """What one node does. Final subclasses are frozen dataclasses.

    A layer is either linear in its one signal (`AbstractLinearLayer`: it has an operator that
    can be measured) or states its gain itself (`AbstractGainLayer`).
    """

    folding: ClassVar[Folding] = COMPUTED
    """What it does to a constant; `COMPUTED` claims nothing."""

    @classmethod
    @abc.abstractmethod
    def from_node(cls, call: Call) -> "AbstractLayer":
        """Build the layer; raise `UnsupportedNode` for a variant that is not modelled.

        An operation whose meaning depends on which inputs are constants (MatMul) returns
        whichever class says it.
        """

    @abc.abstractmethod
    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Run the node on all its inputs by position (constants included, None = omitted).

        Constants arrive in the dtype of the run. The same code runs on torch's meta device to
        infer shapes: what decides a shape (axes, sizes, pads) must therefore be taken from the
        constants when the layer is built, never from the values of `inputs`.
        """

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Bound the values of the results, given those of all inputs by position; () for none."""
        del inputs
        return ()


class AbstractLinearLayer(AbstractLayer):
    """A layer that is affine in its one signal, with a weight of its own."""

    @property
    def acts_on_rows(self) -> bool:
        """Whether it applies one matrix to every row of its signal, along the last axis."""
        return False

    @property
    def is_read_in_pieces(self) -> bool:
        """Whether a weight too large for float64 is measured as it is stored, piece by piece."""
        return False

    @abc.abstractmethod
    def weights(self) -> tuple[Constant, ...]:
        """Return the constants that make the linear map, the main one first; no bias."""

    @abc.abstractmethod
    def operator(self, shape: Shape | None, compute: Compute) -> AbstractLinearOperator:
        """Return the linear map on one signal of this shape, batch axis included.

        With None the operator must stand for every input size. Reads the weights.
        """

    @abc.abstractmethod
    def geometry(self) -> Mapping[str, str]:
        """Return what besides the weight's shape defines the map: "stride": "2x2"."""

    @abc.abstractmethod
    def with_weight(self, weight: Constant) -> "AbstractLinearLayer":
        """Return the layer with another main weight, of the same shape."""

    def clipped(self, shape: Shape | None, limit: float, compute: Compute) -> Clipped | None:
        """Return values of the main weight for which the norm is about `limit`, the nearest ones.

        `shape` is that of the signal, as for `operator`. None where there is no way but to scale
        the weight.
        """
        del shape, limit, compute
        return None

    def passed(self, shape: Shape | None, limit: float, compute: Compute) -> torch.Tensor | None:
        """Return the main weight after the single pass of Sedghi, Gupta & Long (2019).

        For matrices that is the nearest one. None as for `clipped`.
        """
        found = self.clipped(shape, limit, compute)
        return None if found is None else found.weight


class AbstractGainLayer(AbstractLayer):
    """A layer that states itself how far it can stretch a difference."""

    discrete_outputs: ClassVar[tuple[int, ...]] = ()
    """Positions of the outputs that hold positions or truth values: the gain speaks only of
    the others, and where a signal moves these can jump."""

    @property
    def is_affine(self) -> bool:
        """Whether the result is A x + c, x all signals together, with an A that rounds kindly.

        Kindly: ‖|A|‖ is at most the stated gain, as where A has no negative entry or only one
        entry a row.
        """
        return False

    @property
    def is_rising(self) -> bool:
        """Whether every result grows with every signal and is a sum, an extreme or an item.

        Such a layer need not say anything about values: it is run on both ends.
        """
        return False

    @property
    def slopes(self) -> Slope | None:
        """The range of the slope where it is a function of one number, on every item alike."""
        return None

    @abc.abstractmethod
    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Bound the stretch, given the shapes of the signals (None = unknown).

        The bound must hold globally, for the exact-real function, and for every shape that
        None leaves open; where it would depend on an unknown shape, say so with the slug
        "needs-shape".
        """

    def gain_within(
        self, shapes: Sequence[Shape | None], values: Sequence[Values]
    ) -> Gain | Unbounded:
        """Bound the stretch between signals that only take such values; else the global one."""
        del values
        return self.gain(shapes)

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """See `AbstractLayer.values`."""
        return rising(self.forward, inputs) if self.is_rising else ()


class AbstractPositiveLayer(AbstractGainLayer):
    """A layer whose results are sums of signals with weights that are fixed and not negative."""

    @property
    def is_rising(self) -> bool:
        """See `AbstractGainLayer.is_rising`."""
        return True

    @property
    def is_affine(self) -> bool:
        """See `AbstractGainLayer.is_affine`."""
        return True


class AbstractRetypable(AbstractLayer):
    """A layer that chooses a floating type itself, so that a run in another must tell it."""

    @abc.abstractmethod
    def in_dtype(self, dtype: torch.dtype) -> AbstractLayer:
        """Return the layer for a run in which every floating value is of this type."""


class AbstractShapeReader(AbstractLayer):
    """A layer that looks only at the shape of its signal, so that its result is a constant."""

    @abc.abstractmethod
    def value(self, shape: Shape) -> torch.Tensor:
        """Return the result for a signal of this shape."""


@dataclass(frozen=True, slots=True)
class Example:
    """A tiny instance of a layer, for the contract tests and nowhere else.

    The tests run it against onnxruntime, sample its slopes, and compare its gain with
    `exact_gain` where the constant is known (from an oracle or a paper, never from us).
    """

    node: Node
    shapes: tuple[Shape, ...]
    """Of the signals, in order."""
    constants: Mapping[int, torch.Tensor]
    exact_gain: float | None = None
    dtypes: tuple[str, ...] = ()
    """Of the signals, in order; empty: all float32."""


def example(
    op: str,
    *shapes: Shape,
    constants: Mapping[int, torch.Tensor] | None = None,
    exact_gain: float | None = None,
    dtypes: tuple[str, ...] = (),
    outputs: int = 1,
    **attributes: Attribute,
) -> Example:
    """Write down an ONNX example: the signals take the first positions that no constant has."""
    known = dict(constants or {})
    count = max(len(shapes) + len(known), max(known, default=-1) + 1)
    free = [position for position in range(count) if position not in known][: len(shapes)]
    names = tuple(f"x{at}" if at in free or at in known else "" for at in range(count))
    made = tuple(f"y{at}" for at in range(outputs))
    return Example(Node(op, op, names, made, attributes), shapes, known, exact_gain, dtypes)


Examples = Iterator[Example]
