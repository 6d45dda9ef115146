"""Recurrence: what RNN, GRU and LSTM share as ONNX defines them: activations, directions, steps."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from lipaudit.enclosure import ONE, ZERO, Enclosure, product
from lipaudit.layers.base import Call, UnsupportedNode
from lipaudit.layers.operands import Inputs, Outputs, of_rank, operand, optional

Function = Callable[[torch.Tensor], torch.Tensor]
_ANY = Enclosure.unknown()


@dataclass(frozen=True, slots=True)
class Activation:
    """A gate's activation: how steep it is, and which values it takes."""

    function: Function
    slope: Enclosure
    """Its Lipschitz constant; unknown where it jumps."""
    at_zero: Enclosure = ZERO
    """|f(0)|."""
    bound: Enclosure = _ANY
    """The largest |f(x)| of all."""
    is_fraction: bool = False
    """Whether its values lie in [0, 1]."""

    @property
    def jumps(self) -> bool:
        """Whether no Lipschitz constant is known."""
        return not self.slope.is_finite

    def reach(self, limit: Enclosure) -> Enclosure:
        """Bound |f(x)| for |x| <= limit."""
        near = self.at_zero.plus(self.slope.times(limit))
        return (near if near.hi < self.bound.hi else self.bound).without_lower()


def _magnitude(*factors: float) -> Enclosure:
    return product(Enclosure.exactly(abs(factor)) for factor in factors)


# As the ONNX operator RNN defines them: name -> (default alpha, default beta, what it is).
_ACTIVATIONS: Mapping[str, tuple[float, float, Callable[[float, float], Activation]]] = {
    "relu": (0.0, 0.0, lambda _a, _b: Activation(torch.relu, ONE)),
    "tanh": (0.0, 0.0, lambda _a, _b: Activation(torch.tanh, ONE, bound=ONE)),
    "sigmoid": (
        0.0,
        0.0,
        lambda _a, _b: Activation(
            torch.sigmoid, _magnitude(0.25), _magnitude(0.5), ONE, is_fraction=True
        ),
    ),
    "softsign": (0.0, 0.0, lambda _a, _b: Activation(functional.softsign, ONE, bound=ONE)),
    # softplus(0) = ln 2 = 0.69314...
    "softplus": (
        0.0,
        0.0,
        lambda _a, _b: Activation(functional.softplus, ONE, Enclosure.at_most(0.6932)),
    ),
    "affine": (
        1.0,
        0.0,
        lambda a, b: Activation(lambda x: a * x + b, _magnitude(a), _magnitude(b)),
    ),
    "leakyrelu": (
        0.01,
        0.0,
        lambda a, _b: Activation(lambda x: functional.leaky_relu(x, a), ONE.larger(_magnitude(a))),
    ),
    "thresholdedrelu": (
        1.0,
        0.0,
        lambda a, _b: Activation(
            lambda x: torch.where(x > a, x, 0), ONE if a == 0 else Enclosure.unknown()
        ),
    ),
    "scaledtanh": (
        1.0,
        1.0,
        lambda a, b: Activation(
            lambda x: a * torch.tanh(b * x), _magnitude(a, b), bound=_magnitude(a)
        ),
    ),
    "hardsigmoid": (
        0.2,
        0.5,
        lambda a, b: Activation(
            lambda x: (a * x + b).clamp(0, 1),
            _magnitude(a),
            _magnitude(min(max(b, 0.0), 1.0)),
            ONE,
            is_fraction=True,
        ),
    ),
    "elu": (
        1.0,
        0.0,
        lambda a, _b: Activation(lambda x: functional.elu(x, a), ONE.larger(_magnitude(a))),
    ),
}


@dataclass(frozen=True, slots=True)
class Form:
    """What the three kinds share: directions, activations, layout."""

    directions: tuple[bool, ...]
    """For each direction whether it runs backwards in time."""
    activations: tuple[tuple[Activation, ...], ...]
    """For each direction, one for each place in the cell."""
    clip: float
    batch_first: bool

    @classmethod
    def of(cls, call: Call, defaults: tuple[str, ...]) -> "Form":
        """Read the attributes; `defaults` are the activations of one direction."""
        directions = {
            "forward": (False,),
            "reverse": (True,),
            "bidirectional": (False, True),
        }.get(call.attribute("direction", "forward"))
        if directions is None:
            raise UnsupportedNode("an unknown direction")
        names = call.attribute("activations", defaults * len(directions))
        if len(names) != len(defaults) * len(directions):
            raise UnsupportedNode(f"{len(names)} activations")
        nothing: tuple[float, ...] = ()
        alphas = iter(call.attribute("activation_alpha", nothing))
        betas = iter(call.attribute("activation_beta", nothing))
        flat = [_activation(name, alphas, betas) for name in names]
        each = len(defaults)
        return cls(
            directions,
            tuple(tuple(flat[at : at + each]) for at in range(0, len(flat), each)),
            call.attribute("clip", math.inf),
            call.attribute("layout", 0) != 0,
        )

    @property
    def limit(self) -> Enclosure:
        """How large what enters an activation can be."""
        return Enclosure.at_most(abs(self.clip))

    def clipped(self, x: torch.Tensor) -> torch.Tensor:
        """Limit what enters an activation."""
        return x if math.isinf(self.clip) else x.clamp(-self.clip, self.clip)


