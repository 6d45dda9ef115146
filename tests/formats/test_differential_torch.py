"""Torch files: every tensor is what torch.load makes of it, bit for bit."""

import io
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipaudit.errors import MalformedFile
from lipaudit.formats.detect import read_model
from lipaudit.graph.constant import Constant, put_of, rescale_of
from tests.formats import bits
from tests.hostile.pickling import FOUR, Call, Name, checkpoint, tensor

PROTOCOLS = (2, 3, 4, 5)
LAYOUTS = ("zip", "legacy")
Tree = dict[str, torch.Tensor]


def saved(tree: object, path: Path, layout: str, protocol: int) -> Path:
    torch.save(tree, path, pickle_protocol=protocol, _use_new_zipfile_serialization=layout == "zip")
    return path


def loaded(path: Path) -> Any:
    # Our own file. The restricted loader of torch knows protocol 2 only.
    return torch.load(path, weights_only=False)


def read(path: Path) -> dict[str, Constant]:
    return dict(read_model(str(path)).tensors)


def assert_equal(path: Path) -> None:
    theirs = loaded(path)
    ours = read(path)
    assert set(ours) == set(theirs)
    wrong = [key for key, tensor in theirs.items() if not bits.same(ours[key].read(), tensor)]
    assert not wrong


def can_be_written(constant: Constant) -> bool:
    return bool(constant.slot or constant.scaled_by or put_of(constant) or rescale_of(constant))


def can_be_saved(dtype: torch.dtype, layout: str) -> bool:
    """Tell whether torch itself can save and load the type in that layout."""
    try:
        held = io.BytesIO()
        torch.save(torch.zeros(2).to(dtype), held, _use_new_zipfile_serialization=layout == "zip")
        held.seek(0)
        torch.load(held)
    except (RuntimeError, TypeError, KeyError, AttributeError, pickle.UnpicklingError):
        return False
    return True


SAVED = {
    layout: [dtype for dtype in bits.DTYPES if can_be_saved(dtype, layout)] for layout in LAYOUTS
}


def test_torch_saves_nearly_every_type() -> None:
    assert set(bits.DTYPES) - set(SAVED["zip"]) == set()
    assert len(SAVED["legacy"]) >= 11


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_grid(layout: str, protocol: int, tmp_path: Path) -> None:
    """Every type in every form of window; the windows of a type share its storage."""
    tree: Tree = {}
    for dtype in SAVED[layout]:
        flat = bits.items(dtype, 733)
        for name, window in bits.windows(flat):
            tree[f"{dtype}.{name}"] = window
        tree[f"{dtype}.own"] = flat.clone()
    assert len(tree) == len(SAVED[layout]) * 19
    assert_equal(saved(tree, tmp_path / "grid.pt", layout, protocol))


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Draw a few storages, and windows of any shape, stride and offset on each."""
    tree: Tree = {}
    for number in range(draw(st.integers(1, 3))):
        dtype = draw(st.sampled_from(SAVED["legacy"]))
        count = draw(st.integers(1, 60))
        size = st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize)
        flat = bits.of_bytes(draw(size), dtype if dtype is not torch.bool else torch.int8)
        for part in range(draw(st.integers(1, 4))):
            first = draw(st.integers(0, count - 1))
            shape, strides, room, fits = [], [], count - 1 - first, count
            for _ in range(draw(st.integers(0, 5))):
                stride = draw(st.integers(0, 12))
                most = min(fits, 4, room // stride + 1 if stride else 4)
                length = draw(st.integers(0, most))
                room -= max(length - 1, 0) * stride
                fits //= max(length, 1)
                shape.append(length)
                strides.append(stride)
            tree[f"t{number}.w{part}"] = flat.as_strided(shape, strides, first)
    return tree


@settings(max_examples=150)
@given(tree=trees(), layout=st.sampled_from(LAYOUTS), protocol=st.sampled_from(PROTOCOLS))
def test_any_window(
    tree: Tree, layout: str, protocol: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("window") / "t.pt"
    assert_equal(saved(tree, path, layout, protocol))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_items_than_are_stored_are_refused(layout: str, tmp_path: Path) -> None:
    """In torch one stored number can claim to be a matrix of any size."""
    for wide in (torch.ones(1).expand(3, 3), torch.ones(6).unfold(0, 4, 1)):
        path = saved({"w.weight": wide}, tmp_path / "t.pt", layout, 2)
        with pytest.raises(MalformedFile, match=r"declares .* items, the file stores"):
            read(path)


def test_shared_storage_is_told_from_equal_bytes(tmp_path: Path) -> None:
    base = torch.randn(4, 4)
    tree = {"a": base, "b": base, "same": base.clone(), "part": base[:2]}
    model = read_model(str(saved(tree, tmp_path / "t.pt", "zip", 2)))
    assert model.ties == {"b": "a"}


def big_endian(path: Path, size: int) -> None:
    """Rewrite a torch zip as a machine of the other byte order would have written it."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if name.endswith("/byteorder"):
                assert data == b"little"
                new = b"big"
            elif "/data/" in name:
                new = b"".join(data[at : at + size][::-1] for at in range(0, len(data), size))
            else:
                new = data
            archive.writestr(name, new)


