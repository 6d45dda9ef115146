"""ExportedGraph: the JSON of a torch.export program, turned into a graph."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lipaudit.errors import MalformedFile, UnsafeFile
from lipaudit.formats.aten.call import ATEN_DOMAIN, SYMBOL, AtenCall, Ref, Symbol, Values
from lipaudit.formats.aten.catalog import translate
from lipaudit.formats.aten.writing import Aliases, written
from lipaudit.graph import spec
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.constant import Constant
from lipaudit.graph.node import Edge, Graph
from lipaudit.graph.stated import Axes, as_text

_PLAIN = {
    "as_int",
    "as_float",
    "as_bool",
    "as_string",
    "as_ints",
    "as_floats",
    "as_bools",
    "as_strings",
}
DTYPES: Mapping[int, str] = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    9: "complex32",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz",
    33: "float8_e8m0fnu",
    34: "uint32",
    35: "uint64",
}
"""torch.export's numbers for item types."""
_SYMBOL_TEXT = re.compile(r"(?:Symbol\('([a-z]\w*)'[^()]*\)|([a-z]\w*))\Z", re.ASCII)
_MOST_ITEMS = 1 << 58
"""Along one axis: torch counts bytes in 64 bits."""
_MOST_CHANGED = 100_000
_FLOAT_NAMES = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}


