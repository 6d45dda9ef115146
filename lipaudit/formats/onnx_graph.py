"""ONNX graph: from the parsed skeleton of a file to lipaudit's graph.

Constant nodes become constants, calls of local functions are written out, subgraphs become
graphs in an attribute, and every node is rewritten to the newest opset.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
import torch

from lipaudit.errors import MalformedFile
from lipaudit.formats.onnx_order import order
from lipaudit.formats.onnx_rank import Ranks
from lipaudit.formats.onnx_scope import Functions, Scope, bound, domain_of
from lipaudit.formats.onnx_tensor import TensorReader
from lipaudit.formats.onnx_upgrade import upgrade
from lipaudit.graph import spec
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.constant import Constant, computed
from lipaudit.graph.dtypes import ONNX_DTYPES
from lipaudit.graph.node import Attribute, Edge, Graph, Node

_Kind = onnx.AttributeProto.AttributeType
_MAX_NOTES = 20


@dataclass(slots=True)
class _Draft:
    """A graph while it is read: nodes as the file has them, and the constants so far."""

    nodes: list[Node] = field(default_factory=list)
    opsets: list[int] = field(default_factory=list)
    constants: dict[str, Constant] = field(default_factory=dict)


class GraphReader:
    """Reads the graphs of one ONNX file; collects its tensors and what was noticed."""

    def __init__(self, tensors: TensorReader, functions: Functions) -> None:
        self._tensors = tensors
        self._functions = functions
        self._path = str(tensors.source.path)
        self.tensors: dict[str, Constant] = {}
        """Every stored tensor by its key: its name, after the node it is an attribute of."""
        self.notes: dict[str, None] = {}
        self._taken = Counter[str]()

    def graph(self, proto: onnx.GraphProto, scope: Scope, *, inside: str = "") -> Graph:
        """Read a graph; `inside` is the label of the node whose attribute it is."""
        draft = _Draft()
        self._initializers(proto, scope, draft, inside)
        inputs = self._inputs(proto, scope, draft)
        self._body(proto.node, scope, draft)
        outputs = [_edge(value, scope) for value in proto.output]
        return self._upgraded(draft, inputs, outputs, is_inner=bool(inside))

    def _initializers(
        self, proto: onnx.GraphProto, scope: Scope, draft: _Draft, inside: str
    ) -> None:
        for tensor in proto.initializer:
            key = f"{inside}/{tensor.name}" if inside else scope.label(tensor.name)
            self._hold(draft, scope.name(tensor.name), self._tensors.constant(tensor, key))
        for sparse in proto.sparse_initializer:
            name = sparse.values.name
            key = f"{inside}/{name}" if inside else scope.label(name)
            self._hold(draft, scope.name(name), self._tensors.sparse(sparse, key))

    def _hold(self, draft: _Draft, name: str, constant: Constant) -> None:
        if not name:
            raise self._malformed("an initializer has no name", "onnx-initializer")
        if name in draft.constants:
            raise self._malformed(f"duplicate initializer {name!r}", "onnx-initializer")
        key = constant.name
        while key in self.tensors:  # branches and bodies may use a name again
            self._taken[constant.name] += 1
            key = f"{constant.name}#{self._taken[constant.name]}"
        owner = key if constant.scaled_by else None
        held = replace(constant, name=key, sources=(key,), scaled_by=owner)
        self.tensors[key] = held
        draft.constants[name] = replace(held, name=name)

    def _inputs(self, proto: onnx.GraphProto, scope: Scope, draft: _Draft) -> list[Edge]:
        """Return the inputs that have no stored value; before IR 4 all tensors were listed."""
        edges = [_edge(value, scope) for value in proto.input]
        for name, count in Counter(edge.name for edge in edges).items():
            if count > 1 or not name:
                raise self._malformed(f"duplicate input {name!r}", "onnx-input")
        return [edge for edge in edges if edge.name not in draft.constants]

    def _body(self, protos: Sequence[onnx.NodeProto], scope: Scope, draft: _Draft) -> None:
        for position, proto in enumerate(protos):
            first = next((name for name in proto.output if name), f"{proto.op_type}_{position}")
            label = scope.label(proto.name or first)
            if not proto.op_type:
                raise self._malformed(f"node {label!r} has no operation", "onnx-node")
            if self._functions.called_by(proto) is not None:
                self._call(proto, label, scope, draft)
            elif proto.op_type == "Constant" and not domain_of(proto.domain):
                self._constant(proto, label, scope, draft)
            else:
                self._node(proto, label, scope, draft)

    def _call(self, proto: onnx.NodeProto, label: str, scope: Scope, draft: _Draft) -> None:
        """Write a function's body down in place of the call."""
        function = self._functions.called_by(proto)
        if function is None:
            return
        inner = self._functions.inside(proto, label, scope)
        self._body(function.node, inner, draft)
        for name, made in zip(proto.output, function.output, strict=False):
            if name and inner.name(made) != scope.name(name):
                draft.nodes.append(
                    Node("Identity", label, (inner.name(made),), (scope.name(name),))
                )
                draft.opsets.append(1)

    def _constant(self, proto: onnx.NodeProto, label: str, scope: Scope, draft: _Draft) -> None:
        """Turn a Constant node into a constant, called by the edge that it makes."""
        if len(proto.output) != 1 or len(proto.attribute) != 1:
            raise self._malformed(f"node {label!r} (Constant) has no single value", "onnx-node")
        name = scope.name(proto.output[0])
        value = bound(proto.attribute[0], scope)
        if value is None:
            raise self._malformed(f"node {label!r} (Constant) has no value", "onnx-node")
        if value.name == "value":
            self._hold(draft, name, self._tensors.constant(value.t, name))
        elif value.name == "sparse_value":
            self._hold(draft, name, self._tensors.sparse(value.sparse_tensor, name))
        else:
            self._hold(draft, name, self._listed(value, name, label))

    def _listed(self, value: onnx.AttributeProto, name: str, label: str) -> Constant:
        """Return a constant whose numbers stand in the node itself."""
        if value.name in {"value_string", "value_strings"}:
            text = onnx.TensorProto(data_type=onnx.TensorProto.STRING)
            text.dims.extend([len(value.strings)] if value.name == "value_strings" else [])
            return self._tensors.constant(text, name)
        forms: dict[str, tuple[Any, torch.dtype]] = {
            "value_int": (value.i, torch.int64),
            "value_float": (value.f, torch.float32),
            "value_ints": (list(value.ints), torch.int64),
            "value_floats": (list(value.floats), torch.float32),
        }
        if value.name not in forms:
            raise self._malformed(
                f"node {label!r} (Constant) has an unknown kind of value {value.name!r}",
                "onnx-node",
            )
        numbers, dtype = forms[value.name]
        return computed(name, torch.tensor(numbers, dtype=dtype), sources=(name,))

    def _node(self, proto: onnx.NodeProto, label: str, scope: Scope, draft: _Draft) -> None:
        domain = domain_of(proto.domain)
        opset = scope.opsets.get(domain, 0)
        if not domain and opset < 1:
            stated = f"the file states {opset:,}" if domain in scope.opsets else "it is not stated"
            raise self._malformed(
                f"node {label!r} ({proto.op_type}) is of no opset: {stated}", "onnx-opset"
            )
        if not proto.output:
            raise self._malformed(f"node {label!r} ({proto.op_type}) has no output", "onnx-node")
        attributes: dict[str, Attribute] = {}
        for attribute in proto.attribute:
            if attribute.name in attributes:
                raise self._malformed(
                    f"node {label!r} has attribute {attribute.name!r} twice", "onnx-node"
                )
            value = self._attribute(attribute, label, scope)
            if isinstance(value, Graph) and proto.op_type == "If" and not domain:
                # Branches have no arguments (ONNX, If). Where a writer lists what they read as
                # inputs all the same, it is what the graph around calls so.
                value = replace(value, inputs=())
            if value is not None:
                attributes[attribute.name] = value
        draft.opsets.append(opset)
        draft.nodes.append(
            Node(
                proto.op_type,
                label,
                tuple(map(scope.name, proto.input)),
                tuple(map(scope.name, proto.output)),
                attributes,
                domain,
            )
        )

    def _attribute(
        self, proto: onnx.AttributeProto, label: str, scope: Scope
    ) -> "Attribute | None":  # the alias is a string at run time
        """Return an attribute's value; None for what no operation of numbers has."""
        value = bound(proto, scope)
        if value is None:
            return None
        kind = value.type or _kind_by_content(value)
        if kind == _Kind.TENSOR:
            return self._tensors.constant(value.t, f"{label}/{proto.name}")
        if kind == _Kind.SPARSE_TENSOR:
            return self._tensors.sparse(value.sparse_tensor, f"{label}/{proto.name}")
        if kind == _Kind.GRAPH:
            return self.graph(value.g, scope, inside=f"{label}/{proto.name}")
        plain: dict[int, Attribute] = {
            _Kind.FLOAT: value.f,
            _Kind.INT: value.i,
            _Kind.STRING: _text(value.s),
            _Kind.FLOATS: tuple(value.floats),
            _Kind.INTS: tuple(value.ints),
            _Kind.STRINGS: tuple(map(_text, value.strings)),
        }
        return plain.get(kind)

    def _upgraded(
        self, draft: _Draft, inputs: Sequence[Edge], outputs: Sequence[Edge], *, is_inner: bool
    ) -> Graph:
        """Put the nodes in order and rewrite them to the newest opset."""
        known = {*draft.constants, *(edge.name for edge in inputs)}
        positions = order(draft.nodes, known, path=self._path)
        if positions != tuple(range(len(positions))):
            self.notes["nodes are not in topological order; they were sorted"] = None
        stated = Graph(
            nodes=tuple(draft.nodes[position] for position in positions),
            constants=draft.constants,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
        )
        around = tuple(map(Edge, stated.captures)) if is_inner else ()
        spec.check(replace(stated, inputs=(*inputs, *around)), path=self._path)
        if stated.captures and not is_inner:
            raise self._unmade(stated)
        ranks = Ranks({edge.name: len(edge.shape) for edge in inputs if edge.shape is not None})
        builder = GraphBuilder()
        for name, constant in draft.constants.items():
            builder.constant(constant)
            ranks.hold(name, constant)
        for edge in inputs:
            builder.input(edge)
        for name in {name for node in stated.nodes for name in (*node.inputs, *node.outputs)}:
            builder.fresh(name)
        for position, node in zip(positions, stated.nodes, strict=True):
            self._note(node, upgrade(node, draft.opsets[position], builder, ranks))
        return builder.finish(outputs)

    def _unmade(self, graph: Graph) -> MalformedFile:
        """Name the node whose subgraph reads what nothing makes."""
        name = graph.captures[0]
        node = next(node for node in graph.nodes if name in node.captures)
        return self._malformed(
            f"node {node.name!r} ({node.op}) uses {name!r}, which nothing makes", "graph-order"
        )

    def _note(self, node: Node, problem: str) -> None:
        if problem and len(self.notes) < _MAX_NOTES:
            # What holds for every node alike is said once.
            general = problem.startswith("opset ")
            self.notes[problem if general else f"node {node.name!r}: {problem}"] = None

    def _malformed(self, cause: str, slug: str) -> MalformedFile:
        return MalformedFile(cause, slug=slug, path=self._path)


