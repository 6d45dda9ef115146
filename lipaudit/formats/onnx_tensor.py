"""TensorProto: an ONNX tensor found in its file, checked, and turned into a lazy constant.

Values come in three forms: as the bytes of the tensor (`raw_data`, an external file, or the
packed floats of `float_data`), which have a slot and can be replaced in place; as varints
(`int32_data`, ...), which are decoded; and, from a writer that packs nothing, item by item.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from lipaudit.errors import MalformedFile, NotCertified
from lipaudit.formats import slots
from lipaudit.formats.onnx_external import ExternalFiles, location
from lipaudit.formats.onnx_rank import MAX_RANK
from lipaudit.formats.onnx_wire import LONGEST_VARINT, Payload
from lipaudit.formats.source import Source
from lipaudit.graph.constant import WRITABLE, Constant, Shape, Slot
from lipaudit.graph.dtypes import ONNX_DTYPES, torch_type

_MAX_ITEMS = 1 << 62
_MAX_SPARSE_ITEMS = 1 << 28
_WORD_BITS = 64
_CHUNK = 1 << 20

# Types smaller than a byte, packed from the lowest bits up (onnx.proto, TensorProto.DataType).
_NARROW: Mapping[str, int] = {"uint4": 4, "int4": 4, "float4_e2m1": 4, "uint2": 2, "int2": 2}
# OCP Microscaling Formats v1.0, table 5: sign, two exponent bits, one mantissa bit.
_E2M1 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], dtype=np.float32)

# Which field of TensorProto holds a type, besides raw_data (onnx.proto).
_INT32_TYPES = frozenset(
    {"int32", "int16", "int8", "uint16", "uint8", "bool", "float16", "bfloat16", *_NARROW}
    | {name for name in ONNX_DTYPES.values() if name.startswith("float8")}
)
_TYPED: Mapping[str, frozenset[str]] = {
    "float_data": frozenset({"float32", "complex64"}),
    "int32_data": _INT32_TYPES,
    "int64_data": frozenset({"int64"}),
    "double_data": frozenset({"float64", "complex128"}),
    "uint64_data": frozenset({"uint32", "uint64"}),
}
_LITTLE: Mapping[str, str] = {
    "float_data": "<f4",
    "double_data": "<f8",
    "int32_data": "<i8",
    "int64_data": "<i8",
    "uint64_data": "<u8",
}
_Array = np.ndarray[Any, Any]
_FIELD_NAMES: Mapping[int, str] = {
    field.number: field.name for field in onnx.TensorProto.DESCRIPTOR.fields
}


@dataclass(frozen=True, slots=True)
class _Stored:
    """Bytes of a tensor, somewhere: in a slot of a file, or decoded on demand."""

    length: int
    read: Callable[[], bytes | bytearray]
    """Produce them; a bytearray is the caller's own."""
    place: tuple[Path, int] | None
    """File and offset, where the tensor's own bytes lie there as they are."""
    varints: int = 0
    """How many bytes they take there as protobuf numbers; 0 where they are as they are."""


