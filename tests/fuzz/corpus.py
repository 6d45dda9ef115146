"""Corpus: small good files of every format, built by code and kept for the life of the process."""

import io
import json
import tempfile
import warnings
from argparse import Namespace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tests.fuzz.case import Case

CONFIG = """\
max-bound = 100.0
max-norm = 12.5
max-increase = "5%"
input-shape = "3x8x8"
input-range = [0, 1]
assume-sequential = true
baseline = "lipaudit-baseline.json"
max-memory = "1G"
executed = "float32"
input-radius = 4.0

[layers]
"conv*" = 2.0
"fc" = 3

[constants]
"com.acme.Frob" = 1.5

[[models]]
path = ["model.pt", "net-*.onnx"]
max-bound = 7
input-shape = [3, 32, 32]

[[models]]
path = "other.onnx"
[models.input-shape]
image = "1x3x8x8"

[[ignore]]
rule = "LIP002"
layers = "fc*"
reason = "measured by hand"
expires = 2030-01-01
"""
_LAYER = {"name": "fc", "upper": 1.25, "rigor": "proved", "kind": "Linear", "shape": [2, 4],
          "frobenius": 1.5}  # fmt: skip
_MODEL = {
    "path": "model.pt",
    "input_shapes": {"input": [1, 4]},
    "assumptions": ["the layers are one chain"],
    "bound": {"upper": 2.5, "rigor": "proved"},
    "layers": [_LAYER, {**_LAYER, "name": "big", "upper": None, "log10_upper": 400.5}],
}
BASELINE = {"lipaudit_baseline": 1, "version": "0.1.0", "models": [_MODEL]}
_NORM = {"upper": 1.25, "lower": 1.0, "log10_upper": 0.1, "rigor": "proved"}
REPORT = {
    "schema_version": 1,
    "tool": {"version": "0.1.0"},
    "models": [
        {
            "path": "model.pt",
            "sha256": "0" * 64,
            "input_shapes": {"input": [1, 4]},
            "bound": {**_NORM, "assumptions": []},
            "bounds": [{**_NORM, "assumptions": ["x"]}],
            "notes": [],
            "skipped": [{"name": "odd"}],
            "layers": [{"name": "fc", "norm": _NORM, "kind": "Linear", "shape": [2, 4]}],
        }
    ],
    "failures": [{"path": "gone.pt"}],
}


@cache
def good() -> dict[str, Case]:
    """Return the good files by what they are."""
    torch.manual_seed(7)
    state = _state()
    single = {
        "pt": ("model.pt", _saved(state)),
        "legacy": ("model.pt", _saved(state, legacy=True)),
        "module": ("model.pt", _saved(_module())),
        "checkpoint": ("last.ckpt", _saved(_checkpoint(state))),
        "torchscript": ("model.pt", _script()),
        "pt2": ("model.pt2", _exported()),
        "safetensors": ("model.safetensors", safetensors.torch.save(state, {"format": "pt"})),
        "onnx": ("model.onnx", _onnx().SerializeToString()),
        "onnx-function": ("model.onnx", _with_function().SerializeToString()),
    }
    cases = {kind: Case({name: data}, name) for kind, (name, data) in single.items()}
    cases["sharded"] = _sharded(state)
    cases["onnx-external"] = _external()
    cases["config"] = Case({"lipaudit.toml": CONFIG.encode()}, "lipaudit.toml", "config")
    for reader, document in (("baseline", BASELINE), ("report", REPORT)):
        name = f"{reader}.json"
        cases[reader] = Case({name: json.dumps(document, indent=1).encode()}, name, reader)
    return cases


def _state() -> dict[str, torch.Tensor]:
    base = torch.randn(4, 4)
    return {
        "conv.weight": torch.randn(2, 1, 3, 3),
        "fc.weight": base,
        "fc.bias": torch.zeros(4, dtype=torch.float64),
        "head.weight": base[:2].clone().to(torch.bfloat16),
        "steps": torch.tensor(7),
    }


def _saved(value: object, *, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()


def _module() -> nn.Module:
    inner = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.LeakyReLU(0.1))
    return nn.Sequential(inner, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)).eval()


