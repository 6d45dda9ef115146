"""`lipaudit clip` from the outside: what it writes meets its limit by a dense oracle."""

import json
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from lipaudit.operators.geometry import ConvGeometry, PaddingMode
from tests.commands import Commands, Done
from tests.oracles import appendix_a, conv_matrix, frequency_maximum, singular_values

PLAIN = ConvGeometry((1, 1), ((0, 0), (0, 0)), (1, 1))
PADDED = ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1))


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    server = Commands(tmp_path_factory.mktemp("commands"))
    yield server
    server.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    state = {
        "features.conv.weight": torch.randn(4, 3, 3, 3),
        "head.weight": torch.randn(5, 8),
        "head.bias": torch.zeros(5),
        "small.weight": torch.randn(5, 5) * 0.01,
    }
    torch.save(state, tmp_path / "in.pt")
    return tmp_path


def clip(commands: Commands, folder: Path, *arguments: str, name: str = "in.pt") -> Done:
    suffix = Path(name).suffix
    return commands.run("clip", name, "-o", f"out{suffix}", *arguments, cwd=folder)


def stored(folder: Path, name: str = "out.pt") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / name, weights_only=True)
    return state


def dense_norm(weight: torch.Tensor) -> float:
    return float(torch.linalg.svdvals(weight.detach().double())[0])


def everywhere(kernel: torch.Tensor) -> float:
    """Return the norm of a convolution at every input size."""
    return frequency_maximum(kernel.detach().double(), PLAIN, 128)


def assert_inspected(commands: Commands, folder: Path, limit: float, *more: str) -> None:
    for svd in ((), ("--svd",)):
        done = commands.run("inspect", "out.pt", "--max-norm", str(limit), *svd, *more, cwd=folder)
        assert done.code == 0, done


def assert_refused(done: Done, folder: Path, cause: str, code: int = 2) -> None:
    assert done.code == code, done
    assert cause in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "out.pt").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf", "-inf", "1e999"])
def test_what_is_no_limit(limit: str, folder: Path, commands: Commands) -> None:
    assert_refused(clip(commands, folder, "--to", limit), folder, "cannot clip to")
    assert_refused(clip(commands, folder, "--bound", limit), folder, "cannot clip to")


def test_orders_that_make_no_sense(folder: Path, commands: Commands) -> None:
    for arguments, cause in (
        ((), "no limit is stated"),
        (("--to", "1", "--bound", "2"), "--bound chooses the limits"),
        (("--bound", "2", "--method", "sedghi"), "the single pass meets no limit"),
        (("--to", "1", "--method", "nonsense"), "no method 'nonsense'"),
        (("--to", "1", "--layers", "nothing*"), "no layer is called 'nothing*'"),
        (("--to", "1", "--layers", "head,missing"), "no layer is called 'missing'"),
        (("--limits", "missing.toml"), "missing.toml"),
    ):
        assert_refused(clip(commands, folder, *arguments), folder, cause)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("too = 1.0", "too"),
        ("to = 1.0\n[layer]\nhead = 1.0", "layer"),
        ('to = "1.0"', "must be a"),
        ("to = true", "must be a"),
        ("to = nan", "must be a"),
        ("to = 0", "must be a"),
        ("to = -1.0", "must be a"),
        ("to = inf", "must be a"),
        ("layers = 1.0", "layers"),
        ("[layers]\nhead = nan", "must be a"),
        ('[layers]\nhead = "1"', "must be a"),
        ("to 1.0", "is not valid TOML"),
        ("", "states no limit"),
        ("[layers]", "states no limit"),
        ("[layers]\nnothing = 1.0", "no layer is called 'nothing'"),
    ],
)
def test_a_limits_file_with_a_mistake(
    text: str, cause: str, folder: Path, commands: Commands
) -> None:
    (folder / "limits.toml").write_text(text)
    assert_refused(clip(commands, folder, "--limits", "limits.toml"), folder, cause)


def test_limits_of_single_layers(folder: Path, commands: Commands) -> None:
    before = stored(folder, "in.pt")
    (folder / "limits.toml").write_text('to = 2.0\n[layers]\n"features.*" = 1.5\n"f*" = 3.0\n')
    done = clip(commands, folder, "--limits", "limits.toml")
    assert done.code == 0, done
    after = stored(folder)
    assert 1.5 * 0.98 <= everywhere(after["features.conv.weight"]) <= 1.5
    assert 2.0 * 0.999 <= dense_norm(after["head.weight"]) <= 2.0
    assert torch.equal(after["small.weight"], before["small.weight"])
    (folder / "limits.toml").write_text("[layers]\nhead = 1.0\n")
    assert clip(commands, folder, "--limits", "limits.toml", "--force").code == 0
    after = stored(folder)
    assert dense_norm(after["head.weight"]) <= 1.0
    assert torch.equal(after["features.conv.weight"], before["features.conv.weight"])


