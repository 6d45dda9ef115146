"""Network: a graph whose nodes have found their meaning, with every shape worked out.

One pass in graph order: a node fed by constants alone is evaluated away (lazily where its
result is large), a node with signals becomes a step, and its output shapes come from running
the layer on torch's meta device. Nothing is read that a shape does not depend on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from lipaudit.errors import NotCertified
from lipaudit.graph.constant import Constant, Shape, computed
from lipaudit.graph.dtypes import ONNX_DTYPES, dtype_name, torch_type
from lipaudit.graph.node import Graph, Node
from lipaudit.layers import agreement, registry
from lipaudit.layers.base import (
    COMPUTED_PARAMETER,
    AbstractLayer,
    AbstractShapeReader,
    Call,
    UnsupportedNode,
    ValuesNeeded,
)
from lipaudit.layers.declared import Declared
from lipaudit.layers.folding import fold, hollowed
from lipaudit.layers.invocation import Deferred, invoke
from lipaudit.layers.sequences import Sequences

# Two runs differ: such a node must never be folded into one of its outcomes.
_RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
# A subgraph is a program: it may run for ever, so that it is never evaluated while reading.
_CONTROL = frozenset({"If", "Loop", "Scan"})


@dataclass(frozen=True, slots=True)
class Opaque:
    """What is left of a node that lipaudit cannot model: its name and the reason."""

    slug: str
    reason: str


_Meaning: TypeAlias = AbstractLayer | Opaque


@dataclass(frozen=True, slots=True)
class Step:
    """One node that was not folded away, and what is known about it."""

    node: Node
    layer: _Meaning
    constants: Mapping[int, Constant]
    signals: tuple[str, ...]
    """Edge names of its inputs that are not constants, in input order."""


@dataclass(frozen=True, slots=True)
class Network:
    """Steps in order, and the shape and dtype of every edge as far as they are known."""

    graph: Graph
    """The same network as a graph without the folded nodes."""
    steps: tuple[Step, ...]
    shapes: Mapping[str, Shape | None]
    dtypes: Mapping[str, str]

    def signal_shapes(self, step: Step) -> tuple[Shape | None, ...]:
        """Return the shapes of a step's signals."""
        return tuple(self.shapes.get(name) for name in step.signals)


def build(graph: Graph, shapes: Mapping[str, Shape] | None = None) -> Network:
    """Give every node its meaning; `shapes` overrides the declared input shapes.

    Raise `ShapeError` naming the node where given or declared shapes do not fit, and
    `MalformedFile` where the file contradicts itself about the shape of an edge.
    """
    given = shapes or {}
    walk = _Walk(graph)
    for edge in graph.inputs:
        walk.shapes[edge.name] = given.get(edge.name, edge.known_shape)
        walk.dtypes[edge.name] = edge.dtype
    for node in graph.nodes:
        walk.visit(node)
    network = walk.network()
    agreement.check(graph, network.shapes, network.graph.constants)
    return network


