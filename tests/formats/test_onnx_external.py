"""External data: read wherever it honestly lies, and nowhere else."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from lipaudit.errors import FileError, MalformedFile, UnsafeFile, WriteRefused
from lipaudit.formats.onnx_file import OnnxFormat
from lipaudit.formats.source import Source
from lipaudit.graph.model import Model
from tests import shared_models
from tests.formats.applied import apply

VALUES = np.arange(32, dtype=np.float32).reshape(4, 8)
SHA1 = hashlib.sha1(VALUES.tobytes(), usedforsecurity=False).hexdigest()


def write(folder: Path, *entries: Mapping[str, str], shape: tuple[int, ...] = (4, 8)) -> Path:
    """Write a model whose initializers W, W1, ... are stored as the entries say."""
    graph = onnx.GraphProto(name="g")
    for count, said in enumerate(entries):
        tensor = graph.initializer.add(name=f"W{count or ''}", data_type=TensorProto.FLOAT)
        tensor.dims.extend(shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in said.items():
            tensor.external_data.add(key=key, value=value)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def read(path: Path) -> Model:
    return OnnxFormat().read(Source(path))


@pytest.mark.parametrize(
    "said",
    [
        {"offset": "0", "length": "128"},
        {},
        {"offset": "64"},
        {"length": "128", "checksum": SHA1},
        {"checksum": SHA1.upper()},
        {"prepacked_0": "anything"},
    ],
    ids=str,
)
def test_honest_entries(said: dict[str, str], tmp_path: Path) -> None:
    path = write(tmp_path, {"location": "model.bin", **said})
    offset = int(said.get("offset", "0"))
    (tmp_path / "model.bin").write_bytes(bytes(offset) + VALUES.tobytes())
    np.testing.assert_array_equal(read(path).tensors["W"].read().numpy(), VALUES)


@pytest.mark.parametrize("stated", ["0" * 40, "", "no checksum", "\u00e9" * 40])
def test_a_file_of_another_checksum_is_refused(stated: str, tmp_path: Path) -> None:
    path = write(tmp_path, {"location": "model.bin", "checksum": stated})
    (tmp_path / "model.bin").write_bytes(VALUES.tobytes())
    with pytest.raises(MalformedFile, match=r"'W'.*(SHA-1|checksum)"):
        read(path)


def test_in_a_folder_below(tmp_path: Path) -> None:
    path = write(tmp_path, {"location": "weights/w.bin"})
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(VALUES.tobytes())
    model = read(path)
    np.testing.assert_array_equal(model.tensors["W"].read().numpy(), VALUES)
    assert [file.name for file in OnnxFormat().changed(model, {})] == ["", "weights/w.bin"]


def test_in_a_hugging_face_cache(tmp_path: Path) -> None:
    """There both files are links into a folder of blobs, under names that say nothing."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    path = write(blobs, {"location": "model.onnx_data"})
    path.rename(blobs / "1f00")
    (blobs / "2e11").write_bytes(VALUES.tobytes())
    snapshot.mkdir(parents=True)
    (snapshot / "model.onnx").symlink_to("../../blobs/1f00")
    (snapshot / "model.onnx_data").symlink_to("../../blobs/2e11")
    model = read(snapshot / "model.onnx")
    np.testing.assert_array_equal(model.tensors["W"].read().numpy(), VALUES)
    assert [file.name for file in OnnxFormat().changed(model, {})] == ["", "model.onnx_data"]


def test_beside_the_real_file_of_a_linked_model(tmp_path: Path) -> None:
    write(tmp_path / "real", {"location": "model.bin"})
    (tmp_path / "real" / "model.bin").write_bytes(VALUES.tobytes())
    (tmp_path / "link.onnx").symlink_to("real/model.onnx")
    model = read(tmp_path / "link.onnx")
    np.testing.assert_array_equal(model.tensors["W"].read().numpy(), VALUES)
    assert [file.name for file in OnnxFormat().changed(model, {})] == ["", "model.bin"]


