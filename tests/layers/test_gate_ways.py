"""LSTM and GRU cells of one unit: every term of their bounds is needed, and sharp in one step."""

import itertools
from typing import Any

import pytest
import torch

from lipaudit.enclosure import ONE, ZERO
from lipaudit.layers.base import example
from lipaudit.layers.gated import GRUCell, LSTMCell
from tests.layers.runtime import layer_of
from tests.layers.slopes import ORDERS, Constants, factors, largest_slope, points

OPEN, SHUT = 30.0, -30.0
# Ways through a cell of one unit: W and R by gate, the sum of both biases (`after`: the one
# within the reset gate), initial states and peepholes. In one step the sharpest slope is known.
# LSTM: input, output, forget, candidate.
STEP: list[tuple[str, dict[str, Any], float]] = [
    ("LSTM", {"w": (1, 0, 0, 0), "b": (0, OPEN, OPEN, OPEN)}, 1 / 4),
    ("LSTM", {"w": (0, 1, 0, 0), "b": (OPEN, 0, OPEN, OPEN), "c": 20.0}, 1 / 4),
    ("LSTM", {"w": (0, 0, 1, 0), "b": (SHUT, OPEN, 0, 0), "c": 3.0}, 3 / 4),
    ("LSTM", {"w": (0, 0, 0, 1), "b": (OPEN, OPEN, OPEN, 0)}, 1.0),
    # GRU: update, reset, candidate.
    ("GRU", {"w": (1, 0, 0), "b": (0, 0, SHUT), "h": 1.0}, 1 / 2),
    ("GRU", {"w": (0, 0, 1), "b": (SHUT, 0, 0)}, 1.0),
    ("GRU", {"w": (0, 1, 0), "r": (0, 0, 4), "b": (SHUT, 0, -2), "h": 1.0}, 1.0),
    ("GRU", {"w": (0, 1, 0), "r": (0, 0, 4), "b": (SHUT, 0, -3), "h": 1.0, "after": 2.0}, 3 / 2),
]
STEEP = 50.0
# In two steps, or through a peephole, the way is the steep entry: without it less is allowed.
AGAIN: list[tuple[str, dict[str, Any]]] = [
    ("LSTM", {"w": (0, 0, 0, 1), "r": (STEEP, 0, 0, 0), "b": (0, 0, OPEN, 0)}),
    ("LSTM", {"w": (0, 0, 0, 1), "r": (0, STEEP, 0, 0), "b": (OPEN, 0, OPEN, 0)}),
    ("LSTM", {"w": (0, 0, 0, 1), "r": (0, 0, STEEP, 0), "b": (OPEN, OPEN, -30, 0)}),
    ("LSTM", {"w": (0, 0, 0, 1), "r": (0, 0, 0, STEEP), "b": (OPEN, OPEN, OPEN, 0)}),
    ("LSTM", {"w": (0, 0, 0, 1), "p": (STEEP, 0, 0), "b": (0, OPEN, OPEN, 0)}),
    ("LSTM", {"w": (0, 0, 0, 1), "p": (0, STEEP, 0), "b": (OPEN, -40, OPEN, 0)}),
    ("LSTM", {"w": (0, 0, 0, 1), "p": (0, 0, STEEP), "b": (OPEN, OPEN, -40, 0)}),
    ("GRU", {"w": (0, 0, 1), "r": (STEEP, 0, 0), "b": (0, 0, 0)}),
    ("GRU", {"w": (0, 0, 1), "r": (0, 0, STEEP), "b": (SHUT, OPEN, 0)}),
    ("GRU", {"w": (0, 0, 1), "r": (0, 0, STEEP), "b": (SHUT, OPEN, 0), "after": 0.1}),
    ("GRU", {"w": (0, 0, 1), "r": (0, STEEP, 1), "b": (SHUT, -30, 0)}),
    ("GRU", {"w": (0, 0, 1), "r": (0, STEEP, 1), "b": (SHUT, 0, 0), "after": 2.0}),
]