def test_only_the_layers_that_are_named(folder: Path, commands: Commands) -> None:
    before = stored(folder, "in.pt")
    assert clip(commands, folder, "--to", "1", "--layers", "head").code == 0
    after = stored(folder)
    assert dense_norm(after["head.weight"]) <= 1.0
    assert torch.equal(after["features.conv.weight"], before["features.conv.weight"])


@pytest.mark.parametrize("method", ["project", "scale"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_every_dtype_meets_the_limit(
    dtype: str, method: str, folder: Path, commands: Commands
) -> None:
    state = {key: value.to(getattr(torch, dtype)) for key, value in stored(folder, "in.pt").items()}
    torch.save(state, folder / "in.pt")
    done = clip(commands, folder, "--to", "1", "--method", method, "--report", "json=plan.json")
    assert done.code == 0, done
    after = stored(folder)
    assert 0.97 <= everywhere(after["features.conv.weight"]) <= 1.0
    assert dense_norm(after["head.weight"]) <= 1.0
    assert {value.dtype for value in after.values()} == {getattr(torch, dtype)}
    assert_inspected(commands, folder, 1.0)
    again = commands.run("clip", "out.pt", "--to", "1", "-o", "again.pt", cwd=folder)
    assert again.code == 0, again
    assert (folder / "again.pt").read_bytes() == (folder / "out.pt").read_bytes()
    plan = json.loads((folder / "plan.json").read_text())
    assert all(change["after"]["upper"] <= 1.0 for change in plan["changes"] if change["limit"])


def test_projecting_changes_less_than_scaling(folder: Path, commands: Commands) -> None:
    before = stored(folder, "in.pt")
    far = {}
    for method in ("project", "scale", "sedghi"):
        clip(commands, folder, "--to", "1", "--method", method, "--force")
        after = stored(folder)
        far[method] = {key: float((after[key] - before[key]).norm()) for key in before}
    for key in ("features.conv.weight", "head.weight"):
        assert far["project"][key] < 0.98 * far["scale"][key]


def factory(folder: Path, body: str) -> tuple[str, str]:
    """Write a module with a function `net`, and return what names it on the command line."""
    (folder / "made.py").write_text("from torch import nn\n" + textwrap.dedent(body))
    return "--model", "made:net"


def test_the_papers_single_pass(tmp_path: Path, commands: Commands) -> None:
    torch.manual_seed(1)
    kernel = torch.randn(3, 2, 3, 3)
    torch.save({"0.weight": kernel}, tmp_path / "in.pt")
    made = factory(
        tmp_path,
        """
        def net():
            conv = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False)
            return nn.Sequential(conv)
        """,
    )
    limit = 1.0
    here = (*made, "--input-shape", "2x6x8")
    done = clip(commands, tmp_path, "--to", "1", "--method", "sedghi", *here)
    assert done.code == 1, done  # one pass does not meet the limit, and says so
    after = stored(tmp_path)["0.weight"]
    expected = appendix_a(kernel.double(), (6, 8), limit)
    torch.testing.assert_close(after.double(), expected, rtol=0, atol=1e-6)
    circular = ConvGeometry((1, 1), ((1, 1), (1, 1)), (1, 1), mode=PaddingMode.CIRCULAR)
    assert singular_values(conv_matrix(after.double(), circular, (2, 6, 8)))[0] > limit
    assert clip(commands, tmp_path, "--to", "1", "--force", *here).code == 0
    after = stored(tmp_path)["0.weight"]
    assert singular_values(conv_matrix(after.double(), circular, (2, 6, 8)))[0] <= limit


def normalized(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Write conv and batch norm in ONNX; return the kernel and what the norm multiplies by."""
    torch.manual_seed(2)
    kernel, scale, variance = torch.randn(4, 2, 3, 3), torch.randn(4), torch.rand(4) + 0.1
    stored = {
        "w": kernel, "g": scale, "b": torch.zeros(4), "m": torch.randn(4), "v": variance,
    }  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1], name="conv"),
            helper.make_node("BatchNormalization", ["h", "g", "b", "m", "v"], ["y"], name="bn"),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 2, 6, 5])],
        [helper.make_tensor_value_info("y", 1, [1, 4, 6, 5])],
        [numpy_helper.from_array(value.numpy(), key) for key, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "in.onnx")
    return kernel, scale / (variance + 1e-5).sqrt()


def test_a_convolution_with_its_batch_norm(tmp_path: Path, commands: Commands) -> None:
    kernel, factors = normalized(tmp_path)

    def composite(values: torch.Tensor) -> float:
        folded = (values * factors[:, None, None, None]).double()
        return float(singular_values(conv_matrix(folded, PADDED, (2, 6, 5)))[0])

    assert clip(commands, tmp_path, "--to", "1", "--fold-bn", name="in.onnx").code == 0
    before = onnx.load(tmp_path / "in.onnx").graph.initializer
    after = onnx.load(tmp_path / "out.onnx").graph.initializer
    changed = [
        old.name for old, new in zip(before, after, strict=True) if old.raw_data != new.raw_data
    ]
    assert changed == ["w"]
    assert composite(kernel) > 1.0
    assert composite(torch.from_numpy(numpy_helper.to_array(after[0]).copy())) <= 1.0 + 1e-7
    plain = clip(commands, tmp_path, "--to", "1", "--force", name="in.onnx")
    assert plain.code == 0
    assert "--fold-bn" in plain.stdout


def test_tied_weights_stay_tied(tmp_path: Path, commands: Commands) -> None:
    torch.manual_seed(3)
    shared = torch.randn(6, 6)
    torch.save({"a.weight": shared, "b.weight": shared, "c.weight": shared.T}, tmp_path / "in.pt")
    assert clip(commands, tmp_path, "--to", "1").code == 0
    after = stored(tmp_path)
    assert len({value.data_ptr() for value in after.values()}) == 1
    assert torch.equal(after["a.weight"].T, after["c.weight"])
    assert 0.99 <= dense_norm(after["a.weight"]) <= 1.0
    assert_inspected(commands, tmp_path, 1.0)


def parametrized(kind: Any) -> nn.Sequential:
    torch.manual_seed(4)
    conv = kind(nn.Conv2d(2, 3, 5, padding=2, bias=False))
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.abs_().mul_(3.0)
    for _ in range(50):
        conv(torch.randn(1, 2, 7, 7))
    return nn.Sequential(conv).eval()


@pytest.mark.parametrize(
    "kind",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
    ],
    ids=["weight_norm", "spectral_norm", "old weight_norm", "old spectral_norm"],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_effective_weights_meet_the_limit(kind: Any, tmp_path: Path, commands: Commands) -> None:
    module = parametrized(kind)
    torch.save(module.state_dict(), tmp_path / "in.pt")
    assert everywhere(module[0].weight) > 2.0  # type: ignore[arg-type] # a tensor
    done = clip(commands, tmp_path, "--to", "1")
    assert done.code == 0, done
    module.load_state_dict(stored(tmp_path))
    module(torch.randn(1, 2, 7, 7))  # the old hooks compute the weight here
    effective = module[0].weight
    assert isinstance(effective, torch.Tensor)
    # torch multiplies in float32; the certificate is that of the exact product.
    assert 0.95 <= everywhere(effective) <= 1.0 + 1e-6
    assert_inspected(commands, tmp_path, 1.0)


def test_a_dry_run_writes_the_plan_and_nothing_else(folder: Path, commands: Commands) -> None:
    done = clip(commands, folder, "--to", "1", "--dry-run", "--report", "json=plan.json")
    assert done.code == 0, done
    assert sorted(path.name for path in folder.iterdir()) == ["in.pt", "plan.json"]
    plan = json.loads((folder / "plan.json").read_text())
    changed = {change["name"]: change["tensors"] for change in plan["changes"]}
    assert changed == {
        "features.conv": ["features.conv.weight"], "head": ["head.weight"], "small": [],
    }  # fmt: skip


def test_a_bound_that_cannot_be_met(folder: Path, commands: Commands) -> None:
    done = clip(commands, folder, "--bound", "1")
    assert_refused(done, folder, "", code=3)


def test_a_pipe_is_not_replaced(commands: Commands, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    done = commands.run("clip", "in.pt", "--to", "1", "-o", "pipe", "--force", cwd=folder)
    assert_refused(done, folder, "a pipe or a device")
    assert (folder / "pipe").is_fifo()


def test_a_file_without_layers_is_refused(commands: Commands, folder: Path) -> None:
    torch.save({"scale": torch.ones(3)}, folder / "bare.pt")
    done = commands.run("clip", "bare.pt", "--to", "1", "-o", "out.pt", cwd=folder)
    assert_refused(done, folder, "no layer to clip")


def test_what_stays_above_the_limit_is_named(commands: Commands, folder: Path) -> None:
    norm_layer = nn.BatchNorm2d(4).eval()
    with torch.no_grad():
        norm_layer.weight.fill_(7.0)
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3), norm_layer), folder / "bn.pt")
    done = commands.run("clip", "bn.pt", "--to", "1", "-o", "out.pt", cwd=folder)
    assert done.code == 0
    assert "still above 1, since it is not clipped: 1" in done.stdout


def test_an_absurd_limit_ends(commands: Commands, folder: Path) -> None:
    assert clip(commands, folder, "--to", "1e-320").code == 0
    assert not any(bool(value.any()) for value in stored(folder).values() if value.dim() > 1)