class _Walk:
    """The state of the one pass: what is known so far."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constants: dict[str, Constant] = dict(graph.constants)
        self.shapes: dict[str, Shape | None] = {}
        self.dtypes: dict[str, str] = {}
        # A sequence that leaves the graph, or enters a subgraph, is needed as a whole.
        exposed = {edge.name for edge in graph.outputs}.union(
            *(node.captures for node in graph.nodes)
        )
        self.sequences = Sequences(self.constants, self.shapes, exposed)
        self.steps: list[Step] = []
        self.taken = {name for node in graph.nodes for name in node.outputs}
        self.taken |= {*graph.constants, *(edge.name for edge in graph.inputs)}

    def visit(self, node: Node) -> None:
        """Fold the node, replace it by simpler ones, or make it a step."""
        node = _with_captures(node)
        constants = {
            position: self.constants[name]
            for position, name in enumerate(node.inputs)
            if name in self.constants
        }
        call = Call(node, constants)
        simpler = self._branch(call)
        if simpler is None:
            simpler = self._typed(call)
        if simpler is None:
            simpler = self.sequences.lowered(call)
        if simpler is not None:
            for part in simpler:
                self.visit(part)
            return
        layer = _meaning(call)
        if not isinstance(layer, Opaque) and (
            self._answer_shape(node, layer) or self._fold(call, layer)
        ):
            return
        signals = tuple(node.inputs[position] for position in call.signals)
        step = Step(node, self._founded(layer, signals), constants, signals)
        self._infer(step)
        self.steps.append(self._typed_as_stated(step))

    def _founded(self, layer: _Meaning, signals: tuple[str, ...]) -> _Meaning:
        """Return the layer, unless it may rest on a stated size that cannot be worked out."""
        unknown = [
            name
            for name in signals
            if name in self.graph.stated.relied and self.shapes.get(name) is None
        ]
        if not unknown or isinstance(layer, Opaque):
            return layer
        reason = f"the size of {unknown[0]!r} is stated by the file alone: nothing confirms it"
        return Opaque("needs-shape", reason)

    def _typed_as_stated(self, step: Step) -> Step:
        """Return the step, without a meaning where its results are not of the stated type."""
        stated = self.graph.stated
        for name in step.node.outputs:
            dtype = self.dtypes.get(name)
            if dtype is None or isinstance(step.layer, Opaque):
                continue
            if stated.differs_in_kind(name, dtype):
                reason = f"the file states {stated.dtypes[name]} for {name!r}, and it is {dtype}"
                return replace(step, layer=Opaque("dtype", reason))
        return step

    def _branch(self, call: Call) -> tuple[Node, ...] | None:
        """Return the nodes of the branch that an `If` on a constant always takes.

        ONNX forbids a subgraph to reuse an outer name; where one does, the `If` is left alone.
        """
        node, condition = call.node, call.constant(0)
        if node.op != "If" or condition is None or condition.items != 1:
            return None
        taken = "then_branch" if bool(condition.read().item()) else "else_branch"
        body = node.attributes.get(taken)
        if not isinstance(body, Graph) or len(body.outputs) < len(node.outputs):
            return None
        made = {*body.constants, *(name for inner in body.nodes for name in inner.outputs)}
        if made & self.taken:
            return None
        self.taken |= made
        self.constants.update(body.constants)
        results = (
            Node("Identity", node.name, (edge.name,), (name,))
            for edge, name in zip(body.outputs, node.outputs, strict=False)
        )
        return (*body.nodes, *results)

    def _typed(self, call: Call) -> tuple[Node, ...] | None:
        """Return the plain cast behind a CastLike whose type is known.

        Exporters cast constants "like" a signal; only then does the constant stay one.
        """
        node = call.node
        if node.op != "CastLike" or node.domain or not call.given(1):
            return None
        like = call.constant(1)
        wanted = like.dtype if like is not None else self.dtypes.get(node.inputs[1])
        number = next((n for n, name in ONNX_DTYPES.items() if name == wanted), None)
        if number is None:
            return None
        attributes = {**node.attributes, "to": number}
        return (replace(node, op="Cast", inputs=node.inputs[:1], attributes=attributes),)

    def _answer_shape(self, node: Node, layer: AbstractLayer) -> bool:
        """Evaluate a node that asks for a shape that is known."""
        if not isinstance(layer, AbstractShapeReader):
            return False
        name = node.inputs[0]
        constant = self.constants.get(name)
        shape = self.shapes.get(name) if constant is None else constant.shape
        if shape is None:
            return False
        self.constants[node.outputs[0]] = computed(node.outputs[0], layer.value(shape))
        return True

    def _fold(self, call: Call, layer: AbstractLayer) -> bool:
        """Replace a node fed by constants alone by what it computes."""
        node = call.node
        if call.signals or node.op in _CONTROL or is_loose(node):
            return False
        folded = fold(node, layer, tuple(map(call.constant, range(len(node.inputs)))))
        self.constants.update(folded or {})
        return folded is not None

    def _infer(self, step: Step) -> None:
        """Infer the shapes of a step's outputs, or leave them unknown."""
        self.shapes.update({name: None for name in step.node.outputs if name})
        inputs = self._hollow_inputs(step)
        if isinstance(step.layer, Opaque) or inputs is None:
            return
        try:
            made = invoke(step.node, step.layer, inputs, None)
        except (ValuesNeeded, NotCertified):
            return
        for name, value in zip(step.node.outputs, made, strict=False):
            if name:
                self.shapes[name] = tuple(value.shape)
                self.dtypes[name] = dtype_name(value.dtype)

    def _hollow_inputs(self, step: Step) -> list[torch.Tensor | None] | None:
        """Return the step's inputs on the meta device; None when one is not known."""
        if is_loose(step.node):
            return None
        inputs: list[torch.Tensor | None] = []
        for position, name in enumerate(step.node.inputs):
            constant = step.constants.get(position)
            if constant is not None:
                hollow = hollowed(constant)
                if hollow is None:
                    return None
                inputs.append(hollow)
            elif name:
                shape = self.shapes.get(name)
                dtype = torch_type(self.dtypes.get(name, "float32"))
                if shape is None or dtype is None or _is_beyond_torch(shape, dtype):
                    return None
                inputs.append(torch.empty(shape, dtype=dtype, device="meta"))
            else:
                inputs.append(None)
        return inputs

    def network(self) -> Network:
        """Freeze what was found."""
        return Network(
            graph=replace(
                self.graph,
                nodes=tuple(step.node for step in self.steps),
                constants=self.constants,
            ),
            steps=tuple(self.steps),
            shapes=self.shapes,
            dtypes=self.dtypes,
        )


def _is_beyond_torch(shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Tell whether a declared shape has more bytes than torch can count."""
    return math.prod(size or 1 for size in shape) * dtype.itemsize >= 1 << 63


def is_loose(node: Node) -> bool:
    """Tell whether the node is a weight whose wiring is unknown: its data input is ""."""
    return bool(node.inputs) and not node.inputs[0] and node.op not in _CONTROL


def _with_captures(node: Node) -> Node:
    """Append what the node's subgraphs read from outside to its inputs, where it is missing."""
    missing = tuple(name for name in node.captures if name not in node.inputs)
    return replace(node, inputs=node.inputs + missing) if missing else node


def _meaning(call: Call) -> _Meaning:
    node = call.node
    if node.op in _RANDOM:
        return Opaque("random", f"the output of {node.op} is random")
    kind = registry.find(node.op, node.domain)
    if kind is None and node.declared is not None and call.signals:
        return Declared.from_node(call)
    if kind is None:
        name = f"{node.domain}.{node.op}" if node.domain else node.op
        return Opaque("unknown-op", f"operation {name} is not known to lipaudit")
    try:
        return kind.layer.from_node(call)
    except UnsupportedNode as problem:
        if problem.slug == COMPUTED_PARAMETER:
            return Deferred(call, problem.reason)
        return Opaque(problem.slug, problem.reason)
    except NotCertified as problem:  # a parameter that is too large to be read
        return Opaque(problem.slug, problem.cause)
    except (IndexError, TypeError, ValueError) as error:
        return Opaque("malformed-node", f"its parameters make no sense: {error}")
