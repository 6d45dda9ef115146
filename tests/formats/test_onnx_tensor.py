"""Tensors of ONNX files, bit for bit what the library's own decoder makes of them."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lipaudit.errors import MalformedFile
from lipaudit.formats.onnx_file import OnnxFormat
from lipaudit.formats.source import Source
from lipaudit.graph.constant import Constant
from lipaudit.graph.dtypes import ONNX_DTYPES
from tests.formats import onnx_export

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(1)
NUMERIC = sorted(set(ONNX_DTYPES) - {TensorProto.STRING})
NARROW = {
    TensorProto.INT4,
    TensorProto.UINT4,
    TensorProto.FLOAT4E2M1,
    TensorProto.INT2,
    TensorProto.UINT2,
}
COMPLEX = {TensorProto.COMPLEX64, TensorProto.COMPLEX128}


def values(kind: int, shape: tuple[int, ...]) -> Array:
    """Random values of the type, NaN-free; every bit pattern is tried elsewhere."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    if kind == TensorProto.BOOL:
        return RNG.integers(0, 2, shape).astype(bool)
    if kind in COMPLEX:
        return (RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape)).astype(dtype)
    if np.issubdtype(dtype, np.integer) and kind not in NARROW:
        limits = np.iinfo(dtype)
        return RNG.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    low = 0 if kind in {TensorProto.UINT4, TensorProto.UINT2, TensorProto.FLOAT8E8M0} else -2
    return RNG.integers(low, 2, shape).astype(np.float32).astype(dtype)


def read(tensor: TensorProto, folder: Path) -> Constant:
    model = onnx_export.old_model(21, [], {}, outputs=())
    model.graph.initializer.append(tensor)
    return onnx_export.read(model, folder).tensors[tensor.name]


def as_bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


@pytest.mark.parametrize("shape", [(3, 5), (), (0, 4), (1,)], ids=str)
@pytest.mark.parametrize("kind", NUMERIC, ids=lambda kind: ONNX_DTYPES[kind])
@pytest.mark.parametrize("is_raw", [True, False], ids=["raw", "typed"])
def test_values_equal_the_library_s(
    kind: int, shape: tuple[int, ...], is_raw: bool, tmp_path: Path
) -> None:
    array = values(kind, shape)
    if is_raw:
        tensor = numpy_helper.from_array(array, "w")
    else:
        tensor = helper.make_tensor("w", kind, shape, array.flatten().tolist())
    constant = read(tensor, tmp_path)
    expected = numpy_helper.to_array(tensor)
    assert constant.shape == shape
    assert constant.dtype == ONNX_DTYPES[kind]
    stored = constant.read()
    assert tuple(stored.shape) == shape
    if kind in NARROW:
        np.testing.assert_array_equal(stored.numpy(), expected.astype(np.float32))
        assert constant.slot is None
    else:
        assert as_bits(stored) == expected.tobytes()
        assert not constant.items or (constant.slot is not None) == has_slot(tensor)


def has_slot(tensor: TensorProto) -> bool:
    is_half = tensor.data_type in {TensorProto.FLOAT16, TensorProto.BFLOAT16}
    typed = tensor.float_data or tensor.double_data or (is_half and tensor.int32_data)
    return bool(tensor.raw_data or typed)


@pytest.mark.parametrize(
    "kind", [TensorProto.FLOAT4E2M1, TensorProto.INT4, TensorProto.UINT4, TensorProto.INT2]
)
def test_every_pattern_of_a_narrow_type(kind: int, tmp_path: Path) -> None:
    count = (4 if kind == TensorProto.INT2 else 2) * 256
    tensor = TensorProto(name="w", data_type=kind, dims=[count], raw_data=bytes(range(256)))
    expected = numpy_helper.to_array(tensor).astype(np.float32)
    np.testing.assert_array_equal(read(tensor, tmp_path).read().numpy(), expected)


def test_numbers_that_are_not_packed(tmp_path: Path) -> None:
    """A protobuf reader must take repeated numbers one by one as well as in one run."""
    tensor = bytes([1 << 3, 3, 2 << 3, TensorProto.FLOAT])
    for number in (1.5, -2.0, 3.25):
        tensor += bytes([4 << 3 | 5]) + np.float32(number).tobytes()
    graph = _field(5, tensor + _field(8, b"w"))
    path = tmp_path / "unpacked.onnx"
    path.write_bytes(bytes([1 << 3, 8]) + _field(7, graph))
    constant = OnnxFormat().read(Source(path)).tensors["w"]
    assert constant.read().tolist() == [1.5, -2.0, 3.25]
    assert constant.slot is None


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _length(len(data)) + data


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50))
def test_varints_of_any_size(tmp_path_factory: pytest.TempPathFactory, numbers: list[int]) -> None:
    tensor = TensorProto(name="w", data_type=7, dims=[len(numbers)], int64_data=numbers)
    assert read(tensor, tmp_path_factory.mktemp("varints")).read().tolist() == numbers