def _checkpoint(state: dict[str, torch.Tensor]) -> dict[str, object]:
    return {
        "epoch": 3,
        "state_dict": {f"module.{key}": value for key, value in state.items()},
        "tied": state["fc.weight"].t()[1:, ::2],
        "optimizer_states": [{"state": {0: {"step": 1.0}}, "param_groups": [{"lr": 1e-3}]}],
        "hyper_parameters": Namespace(lr=0.1, sizes=(1, 2), names={"a", "b"}),
    }


def _script() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it is old
        stream = io.BytesIO()
        torch.jit.save(torch.jit.trace(_net(), torch.zeros(1, 3)), stream)  # type: ignore[no-untyped-call]
    return stream.getvalue()


def _exported() -> bytes:
    stream = io.BytesIO()
    torch.export.save(torch.export.export(_net(), (torch.zeros(1, 3),)), stream)
    return stream.getvalue()


def _sharded(state: dict[str, torch.Tensor]) -> Case:
    parts = {"a.safetensors": list(state)[:2], "b.safetensors": list(state)[2:]}
    files = {
        name: safetensors.torch.save({key: state[key] for key in keys})
        for name, keys in parts.items()
    }
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {key: name for name, keys in parts.items() for key in keys},
    }
    files["model.safetensors.index.json"] = json.dumps(index, indent=1).encode()
    return Case(files, "")


def _array(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    count = int(np.prod(shape))
    return (np.arange(count) / count - 0.5).astype(np.float32).reshape(shape)


def _onnx() -> onnx.ModelProto:
    """Return a small network with every form of constant, and a branch."""
    inits = [
        numpy_helper.from_array(_array(2, 1, 3, 3), "k"),
        helper.make_tensor("bias", TensorProto.FLOAT, [2], [0.5, -0.5]),
        helper.make_tensor("shape", TensorProto.INT64, [2], [1, -1]),
        numpy_helper.from_array(_array(32, 3), "w"),
        helper.make_tensor("half", TensorProto.FLOAT16, [3], [1.0, 2.0, 3.0]),
    ]
    then = helper.make_graph(
        [helper.make_node("Constant", [], ["t"], value_float=1.0)],
        "then", [], [helper.make_tensor_value_info("t", TensorProto.FLOAT, [])],
    )  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "k", "bias"], ["c"], "conv", pads=[1, 1, 1, 1],
                         kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Reshape", ["r", "shape"], ["f"], "flat"),
        helper.make_node("MatMul", ["f", "w"], ["m"], "fc"),
        helper.make_node("Cast", ["half"], ["h"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["yes"], value_ints=[1]),
        helper.make_node("Cast", ["yes"], ["cond"], to=TensorProto.BOOL),
        helper.make_node("Squeeze", ["cond"], ["flag"]),
        helper.make_node("If", ["flag"], ["one"], "branch", then_branch=then, else_branch=then),
        helper.make_node("Mul", ["m", "h"], ["s"], "scale"),
        helper.make_node("Add", ["s", "one"], ["y"], "add"),
    ]  # fmt: skip
    return helper.make_model(
        helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 4, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
            inits,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def _with_function() -> onnx.ModelProto:
    function = helper.make_function(
        "com.acme", "Block", ["a", "w"], ["b"],
        [helper.make_node("MatMul", ["a", "w"], ["m"]),
         helper.make_node("LeakyRelu", ["m"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("s", TensorProto.FLOAT, [2], [1.0, 2.0]),
        helper.make_tensor("", TensorProto.INT64, [2], [1, 5]),
        [3, 3],
    )
    graph = helper.make_graph(
        [helper.make_node("Block", ["x", "w"], ["p"], "first", domain="com.acme"),
         helper.make_node("Block", ["p", "s"], ["q"], "second", domain="com.acme"),
         helper.make_node("LayerNormalization", ["q", "g"], ["y"], "norm")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        [numpy_helper.from_array(_array(3, 3), "w"), numpy_helper.from_array(_array(3), "g")],
        sparse_initializer=[sparse],
    )  # fmt: skip
    return helper.make_model(
        graph,
        functions=[function],
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.acme", 1)],
        ir_version=9,
    )


def _external() -> Case:
    model = _onnx()
    model.metadata_props.add(key="Image.NominalPixelRange", value="Normalized_0_1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(
            model,
            path,
            save_as_external_data=True,
            location="model.bin",
            size_threshold=0,
            convert_attribute=True,
        )
        files = {name: (Path(folder) / name).read_bytes() for name in ("model.onnx", "model.bin")}
    return Case(files, "model.onnx")
