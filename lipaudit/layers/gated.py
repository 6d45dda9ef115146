"""Gated: how far LSTM and GRU cells can stretch a difference, from bounds of their states.

A gate multiplies signals, and (f - f')c' is as large as c' is. What bounds it is that the
states are bounded whatever the inputs are: sigmoid and tanh keep gates and candidates within
1, so that |h_t| <= 1 and |c_t| <= |c_0| + t. Each cell is bounded in one signal at a time, the
others held anywhere within their bounds; the sum over the signals bounds them together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from lipaudit.enclosure import ONE, ZERO, Enclosure, total
from lipaudit.layers.gate_weights import Stack, least, norm_of
from lipaudit.layers.recurrence import Activation
from lipaudit.layers.unrolled import LONGEST, Advance, Recursion, at_most, power_sum, repeated
from lipaudit.operators.certify import ROOM, UNDERFLOW, UNIT, gamma


@dataclass(frozen=True, slots=True)
class Matrices:
    """The weights of one direction, by gate in ONNX's order, and their entries' error."""

    input: torch.Tensor
    recurrent: torch.Tensor
    entry_error: float

    def stacks(self, gates: tuple[int, ...], count: int) -> tuple[Stack, Stack]:
        """Measure the matrices of some of `count` gates, those of the input first."""
        of_input, of_state = self.input.chunk(count), self.recurrent.chunk(count)
        return (
            Stack.of([of_input[gate] for gate in gates], self.entry_error),
            Stack.of([of_state[gate] for gate in gates], self.entry_error),
        )

    def norms(self, gate: int, count: int) -> tuple[Enclosure, Enclosure]:
        """Enclose the norms of one of `count` gates, that of the input first."""
        of_input, of_state = self.input.chunk(count)[gate], self.recurrent.chunk(count)[gate]
        return norm_of(of_input, self.entry_error), norm_of(of_state, self.entry_error)


@dataclass(frozen=True, slots=True)
class LSTMCell:
    """c = f c' + i g and h = o φ(c), with c' the cell state before; parts of the state: h, c."""

    gate: Activation
    candidate: Activation
    output: Activation
    limit: Enclosure
    """How large what enters an activation can be."""
    coupled: bool
    into: Stack
    """Of the input and the gates i, f and g."""
    back: Stack
    """Of the state h and the same gates."""
    output_norms: tuple[Enclosure, Enclosure]
    """Of the gate o: of the input, of the state."""
    peepholes: tuple[Enclosure, ...]
    """Their largest entries: i, o, f."""

    def recursion(self, start: Enclosure, steps: int) -> Recursion:
        """Bound all steps from a cell state with |c_0| <= start."""
        peak = self.peak(start, steps)
        if steps > LONGEST:
            return Recursion(steps, (self.advance(peak),), at_most("|c|", peak))
        advances = (self.advance(before) for before in self.sizes(start))
        return Recursion(steps, tuple(islice(advances, steps)), at_most("|c|", peak))

    def sizes(self, start: Enclosure) -> Iterator[Enclosure]:
        """Yield bounds of |c_0|, |c_1|, ..."""
        while True:
            yield start
            start = self.next_size(start)

    def next_size(self, before: Enclosure) -> Enclosure:
        """Bound |c| by |c'|."""
        if self._mixes:
            return before.larger(self._candidate)
        return self._kept.times(before).plus(self._gate.times(self._candidate))

    def peak(self, start: Enclosure, steps: int) -> Enclosure:
        """Bound the largest |c_t| of so many steps."""
        if self._mixes:
            return start.larger(self._candidate)
        return _peak(start, self._kept, self._gate.times(self._candidate), steps)

    def advance(self, before: Enclosure) -> Advance:
        """Bound one step by |c'| <= before.

        c - c̃ = f(c' - c̃') + (f - f̃)c̃' + i(g - g̃) + (i - ĩ)g̃; where f = 1 - i, the two
        middle differences of gates are (i - ĩ)(g̃ - c̃'). h - h̃ = o(φ(c) - φ(c̃)) + (o - õ)φ(c̃).
        """
        p_input, p_output, p_forget = self.peepholes
        slope = self.gate.slope
        by_input = slope.times(self._candidate.plus(before) if self.coupled else self._candidate)
        by_forget = ZERO if self.coupled else slope.times(before)
        by_gates = (by_input, by_forget, self._gate.times(self.candidate.slope))
        of_output = slope.times(self.output.reach(self.next_size(before)))
        # How far h follows c, by φ and by the output gate's peephole.
        follow = self._gate.times(self.output.slope).plus(of_output.times(p_output))

        c_by_x, c_by_h = self.into.weighted(by_gates), self.back.weighted(by_gates)
        c_by_c = total([self._kept, by_input.times(p_input), by_forget.times(p_forget)])
        x_norm, h_norm = self.output_norms
        h_by_x = follow.times(c_by_x).plus(of_output.times(x_norm))
        h_by_h = follow.times(c_by_h).plus(of_output.times(h_norm))
        return Advance(
            carry=((h_by_h, follow.times(c_by_c)), (c_by_h, c_by_c)), drive=(h_by_x, c_by_x)
        )

    @property
    def _gate(self) -> Enclosure:
        return self.gate.reach(self.limit)

    @property
    def _candidate(self) -> Enclosure:
        return self.candidate.reach(self.limit)

    @property
    def _mixes(self) -> bool:
        """Whether c lies between c' and g."""
        return self.coupled and self.gate.is_fraction

    @property
    def _kept(self) -> Enclosure:
        """The largest forget gate."""
        if self._mixes:
            return ONE
        return ONE.plus(self._gate) if self.coupled else self._gate


