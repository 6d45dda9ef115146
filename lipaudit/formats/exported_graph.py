"""ExportedGraph: the JSON of a torch.export program, turned into a graph."""

from collections.abc import Mapping, Sequence
from typing import Any

from lipaudit.errors import MalformedFile
from lipaudit.formats.aten.call import SYMBOL, AtenCall, Ref, Sizes
from lipaudit.formats.aten.catalog import translate
from lipaudit.graph import spec
from lipaudit.graph.builder import GraphBuilder
from lipaudit.graph.constant import Constant
from lipaudit.graph.node import Edge, Graph

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
        self._shapes: dict[str, Sizes] = {
            name: tuple(self._size(size) for size in self._sequence(meta.get("sizes"), name))
            for name, meta in self._metas.items()
        }

    def read(self) -> Graph:
        """Return the graph, its legality checked."""
        nodes = [
            self._mapping(node, "node")
            for node in self._sequence(self._graph.get("nodes"), "nodes")
        ]
        build = GraphBuilder((*self._metas, *(name for node in nodes for name in self._made(node))))
        renamed = self._inputs(build)
        types = self._types(renamed)
        for node in nodes:
            translate(self._call(node, renamed, types), build)
        outputs = []
        for entry in self._sequence(self._signature.get("output_specs"), "output_specs"):
            user = entry.get("user_output") if isinstance(entry, dict) else None
            name = self._tensor_name(user.get("arg")) if isinstance(user, dict) else None
            if name is not None:
                outputs.append(Edge(renamed.get(name, name)))
        return spec.check(build.finish(outputs), path=self._path)

    def _inputs(self, build: GraphBuilder) -> dict[str, str]:
        """Declare user inputs and constants; return graph name -> constant name."""
        renamed: dict[str, str] = {}
        for entry in self._sequence(self._signature.get("input_specs"), "input_specs"):
            kind, content = next(iter(self._mapping(entry, "input").items()))
            content = self._mapping(content, "input")
            name = self._tensor_name(content.get("arg"))
            if kind == "user_input":
                if name is not None:
                    build.input(Edge(name, self._shapes.get(name), self._dtype(name)))
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

    def _types(self, renamed: Mapping[str, str]) -> tuple[dict[str, Sizes], dict[str, str]]:
        """Return sizes and item type of every tensor, by graph and by constant name."""
        shapes = {new: self._shapes.get(old, ()) for old, new in renamed.items()}
        dtypes = {new: self._dtype(old) for old, new in renamed.items()}
        return {**self._shapes, **shapes}, {
            name: self._dtype(name) for name in self._metas
        } | dtypes

    def _call(
        self,
        node: Mapping[str, Any],
        renamed: Mapping[str, str],
        types: tuple[Mapping[str, Sizes], Mapping[str, str]],
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
        return AtenCall(op, overload, title, arguments, tuple(outputs), *types)

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
        if kind in {"as_sym_int", "as_sym_bool", "as_sym_float"} and isinstance(value, dict):
            return next(
                (v for k, v in value.items() if k in {"as_int", "as_bool", "as_float"}), SYMBOL
            )
        if kind == "as_sym_ints" and isinstance(value, list):
            return [
                each.get("as_int", SYMBOL) if isinstance(each, dict) else SYMBOL for each in value
            ]
        return SYMBOL

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
        return DTYPES.get(self._metas.get(name, {}).get("dtype", 7), "float32")

    def _size(self, size: object) -> int | None:
        value = size.get("as_int") if isinstance(size, dict) else None
        return value if isinstance(value, int) and value >= 0 else None

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
