"""Recurrent layers: RNN, GRU and LSTM over all their time steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch.nn import functional

from lipaudit.device import Compute
from lipaudit.enclosure import ONE, ZERO, Enclosure, Rigor, root_sum_of_squares
from lipaudit.graph.constant import Constant, Shape
from lipaudit.layers.base import (
    AbstractGainLayer,
    Call,
    Examples,
    Gain,
    Unbounded,
    example,
)
from lipaudit.layers.operands import Inputs, Outputs
from lipaudit.layers.recurrence import Cell, Form, State, Weights, run
from lipaudit.layers.registry import layer
from lipaudit.operators.dense import DenseOperator


def _tensors(*shapes: Shape) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) / 2 for shape in shapes]


def _rnn_examples() -> Examples:
    w, r, b, h = _tensors((1, 3, 2), (1, 3, 3), (1, 6), (1, 2, 3))
    yield example("RNN", (4, 2, 2), constants={1: w, 2: r}, outputs=2, hidden_size=3)
    yield example(
        "RNN",
        (4, 2, 2),
        (1, 2, 3),
        constants={1: w, 2: r, 3: b, 4: torch.tensor([4, 2], dtype=torch.int32)},
        outputs=2,
        hidden_size=3,
        direction="reverse",
        activations=("LeakyRelu",),
        activation_alpha=(0.5,),
    )
    both = {1: torch.cat([w, w / 2]), 2: torch.cat([r, -r]), 5: torch.cat([h, h])}
    yield example(
        "RNN", (4, 2, 2), constants=both, outputs=2, hidden_size=3, direction="bidirectional"
    )


@layer("RNN", summary="‖W‖ Σ ‖R‖^t over the steps", examples=_rnn_examples)
@final
@dataclass(frozen=True, slots=True)
class RNN(AbstractGainLayer):
    """h_t = f(W x_t + R h_{t-1} + b)."""

    form: Form
    weights: tuple[Constant | None, Constant | None]
    signals: tuple[int, ...]

    @classmethod
    def from_node(cls, call: Call) -> "RNN":
        """Read directions and activations."""
        return cls(Form.of(call, ("Tanh",)), (call.constant(1), call.constant(2)), call.signals)

    def forward(self, inputs: Inputs) -> Outputs:
        """Run all steps."""
        return run(inputs, self.form, (5,), self._cell)

    def _cell(self, direction: int, weights: Weights) -> Cell:
        (activation,) = self.form.activations[direction]

        def cell(fed: torch.Tensor, state: State) -> State:
            (h,) = state
            back = functional.linear(h, weights.recurrent, weights.recurrent_bias)
            return (activation.function(self.form.clipped(fed + back)),)

        return cell

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Bound the stretch from all inputs, and from the initial state, to all outputs.

        With a slope of at most s, |δh_t| <= s|W||δx_t| + s|R||δh_{t-1}|, a convolution in time
        of |δx| with s|W|(s|R|)^t, and (s|R|)^t |δh_0|: hence s|W| Σ_{t<T} (s|R|)^t (Young's
        inequality) and √Σ_{1<=t<=T} (s|R|)^{2t}. The two directions' outputs are disjoint. A
        sequence that ends before T only selects among these steps.
        """
        w, r = self.weights
        if w is None or r is None or not set(self.signals) <= {0, 5}:
            return Unbounded("computed-parameter", "its weights are computed by the network")
        slopes = [activation.slope for (activation,) in self.form.activations]
        steps = self._steps(shapes)
        if steps is None:
            return Unbounded("needs-shape", "an RNN needs to know how many steps it runs")
        from_inputs, from_state = [], []
        for direction, slope in enumerate(slopes):
            if slope is None:
                return Unbounded("discontinuous", "its activation jumps")
            into = slope.times(_norm(w, direction))
            back = slope.times(_norm(r, direction))
            from_inputs.append(into.times(_power_sum(back, steps)[0]))
            squared = back.times(back)
            from_state.append(squared.times(_power_sum(squared, steps)[0]).sqrt())
        factors = {0: root_sum_of_squares(from_inputs), 5: root_sum_of_squares(from_state)}
        method = f"‖W‖ Σ ‖R‖^t over {steps} steps"
        return Gain(tuple(factors[at].without_lower() for at in self.signals), method=method)

    def _steps(self, shapes: Sequence[Shape | None]) -> int | None:
        shape = dict(zip(self.signals, shapes, strict=True)).get(0)
        return None if shape is None else shape[1 if self.form.batch_first else 0]


