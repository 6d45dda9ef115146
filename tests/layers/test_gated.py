"""LSTM and GRU layers: their gains, against autograd through torch's own modules."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lipaudit.enclosure import Rigor
from lipaudit.graph.constant import computed
from lipaudit.layers.base import Call, Gain, Unbounded, example
from lipaudit.layers.recurrent import GRU, LSTM
from tests.layers.runtime import layer_of
from tests.layers.slopes import ORDERS, Constants, factors, largest_slope, points

Array = npt.NDArray[np.float64]


def tensors(seed: int, scale: float, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64) * scale for shape in shapes
    ]


def refused(op: str, constants: Constants, **attributes: Any) -> str:
    """Return the slug with which a gain for 4 steps is refused."""
    case = example(op, (4, 1, 2), constants=constants, **attributes)
    layer = layer_of(case)
    assert isinstance(layer, GRU | LSTM)
    gain = layer.gain([(4, 1, 2)] * len(layer.signals))
    assert isinstance(gain, Unbounded)
    return gain.slug


def weights_of(module: torch.nn.RNNBase, level: int) -> Constants:
    """Return torch's W, R and b of one layer by input position, in ONNX's order."""
    order = ORDERS[module.mode]
    both = ("", "_reverse") if module.bidirectional else ("",)

    def stacked(name: str) -> torch.Tensor:
        found = []
        for suffix in both:
            parts = module.get_parameter(f"{name}_l{level}{suffix}").detach().chunk(len(order))
            found.append(torch.cat([parts[at] for at in order]))
        return torch.stack(found)

    constants = {1: stacked("weight_ih"), 2: stacked("weight_hh")}
    if module.bias:
        constants[3] = torch.cat([stacked("bias_ih"), stacked("bias_hh")], 1)
    return constants


def forget_nothing(module: torch.nn.RNNBase) -> None:
    """Make an LSTM add up its candidates, and a GRU keep or replace its state at will."""
    for name, parameter in module.named_parameters():
        if name.startswith("bias_ih"):
            gates = parameter.data.chunk(len(ORDERS[module.mode]))
            gates[1][:] = 6.0
            gates[0][:] = 4.0


def large_recurrence(module: torch.nn.RNNBase) -> None:
    for name, parameter in module.named_parameters():
        if name.startswith("weight_hh"):
            parameter.data *= 8


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("levels", "bias"), [(1, True), (1, False), (2, True)])
@pytest.mark.parametrize("made", [lambda _: None, forget_nothing, large_recurrence])
def test_no_jacobian_of_torch_exceeds_the_gain(
    op: str, bidirectional: bool, levels: int, bias: bool, made: Callable[[object], None]
) -> None:
    torch.manual_seed(levels)
    kinds: dict[str, Callable[..., torch.nn.RNNBase]] = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU}
    module = kinds[op](2, 3, levels, bias=bias, bidirectional=bidirectional).double()
    made(module)
    steps, allowed = 4, 1.0
    attributes: dict[str, Any] = {"direction": "bidirectional"} if bidirectional else {}
    if op == "GRU":
        attributes["linear_before_reset"] = 1
    for level in range(levels):
        constants = weights_of(module, level)
        shape = (steps, 1, constants[1].shape[2])
        allowed *= factors(op, (shape,), constants, **attributes)[0]

    def run(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y, states = module(x)
        last = states if isinstance(states, tuple) else (states,)
        # The states of the last layer are those whose bound is the product.
        count = 2 if bidirectional else 1
        return y, *(state[-count:] for state in last)

    assert largest_slope(run, points(steps, 2)) <= allowed * (1 + 1e-12)


CELLS: list[tuple[str, dict[str, Any]]] = [
    ("LSTM", {}),
    ("LSTM", {"input_forget": 1}),
    ("LSTM", {"clip": 0.7}),
    ("LSTM", {"activations": ("Relu", "Affine", "Relu"), "activation_alpha": (1.5,), "clip": 2.0}),
    ("LSTM", {"activations": ("Tanh", "Softsign", "Affine"), "input_forget": 1}),
    ("LSTM", {"activations": ("HardSigmoid", "ScaledTanh", "Softplus"), "direction": "reverse"}),
    ("GRU", {}),
    ("GRU", {"linear_before_reset": 1}),
    ("GRU", {"linear_before_reset": 1, "clip": 0.7}),
    ("GRU", {"activations": ("Tanh", "ScaledTanh"), "activation_alpha": (2.0,)}),
    ("GRU", {"activations": ("HardSigmoid", "Softsign"), "direction": "reverse"}),
]


@pytest.mark.parametrize("scale", [0.5, 2.0])
@pytest.mark.parametrize(("op", "attributes"), CELLS)
def test_no_variant_exceeds_its_gain(op: str, attributes: dict[str, Any], scale: float) -> None:
    gates = 4 if op == "LSTM" else 3
    shapes = ((1, gates * 2, 2), (1, gates * 2, 2), (1, gates * 4), (1, 1, 2), (1, 1, 2), (1, 6))
    w, r, b, h, c, p = tensors(1, scale, *shapes)
    constants = {1: w, 2: r, 3: b, 5: 2 * h}
    if op == "LSTM":
        constants |= {6: 3 * c, 7: p}
    constants = {at: _spread(at, value) for at, value in constants.items()}
    constants[4] = torch.full((300,), 4, dtype=torch.int32)
    (allowed,) = factors(op, ((4, 1, 2),), constants, **attributes)
    layer = layer_of(example(op, (4, 1, 2), constants=constants, **attributes))
    rest = [constants.get(at) for at in range(1, 8)]
    found = largest_slope(lambda x: layer.forward([x, *rest]), points(4, 2))
    assert found <= allowed * (1 + 1e-12)


def _spread(position: int, value: torch.Tensor) -> torch.Tensor:
    """Give every sample the same initial state."""
    return value.expand(-1, 300, -1) if position in {5, 6} else value


def by_hand(x: Array, weights: tuple[Array, ...], clip: float, coupled: bool) -> Array:
    """Run an LSTM of one unit as the ONNX specification writes it; return Y and Y_c in a row."""
    w, r, b, p = weights

    def sigmoid(z: float) -> float:
        return 1 / (1 + float(np.exp(-np.clip(z, -clip, clip))))

    h = c = 0.0
    seen = []
    for value in x:
        zi, zo, zf, zc = w * value + r * h + b
        i = sigmoid(zi + p[0] * c)
        f = 1 - i if coupled else sigmoid(zf + p[2] * c)
        c = f * c + i * float(np.tanh(np.clip(zc, -clip, clip)))
        o = sigmoid(zo + p[1] * c)
        h = o * float(np.tanh(c))
        seen.append(h)
    return np.array([*seen, c])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("clip", [1.5, 1e300])
def test_peepholes_coupled_gates_and_clipping_by_hand(
    seed: int, coupled: bool, clip: float
) -> None:
    generator = np.random.default_rng(seed)
    steps = 5
    w, r, b, p = weights = tuple(2 * generator.standard_normal(size) for size in (4, 4, 4, 3))
    constants = {
        1: torch.tensor(w).reshape(1, 4, 1),
        2: torch.tensor(r).reshape(1, 4, 1),
        3: torch.tensor(np.concatenate([b, 0 * b]))[None],
        7: torch.tensor(p)[None],
        4: torch.tensor([steps], dtype=torch.int32),
        5: torch.zeros(1, 1, 1),
        6: torch.zeros(1, 1, 1),
    }
    attributes = {"clip": clip, "input_forget": int(coupled)}
    (allowed,) = factors("LSTM", ((steps, 1, 1),), constants, **attributes)
    for size, reach in itertools.product((1e-4, 0.1, 3.0), (0.1, 1.0, 10.0)):
        x = reach * generator.standard_normal(steps)
        y = x + size * generator.standard_normal(steps)
        first, second = (by_hand(each, weights, clip, coupled) for each in (x, y))
        moved = allowed * float(np.linalg.norm(x - y)) * (1 + 1e-9)
        assert float(np.linalg.norm((first - second)[:-1])) <= moved
        assert abs(first[-1] - second[-1]) <= moved


@pytest.mark.parametrize("length", [0, 2, 3])
def test_the_hidden_state_of_an_lstm_may_be_a_signal(length: int) -> None:
    w, r, b, c = tensors(0, 0.7, (1, 8, 2), (1, 8, 2), (1, 16), (1, 300, 2))
    lengths = torch.full((300,), length, dtype=torch.int32)
    constants = {1: w, 2: r, 3: b, 4: lengths, 6: c}
    shapes = ((3, 300, 2), (1, 300, 2))
    layer = layer_of(example("LSTM", *shapes, constants=constants))
    x, h = points(3, 2), points(1, 2)
    found = (
        largest_slope(lambda x: layer.forward([x, w, r, b, lengths, h, c]), x),
        largest_slope(lambda h: layer.forward([x, w, r, b, lengths, h, c]), h),
    )
    for slope, allowed in zip(found, factors("LSTM", shapes, constants), strict=True):
        assert slope <= allowed * (1 + 1e-12)


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_the_batch_may_come_first(op: str) -> None:
    gates = len(ORDERS[op])
    w, r = tensors(0, 0.5, (1, gates * 3, 2), (1, gates * 3, 3))
    plain = factors(op, ((4, 7, 2),), {1: w, 2: r})
    assert factors(op, ((7, 4, 2),), {1: w, 2: r}, layout=1) == plain
    assert factors(op, ((4, 1, 2),), {1: w, 2: r}) == plain, "the samples of a batch do not meet"
    assert factors(op, ((7, 4, 2),), {1: w, 2: r}) > plain


def test_why_there_may_be_no_bound() -> None:
    w, r, h = torch.ones(1, 12, 2), torch.ones(1, 12, 3), torch.ones(1, 1, 3)
    b, lengths = torch.ones(1, 24), torch.ones(1, dtype=torch.int32)
    lstm = {1: w, 2: r}
    gru = {1: w[:, :9], 2: r[:, :9], 3: b[:, :18], 4: lengths}
    assert refused("LSTM", lstm, activations=("Relu", "Tanh", "Tanh")) == "bilinear"
    assert refused("LSTM", lstm, activations=("Sigmoid", "Elu", "Tanh")) == "bilinear"
    assert refused("GRU", gru, activations=("Sigmoid", "Relu")) == "bilinear"
    jumps = ("Sigmoid", "ThresholdedRelu", "Tanh")
    assert refused("LSTM", lstm, activations=jumps) == "discontinuous"
    assert refused("LSTM", {1: w}) == "computed-parameter"
    assert refused("LSTM", {**lstm, 6: torch.full_like(h, torch.inf)}) == "non-finite"
    # An initial state that is a signal: the cell's of an LSTM, and that of a GRU.
    for op, constants in (("LSTM", {**lstm, 3: b, 4: lengths, 5: h}), ("GRU", gru)):
        layer = layer_of(example(op, (4, 1, 2), (1, 1, 3), constants=constants))
        assert isinstance(layer, GRU | LSTM)
        gain = layer.gain([(4, 1, 2), (1, 1, 3)])
        assert isinstance(gain, Unbounded)
        assert gain.slug == "bilinear"
        assert "initial state" in gain.reason
        alone = layer_of(example(op, (4, 1, 2), constants={**constants, 5: h, 6: h}))
        assert isinstance(alone, GRU | LSTM)
        free = alone.gain([None])
        assert isinstance(free, Unbounded)
        assert free.slug == "needs-shape"


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_weights_that_are_only_computed_are_no_proof(op: str) -> None:
    gates = len(ORDERS[op])
    w, r = tensors(0, 0.5, (1, gates * 3, 2), (1, gates * 3, 3))
    case = example(op, (4, 1, 2), constants={1: w, 2: r})
    doubted = {
        at: replace(computed(f"c{at}", value), entry_error=float("inf"))
        for at, value in case.constants.items()
    }
    kinds: dict[str, type[LSTM | GRU]] = {"LSTM": LSTM, "GRU": GRU}
    gain = kinds[op].from_node(Call(case.node, doubted)).gain(case.shapes)
    assert isinstance(gain, Gain)
    assert gain.factors[0].rigor is Rigor.NUMERICAL


@pytest.mark.parametrize(("steps", "written"), [(1000, "1000"), (10**6, "1.000E+6")])
def test_long_chains_have_a_number_beyond_floating_point(steps: int, written: str) -> None:
    w, r = tensors(0, 0.5, (1, 12, 2), (1, 12, 3))
    layer = layer_of(example("LSTM", (steps, 1, 2), constants={1: w, 2: r}))
    assert isinstance(layer, LSTM)
    gain = layer.gain([(steps, 1, 2)])
    assert isinstance(gain, Gain)
    assert gain.factors[0].is_finite
    assert gain.factors[0].log10_upper > 308
    assert gain.method == f"|c| <= {written} over {steps} steps"
