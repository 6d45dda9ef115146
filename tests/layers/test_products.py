"""Products with stored matrices and factors: every way of broadcasting, every type of trouble."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipaudit.device import Compute
from lipaudit.enclosure import Rigor
from lipaudit.errors import NotCertified
from lipaudit.graph.constant import Constant, computed
from lipaudit.graph.node import ONNX_DOMAIN, TORCH_DOMAIN, Attribute, Edge, Graph, Node
from lipaudit.layers import catalog
from lipaudit.layers.base import (
    AbstractGainLayer,
    AbstractLayer,
    AbstractLinearLayer,
    Call,
    Combine,
    Gain,
    Unbounded,
    UnsupportedNode,
)
from lipaudit.layers.network import build
from tests.layers.runtime import jacobian

CPU = Compute(torch.device("cpu"))
Shape = tuple[int, ...]


def _layer(
    op: str,
    constants: Mapping[int, torch.Tensor | Constant],
    inputs: int = 2,
    domain: str = ONNX_DOMAIN,
    **attributes: Attribute,
) -> AbstractLayer:
    known = {
        at: value if isinstance(value, Constant) else computed(f"c{at}", value)
        for at, value in constants.items()
    }
    names = tuple(f"c{at}" if at in known else f"x{at}" for at in range(inputs))
    kind = catalog.find(op, domain)
    assert kind is not None
    return kind.layer.from_node(Call(Node(op, op, names, ("y",), attributes, domain), known))


def _gain(layer: AbstractLayer, *shapes: Shape | None) -> Gain | Unbounded:
    assert isinstance(layer, AbstractGainLayer)
    return layer.gain(shapes)


def _finite(layer: AbstractLayer, *shapes: Shape | None) -> Gain:
    gain = _gain(layer, *shapes)
    assert isinstance(gain, Gain)
    return gain


def _norm(matrix: torch.Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


def _drawn(shape: Shape, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def broadcast_pairs(draw: st.DrawFn) -> tuple[Shape, Shape]:
    """Draw two shapes that broadcast together, either of them the longer one."""
    whole = draw(st.lists(st.integers(1, 3), min_size=0, max_size=3))

    def part() -> Shape:
        kept = [size if draw(st.booleans()) else 1 for size in whole]
        return tuple(kept[draw(st.integers(0, len(kept))) :])

    return part(), part()


@given(broadcast_pairs(), st.sampled_from(["Add", "Sub", "Sum", "Mean", "Max", "Min"]))
def test_merges_of_two_signals_have_the_stretch_of_broadcasting(
    shapes: tuple[Shape, Shape], op: str
) -> None:
    layer = _layer(op, {})
    left, right = _drawn(shapes[0], 1), _drawn(shapes[1], 2)
    blocks = [
        jacobian(lambda x: layer.forward([x, right])[0], left),
        jacobian(lambda x: layer.forward([left, x])[0], right),
    ]
    gain = _finite(layer, *shapes)
    for block, factor in zip(blocks, gain.factors, strict=True):
        if op in {"Max", "Min"}:
            assert _norm(block) <= factor.upper * (1 + 1e-12)
        else:
            assert factor.upper == pytest.approx(_norm(block), rel=1e-12)
    assert gain.combine is (Combine.ROOT_SUM_SQUARES if op in {"Max", "Min"} else Combine.SUM)
    if gain.combine is Combine.ROOT_SUM_SQUARES:
        scaled = [b / f.upper for b, f in zip(blocks, gain.factors, strict=True)]
        assert _norm(torch.cat(scaled, 1)) <= 1 + 1e-12


@given(broadcast_pairs(), st.sampled_from(["Mul", "Div"]), st.integers(0, 9))
def test_stored_factors_have_the_norm_of_their_map(
    shapes: tuple[Shape, Shape], op: str, seed: int
) -> None:
    factor = _drawn(shapes[1], seed)
    layer = _layer(op, {1: factor})
    truth = _norm(jacobian(lambda x: layer.forward([x, factor])[0], _drawn(shapes[0], 1)))
    enclosure = _finite(layer, shapes[0]).factors[0]
    assert enclosure.rigor is Rigor.PROVED
    assert enclosure.lower <= truth * (1 + 1e-12)
    assert truth * (1 - 1e-12) <= enclosure.upper <= truth * (1 + 1e-12)


def test_a_factor_on_an_unknown_shape_needs_the_shape_only_where_it_matters() -> None:
    assert _finite(_layer("Mul", {1: torch.tensor([[3.0]])}), None).factors[0].upper == 3
    assert _finite(_layer("Add", {1: torch.tensor([3.0])}), None).factors[0].upper == 1
    for op in ("Mul", "Div", "Add"):
        verdict = _gain(_layer(op, {1: torch.tensor([1.0, 2.0])}), None)
        assert isinstance(verdict, Unbounded)
        assert verdict.slug == "needs-shape"


def test_exact_factors_stay_exact() -> None:
    third = torch.tensor(1 / 3, dtype=torch.float64)
    enclosure = _finite(_layer("Mul", {1: third}), (2,)).factors[0]
    assert enclosure.lo == enclosure.hi == Decimal(1 / 3)


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e200, 1e308])
def test_factors_near_the_ends_of_the_float_range(scale: float) -> None:
    factors = torch.tensor([[1.0], [-2.0], [2.0]], dtype=torch.float64) * (scale / 4)
    enclosure = _finite(_layer("Mul", {1: factors}), (1, 5)).factors[0]
    truth = sum((Decimal(v) ** 2 for v in factors.flatten().tolist()), Decimal(0)).sqrt()
    assert enclosure.lo <= truth <= enclosure.hi
    assert enclosure.hi <= truth * Decimal("1.00000000001")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("op", ["Mul", "Div", "Pow"])
def test_a_factor_that_is_no_number_gives_no_bound(op: str, bad: float) -> None:
    verdict = _gain(_layer(op, {1: torch.tensor([1.0, bad])}), (2,))
    assert isinstance(verdict, Unbounded)
    assert verdict.slug == "non-finite"


@pytest.mark.parametrize("tiny", [0.0, 5e-324])
def test_a_division_by_nothing_has_no_bound(tiny: float) -> None:
    divisor = torch.tensor([1.0, tiny], dtype=torch.float64)
    verdict = _gain(_layer("Div", {1: divisor}), (2,))
    assert isinstance(verdict, Unbounded)
    assert verdict.slug == "infinite-gain"


def test_products_and_quotients_of_signals_have_no_bound() -> None:
    for op, slug in (("Mul", "bilinear"), ("Div", "unbounded-slope"), ("Pow", "unbounded-slope")):
        verdict = _gain(_layer(op, {}), (2,), (2,))
        assert isinstance(verdict, Unbounded)
        assert verdict.slug == slug


def test_the_rounding_of_a_computed_factor_is_covered() -> None:
    plain = computed("c", torch.tensor([0.5, -2.0], dtype=torch.float64))
    for op, truth in (("Mul", 2.0), ("Div", 2.0)):
        rough = _finite(_layer(op, {1: replace(plain, entry_error=1e-6)}), (2,)).factors[0]
        assert rough.lower <= truth * (1 - 1e-6)
        assert rough.upper >= truth * (1 + 1e-6)
        unknown = replace(plain, entry_error=float("inf"))
        assert _finite(_layer(op, {1: unknown}), (2,)).factors[0].rigor is Rigor.NUMERICAL


def test_integers_are_divided_towards_zero() -> None:
    layer = _layer("Div", {1: torch.tensor([2, 2])})
    (made,) = layer.forward([torch.tensor([-3, 3]), torch.tensor([2, 2])])
    assert made.tolist() == [-1, 1]


def test_a_missing_operand_is_an_error_and_not_a_guess() -> None:
    for op in ("Add", "Mul", "Div", "Pow"):
        with pytest.raises(ValueError, match="missing"):
            _layer(op, {}).forward([torch.ones(2), None])
    with pytest.raises(UnsupportedNode):
        _layer("Add", {}, inputs=3)


def _operator_norm(layer: AbstractLayer, shape: Shape | None) -> tuple[float, float]:
    assert isinstance(layer, AbstractLinearLayer)
    enclosure = layer.operator(shape, CPU).norm().enclosure
    return enclosure.lower, enclosure.upper


@st.composite
def matmuls(draw: st.DrawFn) -> tuple[Shape, Shape, bool]:
    """Draw shapes of a signal and a weight that multiply, and on which side the weight is."""
    inner, rows, columns = (draw(st.integers(1, 4)) for _ in range(3))
    on_left = draw(st.booleans())
    signal, weight = draw(broadcast_pairs())
    inner_signal = (inner, columns) if on_left else (rows, inner)
    inner_weight = (rows, inner) if on_left else (inner, columns)
    flat_signal, flat_weight = draw(st.booleans()), draw(st.booleans())
    return (
        (inner,) if flat_signal else (*signal, *inner_signal),
        (inner,) if flat_weight else (*weight, *inner_weight),
        on_left,
    )


@given(matmuls())
def test_matmul_with_one_stored_factor_has_the_norm_of_its_map(
    case: tuple[Shape, Shape, bool],
) -> None:
    signal, weight, on_left = case
    values = _drawn(weight, 3)
    layer = _layer("MatMul", {0 if on_left else 1: values})

    def run(x: torch.Tensor) -> torch.Tensor:
        return torch.matmul(values, x) if on_left else torch.matmul(x, values)

    truth = _norm(jacobian(run, _drawn(signal, 4)))
    lower, upper = _operator_norm(layer, signal)
    assert lower <= truth * (1 + 1e-12)
    assert truth * (1 - 1e-12) <= upper <= truth * (1 + 1e-9)


def test_a_stack_of_matrices_is_not_guessed_at_without_a_shape() -> None:
    layer = _layer("MatMul", {1: _drawn((2, 3, 4))})
    with pytest.raises(NotCertified) as refusal:
        _operator_norm(layer, None)
    assert refusal.value.slug == "needs-shape"


@pytest.mark.parametrize("alpha", [0.3, -1.5, 1e-200])
@pytest.mark.parametrize("turned", [0, 1])
def test_gemm_scales_its_matrix_without_rounding_it(alpha: float, turned: int) -> None:
    weight = _drawn((3, 4))
    layer = _layer("Gemm", {1: weight.mT if turned else weight}, alpha=alpha, transB=turned)
    lower, upper = _operator_norm(layer, (2, 3))
    truth = _norm(weight)
    assert lower / abs(alpha) <= truth * (1 + 1e-12)
    assert upper / abs(alpha) >= truth * (1 - 1e-12)


@pytest.mark.parametrize(
    ("op", "domain", "inputs", "constants"),
    [
        ("Gemm", ONNX_DOMAIN, 3, {1: torch.ones(2, 2)}),  # C is a signal
        ("Gemm", ONNX_DOMAIN, 2, {1: torch.ones(2)}),
        ("MatMul", ONNX_DOMAIN, 2, {1: torch.tensor(1.0)}),
        ("Linear", TORCH_DOMAIN, 2, {}),
        ("Linear", TORCH_DOMAIN, 3, {1: torch.ones(2, 2)}),
        ("Linear", TORCH_DOMAIN, 2, {1: torch.ones(2, 2, 2)}),
    ],
)
def test_what_is_not_a_stored_matrix_is_refused(
    op: str, domain: str, inputs: int, constants: dict[int, torch.Tensor]
) -> None:
    with pytest.raises(UnsupportedNode):
        _layer(op, constants, inputs, domain)


def test_an_empty_matrix_has_norm_zero() -> None:
    assert _operator_norm(_layer("MatMul", {1: torch.zeros(3, 0)}), (2, 3)) == (0, 0)


@pytest.mark.parametrize(
    ("equation", "signal", "weight"),
    [
        ("bqd,dhk->bhqk", (2, 3, 4), (4, 2, 3)),
        ("...d,hdk->...hk", (2, 3, 4), (2, 4, 3)),
        ("hqd,hdk->hqk", (2, 3, 4), (2, 4, 3)),
        ("ab,bc", (2, 3), (3, 4)),
        ("i,i->i", (5,), (5,)),
        ("ij,kl->ijkl", (2, 3), (2, 2)),
    ],
)
def test_einsum_with_one_stored_factor_has_the_norm_of_its_map(
    equation: str, signal: Shape, weight: Shape
) -> None:
    values = _drawn(weight, 5)
    layer = _layer("Einsum", {1: values}, equation=equation)
    truth = _norm(jacobian(lambda x: torch.einsum(equation, x, values), _drawn(signal, 6)))
    lower, upper = _operator_norm(layer, signal)
    assert lower <= truth * (1 + 1e-12)
    assert truth * (1 - 1e-12) <= upper <= truth * (1 + 1e-9)


def test_einsum_that_broadcasts_an_axis_of_one_is_not_guessed_at() -> None:
    layer = _layer("Einsum", {1: _drawn((2, 4, 3))}, equation="hqd,hdk->hqk")
    for shape in ((1, 3, 4), (2, 3, 1), None):
        with pytest.raises(NotCertified):
            _operator_norm(layer, shape)


@pytest.mark.parametrize(
    ("equation", "inputs"),
    [
        ("ij,jk->iz", 2),
        ("ij,jk->ii", 2),
        ("ii,ik->k", 2),
        ("ij,jk->k", 2),
        ("ij,...j->i", 2),
        ("i1,1k->ik", 2),
        ("ij", 2),
    ],
)
def test_equations_that_are_not_modelled_are_refused(equation: str, inputs: int) -> None:
    constants: dict[int, Any] = {1: torch.ones(3, 3)} if inputs == 2 else {}
    with pytest.raises(UnsupportedNode):
        _layer("Einsum", constants, inputs, equation=equation)


def test_an_equation_of_stored_tensors_alone_is_worked_out() -> None:
    first, second = torch.randn(2, 3, 3).sin(), torch.randn(3, 4)
    stored = {"a": computed("a", first), "b": computed("b", second)}
    nodes = (
        Node("Einsum", "e", ("a", "b"), ("ab",), {"equation": "...i,io->...o"}),
        Node("Add", "add", ("x", "ab"), ("y",)),
    )
    found = build(Graph(nodes, stored, (Edge("x", (2, 3, 4)),), (Edge("y"),)))
    assert [step.node.op for step in found.steps] == ["Add"]
    torch.testing.assert_close(found.graph.constants["ab"].read(), first @ second)
