"""Recurrent layers: RNN, GRU and LSTM over all their time steps."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch.nn import functional

from lipaudit.enclosure import ONE, ZERO, Enclosure, largest, root_sum_of_squares
from lipaudit.graph.constant import Constant, Shape
from lipaudit.layers.base import (
    COMPUTED_PARAMETER,
    AbstractGainLayer,
    Call,
    Examples,
    Gain,
    Unbounded,
    example,
)
from lipaudit.layers.gate_weights import norm_of
from lipaudit.layers.gated import GRUCell, LSTMCell, Matrices
from lipaudit.layers.magnitude import enclosed, largest_magnitude, magnitudes
from lipaudit.layers.operands import Inputs, Outputs
from lipaudit.layers.recurrence import Cell, Form, State, Weights, run
from lipaudit.layers.registry import layer
from lipaudit.layers.unrolled import Advance, Recursion, repeated

_UNLIMITED = Unbounded(
    "bilinear", "a gate or a candidate can have any size, and the gates multiply signals"
)


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


@dataclass(frozen=True, slots=True)
class _AbstractRecurrent(AbstractGainLayer):
    """A layer that runs one cell over all time steps, in one direction or two."""

    form: Form
    constants: Mapping[int, Constant]
    """By input position."""
    signals: tuple[int, ...]

    @abc.abstractmethod
    def recursion(self, direction: int, steps: int) -> Recursion | Unbounded:
        """Bound the steps of one direction, in the order in which it takes them."""

    @property
    @abc.abstractmethod
    def signal_states(self) -> tuple[int, ...]:
        """Positions of the initial states that may be signals."""

    @property
    def parts(self) -> tuple[int, ...]:
        """Which parts of the recursion's state leave the layer."""
        return (0,)

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Bound the stretch from all inputs, and from the initial state, to each output.

        The samples of a batch do not meet, so that one of them alone stretches most. The
        outputs of the two directions are disjoint, and so are their initial states. A sequence
        that ends before T takes fewer of the same steps, and yields zeros after them, whatever
        the input is; its last state is one of the states that are bounded together, or the
        initial one if it has no step at all.
        """
        if not {1, 2} <= self.constants.keys() or set(self.signals) & {3, 4, 7}:
            return Unbounded(COMPUTED_PARAMETER, "its weights or lengths are computed, not stored")
        if any(activation.jumps for each in self.form.activations for activation in each):
            return Unbounded("discontinuous", "its activation jumps")
        if set(self.signals) - {0, *self.signal_states}:
            return Unbounded(
                "bilinear", "its gates multiply an initial state that may be of any size"
            )
        steps = self._steps(shapes)
        if steps is None:
            return Unbounded("needs-shape", "how many steps it runs is not known")
        from_inputs, from_state = [], ONE if self._may_be_empty(steps) else ZERO
        premises: dict[str, None] = {}
        for direction in range(len(self.form.directions)):
            recursion = self.recursion(direction, steps)
            if isinstance(recursion, Unbounded):
                return recursion
            premises[recursion.premise] = None
            if 0 in self.signals:
                from_inputs.append(largest(map(recursion.from_inputs, self.parts)))
            if 5 in self.signals:
                from_state = from_state.larger(largest(map(recursion.from_state, self.parts)))
        factors = {0: root_sum_of_squares(from_inputs or [ZERO]), 5: from_state}
        return Gain(
            tuple(factors[at].without_lower() for at in self.signals),
            method=f"{', '.join(premises)} over {steps} steps",
        )

    def _steps(self, shapes: Sequence[Shape | None]) -> int | None:
        known = {at: constant.shape for at, constant in self.constants.items()}
        shape = {**known, **dict(zip(self.signals, shapes, strict=True))}.get(0)
        return None if shape is None else shape[1 if self.form.batch_first else 0]

    def _may_be_empty(self, steps: int) -> bool:
        """Tell whether some sequence may have no step, so that its state leaves as it came."""
        lengths = self.constants.get(4)
        return steps == 0 or (lengths is not None and min(lengths.integers(), default=0) < 1)

    def _matrices(self, direction: int) -> Matrices:
        w, r = self.constants[1], self.constants[2]
        error = max(w.entry_error, r.entry_error)
        return Matrices(w.values()[direction], r.values()[direction], error)

    def _size_of(self, position: int) -> Enclosure | Unbounded:
        """Bound the entries of a stored tensor; 0 where there is none."""
        constant = self.constants.get(position)
        return ZERO if constant is None else largest_magnitude(constant)


@layer("RNN", summary="<= ‖W‖ Σ ‖R‖^t over the steps", examples=_rnn_examples)
@final
@dataclass(frozen=True, slots=True)
class RNN(_AbstractRecurrent):
    """h_t = f(W x_t + R h_{t-1} + b)."""

    @classmethod
    def from_node(cls, call: Call) -> "RNN":
        """Read directions and activations."""
        return cls(Form.of(call, ("Tanh",)), call.constants, call.signals)

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

    @property
    def signal_states(self) -> tuple[int, ...]:
        """See `_AbstractRecurrent.signal_states`."""
        return (5,)

    def recursion(self, direction: int, steps: int) -> Recursion:
        """With a slope of at most s, |δh_t| <= s‖W‖|δx_t| + s‖R‖|δh_{t-1}|."""
        (activation,) = self.form.activations[direction]
        matrices = self._matrices(direction)
        into, back = (
            activation.slope.times(norm_of(matrix, matrices.entry_error))
            for matrix in (matrices.input, matrices.recurrent)
        )
        return repeated(Advance(carry=((back,),), drive=(into,)), steps, "‖W‖ Σ ‖R‖^t")


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


@layer("GRU", summary="through |h| <= 1; none if h_0 is a signal", examples=_gru_examples)
@final
@dataclass(frozen=True, slots=True)
class GRU(_AbstractRecurrent):
    """Gated recurrent units: h_t = (1 - z) n + z h_{t-1}."""

    reset_after: bool
    """Whether the reset gate acts on R h rather than on h (as in torch)."""

    @classmethod
    def from_node(cls, call: Call) -> "GRU":
        """Read directions, activations, and where the reset gate acts."""
        form = Form.of(call, ("Sigmoid", "Tanh"))
        after = call.attribute("linear_before_reset", 0) != 0
        return cls(form, call.constants, call.signals, after)

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

    @property
    def signal_states(self) -> tuple[int, ...]:
        """None: the update gate multiplies the state."""
        return ()

    def recursion(self, direction: int, steps: int) -> Recursion | Unbounded:
        """Bound the states, and with them the steps."""
        gate, candidate = self.form.activations[direction]
        cell = GRUCell(gate, candidate, self.form.limit, self.reset_after)
        if not all(activation.reach(cell.limit).is_finite for activation in (gate, candidate)):
            return _UNLIMITED
        start = self._size_of(5)
        if isinstance(start, Unbounded):
            return start
        matrices, bias = self._matrices(direction), self.constants.get(3)
        size = matrices.recurrent.shape[-1]
        if bias is None:
            last = matrices.recurrent.new_zeros(size)
        else:
            last = bias.values()[direction, -size:]
            matrices = replace(matrices, entry_error=max(matrices.entry_error, bias.entry_error))
        return cell.recursion(matrices, last, cell.peak(start, steps), steps)


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
    yield example(
        "LSTM",
        (4, 2, 2),
        (1, 2, 3),
        constants={1: w[:1], 2: r[:1], 3: b[:1], 4: everything[4], 6: c[:1]},
        outputs=3,
        hidden_size=3,
    )


@layer("LSTM", summary="through |c_t| <= t; none if c_0 is a signal", examples=_lstm_examples)
@final
@dataclass(frozen=True, slots=True)
class LSTM(_AbstractRecurrent):
    """Long short-term memory: c_t = f c_{t-1} + i g, h_t = o tanh(c_t)."""

    coupled: bool
    """Whether the forget gate is 1 - i."""

    @classmethod
    def from_node(cls, call: Call) -> "LSTM":
        """Read directions, activations, and whether two gates are coupled."""
        form = Form.of(call, ("Sigmoid", "Tanh", "Tanh"))
        coupled = call.attribute("input_forget", 0) != 0
        return cls(form, call.constants, call.signals, coupled)

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

    @property
    def signal_states(self) -> tuple[int, ...]:
        """The hidden state only: the forget gate multiplies that of the cell."""
        return (5,)

    @property
    def parts(self) -> tuple[int, ...]:
        """Both states leave the layer."""
        return (0, 1)

    def recursion(self, direction: int, steps: int) -> Recursion | Unbounded:
        """Bound the cell's states, and with them the steps."""
        gate, candidate, output = self.form.activations[direction]
        limit = self.form.limit
        if not all(activation.reach(limit).is_finite for activation in (gate, candidate)):
            return _UNLIMITED
        start, peepholes = self._size_of(6), self._peepholes(direction)
        if isinstance(start, Unbounded):
            return start
        if isinstance(peepholes, Unbounded):
            return peepholes
        matrices = self._matrices(direction)
        into, back = matrices.stacks((0, 2, 3), 4)
        cell = LSTMCell(
            gate,
            candidate,
            output,
            limit,
            self.coupled,
            into,
            back,
            matrices.norms(1, 4),
            peepholes,
        )
        return cell.recursion(start, steps)

    def _peepholes(self, direction: int) -> tuple[Enclosure, ...] | Unbounded:
        """Bound the entries of each gate's peephole."""
        constant = self.constants.get(7)
        if constant is None:
            return (ZERO,) * 3
        values = magnitudes(constant)
        if isinstance(values, Unbounded):
            return values
        parts = values[direction].chunk(3)
        return tuple(
            enclosed(float(part.max()) if part.numel() else 0.0, constant) for part in parts
        )
