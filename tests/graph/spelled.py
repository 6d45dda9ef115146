"""ONNX models written as lines of formulas, so that a test shows what an exporter writes."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lipaudit.formats.onnx_file import OnnxFormat
from lipaudit.formats.source import Source
from lipaudit.graph.model import Model

OPSET = 18
_LINE = re.compile(r"(\w+) = (\w+)\(([^)]*)\)(?: (\{.*\}))?")
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")


def write(
    text: str,
    path: Path,
    *,
    dtype: str = "float64",
    shape: Sequence[int | str] = (2, 3, 4),
    outputs: Sequence[str] = ("y",),
) -> Path:
    """Write the model of "y = Mul(x, 0.5); ..." down; x and z are inputs if they are read.

    A number is a constant of the model's type, `c3` in an input a vector of three 1s, and
    `[1]` a list of integers; attributes follow in JSON.
    """
    constants: dict[str, np.ndarray[Any, Any]] = {}
    nodes = []
    for line in filter(None, map(str.strip, text.split(";"))):
        found = _LINE.fullmatch(line)
        assert found is not None, line
        made, op, operands, attributes = found.groups()
        names = re.findall(r"\[[^\]]*\]|[^,\s]+", operands)
        for name in names:
            value = _constant(name, dtype)
            if value is not None:
                constants[name] = value
        names = ["" if name == "_" else name for name in names]
        nodes.append(
            helper.make_node(op, names, [made], name=made, **json.loads(attributes or "{}"))
        )
    number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, number, shape) for name in ("x", "z") if name in read],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.save(model, path)
    return path


def read(path: Path) -> Model:
    """Read the model with our reader."""
    return OnnxFormat().read(Source(path))


def _constant(name: str, dtype: str) -> np.ndarray[Any, Any] | None:
    if _NUMBER.fullmatch(name):
        return np.array(float(name), dtype=dtype)
    if re.fullmatch(r"c\d+", name):
        return np.ones(int(name[1:]), dtype=dtype)
    if name.startswith("["):
        return np.array(json.loads(name), dtype=np.int64)
    return None
