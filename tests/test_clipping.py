"""Clipping: the written file meets the limit by an independent SVD, and nothing else changed."""

from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors.torch import load_file, save_file
from torch import nn

import lipaudit
from lipaudit.errors import LipauditError, NotCertified, UsageError, WriteRefused


def weights(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {
        "0.weight": torch.randn(7, 5).to(dtype),
        "0.bias": torch.randn(7).to(dtype),
        "2.weight": (torch.randn(4, 7) * 0.01).to(dtype),
    }


def true_norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.svdvals(tensor.to(torch.float64))[0])


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize("limit", [1.0, 0.37])
def test_the_stored_tensor_meets_the_limit(
    dtype: torch.dtype, limit: float, tmp_path: Path
) -> None:
    before = weights(dtype)
    save_file(before, tmp_path / "in.safetensors", metadata={"who": "me"})
    out = tmp_path / "out.safetensors"
    report = lipaudit.clip(tmp_path / "in.safetensors", to=limit, output=out)
    after = load_file(out)
    assert true_norm(after["0.weight"]) <= limit
    assert true_norm(after["0.weight"]) >= limit * 0.97
    assert after["0.weight"].dtype == dtype
    for key in ("0.bias", "2.weight"):
        assert torch.equal(after[key], before[key])
    changed = {change.name: change for change in report.changes}
    assert changed["0"].tensors == ("0.weight",)
    assert changed["2"].tensors == ()
    assert changed["0"].after.upper <= limit
    again = lipaudit.clip(out, to=limit, output=tmp_path / "again.safetensors")
    assert not [change for change in again.changes if change.tensors]
    assert (tmp_path / "again.safetensors").read_bytes() == out.read_bytes()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_keeps_everything_else(tmp_path: Path, *, legacy: bool) -> None:
    tree = {"epoch": 3, "state_dict": weights(), "optimizer": {"lr": 0.1, "m": torch.ones(3)}}
    path, out = tmp_path / "in.ckpt", tmp_path / "out.ckpt"
    torch.save(tree, path, _use_new_zipfile_serialization=not legacy)
    lipaudit.clip(path, to=1.0, output=out)
    loaded = torch.load(out, weights_only=True)
    assert true_norm(loaded["state_dict"]["0.weight"]) <= 1.0
    assert torch.equal(loaded["state_dict"]["2.weight"], tree["state_dict"]["2.weight"])  # type: ignore[index] # a dict
    assert loaded["epoch"] == 3
    assert torch.equal(loaded["optimizer"]["m"], torch.ones(3))


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    shared = torch.randn(4, 4) * 3
    torch.save({"a.weight": shared, "b.weight": shared}, tmp_path / "in.pt")
    lipaudit.clip(tmp_path / "in.pt", to=1.0, output=tmp_path / "out.pt")
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert loaded["a.weight"].data_ptr() == loaded["b.weight"].data_ptr()
    assert true_norm(loaded["a.weight"]) <= 1.0


def test_weight_norm_is_written_back_into_g(tmp_path: Path) -> None:
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 6)))
    state = module.state_dict()
    state["0.parametrizations.weight.original0"] *= 4
    torch.save(state, tmp_path / "in.pt")
    lipaudit.clip(tmp_path / "in.pt", to=1.0, output=tmp_path / "out.pt")
    module.load_state_dict(torch.load(tmp_path / "out.pt", weights_only=True))
    effective = module[0].weight
    assert isinstance(effective, torch.Tensor)
    # torch multiplies in float32, which the certificate of the exact product cannot cover.
    assert true_norm(effective.detach()) <= 1 + 1e-6


def test_onnx_still_runs_and_only_the_weight_changed(tmp_path: Path) -> None:
    import onnxruntime  # noqa: PLC0415 - only this test runs it

    torch.manual_seed(5)
    weight = torch.randn(6, 5)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 6])],
        [helper.make_tensor_value_info("y", 1, [1, 5])],
        [numpy_helper.from_array(weight.numpy(), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "in.onnx")
    lipaudit.clip(tmp_path / "in.onnx", to=1.0, output=tmp_path / "out.onnx")
    after = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(after)
    stored = torch.from_numpy(numpy_helper.to_array(after.graph.initializer[0]).copy())
    assert true_norm(stored) <= 1.0
    x = torch.randn(1, 6)
    session = onnxruntime.InferenceSession(str(tmp_path / "out.onnx"))
    (made,) = session.run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(made), torch.relu(x @ stored))


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(limit: float, tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "in.pt")
    with pytest.raises(UsageError, match="cannot clip"):
        lipaudit.clip(tmp_path / "in.pt", to=limit, output=tmp_path / "out.pt")


def test_input_and_existing_files_are_safe(tmp_path: Path) -> None:
    path, other = tmp_path / "in.pt", tmp_path / "other.pt"
    torch.save(weights(), path)
    other.write_bytes(b"precious")
    old = path.read_bytes()
    for target in (path, other):
        with pytest.raises(WriteRefused):
            lipaudit.clip(path, to=1.0, output=target)
    lipaudit.clip(path, to=1.0, output=tmp_path / "dry.pt", dry_run=True)
    assert path.read_bytes() == old
    assert other.read_bytes() == b"precious"
    assert sorted(found.name for found in tmp_path.iterdir()) == ["in.pt", "other.pt"]


def test_what_cannot_be_scaled_is_refused_and_may_be_left_out(tmp_path: Path) -> None:
    tree = weights()
    tree["2.weight"] = torch.full((4, 7), torch.nan)
    torch.save(tree, tmp_path / "in.pt")
    with pytest.raises(NotCertified, match="are NaN"):
        lipaudit.clip(tmp_path / "in.pt", to=1.0, output=tmp_path / "out.pt")
    lipaudit.clip(tmp_path / "in.pt", to=1.0, output=tmp_path / "out.pt", layers="0")
    assert (tmp_path / "out.pt").exists()


def test_a_live_module_has_no_file_to_copy() -> None:
    with pytest.raises(LipauditError):
        lipaudit.clip(nn.Sequential(nn.Linear(2, 2)), to=1.0, output="nowhere.pt")  # type: ignore[arg-type] # the point
