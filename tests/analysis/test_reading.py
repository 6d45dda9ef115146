"""What is read of a checkpoint: nothing that is too large, and everything else once."""

import os
import tracemalloc
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save_model
from safetensors.torch import save_file

import lipaudit
from lipaudit.analysis import remembered
from lipaudit.analysis.reading import Reading
from lipaudit.cache.store import Store
from lipaudit.device import CPU, Compute
from lipaudit.formats.source import Source
from lipaudit.graph.constant import Constant
from lipaudit.graph.node import TORCH_DOMAIN, Node
from lipaudit.layers.base import AbstractLinearLayer, Call
from lipaudit.layers.linear import Linear

SIDE = 64
_MEGABYTE = 1 << 20


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(remembered, "WORTH", 0.0)
    return Store(tmp_path / "cache")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Count how often so many bytes are read at a time."""
    sizes: Counter[int] = Counter()
    real_read, real_load = Source.read, Source.load

    def read(source: Source, offset: int, length: int) -> bytes:
        sizes[length] += 1
        return real_read(source, offset, length)

    def load(source: Source, offset: int, length: int) -> bytearray:
        sizes[length] += 1
        return real_load(source, offset, length)

    monkeypatch.setattr(Source, "read", read)
    monkeypatch.setattr(Source, "load", load)
    return sizes


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "large.weight": torch.randn(8 * SIDE, SIDE, generator=generator),
        "small.weight": torch.randn(SIDE, SIDE, generator=generator),
        "small.bias": torch.randn(SIDE, generator=generator),
    }
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("kept", [False, True])
def test_a_layer_over_the_limit_is_never_read(
    checkpoint: Path, store: Store, read: Counter[int], kept: bool
) -> None:
    # As it is stored the large one takes 131,072 bytes, and the small one 32,768 in float64.
    cache = store if kept else None
    report = lipaudit.inspect(checkpoint, max_memory=100_000, cache=cache)
    (skipped,) = report.models[0].skipped
    assert (skipped.name, skipped.slug) == ("large", "memory")
    assert [layer.name for layer in report.layers] == ["small"]
    assert read[4 * 8 * SIDE * SIDE] == 0
    assert read[4 * SIDE * SIDE] == 1


@pytest.mark.parametrize("kept", [False, True])
def test_every_tensor_is_read_once(
    checkpoint: Path, store: Store, read: Counter[int], kept: bool
) -> None:
    first = lipaudit.inspect(checkpoint, cache=store if kept else None)
    assert len(first.layers) == 2
    sizes = [4 * 8 * SIDE * SIDE, 4 * SIDE * SIDE]
    assert [read[size] for size in sizes] == [1, 1]
    if kept:
        assert lipaudit.inspect(checkpoint, cache=store) == first
        assert [read[size] for size in sizes] == [2, 2]


def counted(items: int, *, finer: bool = False) -> tuple[Constant, Counter[str]]:
    """Return a constant, and how often it was worked out."""
    calls: Counter[str] = Counter()

    def produce(name: str, dtype: torch.dtype) -> torch.Tensor:
        calls[name] += 1
        return torch.ones(1, items, dtype=dtype)

    constant = Constant(
        "w",
        (1, items),
        "float32",
        read=lambda: produce("read", torch.float32),
        unrounded=(lambda: produce("unrounded", torch.float64)) if finer else None,
    )
    return constant, calls


def linear(weight: Constant) -> AbstractLinearLayer:
    node = Node("Linear", "fc", ("x", "w"), ("y",), {}, TORCH_DOMAIN)
    return Linear.from_node(Call(node, {1: weight}))


def test_what_is_held_is_given_away_at_the_end() -> None:
    weight, calls = counted(3)
    reading = Reading(1 << 20)
    layer = reading.layer(linear(weight))
    (held,) = layer.weights()
    assert held is reading.of(weight), "one constant is one constant, wherever it stands"
    assert held.read() is held.read()
    reading.end(layer)
    layer.operator(None, Compute(CPU))
    assert calls == {"read": 1}
    assert held.read() is not held.read(), "nothing is held any more"


def test_the_finer_values_are_held_for_the_operator() -> None:
    weight, calls = counted(3, finer=True)
    reading = Reading(1 << 20)
    layer = reading.layer(linear(weight))
    (held,) = layer.weights()
    for _ in range(2):
        held.read()
        held.values()
    reading.end(layer)
    assert not any(values.dtype == torch.float32 for values in reading._held.values())
    layer.operator(None, Compute(CPU))
    assert calls == {"read": 1, "unrounded": 1}


def test_no_more_is_held_than_there_is_room() -> None:
    first, first_calls = counted(100)
    second, second_calls = counted(100)
    reading = Reading(700)
    for constant in reading.constants([first, second]):
        constant.read()
        constant.read()
    assert (first_calls["read"], second_calls["read"]) == (1, 2)


def largest(path: Path, key: str) -> float:
    """Return the megabytes that reading a tensor takes at most."""
    constant = lipaudit.load(path).tensors[key]
    tracemalloc.start()
    try:
        held = constant.read()
        assert float(held.flatten()[-1]) == 1.0
        return tracemalloc.get_traced_memory()[1] / _MEGABYTE
    finally:
        tracemalloc.stop()


def test_a_tensor_is_read_into_its_place(tmp_path: Path) -> None:
    values = torch.ones(1024, 8 * 1024)  # 32 MB
    save_file({"w": values}, tmp_path / "m.safetensors")
    torch.save({"w": values}, tmp_path / "m.pt")
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])]
        for name, size in (("x", 1024), ("y", 8 * 1024))
    )
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    stored = [numpy_helper.from_array(values.numpy(), "w")]
    graph = helper.make_graph([node], "g", inputs, outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save_model(model, tmp_path / "m.onnx")
    save_model(model, tmp_path / "beside.onnx", save_as_external_data=True, location="w.bin")
    for name in ("m.safetensors", "m.pt", "m.onnx", "beside.onnx"):
        assert 32 <= largest(tmp_path / name, "w") < 40, name


def test_a_read_of_which_the_system_does_a_part_goes_on(tmp_path: Path) -> None:
    """Linux fills 2 GiB at once; here it is seven bytes."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    real = os.preadv

    def short(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return real(descriptor, [buffers[0][:7]], offset)

    source = Source(path)
    with mock.patch.object(os, "preadv", short):
        assert source.load(10, 80) == bytes(range(10, 90))
    path.write_bytes(bytes(50))
    with pytest.raises(lipaudit.LipauditError, match="shrank"):
        source.load(10, 80)
    with pytest.raises(lipaudit.LipauditError, match="cut short"):
        source.load(90, 20)