@pytest.mark.skipif(sys.byteorder == "big", reason="the files are then not the other way round")
@pytest.mark.parametrize("dtype", bits.DTYPES, ids=str)
def test_a_file_of_a_big_endian_machine(dtype: torch.dtype, tmp_path: Path) -> None:
    flat = bits.items(dtype, 733)
    tree = {name: window for name, window in bits.windows(flat)}  # noqa: C416 - pairs are tuples
    path = saved(tree, tmp_path / "big.pt", "zip", 2)
    big_endian(path, bits.unit(dtype))
    ours = read(path)
    for name, window in tree.items():
        assert bits.same(ours[name].read(), window), name
        assert not can_be_written(ours[name])
    # torch forgets to turn around the types that it stores without a type.
    if dtype not in {torch.uint16, torch.uint32, torch.uint64, torch.complex32}:
        assert_equal(path)


@pytest.mark.parametrize("order", [b"middle", b"", b"little\n", b"BIG"])
def test_another_byte_order_is_refused(order: bytes, tmp_path: Path) -> None:
    path = saved({"w.weight": torch.ones(3, 3)}, tmp_path / "t.pt", "zip", 2)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, order if name.endswith("/byteorder") else data)
    with pytest.raises(MalformedFile, match="is neither little nor big"):
        read(path)


