"""Small pickles that would take any time or memory: each is read, or refused, at once."""

import struct
import time
from pathlib import Path

import pytest

from lipaudit.errors import FileError
from lipaudit.formats.detect import read_model
from tests.fuzz.pickles import zipped

_STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + _STORAGE + b"K\0K\x04\x85K\x01\x85\x89NtR"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def put(number: int) -> bytes:
    return b"r" + struct.pack("<I", number)


def get(number: int) -> bytes:
    return b"j" + struct.pack("<I", number)


def read(program: bytes, folder: Path) -> tuple[str, ...]:
    """Return the keys of the tensors of a pickle, or the slug of the error, within two seconds."""
    members = {"a/data.pkl": b"\x80\x02" + program + b".", "a/data/0": bytes(16)}
    (folder / "m.pt").write_bytes(zipped(members))
    start = time.process_time()
    try:
        found = tuple(read_model(str(folder / "m.pt")).tensors)
    except FileError as error:
        found = (error.slug,)
    assert time.process_time() - start < 2.0
    return found


def outward(depth: int, key: bytes) -> bytes:
    """Fill dictionaries from the outermost on."""
    steps = b"".join(key + b"}" + put(at) + b"s0" + get(at) for at in range(1, depth))
    return b"}" + put(0) + steps + key + TENSOR + b"s0" + get(0)


@pytest.mark.parametrize(("depth", "slug"), [(1200, "pickle-depth"), (450, None)])
def test_containers_filled_from_the_outside_in(
    depth: int, slug: str | None, tmp_path: Path
) -> None:
    expected = slug or "/".join("k" * depth)
    assert read(outward(depth, text("k")), tmp_path) == (expected,)


def test_containers_filled_from_the_inside_out(tmp_path: Path) -> None:
    assert read(TENSOR + b"\x85" * 490, tmp_path) == ("[0]" * 490,)


def test_a_long_key_again_and_again(tmp_path: Path) -> None:
    key = text("k" * 1_000_000) + b"q\xff0"
    assert read(key + outward(200, b"h\xff"), tmp_path) == ("pickle-size",)
    assert read(key + outward(4, b"h\xff"), tmp_path) == ("/".join(["k" * 1_000_000] * 4),)


def test_a_long_key_above_many_tensors(tmp_path: Path) -> None:
    tensors = b"".join(text(str(at)) + TENSOR for at in range(200))
    program = b"}" + text("k" * 1_000_000) + b"}(" + tensors + b"us"
    assert read(program, tmp_path) == ("pickle-size",)


def test_containers_that_hold_themselves(tmp_path: Path) -> None:
    program = b"}q\x00" + text("own") + b"h\x00s" + text("w") + TENSOR + b"s"
    assert read(program, tmp_path) == ("w",)


def test_containers_held_twice_by_the_next(tmp_path: Path) -> None:
    assert len(read(TENSOR + b"2\x86" * 200, tmp_path)) == 2  # the innermost has two


def test_modules_held_twice_by_the_next(tmp_path: Path) -> None:
    parameters = text("_parameters") + b"}" + text("weight") + TENSOR + b"s"
    program = b"ctorch.nn.modules.linear\nLinear\n)\x81}" + parameters + b"sb"
    for at in range(60):
        twice = b"}" + b"".join(text(name) + get(at) + b"s" for name in "ab")
        program += put(at) + b"0ctorch.nn.modules.container\nSequential\n)\x81"
        program += b"}" + text("_modules") + twice + b"sb"
    assert read(program, tmp_path) == ("pickle-size",)


def number(value: int) -> bytes:
    return b"\x8a\x0c" + value.to_bytes(12, "little", signed=True)


@pytest.mark.parametrize(
    "keys",
    [
        [number(at * ((1 << 61) - 1)) for at in range(1, 20_000)],
        [
            b"(" + b"".join(number(-1 - (at >> bit & 1)) for bit in range(14)) + b"t"
            for at in range(1 << 14)
        ],
    ],
    ids=["integers", "tuples"],
)
def test_keys_of_one_hash(keys: list[bytes], tmp_path: Path) -> None:
    program = b"}(" + b"".join(key + b"N" for key in keys) + b"u"
    assert read(program, tmp_path) == ("pickle-size",)


def test_a_key_that_would_be_written_out_without_end(tmp_path: Path) -> None:
    shared = b"N" + b"2\x86" * 200
    key = b"cx\ny\n" + shared + b"\x85R"
    assert read(b"}" + key + TENSOR + b"s", tmp_path) == ("x.y",)


def test_numbers_that_python_does_not_write(tmp_path: Path) -> None:
    huge = b"\x8b" + struct.pack("<i", 1025) + b"\x7f" * 1025
    assert read(b"}" + huge + TENSOR + b"s", tmp_path) == ("pickle",)
    large = b"\x8b" + struct.pack("<i", 1024) + b"\x7f" * 1024
    assert read(b"}" + large + TENSOR + b"s", tmp_path) == ("integer of 8,191 bits",)
    sized = TENSOR.replace(b"K\x04\x85", b"(" + large * 9 + b"t", 1)
    strided = sized.replace(b"K\x01\x85", b"(" + b"K\x01" * 9 + b"t", 1)
    assert read(strided, tmp_path) == ("tensor",)
