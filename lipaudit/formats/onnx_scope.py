"""Scope: what names and opsets mean in one place of an ONNX model.

A local function is a graph of its own that is written down in place of every call: its names
get a prefix there, its parameters the names of the call, its attributes the values of the call.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from lipaudit.errors import MalformedFile, UnsafeFile
from lipaudit.formats.onnx_wire import MAX_DEPTH, MAX_NODES

FunctionKey = tuple[str, str, str]
"""Domain, name, overload."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a node stands: in the model's own graph, or inside calls of local functions."""

    opsets: Mapping[str, int]
    prefix: str = ""
    """Put before the names of edges: unique to the call."""
    title: str = ""
    """Put before the names of nodes, which people read."""
    names: Mapping[str, str] | None = None
    """Parameter -> name outside; None in the model's own graph, where names stay."""
    bindings: Mapping[str, onnx.AttributeProto] | None = None
    """Attributes of the call, and defaults, for those inside that refer to them."""

    def name(self, name: str) -> str:
        """Return what an edge is called in the finished graph."""
        if not name or self.names is None:
            return name
        return self.names.get(name, f"{self.prefix}{name}")

    def label(self, name: str) -> str:
        """Return what a node is called in the finished graph."""
        return f"{self.title}{name}"


def domain_of(name: str) -> str:
    """Return a domain's one name: the standard one has two."""
    return "" if name == "ai.onnx" else name


def key_of(node: onnx.NodeProto) -> FunctionKey:
    """Return the name under which a node's function would be known."""
    return (domain_of(node.domain), node.op_type, node.overload)


def opsets_of(imports: Iterable[Any], path: str) -> dict[str, int]:
    """Read the opsets that a model or function says it uses."""
    opsets: dict[str, int] = {}
    for entry in imports:
        domain = domain_of(entry.domain)
        if opsets.setdefault(domain, entry.version) != entry.version:
            raise MalformedFile(
                f"opset of domain {domain!r} stated twice, as {opsets[domain]} and {entry.version}",
                slug="onnx-opset",
                path=path,
            )
    return opsets


class Functions:
    """The local functions of a model by domain, name and overload."""

    def __init__(self, protos: Iterable[onnx.FunctionProto], path: str) -> None:
        self._path = path
        self._known: dict[FunctionKey, onnx.FunctionProto] = {}
        for proto in protos:
            key = (domain_of(proto.domain), proto.name, proto.overload)
            if key in self._known:
                raise MalformedFile(
                    f"function {proto.name!r} is defined twice", slug="onnx-function", path=path
                )
            self._known[key] = proto

    def called_by(self, node: onnx.NodeProto) -> onnx.FunctionProto | None:
        """Return the function that a node calls, None for an operation."""
        return self._known.get(key_of(node))

    def check_size(self, graph: onnx.GraphProto) -> None:
        """Raise unless the graph stays small when every call is written out.

        A few functions that each call the next one twice would fill any memory.
        """
        known: dict[FunctionKey, int] = {}
        total = self._size(graph.node, known, ())
        if total > MAX_NODES:
            raise UnsafeFile(
                f"{total:,} nodes once local functions are written out exceed the limit "
                f"{MAX_NODES:,}",
                slug="onnx-nodes",
                path=self._path,
            )

    def _size(
        self,
        nodes: Iterable[onnx.NodeProto],
        known: dict[FunctionKey, int],
        calls: tuple[FunctionKey, ...],
    ) -> int:
        total = 0
        for node in nodes:
            graphs = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
            total += 1 + sum(self._size(graph.node, known, calls) for graph in graphs)
            if self._known and self.called_by(node) is not None:
                total += self._size_of_call(key_of(node), known, calls)
        return total

    def _size_of_call(
        self, key: FunctionKey, known: dict[FunctionKey, int], calls: tuple[FunctionKey, ...]
    ) -> int:
        if key in calls:
            raise MalformedFile(
                f"function {key[1]!r} calls itself", slug="onnx-function", path=self._path
            )
        if len(calls) >= MAX_DEPTH:
            raise UnsafeFile(
                f"functions call each other deeper than {MAX_DEPTH}",
                slug="onnx-depth",
                path=self._path,
            )
        if key not in known:
            known[key] = self._size(self._known[key].node, known, (*calls, key))
        return known[key]

    def inside(self, node: onnx.NodeProto, label: str, scope: Scope) -> Scope:
        """Return the scope of the body of the function that a node calls."""
        function = self._known[key_of(node)]
        if len(node.input) > len(function.input) or len(node.output) > len(function.output):
            raise MalformedFile(
                f"node {label!r} gives function {function.name!r} more than it takes",
                slug="onnx-function",
                path=self._path,
            )
        given = [*node.input, *[""] * (len(function.input) - len(node.input))]
        names = dict(zip(function.input, map(scope.name, given), strict=True))
        for inner, outer in zip(function.output, node.output, strict=False):
            # A parameter that is handed through keeps its name; the caller adds an Identity.
            if outer and inner not in names:
                names[inner] = scope.name(outer)
        bindings = {attribute.name: attribute for attribute in function.attribute_proto}
        bindings |= {attribute.name: bound(attribute, scope) for attribute in node.attribute}
        return Scope(
            opsets=opsets_of(function.opset_import, self._path),
            # No exporter puts blanks into the names of edges.
            prefix=f"{scope.prefix}{next(filter(None, node.output), label)} > ",
            title=f"{label}/",
            names=names,
            bindings={name: value for name, value in bindings.items() if value is not None},
        )


def bound(attribute: onnx.AttributeProto, scope: Scope) -> onnx.AttributeProto | None:
    """Return the attribute itself, or what it refers to in the call; None if the call has none."""
    if not attribute.ref_attr_name:
        return attribute
    found = (scope.bindings or {}).get(attribute.ref_attr_name)
    # A graph handed to a function reads the names of its caller: such a node stays without it,
    # and an operation without its graph is known to no layer.
    if found is None or found.HasField("g"):
        return None
    named = onnx.AttributeProto()
    named.CopyFrom(found)
    named.name = attribute.name
    return named
