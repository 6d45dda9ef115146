"""Folders and shards: one model in several files, read as one and written as several."""

import json
import time
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from lipaudit.errors import FileError, LipauditError
from lipaudit.formats import copies, detect
from lipaudit.formats.folder import read_folder
from lipaudit.graph.model import Model
from tests.formats.applied import apply
from tests.formats.test_safetensors import entry, pack

TENSORS = {"a.weight": torch.randn(3, 4), "b.weight": torch.randn(2, 3), "b.bias": torch.randn(2)}
SHARDS = {
    "model-00001-of-00002.safetensors": ["a.weight"],
    "model-00002-of-00002.safetensors": ["b.weight", "b.bias"],
}
INDEX = "model.safetensors.index.json"


def weight_map(shards: Mapping[str, list[str]] = SHARDS) -> dict[str, str]:
    return {key: name for name, keys in shards.items() for key in keys}


def sharded(folder: Path, index: Any = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, keys in SHARDS.items():
        safetensors.torch.save_file({key: TENSORS[key] for key in keys}, folder / name)
    stated = {"metadata": {"total_size": 80}, "weight_map": weight_map()}
    text = index if isinstance(index, str) else json.dumps(index or stated)
    (folder / INDEX).write_text(text, encoding="utf-8")
    return folder


def same(model: Model) -> bool:
    return set(model.tensors) == set(TENSORS) and all(
        torch.equal(model.tensors[key].read(), value) for key, value in TENSORS.items()
    )


def test_shards_are_one_model(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    model = read_folder(tmp_path)
    assert same(model)
    assert model.path == str(tmp_path)
    assert any("config.json" in note for note in model.notes)
    assert same(detect.read_model(str(tmp_path / INDEX)))
    assert model.digest is not None
    assert len(model.digest()) == 64


def test_changing_one_shard_copies_the_others(tmp_path: Path) -> None:
    source = sharded(tmp_path / "in")
    (source / "config.json").write_text('{"model_type": "x"}')
    model = read_folder(source)
    files = copies.changed(model, {"b.weight": TENSORS["b.weight"] / 2}, "out")
    assert [(file.name, bool(file.edits)) for file in files] == [
        (INDEX, False),
        ("model-00001-of-00002.safetensors", False),
        ("model-00002-of-00002.safetensors", True),
        ("config.json", False),
    ]
    apply(files, tmp_path / "out")
    again = read_folder(tmp_path / "out").tensors
    assert torch.equal(again["b.weight"].read(), TENSORS["b.weight"] / 2)
    assert torch.equal(again["b.bias"].read(), TENSORS["b.bias"])
    untouched = "model-00001-of-00002.safetensors"
    assert (tmp_path / "out" / untouched).read_bytes() == (source / untouched).read_bytes()


def test_index_named_directly_is_the_output_itself(tmp_path: Path) -> None:
    source = sharded(tmp_path / "in")
    model = detect.read_model(str(source / INDEX))
    names = [file.name for file in copies.changed(model, {}, "out")]
    assert names == ["", *SHARDS]


def test_torch_shards(tmp_path: Path) -> None:
    names = {
        "pytorch_model-00001-of-00002.bin": ["a.weight"],
        "pytorch_model-00002-of-00002.bin": ["b.weight", "b.bias"],
    }
    for name, keys in names.items():
        torch.save({key: TENSORS[key] for key in keys}, tmp_path / name)
    index = {"weight_map": weight_map(names)}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    model = read_folder(tmp_path)
    assert same(model)
    output = tmp_path.parent / f"{tmp_path.name}-out"
    new = {"a.weight": TENSORS["a.weight"] * 3}
    apply(copies.changed(model, new, "out"), output)
    loaded = torch.load(output / "pytorch_model-00001-of-00002.bin", weights_only=True)
    assert torch.equal(loaded["a.weight"], new["a.weight"])


BAD: dict[str, tuple[Any, str]] = {
    "outside": ({"weight_map": {"a.weight": "../../etc/passwd"}}, "shard name leaves the folder"),
    "absolute": ({"weight_map": {"a.weight": "/etc/passwd"}}, "shard name leaves the folder"),
    "dots": ({"weight_map": {"a.weight": ".."}}, "shard name leaves the folder"),
    "backslash": ({"weight_map": {"a.weight": "..\\x"}}, "shard name leaves the folder"),
    "no name": ({"weight_map": {"a.weight": 7}}, "'a.weight' has no shard"),
    "missing shard": (
        {"weight_map": {**weight_map(), "c": "model-3.safetensors"}},
        "shard 3 of 3 missing: 'model-3.safetensors'",
    ),
    "extra key": (
        {"weight_map": {**weight_map(), "c": "model-00002-of-00002.safetensors"}},
        "tensor 'c' is not in shard 'model-00002-of-00002.safetensors'",
    ),
    "key not named": (
        {"weight_map": {key: name for key, name in weight_map().items() if key != "b.bias"}},
        "tensor 'b.bias' of shard 'model-00002-of-00002.safetensors' is not in the index",
    ),
    "no map": ({"weight_map": []}, "without a weight_map"),
    "key twice": ('{"weight_map": {"a": "x", "a": "y"}}', "'a' is defined twice"),
    "no JSON": ('{"weight_map": ', "index is not valid JSON at byte 15"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_index_is_refused(case: str, tmp_path: Path) -> None:
    index, cause = BAD[case]
    with pytest.raises(FileError) as caught:
        read_folder(sharded(tmp_path, index))
    assert cause in str(caught.value)


def test_key_in_two_shards(tmp_path: Path) -> None:
    sharded(tmp_path)
    second = {"a.weight": TENSORS["a.weight"], "b.weight": TENSORS["b.weight"]}
    safetensors.torch.save_file(second, tmp_path / "model-00002-of-00002.safetensors")
    index = {"weight_map": {key: name for key, name in weight_map().items() if key != "b.bias"}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(FileError, match=r"'a\.weight' is in two shards"):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "anything.safetensors"])
def test_a_single_file_is_read_as_itself(name: str, tmp_path: Path) -> None:
    safetensors.torch.save_file(TENSORS, tmp_path / name)
    model = read_folder(tmp_path)
    assert same(model)
    assert model.path == str(tmp_path / name)


def test_well_known_name_wins_and_others_need_a_choice(tmp_path: Path) -> None:
    safetensors.torch.save_file(TENSORS, tmp_path / "x.safetensors")
    torch.save(TENSORS, tmp_path / "y.pt")
    with pytest.raises(LipauditError, match=r"2 model files: x\.safetensors, y\.pt"):
        read_folder(tmp_path)
    safetensors.torch.save_file(TENSORS, tmp_path / "model.safetensors")
    assert read_folder(tmp_path).path.endswith("model.safetensors")


def test_folder_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing here")
    with pytest.raises(FileError, match=r"no model file found \(looked for model\.safetensors"):
        read_folder(tmp_path)


def test_ten_gigabytes_of_shards_open_at_once(tmp_path: Path) -> None:
    shards, each = 5, 2 * 2**30
    tensors = 32
    size = each // tensors
    found: dict[str, str] = {}
    for shard in range(shards):
        name = f"model-{shard}.safetensors"
        header = {
            f"layers.{shard}.{at}.weight": entry(
                "F16", [1024, size // 2048], at * size, (at + 1) * size
            )
            for at in range(tensors)
        }
        head = pack(header)
        with (tmp_path / name).open("wb") as out:
            out.write(head)
            out.truncate(len(head) + size * tensors)
        found |= dict.fromkeys(header, name)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": found}))
    tracemalloc.start()
    started = time.perf_counter()
    model = read_folder(tmp_path)
    elapsed = time.perf_counter() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(model.tensors) == shards * tensors
    assert peak < 20_000_000
    assert elapsed < 1.0
