"""Recurrent layers and cells: torch's gate order and list of tensors in ONNX's layout.

torch stacks the rows of its gates as i, f, g, o (LSTM) and r, z, n (GRU), ONNX as i, o, f, c and
z, r, h. A torch layer of several levels is one ONNX node a level; both directions of a level are
one node, whose tensors have them on axis 0. The stored tensors are rearranged by nodes that fold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lipaudit.formats.aten.call import ATEN_DOMAIN, AtenCall, Untranslatable, step, translates
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.node import Attribute


@dataclass(frozen=True, slots=True)
class _Kind:
    """One row of the table."""

    op: str
    gates: tuple[int, ...]
    """For each gate of ONNX its place among torch's."""
    states: int = 1
    activation: str = ""
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


_KINDS: Mapping[str, _Kind] = {
    "lstm": _Kind("LSTM", (0, 3, 1, 2), states=2),
    # torch resets after the product with the recurrent matrix.
    "gru": _Kind("GRU", (1, 0, 2), attributes={"linear_before_reset": 1}),
    "rnn_tanh": _Kind("RNN", (0,), activation="Tanh"),
    "rnn_relu": _Kind("RNN", (0,), activation="Relu"),
}

_Tensors = tuple[str, ...]
"""Of one direction: the matrices for input and state, and the biases for both, if any."""


@translates("lstm", "gru", "rnn_tanh", "rnn_relu")
def layers(call: AtenCall, build: GraphBuilder) -> None:
    """Write one node a level, fed by the outputs of the level before."""
    kind = _kind(call)
    if call.overload != "input":
        raise Untranslatable("packed sequences")
    if call.flag("train") and call.number("dropout", 0.0) > 0:
        raise Untranslatable("training")
    levels = _levels(call)
    states = call.tensors("hx") if kind.states > 1 else (call.tensor("hx"),)
    if len(call.outputs) != 1 + kind.states or len(states) != kind.states:
        raise Untranslatable("other states")
    x = call.tensor("input")
    if call.flag("batch_first"):
        x = step(call, build, "Transpose", [x], {"perm": (1, 0, 2)})
    lasts: list[Sequence[str]] = []
    for level, directions in enumerate(levels):
        first = level * len(directions)
        own = [_rows(call, build, s, (first, first + len(directions))) for s in states]
        every, *last = _sweep(call, build, directions, [x, *own])
        x = _joined(call, build, every, len(directions))
        lasts.append(last)
    perm = (1, 0, 2) if call.flag("batch_first") else (0, 1, 2)
    _result(call, build, 0, ("Transpose", [x], {"perm": perm}))
    for at, parts in enumerate(zip(*lasts, strict=True), start=1):
        _result(call, build, at, ("Concat", list(parts), {"axis": 0}))


