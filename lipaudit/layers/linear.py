"""Linear: products with a stored matrix, in all the ways graphs write them down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch.nn import functional

from lipaudit.device import Compute
from lipaudit.graph.constant import Constant, Shape
from lipaudit.graph.node import TORCH_DOMAIN, Node
from lipaudit.layers.base import (
    AbstractGainLayer,
    AbstractLayer,
    AbstractLinearLayer,
    Call,
    Example,
    Examples,
    Gain,
    Unbounded,
    UnsupportedNode,
)
from lipaudit.layers.matrices import matrix_blocks, measured
from lipaudit.layers.matrix import is_too_large, matrix
from lipaudit.layers.operands import of_rank, operand, operands, optional
from lipaudit.layers.registry import layer
from lipaudit.layers.signal_products import matrix_product, product_gain
from lipaudit.layers.values import Values
from lipaudit.operators.base import AbstractLinearOperator
from lipaudit.operators.clipped import Clipped, clipped_matrices
from lipaudit.operators.dense import DenseOperator
from lipaudit.operators.scaled import ScaledOperator

_BILINEAR = Unbounded("bilinear", "it multiplies two signals")


def _stored_or_omitted(call: Call, position: int, what: str) -> None:
    if call.given(position):
        call.weight(position, what)


def _linear_examples() -> Examples:
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 3.0]])
    plain = Node("Linear", "fc", ("x", "w"), ("y",), {}, TORCH_DOMAIN)
    yield Example(plain, ((4, 3),), {1: weight})
    biased = Node("Linear", "fc", ("x", "w", "b"), ("y",), {}, TORCH_DOMAIN)
    yield Example(biased, ((2, 5, 3),), {1: weight, 2: torch.tensor([1.0, -1.0])})
    yield Example(biased, ((3,),), {1: weight, 2: torch.tensor([1.0, -1.0])})


@layer("Linear", summary="largest singular value", examples=_linear_examples, domain=TORCH_DOMAIN)
@final
@dataclass(frozen=True, slots=True)
class Linear(AbstractLinearLayer):
    """x Wᵀ + b over the last axis, with torch's layout of the weight: (outputs, inputs)."""

    weight: Constant

    @classmethod
    def from_node(cls, call: Call) -> "Linear":
        """Take the weight, which must be stored."""
        weight = call.weight(1, "the weight")
        if len(weight.shape) != 2:
            raise UnsupportedNode(f"a weight with {len(weight.shape)} axes is no matrix")
        _stored_or_omitted(call, 2, "the bias")
        return cls(weight)

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Multiply and add the bias."""
        return (functional.linear(operand(inputs), operand(inputs, 1), optional(inputs, 2)),)

    def weights(self) -> tuple[Constant, ...]:
        """Return the matrix."""
        return (self.weight,)

    def with_weight(self, weight: Constant) -> "Linear":
        """See `AbstractLinearLayer.with_weight`."""
        return replace(self, weight=weight)

    def operator(self, shape: Shape | None, compute: Compute) -> AbstractLinearOperator:
        """Return the matrix; it acts on the last axis alike for any other axes."""
        del shape
        return matrix(self.weight, compute)

    @property
    def is_read_in_pieces(self) -> bool:
        """See `AbstractLinearLayer.is_read_in_pieces`."""
        return True

    @property
    def acts_on_rows(self) -> bool:
        """See `AbstractLinearLayer.acts_on_rows`."""
        return True

    def clipped(self, shape: Shape | None, limit: float, compute: Compute) -> Clipped:
        """See `AbstractLinearLayer.clipped`."""
        del shape
        return clipped_matrices(self.weight.values(), limit, compute)

    def geometry(self) -> Mapping[str, str]:
        """Return nothing: the matrix is the map."""
        return {}


def _gemm_examples() -> Examples:
    right = torch.tensor([[1.0, -2.0], [0.0, 1.0], [3.0, 0.5]])
    bias = torch.tensor([1.0, -1.0])
    yield Example(Node("Gemm", "fc", ("x", "w", "b"), ("y",)), ((4, 3),), {1: right, 2: bias})
    scaled = {"alpha": 0.3, "beta": 2.0, "transA": 1, "transB": 1}
    yield Example(
        Node("Gemm", "fc", ("x", "w", "b"), ("y",), scaled), ((3, 4),), {1: right.T, 2: bias}
    )
    left = Node("Gemm", "fc", ("w", "x"), ("y",), {"transA": 1, "alpha": -1.5})
    yield Example(left, ((3, 4),), {0: right})
    turned = Node("Gemm", "fc", ("w", "x"), ("y",), {"transB": 1})
    yield Example(turned, ((4, 2),), {0: right})
    yield Example(Node("Gemm", "fc", ("x", "y"), ("z",)), ((2, 3), (3, 2)), {})


@dataclass(frozen=True, slots=True)
class _GemmForm:
    """The attributes of a Gemm: Y = α A' B' + β C."""

    alpha: float
    beta: float
    turn_left: bool
    turn_right: bool

    @classmethod
    def of(cls, call: Call) -> "_GemmForm":
        return cls(
            call.attribute("alpha", 1.0),
            call.attribute("beta", 1.0),
            bool(call.attribute("transA", 0)),
            bool(call.attribute("transB", 0)),
        )

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        left, right = (of_rank(operand(inputs, at), 2) for at in (0, 1))
        added = optional(inputs, 2)
        made = (left.mT if self.turn_left else left) @ (right.mT if self.turn_right else right)
        made = made if self.alpha == 1 else self.alpha * made
        if added is None:
            return (made,)
        whole = made + (added if self.beta == 1 else self.beta * added)
        if whole.shape != made.shape:
            raise ValueError("C does not broadcast to the product")
        return (whole,)


@layer("Gemm", summary="|α|·largest singular value", examples=_gemm_examples)
@final
@dataclass(frozen=True, slots=True)
class Gemm(AbstractLinearLayer):
    """α A' B' + β C with one stored factor, A' and B' possibly transposed."""

    weight: Constant
    form: _GemmForm
    weight_on_left: bool

    @classmethod
    def from_node(cls, call: Call) -> AbstractLayer:
        """Take the stored factor; with two signals it is a `SignalGemm`."""
        form = _GemmForm.of(call)
        _stored_or_omitted(call, 2, "the addend C")
        right, left = call.constant(1), call.constant(0)
        weight = left if right is None else right
        if weight is None:
            return SignalGemm(form)
        if len(weight.shape) != 2:
            raise UnsupportedNode(f"a weight with {len(weight.shape)} axes is no matrix")
        return cls(weight, form, right is None)

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Multiply and add."""
        return self.form.run(inputs)

    def weights(self) -> tuple[Constant, ...]:
        """Return the stored factor."""
        return (self.weight,)

    def with_weight(self, weight: Constant) -> "Gemm":
        """See `AbstractLinearLayer.with_weight`."""
        return replace(self, weight=weight)

    def operator(self, shape: Shape | None, compute: Compute) -> AbstractLinearOperator:
        """Return the matrix that acts on each column (or row) of the signal, times α."""
        del shape
        turned = self.form.turn_left if self.weight_on_left else not self.form.turn_right
        map_ = matrix(self.weight, compute, turned=turned)
        return map_ if self.form.alpha == 1 else ScaledOperator(map_, self.form.alpha)

    @property
    def is_read_in_pieces(self) -> bool:
        """See `AbstractLinearLayer.is_read_in_pieces`."""
        return True

    @property
    def acts_on_rows(self) -> bool:
        """See `AbstractLinearLayer.acts_on_rows`."""
        return not self.weight_on_left and not self.form.turn_left

    def clipped(self, shape: Shape | None, limit: float, compute: Compute) -> Clipped | None:
        """See `AbstractLinearLayer.clipped`."""
        del shape
        if self.form.alpha == 0:
            return None
        return clipped_matrices(self.weight.values(), limit / abs(self.form.alpha), compute)

    def geometry(self) -> Mapping[str, str]:
        """Return α where it matters."""
        return {} if self.form.alpha == 1 else {"alpha": f"{self.form.alpha:g}"}


