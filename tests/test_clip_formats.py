"""Clipping every writable format: the copy is read by the format's own library, and is valid."""

import argparse
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import lipaudit
from lipaudit.errors import LipauditError, NotCertified
from lipaudit.formats.detect import read_model
from lipaudit.layers import network
from lipaudit.layers.execution import run

LIMIT = 0.5
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def weights(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "0.weight": torch.randn(6, 5).to(dtype),
        "0.bias": torch.randn(6).to(dtype),
        "2.weight": (torch.randn(4, 6) * 0.01).to(dtype),
        "steps": torch.tensor(7),
    }


def module() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4)).eval()


def norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.svdvals(tensor.detach().to(torch.float64))[0])


def clip(path: Path, out: Path) -> Path:
    lipaudit.clip(path, to=LIMIT, output=out)
    return out


def assert_clipped(after: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> None:
    assert list(after) == list(before)
    assert LIMIT * 0.95 <= norm(after["0.weight"]) <= LIMIT
    for key, value in before.items():
        assert after[key].dtype == value.dtype
        assert key == "0.weight" or torch.equal(after[key], value)


def changed_members(before: Path, after: Path) -> set[str]:
    """Name the members of two zips that differ; assert that nothing else does but checksums."""
    old, new = before.read_bytes(), after.read_bytes()
    assert len(old) == len(new)
    with zipfile.ZipFile(before) as first, zipfile.ZipFile(after) as second:
        assert second.testzip() is None
        assert first.namelist() == second.namelist()
        names = {name for name in first.namelist() if first.read(name) != second.read(name)}
        allowed = np.zeros(len(old), dtype=bool)
        at = first.start_dir
        for info in first.infolist():
            sizes = np.frombuffer(old[info.header_offset + 26 :][:4], dtype="<u2")
            start = info.header_offset + 30 + int(sizes.sum())
            central = np.frombuffer(old[at + 28 :][:6], dtype="<u2")
            if info.filename in names:
                allowed[info.header_offset + 14 :][:4] = True
                allowed[start:][: info.file_size + 24] = True  # with its data descriptor
                allowed[at + 16 :][:4] = True
            at += 46 + int(central.sum())
    differ = np.frombuffer(old, dtype=np.uint8) != np.frombuffer(new, dtype=np.uint8)
    assert not (differ & ~allowed).any()
    return names


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_state_dict(dtype: torch.dtype, tmp_path: Path, *, legacy: bool) -> None:
    before = weights(dtype)
    torch.save(before, tmp_path / "in.pt", _use_new_zipfile_serialization=not legacy)
    out = clip(tmp_path / "in.pt", tmp_path / "out.pt")
    assert_clipped(torch.load(out, weights_only=True), before)
    if not legacy:
        assert len(changed_members(tmp_path / "in.pt", out)) == 1


def test_a_lightning_checkpoint(tmp_path: Path) -> None:
    tree: dict[str, Any] = {
        "epoch": 3,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": weights(),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(6, 5)}}, "param_groups": []}],
        "hyper_parameters": argparse.Namespace(lr=0.1),
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best": None}},
    }
    torch.save(tree, tmp_path / "in.ckpt")
    out = clip(tmp_path / "in.ckpt", tmp_path / "out.ckpt")
    assert len(changed_members(tmp_path / "in.ckpt", out)) == 1
    with torch.serialization.safe_globals([argparse.Namespace]):
        loaded = torch.load(out, weights_only=True)
    assert_clipped(loaded["state_dict"], tree["state_dict"])
    assert loaded["hyper_parameters"] == tree["hyper_parameters"]
    assert torch.equal(loaded["optimizer_states"][0]["state"][0]["exp_avg"], torch.ones(6, 5))


def test_a_pickled_module(tmp_path: Path) -> None:
    before = module()
    torch.save(before, tmp_path / "in.pt")
    out = clip(tmp_path / "in.pt", tmp_path / "out.pt")
    loaded = torch.load(out, weights_only=False)
    assert norm(loaded[0].weight) <= LIMIT
    assert torch.equal(loaded[0].bias, before.state_dict()["0.bias"])
    assert loaded(torch.zeros(1, 5)).shape == (1, 4)


def test_torchscript(tmp_path: Path) -> None:
    scripted = torch.jit.script(module())
    scripted.save(str(tmp_path / "in.pt"))  # type: ignore[no-untyped-call] # torch's
    out = clip(tmp_path / "in.pt", tmp_path / "out.pt")
    loaded = torch.jit.load(str(out))  # type: ignore[no-untyped-call] # torch's
    assert norm(loaded.state_dict()["0.weight"]) <= LIMIT
    assert all("/data/" in f"/{name}" for name in changed_members(tmp_path / "in.pt", out))


def test_an_exported_program(tmp_path: Path) -> None:
    before, x = module(), torch.randn(1, 5)
    torch.export.save(torch.export.export(before, (x,)), tmp_path / "in.pt2")
    out = clip(tmp_path / "in.pt2", tmp_path / "out.pt2")
    assert all("/data/weights/" in name for name in changed_members(tmp_path / "in.pt2", out))
    program = torch.export.load(out)
    state = program.state_dict
    assert norm(state["0.weight"]) <= LIMIT
    before.load_state_dict(state)
    torch.testing.assert_close(program.module()(x), before(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_safetensors(dtype: torch.dtype, tmp_path: Path) -> None:
    before, path = weights(dtype), tmp_path / "in.safetensors"
    safetensors.torch.save_file(before, path, metadata={"format": "pt", "who": "me"})
    out = clip(path, tmp_path / "out.safetensors")
    stored = safetensors.torch.load_file(path)
    assert stored.keys() == before.keys()
    assert_clipped(safetensors.torch.load_file(out), stored)
    with safetensors.safe_open(out, framework="pt") as opened:
        assert opened.metadata() == {"format": "pt", "who": "me"}
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert out.read_bytes()[:header] == path.read_bytes()[:header]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards(kind: str, tmp_path: Path) -> None:
    folder, out, before = tmp_path / "in", tmp_path / "out", weights()
    stem = "model" if kind == "safetensors" else "pytorch_model"
    names = [f"{stem}-0000{at}-of-00002.{kind}" for at in (1, 2)]
    split = {names[0]: ["2.weight", "steps"], names[1]: ["0.weight", "0.bias"]}
    folder.mkdir()
    for name, keys in split.items():
        part = {key: before[key] for key in keys}
        if kind == "bin":
            torch.save(part, folder / name)
        else:
            safetensors.torch.save_file(part, folder / name, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {key: name for name, keys in split.items() for key in keys},
    }
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    clip(folder, out)
    assert sorted(path.name for path in out.iterdir()) == sorted(
        path.name for path in folder.iterdir()
    )
    for path in folder.iterdir():
        same = (out / path.name).read_bytes() == path.read_bytes()
        assert same == (path.name != names[1])
    read: Callable[[Path], dict[str, torch.Tensor]] = (
        torch.load if kind == "bin" else safetensors.torch.load_file
    )
    assert norm(read(out / names[1])["0.weight"]) <= LIMIT


def test_a_folder_with_what_belongs_to_the_weights(tmp_path: Path) -> None:
    folder, out, secret = tmp_path / "in", tmp_path / "out", tmp_path / "secret.json"
    folder.mkdir()
    secret.write_text("secret")
    safetensors.torch.save_file(weights(), folder / "model.safetensors")
    for name in ("config.json", "tokenizer.json", "vocab.txt", "LICENSE", "1_Pooling/config.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"it is {name}")
    torch.save(weights(), folder / "pytorch_model.bin")  # the weights before clipping
    for name in (".gitattributes", ".git/config", "optimizer.pt", "picture.png", "tf_model.h5"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "leak.json").symlink_to(secret)
    (folder / "leaks").symlink_to(tmp_path)
    (folder / "alias.json").symlink_to("config.json")
    clip(folder, out)
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert found == {
        "model.safetensors",
        "config.json",
        "alias.json",
        "tokenizer.json",
        "vocab.txt",
        "LICENSE",
        "1_Pooling/config.json",
    }
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert (out / "1_Pooling/config.json").read_text() == "it is 1_Pooling/config.json"
    assert norm(safetensors.torch.load_file(out / "model.safetensors")["0.weight"]) <= LIMIT


def test_a_folder_in_a_hugging_face_cache(tmp_path: Path) -> None:
    """There every file is a link into a folder of blobs, under names that say nothing."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    safetensors.torch.save_file(weights(), blobs / "1f00")
    (blobs / "2e11").write_text("{}")
    (snapshot / "model.safetensors").symlink_to("../../blobs/1f00")
    (snapshot / "config.json").symlink_to("../../blobs/2e11")
    out = clip(snapshot, tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]
    assert (out / "config.json").read_text() == "{}"


def test_a_folder_in_and_a_file_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    safetensors.torch.save_file(weights(), tmp_path / "in" / "model.safetensors")
    out = clip(tmp_path / "in", tmp_path / "out.safetensors")
    stored = safetensors.torch.load_file(tmp_path / "in" / "model.safetensors")
    assert_clipped(safetensors.torch.load_file(out), stored)


def onnx_model(weight: onnx.TensorProto, bias: onnx.TensorProto) -> onnx.ModelProto:
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1, doc_string="of the node"),
            helper.make_node("Relu", ["h"], ["y"]),
        ],
        "the graph",
        [helper.make_tensor_value_info("x", weight.data_type, [1, 5])],
        [helper.make_tensor_value_info("y", weight.data_type, [1, 6])],
        [weight, bias],
        doc_string="of the graph",
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="somebody",
        doc_string="of the model",
    )
    helper.set_model_props(made, {"author": "me", "licence": "mine"})
    return made


def array(dtype: int = TensorProto.FLOAT) -> np.ndarray[Any, Any]:
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    return weights()["0.weight"].numpy().astype(kind)


def assert_runs(path: Path, before: onnx.ModelProto) -> None:
    """Check the file as onnx does, run it as onnxruntime does, and compare with ourselves."""
    onnx.checker.check_model(str(path), full_check=True)
    after = onnx.load(path)
    stored = numpy_helper.to_array(after.graph.initializer[0]).astype(np.float64)
    assert norm(torch.from_numpy(stored)) <= LIMIT
    np.testing.assert_array_equal(
        numpy_helper.to_array(after.graph.initializer[1]),
        numpy_helper.to_array(before.graph.initializer[1]),
    )
    for proto in (after, before):
        del proto.graph.initializer[:]
    assert after == before
    model = read_model(str(path))
    built = network.build(model.graph)
    kind = array(after.graph.input[0].type.tensor_type.elem_type)
    x = torch.randn(1, 5).to(torch.from_numpy(kind).dtype)
    ours = run(built, {"x": x.to(torch.float64)}, dtype=torch.float64)["y"]
    (theirs,) = onnxruntime.InferenceSession(str(path)).run(None, {"x": x.numpy()})
    unit = torch.finfo(x.dtype).eps
    torch.testing.assert_close(
        torch.from_numpy(theirs).to(torch.float64), ours, rtol=16 * unit, atol=16 * unit
    )


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
@pytest.mark.parametrize("raw", [True, False])
def test_onnx_inline(dtype: int, tmp_path: Path, *, raw: bool) -> None:
    weight, bias = array(dtype), array(dtype)[:, 0]
    if raw:
        parts = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    else:
        parts = [
            helper.make_tensor("w", dtype, weight.shape, weight.flatten()),
            helper.make_tensor("b", dtype, bias.shape, bias),
        ]
    before = onnx_model(parts[0], parts[1])
    onnx.save(before, tmp_path / "in.onnx")
    out = clip(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert_runs(out, onnx.load(tmp_path / "in.onnx"))


def test_onnx_constant_node(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(array(), "w")),
            helper.make_node("Gemm", ["x", "w"], ["y"], transB=1),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 5])],
        [helper.make_tensor_value_info("y", 1, [1, 6])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "in.onnx")
    out = clip(tmp_path / "in.onnx", tmp_path / "out.onnx")
    onnx.checker.check_model(str(out), full_check=True)
    value = onnx.load(out).graph.node[0].attribute[0].t
    assert norm(torch.from_numpy(numpy_helper.to_array(value).copy())) <= LIMIT


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("place", ["beside", "elsewhere", "same name"])
@pytest.mark.parametrize("length", [1, 200], ids=["short", "long"])
def test_onnx_external(place: str, length: int, tmp_path: Path, *, several: bool) -> None:
    """The copy's data have the copy's name, so that neither model loses its own."""
    folder = tmp_path / "in"
    folder.mkdir()
    before = onnx_model(
        numpy_helper.from_array(array(), "w"), numpy_helper.from_array(array()[:, 0], "b")
    )
    onnx.save(
        before,
        folder / "m.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=not several,
        location=None if several else "d" * length,
        size_threshold=0,
    )
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    out = (folder if place == "beside" else tmp_path) / (
        "m.onnx" if place == "same name" else "clipped.onnx"
    )
    clip(folder / "m.onnx", out)
    assert_runs(out, onnx.load(folder / "m.onnx"))
    for name, data in kept.items():
        assert (folder / name).read_bytes() == data
    made = {str(p.relative_to(out.parent)) for p in out.parent.rglob("*") if p.is_file()}
    if place == "same name":
        expected = {*kept}
    else:
        two = ("clipped.onnx.data/w", "clipped.onnx.data/b")
        expected = {"clipped.onnx", *(two if several else ("clipped.onnx.data",))}
    others = {*kept} if place == "beside" else {f"in/{name}" for name in kept}
    assert made == expected | others
    again = clip(out, out.with_name("again.onnx"))
    assert_runs(again, onnx.load(folder / "m.onnx"))


def test_onnx_checksums_are_those_of_the_new_data(tmp_path: Path) -> None:
    import hashlib  # noqa: PLC0415 - only here

    before = onnx_model(
        numpy_helper.from_array(array(), "w"), numpy_helper.from_array(array()[:, 0], "b")
    )
    path = tmp_path / "m.onnx"
    onnx.save(before, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    stated = onnx.load(path, load_external_data=False)
    digest = hashlib.sha1((tmp_path / "m.bin").read_bytes(), usedforsecurity=False).hexdigest()
    for tensor in stated.graph.initializer:
        tensor.external_data.add(key="checksum", value=digest)
    path.write_bytes(stated.SerializeToString())
    out = clip(path, tmp_path / "out.onnx")
    written = (tmp_path / "out.onnx.data").read_bytes()
    digest = hashlib.sha1(written, usedforsecurity=False).hexdigest()
    for tensor in onnx.load(out, load_external_data=False).graph.initializer:
        said = {entry.key: entry.value for entry in tensor.external_data}
        assert said["checksum"] == digest
        assert said["location"] == "out.onnx.data"


@pytest.mark.parametrize("kind", ["pickled", "compressed"])
def test_an_archive_that_no_torch_writes_is_refused(kind: str, tmp_path: Path) -> None:
    torch.export.save(torch.export.export(module(), (torch.zeros(1, 5),)), tmp_path / "good.pt2")
    with (
        zipfile.ZipFile(tmp_path / "good.pt2") as source,
        zipfile.ZipFile(tmp_path / "in.pt2", "w") as target,
    ):
        for info in source.infolist():
            data = source.read(info)
            if kind == "pickled" and info.filename.endswith("model_weights_config.json"):
                data = data.replace(b'"use_pickle": false', b'"use_pickle": true ')
                data = data.replace(b'"use_pickle":false', b'"use_pickle":true ')
            packed = kind == "compressed" and "/data/weights/weight" in info.filename
            method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            target.writestr(info.filename, data, method)
    (tmp_path / "good.pt2").unlink()
    with pytest.raises(LipauditError, match=kind) as caught:
        clip(tmp_path / "in.pt2", tmp_path / "out.pt2")
    assert not isinstance(caught.value, NotCertified)
    assert [path.name for path in tmp_path.iterdir()] == ["in.pt2"]
