"""Files: a drawn network written in one of the formats, and what runs it without lipaudit."""

import contextlib
import copy
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator
from safetensors.torch import save_file
from torch import nn

from lipaudit.graph.model import Model, Topology
from lipaudit.graph.node import ONNX_DOMAIN, TORCH_DOMAIN, Graph
from tests.layers.runtime import graph_proto
from tests.soundness import graphs, modules
from tests.soundness.graphs import DrawnGraph
from tests.soundness.modules import Drawn
from tests.soundness.weights import Chance

OPSETS = (23, 23, 24)
_OLD_OPSETS = (9, 11, 12, 13, 15, 17, 18, 19, 20, 21)
_OPEN = 0.15
_OLD = 0.3
Arrays = list[np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Written:
    """A network in a file, and its own ways to run."""

    format: str
    source: Path | Model
    module: Drawn | None = None
    """The network in torch."""
    graph: DrawnGraph | None = None
    """The network as it was put together node by node."""
    assumed: bool = False
    """Whether the file holds weights alone, so that the wiring is an assumption."""


def write(chance: Chance, other: Chance, folder: Path, format: str) -> Written | None:  # noqa: A002
    """Draw a network and write it in a format; None where the exporter has no way.

    `other` draws how the file says it: in which type, which opset, with or without shapes.
    """
    if format in _CHAINS:
        drawn = _retyped(modules.chain(chance), other)
        path = _CHAINS[format](chance, drawn, folder)
        return Written(format, path, module=drawn, assumed=format != "pt module")
    if format in _EXPORTS:
        drawn = modules.network(chance)
        found = _EXPORTS[format](drawn, folder)
        return None if found is None else Written(format, found, module=drawn)
    if format == "memory":
        graph = graphs.graph(chance, chance.of((TORCH_DOMAIN, TORCH_DOMAIN, ONNX_DOMAIN)))
        said = _opened(graph.graph) if other.flag(_OPEN) else graph.graph
        model = Model("drawn", "memory", (), {}, said, Topology.STATED)
        return Written(format, model, graph=graph)
    graph = graphs.graph(chance)
    path = folder / "m.onnx"
    opset = chance.of(OPSETS)
    if other.flag(_OPEN):
        opened = replace(graph, graph=_opened(graph.graph))
        path.write_bytes(to_onnx(opened, opset).SerializeToString())
        return Written(format, path, graph=graph)
    path.write_bytes(to_onnx(graph, opset).SerializeToString())
    if other.flag(_OLD):
        _aged(graph, path, other.of(_OLD_OPSETS))
    return Written(format, path, graph=graph)


def _retyped(drawn: Drawn, other: Chance) -> Drawn:
    """Store the weights in another type now and then; those that overflow stay."""
    dtype = other.of((torch.float16, torch.bfloat16, torch.float64))
    made = copy.deepcopy(drawn.module).to(dtype)
    finite = all(bool(torch.isfinite(value).all()) for value in made.parameters())
    return replace(drawn, module=made) if other.flag(0.4) and finite else drawn


def _opened(graph: Graph) -> Graph:
    """Leave the shapes of the real inputs open, so that all is said of every size."""
    inputs = tuple(
        replace(edge, shape=None) if edge.dtype.startswith("float") else edge
        for edge in graph.inputs
    )
    return replace(graph, inputs=inputs)


def _aged(graph: DrawnGraph, path: Path, opset: int) -> None:
    """Write the same nodes as of an old opset, where they mean the same to onnxruntime."""
    old = path.with_name("old.onnx")
    old.write_bytes(to_onnx(graph, opset).SerializeToString())
    ones = {edge.name: torch.ones(edge.known_shape or ()) for edge in graph.graph.inputs}
    inputs = {name: graph.held.get(name, x.flatten().cumsum(0).reshape(x.shape))
              for name, x in ones.items()}  # fmt: skip
    before, after = (_session(file, inputs) for file in (path, old))
    if before is not None and after is not None and all(map(_same, before, after)):
        old.replace(path)


def _same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    return one.dtype == other.dtype and bool(np.array_equal(one, other, equal_nan=False))


def to_onnx(drawn: DrawnGraph, opset: int) -> onnx.ModelProto:
    """Write a graph down as an ONNX model."""
    outputs = [onnx.ValueInfoProto(name=edge.name) for edge in drawn.graph.outputs]
    proto = graph_proto(drawn.graph, outputs)
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _state(drawn: Drawn) -> dict[str, torch.Tensor]:
    return {key: value.contiguous() for key, value in drawn.module.state_dict().items()}


def _pt(chance: Chance, drawn: Drawn, folder: Path) -> Path:
    state: dict[str, Any] = dict(_state(drawn))
    kind = chance.pick(4)
    if kind == 1:
        state = {"state_dict": {f"module.{key}": value for key, value in state.items()}}
    if kind == 2:
        state = {"model": state, "epoch": 3}
    torch.save(state, folder / "m.pt")
    return folder / "m.pt"


def _legacy(_: Chance, drawn: Drawn, folder: Path) -> Path:
    torch.save(_state(drawn), folder / "m.pth", _use_new_zipfile_serialization=False)
    return folder / "m.pth"


def _pickled(_: Chance, drawn: Drawn, folder: Path) -> Path:
    torch.save(drawn.module, folder / "m.pt")
    return folder / "m.pt"


def _safetensors(_: Chance, drawn: Drawn, folder: Path) -> Path:
    save_file(_state(drawn), folder / "m.safetensors")
    return folder / "m.safetensors"


def _sharded(_: Chance, drawn: Drawn, folder: Path) -> Path:
    state = _state(drawn)
    shards: dict[str, str] = {}
    half = len(state) // 2
    for number, keys in enumerate((list(state)[:half], list(state)[half:])):
        name = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({key: state[key] for key in keys}, folder / name)
        shards |= dict.fromkeys(keys, name)
    index = {"metadata": {}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


_CHAINS: Mapping[str, Callable[[Chance, Drawn, Path], Path]] = {
    "pt": _pt,
    "pt legacy": _legacy,
    "pt module": _pickled,
    "safetensors": _safetensors,
    "sharded": _sharded,
}


def _exported(drawn: Drawn, folder: Path) -> Path | None:
    path = folder / "m.pt2"
    with _quietly(), torch.no_grad():
        try:
            program = torch.export.export(drawn.module, (torch.zeros(1, *drawn.shape),))
        except Exception:  # noqa: BLE001 - the exporters raise whatever they meet
            return None
        torch.export.save(program, path)
    return path


def _traced(drawn: Drawn, folder: Path) -> Path | None:
    return _torch_onnx(drawn, folder, dynamo=False, opset_version=17)


def _translated(drawn: Drawn, folder: Path) -> Path | None:
    return _torch_onnx(drawn, folder, dynamo=True, verbose=False)


def _torch_onnx(drawn: Drawn, folder: Path, **options: Any) -> Path | None:
    path = folder / "m.onnx"
    with _quietly():
        try:
            torch.onnx.export(drawn.module, (torch.zeros(1, *drawn.shape),), str(path), **options)
        except Exception:  # noqa: BLE001 - the exporters raise whatever they meet
            return None
    return path


_EXPORTS: Mapping[str, Callable[[Drawn, Path], Path | None]] = {
    "pt2": _exported,
    "onnx of torch, traced": _traced,
    "onnx of torch": _translated,
}

FORMATS: Mapping[str, int] = {
    "onnx node by node": 48,
    "memory": 8,
    "pt2": 16,
    "onnx of torch, traced": 10,
    "onnx of torch": 1,
    "pt": 4,
    "pt legacy": 3,
    "pt module": 4,
    "safetensors": 4,
    "sharded": 2,
}
"""Every way to write a network, and how many of a hundred are written so."""


def draw_format(chance: Chance) -> str:
    """Draw a format by its share."""
    left = chance.pick(sum(FORMATS.values()))
    for name, share in FORMATS.items():
        left -= share
        if left < 0:
            return name
    raise AssertionError


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence the exporters, which also write past Python's own streams."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    kept = [(number, os.dup(number)) for number in (1, 2)]
    with Path(os.devnull).open("w") as nowhere:
        for number, _ in kept:
            os.dup2(nowhere.fileno(), number)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for number, copied in kept:
            os.dup2(copied, number)
            os.close(copied)
        logging.disable(level)


def in_double(module: nn.Module) -> nn.Module:
    """Return a copy that computes in float64, its weights as they are stored."""
    return copy.deepcopy(module).double().eval()


def run_onnx(path: Path, inputs: Mapping[str, torch.Tensor]) -> Arrays | None:
    """Run a file in onnxruntime, else in ONNX's reference; None where neither can."""
    made = _session(path, inputs)
    if made is not None:
        return made
    feed = {name: value.numpy() for name, value in inputs.items()}
    try:
        found: Any = ReferenceEvaluator(str(path)).run(None, feed)
    except Exception:  # noqa: BLE001 - nor has the reference all of them
        return None
    return [np.asarray(value) for value in found]


def _session(path: Path, inputs: Mapping[str, torch.Tensor]) -> Arrays | None:
    feed = {name: value.numpy() for name, value in inputs.items()}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        made: Any = session.run(None, feed)
    except Exception:  # noqa: BLE001 - onnxruntime has an exception of its own for each refusal
        return None
    return [np.asarray(value) for value in made]
