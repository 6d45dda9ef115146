"""Layers that move, copy and reduce items: equal to onnxruntime, and as stretching as stated."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipaudit.graph.constant import Shape
from lipaudit.layers import registry
from lipaudit.layers.base import AbstractGainLayer, Combine, Example, Gain, Unbounded, example
from tests.layers.runtime import assert_equal_to_onnxruntime, drawn, jacobian, layer_of

MODULES = frozenset(
    {
        "assembly",
        "attention",
        "control",
        "creation",
        "gathering",
        "logic",
        "permutation",
        "quantization",
        "quantized",
        "recurrent",
        "reduction",
        "selection",
        "shape",
    }
)
KINDS = [kind for kind in registry.all_kinds() if kind.layer.__module__.split(".")[-1] in MODULES]
CASES = [case for kind in KINDS for case in kind.examples()]
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.node.op)
def test_every_example_equals_onnxruntime(case: Example) -> None:
    assert_equal_to_onnxruntime(case)


def jacobians(case: Example, seed: int) -> list[torch.Tensor]:
    """Return the Jacobian of the first output with respect to each real signal, by autograd."""
    layer = layer_of(case)
    inputs = [
        value.double() if value is not None and value.is_floating_point() else value
        for value in drawn(case, seed)
    ]
    signals = [at for at, name in enumerate(case.node.inputs) if name and at not in case.constants]
    found = []
    for at in signals:

        def only(x: torch.Tensor, at: int = at) -> torch.Tensor:
            return layer.forward([*inputs[:at], x, *inputs[at + 1 :]])[0]

        point = inputs[at]
        assert point is not None
        if not only(point).numel():
            return []  # torch's Jacobian of nothing fails
        found.append(jacobian(only, point))
    return found


def stretch(case: Example, gain: Gain, seed: int = 0) -> tuple[float, float]:
    """Return the joint Jacobian's norm, and what the gain says about it."""
    parts = jacobians(case, seed)
    norm = float(torch.linalg.matrix_norm(torch.cat(parts, 1), 2)) if parts else 0.0
    factors = [factor.upper for factor in gain.factors]
    # Σ g_i |d_i| <= √(Σ g_i²) |d|; signals in disjoint parts: max g_i.
    said = math.hypot(*factors) if gain.combine is Combine.SUM else max(factors, default=0.0)
    return norm, said


def has_a_gain(case: Example) -> bool:
    """Tell whether a case has real signals and a finite constant."""
    layer = layer_of(case)
    if not case.shapes or case.dtypes or not isinstance(layer, AbstractGainLayer):
        return False
    return isinstance(layer.gain(case.shapes), Gain)


STRETCHING = [case for case in CASES if has_a_gain(case)]


@pytest.mark.parametrize("case", STRETCHING, ids=lambda case: case.node.op)
def test_no_jacobian_exceeds_the_gain(case: Example) -> None:
    layer = layer_of(case)
    assert isinstance(layer, AbstractGainLayer)
    gain = layer.gain(case.shapes)
    assert isinstance(gain, Gain)
    assert len(gain.factors) == len(case.shapes)
    for seed in range(3):
        norm, said = stretch(case, gain, seed)
        assert norm <= said * (1 + 1e-12)
    anywhere = layer.gain([None] * len(case.shapes))
    if isinstance(anywhere, Gain):
        assert norm <= stretch(case, anywhere)[1] * (1 + 1e-12)


def check(case: Example, *, attained: bool = False) -> None:
    """Compare a drawn case with onnxruntime, and its gain with the dense Jacobian."""
    assert_equal_to_onnxruntime(case)
    layer = layer_of(case)
    assert isinstance(layer, AbstractGainLayer)
    for shapes in (case.shapes, [None] * len(case.shapes)):
        gain = layer.gain(shapes)
        if isinstance(gain, Unbounded):
            assert gain.slug == "needs-shape"
            assert None in shapes
            continue
        norm, said = stretch(case, gain)
        assert norm <= said * (1 + 1e-12)
        if attained and None not in shapes:
            assert norm >= said * (1 - 1e-9)


@given(SHAPES, st.data())
def test_slices(shape: Shape, data: st.DataObject) -> None:
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1))
    bound = st.integers(-6, 6)
    starts = [data.draw(bound) for _ in axes]
    ends = [data.draw(bound) for _ in axes]
    steps = [data.draw(st.sampled_from([-3, -2, -1, 1, 2, 3])) for _ in axes]
    parts = dict(enumerate(map(torch.tensor, (starts, ends, axes, steps)), start=1))
    check(example("Slice", shape, constants=parts))


@given(SHAPES, st.data())
def test_gathers(shape: Shape, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[axis]
    where = data.draw(st.lists(st.integers(-size, size - 1), min_size=1, max_size=5))
    check(example("Gather", shape, constants={1: torch.tensor(where)}, axis=axis), attained=True)


@given(SHAPES, st.data())
def test_gathers_of_single_items_and_their_scatters(shape: Shape, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    sizes = [data.draw(st.integers(1, size)) for size in shape]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    where = torch.randint(-shape[axis], shape[axis], sizes, generator=generator)
    check(example("GatherElements", shape, constants={1: where}, axis=axis), attained=True)
    check(
        example(
            "ScatterElements", shape, tuple(sizes), constants={1: where}, axis=axis, reduction="add"
        )
    )


@given(SHAPES, st.data())
def test_gathers_of_slices_and_their_scatters(shape: Shape, data: st.DataObject) -> None:
    depth = data.draw(st.integers(1, len(shape)))
    rows = data.draw(
        st.lists(
            st.tuples(*(st.integers(-size, size - 1) for size in shape[:depth])),
            min_size=1,
            max_size=4,
        )
    )
    where = torch.tensor(rows)
    check(example("GatherND", shape, constants={1: where}), attained=True)
    updates = (len(rows), *shape[depth:])
    check(example("ScatterND", shape, updates, constants={1: where}, reduction="add"))


@given(SHAPES, SHAPES, st.data())
def test_expansions_and_tilings(shape: Shape, wider: Shape, data: st.DataObject) -> None:
    own = tuple(data.draw(st.sampled_from([1, size])) for size in wider)[-len(shape) :]
    check(example("Expand", own, constants={1: torch.tensor(wider)}), attained=True)
    repeats = [data.draw(st.integers(1, 3)) for _ in shape]
    check(example("Tile", shape, constants={1: torch.tensor(repeats)}), attained=True)


@given(SHAPES, st.data())
def test_linear_reductions(shape: Shape, data: st.DataObject) -> None:
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True))
    op = data.draw(st.sampled_from(["ReduceSum", "ReduceMean"]))
    constants = {1: torch.tensor(axes, dtype=torch.int64)}
    case = example(op, shape, constants=constants, keepdims=data.draw(st.integers(0, 1)))
    check(case, attained=True)


