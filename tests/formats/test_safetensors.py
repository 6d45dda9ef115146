"""safetensors files: every type bit for bit as the library reads it, every lie refused."""

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipaudit.errors import FileError, WriteRefused
from lipaudit.formats.safetensors import SafetensorsFormat, tensors
from lipaudit.formats.source import Source
from lipaudit.graph.model import Model
from tests import shared_models
from tests.formats.applied import apply

TYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e8m0fnu,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint64,
    torch.uint32,
    torch.uint16,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


def pack(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def read(data: bytes, folder: Path) -> Model:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    return SafetensorsFormat().read(Source(path))


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


@pytest.mark.parametrize("shape", [(3, 5), (), (0, 4), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_values_equal_the_library_s(
    dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path
) -> None:
    random = torch.randint(0, 2 if dtype is torch.bool else 256, (*shape, 64), dtype=torch.uint8)
    values = random[..., : dtype.itemsize].contiguous().view(dtype).reshape(shape)
    other = torch.arange(7, dtype=torch.float32)
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"w": values, "other": other}, path, metadata={"format": "pt"})
    found = tensors(Source(path))
    expected = safetensors.torch.load_file(path)
    assert set(found) == {"w", "other"}
    for name, constant in found.items():
        assert constant.shape == tuple(expected[name].shape)
        assert constant.dtype == str(expected[name].dtype).removeprefix("torch.")
        assert constant.slot is not None
        assert bits(constant.read()) == bits(expected[name])


@pytest.mark.parametrize(("dtype", "bytes_for_4"), [("F4", 2), ("F6_E2M3", 3), ("F6_E3M2", 3)])
def test_types_without_numbers_are_listed(dtype: str, bytes_for_4: int, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(pack({"w": entry(dtype, [4], 0, bytes_for_4)}, bytes(bytes_for_4)))
    constant = tensors(Source(path))["w"]
    assert (constant.dtype, constant.shape, constant.slot) == (dtype, (4,), None)
    with pytest.raises(TypeError, match=f"{dtype} not supported"):
        constant.read()


W = entry("F32", [2, 2], 0, 16)
BAD: dict[str, tuple[bytes, str]] = {
    "shorter than its length": (b"\x05\x00", "header claims 5 bytes, file has 2"),
    "header past the end": (struct.pack("<Q", 1 << 60) + b"{}", "claims 1,152,921,504,606,846,976"),
    "no UTF-8": (pack(b'{"\xff": 1}'), "header is not UTF-8 at byte 2"),
    "no JSON": (pack(b'{"a": }'), "header is not valid JSON at byte 6"),
    "no object": (pack([]), "header is no JSON object"),
    "nested": (pack(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), "nested too deep"),
    "many brackets": (pack(b"{" + b"[" * 1_000_001), "header is too large"),
    "long number": (
        pack(b'{"a": ' + b"9" * 5000 + b"}"),
        "header: a number of 5,000 digits at byte 6",
    ),
    "key twice": (
        pack(
            b'{"a":' + json.dumps(W).encode() + b',"a":' + json.dumps(W).encode() + b"}", bytes(16)
        ),
        "'a' is defined twice",
    ),
    "entry is no object": (pack({"a": 1}), "tensor 'a': unknown dtype"),
    "dtype": (pack({"a": entry("F12", [2], 0, 8)}, bytes(8)), "'a': unknown dtype 'F12'"),
    "shape is no list": (pack({"a": {**W, "shape": "2x2"}}, bytes(16)), "shape is no list"),
    "shape of booleans": (pack({"a": {**W, "shape": [True, 4]}}, bytes(16)), "shape is no list"),
    "shape of reals": (pack({"a": {**W, "shape": [2.0, 2]}}, bytes(16)), "shape is no list"),
    "negative": (pack({"a": entry("F32", [-2, -2], 0, 16)}, bytes(16)), "negative number"),
    "size": (
        pack({"a": entry("F32", [2, 2], 0, 12)}, bytes(12)),
        "'a': F32 [2, 2] needs 16 bytes, has 12",
    ),
    "overflow": (pack({"a": entry("F32", [0, 2**62, 2**62], 0, 0)}), "overflows"),
    "half a byte": (pack({"a": entry("F4", [3], 0, 2)}, bytes(2)), "needs 1.5 bytes, has 2"),
    "rank": (pack({"a": entry("F32", [1] * 65, 0, 4)}, bytes(4)), "65 dimensions"),
    "three offsets": (pack({"a": {**W, "data_offsets": [0, 8, 16]}}, bytes(16)), "two numbers"),
    "backwards": (pack({"a": {**W, "data_offsets": [16, 0]}}, bytes(16)), "has -16"),
    "overlap": (
        pack({"a": W, "b": entry("F32", [2], 12, 20)}, bytes(20)),
        "tensor 'b' overlaps 'a'",
    ),
    "same bytes": (pack({"a": W, "b": W}, bytes(16)), "tensor 'b' overlaps 'a'"),
    "hole": (
        pack({"a": W, "b": entry("F32", [1], 20, 24)}, bytes(24)),
        "4 unused bytes before tensor 'b'",
    ),
    "trailing": (pack({"a": W}, bytes(20)), "4 unused bytes at the end"),
    "cut": (pack({"a": W}, bytes(10)), "data cut at byte 10, tensor 'a' ends at 16"),
    "metadata is a list": (pack({"__metadata__": [], "a": W}, bytes(16)), "no table of texts"),
    "minus zero": (
        pack(b'{"a":{"dtype":"F32","shape":[-0,3],"data_offsets":[0,0]}}'),
        "shape is no list of integers",
    ),
    "half a character": (
        pack(b'{"\\ud800.weight":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'),
        "header has half of a character",
    ),
    "metadata": (pack({"__metadata__": {"a": 1}, "a": W}, bytes(16)), "no table of texts"),
    "no tensors": (pack({}), "no weight tensors found"),
}


def test_metadata_may_be_null(tmp_path: Path) -> None:
    assert list(read(pack({"__metadata__": None, "a": W}, bytes(16)), tmp_path).tensors) == ["a"]


@pytest.mark.parametrize("case", BAD)
def test_lie_is_refused_by_name(case: str, tmp_path: Path) -> None:
    data, cause = BAD[case]
    with pytest.raises(FileError) as caught:
        read(data, tmp_path)
    assert cause in str(caught.value)
    assert "model.safetensors" in str(caught.value)


def test_long_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as out:
        out.write(struct.pack("<Q", 30_000_000) + b"{")
        out.truncate(40_000_000)
    with pytest.raises(FileError, match="header of 30,000,000 bytes exceeds the limit 25,000,000"):
        SafetensorsFormat().read(Source(path))


GOOD = pack({"__metadata__": {"x": "y"}, "a": W, "b": entry("I64", [1], 16, 24)}, bytes(24))


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=5))
def test_flipped_bytes_give_tensors_or_a_clean_error(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(GOOD)
    for place, value in flips:
        data[place] = value
    path = tmp_path_factory.mktemp("flipped") / "model.safetensors"
    path.write_bytes(data)
    try:
        for constant in tensors(Source(path)).values():
            constant.read()
    except (FileError, TypeError):
        return


@pytest.mark.parametrize("end", range(1, len(GOOD)))
def test_every_truncation_is_a_clean_error(end: int, tmp_path: Path) -> None:
    with pytest.raises(FileError):
        read(GOOD[:end], tmp_path)


def test_recognized_by_content(tmp_path: Path) -> None:
    def recognizes(data: bytes, name: str) -> bool:
        path = tmp_path / name
        path.write_bytes(data)
        return SafetensorsFormat().recognizes(Source(path))

    assert recognizes(GOOD, "weights.pt")
    assert recognizes(pack(b"\xff\xfe"), "damaged.safetensors")
    assert not recognizes(pack(b"\xff\xfe"), "damaged.pt")
    assert not recognizes(b"PK\x03\x04" + bytes(64), "zip.safetensors")


def test_changed_bytes_are_those_of_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    before = {"a": torch.randn(4, 3), "b": torch.randn(5).to(torch.bfloat16), "n": torch.tensor(7)}
    safetensors.torch.save_file(before, path, metadata={"origin": "test"})
    model = SafetensorsFormat().read(Source(path))
    new = before["b"] / 2
    output = tmp_path / "clipped.safetensors"
    apply(SafetensorsFormat().changed(model, {"b": new}), output)
    after = safetensors.torch.load_file(output)
    assert torch.equal(after["b"], new)
    assert torch.equal(after["a"], before["a"])
    with safetensors.safe_open(output, "pt") as opened:
        assert opened.metadata() == {"origin": "test"}
    apply(SafetensorsFormat().changed(model, {}), output)
    assert output.read_bytes() == path.read_bytes()
    with pytest.raises(WriteRefused, match="'c' is not stored"):
        SafetensorsFormat().changed(model, {"c": new})


def test_ten_gigabytes_open_at_once(tmp_path: Path) -> None:
    size = 10 * 2**30
    path = tmp_path / "large.safetensors"
    with path.open("wb") as out:
        head = pack({"w": entry("F32", [2**16, size // 2**18], 0, size)})
        out.write(head)
        out.truncate(len(head) + size)
    tracemalloc.start()
    model = SafetensorsFormat().read(Source(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert model.tensors["w"].items == size // 4
    assert peak < 8_000_000


@pytest.mark.parametrize("relative", shared_models.every(".safetensors"))
def test_models_by_other_people(relative: str) -> None:
    path = shared_models.path(relative)
    expected = safetensors.torch.load_file(path)
    found = SafetensorsFormat().read(Source(path)).tensors
    assert set(found) == set(expected)
    assert all(bits(found[name].read()) == bits(value) for name, value in expected.items())