@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin",
        "/etc/passwd",
        "a/../../secret.bin",
        "..\\secret.bin",
        "C:\\x",
        "link.bin",
        "folder/secret.bin",
    ],
)
def test_outside_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(VALUES.tobytes())
    path = write(tmp_path / "model", {"location": location})
    (path.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    (path.parent / "folder").symlink_to(tmp_path)
    with pytest.raises(UnsafeFile, match="'W' points outside the model folder"):
        read(path)


BAD: dict[str, tuple[dict[str, str], str]] = {
    "missing": ({"location": "other.bin"}, "no file 'other.bin' beside the model"),
    "no location": ({"offset": "0"}, "without a location"),
    "nul": ({"location": "model.bin\0.txt"}, "NUL"),
    "unknown key": ({"location": "model.bin", "compression": "zstd"}, "'compression'"),
    "offset past the end": (
        {"location": "model.bin", "offset": "4096", "length": "128"},
        "model.bin has 128 bytes, needs 4,096 + 128",
    ),
    "length past the end": (
        {"location": "model.bin", "length": str(10**15)},
        "model.bin has 128 bytes, needs 0 + 128",
    ),
    "wrong length": ({"location": "model.bin", "length": "64"}, "needs 128 bytes, has 64"),
    "negative": ({"location": "model.bin", "offset": "-5"}, "offset is '-5'"),
    "no number": ({"location": "model.bin", "length": "abc"}, "length is 'abc'"),
    "huge number": ({"location": "model.bin", "length": "9" * 500}, "not a size"),
    "folder": ({"location": "folder"}, "not a regular file"),
    "empty": ({"location": "empty.bin"}, "empty"),
    "itself": ({"location": "model.onnx"}, "the model itself"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_entry_is_refused_by_name(case: str, tmp_path: Path) -> None:
    entries, cause = BAD[case]
    path = write(tmp_path, entries)
    (tmp_path / "model.bin").write_bytes(VALUES.tobytes())
    (tmp_path / "empty.bin").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError) as caught:
        read(path)
    assert cause in str(caught.value)
    assert str(path) in str(caught.value)


def test_key_given_twice(tmp_path: Path) -> None:
    path = write(tmp_path, {"location": "a.bin"})
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data.add(key="location", value="b.bin")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(MalformedFile, match="'location' appears twice"):
        read(path)


def test_fifo_is_not_waited_for(tmp_path: Path) -> None:
    path = write(tmp_path, {"location": "pipe"})
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="not a regular file"):
        read(path)


def test_hard_link_is_read_with_a_note_and_never_copied(tmp_path: Path) -> None:
    path = write(tmp_path / "model", {"location": "model.bin"})
    (tmp_path / "elsewhere").write_bytes(VALUES.tobytes())
    (path.parent / "model.bin").hardlink_to(tmp_path / "elsewhere")
    model = read(path)
    assert "external file 'model.bin' is a hard link" in model.notes
    with pytest.raises(WriteRefused, match="hard link"):
        OnnxFormat().changed(model, {"W": torch.zeros(4, 8)})


def test_tied_tensors_and_edits(tmp_path: Path) -> None:
    part = {"location": "model.bin", "offset": "128", "length": "128"}
    path = write(tmp_path / "in", {"location": "model.bin", "length": "128"}, part, part)
    (path.parent / "model.bin").write_bytes(bytes(128) + VALUES.tobytes() + b"tail")
    model = read(path)
    assert model.ties == {"W2": "W1"}
    new = torch.from_numpy(VALUES) / 3
    output = tmp_path / "out" / "clipped.onnx"
    apply(OnnxFormat().changed(model, {"W1": new, "W2": new}), output)
    again = onnx.load(output)
    kept, changed, tied = (onnx.numpy_helper.to_array(t) for t in again.graph.initializer)
    np.testing.assert_array_equal(kept, 0)
    np.testing.assert_array_equal(changed, new.numpy())
    np.testing.assert_array_equal(tied, new.numpy())
    assert (output.parent / "model.bin").read_bytes().endswith(b"tail")
    with pytest.raises(WriteRefused, match="shares bytes"):
        OnnxFormat().changed(model, {"W1": new, "W2": new * 2})


@pytest.mark.parametrize("name", ["external_data", "external_data_offset", "multi_external_files"])
def test_models_by_other_people(name: str) -> None:
    path = shared_models.path(f"burn_onnx/{name}.onnx")
    model = read(path)
    for tensor in onnx.load(path).graph.initializer:
        expected = onnx.numpy_helper.to_array(tensor)
        np.testing.assert_array_equal(model.tensors[tensor.name].read().numpy(), expected)
