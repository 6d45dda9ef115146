"""ONNX graphs: valid protobuf whose graph is broken, unknown, or numerically impossible."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.case import UNATTACKED, Hostile

N = helper.make_node
Arrays = Mapping[str, Any]
Shapes = Mapping[str, Sequence[int | str | None]]
EYE = np.array([[3.0, 0.0], [0.0, 1.0]], dtype=np.float32)
KERNEL = np.zeros((2, 2, 3, 3), dtype=np.float32)
KERNEL[0, 0, 1, 1] = KERNEL[1, 1, 1, 1] = 2.0
VECTOR: Shapes = {"x": [1, 2]}
IMAGE: Shapes = {"x": [1, 2, 8, 8]}


def made(
    nodes: Sequence[onnx.NodeProto],
    weights: Arrays | None = None,
    *,
    inputs: Shapes = VECTOR,
    outputs: Sequence[str] = ("y",),
    opsets: Mapping[str, int] | None = None,
    more: Callable[[onnx.ModelProto], object] | None = None,
    dtype: int = TensorProto.FLOAT,
) -> Callable[[Path], Path]:
    """Return what writes a model without the library's checks; `more` changes it at the end."""

    def build(folder: Path) -> Path:
        stored = {"W": EYE} if weights is None else weights
        graph = helper.make_graph(
            list(nodes),
            "g",
            [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
        )
        imports = [helper.make_opsetid(*item) for item in (opsets or {"": 17}).items()]
        model = helper.make_model(graph, opset_imports=imports, ir_version=8)
        if opsets is not None and not opsets:
            del model.opset_import[:]
        if more is not None:
            more(model)
        path = folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return build


def _refused(
    name: str, what: str, build: Callable[[Path], Path], *says: str, row: int | None = 49
) -> Hostile:
    return Hostile(f"graph-{name}", what, build, 2, says, row=row, plain="onnx")


def bounded(
    name: str,
    what: str,
    build: Callable[[Path], Path],
    code: int,
    *says: str,
    row: int | None = None,
    **more: Any,
) -> Hostile:
    more = {"command": ("bound",), "plain": "onnx", **more}
    return Hostile(f"graph-{name}", what, build, code, says, row=row, **more)


def _function(name: str, *nodes: onnx.NodeProto) -> onnx.FunctionProto:
    return helper.make_function("local", name, ["a"], ["r"], nodes, [helper.make_opsetid("", 17)])


def _functions(*functions: onnx.FunctionProto) -> Callable[[onnx.ModelProto], object]:
    def add(model: onnx.ModelProto) -> None:
        model.functions.extend(functions)
        model.opset_import.append(helper.make_opsetid("local", 1))

    return add


def _doubling(depth: int) -> tuple[onnx.FunctionProto, ...]:
    """Return functions of which each calls the next one twice."""
    calls = [
        _function(
            f"f{at}",
            N(f"f{at + 1}", ["a"], ["m"], domain="local"),
            N(f"f{at + 1}", ["m"], ["r"], domain="local"),
        )
        for at in range(depth)
    ]
    return (*calls, _function(f"f{depth}", N("Relu", ["a"], ["r"])))


def _sparse(values: Any, indices: Any, dims: Sequence[int]) -> Callable[[onnx.ModelProto], object]:
    def add(model: onnx.ModelProto) -> None:
        sparse = model.graph.sparse_initializer.add()
        sparse.values.CopyFrom(numpy_helper.from_array(np.asarray(values, np.float32), "W"))
        sparse.indices.CopyFrom(numpy_helper.from_array(np.asarray(indices), "i"))
        sparse.dims.extend(dims)

    return add


def _conv(weight: Any = KERNEL, **attributes: Any) -> Callable[[Path], Path]:
    return made([N("Conv", ["x", "K"], ["y"], name="c", **attributes)], {"K": weight}, inputs=IMAGE)


def _loop(trips: int | None, body: Sequence[onnx.NodeProto]) -> Callable[[Path], Path]:
    inner = helper.make_graph(
        list(body),
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 2]),
        ],
        [helper.make_empty_tensor_value_info(name) for name in ("c2", "r")],
    )
    stored = {"W": EYE, "t": np.array(trips or 0, np.int64), "on": np.array(True)}
    node = N("Loop", ["t" if trips else "", "on", "x"], ["y"], name="loop", body=inner)
    return made([node], stored)


FC = N("MatMul", ["x", "W"], ["y"], name="fc")
_CALL = N("f0", ["x"], ["y"], name="call", domain="local")
_STEP = (N("Identity", ["c"], ["c2"]), N("MatMul", ["a", "W"], ["r"]))