def _edge(proto: onnx.ValueInfoProto, scope: Scope) -> Edge:
    name = scope.name(proto.name)
    kind = proto.type.WhichOneof("value")
    if kind not in {"tensor_type", "sparse_tensor_type"}:
        return Edge(name) if kind is None else Edge(name, None, str(kind).removesuffix("_type"))
    tensor = getattr(proto.type, str(kind))
    number = tensor.elem_type
    dtype = ONNX_DTYPES.get(number, f"type {number}") if number else "float32"
    shape = tuple(_sizes(tensor.shape)) if tensor.HasField("shape") else None
    return Edge(name, shape, dtype)


def _sizes(proto: onnx.TensorShapeProto) -> Iterator[int | str | None]:
    """Yield the sizes; exporters write 0 or -1 for a batch axis of any size."""
    for size in proto.dim:
        if size.HasField("dim_value") and size.dim_value > 0:
            yield size.dim_value
        else:
            # Where it is no valid text, protobuf hands it out as bytes.
            yield size.dim_param if isinstance(size.dim_param, str) and size.dim_param else None


def _kind_by_content(value: onnx.AttributeProto) -> int:
    """Return an attribute's kind where the file, of the first IR version, does not state it."""
    single = {"f": _Kind.FLOAT, "i": _Kind.INT, "s": _Kind.STRING, "t": _Kind.TENSOR}
    for name, kind in {**single, "g": _Kind.GRAPH}.items():
        if value.HasField(name):
            return int(kind)
    several = {"floats": _Kind.FLOATS, "ints": _Kind.INTS, "strings": _Kind.STRINGS}
    return next((int(kind) for name, kind in several.items() if getattr(value, name)), 0)


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