def _activation(name: str, alphas: Iterator[float], betas: Iterator[float]) -> Activation:
    row = _ACTIVATIONS.get(name.lower())
    if row is None:
        raise UnsupportedNode(f"activation {name!r}")
    alpha, beta, make = row
    # The lists hold values only for the activations that take them, in order.
    if name.lower() in _TAKES_ALPHA:
        alpha = next(alphas, alpha)
    if name.lower() in _TAKES_BETA:
        beta = next(betas, beta)
    return make(alpha, beta)


_TAKES_ALPHA = frozenset(
    {"affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"}
)
_TAKES_BETA = frozenset({"affine", "scaledtanh", "hardsigmoid"})

State = tuple[torch.Tensor, ...]
"""The hidden state, and for an LSTM the cell state."""
Cell = Callable[[torch.Tensor, State], State]
"""From W x + b_W of one step and the state before to the state after."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of one direction."""

    input: torch.Tensor
    recurrent: torch.Tensor
    input_bias: torch.Tensor
    recurrent_bias: torch.Tensor
    peepholes: torch.Tensor | None

    @classmethod
    def of(cls, inputs: Inputs, direction: int) -> "Weights":
        """Take one direction's share of the inputs."""
        w, r = operand(inputs, 1)[direction], operand(inputs, 2)[direction]
        bias, peepholes = optional(inputs, 3), optional(inputs, 7)
        both = w.new_zeros(2 * w.shape[0]) if bias is None else bias[direction]
        of_input, of_state = both.chunk(2)
        own = None if peepholes is None else peepholes[direction]
        return cls(w, r, of_input, of_state, own)


def run(
    inputs: Inputs, form: Form, states: tuple[int, ...], cell: Callable[[int, Weights], Cell]
) -> Outputs:
    """Run all directions over all steps.

    Inputs as ONNX orders them; `states` are the positions of the initial states. Returns the
    outputs of all steps and the last state of each direction.
    """
    x = of_rank(operand(inputs), 3)
    x = x.transpose(0, 1) if form.batch_first else x
    size = operand(inputs, 2).shape[-1]
    lengths = optional(inputs, 4)
    if lengths is not None and lengths.shape != x.shape[1:2]:
        raise ValueError(f"{lengths.numel()} lengths of {x.shape[1]} sequences")
    swept = []
    for direction, backwards in enumerate(form.directions):
        weights = Weights.of(inputs, direction)
        first = tuple(
            _initial(optional(inputs, position), direction, form, x, size) for position in states
        )
        fed = functional.linear(x, weights.input, weights.input_bias)
        times = range(x.shape[0])[:: -1 if backwards else 1]
        swept.append(_sweep(fed, times, cell(direction, weights), first, lengths))
    outputs = torch.stack([steps for steps, _ in swept], dim=1)
    lasts = [torch.stack(state) for state in zip(*(last for _, last in swept), strict=True)]
    if form.batch_first:
        return outputs.permute(2, 0, 1, 3), *(last.transpose(0, 1) for last in lasts)
    return outputs, *lasts


def _initial(
    given: torch.Tensor | None, direction: int, form: Form, x: torch.Tensor, size: int
) -> torch.Tensor:
    if given is None:
        return x.new_zeros(x.shape[1], size)
    one = given[:, direction] if form.batch_first else given[direction]
    if one.shape[:1] != x.shape[1:2]:
        raise ValueError(f"initial states of {one.shape[0]} for {x.shape[1]} sequences")
    return one


def _sweep(
    fed: torch.Tensor, times: range, cell: Cell, state: State, lengths: torch.Tensor | None
) -> tuple[torch.Tensor, State]:
    """Run one direction; past its length a sequence keeps its state and yields zeros."""
    made = fed.new_zeros(*fed.shape[:2], state[0].shape[-1])
    if made.is_meta:
        return made, state
    steps = dict.fromkeys(sorted(times), made[:0])
    for time in times:
        after = cell(fed[time], state)
        if lengths is None:
            state = after
            steps[time] = state[0]
            continue
        alive = (time < lengths)[:, None].to(fed.device)
        state = tuple(torch.where(alive, new, old) for new, old in zip(after, state, strict=True))
        steps[time] = torch.where(alive, state[0], 0)
    return (torch.stack(list(steps.values())) if steps else made), state