@final
@dataclass(frozen=True, slots=True)
class SignalGemm(AbstractGainLayer):
    """α A' B' + β C of two signals."""

    form: _GemmForm

    @classmethod
    def from_node(cls, call: Call) -> "SignalGemm":
        """Read the attributes."""
        return cls(_GemmForm.of(call))

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Multiply and add."""
        return self.form.run(inputs)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """State that there is no finite constant."""
        del shapes
        return _BILINEAR

    def gain_within(
        self, shapes: Sequence[Shape | None], values: Sequence[Values]
    ) -> Gain | Unbounded:
        """Return |α| times the norm of the other factor."""
        left, right = shapes
        if left is None or right is None:
            return _BILINEAR
        return product_gain((left, right), values, self.form.alpha)


def _matmul_examples() -> Examples:
    matrix = torch.tensor([[1.0, -2.0], [0.0, 1.0], [3.0, 0.5]])
    stack = torch.stack([matrix, -2 * matrix + 1])
    right = Node("MatMul", "fc", ("x", "w"), ("y",))
    left = Node("MatMul", "fc", ("w", "x"), ("y",))
    one_on_right: tuple[Shape, ...] = ((4, 3), (3,), (2, 5, 4, 3))
    one_on_left: tuple[Shape, ...] = ((2, 4), (2,), (5, 2, 4))
    # A stack of matrices: side by side on a stack of signals, on top of each other on one.
    stack_on_right: tuple[Shape, ...] = ((2, 4, 3), (5, 2, 4, 3), (4, 3), (1, 4, 3), (3,))
    stack_on_left: tuple[Shape, ...] = ((2, 2, 4), (2, 4), (2,))
    for shape in one_on_right:
        yield Example(right, (shape,), {1: matrix})
    for shape in one_on_left:
        yield Example(left, (shape,), {0: matrix})
    for shape in stack_on_right:
        yield Example(right, (shape,), {1: stack})
    for shape in stack_on_left:
        yield Example(left, (shape,), {0: stack})
    vector = torch.tensor([1.0, -2.0, 2.0])
    yield Example(right, ((4, 3),), {1: vector}, 3.0)
    yield Example(right, ((3,),), {1: vector}, 3.0)
    yield Example(left, ((2, 3, 4),), {0: vector}, 3.0)
    grid = torch.stack([stack, 3 * stack, 0.5 * stack])
    yield Example(right, ((3, 1, 4, 3),), {1: grid})
    yield Example(Node("MatMul", "mm", ("x", "y"), ("z",)), ((2, 4, 3), (3, 5)), {})


@layer(
    "MatMul",
    summary="largest singular value; two signals: through value bounds",
    examples=_matmul_examples,
)
@final
@dataclass(frozen=True, slots=True)
class MatMul(AbstractLinearLayer):
    """A product, as numpy's matmul means it, with one stored factor."""

    weight: Constant
    weight_on_left: bool

    @classmethod
    def from_node(cls, call: Call) -> AbstractLayer:
        """Take the stored factor; with two signals it is a `SignalMatMul`."""
        right, left = call.constant(1), call.constant(0)
        weight = left if right is None else right
        if weight is None:
            return SignalMatMul()
        if not weight.shape:
            raise UnsupportedNode("a scalar is no matrix")
        return cls(weight, right is None)

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Multiply."""
        left, right = operands(inputs)
        return (torch.matmul(left, right),)

    def weights(self) -> tuple[Constant, ...]:
        """Return the stored factor."""
        return (self.weight,)

    def with_weight(self, weight: Constant) -> "MatMul":
        """See `AbstractLinearLayer.with_weight`."""
        return replace(self, weight=weight)

    def operator(self, shape: Shape | None, compute: Compute) -> AbstractLinearOperator:
        """Return the matrix that acts on each row (or column) of the signal.

        Several stored matrices act side by side where the signal has as many slices, and on
        top of each other where broadcasting gives all of them the same slice.
        """
        if self.is_read_in_pieces and is_too_large(self.weight, compute):
            return matrix(self.weight, compute, turned=not self.weight_on_left)
        values = self.weight.values()
        if values.dim() == 1:
            return DenseOperator(values.unsqueeze(0), compute)
        matrices = values if self.weight_on_left else values.mT
        return measured(matrix_blocks(matrices, shape, self.weight.name), compute)

    @property
    def is_read_in_pieces(self) -> bool:
        """See `AbstractLinearLayer.is_read_in_pieces`."""
        return len(self.weight.shape) == 2

    @property
    def acts_on_rows(self) -> bool:
        """See `AbstractLinearLayer.acts_on_rows`."""
        return not self.weight_on_left and len(self.weight.shape) == 2

    def clipped(self, shape: Shape | None, limit: float, compute: Compute) -> Clipped | None:
        """See `AbstractLinearLayer.clipped`.

        Matrices that broadcasting stacks on each other are clipped as the one that they make.
        """
        values = self.weight.values()
        if values.dim() > 2 and values.shape[:-2].numel() > 1:
            return None if shape is None else self._stacked(values, shape, limit, compute)
        matrix = values.unsqueeze(0) if values.dim() == 1 else values
        found = clipped_matrices(matrix, limit, compute)
        return replace(found, weight=found.weight.reshape(values.shape))

    def _stacked(
        self, values: torch.Tensor, shape: Shape, limit: float, compute: Compute
    ) -> Clipped:
        numbers = torch.arange(values.numel()).reshape(values.shape)
        arranged = numbers if self.weight_on_left else numbers.mT
        places = matrix_blocks(arranged, shape, self.weight.name)
        found = clipped_matrices(values.flatten()[places], limit, compute)
        weight = torch.empty_like(values).flatten()
        weight[places.flatten()] = found.weight.flatten()
        return replace(found, weight=weight.reshape(values.shape))

    def geometry(self) -> Mapping[str, str]:
        """Return nothing: the matrices are the map."""
        return {}


@final
@dataclass(frozen=True, slots=True)
class SignalMatMul(AbstractGainLayer):
    """A product of two signals."""

    @classmethod
    def from_node(cls, call: Call) -> "SignalMatMul":
        """Build it for any node: there is nothing to read."""
        del call
        return cls()

    def forward(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Multiply."""
        left, right = operands(inputs)
        return (torch.matmul(left, right),)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """State that there is no finite constant."""
        del shapes
        return _BILINEAR

    def gain_within(
        self, shapes: Sequence[Shape | None], values: Sequence[Values]
    ) -> Gain | Unbounded:
        """Return the norm of the other factor: d(A B) = dA B + A dB, slice by slice."""
        left, right = shapes
        if left is None or right is None or min(len(left), len(right)) < 2:
            return _BILINEAR
        return product_gain((left, right), values, 1.0)

    def values(self, inputs: Sequence[Values | None]) -> tuple[Values, ...]:
        """Multiply intervals as middle and radius."""
        left, right = inputs
        return () if left is None or right is None else (matrix_product(left, right),)