@given(SHAPES, st.data())
def test_other_reductions(shape: Shape, data: st.DataObject) -> None:
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1))
    op = data.draw(
        st.sampled_from(["ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceLogSumExp"])
    )
    check(example(op, shape, constants={1: torch.tensor(axes)}), attained=op != "ReduceLogSumExp")


@given(SHAPES, st.data())
def test_running_sums_attain_their_norm(shape: Shape, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    flags: dict[str, Any] = {
        name: data.draw(st.integers(0, 1)) for name in ("exclusive", "reverse")
    }
    check(example("CumSum", shape, constants={1: torch.tensor(axis)}, **flags), attained=True)


@given(SHAPES, st.data())
def test_the_largest_items(shape: Shape, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    count = data.draw(st.integers(1, shape[axis]))
    largest = data.draw(st.integers(0, 1))
    constants = {1: torch.tensor([count])}
    check(
        example("TopK", shape, constants=constants, axis=axis, largest=largest, outputs=2),
        attained=True,
    )


@given(SHAPES, st.integers(1, 4), st.data())
def test_splits(shape: Shape, parts: int, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    sizes = [0] * parts
    for _ in range(shape[axis]):
        sizes[data.draw(st.integers(0, parts - 1))] += 1
    constants = {1: torch.tensor(sizes)}
    check(example("Split", shape, constants=constants, axis=axis, outputs=parts))


@given(SHAPES, st.data())
def test_choices_under_a_stored_condition(shape: Shape, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    mask = torch.rand(shape, generator=generator) > 0.5
    one = tuple(data.draw(st.sampled_from([1, size])) for size in shape)
    check(example("Where", one, shape, constants={0: mask}))


@pytest.mark.parametrize(
    ("shape", "target", "attributes"),
    [
        ((2, 0, 3), (0, -1), {}),
        ((2, 0, 3), (3, 0, 2), {"allowzero": 1}),
        ((2, 3), (-1,), {}),
        ((), (1, 1), {}),
        ((4,), (2, -1, 1), {}),
    ],
)
def test_reshapes_with_zeros_and_rests(
    shape: Shape, target: Sequence[int], attributes: dict[str, Any]
) -> None:
    assert_equal_to_onnxruntime(
        example("Reshape", shape, constants={1: torch.tensor(target)}, **attributes)
    )


@pytest.mark.parametrize(
    "op", ["ReduceSum", "ReduceSumSquare", "ReduceL2", "ReduceMax", "ReduceLogSumExp"]
)
def test_no_axes_mean_no_reduction_when_a_node_says_so(op: str) -> None:
    none = {1: torch.tensor([], dtype=torch.int64)}
    assert_equal_to_onnxruntime(example(op, (2, 3), constants=none, noop_with_empty_axes=1))
    assert_equal_to_onnxruntime(example(op, (2, 3), constants=none))


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceProd", "ReduceL1"])
def test_integers_are_reduced_as_integers(op: str) -> None:
    values = {0: torch.tensor([[7, -2, 5], [3, 4, -1]], dtype=torch.int32), 1: torch.tensor([1])}
    assert_equal_to_onnxruntime(example(op, constants=values))


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool", "float64", "float16"])
def test_items_of_any_type_are_moved(dtype: str) -> None:
    for case in (
        example("Transpose", (2, 3), dtypes=(dtype,)),
        example("Concat", (2, 3), (1, 3), axis=0, dtypes=(dtype, dtype)),
        example("Gather", (3, 2), constants={1: torch.tensor([2, 0])}, dtypes=(dtype,)),
        example("Expand", (3, 1), constants={1: torch.tensor([3, 2])}, dtypes=(dtype,)),
    ):
        assert_equal_to_onnxruntime(case)


@pytest.mark.parametrize(
    "case",
    [
        example("Cast", (2, 3), to=7),
        example("ArgMax", (2, 3)),
        example("Greater", (2, 3), (2, 3)),
        example("Round", (2, 3)),
        example("QuantizeLinear", (2, 3), constants={1: torch.tensor(0.1)}),
        example("NonZero", (2, 3)),
        example("Where", (2,), (2,), (2,), dtypes=("bool", "float32", "float32")),
        example("Gather", (2,), constants={0: torch.ones(3)}, dtypes=("int64",)),
    ],
    ids=lambda case: case.node.op,
)
def test_what_jumps_has_no_constant(case: Example) -> None:
    layer = layer_of(case)
    assert isinstance(layer, AbstractGainLayer)
    gain = layer.gain(case.shapes)
    assert isinstance(gain, Unbounded)
    assert gain.slug == "discontinuous"
