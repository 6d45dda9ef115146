"""What every registered kind of layer must hold, tried on its own examples.

A new kind is tested by being registered. Truth comes from onnxruntime, the reference
implementation of the ONNX specification, or torch's own modules; slopes come from autograd.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch.nn import functional

from lipaudit.device import Compute
from lipaudit.enclosure import Enclosure
from lipaudit.errors import NotCertified
from lipaudit.graph.constant import Shape
from lipaudit.graph.node import ONNX_DOMAIN, TORCH_DOMAIN, Node
from lipaudit.layers import catalog
from lipaudit.layers.base import (
    AbstractGainLayer,
    AbstractLayer,
    AbstractLinearLayer,
    AbstractRetypable,
    Combine,
    Example,
    Gain,
    Unbounded,
    ValuesNeeded,
)
from lipaudit.layers.registry import Kind
from tests.layers.runtime import drawn, layer_of, outputs_of, reference_outputs_of

Tensors = list[torch.Tensor]
Inputs = list[torch.Tensor | None]

KINDS = list(catalog.all_kinds())
CPU = Compute(torch.device("cpu"))


def _gain(layer: AbstractLayer, example: Example) -> Gain | Unbounded:
    if isinstance(layer, AbstractLinearLayer):
        return Gain((layer.operator(example.shapes[0], CPU).norm().enclosure,))
    if isinstance(layer, AbstractGainLayer):
        return layer.gain(example.shapes)
    return Unbounded("shape", "it looks at a shape only")


def _stated(layer: AbstractLayer, example: Example) -> Gain:
    gain = _gain(layer, example)
    assert isinstance(gain, Gain)
    return gain


def _cases(wanted: Callable[[Example], bool]) -> list[Any]:
    """Return the examples of all kinds that a test speaks about."""
    return [
        pytest.param(example, id=f"{kind.domain or 'onnx'}.{kind.op}-{number}")
        for kind in KINDS
        for number, example in enumerate(kind.examples())
        if wanted(example)
    ]


CASES = _cases(lambda _: True)
LINEAR = _cases(lambda example: isinstance(layer_of(example), AbstractLinearLayer))
STATING = _cases(lambda example: isinstance(layer_of(example), AbstractGainLayer))
BOUNDED = _cases(lambda example: isinstance(_gain(layer_of(example), example), Gain))
KNOWN = _cases(lambda example: example.exact_gain is not None)
# Newest first; onnxruntime 1.31 has no kernels of opset 25 yet, and lost a few older ones.
OPSETS = (24, 23, 21)
MAPS_SAMPLES = {"BatchNormalization", "Conv", "ConvTranspose", "Linear"}
# A stack of matrices may be applied side by side, or all to the same slice.
NEEDS_SHAPE = {"Einsum", "MatMul"}
DECIDES_ITS_SHAPE = {"Loop", "NonZero", "Scan"}
STATES_ITS_TYPE = {"Cast", "ConstantOfShape", "EyeLike", "If", "Loop", "Scan", "CastLike"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.domain or 'onnx'}.{kind.op}")
def test_a_registered_kind_has_examples(kind: Kind) -> None:
    examples = list(kind.examples())
    assert examples
    assert all((e.node.op, e.node.domain) == (kind.op, kind.domain) for e in examples)
    assert kind.summary


@pytest.mark.parametrize("example", CASES)
def test_forward_equals_the_runtime(example: Example) -> None:
    inputs = drawn(example)
    ours = layer_of(example).forward(inputs)
    theirs = _truth(example.node, inputs)
    assert len(ours) >= len(theirs)
    for mine, truth in zip(ours, theirs, strict=False):
        assert mine.dtype == truth.dtype
        assert mine.shape == truth.shape
        torch.testing.assert_close(mine, truth, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("example", CASES)
def test_meta_tensors_get_the_same_shapes_and_types(example: Example) -> None:
    inputs = drawn(example)
    layer = layer_of(example)
    real = layer.forward(inputs)
    try:
        hollow = layer.forward([None if v is None else v.to("meta") for v in inputs])
    except ValuesNeeded:
        parameters = [v for v in inputs if v is not None and not v.is_floating_point()]
        assert parameters or example.node.op in DECIDES_ITS_SHAPE
        return
    assert [value.shape for value in hollow] == [value.shape for value in real]
    assert [value.dtype for value in hollow] == [value.dtype for value in real]


@pytest.mark.parametrize("example", BOUNDED)
def test_the_jacobian_never_exceeds_the_gain(example: Example) -> None:
    layer = layer_of(example)
    gain = _stated(layer, example)
    for seed in range(3):
        for made, blocks in _jacobians(layer, example, seed):
            assert _exceeded(blocks, gain) <= 1 + 1e-9, f"output of shape {made}"


@pytest.mark.parametrize("example", BOUNDED)
def test_difference_quotients_never_exceed_the_gain(example: Example) -> None:
    layer = layer_of(example)
    gain = _stated(layer, example)
    run = _double(layer)
    for seed, size in itertools.product(range(2), (1e-3, 1.0, 30.0)):
        first, second = _moved(example, seed, size)
        moves = [_distance(a, b) for a, b in _signal_pairs(example, first, second)]
        allowed = _allowed(moves, gain)
        for a, b in zip(run(first), run(second), strict=True):
            if a.is_floating_point() and torch.isfinite(a).all() and torch.isfinite(b).all():
                # The values themselves are off by their own rounding.
                rounding = 1e-12 * float(a.abs().sum() + b.abs().sum())
                assert _distance(a, b) <= allowed * (1 + 1e-9) + rounding


@pytest.mark.parametrize("example", KNOWN)
def test_a_known_constant_is_met(example: Example) -> None:
    gain = _stated(layer_of(example), example)
    assert example.exact_gain is not None
    largest = max(factor.upper for factor in gain.factors)
    assert example.exact_gain * (1 - 1e-12) <= largest <= example.exact_gain * (1 + 1e-6)


@pytest.mark.parametrize("example", STATING)
def test_a_bound_for_every_shape_covers_this_one(example: Example) -> None:
    layer = layer_of(example)
    assert isinstance(layer, AbstractGainLayer)
    stated = layer.gain(example.shapes)
    free = layer.gain((None,) * len(example.shapes))
    if isinstance(free, Unbounded):
        assert free.slug
        assert free.reason
        return
    assert isinstance(stated, Gain), "knowing less never makes a layer bounded"
    assert free.combine is stated.combine
    for known, unknown in zip(stated.factors, free.factors, strict=True):
        assert unknown.hi >= known.hi * (1 - Enclosure.exactly(1e-12).hi)


@pytest.mark.parametrize("example", LINEAR)
def test_the_operator_is_the_linear_part(example: Example) -> None:
    layer = layer_of(example)
    assert isinstance(layer, AbstractLinearLayer)
    operator = layer.operator(example.shapes[0], CPU)
    ((_, (block,)),) = _jacobians(layer, example, 0)
    truth = torch.linalg.svdvals(block)
    largest = float(truth[0])
    norm = operator.norm().enclosure
    assert norm.lower <= largest * (1 + 1e-9)
    assert norm.upper >= largest * (1 - 1e-9)
    spectrum = operator.spectrum()
    if spectrum is not None and not spectrum.of and spectrum.rows:
        ours, theirs = torch.from_numpy(spectrum.values), truth
        gaps = (ours[:, None] - theirs[None, :]).abs()
        # The same numbers, though a batch repeats them and both sides may count zeros.
        assert gaps[ours > 1e-9 * largest].amin(1).max() <= 1e-7 * largest
        assert gaps[:, theirs > 1e-9 * largest].amin(0).max() <= 1e-7 * largest
    assert layer.weights()
    assert all(layer.geometry().values())


@pytest.mark.parametrize("example", LINEAR)
def test_the_operator_maps_what_the_layer_maps(example: Example) -> None:
    layer = layer_of(example)
    assert isinstance(layer, AbstractLinearLayer)
    shape = example.shapes[0]
    operator = layer.operator(shape, CPU)
    if example.node.op not in MAPS_SAMPLES:
        return  # it maps one row or column of a product; the spectrum is compared above
    run = _double(layer)
    at = _doubled(drawn(example))
    zero = [torch.zeros_like(v) if k in _signals(example) and v is not None else v
            for k, v in enumerate(at)]  # fmt: skip
    (difference,) = (a - b for a, b in zip(run(at), run(zero), strict=True))
    (x,) = (v for k, v in enumerate(at) if k in _signals(example) and v is not None)
    mapped = operator.apply(x.reshape(-1, *(operator.in_shape or ())))
    torch.testing.assert_close(mapped.reshape(difference.shape), difference)


@pytest.mark.parametrize("example", LINEAR)
def test_an_operator_for_every_size_covers_this_one(example: Example) -> None:
    layer = layer_of(example)
    assert isinstance(layer, AbstractLinearLayer)
    here = layer.operator(example.shapes[0], CPU).norm().enclosure
    try:
        anywhere = layer.operator(None, CPU).norm().enclosure
    except NotCertified:
        assert example.node.op in NEEDS_SHAPE
        return
    assert anywhere.upper >= here.lower * (1 - 1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("example", CASES)
def test_results_keep_the_type_of_the_run(example: Example, dtype: torch.dtype) -> None:
    inputs = drawn(example)
    layer = layer_of(example)
    if isinstance(layer, AbstractRetypable):
        layer = layer.in_dtype(dtype)
    usual = layer_of(example).forward(inputs)
    made = layer.forward([v.to(dtype) if v is not None and v.dtype == torch.float32 else v
                          for v in inputs])  # fmt: skip
    if not any(v is not None and v.dtype == torch.float32 for v in inputs):
        return
    for one, other in zip(made, usual, strict=True):
        assert one.shape == other.shape
        if other.dtype == torch.float32 and example.node.op not in STATES_ITS_TYPE:
            assert one.dtype == dtype


def _truth(node: Node, inputs: Inputs) -> Tensors:
    if node.domain == TORCH_DOMAIN:
        return [TORCH[node.op](node.attributes, inputs)]
    assert node.domain == ONNX_DOMAIN
    for opset in OPSETS:
        try:
            return outputs_of(node, inputs, opset)
        except Exception as error:
            if not any(word in str(error) for word in REFUSALS):
                raise
    return reference_outputs_of(node, inputs, OPSETS[0])


REFUSALS = (
    "NOT_IMPLEMENTED",
    "No Op registered",
    "size_ % 2 == 1 was false",  # LRN over an even number of channels
    "beta_ > 0.0f was false",  # LRN without a power
)


def _torch_convolution(attributes: Mapping[str, Any], inputs: Inputs) -> torch.Tensor:
    x, kernel, *bias = (value for value in inputs if value is not None)
    rank = kernel.dim() - 2
    kinds: Sequence[Callable[..., Any]] = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    module = kinds[rank - 1](
        kernel.shape[1],
        kernel.shape[0],
        list(kernel.shape[2:]),
        padding=attributes["pads"][:rank],
        padding_mode=attributes["padding_mode"],
        bias=bool(bias),
    )
    with torch.no_grad():
        module.weight.copy_(kernel)
        if bias and module.bias is not None:
            module.bias.copy_(bias[0])
        made: torch.Tensor = module(x)
    return made


def _adaptive(*pools: Callable[..., Any]) -> Callable[[Mapping[str, Any], Inputs], torch.Tensor]:
    def pool(attributes: Mapping[str, Any], inputs: Inputs) -> torch.Tensor:
        size = attributes["output_size"]
        made: torch.Tensor = pools[len(size) - 1](inputs[0], size)
        return made

    return pool


def _pointwise(module: Callable[..., Any]) -> Callable[[Mapping[str, Any], Inputs], torch.Tensor]:
    return lambda attributes, inputs: module(**attributes)(inputs[0])


def _gelu(attributes: Mapping[str, Any], inputs: Inputs) -> torch.Tensor:
    """x·Φ(√2·αx) in the one form, x·sigmoid(2α(x + cubic·x³)) in the other: other formulas."""
    (x,) = inputs
    assert x is not None
    if attributes.get("approximate") == "tanh":
        alpha, cubic = attributes.get("alpha", math.sqrt(2 / math.pi)), attributes.get("cubic")
        factor = 0.044715 if cubic is None else cubic
        made: torch.Tensor = x * torch.sigmoid(2 * alpha * (x + factor * x**3))
    else:
        scale = math.sqrt(2) * attributes.get("alpha", math.sqrt(0.5))
        made = functional.gelu(scale * x) / scale
    return made


def _hard_swish(x: torch.Tensor | None, alpha: float = 1 / 6, scale: float = 1.0) -> torch.Tensor:
    assert x is not None
    return functional.hardswish(6 * alpha * x) * scale / (6 * alpha)


def _normalize(attributes: Mapping[str, Any], inputs: Inputs) -> torch.Tensor:
    (x,) = inputs
    assert x is not None
    axes = list(attributes["axes"] or range(x.dim()))
    # torch's own takes one axis: the others are moved behind it and flattened.
    kept = [axis for axis in range(x.dim()) if axis not in {a % x.dim() for a in axes}]
    order = [*kept, *(a % x.dim() for a in axes)]
    flat = x.permute(order).flatten(len(kept))
    made: torch.Tensor = functional.normalize(flat, dim=-1, eps=attributes["epsilon"])
    back = [order.index(axis) for axis in range(x.dim())]
    return made.reshape([x.shape[axis] for axis in order]).permute(back)


TORCH: Mapping[str, Callable[[Mapping[str, Any], Inputs], torch.Tensor]] = {
    "AdaptiveAveragePool": _adaptive(
        functional.adaptive_avg_pool1d,
        functional.adaptive_avg_pool2d,
        functional.adaptive_avg_pool3d,
    ),
    "AdaptiveMaxPool": _adaptive(
        functional.adaptive_max_pool1d,
        functional.adaptive_max_pool2d,
        functional.adaptive_max_pool3d,
    ),
    "Conv": _torch_convolution,
    "GLU": lambda attributes, inputs: torch.nn.GLU(attributes.get("dim", -1))(inputs[0]),
    "Gelu": _gelu,
    "HardSwish": lambda attributes, inputs: _hard_swish(inputs[0], **attributes),
    "Hardsigmoid": _pointwise(torch.nn.Hardsigmoid),
    "Hardtanh": _pointwise(torch.nn.Hardtanh),
    "Linear": lambda _, inputs: functional.linear(*(v for v in inputs if v is not None)),
    "LogSigmoid": _pointwise(torch.nn.LogSigmoid),
    "Normalize": _normalize,
    "ReLU6": _pointwise(torch.nn.ReLU6),
    "Softplus": _pointwise(torch.nn.Softplus),
    "Tanhshrink": _pointwise(torch.nn.Tanhshrink),
    "Threshold": lambda attributes, inputs: torch.nn.Threshold(
        attributes.get("threshold", 0.0), attributes.get("value", 0.0)
    )(inputs[0]),
}


def _signals(example: Example) -> list[int]:
    """Return the positions of what the gain speaks about."""
    return [
        at for at, name in enumerate(example.node.inputs) if name and at not in example.constants
    ]


def _doubled(inputs: Inputs) -> Inputs:
    return [v.double() if v is not None and v.is_floating_point() else v for v in inputs]


def _double(layer: AbstractLayer) -> Callable[[Inputs], tuple[torch.Tensor, ...]]:
    """Return the layer's forward pass in float64."""
    told = layer.in_dtype(torch.float64) if isinstance(layer, AbstractRetypable) else layer
    return lambda inputs: told.forward(_doubled(inputs))