@translates("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(call: AtenCall, build: GraphBuilder) -> None:
    """Write one step as a sequence of length 1."""
    kind = _kind(call)
    states = call.tensors("hx") if kind.states > 1 else (call.tensor("hx"),)
    if len(call.outputs) != kind.states or len(states) != kind.states:
        raise Untranslatable("other states")
    names = ("w_ih", "w_hh", "b_ih", "b_hh")
    direction = tuple(name for name in map(call.optional, names) if name)
    if len(direction) not in {2, 4}:
        raise Untranslatable("one bias of two")
    where = build.integers([0], f"{call.name}.axis")
    inputs = [step(call, build, "Unsqueeze", [x, where]) for x in (call.tensor("input"), *states)]
    _, *last = _sweep(call, build, [direction], inputs)
    for at, name in enumerate(last):
        _result(call, build, at, ("Squeeze", [name, where], {}))


def _kind(call: AtenCall) -> _Kind:
    return _KINDS[call.op.removesuffix("_cell")]


def _levels(call: AtenCall) -> list[list[_Tensors]]:
    """Return the tensors of each direction of each level."""
    params = call.tensors("params")
    directions = 2 if call.flag("bidirectional") else 1
    size = 4 if call.flag("has_biases") else 2
    sweeps = call.integer("num_layers", 1) * directions
    if sweeps < 1 or len(params) != size * sweeps:
        is_projected = len(params) == (size + 1) * sweeps > 0
        raise Untranslatable("projected states" if is_projected else "other parameters")
    each = [params[at : at + size] for at in range(0, len(params), size)]
    return [each[at : at + directions] for at in range(0, sweeps, directions)]


def _sweep(
    call: AtenCall, build: GraphBuilder, directions: Sequence[_Tensors], fed: Sequence[str]
) -> tuple[str, ...]:
    """Write the node of one level, fed by signal and states; return its outputs."""
    kind = _kind(call)
    hidden = call.shape(directions[0][1])[-1]
    if hidden is None:
        raise Untranslatable("open sizes")
    parts = [[_reordered(call, build, name, hidden) for name in names] for names in directions]
    weights = [_stacked(call, build, [names[at] for names in parts]) for at in (0, 1)]
    if len(parts[0]) > 2:
        biases = [step(call, build, "Concat", names[2:], {"axis": 0}) for names in parts]
        weights.append(_stacked(call, build, biases))
    else:
        weights.append("")
    x, *states = fed
    initial = ["" if _is_open_zero(build, state) else state for state in states]
    attributes: dict[str, Attribute] = {
        "hidden_size": hidden,
        "direction": "bidirectional" if len(directions) > 1 else "forward",
        **kind.attributes,
    }
    if kind.activation:
        attributes["activations"] = (kind.activation,) * len(directions)
    outputs = tuple(build.fresh(f"{call.outputs[0]}.{kind.op}") for _ in range(1 + kind.states))
    build.add(
        kind.op, [x, *weights, "", *initial], name=call.name, attributes=attributes, outputs=outputs
    )
    return outputs


def _reordered(call: AtenCall, build: GraphBuilder, name: str, hidden: int) -> str:
    """Write the gates of a tensor, each of `hidden` rows, in ONNX's order."""
    gates = _kind(call).gates
    if len(gates) == 1:
        return name
    parts = tuple(build.fresh(f"{call.outputs[0]}.gate") for _ in gates)
    sizes = build.integers([hidden] * len(gates), f"{call.name}.sizes")
    build.add("Split", [name, sizes], name=call.name, attributes={"axis": 0}, outputs=parts)
    return step(call, build, "Concat", [parts[gate] for gate in gates], {"axis": 0})


def _stacked(call: AtenCall, build: GraphBuilder, names: Sequence[str]) -> str:
    """Write tensors of both directions as one, the direction in front."""
    where = build.integers([0], f"{call.name}.axis")
    each = [step(call, build, "Unsqueeze", [name, where]) for name in names]
    return each[0] if len(each) == 1 else step(call, build, "Concat", each, {"axis": 0})


def _rows(call: AtenCall, build: GraphBuilder, state: str, ends: tuple[int, int]) -> str:
    """Write one level's share of the initial states of all."""
    if call.shape(state)[:1] == (ends[1] - ends[0],) or _is_open_zero(build, state):
        return state
    parts = [
        build.integers([value], f"{call.name}.{name}")
        for name, value in zip(("start", "end", "axis"), (*ends, 0), strict=True)
    ]
    return step(call, build, "Slice", [state, *parts])


def _joined(call: AtenCall, build: GraphBuilder, outputs: str, directions: int) -> str:
    """Write outputs by step, direction, sample and item with the directions side by side."""
    if directions == 1:
        where = build.integers([1], f"{call.name}.axis")
        return step(call, build, "Squeeze", [outputs, where])
    turned = step(call, build, "Transpose", [outputs], {"perm": (0, 2, 1, 3)})
    shape = build.integers([0, 0, -1], f"{call.name}.shape")
    return step(call, build, "Reshape", [turned, shape])


def _is_open_zero(build: GraphBuilder, state: str) -> bool:
    """Tell whether a state is zeros for a batch of any size, which no constant can be."""
    node = build.maker(state)
    return node is not None and node.domain == ATEN_DOMAIN and node.op.startswith("zeros")


def _result(
    call: AtenCall,
    build: GraphBuilder,
    at: int,
    made: tuple[str, Sequence[str], Mapping[str, Attribute]],
) -> None:
    op, inputs, attributes = made
    outputs = call.outputs[at : at + 1]
    build.add(op, inputs, name=call.name, attributes=attributes, outputs=outputs)
