"""Networks whose layers do not fit: they cannot run, so that no number is true of them.

A size that the file states for a value between its layers vouches for nothing either.
"""

import io
import json
import warnings
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tests.hostile.case import SECONDS, Hostile
from tests.hostile.zip_building import write

Function = Callable[[torch.Tensor], torch.Tensor]


class _Behind(nn.Module):
    """A function behind a dense layer of 8 outputs."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.linear(x))


def _attended(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.scaled_dot_product_attention(x, x, x)


FUNCTIONS: dict[str, Function] = {
    "view": lambda x: x.view(2, 4).mean(1),
    "var": lambda x: x.var(1),
    "expand": lambda x: x.mean(1, keepdim=True).expand(1, 8),
    "sort": lambda x: torch.sort(x, 1).values,
    "squeeze": lambda x: x.unsqueeze(1).squeeze(1).softmax(-1),
    "attention": lambda x: _attended(x.sigmoid().view(1, 1, 4, 2)),
    "split": lambda x: torch.split(x, 4, 1)[0],
    "flatten": lambda x: x.view(1, 2, 4).flatten(1),
    "full_like": lambda x: x + torch.full_like(x, 2.0),
    "long": lambda x: x.long().float(),
    "bits": lambda x: x.view(torch.int32).float(),
}


@cache
def _program(name: str) -> dict[str, bytes]:
    torch.manual_seed(0)
    made = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(_Behind(FUNCTIONS[name]).eval(), (torch.ones(1, 8),))
        torch.export.save(program, made)
    with zipfile.ZipFile(made) as whole:
        return {member: whole.read(member) for member in whole.namelist()}


def _stated(name: str, value: str, sizes: Sequence[int] | None, code: int, *says: str) -> Hostile:
    """Return the case of a program in which one value is stated to have other sizes."""

    def build(folder: Path) -> Path:
        members = dict(_program(name))
        (graph,) = (member for member in members if member.endswith("models/model.json"))
        document: Any = json.loads(members[graph])
        values = document["graph_module"]["graph"]["tensor_values"]
        assert value in values, list(values)
        if sizes is not None:
            values[value]["sizes"] = [{"as_int": size} for size in sizes]
        members[graph] = json.dumps(document).encode()
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as made:
            for member, content in members.items():
                made.writestr(member, content)
        return write(folder, data.getvalue(), "m.pt2")

    what = f"{name}: {value} of stated sizes {sizes}" if sizes is not None else f"{name} in a .pt2"
    return Hostile(f"stated-{name}-{value}-{len(sizes or ())}", what, build, code, says,
                   command=("bound",))  # fmt: skip


def _pickled(
    name: str, code: int, says: str, *layers: nn.Module, seconds: float = SECONDS
) -> Hostile:
    def build(folder: Path) -> Path:
        torch.save(nn.Sequential(*layers).eval(), folder / "m.pt")
        return folder / "m.pt"

    what = " and ".join(type(layer).__name__ for layer in layers)
    return Hostile(f"misfit-{name}", f"pickled {what} that do not fit", build, code, (says,),
                   command=("bound",), seconds=seconds)  # fmt: skip


def _onnx(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str | None] | None,
    code: int,
    *says: str,
    values: Sequence[onnx.ValueInfoProto] = (),
) -> Hostile:
    weights = {"w": np.ones((3, 4)), "v": np.ones((5, 2)), "k": np.ones((2, 3, 1, 1)) / 8}
    stored = [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()]
    stored.append(numpy_helper.from_array(np.array([7]), "i"))

    def build(folder: Path) -> Path:
        graph = helper.make_graph(
            list(nodes), "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [onnx.ValueInfoProto(name="y")], stored, value_info=list(values),
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        return write(folder, model.SerializeToString(), "m.onnx")

    return Hostile(
        f"misfit-onnx-{name.replace(',', '').replace(' ', '-')}",
        f"ONNX: {name}",
        build,
        code,
        says,
        command=("bound",),
    )


def _value(name: str, *shape: int, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


_NONE = "no input was found that the layers can run on"
_BREAK = "shapes break at node"
_DENSE = helper.make_node("MatMul", ["x", "w"], ["h"])
_AVERAGED = (_DENSE, helper.make_node("ReduceMean", ["h"], ["y"]))

CASES = (
    *(_stated(name, value, None, 0, "proved") for name, value in (
        ("view", "view"), ("expand", "expand"), ("squeeze", "squeeze"), ("split", "linear"),
        ("flatten", "flatten"), ("sort", "linear"), ("full_like", "linear"))),
    _stated("long", "linear", None, 3, "it turns real numbers into int64"),
    _stated("bits", "linear", None, 3, "not certified"),
    _stated("view", "view", (1, 8), 2, "value 'view' is declared 1x8, is 2x4"),
    _stated("view", "linear", (1, 4), 2, "value 'linear' is declared 1x4, is 1x8"),
    _stated("var", "linear", (1, 64), 2, "value 'linear' is declared 1x64, is 1x8"),
    _stated("expand", "expand", (1, 1), 2, "value 'expand' is declared 1x1, is 1x8"),
    _stated("sort", "linear", (1, 2), 2, "value 'linear' is declared 1x2"),
    _stated("squeeze", "squeeze", (8, 1), 2, "value 'squeeze' is declared 8x1, is 1x8"),
    _stated("squeeze", "unsqueeze", (8, 1, 1), 2, "'unsqueeze'"),
    _stated("attention", "view", (1, 1, 1, 800), 2, "'view'"),
    _stated("split", "linear", (1, 6), 2, ""),
    _stated("flatten", "flatten", (2, 4), 2, "value 'flatten' is declared 2x4, is 1x8"),
    _stated("full_like", "linear", (8, 8), 2, "value 'linear' is declared 8x8, is 1x8"),
    _pickled("dense", 3, _NONE, nn.Linear(3, 4), nn.ReLU(), nn.Linear(5, 2)),
    _pickled("dense-last", 3, _NONE, nn.ReLU(), nn.Linear(3, 4), nn.Linear(5, 2), seconds=5),
    _pickled("channels", 3, _NONE, nn.Conv2d(3, 8, 3), nn.Conv2d(4, 2, 3)),
    _pickled("transposed", 3, _NONE, nn.ConvTranspose2d(3, 8, 3), nn.ConvTranspose2d(4, 2, 3)),
    _pickled("flat", 3, _NONE, nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(7, 2)),
    _pickled("softmax", 3, _NONE, nn.Linear(3, 4), nn.Softmax(dim=9)),
    _pickled("norm", 3, _NONE, nn.LayerNorm(7), nn.Linear(3, 2), seconds=5),
    _pickled("fits", 0, "proved", nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 26 * 26, 2)),
    _pickled("fits-late", 0, "proved", nn.ReLU(), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)),
    _onnx("dense layers", [_DENSE, helper.make_node("MatMul", ["h", "v"], ["y"])], (1, 3), 2,
          _BREAK),
    _onnx("dense layers, of any size", [_DENSE, helper.make_node("MatMul", ["h", "v"], ["y"])],
          None, 3, _NONE),
    _onnx("softmax along no axis", [_DENSE, helper.make_node("Softmax", ["h"], ["y"], axis=5)],
          (1, 3), 2, _BREAK),
    _onnx("channels", [helper.make_node("ConvTranspose", ["x", "k"], ["y"])], (1, 3, 4, 4), 2,
          _BREAK),
    _onnx("a place that is not there", [_DENSE, helper.make_node("Gather", ["h", "i"], ["y"])],
          (1, 3), 2, _BREAK),
    _onnx("global pooling of a matrix", [helper.make_node("GlobalAveragePool", ["x"], ["y"])],
          (1, 3), 2, _BREAK),
    # Nothing is read off value_info: √12 of the matrix of ones, times 1/√4 of the mean.
    _onnx("honest value_info", _AVERAGED, (1, 3), 0, "1.73206", values=[_value("h", 1, 4)]),
    _onnx("value_info of another size", _AVERAGED, (1, 3), 0, "1.73206",
          values=[_value("h", 1, 400)]),
    _onnx("value_info of another rank", _AVERAGED, (1, 3), 0, "1.73206",
          values=[_value("h", 2, 2, 1)]),
    _onnx("value_info of another type", _AVERAGED, (1, 3), 0, "1.73206",
          values=[_value("h", 1, 4, dtype=TensorProto.INT64)]),
)  # fmt: skip