def _jacobians(
    layer: AbstractLayer, example: Example, seed: int
) -> Iterator[tuple[Shape, Tensors]]:
    """Yield for each real output its Jacobian with respect to each signal (integers: empty)."""
    at = _doubled(drawn(example, seed))
    run = _double(layer)
    for number, made in enumerate(run(at)):
        if not made.is_floating_point() or not bool(torch.isfinite(made).all()):
            continue
        blocks = []
        for position in _signals(example):
            value = at[position]
            assert value is not None
            if not value.is_floating_point():
                blocks.append(torch.zeros(made.numel(), 0, dtype=torch.float64))
                continue

            def moved(
                x: torch.Tensor, position: int = position, number: int = number
            ) -> torch.Tensor:
                return run([x if k == position else v for k, v in enumerate(at)])[number]

            jacobian: Any = torch.autograd.functional.jacobian(moved, value)  # type: ignore[no-untyped-call] # published without types
            blocks.append(jacobian.reshape(made.numel(), value.numel()))
        yield tuple(made.shape), blocks


def _exceeded(blocks: Sequence[torch.Tensor], gain: Gain) -> float:
    """Return the largest ratio of a true stretch to the stated one."""
    assert len(blocks) == len(gain.factors)
    ratios = []
    scaled = []
    for block, factor in zip(blocks, gain.factors, strict=True):
        if not block.numel() or not bool(block.any()):
            continue
        norm = float(torch.linalg.matrix_norm(block, 2))
        ratios.append(norm / factor.upper if factor.upper else float("inf"))
        scaled.append(block / factor.upper)
    if gain.combine is Combine.ROOT_SUM_SQUARES and scaled and max(ratios) < float("inf"):
        ratios.append(float(torch.linalg.matrix_norm(torch.cat(scaled, 1), 2)))
    return max(ratios, default=0.0)


def _moved(example: Example, seed: int, size: float) -> tuple[Inputs, Inputs]:
    """Return two inputs that differ by about `size` in every real signal."""
    first = _doubled(drawn(example, seed))
    generator = torch.Generator().manual_seed(seed + 100)
    second = list(first)
    for position in _signals(example):
        value = first[position]
        if value is not None and value.is_floating_point():
            step = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            second[position] = value + size * step
    return first, second


def _signal_pairs(
    example: Example, first: Inputs, second: Inputs
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for position in _signals(example):
        a, b = first[position], second[position]
        assert a is not None
        assert b is not None
        yield a, b


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(a.double() - b.double()))


def _allowed(moves: Sequence[float], gain: Gain) -> float:
    terms = [m * f.upper for m, f in zip(moves, gain.factors, strict=True) if m > 0]
    if gain.combine is Combine.SUM:
        return sum(terms)
    return math.sqrt(sum(term**2 for term in terms))