class ExportedGraph:
    """One reading of one document; every access to the foreign JSON is checked."""

    def __init__(
        self, document: Mapping[str, Any], tensors: Mapping[str, Constant], path: str
    ) -> None:
        self._path = path
        self._tensors = tensors
        module = self._mapping(document.get("graph_module"), "graph_module")
        self._graph = self._mapping(module.get("graph"), "graph")
        self._signature = self._mapping(module.get("signature"), "signature")
        values = self._mapping(self._graph.get("tensor_values"), "tensor_values")
        self._metas = {name: self._mapping(meta, name) for name, meta in values.items()}
        self._shapes: dict[str, Axes] = {
            name: tuple(self._size(size, name) for size in self._sequence(meta.get("sizes"), name))
            for name, meta in self._metas.items()
        }
        self._symbols: dict[str, Symbol] = {}
        self._changed = 0

    def read(self) -> Graph:
        """Return the graph, its legality checked."""
        nodes = [
            self._mapping(node, "node")
            for node in self._sequence(self._graph.get("nodes"), "nodes")
        ]
        build = GraphBuilder((*self._metas, *(name for node in nodes for name in self._made(node))))
        renamed = self._inputs(build)
        values = self._values(renamed, build)
        aliases = Aliases()
        for node in nodes:
            self._note_size(node)
            call = self._call(node, renamed, values)
            translate(call, build)
            self._note_writing(node, call, aliases, renamed, build)
        outputs = []
        for entry in self._sequence(self._signature.get("output_specs"), "output_specs"):
            user = entry.get("user_output") if isinstance(entry, dict) else None
            name = self._tensor_name(user.get("arg")) if isinstance(user, dict) else None
            if name is not None:
                outputs.append(Edge(renamed.get(name, name)))
        graph = replace(build.finish(outputs), stated=values.statement())
        return spec.check(graph, path=self._path)

    def _note_writing(
        self,
        node: Mapping[str, Any],
        call: AtenCall,
        aliases: Aliases,
        renamed: dict[str, str],
        build: GraphBuilder,
    ) -> None:
        """Let those who read a tensor after a call that writes to it read what was written."""
        entries = [
            self._mapping(e, "argument") for e in self._sequence(node.get("inputs"), "inputs")
        ]
        read = [name for entry in entries for name in self._read(entry.get("arg"))]
        target = written(call.op, call.overload, [str(entry.get("name")) for entry in entries])
        if target is None:
            aliases.see(call.op, read, call.outputs)
            return
        into = next((e.get("arg") for e in entries if str(e.get("name")) == target), None)
        for name in self._read(into):
            others = aliases.others(name)
            self._changed += len(others)
            if self._changed > _MOST_CHANGED:
                raise UnsafeFile(
                    f"more than {_MOST_CHANGED:,} names of what is written in place",
                    slug="pt2-json",
                    path=self._path,
                )
            for other in others:
                changed = f"{other} after {call.name}"
                before = renamed.get(other, other)
                build.add(
                    f"{call.op} of a view",
                    [before, *call.outputs],
                    name=call.name,
                    outputs=(changed,),
                    domain=ATEN_DOMAIN,
                )
                renamed[other] = changed
            if call.outputs:
                renamed[name] = call.outputs[0]
        aliases.see(call.op, read, call.outputs)

    def _read(self, arg: object) -> list[str]:
        """Return the names of the tensors in an argument, as the document has them."""
        if not isinstance(arg, dict) or not arg:
            return []
        name = self._tensor_name(arg)
        if name is not None:
            return [name]
        kind, value = next(iter(arg.items()))
        if kind not in {"as_tensors", "as_optional_tensors"} or not isinstance(value, list):
            return []
        each = [self._tensor_name(v if kind != "as_tensors" else {"as_tensor": v}) for v in value]
        return [name for name in each if name is not None]

    def _inputs(self, build: GraphBuilder) -> dict[str, str]:
        """Declare user inputs and constants; return graph name -> constant name."""
        renamed: dict[str, str] = {}
        for entry in self._sequence(self._signature.get("input_specs"), "input_specs"):
            kind, content = next(iter(self._mapping(entry, "input").items()), ("", None))
            content = self._mapping(content, "input")
            name = self._tensor_name(content.get("arg"))
            if kind == "user_input":
                if name is not None:
                    build.input(Edge(name, self._sizes(name), self._dtype(name)))
                continue
            field = {"parameter": "parameter_name", "buffer": "buffer_name"}.get(kind)
            key = content.get(field or "tensor_constant_name")
            # Plain tensors in the archive's constants argue as {"name": ...} without as_tensor.
            if name is None and isinstance(content.get("arg"), dict):
                name = content["arg"].get("name")
            if isinstance(name, str) and isinstance(key, str) and key in self._tensors:
                renamed[name] = build.constant(self._tensors[key])
            elif isinstance(name, str):
                raise MalformedFile(
                    f"weight {key!r} is not stored", slug="pt2-weight", path=self._path
                )
        return renamed

    def _sizes(self, name: str) -> tuple[int | None, ...] | None:
        """Return the sizes of an input; what a symbol is called means nothing to a user."""
        stated = self._shapes.get(name)
        if stated is None:
            return None
        return tuple(size if isinstance(size, int) else None for size in stated)

    def _values(self, renamed: Mapping[str, str], build: GraphBuilder) -> Values:
        """Return what is stated of every tensor; of a stored one, what is stored."""
        shapes, dtypes = dict(self._shapes), {name: self._dtype(name) for name in self._metas}
        for old, new in renamed.items():
            constant = build.lookup(new)
            stated = self._shapes.get(old)
            if constant is None:
                continue
            if stated is not None and stated != constant.shape:
                raise MalformedFile(
                    f"value {old!r} is declared {as_text(stated)}, is {as_text(constant.shape)}",
                    slug="graph-shape",
                    path=self._path,
                )
            shapes[new], dtypes[new] = constant.shape, constant.dtype
            shapes[old], dtypes[old] = constant.shape, constant.dtype
        return Values(shapes, dtypes)

    def _note_size(self, node: Mapping[str, Any]) -> None:
        """Take note of which open size a number is, if the node does no more than read one off."""
        made = node.get("outputs")
        if node.get("target") != "torch.ops.aten.sym_size.int" or not isinstance(made, list):
            return
        stated = {
            entry.get("name"): entry.get("arg")
            for entry in self._sequence(node.get("inputs"), "inputs")
            if isinstance(entry, dict)
        }
        axes = self._shapes.get(self._tensor_name(stated.get("self")) or "", ())
        which = stated.get("dim")
        axis = which.get("as_int") if isinstance(which, dict) else None
        number = made[0].get("as_sym_int") if made and isinstance(made[0], dict) else None
        name = number.get("as_name") if isinstance(number, dict) else None
        if isinstance(axis, int) and -len(axes) <= axis < len(axes) and isinstance(name, str):
            size = axes[axis]
            if isinstance(size, str):
                self._symbols[name] = Symbol(size)

    def _call(
        self,
        node: Mapping[str, Any],
        renamed: Mapping[str, str],
        values: Values,
    ) -> AtenCall:
        target = str(node.get("target"))
        *_, op, overload = ["", "", *target.removeprefix("torch.ops.").split(".")]
        arguments = {}
        for entry in self._sequence(node.get("inputs"), "inputs"):
            named = self._mapping(entry, "argument")
            arguments[str(named.get("name"))] = self._argument(named.get("arg"), renamed)
        outputs = self._made(node)
        if not target.startswith("torch.ops.aten."):
            op = target
        title = _module_name(node) or (outputs[0] if outputs else op)
        return AtenCall(op, overload, title, arguments, tuple(outputs), values)

    def _argument(self, arg: object, renamed: Mapping[str, str]) -> object:
        """Turn a tagged value into a plain one; what is open or foreign becomes `SYMBOL`."""
        if not isinstance(arg, dict) or not arg:
            return None
        kind, value = next(iter(arg.items()))
        if kind == "as_none":
            return None
        if kind in _PLAIN:
            return (
                _FLOAT_NAMES.get(value, value)
                if kind == "as_float" and isinstance(value, str)
                else value
            )
        name = self._tensor_name(arg)
        if name is not None:
            return Ref(renamed.get(name, name))
        if kind in {"as_tensors", "as_optional_tensors"} and isinstance(value, list):
            names = [
                self._tensor_name(each if kind != "as_tensors" else {"as_tensor": each})
                for each in value
            ]
            return [Ref(renamed.get(n, n)) if n is not None else None for n in names]
        if kind in {"as_sym_int", "as_sym_bool", "as_sym_float"}:
            return self._number(value)
        if kind == "as_sym_ints" and isinstance(value, list):
            return [self._number(each) for each in value]
        if kind == "as_scalar_type" and isinstance(value, int):
            return DTYPES.get(value, SYMBOL)
        return SYMBOL

    def _number(self, value: object) -> object:
        """Return a number that is stored, or the size that it is."""
        if not isinstance(value, dict):
            return SYMBOL
        stored = (v for k, v in value.items() if k in {"as_int", "as_bool", "as_float"})
        name = value.get("as_name")
        return next(stored, self._symbols.get(name, SYMBOL) if isinstance(name, str) else SYMBOL)

    def _tensor_name(self, arg: object) -> str | None:
        if not isinstance(arg, dict):
            return None
        tensor = arg.get("as_tensor") or arg.get("as_optional_tensor")
        if isinstance(tensor, dict) and "as_tensor" in tensor:
            tensor = tensor["as_tensor"]
        name = tensor.get("name") if isinstance(tensor, dict) else None
        return name if isinstance(name, str) else None

    def _made(self, node: Mapping[str, Any]) -> list[str]:
        """Return the names of all that a node makes."""
        return [
            name
            for entry in self._sequence(node.get("outputs"), "outputs")
            for name in self._output_names(entry)
        ]

    def _output_names(self, entry: object) -> list[str]:
        if not isinstance(entry, dict):
            return []
        name = self._tensor_name(entry)
        if name is not None:
            return [name]
        several = entry.get("as_tensors")
        names = (
            [each.get("name") for each in several if isinstance(each, dict)]
            if isinstance(several, list)
            else []
        )
        return [name for name in names if isinstance(name, str)]

    def _dtype(self, name: str) -> str:
        if name not in self._metas:
            return "float32"
        number = self._metas[name].get("dtype")
        dtype = DTYPES.get(number) if isinstance(number, int) else None
        if dtype is None:
            raise MalformedFile(
                f"value {name!r} has items of unknown type", slug="pt2-json", path=self._path
            )
        return dtype

    def _size(self, size: object, name: str) -> int | str | None:
        """Return a stated size or its symbol; None where it is an expression of others."""
        if not isinstance(size, dict) or "as_int" not in size:
            open_size = size.get("as_expr") if isinstance(size, dict) else None
            text = open_size.get("expr_str") if isinstance(open_size, dict) else None
            found = _SYMBOL_TEXT.match(text) if isinstance(text, str) else None
            return next(filter(None, found.groups()), None) if found is not None else None
        value = size["as_int"]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_ITEMS:
            raise MalformedFile(
                f"value {name!r} has a size that makes no sense", slug="pt2-json", path=self._path
            )
        return value

    def _mapping(self, value: object, what: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise MalformedFile(f"its graph has no {what}", slug="pt2-json", path=self._path)
        return value

    def _sequence(self, value: object, what: str) -> Sequence[Any]:
        if not isinstance(value, list):
            raise MalformedFile(f"its graph has no {what}", slug="pt2-json", path=self._path)
        return value


def _module_name(node: Mapping[str, Any]) -> str:
    """Return the dotted place in the code from the innermost entry of the module stack."""
    metadata = node.get("metadata")
    stack = metadata.get("nn_module_stack") if isinstance(metadata, dict) else None
    if not isinstance(stack, str) or not stack:
        return ""
    parts = stack.split(";")[-1].split(",")
    return parts[1] if len(parts) > 1 else ""