def way(op: str, made: dict[str, Any], steps: int) -> tuple[float, float]:
    """Return the largest slope of thousands of samples, and what is allowed."""
    count, zeros = 4000, (0,) * len(ORDERS[op])
    after = made.get("after", 0.0)
    constants = {
        1: torch.tensor(made["w"]).reshape(1, -1, 1).double(),
        2: torch.tensor(made.get("r", zeros)).reshape(1, -1, 1).double(),
        3: torch.tensor([*made["b"], *zeros[1:], after])[None].double(),
        4: torch.full((count,), steps, dtype=torch.int32),
    }
    for at, state in {"LSTM": ((5, "h"), (6, "c")), "GRU": ((5, "h"),)}[op]:
        constants[at] = torch.full((1, count, 1), made.get(state, 0.0)).double()
    if op == "LSTM":
        constants[7] = torch.tensor([made.get("p", (0, 0, 0))]).double()
    attributes: dict[str, Any] = {"linear_before_reset": 1} if after else {}
    layer = layer_of(example(op, (steps, count, 1), constants=constants, **attributes))
    rest = [constants.get(at) for at in range(1, 8)]
    found = largest_slope(lambda x: layer.forward([x, *rest]), points(steps, 1, count))
    return found, factors(op, ((steps, count, 1),), constants, **attributes)[0]


@pytest.mark.parametrize(("op", "made", "sharpest"), STEP)
def test_one_step_is_bounded_sharply(op: str, made: dict[str, Any], sharpest: float) -> None:
    found, allowed = way(op, made, 1)
    assert found == pytest.approx(sharpest, rel=1e-2), "the samples come that near"
    assert sharpest * (1 - 1e-9) <= allowed <= sharpest * (1 + 1e-9)


@pytest.mark.parametrize(("op", "made"), AGAIN)
def test_every_way_through_a_cell_is_counted(op: str, made: dict[str, Any]) -> None:
    found, allowed = way(op, made, 2)
    assert found <= allowed
    closed = {
        key: tuple(0 if entry == STEEP else entry for entry in value)
        if key in {"r", "p"}
        else value
        for key, value in made.items()
    }
    assert found > way(op, closed, 2)[1], "a bound without this term would be caught"


def grown(steps: int) -> tuple[Constants, torch.Tensor]:
    """Return an LSTM that counts its steps, and an input at whose end it is about to forget.

    The input and output gates are open and the candidate is 1; the second input opens the
    forget gate up to the last step, where it is at its steepest.
    """
    w = torch.zeros(1, 4, 2)
    w[0, 2, 1] = 1.0
    bias = torch.tensor([[20.0, 20.0, 0.0, 20.0, 0.0, 0.0, 0.0, 0.0]])
    x = torch.zeros(steps, 1, 2, dtype=torch.float64)
    x[:-1, :, 1] = 20.0
    return {1: w.double(), 2: torch.zeros(1, 4, 1).double(), 3: bias.double()}, x


def test_a_bound_that_forgets_the_size_of_the_cell_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    constants, x = grown(12)
    layer = layer_of(example("LSTM", tuple(x.shape), constants=constants))
    attained = largest_slope(lambda x: layer.forward([x, *constants.values()]), x)
    assert attained == pytest.approx(11 / 4, rel=1e-6)  # σ'(0)·c
    assert attained <= factors("LSTM", (tuple(x.shape),), constants)[0]
    monkeypatch.setattr(LSTMCell, "sizes", lambda _self, _start: itertools.repeat(ONE))
    assert attained > factors("LSTM", (tuple(x.shape),), constants)[0]


def test_a_bound_that_forgets_the_state_of_a_gru_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # First h = 1 by a closed update gate, then a candidate of -1 and the gate at its steepest.
    w = torch.zeros(1, 3, 2)
    w[0, 0, 0], w[0, 2, 1] = 1.0, 0.01
    constants = {1: w.double(), 2: torch.zeros(1, 3, 1).double()}
    x = torch.tensor([[[-20.0, 2000.0]], [[0.0, -2000.0]]]).double()
    layer = layer_of(example("GRU", (2, 1, 2), constants=constants))
    attained = largest_slope(lambda x: layer.forward([x, *constants.values()]), x)
    assert attained == pytest.approx(0.5, rel=1e-6)  # σ'(0)·(1 - (-1))
    assert attained <= factors("GRU", ((2, 1, 2),), constants)[0]
    monkeypatch.setattr(GRUCell, "peak", lambda _self, _start, _steps: ZERO)
    assert attained > factors("GRU", ((2, 1, 2),), constants)[0]
