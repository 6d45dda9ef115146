"""torch.export programs, from a .pt2 file and from a live module: the graph computes the same."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import lipaudit
from lipaudit.errors import LipauditError, UnsafeFile
from lipaudit.formats.detect import read_model
from lipaudit.formats.live import from_module
from lipaudit.graph.model import Model, Topology
from lipaudit.layers import network
from lipaudit.layers.execution import run

ROOT = Path(__file__).resolve().parents[2]


class Convolutions(nn.Module):
    """Every sort of convolution in 1, 2 and 3 dimensions, and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(2, 4, 3, padding="same", dilation=2)
        self.ring = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", groups=2)
        self.up = nn.ConvTranspose2d(4, 3, 3, stride=2, output_padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.line = nn.Conv1d(3, 2, 5, stride=2)
        self.cube = nn.Conv3d(1, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.leaky_relu(self.same(x), 0.2)
        x = self.norm(self.up(functional.elu(self.ring(x))))
        x = functional.max_pool2d(x, 3, 2, padding=1) + functional.avg_pool2d(x, 3, 2, padding=1)
        y = self.line(x.flatten(2))
        z = functional.adaptive_avg_pool3d(self.cube(x.unsqueeze(1)), (2, 1, 1))
        return torch.cat([y.flatten(1), z.flatten(1)], dim=1)


class Arrangements(nn.Module):
    """Views, slices, joins and reductions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, dim=1)
        c = torch.cat([a.transpose(2, 3), b.permute(0, 1, 3, 2)], dim=1)
        d = torch.stack([c[:, 0], c[:, 1:3].mean(dim=1), c.amax(dim=1)], dim=1)
        e = functional.pad(d, (1, 2, 0, 1)) * 2.0 - 1.0
        f = functional.pixel_shuffle(functional.interpolate(c, scale_factor=2.0), 2)
        g = functional.interpolate(d, size=(5, 7), mode="bilinear")
        parts = [
            e.flip(2).sum(dim=(2, 3)),
            f.flatten(1)[:, ::3],
            g.unsqueeze(1).squeeze(1).flatten(1),
        ]
        return torch.cat([part.reshape(1, -1) / 3 for part in parts], dim=1)


class Activations(nn.Module):
    """Activations with and without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.prelu = nn.PReLU(4)
        self.all = nn.Sequential(
            nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(),
            nn.Softplus(), nn.Hardswish(), nn.Hardsigmoid(), nn.SELU(), nn.CELU(0.5), nn.ReLU6(),
            nn.Hardtanh(-0.5, 0.7), nn.Softsign(), nn.LogSoftmax(dim=1), nn.Softmax(dim=-1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.all(self.prelu(x)) + torch.clamp(x, min=-0.1)
        return torch.maximum(made, x.abs().sqrt()) - torch.exp(-x)


class Transformer(nn.Module):
    """Embedding-free attention block with layer and group norms."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.group = nn.GroupNorm(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.group(self.block(x))
        return made


CASES: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "convolutions": (Convolutions, (1, 2, 8, 8)),
    "arrangements": (Arrangements, (1, 4, 4, 6)),
    "activations": (Activations, (1, 4, 3, 5)),
    "transformer": (Transformer, (1, 5, 8)),
}


def made_by(model: Model, x: torch.Tensor) -> torch.Tensor:
    (edge,) = model.graph.inputs
    values = run(network.build(model.graph), {edge.name: x}, None)
    return values[model.graph.outputs[0].name]


@pytest.mark.parametrize("name", CASES)
def test_the_graph_computes_what_the_module_computes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    kind, shape = CASES[name]
    module = kind().eval()
    x = torch.randn(shape)
    with torch.no_grad():
        truth = module(x)
        torch.export.save(torch.export.export(module, (x,)), tmp_path / "m.pt2")
    read = read_model(str(tmp_path / "m.pt2"))
    live = from_module(module, [shape])
    for model in (read, live):
        assert model.topology is Topology.STATED
        assert not [node.op for node in model.graph.nodes if node.domain == "aten"]
        torch.testing.assert_close(made_by(model, x), truth, rtol=1e-5, atol=1e-5)
    weights = module.state_dict()
    assert {key: c.shape for key, c in read.tensors.items()} == {
        key: tuple(value.shape) for key, value in weights.items()
    }


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    path = tmp_path / "net.pt2"
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3),)), path)
    return path


def rewritten(path: Path, change: dict[str, tuple[bytes, bytes]]) -> None:
    with zipfile.ZipFile(path) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    assert all(any(name.endswith(end) for name, _ in members) for end in change)
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members:
            for end, (before, after) in change.items():
                if name.endswith(end):
                    assert before in data
                    data = data.replace(before, after)  # noqa: PLW2901 - edited in passing
            new.writestr(name, data)


def test_a_pickled_weight_is_refused(exported: Path) -> None:
    rewritten(exported, {"weights_config.json": (b'"use_pickle": false', b'"use_pickle": true')})
    with pytest.raises(UnsafeFile, match="is pickled inside the pt2"):
        read_model(str(exported))


def test_an_unknown_schema_is_refused(exported: Path) -> None:
    rewritten(exported, {"models/model.json": (b'"major": 8', b'"major": 99')})
    with pytest.raises(LipauditError, match="schema version 99"):
        read_model(str(exported))


def test_an_unknown_operation_stays_opaque_and_named(exported: Path) -> None:
    rewritten(exported, {"models/model.json": (b"aten.relu.default", b"evil.frob.default")})
    report = lipaudit.bound(exported).models[0]
    assert report.bound is not None
    assert not report.bound.measure.is_finite
    assert "frob" in report.bound.reasons[0]


def test_a_payload_among_the_sample_inputs_never_runs(exported: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    payload = f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode()
    with zipfile.ZipFile(exported) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(exported, "w") as new:
        for name, data in members:
            new.writestr(name, payload if "sample_inputs" in name else data)
    done = subprocess.run(
        [sys.executable, "-m", "lipaudit", "inspect", exported],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "LIP005" in done.stdout
    assert not marker.exists()


def test_clip_keeps_the_archive_loadable(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pt2"
    lipaudit.clip(exported, to=0.3, output=out)
    program = torch.export.load(out)
    for key, value in program.state_dict.items():
        if value.dim() == 2:
            assert float(torch.linalg.svdvals(value.detach().double())[0]) <= 0.3, key


def test_a_factory_gives_a_bare_checkpoint_its_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mynet.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a = torch.nn.Linear(4, 4)\n"
        "        self.b = torch.nn.Linear(4, 4)\n"
        "    def forward(self, x):\n"
        "        return x + self.b(torch.relu(self.a(x)))\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(4)
    state = {f"module.{p}.{q}": torch.randn(*s) for p in "ab" for q, s in
             (("weight", (4, 4)), ("bias", (4,)))}  # fmt: skip
    torch.save({"state_dict": state}, tmp_path / "net.ckpt")
    report = lipaudit.bound(tmp_path / "net.ckpt", input_shape=(4,), model="mynet:Net").models[0]
    norms = [float(torch.linalg.svdvals(state[f"module.{p}.weight"].double())[0]) for p in "ab"]
    assert report.bound is not None
    assert report.bound.certified
    graph = next(bound for bound in report.bounds if bound.method == "graph")
    assert graph.measure.upper == pytest.approx(1 + norms[0] * norms[1], rel=1e-6)
    for wrong in ("mynet", "mynet:Missing", "nowhere:Net", "mynet:torch"):
        with pytest.raises(LipauditError):
            lipaudit.bound(tmp_path / "net.ckpt", input_shape=(4,), model=wrong)
    with pytest.raises(LipauditError, match="--input-shape"):
        lipaudit.bound(tmp_path / "net.ckpt", model="mynet:Net")


def test_a_checkpoint_without_batch_counters_fits_its_factory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of before torch 0.4.1 have no num_batches_tracked."""
    (tmp_path / "oldnet.py").write_text(
        "import torch\n"
        "def Net():\n"
        "    return torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    state = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)).state_dict()
    kept = {key: value for key, value in state.items() if "num_batches" not in key}
    torch.save(kept, tmp_path / "old.pt")
    report = lipaudit.bound(tmp_path / "old.pt", input_shape=(3,), model="oldnet:Net").models[0]
    assert report.bound is not None
    assert report.bound.certified


@pytest.mark.parametrize(
    ("module", "stated", "taken"),
    [
        (nn.Linear(5, 2), (5,), (1, 5)),
        (nn.Linear(5, 2), (1, 5), (1, 5)),
        (nn.Linear(5, 2), (3, 5), (1, 3, 5)),
        (nn.Conv2d(2, 3, 3), (2, 6, 6), (1, 2, 6, 6)),
        (nn.Conv2d(2, 3, 3), (1, 2, 6, 6), (1, 2, 6, 6)),
        (nn.Conv2d(1, 3, 3), (1, 6, 6), (1, 1, 6, 6)),
        (nn.AdaptiveAvgPool2d(1), (1, 2, 6, 7), (1, 2, 6, 7)),
        (nn.RNN(3, 4), (7, 3), (7, 1, 3)),
        (nn.RNN(3, 4), (7, 1, 3), (7, 1, 3)),
        (nn.LSTM(3, 4, batch_first=True), (7, 3), (1, 7, 3)),
    ],
)
def test_a_shape_is_stated_with_or_without_its_batch_axis(
    module: nn.Module, stated: tuple[int, ...], taken: tuple[int, ...]
) -> None:
    model = lipaudit.load(nn.Sequential(module).eval(), input_shape=stated)
    (edge,) = model.graph.inputs
    assert edge.known_shape == taken
    assert lipaudit.bound(model, input_shape=stated).models[0].input_shapes == {edge.name: taken}