def test_sparse_tensors_in_both_index_forms(tmp_path: Path) -> None:
    dense = np.zeros((3, 4), np.float32)
    dense[0, 1], dense[2, 3] = 5, 7
    flat = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([5, 7], np.float32), "a"),
        numpy_helper.from_array(np.array([1, 11])),
        [3, 4],
    )
    rows = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([5, 7], np.float32), "b"),
        numpy_helper.from_array(np.array([[0, 1], [2, 3]])),
        [3, 4],
    )
    model = onnx_export.old_model(21, [], {}, outputs=())
    model.graph.sparse_initializer.extend([flat, rows])
    tensors = onnx_export.read(model, tmp_path).tensors
    for key in "ab":
        np.testing.assert_array_equal(tensors[key].read().numpy(), dense)


def _tensor(**fields: Any) -> TensorProto:
    return TensorProto(**{"name": "W", "data_type": TensorProto.FLOAT, **fields})


MALFORMED: dict[str, tuple[TensorProto, str]] = {
    "no data": (_tensor(dims=[10**9, 10**9]), "needs 4,000,000,000,000,000,000 bytes, has 0"),
    "short": (_tensor(dims=[32], raw_data=bytes(10)), "needs 128 bytes, has 10"),
    "long": (_tensor(dims=[2], raw_data=bytes(10)), "needs 8 bytes, has 10"),
    "negative": (_tensor(dims=[-8, 4], raw_data=bytes(128)), "negative size in shape [-8, 4]"),
    "overflow": (_tensor(dims=[0, 2**62, 2**62]), "overflows"),
    "rank": (_tensor(dims=[1] * 65, raw_data=bytes(4)), "65 dimensions"),
    "type": (_tensor(data_type=99, dims=[1], raw_data=bytes(4)), "unknown type 99"),
    "no type": (_tensor(data_type=0, dims=[1], raw_data=bytes(4)), "unknown type 0"),
    "wrong field": (_tensor(dims=[1], int64_data=[1]), "float32 is stored in int64_data"),
    "too few": (_tensor(dims=[3], float_data=[1.0, 2.0]), "needs 12 bytes, has 8"),
    "range": (
        _tensor(data_type=TensorProto.INT8, dims=[1], int32_data=[300]),
        "does not fit int8",
    ),
    "segment": (_tensor(dims=[1], raw_data=bytes(4), segment={"begin": 0, "end": 1}), "segment"),
    "two fields": (_tensor(dims=[1], raw_data=bytes(4), float_data=[1.0]), "two fields"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_tensor_is_refused_by_name(case: str, tmp_path: Path) -> None:
    tensor, cause = MALFORMED[case]
    with pytest.raises(MalformedFile) as caught:
        read(tensor, tmp_path).read()
    assert cause in str(caught.value)
    assert "model.onnx" in str(caught.value)
    assert "'W'" in str(caught.value) or "two fields" in cause


@pytest.mark.parametrize(
    ("indices", "cause"),
    [([1, 12], "outside"), ([1, -1], "outside"), ([1, 1], "twice"), ([1], "of shape")],
)
def test_bad_sparse_indices_are_refused(indices: list[int], cause: str, tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([5, 7], np.float32), "w"),
        numpy_helper.from_array(np.array(indices, dtype=np.int64)),
        [3, 4],
    )
    model = onnx_export.old_model(21, [], {}, outputs=())
    model.graph.sparse_initializer.append(sparse)
    with pytest.raises(MalformedFile, match=f"'w'.*{cause}"):
        onnx_export.read(model, tmp_path)


def test_text_is_listed_and_never_read(tmp_path: Path) -> None:
    tensor = TensorProto(name="words", data_type=8, dims=[2], string_data=[b"a", b"b"])
    constant = read(tensor, tmp_path)
    assert (constant.dtype, constant.shape) == ("string", (2,))
    with pytest.raises(TypeError, match="string not supported"):
        constant.read()


def test_large_tensors_stay_on_the_disk(tmp_path: Path) -> None:
    """The values of a 1 GB model are a hole in the file: reading them would show."""
    count = 1 << 28
    head = _tensor(dims=[count]).SerializeToString()
    data_head = bytes([9 << 3 | 2]) + _length(4 * count)
    tensor_head = head + data_head
    tensor_size = len(tensor_head) + 4 * count
    model = onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 17)])
    graph = bytes([5 << 3 | 2]) + _length(tensor_size) + tensor_head
    prefix = model.SerializeToString() + bytes([7 << 3 | 2]) + _length(len(graph) + 4 * count)
    path = tmp_path / "large.onnx"
    with path.open("wb") as out:
        out.write(prefix + graph)
        out.truncate(len(prefix) + len(graph) + 4 * count)
    tracemalloc.start()
    constant = OnnxFormat().read(Source(path)).tensors["W"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert constant.shape == (count,)
    assert peak < 8_000_000


def _length(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
