"""safetensors: every tensor is what the library makes of it, bit for bit."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lipaudit.formats.detect import read_model
from tests.formats import bits

# complex32, complex128 and the type of scales alone have no name there.
DTYPES = [dtype for dtype in bits.DTYPES if dtype not in {torch.complex32, torch.complex128}]
SHAPES = [(), (0,), (0, 5), (3, 0, 2), (720,), (24, 30), (6, 10, 12), (4, 5, 6, 6), (2, 3, 4, 5, 6)]
Tree = dict[str, torch.Tensor]


def assert_equal(path: Path, against: Path | None = None) -> None:
    theirs = load_file(against or path)
    ours = read_model(str(path)).tensors
    assert set(ours) == set(theirs)
    wrong = [key for key, tensor in theirs.items() if not bits.same(ours[key].read(), tensor)]
    assert not wrong


def shaped(dtype: torch.dtype, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    count = 1
    for size in shape:
        count *= size
    return bits.items(dtype, count, seed).reshape(shape)


def test_the_grid(tmp_path: Path) -> None:
    path = tmp_path / "grid.safetensors"
    tree = {
        f"{dtype}.{len(shape)}.{at}": shaped(dtype, shape, at)
        for dtype in DTYPES
        for at, shape in enumerate(SHAPES)
    }
    save_file(tree, path, metadata={"format": "pt"})
    assert_equal(path)


@settings(max_examples=60)
@given(
    drawn=st.lists(
        st.tuples(
            st.sampled_from(DTYPES),
            st.lists(st.integers(0, 4), max_size=5).map(tuple),
            st.integers(0, 1000),
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_any_tensors(
    drawn: list[tuple[torch.dtype, tuple[int, ...], int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("drawn") / "t.safetensors"
    save_file({f"t{at}": shaped(*one) for at, one in enumerate(drawn)}, path)
    assert_equal(path)


def test_shards(tmp_path: Path) -> None:
    """Through the index, each tensor from its own file."""
    names: dict[str, str] = {}
    for number in range(3):
        shard = f"model-{number + 1:05}-of-00003.safetensors"
        tree = {f"layer{number}.{dtype}": shaped(dtype, (24, 30), number) for dtype in DTYPES}
        save_file(tree, tmp_path / shard)
        names |= dict.fromkeys(tree, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    theirs: Tree = {}
    for shard in sorted(set(names.values())):
        theirs |= load_file(tmp_path / shard)
    ours = read_model(str(tmp_path)).tensors
    assert set(ours) == set(theirs)
    assert all(bits.same(ours[key].read(), tensor) for key, tensor in theirs.items())


def test_a_header_in_another_order_than_the_data(tmp_path: Path) -> None:
    """The order of the entries says nothing about where they lie."""
    path = tmp_path / "t.safetensors"
    save_file({f"t{at}": shaped(dtype, (5, 7)) for at, dtype in enumerate(DTYPES)}, path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    turned = json.dumps(dict(reversed(header.items()))).encode()
    other = tmp_path / "turned.safetensors"
    other.write_bytes(len(turned).to_bytes(8, "little") + turned + data[8 + length :])
    assert_equal(other)
    assert list(read_model(str(other)).tensors) == list(reversed(header))
