"""Control flow: nodes whose body is a graph of its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import final

import torch

from lipaudit.errors import NotCertified
from lipaudit.graph.constant import Shape, computed
from lipaudit.graph.node import Attribute, Edge, Graph, Node
from lipaudit.layers import execution
from lipaudit.layers.base import (
    AbstractGainLayer,
    AbstractRetypable,
    Call,
    Example,
    Examples,
    Gain,
    Unbounded,
    UnsupportedNode,
    ValuesNeeded,
)
from lipaudit.layers.operands import Inputs, Outputs, operand, optional
from lipaudit.layers.registry import layer

_MOST_STEPS = 2000
"""A stored program that loops longer than this is not run: it might never end."""
_taken: ContextVar[list[int] | None] = ContextVar("_taken", default=None)
"""How many steps the outermost loop and those inside of it have taken."""


class _AbstractControl(AbstractGainLayer):
    """A layer that runs a graph, or one of two, as its inputs say."""

    def gain(self, shapes: Sequence[Shape | None]) -> Gain | Unbounded:
        """Nothing: the inputs decide what is run."""
        del shapes
        return Unbounded("control-flow", "its inputs decide what is run, and how often")


@dataclass(frozen=True, slots=True)
class Body:
    """A graph inside a node, and where the node's inputs hold what it reads from outside."""

    graph: Graph
    captures: Mapping[str, int]
    dtype: torch.dtype | None = None

    @classmethod
    def of(cls, call: Call, attribute: str) -> "Body":
        """Take the graph from an attribute."""
        graph = call.node.attributes.get(attribute)
        if not isinstance(graph, Graph):
            raise UnsupportedNode(f"it has no {attribute}")
        inputs = call.node.inputs
        missing = [name for name in graph.captures if name not in inputs]
        if missing:
            raise UnsupportedNode(f"its {attribute} reads {missing[0]!r}, which it is not given")
        return cls(graph, {name: inputs.index(name) for name in graph.captures})

    def in_dtype(self, dtype: torch.dtype) -> "Body":
        """Return the body for a run in that type."""
        return Body(self.graph, self.captures, dtype)

    def run(self, inputs: Inputs, arguments: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run the graph on its arguments in order; `inputs` are those of the node."""
        if any(value is not None and value.is_meta for value in inputs):
            raise ValuesNeeded
        names = (edge.name for edge in self.graph.inputs)
        fed = dict(zip(names, arguments, strict=True))
        fed |= {name: operand(inputs, position) for name, position in self.captures.items()}
        made = execution.run(self.graph, fed, self.dtype)
        return [made[edge.name] for edge in self.graph.outputs]


def _edges(*names: str, dtype: str = "float32", shape: Shape = (2,)) -> tuple[Edge, ...]:
    return tuple(Edge(name, shape, dtype) for name in names)


def _if_examples() -> Examples:
    twice = Graph((Node("Add", "twice", ("x", "x"), ("a",)),), {}, (), _edges("a"))
    minus = Graph((Node("Neg", "minus", ("x",), ("b",)),), {}, (), _edges("b"))
    branches = {"then_branch": twice, "else_branch": minus}
    node = Node("If", "If", ("condition", "x"), ("y",), branches)
    yield Example(node, ((), (2,)), {}, dtypes=("bool", "float32"))


@layer("If", summary="none: control flow", examples=_if_examples)
@final
@dataclass(frozen=True, slots=True)
class If(_AbstractControl, AbstractRetypable):
    """One graph or another, as a truth value says."""

    then: Body
    otherwise: Body

    @classmethod
    def from_node(cls, call: Call) -> "If":
        """Take both branches."""
        return cls(Body.of(call, "then_branch"), Body.of(call, "else_branch"))

    def in_dtype(self, dtype: torch.dtype) -> "If":
        """Return the layer whose branches run in that type."""
        return If(self.then.in_dtype(dtype), self.otherwise.in_dtype(dtype))

    def forward(self, inputs: Inputs) -> Outputs:
        """Run the branch that is taken."""
        condition = operand(inputs)
        if condition.is_meta:
            raise ValuesNeeded
        return tuple((self.then if bool(condition.item()) else self.otherwise).run(inputs, ()))


def _loop_examples() -> Examples:
    body = Graph(
        (
            Node("Identity", "go", ("going",), ("go_on",)),
            Node("Mul", "half", ("state", "factor"), ("next",)),
            Node("Identity", "show", ("next",), ("shown",)),
        ),
        {"factor": computed("factor", torch.tensor(0.5))},
        (
            *_edges("count", dtype="int64", shape=()),
            *_edges("going", dtype="bool", shape=()),
            *_edges("state"),
        ),
        (*_edges("go_on", dtype="bool", shape=()), *_edges("next", "shown")),
    )
    node = Node("Loop", "Loop", ("trips", "", "x"), ("y", "all"), {"body": body})
    yield Example(node, ((2,),), {0: torch.tensor(3)})


@layer("Loop", summary="none: control flow", examples=_loop_examples)
@final
@dataclass(frozen=True, slots=True)
class Loop(_AbstractControl, AbstractRetypable):
    """A graph run again and again on its own results."""

    body: Body

    @classmethod
    def from_node(cls, call: Call) -> "Loop":
        """Take the body."""
        return cls(Body.of(call, "body"))

    def in_dtype(self, dtype: torch.dtype) -> "Loop":
        """Return the layer whose body runs in that type."""
        return Loop(self.body.in_dtype(dtype))

    def forward(self, inputs: Inputs) -> Outputs:
        """Run until the trip count is reached or the condition fails."""
        limit, condition = optional(inputs, 0), optional(inputs, 1)
        carried = len(self.body.graph.inputs) - 2
        state = [operand(inputs, 2 + at) for at in range(carried)]
        device = operand(inputs, 2).device if carried else torch.device("cpu")
        if any(value is not None and value.is_meta for value in inputs):
            raise ValuesNeeded
        trips = _MOST_STEPS + 1 if limit is None else int(limit.item())
        if limit is not None and trips > _MOST_STEPS and condition is None:
            raise _too_long()
        going = torch.tensor(data=True) if condition is None else condition
        collected: list[list[torch.Tensor]] = []
        trip = 0
        with _counted() as step:
            while trip < trips and bool(going.item()):
                step()
                count = torch.tensor(trip, device=device)
                going, *made = self.body.run(inputs, (count, going, *state))
                state = made[:carried]
                collected.append(made[carried:])
                trip += 1
        if not collected and len(self.body.graph.outputs) > 1 + carried:
            raise NotCertified("a loop that collects results takes no step", slug="loop")
        return *state, *(torch.stack(column) for column in zip(*collected, strict=True))


@contextmanager
def _counted() -> Iterator[Callable[[], None]]:
    """Hand out what counts the steps of a loop, together with those of the loops around it."""
    steps = _taken.get() or [0]
    before = _taken.set(steps)

    def step() -> None:
        steps[0] += 1
        if steps[0] > _MOST_STEPS:
            raise _too_long()

    try:
        yield step
    finally:
        _taken.reset(before)


def _too_long() -> NotCertified:
    return NotCertified(f"a loop of more than {_MOST_STEPS:,} steps", slug="loop")


def _scan_examples() -> Examples:
    body = Graph(
        (
            Node("Add", "sum", ("total", "item"), ("next",)),
            Node("Identity", "show", ("next",), ("shown",)),
        ),
        {},
        _edges("total", "item"),
        _edges("next", "shown"),
    )
    for direction in (0, 1):
        attributes: dict[str, Attribute] = {
            "body": body,
            "num_scan_inputs": 1,
            "scan_input_directions": (direction,),
        }
        node = Node("Scan", "Scan", ("x", "items"), ("y", "all"), attributes)
        yield Example(node, ((2,), (3, 2)), {})


@layer("Scan", summary="none: control flow", examples=_scan_examples)
@final
@dataclass(frozen=True, slots=True)
class Scan(_AbstractControl, AbstractRetypable):
    """A graph run on one slice of its inputs after the other."""

    body: Body
    scanned: int
    """How many of the inputs are cut into slices; the others are carried on."""
    axes: tuple[tuple[int, ...], tuple[int, ...]]
    """Along which inputs are cut, and outputs stacked."""
    backwards: tuple[tuple[int, ...], tuple[int, ...]]

    @classmethod
    def from_node(cls, call: Call) -> "Scan":
        """Take the body, and how inputs are cut and outputs stacked."""
        body = Body.of(call, "body")
        scanned = call.attribute("num_scan_inputs", 0)
        carried = len(body.graph.inputs) - scanned
        made = len(body.graph.outputs) - carried
        if scanned < 1 or carried < 0 or made < 0:
            raise UnsupportedNode("its inputs and outputs do not match")
        nothing_in, nothing_out = (0,) * scanned, (0,) * made
        return cls(
            body,
            scanned,
            (
                call.attribute("scan_input_axes", nothing_in),
                call.attribute("scan_output_axes", nothing_out),
            ),
            (
                call.attribute("scan_input_directions", nothing_in),
                call.attribute("scan_output_directions", nothing_out),
            ),
        )

    def in_dtype(self, dtype: torch.dtype) -> "Scan":
        """Return the layer whose body runs in that type."""
        return Scan(self.body.in_dtype(dtype), self.scanned, self.axes, self.backwards)

    def forward(self, inputs: Inputs) -> Outputs:
        """Cut, run slice by slice, stack."""
        carried = len(self.body.graph.inputs) - self.scanned
        state = [operand(inputs, at) for at in range(carried)]
        columns = [
            operand(inputs, carried + at).unbind(axis)[:: -1 if backwards else 1]
            for at, (axis, backwards) in enumerate(
                zip(self.axes[0], self.backwards[0], strict=True)
            )
        ]
        if any(value is not None and value.is_meta for value in inputs):
            raise ValuesNeeded
        if len(columns[0]) > _MOST_STEPS:
            raise NotCertified(f"a scan of more than {_MOST_STEPS:,} steps", slug="loop")
        collected: list[list[torch.Tensor]] = []
        for slices in zip(*columns, strict=True):
            made = self.body.run(inputs, (*state, *slices))
            state = made[:carried]
            collected.append(made[carried:])
        stacked = (
            torch.stack(column[:: -1 if backwards else 1], axis)
            for column, axis, backwards in zip(
                zip(*collected, strict=True), self.axes[1], self.backwards[1], strict=True
            )
        )
        return *state, *stacked
