"""ONNX tensors: every one is what the library's own decoder makes of it, bit for bit.

In all places where a tensor may stand: raw bytes, the typed fields, a file beside the model.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from lipaudit.formats.detect import read_model
from lipaudit.graph.dtypes import ONNX_DTYPES
from tests.formats import bits, onnx_export

NARROW: dict[int, int] = {
    TensorProto.INT4: 2,
    TensorProto.UINT4: 2,
    TensorProto.FLOAT4E2M1: 2,
    TensorProto.INT2: 4,
    TensorProto.UINT2: 4,
}
"""Types smaller than a byte, and how many fill one."""
KINDS = sorted(set(ONNX_DTYPES) - {TensorProto.STRING})
SHAPES = [(), (0,), (0, 5), (3, 0, 2), (720,), (24, 30), (6, 10, 12), (4, 5, 6, 6), (2, 3, 4, 5, 6),
          (7,), (3, 5)]  # fmt: skip
IN_INT32 = {
    TensorProto.INT32, TensorProto.INT16, TensorProto.INT8, TensorProto.UINT16, TensorProto.UINT8,
    TensorProto.BOOL, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ,
    TensorProto.FLOAT8E8M0, *NARROW,
}  # fmt: skip


def count_of(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def raw(kind: int, shape: tuple[int, ...], seed: int = 0) -> TensorProto:
    """Return a tensor of chosen and random bits, as bytes."""
    count = count_of(shape)
    each = NARROW.get(kind, 1)
    if kind in NARROW:
        data = bits.of(bits.items(torch.uint8, -(-count // each), seed))
        if count % each:  # what fills the last byte up is no item
            width = 8 // each
            data = data[:-1] + bytes([data[-1] & ((1 << width * (count % each)) - 1)])
    else:
        data = bits.of(bits.items(getattr(torch, ONNX_DTYPES[kind]), count, seed))
    return TensorProto(name="w", data_type=kind, dims=shape, raw_data=data)


def typed(tensor: TensorProto) -> TensorProto:
    """Return the same tensor in the field of its type, as the specification lays it out."""
    made = TensorProto(name="w", data_type=tensor.data_type, dims=tensor.dims)
    kind, data = tensor.data_type, tensor.raw_data
    if kind in {TensorProto.FLOAT, TensorProto.COMPLEX64}:
        # Through the wire format: the library's own setter would quieten NaN.
        wire = bytes([4 << 3 | 2]) + _length(len(data)) + data
        made.MergeFromString(wire if data else b"")
    elif kind in {TensorProto.DOUBLE, TensorProto.COMPLEX128}:
        wire = bytes([10 << 3 | 2]) + _length(len(data)) + data
        made.MergeFromString(wire if data else b"")
    elif kind == TensorProto.INT64:
        made.int64_data.extend(np.frombuffer(data, "<i8").tolist())
    elif kind in {TensorProto.UINT32, TensorProto.UINT64}:
        size = "<u4" if kind == TensorProto.UINT32 else "<u8"
        made.uint64_data.extend(np.frombuffer(data, size).tolist())
    else:
        made.int32_data.extend(np.frombuffer(data, _ITEM[kind]).tolist())
    return made


_ITEM: dict[int, str] = dict.fromkeys(IN_INT32, "u1") | {
    TensorProto.INT32: "<i4",
    TensorProto.INT16: "<i2",
    TensorProto.UINT16: "<u2",
    TensorProto.INT8: "i1",
    TensorProto.FLOAT16: "<u2",
    TensorProto.BFLOAT16: "<u2",
}


def _length(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def model_of(tensors: list[TensorProto]) -> onnx.ModelProto:
    model = onnx_export.old_model(21, [], {}, outputs=())
    for at, tensor in enumerate(tensors):
        tensor.name = f"w{at}"
        model.graph.initializer.append(tensor)
    return model


def assert_equal(path: Path) -> None:
    """Hold every initializer of a file against the library, which resolves external data."""
    theirs = onnx.load(path)
    ours = read_model(str(path)).tensors
    assert set(ours) == {tensor.name for tensor in theirs.graph.initializer}
    for tensor in theirs.graph.initializer:
        mine, truth = ours[tensor.name].read(), numpy_helper.to_array(tensor)
        where = f"{tensor.name}: {ONNX_DTYPES[tensor.data_type]} {list(tensor.dims)}"
        assert ours[tensor.name].dtype == ONNX_DTYPES[tensor.data_type], where
        assert tuple(mine.shape) == truth.shape, where
        if tensor.data_type in NARROW:
            values = mine.numpy().astype(np.float32)
            assert values.tobytes() == truth.astype(np.float32).tobytes(), where
        else:
            assert bits.of(mine) == truth.tobytes(), where


def tensors(*, is_raw: bool) -> Iterator[TensorProto]:
    for kind in KINDS:
        for at, shape in enumerate(SHAPES):
            made = raw(kind, shape, at)
            yield made if is_raw else typed(made)


@pytest.mark.parametrize("form", ["raw", "typed"])
def test_the_grid_in_one_file(form: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model_of(list(tensors(is_raw=form == "raw"))).SerializeToString())
    assert_equal(path)


@pytest.mark.parametrize("one_file", [True, False])
def test_the_grid_beside_the_model(tmp_path: Path, *, one_file: bool) -> None:
    model = model_of([t for t in tensors(is_raw=True) if t.raw_data])
    convert_model_to_external_data(
        model, all_tensors_to_one_file=one_file, location="w.bin" if one_file else None,
        size_threshold=0, convert_attribute=False,
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    assert all(t.data_location == TensorProto.EXTERNAL for t in model.graph.initializer)
    assert_equal(path)


@settings(max_examples=80)
@given(
    kind=st.sampled_from(KINDS),
    shape=st.lists(st.integers(0, 4), max_size=5).map(tuple),
    seed=st.integers(0, 10_000),
    form=st.sampled_from(["raw", "typed"]),
)
def test_any_tensor(
    kind: int,
    shape: tuple[int, ...],
    seed: int,
    form: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    made = raw(kind, shape, seed)
    # Random bits alone, without the chosen ones in front.
    size = len(made.raw_data)
    if kind != TensorProto.BOOL and kind not in NARROW:
        made.raw_data = np.random.default_rng(seed).bytes(size)
    path = tmp_path_factory.mktemp("drawn") / "m.onnx"
    path.write_bytes(model_of([made if form == "raw" else typed(made)]).SerializeToString())
    assert_equal(path)


@pytest.mark.parametrize("kind", [TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT16])
def test_numbers_of_another_sign_in_int32_data(kind: int, tmp_path: Path) -> None:
    """Some writers store small types as signed numbers, some as unsigned ones."""
    made = typed(raw(kind, (256,)))
    size = 8 * (2 if kind == TensorProto.FLOAT16 else 1)
    turned = TensorProto(name="w", data_type=kind, dims=[256])
    high = 1 << (size - 1)
    turned.int32_data.extend(
        (value + 2 * high) % (2 * high)
        if value < 0
        else value - 2 * high
        if value >= high
        else value
        for value in made.int32_data
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(model_of([turned]).SerializeToString())
    ours = read_model(str(path)).tensors["w0"].read()
    truth: Any = numpy_helper.to_array(made)
    assert bits.of(ours) == truth.tobytes()


def test_offsets_and_an_open_length(tmp_path: Path) -> None:
    """Two tensors in one file, apart from each other; the length of the last is left out."""
    first, last = bits.items(torch.float32, 10), bits.items(torch.bfloat16, 33, 1)
    (tmp_path / "w.bin").write_bytes(b"x" * 7 + bits.of(first) + b"y" * 5 + bits.of(last))
    entries: list[dict[str, str | int]] = [
        {"location": "w.bin", "offset": 7, "length": 40},
        {"location": "./w.bin", "offset": 52},
    ]
    made = []
    for (kind, count), entry in zip(
        [(TensorProto.FLOAT, 10), (TensorProto.BFLOAT16, 33)], entries, strict=True
    ):
        tensor = TensorProto(data_type=kind, dims=[count], data_location=TensorProto.EXTERNAL)
        for key, value in entry.items():
            tensor.external_data.add(key=key, value=str(value))
        made.append(tensor)
    path = tmp_path / "m.onnx"
    path.write_bytes(model_of(made).SerializeToString())
    assert_equal(path)
    ours = read_model(str(path)).tensors
    assert bits.of(ours["w0"].read()) == bits.of(first)
    assert bits.of(ours["w1"].read()) == bits.of(last)


def test_tensors_in_attributes(tmp_path: Path) -> None:
    """Constant nodes hold tensors as well; they become constants of the graph."""
    for kind in set(KINDS) - set(NARROW):
        tensor = raw(kind, (3, 4), kind)
        node = helper.make_node("Constant", [], ["c"], value=tensor)
        path = tmp_path / f"{kind}.onnx"
        path.write_bytes(onnx_export.old_model(21, [node], {}, outputs=("c",)).SerializeToString())
        truth: Any = numpy_helper.to_array(tensor)
        assert bits.of(read_model(str(path)).graph.constants["c"].read()) == truth.tobytes()