@dataclass(frozen=True, slots=True)
class GRUCell:
    """h = (1 - z) n + z h', with h' the state before."""

    gate: Activation
    candidate: Activation
    limit: Enclosure
    """How large what enters an activation can be."""
    reset_after: bool
    """Whether the reset gate acts on R h' + b rather than on h'."""

    def peak(self, start: Enclosure, steps: int) -> Enclosure:
        """Bound the largest |h_t| of so many steps, from |h_0| <= start."""
        candidate = self.candidate.reach(self.limit)
        if self.gate.is_fraction:  # h lies between n and h'
            return start.larger(candidate)
        gate = self.gate.reach(self.limit)
        return _peak(start, gate, ONE.plus(gate).times(candidate), steps)

    def recursion(
        self, matrices: Matrices, bias: torch.Tensor, largest: Enclosure, steps: int
    ) -> Recursion:
        """Bound all steps by |h| <= largest; `bias` is that of R h + b for the candidate.

        h - h̃ = z(h' - h̃') + (1 - z)(n - ñ) + (z - z̃)(h̃' - ñ). If 0 <= z <= 1, the first two
        are a mean entry by entry: (z a + (1 - z) b)² <= a² + b².
        """
        into, back = matrices.stacks((0, 2), 3)
        gate, slope = self.gate.reach(self.limit), self.gate.slope
        by_update = slope.times(largest.plus(self.candidate.reach(self.limit)))
        rest = ONE if self.gate.is_fraction else ONE.plus(gate)  # |1 - z|
        by_candidate = rest.times(self.candidate.slope)
        reset_by_x, reset_by_h = self._reset(matrices, bias, largest)

        drive = into.weighted((by_update, by_candidate)).plus(by_candidate.times(reset_by_x))
        update, state = back.norms
        moved = gate.times(state).plus(reset_by_h)  # what enters the candidate's activation
        carry = gate.plus(by_update.times(update)).plus(by_candidate.times(moved))
        if self.reset_after:
            # Here r scales the rows of R: the two matrices are added row by row.
            rows = back.weighted((by_update, by_candidate.times(gate)))
            both = gate.plus(rows).plus(by_candidate.times(reset_by_h))
            carry = least(carry, both)
        if self.gate.is_fraction:
            new = self.candidate.slope.times(moved)
            mean = ONE.plus(new.times(new)).sqrt()
            carry = least(carry, mean.plus(by_update.times(update)))
        advance = Advance(carry=((carry,),), drive=(drive,))
        return repeated(advance, steps, at_most("|h|", largest))

    def _reset(
        self, matrices: Matrices, bias: torch.Tensor, largest: Enclosure
    ) -> tuple[Enclosure, Enclosure]:
        """Bound what the reset gate r changes before the candidate's activation, by x and h.

        After R: (r - r̃)(R h̃ + b) with |R h + b| <= ‖row‖₁|h| + |b| in every row. Before it:
        R (r - r̃)h̃.
        """
        error, slope = matrices.entry_error, self.gate.slope
        by_x, by_h = matrices.input.chunk(3)[1], matrices.recurrent.chunk(3)[1]
        last = matrices.recurrent.chunk(3)[2]
        if not self.reset_after:
            factor = slope.times(largest).times(norm_of(last, error))
            return factor.times(norm_of(by_x, error)), factor.times(norm_of(by_h, error))
        if not largest.is_finite:
            return Enclosure.unknown(), Enclosure.unknown()
        # Upward: γ for the sums, ROOM for the rest, 1 + 2ε for entries that are off by ε.
        room = (1 + gamma(last.shape[1] + 4)) * ROOM * (1 + 2 * min(error, 1.0))
        rows = (last.abs().sum(1) * largest.upper + bias.abs()) * room + UNDERFLOW
        scaled = (norm_of(rows[:, None] * each, error + UNIT) for each in (by_x, by_h))
        to_input, to_state = (
            slope.times(norm.plus(Enclosure.at_most(UNDERFLOW))) for norm in scaled
        )
        return to_input, to_state


def _peak(start: Enclosure, ratio: Enclosure, added: Enclosure, steps: int) -> Enclosure:
    """Bound the largest of s_0 = start, s_t = ratio·s_{t-1} + added.

    The sequence moves one way only, so that the largest is the first or the last.
    """
    ((summed,),), ((power,),) = power_sum(((ratio,),), steps)
    return start.larger(power.times(start).plus(summed.times(added)))