def test_the_legacy_layout_is_little_endian_whatever_its_header_says(tmp_path: Path) -> None:
    """It is written so on every machine, with a note of the machine's own order."""
    path = saved({"w": bits.items(torch.float32, 50)}, tmp_path / "t.pt", "legacy", 2)
    data = path.read_bytes()
    at = data.index(b"little_endian")
    flag = data.index(b"\x88", at)
    path.write_bytes(data[:flag] + b"\x89" + data[flag + 1 :])
    assert_equal(path)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_conjugate_and_negative_views(layout: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """They are stored as they were, with a note of what they stand for."""
    flat = bits.items(dtype, 733)
    tree = {
        "conjugate": flat.conj(),
        "turned": flat[:720].reshape(24, 30).mH,
        "negative": flat.clone().conj().imag,  # torch saves no storage under two types
        "plain": flat,
        "twice": flat.conj().conj(),
    }
    assert tree["conjugate"].is_conj()
    assert tree["negative"].is_neg()
    path = saved(tree, tmp_path / "t.pt", layout, 2)
    theirs = {name: value.resolve_conj().resolve_neg() for name, value in loaded(path).items()}
    ours = read(path)
    for name, value in theirs.items():
        assert bits.same(ours[name].read(), value), name
    assert not any(can_be_written(ours[name]) for name in ("conjugate", "turned", "negative"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_that_carry_attributes(layout: str, tmp_path: Path) -> None:
    plain = torch.randn(3, 4)
    plain.tensor_model_parallel = True  # type: ignore[attr-defined] # any object takes any
    parameter = torch.nn.Parameter(torch.randn(2, 3))
    parameter.partition_dim = 1  # type: ignore[attr-defined] # the same
    tree = {"plain": plain, "parameter": parameter, "bare": torch.nn.Parameter(torch.ones(2))}
    path = saved(tree, tmp_path / "t.pt", layout, 2)
    theirs = loaded(path)
    ours = read(path)
    assert set(ours) == set(tree)
    for name, value in theirs.items():
        assert bits.same(ours[name].read(), value.detach()), name


def test_a_storage_that_is_part_of_another(tmp_path: Path) -> None:
    """Before 0.4 torch saved storages as parts of others; it still reads such files."""
    path = saved({"w": torch.arange(12.0)}, tmp_path / "t.pt", "legacy", 2)
    data = path.read_bytes()
    # ('storage', FloatStorage, key, 'cpu', 12, None): let it be the 6 items from the 4th on.
    parts = data.split(b"cpu", 1)
    tail = parts[1].index(b"K\x0cN")
    key = b"X\x01\x00\x00\x00v"
    view = b"(" + key + b"K\x04K\x06t"
    rest = parts[1][:tail] + b"K\x0c" + view + parts[1][tail + 3 :]
    rest = rest.replace(b"K\x00K\x0c\x85", b"K\x00K\x06\x85", 1)
    path.write_bytes(parts[0] + b"cpu" + rest)
    assert torch.equal(loaded(path)["w"], torch.arange(4.0, 10.0))
    assert_equal(path)


def test_a_dictionary_given_as_pairs(tmp_path: Path) -> None:
    """Python 2 writes an OrderedDict so."""
    pairs = [[1, tensor()], ["w", tensor((4,), (1,))]]
    path = checkpoint(tmp_path, Call(Name("collections", "OrderedDict"), (pairs,)), {"0": FOUR})
    theirs = loaded(path)
    assert list(theirs) == [1, "w"]
    ours = read(path)
    assert all(bits.same(ours[str(key)].read(), value) for key, value in theirs.items())


QUANTIZED = (torch.qint8, torch.quint8, torch.qint32)


def quantized(dtype: torch.dtype) -> Tree:
    values = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(1)) * 3
    scales = torch.tensor([0.01, 0.1, 1 / 3, 7.0, 1e-3, 0.05], dtype=torch.float64)
    zeros = torch.tensor([0, 3, 1, 0, 100, 7])
    whole = torch.quantize_per_tensor(values, 0.1, 3, dtype)
    return {
        "tensor": whole,
        "part": whole[1:5:2, 1:],
        "turned": whole.permute(2, 0, 1),
        "channel": torch.quantize_per_channel(values, scales, zeros, 0, dtype),
        "last": torch.quantize_per_channel(values, scales[:4], zeros[:4], 2, dtype),
    }


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("dtype", QUANTIZED, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_quantized_tensors_are_the_numbers_that_they_mean(
    layout: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    path = saved(quantized(dtype), tmp_path / "q.pt", layout, 2)
    ours = read(path)
    for name, theirs in loaded(path).items():
        constant = ours[name]
        integers = theirs.int_repr().double()
        if theirs.qscheme() == torch.per_tensor_affine:
            exact = (integers - theirs.q_zero_point()) * theirs.q_scale()
        else:
            along = [-1 if a == theirs.q_per_channel_axis() else 1 for a in range(integers.dim())]
            zeros = theirs.q_per_channel_zero_points().double().reshape(along)
            exact = (integers - zeros) * theirs.q_per_channel_scales().double().reshape(along)
        assert constant.shape == tuple(theirs.shape)
        assert bits.same(constant.values(), exact), name
        assert bits.same(constant.read(), exact), name
        # torch's own kernel rounds the scale and each operation to float32.
        rounded = constant.read().float()
        torch.testing.assert_close(rounded, theirs.dequantize(), rtol=1e-6, atol=1e-6)


def test_legacy_storages_keep_their_order(tmp_path: Path) -> None:
    """Storages lie in the order of their keys, which is that of text and not of numbers."""
    tree = {f"t{number}": torch.full((number + 1,), float(number)) for number in range(40)}
    path = saved(tree, tmp_path / "t.pt", "legacy", 2)
    assert_equal(path)
