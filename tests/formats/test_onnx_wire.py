"""The bytes of ONNX files: what is too large, cut short, damaged, or no ONNX at all."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipaudit.errors import FileError
from lipaudit.formats.onnx_file import OnnxFormat
from lipaudit.formats.source import Source
from tests.formats.test_onnx_file import N, branches, function, with_functions


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def nested(depth: int) -> bytes:
    graph = b""
    for _ in range(depth):
        attribute = field(1, b"body") + field(6, graph)
        graph = field(1, field(4, b"Loop") + field(5, attribute))
    return graph


WIRE: dict[str, tuple[bytes, str]] = {
    "random": (bytes(range(8, 250)) * 16, "not a valid ONNX protobuf"),
    "20 million nodes": (
        b"\x08\x07\x3a" + varint(40_000_000) + b"\x0a\x00" * 20_000_000,
        "more than 500,000 nodes",
    ),
    "5 million dims": (
        b"\x08\x07" + field(7, field(5, b"\x08\x01" * 5_000_000)),
        "more than 800,000 protobuf fields",
    ),
    "subgraphs in subgraphs": (b"\x08\x07" + field(7, nested(2000)), "nested deeper than 64"),
    "no graph": (b"\x08\x07", "holds no graph"),
    "two graphs": (b"\x08\x07" + field(7, b"") * 2, "'graph' appears twice"),
    "a number without end": (b"\x08" + b"\xff" * 11, "a number without an end"),
    "field number zero": (b"\x08\x07\x02\x00", "field number 0"),
    "group": (b"\x08\x07\x0b\x0c", "wire type 3"),
    "name that is no text": (
        b"\x08\x07" + field(7, field(1, field(4, b"\xff\xfe"))),
        "field 'op_type' is no text",
    ),
    "large structure": (
        b"\x08\x07" + field(7, field(1, field(4, bytes(1 << 26)))),
        "without weights takes more than",
    ),
}


@pytest.mark.parametrize("case", WIRE)
def test_broken_wire_is_refused(case: str, tmp_path: Path) -> None:
    data, cause = WIRE[case]
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(FileError) as caught:
        OnnxFormat().read(Source(path))
    assert cause in str(caught.value)


def small_model() -> bytes:
    inner = function("scaled", N("MatMul", ["a", "w"], ["t"]), N("Tanh", ["t"], ["r"]))
    model = branches()
    model.graph.node.append(N("scaled", ["y", "W"], ["z"], domain="local"))
    return bytes(with_functions(model, inner).SerializeToString())


SMALL = small_model()


@pytest.mark.parametrize("end", range(1, len(SMALL), 7))
def test_truncated_model_is_a_clean_error(end: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(SMALL[:end])
    try:
        OnnxFormat().read(Source(path))
    except FileError:
        return
    # Cut between two of the outermost fields: what is left is a whole message.
    assert onnx.ModelProto.FromString(SMALL[:end]).HasField("graph")


@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=6))
def test_flipped_bytes_give_a_model_or_a_clean_error(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(SMALL)
    for place, value in flips:
        data[place] = value
    path = tmp_path_factory.mktemp("flipped") / "model.onnx"
    path.write_bytes(data)
    try:
        model = OnnxFormat().read(Source(path))
        for constant in model.tensors.values():
            constant.read()
    except (FileError, TypeError):
        return


def test_recognized_by_content(tmp_path: Path) -> None:
    def recognizes(data: bytes) -> bool:
        path = tmp_path / "file"
        path.write_bytes(data)
        return OnnxFormat().recognizes(Source(path))

    assert recognizes(SMALL)
    assert recognizes(SMALL[: len(SMALL) // 2])  # cut: read() says where
    assert recognizes(field(7, b"") + b"\x08\x07")
    random = np.random.default_rng(3)
    assert not any(recognizes(random.bytes(4096)) for _ in range(200))
    for other in (b"PK\x03\x04" + bytes(64), b"\x80\x02}q\x00.", b"<html></html>", b"GGUF\x03"):
        assert not recognizes(other)
    header = json.dumps({"w": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}).encode()
    assert not recognizes(len(header).to_bytes(8, "little") + header + bytes(4))