def _power_sum(ratio: Enclosure, count: int) -> tuple[Enclosure, Enclosure]:
    """Enclose Σ_{t<count} ratio^t and ratio^count, in steps that double the count."""
    if count == 0:
        return ZERO, ONE
    half, power = _power_sum(ratio, count // 2)
    total, power = half.times(ONE.plus(power)), power.times(power)
    if count % 2 == 0:
        return total, power
    return ONE.plus(ratio.times(total)), ratio.times(power)


def _norm(constant: Constant, direction: int) -> Enclosure:
    """Enclose the norm of one direction's matrix."""
    matrix = constant.values()[direction]
    if not bool(torch.isfinite(matrix).all()):
        return Enclosure.unknown()
    compute = Compute(torch.device("cpu"), full_spectra=False)
    found = DenseOperator(matrix, compute).norm().enclosure
    if constant.entry_error == 0:
        return found
    if math.isinf(constant.entry_error):
        return Enclosure(found.lo, found.hi, min(found.rigor, Rigor.NUMERICAL))
    # ‖E‖ <= ε Σ|a|; the factor 2 covers the rounding of the sum.
    slack = Enclosure.exactly(2 * constant.entry_error)
    return found.widened(slack.times(Enclosure.exactly(float(matrix.abs().sum()))))


class _AbstractGated(AbstractGainLayer):
    """A recurrent layer whose gates multiply signals."""

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Nothing globally: a gate times a state that may be of any size."""
        del shapes
        return Unbounded(
            "bilinear", "its gates multiply signals; only a bound on their values bounds it"
        )


def _gru_examples() -> Examples:
    w, r, b, h = _tensors((1, 9, 2), (1, 9, 3), (1, 18), (1, 2, 3))
    lengths = torch.tensor([3, 4], dtype=torch.int32)
    yield example("GRU", (4, 2, 2), constants={1: w, 2: r, 3: b}, outputs=2, hidden_size=3)
    yield example(
        "GRU",
        (4, 2, 2),
        constants={1: w, 2: r, 3: b, 4: lengths, 5: h},
        outputs=2,
        hidden_size=3,
        linear_before_reset=1,
        direction="reverse",
    )


@layer("GRU", summary="none globally: bilinear gates", examples=_gru_examples)
@final
@dataclass(frozen=True, slots=True)
class GRU(_AbstractGated):
    """Gated recurrent units: h_t = (1 - z) n + z h_{t-1}."""

    form: Form
    reset_after: bool
    """Whether the reset gate acts on R h rather than on h (as in torch)."""

    @classmethod
    def from_node(cls, call: Call) -> "GRU":
        """Read directions, activations, and where the reset gate acts."""
        return cls(
            Form.of(call, ("Sigmoid", "Tanh")), call.attribute("linear_before_reset", 0) != 0
        )

    def forward(self, inputs: Inputs) -> Outputs:
        """Run all steps."""
        return run(inputs, self.form, (5,), self._cell)

    def _cell(self, direction: int, weights: Weights) -> Cell:
        gate, new = (activation.function for activation in self.form.activations[direction])
        rz, rr, rn = weights.recurrent.chunk(3)
        bz, br, bn = weights.recurrent_bias.chunk(3)
        clipped = self.form.clipped

        def cell(fed: torch.Tensor, state: State) -> State:
            (h,) = state
            xz, xr, xn = fed.chunk(3, dim=-1)
            update = gate(clipped(xz + functional.linear(h, rz, bz)))
            reset = gate(clipped(xr + functional.linear(h, rr, br)))
            back = (
                reset * functional.linear(h, rn, bn)
                if self.reset_after
                else functional.linear(reset * h, rn, bn)
            )
            candidate = new(clipped(xn + back))
            return ((1 - update) * candidate + update * h,)

        return cell


def _lstm_examples() -> Examples:
    w, r, b, h, c, p = _tensors((2, 12, 2), (2, 12, 3), (2, 24), (2, 2, 3), (2, 2, 3), (2, 9))
    yield example("LSTM", (4, 2, 2), constants={1: w[:1], 2: r[:1]}, outputs=3, hidden_size=3)
    everything = {
        1: w,
        2: r,
        3: b,
        4: torch.tensor([4, 3], dtype=torch.int32),
        5: h,
        6: c,
        7: p,
    }
    yield example(
        "LSTM",
        (4, 2, 2),
        constants=everything,
        outputs=3,
        hidden_size=3,
        direction="bidirectional",
    )
    yield example(
        "LSTM",
        (4, 2, 2),
        constants={1: w[:1], 2: r[:1], 3: b[:1]},
        outputs=3,
        hidden_size=3,
        clip=0.5,
        input_forget=1,
    )


@layer("LSTM", summary="none globally: bilinear gates", examples=_lstm_examples)
@final
@dataclass(frozen=True, slots=True)
class LSTM(_AbstractGated):
    """Long short-term memory: c_t = f c_{t-1} + i g, h_t = o tanh(c_t)."""

    form: Form
    coupled: bool
    """Whether the forget gate is 1 - i."""

    @classmethod
    def from_node(cls, call: Call) -> "LSTM":
        """Read directions, activations, and whether two gates are coupled."""
        return cls(
            Form.of(call, ("Sigmoid", "Tanh", "Tanh")), call.attribute("input_forget", 0) != 0
        )

    def forward(self, inputs: Inputs) -> Outputs:
        """Run all steps."""
        return run(inputs, self.form, (5, 6), self._cell)

    def _cell(self, direction: int, weights: Weights) -> Cell:
        gate, new, out = (a.function for a in self.form.activations[direction])
        clipped, size = self.form.clipped, weights.recurrent.shape[-1]
        # Order of ONNX: input, output, forget for the peepholes, and the cell for the weights.
        peepholes = weights.peepholes
        if peepholes is None:
            peepholes = weights.recurrent.new_zeros(3 * size)
        pi, po, pf = peepholes.chunk(3)

        def cell(fed: torch.Tensor, state: State) -> State:
            h, c = state
            back = functional.linear(h, weights.recurrent, weights.recurrent_bias)
            zi, zo, zf, zc = (fed + back).chunk(4, dim=-1)
            i = gate(clipped(zi + pi * c))
            f = 1 - i if self.coupled else gate(clipped(zf + pf * c))
            c = f * c + i * new(clipped(zc))
            o = gate(clipped(zo + po * c))
            return o * out(c), c

        return cell
