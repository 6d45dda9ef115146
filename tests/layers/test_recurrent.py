"""Recurrent layers: the RNN's gain over all its steps, and torch's own layers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipaudit.layers.base import Gain, example
from lipaudit.layers.recurrent import LSTM, RNN
from tests.layers.runtime import jacobian, layer_of


def tensors(seed: int, scale: float, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64) * scale for shape in shapes
    ]


@given(
    st.integers(0, 999),
    st.sampled_from([0.1, 0.5, 2.0]),
    st.sampled_from(["Tanh", "Relu", "Sigmoid", "LeakyRelu", "Affine", "HardSigmoid"]),
    st.sampled_from(["forward", "reverse", "bidirectional"]),
    st.integers(1, 4),
)
def test_no_jacobian_of_an_rnn_exceeds_its_gain(
    seed: int, scale: float, activation: str, direction: str, steps: int
) -> None:
    count = 2 if direction == "bidirectional" else 1
    w, r, b = tensors(seed, scale, (count, 3, 2), (count, 3, 3), (count, 6))
    alphas = (1.5,) * count if activation in {"LeakyRelu", "Affine", "HardSigmoid"} else ()
    case = example(
        "RNN",
        (steps, 1, 2),
        (count, 1, 3),
        constants={1: w, 2: r, 3: b, 4: torch.full((1,), steps, dtype=torch.int32)},
        direction=direction,
        activations=(activation,) * count,
        activation_alpha=alphas,
    )
    layer = layer_of(case)
    assert isinstance(layer, RNN)
    gain = layer.gain(case.shapes)
    assert isinstance(gain, Gain)
    x, h = tensors(seed + 1, 1.0, *case.shapes)
    by_input = jacobian(lambda x: layer.forward([x, w, r, b, None, h])[0], x)
    by_state = jacobian(lambda h: layer.forward([x, w, r, b, None, h])[0], h)
    for matrix, factor in zip((by_input, by_state), gain.factors, strict=True):
        norm = float(torch.linalg.matrix_norm(matrix, 2))
        assert norm <= factor.upper * (1 + 1e-12)


def test_a_linear_rnn_of_one_unit_attains_its_gain() -> None:
    # h_t = x_t + h_{t-1}: a running sum, whose norm over T steps is 1 / (2 sin(π / (4T + 2)))
    # (Elliott 1953, the eigenvalues of the second difference matrix).
    one = torch.ones(1, 1, 1)
    case = example(
        "RNN",
        (1, 1, 1),
        constants={1: 3 * one, 2: one},
        activations=("Affine",),
        activation_alpha=(1.0,),
    )
    layer = layer_of(case)
    assert isinstance(layer, RNN)
    for steps in (1, 4, 60):
        gain = layer.gain([(steps, 1, 1)])
        assert isinstance(gain, Gain)
        truth = 3 / (2 * math.sin(math.pi / (4 * steps + 2)))
        assert truth * (1 - 1e-12) <= gain.factors[0].upper <= truth * 1.001


@pytest.mark.parametrize(("steps", "length"), [(0, 0), (3, 0), (3, 2)])
def test_the_state_of_an_empty_sequence_leaves_as_it_came(steps: int, length: int) -> None:
    w, r, b = tensors(0, 0.1, (1, 3, 2), (1, 3, 3), (1, 6))
    lengths = torch.tensor([length], dtype=torch.int32)
    case = example("RNN", (steps, 1, 2), (1, 1, 3), constants={1: w, 2: r, 3: b, 4: lengths})
    layer = layer_of(case)
    assert isinstance(layer, RNN)
    gain = layer.gain(case.shapes)
    assert isinstance(gain, Gain)
    x, h = tensors(1, 1.0, *case.shapes)

    def last(h: torch.Tensor) -> torch.Tensor:
        return layer.forward([x, w, r, b, lengths, h])[1]

    norm = float(torch.linalg.matrix_norm(jacobian(last, h), 2))
    assert norm <= gain.factors[1].upper * (1 + 1e-12)
    assert norm == 1 or length > 0


def test_very_many_steps_are_covered_without_walking_through_them() -> None:
    w, r = tensors(0, 0.1, (1, 3, 2), (1, 3, 3))
    layer = layer_of(example("RNN", (1, 1, 2), constants={1: w, 2: r}))
    assert isinstance(layer, RNN)
    some, many = layer.gain([(8000, 1, 2)]), layer.gain([(10**9, 1, 2)])
    assert isinstance(some, Gain)
    assert isinstance(many, Gain)
    norms = [float(torch.linalg.matrix_norm(matrix[0], 2)) for matrix in (w, r)]
    limit = norms[0] / (1 - norms[1])  # the geometric series
    assert some.factors[0].upper <= many.factors[0].upper * (1 + 1e-9)
    assert many.factors[0].upper == pytest.approx(limit, rel=1e-9)


def reordered(module: torch.nn.RNNBase, order: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """Return torch's W, R and b by input position, their gates in ONNX's order."""
    found = []
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        parts = module.get_parameter(name).detach().chunk(len(order))
        found.append(torch.cat([parts[at] for at in order])[None])
    return {1: found[0], 2: found[1], 3: torch.cat(found[2:], 1)}


@pytest.mark.parametrize("steps", [1, 5])
def test_an_lstm_equals_that_of_torch(steps: int) -> None:
    theirs = torch.nn.LSTM(2, 3).double()
    order = (0, 3, 1, 2)  # torch: input, forget, cell, output; ONNX: input, output, forget, cell
    weights = reordered(theirs, order)
    (x,) = tensors(0, 1.0, (steps, 2, 2))
    layer = layer_of(example("LSTM", (steps, 2, 2), constants=weights))
    assert isinstance(layer, LSTM)
    y, h, c = layer.forward([x, *weights.values()])
    expected, (last, cell) = theirs(x)
    torch.testing.assert_close(y[:, 0], expected)
    torch.testing.assert_close(h, last)
    torch.testing.assert_close(c, cell)


def test_a_gru_equals_that_of_torch() -> None:
    theirs = torch.nn.GRU(2, 3).double()
    order = (1, 0, 2)  # torch: reset, update, new; ONNX: update, reset, new
    weights = reordered(theirs, order)
    (x,) = tensors(0, 1.0, (4, 2, 2))
    layer = layer_of(example("GRU", (4, 2, 2), constants=weights, linear_before_reset=1))
    expected, last = theirs(x)
    y, h = layer.forward([x, *weights.values()])
    torch.testing.assert_close(y[:, 0], expected)
    torch.testing.assert_close(h, last)


def test_the_batch_may_come_first() -> None:
    w, r, x = tensors(0, 1.0, (1, 3, 2), (1, 3, 3), (4, 2, 2))
    plain = layer_of(example("RNN", (4, 2, 2), constants={1: w, 2: r}))
    turned = layer_of(example("RNN", (2, 4, 2), constants={1: w, 2: r}, layout=1))
    y, h = plain.forward([x, w, r])
    made, last = turned.forward([x.transpose(0, 1), w, r])
    torch.testing.assert_close(made, y.permute(2, 0, 1, 3))
    torch.testing.assert_close(last, h.transpose(0, 1))
