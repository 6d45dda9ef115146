"""What clipped weights of every registered linear layer must hold, tried on its own examples.

The norm is that of the Jacobian of the layer's forward pass, by autograd.
"""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from lipaudit.device import CPU, Compute
from lipaudit.errors import NotCertified
from lipaudit.graph.constant import Constant
from lipaudit.layers import catalog
from lipaudit.layers.base import AbstractLinearLayer, Example
from tests.layers.runtime import drawn, jacobian, layer_of
from tests.oracles import clipped_matrix

COMPUTE = Compute(CPU)
SHARES = (0.3, 0.8)


def linear(example: Example) -> AbstractLinearLayer:
    layer = layer_of(example)
    assert isinstance(layer, AbstractLinearLayer)
    return layer


CASES: list[Any] = [
    pytest.param(example, id=f"{kind.domain or 'onnx'}.{kind.op}-{number}")
    for kind in catalog.all_kinds()
    for number, example in enumerate(kind.examples())
    if isinstance(layer_of(example), AbstractLinearLayer)
]


def matrix_of(example: Example, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Return the Jacobian, with other values of the main weight."""
    layer = linear(example)
    inputs = [None if v is None else v.double() for v in drawn(example)]
    if weight is not None:
        inputs[position_of(layer)] = weight
    (signal,) = (
        at for at, name in enumerate(example.node.inputs) if name and at not in example.constants
    )

    def run(x: torch.Tensor) -> torch.Tensor:
        return layer.forward([*inputs[:signal], x, *inputs[signal + 1 :]])[0]

    at = inputs[signal]
    assert at is not None
    return jacobian(run, at)


def position_of(layer: AbstractLinearLayer) -> int:
    """Return which input the main weight is, by the name that `layer_of` gave it."""
    return int(layer.weights()[0].name.removeprefix("c"))


def norm(matrix: torch.Tensor) -> float:
    return float(torch.linalg.svdvals(matrix)[0])


def put(layer: AbstractLinearLayer, values: torch.Tensor) -> AbstractLinearLayer:
    shape = tuple(values.shape)
    return layer.with_weight(Constant("new", shape, "float64", lambda: values))


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("example", CASES)
def test_clipped_weights_meet_the_limit(example: Example, share: float) -> None:
    layer, before = linear(example), norm(matrix_of(example))
    limit = share * before
    found = layer.clipped(example.shapes[0], limit, COMPUTE)
    if found is None:
        assert before == 0.0  # nothing but to scale it: an α of 0
        return
    old = layer.weights()[0].values()
    assert found.weight.dtype is torch.float64
    assert found.weight.shape == old.shape
    after = norm(matrix_of(example, found.weight))
    assert after <= limit * (1.0 + 2e-2)
    distance = float((found.weight - old).norm())
    assert distance <= (1.0 - share) * float(old.norm()) * (1.0 + 4e-3)
    assert found.least <= distance * (1.0 + 1e-6)
    # The layer itself says the same of these values.
    operator = put(layer, found.weight).operator(example.shapes[0], COMPUTE)
    assert operator.norm().enclosure.lower <= after * (1.0 + 1e-9)
    assert operator.norm().enclosure.upper >= after * (1.0 - 1e-9)


@pytest.mark.parametrize("example", CASES)
def test_weights_below_the_limit_stay(example: Example) -> None:
    layer = linear(example)
    limit = 1.5 * layer.operator(example.shapes[0], COMPUTE).norm().enclosure.upper
    found = layer.clipped(example.shapes[0], limit, COMPUTE)
    if found is not None:
        assert torch.equal(found.weight, layer.weights()[0].values())
        assert found.least == 0.0


@pytest.mark.parametrize("example", CASES)
def test_the_single_pass_moves_toward_the_limit(example: Example) -> None:
    layer, before = linear(example), norm(matrix_of(example))
    values = layer.passed(example.shapes[0], 0.5 * before, COMPUTE)
    if values is not None:
        assert values.shape == layer.weights()[0].shape
        assert 0.0 < norm(matrix_of(example, values)) < before


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("example", CASES)
def test_a_limit_for_every_size_holds_at_this_one(example: Example, share: float) -> None:
    layer, before = linear(example), norm(matrix_of(example))
    try:
        found = layer.clipped(None, share * before, COMPUTE)
    except NotCertified:
        return
    if found is not None:
        assert norm(matrix_of(example, found.weight)) <= share * before * (1.0 + 2e-2)


@pytest.mark.parametrize("example", [c for c in CASES if "MatMul" in c.id or "Einsum" in c.id])
def test_products_keep_their_layout(example: Example) -> None:
    """The clipped product is the product, clipped: entry by entry of the whole matrix."""
    layer, matrix = linear(example), matrix_of(example)
    limit = 0.5 * norm(matrix)
    found = layer.clipped(example.shapes[0], limit, COMPUTE)
    assert found is not None
    torch.testing.assert_close(
        matrix_of(example, found.weight), clipped_matrix(matrix, limit), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("equation", ["bti,io->bto", "bti,oi->bto", "bti,io->otb", "bti,bio->tbo"])
def test_permuted_axes_of_an_einsum(equation: str) -> None:
    torch.manual_seed(0)
    sizes = {"b": 2, "t": 3, "i": 4, "o": 5}
    signal, stored = equation.partition("->")[0].split(",")
    weight = torch.randn(*(sizes[letter] for letter in stored))
    kind = next(k for k in catalog.all_kinds() if k.op == "Einsum")
    node = next(iter(kind.examples())).node
    made = Example(
        type(node)("Einsum", "Einsum", ("x0", "x1"), ("y0",), {"equation": equation}),
        (shape_of(sizes, signal),),
        {1: weight},
    )
    test_products_keep_their_layout(made)


def shape_of(sizes: dict[str, int], letters: Sequence[str]) -> tuple[int, ...]:
    return tuple(sizes[letter] for letter in letters)


def test_there_are_cases() -> None:
    assert len({case.id.split("-")[0] for case in CASES}) >= 6
    assert math.isfinite(max(norm(matrix_of(case.values[0])) for case in CASES))