class TensorReader:
    """Turns the tensors of one ONNX file into constants; holds the file and those beside it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.external = ExternalFiles(source.path)

    def constant(self, proto: onnx.TensorProto, key: str) -> Constant:
        """Return the lazy constant of a tensor of the skeleton; `key` is its name in reports."""
        dtype = ONNX_DTYPES.get(proto.data_type)
        if dtype is None:
            raise self._malformed(key, f"unknown type {proto.data_type}")
        shape = self._shape(proto.dims, key)
        if proto.HasField("segment"):
            raise self._malformed(key, "is a segment of a tensor, which ONNX does not support")
        if dtype == "string":
            return Constant(key, shape, dtype, _unreadable(dtype), (key,))
        count = slots.items(shape)
        needed = (count * _bits(dtype) + 7) // 8
        stored = self._stored(proto, key, dtype, needed)
        if stored.length != needed:
            raise self._malformed(key, f"needs {needed:,} bytes, has {stored.length:,} bytes")
        return _constant(key, shape, dtype, stored)

    def sparse(self, proto: onnx.SparseTensorProto, key: str) -> Constant:
        """Return the dense constant of a sparse tensor in coordinate form."""
        values = self.constant(proto.values, key)
        indices = self.constant(proto.indices, f"{key}.indices")
        shape = self._shape(proto.dims, key)
        if values.dtype in _NARROW or torch_type(values.dtype) is None:
            return Constant(key, shape, values.dtype, _unreadable(values.dtype), (key,))
        places = self._places(indices, values, shape, key)
        count = slots.items(shape)

        def dense() -> torch.Tensor:
            if count > _MAX_SPARSE_ITEMS:
                raise NotCertified(f"sparse {key!r} has {count:,} items", slug="memory")
            filled = values.read()
            flat = torch.zeros(count, dtype=filled.dtype)
            flat[torch.from_numpy(places)] = filled
            return flat.reshape(shape)

        return Constant(key, shape, values.dtype, dense, (key,), scaled_by=key)

    def _places(self, indices: Constant, values: Constant, shape: Shape, key: str) -> _Array:
        """Return the flat place of every stored value: indices are flat or one row a value."""
        count = values.items
        flat = indices.shape == (count,)
        if len(values.shape) != 1 or indices.dtype != "int64":
            raise self._malformed(key, "sparse values or indices are of the wrong form")
        if not flat and (not shape or indices.shape != (count, len(shape))):
            raise self._malformed(key, f"sparse indices of shape {list(indices.shape)}")
        found = indices.read().numpy()
        limits = np.array([slots.items(shape)] if flat else shape, dtype=np.int64)
        if ((found < 0) | (found >= limits)).any():
            raise self._malformed(key, "sparse index outside the tensor")
        places = found if flat else np.asarray(np.ravel_multi_index(tuple(found.T), shape))
        if len(np.unique(places)) != count:
            raise self._malformed(key, "sparse index appears twice")
        return places.astype(np.int64)

    def _shape(self, dims: Any, key: str) -> Shape:
        shape = tuple(int(size) for size in dims)
        if len(shape) > MAX_RANK:
            raise self._malformed(key, f"has {len(shape):,} dimensions")
        if any(size < 0 for size in shape):
            raise self._malformed(key, f"has a negative size in shape {list(shape)}")
        if slots.items(tuple(size or 1 for size in shape)) > _MAX_ITEMS:
            raise self._malformed(key, f"size of shape {list(shape)} overflows")
        return shape

    def _stored(self, proto: onnx.TensorProto, key: str, dtype: str, needed: int) -> _Stored:
        inline = [name for name in _TYPED if len(getattr(proto, name))]
        if proto.data_location not in {onnx.TensorProto.DEFAULT, onnx.TensorProto.EXTERNAL}:
            raise self._malformed(key, f"unknown data location {proto.data_location}")
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            if inline or proto.raw_data:
                raise self._malformed(key, "is stored both in the file and beside it")
            return self._external(proto, key, needed)
        if proto.raw_data:
            return self._payload(Payload.of_token(proto.raw_data), key, dtype)
        if inline:
            self._check_field(inline[0], dtype, key)
            items = np.array(getattr(proto, inline[0]), dtype=_LITTLE[inline[0]])
            data = self._narrowed(items, inline[0], dtype, key)
            return _Stored(len(data), lambda: data, None)
        return _Stored(0, bytes, None)

    def _external(self, proto: onnx.TensorProto, key: str, needed: int) -> _Stored:
        said = location(proto.external_data, key, self.source.path)
        length = needed if said.length is None else said.length
        if length == 0:
            return _Stored(0, bytes, None)
        size = self.external.open(said.name, key).size
        if said.offset + max(length, needed) > size:
            raise self._malformed(
                key, f"{said.name} has {size:,} bytes, needs {said.offset:,} + {needed:,}"
            )

        self.external.check(said, key)

        def read() -> bytearray:
            return self.external.open(said.name, key).load(said.offset, length)

        return _Stored(length, read, (self.external.paths[said.name], said.offset))

    def _payload(self, payload: Payload, key: str, dtype: str) -> _Stored:
        field = _FIELD_NAMES[payload.field]
        if field != "raw_data":
            self._check_field(field, dtype, key)
        if field in {"raw_data", "float_data", "double_data"}:
            return _Stored(
                payload.length,
                lambda: self.source.load(payload.offset, payload.length),
                (self.source.path, payload.offset),
            )

        def decode() -> bytes:
            data = self.source.read(payload.offset, payload.length)
            items = _varints(data)
            if items is None:
                raise self._malformed(key, f"a number in {field} is too long")
            return self._narrowed(items, field, dtype, key)

        place = (self.source.path, payload.offset) if dtype in WRITABLE else None
        length = self._count(payload, key) * _width(dtype)
        return _Stored(length, decode, place, payload.length)

    def _count(self, payload: Payload, key: str) -> int:
        """Count packed varints: each has exactly one byte without the high bit, its last."""
        count, last = 0, 0
        for start in range(0, payload.length, _CHUNK):
            length = min(_CHUNK, payload.length - start)
            part = np.frombuffer(self.source.read(payload.offset + start, length), dtype=np.uint8)
            count += int((part < 0x80).sum())
            last = int(part[-1])
        if last >= 0x80:
            raise self._malformed(key, "its last number has no end")
        return count

    def _narrowed(self, items: _Array, field: str, dtype: str, key: str) -> bytes:
        """Return integers as the bytes of the type that they stand for."""
        if field in {"float_data", "double_data"}:
            return items.tobytes()
        bits = 8 * _width(dtype)
        wide = items.view("<u8")
        # Small types are stored as signed or as unsigned numbers, depending on the writer.
        high = wide >> np.uint64(bits - 1)
        top = np.uint64((1 << (65 - bits)) - 1)
        if bits < _WORD_BITS and not ((high <= 1) | (high == top)).all():
            raise self._malformed(key, f"a value in {field} does not fit {dtype}")
        return wide.astype(f"<u{bits // 8}").tobytes()

    def _check_field(self, field: str, dtype: str, key: str) -> None:
        if dtype not in _TYPED[field]:
            raise self._malformed(key, f"type {dtype} is stored in {field}")

    def _malformed(self, key: str, cause: str) -> MalformedFile:
        return MalformedFile(
            f"initializer {key!r}: {cause}", slug="onnx-tensor", path=str(self.source.path)
        )


def _bits(dtype: str) -> int:
    return _NARROW.get(dtype) or slots.item_size(dtype) * 8


def _width(dtype: str) -> int:
    """Return the bytes that one number of `int32_data` or its like stands for."""
    return max(_bits(dtype) // 8, 1)


def _constant(key: str, shape: Shape, dtype: str, stored: _Stored) -> Constant:
    slot = None
    if stored.place is not None and dtype not in _NARROW:
        path, offset = stored.place
        length = stored.varints or stored.length
        slot = Slot(
            path,
            offset,
            length,
            dtype,
            shape,
            slots.contiguous(shape),
            varints=stored.varints > 0,
        )
    return Constant(
        name=key,
        shape=shape,
        dtype=dtype,
        read=lambda: _decoded(stored.read(), dtype, shape),
        sources=(key,),
        slot=slot,
        scaled_by=key,
    )


def _decoded(data: bytes | bytearray, dtype: str, shape: Shape) -> torch.Tensor:
    count = slots.items(shape)
    if dtype in _NARROW:
        return torch.from_numpy(_unpacked(data, dtype)[:count].reshape(shape))
    if not count:
        return torch.zeros(shape, dtype=slots.torch_dtype(dtype))
    own = data if isinstance(data, bytearray) else bytearray(data)
    return torch.frombuffer(own, dtype=slots.torch_dtype(dtype)).reshape(shape)


def _unpacked(data: bytes | bytearray, dtype: str) -> np.ndarray[Any, Any]:
    """Return numbers smaller than a byte, each in a byte of its own (or in a float)."""
    bits = _NARROW[dtype]
    packed = np.frombuffer(data, dtype=np.uint8)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    items = (packed[:, None] >> shifts & np.uint8((1 << bits) - 1)).reshape(-1)
    if dtype == "float4_e2m1":
        magnitudes: _Array = _E2M1[items & 7]
        return np.where(items & 8, -magnitudes, magnitudes)
    if dtype.startswith("uint"):
        return items
    sign = np.uint8(1 << (bits - 1))
    signed: _Array = (items ^ sign).astype(np.int8) - np.int8(sign)
    return signed


def _varints(data: bytes) -> _Array | None:
    """Decode packed base-128 numbers into 64 bits, as protobuf does; None where it does not."""
    packed = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(packed < 0x80)
    starts = np.concatenate((np.zeros(1, dtype=np.int64), ends[:-1] + 1))[: len(ends)]
    lengths = ends - starts + 1
    if lengths.max(initial=0) > LONGEST_VARINT:
        return None
    values = np.zeros(len(ends), dtype="<u8")
    for place in range(int(lengths.max(initial=0))):
        there = lengths > place
        byte = packed[starts[there] + place].astype("<u8") & np.uint64(0x7F)
        values[there] |= byte << np.uint64(min(7 * place, 63))
    return values


def _unreadable(dtype: str) -> Callable[[], torch.Tensor]:
    def read() -> torch.Tensor:
        raise TypeError(f"dtype {dtype} not supported")

    return read