CASES: tuple[Hostile, ...] = (
    bounded("good", "a good model", made([FC]), 0, "3."),
    _refused(
        "cycle",
        "cycle",
        made(
            [
                N("Add", ["x", "b"], ["a"]),
                N("Relu", ["a"], ["b"], name="n3"),
                N("Relu", ["b"], ["y"]),
            ]
        ),
        "before it is made",
        "cycle",
    ),
    _refused(
        "of-itself",
        "node that reads itself",
        made([N("Add", ["x", "y"], ["y"], name="n3")]),
        "'n3'",
        "uses 'y' before it is made",
    ),
    _refused(
        "missing-input",
        "node that reads what nothing makes",
        made([N("Add", ["x", "q"], ["y"], name="n3")]),
        "'n3'",
        "uses 'q' before it is made",
    ),
    _refused(
        "made-twice",
        "value made twice",
        made([FC, N("Relu", ["x"], ["y"], name="n3")]),
        "'n3'",
        "'y', which exists already",
    ),
    _refused(
        "made-twice-at-once",
        "node that makes a value twice",
        made([N("Split", ["x"], ["y", "y"], name="n3")]),
        "'y', which exists already",
    ),
    _refused(
        "makes-a-weight",
        "node that makes a stored weight",
        made([N("Relu", ["x"], ["W"], name="n3"), FC]),
        "'W', which exists already",
    ),
    _refused(
        "makes-an-input",
        "node that makes an input",
        made([N("Relu", ["x"], ["x"], name="n3")]),
        "'x'",
        row=49,
    ),
    _refused(
        "no-output-made",
        "output that nothing makes",
        made([FC], outputs=["z"]),
        "output 'z' is made by no node",
    ),
    _refused(
        "input-twice",
        "input listed twice",
        made([FC], more=lambda model: model.graph.input.append(model.graph.input[0])),
        "duplicate input 'x'",
    ),
    _refused(
        "input-without-a-name",
        "input without a name",
        made([FC], inputs={"x": [1, 2], "": [1]}),
        "duplicate input ''",
    ),
    _refused(
        "no-operation",
        "node without an operation",
        made([N("", ["x"], ["y"], name="n3")]),
        "'n3' has no operation",
    ),
    _refused(
        "attribute-twice",
        "attribute given twice",
        made(
            [FC],
            more=lambda model: model.graph.node[0].attribute.extend(
                [helper.make_attribute("a", 1)] * 2
            ),
        ),
        "attribute 'a' twice",
    ),
    _refused("opset-missing", "no opset", made([FC], opsets={}), "is of no opset", row=50),
    _refused("opset-0", "opset 0", made([FC], opsets={"": 0}), "the file states 0", row=50),
    _refused(
        "opset-negative", "opset -1", made([FC], opsets={"": -1}), "the file states -1", row=50
    ),
    _refused(
        "opset-twice",
        "two opsets",
        made([FC], opsets={"": 17, "ai.onnx": 11}),
        "stated twice, as 17 and 11",
        row=50,
    ),
    bounded(
        "opset-999", "opset 999", made([FC], opsets={"": 999}), 3, "opset 999 is newer", row=50
    ),
    bounded(
        "custom-operation",
        "operation of somebody's own",
        made([N("Frob", ["x"], ["y"], domain="com.acme")], opsets={"": 17, "com.acme": 1}),
        3,
        "com.acme.Frob is not known",
        row=50,
    ),
    bounded(
        "unknown-operation",
        "operation that ONNX does not have",
        made([N("Frobnicate", ["x"], ["y"])]),
        3,
        "Frobnicate is no operation of ONNX",
        row=50,
    ),
    bounded(
        "custom-weight",
        "weight made by an unknown operation",
        made(
            [N("Frob", ["V"], ["W"], domain="com.acme"), FC],
            {"V": EYE},
            opsets={"": 17, "com.acme": 1},
        ),
        3,
        "com.acme.Frob is not known",
        row=50,
    ),
    bounded("endless-loop", "loop without a count", _loop(None, _STEP), 3, "Loop", row=50),
    bounded("long-loop", "loop of 10^18 turns", _loop(10**18, _STEP), 3, "Loop", row=50),
    _refused(
        "function-of-itself",
        "function that calls itself",
        made([_CALL], more=_functions(_function("f0", N("f0", ["a"], ["r"], domain="local")))),
        "'f0' calls itself",
        row=None,
    ),
    _refused(
        "functions-in-a-circle",
        "functions that call each other",
        made(
            [_CALL],
            more=_functions(
                _function("f0", N("f1", ["a"], ["r"], domain="local")),
                _function("f1", N("f0", ["a"], ["r"], domain="local")),
            ),
        ),
        "calls itself",
        row=None,
    ),
    _refused(
        "functions-that-double",
        "30 functions, each calls the next twice",
        made([_CALL], more=_functions(*_doubling(30))),
        "exceed the limit 500,000",
        row=43,
    ),
    _refused(
        "functions-too-deep",
        "100 functions, one in another",
        made(
            [_CALL],
            more=_functions(
                *[
                    _function(f"f{at}", N(f"f{at + 1}", ["a"], ["r"], domain="local"))
                    for at in range(100)
                ],
                _function("f100", N("Relu", ["a"], ["r"])),
            ),
        ),
        "deeper than 64",
        row=44,
    ),
    _refused(
        "function-twice",
        "function defined twice",
        made([_CALL], more=_functions(*[_function("f0", N("Relu", ["a"], ["r"]))] * 2)),
        "'f0' is defined twice",
        row=None,
    ),
    _refused(
        "function-of-two",
        "function given more than it takes",
        made(
            [N("f0", ["x", "x"], ["y"], domain="local")],
            more=_functions(_function("f0", N("Relu", ["a"], ["r"]))),
        ),
        "more than it takes",
        row=None,
    ),
    *(
        _refused(
            f"sparse-{name.replace(' ', '-')}",
            f"sparse weight: {name}",
            made([FC], {}, more=_sparse(*stored)),
            "'W'",
            said,
            row=27,
        )
        for name, stored, said in (
            ("index outside", ([1.0], np.array([9]), [2, 2]), "sparse index outside"),
            ("negative index", ([1.0], np.array([-1]), [2, 2]), "sparse index outside"),
            ("index twice", ([1.0, 2.0], np.array([1, 1]), [2, 2]), "sparse index appears twice"),
            ("place twice", ([1.0, 2.0], np.array([[0, 1], [0, 1]]), [2, 2]), "appears twice"),
            ("column outside", ([1.0], np.array([[0, 2]]), [2, 2]), "sparse index outside"),
            ("indices of floats", ([1.0], np.array([1.0]), [2, 2]), "wrong form"),
            (
                "indices of no axes",
                ([1.0], np.zeros((1, 0), np.int64), []),
                "sparse indices of shape",
            ),
            ("too many indices", ([1.0], np.array([0, 1]), [2, 2]), "sparse indices of shape"),
            ("values in rows", ([[1.0]], np.array([0]), [2, 2]), "wrong form"),
            ("negative size", ([1.0], np.array([0]), [-2, -2]), "negative size"),
            ("overflow", ([1.0], np.array([0]), [2**40, 2**40]), "overflows"),
        )
    ),
    bounded(
        "sparse-of-4-tb",
        "sparse weight of 10^6 x 10^6",
        made(
            [FC], {}, more=_sparse([1.0], np.array([0]), [10**6, 10**6]), inputs={"x": [1, 10**6]}
        ),
        3,
        "'W'",
        row=20,
        warns=UNATTACKED,
    ),
    _refused("conv-rank", "kernel of another rank than its input", _conv(KERNEL[..., 0]), "'c'"),
    _refused(
        "conv-channels",
        "kernel for other channels",
        _conv(np.ones((2, 3, 3, 3), np.float32)),
        "'c'",
    ),
    *(
        bounded(
            f"conv-{name.replace(' ', '-')}", f"convolution: {name}", _conv(**attributes), code, "c"
        )
        for code, name, attributes in (
            (3, "kernel_shape that lies", {"kernel_shape": [5, 5]}),
            (3, "strides of 0", {"strides": [0, 0]}),
            (3, "negative strides", {"strides": [-1, -1]}),
            (3, "three strides", {"strides": [1, 1, 1]}),
            (3, "dilations of 0", {"dilations": [0, 0]}),
            (3, "groups of 0", {"group": 0}),
            (3, "negative groups", {"group": -1}),
            (2, "groups that do not divide", {"group": 3}),
            (3, "strides that are a text", {"strides": "1,1"}),
            (3, "unknown auto_pad", {"auto_pad": "SOMEHOW"}),
            (2, "padding of 10^9", {"pads": [10**9] * 4}),
            (2, "padding of 2^62", {"pads": [2**62] * 4}),
            (0, "stride of 2^62", {"strides": [2**62] * 2, "pads": [1] * 4}),
            (2, "kernel larger than its input", {"dilations": [9, 9]}),
            (3, "padding that takes all", {"pads": [-9] * 4}),
        )
    ),
    _refused(
        "gemm-shapes",
        "Gemm of shapes that do not fit",
        made([N("Gemm", ["x", "W"], ["y"], name="g")], {"W": np.ones((3, 2), np.float32)}),
        "'g'",
    ),
    _refused(
        "matmul-shapes",
        "MatMul of shapes that do not fit",
        made([N("MatMul", ["x", "W"], ["y"], name="g")], {"W": np.ones((3, 2), np.float32)}),
        "'g'",
    ),
    _refused(
        "add-shapes",
        "Add of shapes that do not fit",
        made([N("Add", ["x", "W"], ["y"], name="g")], {"W": np.ones(5, np.float32)}),
        "'g'",
    ),
)
