"""Everything lipaudit writes: the command that writes it, and what the command needs."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

VALUES = (4.0, 0.5, *(0.25,) * 8)
STATE = {"0.weight": torch.diag(torch.tensor(VALUES)), "0.bias": torch.zeros(10)}


def torch_zip(folder: Path) -> Path:
    torch.save(STATE, folder / "in.pt")
    return folder / "in.pt"


def torch_legacy(folder: Path) -> Path:
    torch.save(STATE, folder / "in.pt", _use_new_zipfile_serialization=False)
    return folder / "in.pt"


def safetensors(folder: Path) -> Path:
    save_file(STATE, folder / "in.safetensors", metadata={"format": "pt"})
    return folder / "in.safetensors"


def shards(folder: Path) -> Path:
    place = folder / "in"
    place.mkdir()
    names = {}
    for number, (key, tensor) in enumerate(STATE.items(), 1):
        names[key] = f"model-{number:05}-of-00002.safetensors"
        save_file({key: tensor}, place / names[key])
    index = {"metadata": {}, "weight_map": names}
    (place / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (place / "config.json").write_text('{"model_type": "none"}', encoding="utf-8")
    return place


def _onnx() -> onnx.ModelProto:
    weight = np.diag(VALUES).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def onnx_file(folder: Path) -> Path:
    onnx.save(_onnx(), folder / "in.onnx")
    return folder / "in.onnx"


def onnx_external(folder: Path) -> Path:
    onnx.save(_onnx(), folder / "in.onnx", save_as_external_data=True, size_threshold=0,
              location="in.weights")  # fmt: skip
    return folder / "in.onnx"


def exported(folder: Path) -> Path:
    net = torch.nn.Sequential(torch.nn.Linear(10, 10))
    net.load_state_dict(STATE)
    torch.export.save(torch.export.export(net, (torch.zeros(1, 10),)), folder / "in.pt2")
    return folder / "in.pt2"


def gated(folder: Path) -> Path:
    """Return a model beside a config and an older baseline of it."""
    path = torch_zip(folder)
    text = 'assume-sequential = true\nmax-bound = 1000\n[[models]]\npath = "in.pt"\n'
    (folder / "lipaudit.toml").write_text(text, encoding="utf-8")
    return path


@final
@dataclass(frozen=True, slots=True)
class Writer:
    """A command that writes: IN stands for what it reads, OUT for the folder of the outputs."""

    name: str
    build: Callable[[Path], Path]
    line: tuple[str, ...]
    outputs: tuple[str, ...]
    """Under OUT."""
    variables: dict[str, str] = field(default_factory=dict)
    stdout: bool = False
    """Whether it also prints its report: only before that was it quiet."""

    def arguments(self, source: Path, out: Path) -> list[str]:
        """Return the command line."""
        return [self._filled(word, source, out) for word in self.line]

    def environment(self, source: Path, out: Path) -> dict[str, str]:
        """Return the variables it runs under."""
        return {name: self._filled(text, source, out) for name, text in self.variables.items()}

    @staticmethod
    def _filled(word: str, source: Path, out: Path) -> str:
        config = source.parent / "lipaudit.toml"
        return word.replace("IN", str(source)).replace("OUT", str(out)).replace("TOML", str(config))


def _clip(name: str, build: Callable[[Path], Path], output: str, *beside: str) -> Writer:
    line = ("clip", "IN", "--to", "1", "-o", f"OUT/{output}")
    return Writer(f"clip-{name}", build, line, (output, *beside), stdout=True)


CLIPS = (
    _clip("torch", torch_zip, "out.pt"),
    _clip("legacy", torch_legacy, "out.pt"),
    _clip("safetensors", safetensors, "out.safetensors"),
    _clip("shards", shards, "out"),
    _clip("onnx", onnx_file, "out.onnx"),
    _clip("onnx-external", onnx_external, "out.onnx", "out.onnx.data"),
    _clip("exported", exported, "out.pt2"),
)
_FORMATS = ("json", "junit", "html")  # the others are texts as well, and written the same way
REPORTS = (
    Writer("output", torch_zip, ("inspect", "IN", "-f", "json", "-o", "OUT/r.json"), ("r.json",)),
    Writer(
        "reports",
        torch_zip,
        ("inspect", "IN", *(f"--report={name}=OUT/r.{name}" for name in _FORMATS)),
        tuple(f"r.{name}" for name in _FORMATS),
        stdout=True,
    ),
    Writer(
        "clip-report",
        torch_zip,
        ("clip", "IN", "--to=1", "-o", "OUT/out.pt", "--report=json=OUT/r.json"),
        ("out.pt", "r.json"),
        stdout=True,
    ),
    Writer("export", torch_zip, ("inspect", "IN", "--export=OUT/s.npz"), ("s.npz",), stdout=True),
    Writer(
        "plots",
        torch_zip,
        ("inspect", "IN", "--plots=OUT/plots"),
        ("plots",),
        stdout=True,
    ),
    Writer(
        "baseline",
        gated,
        ("check", "--config=TOML", "--baseline=OUT/base.json", "--write-baseline"),
        ("base.json",),
        stdout=True,
    ),
    Writer(
        "summary",
        gated,
        ("check", "--config=TOML", "--github-summary"),
        ("summary.md",),
        {"GITHUB_STEP_SUMMARY": "OUT/summary.md"},
        stdout=True,
    ),
    Writer("diff", torch_zip, ("diff", "IN", "IN", "-f", "json", "-o", "OUT/d"), ("d",)),
)
ALL = (*CLIPS, *REPORTS)
