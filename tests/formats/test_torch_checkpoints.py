"""Torch files read as data: the same tensors torch reads, and nothing of what runs."""

import pickle
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import lipaudit
from lipaudit.errors import LipauditError, MalformedFile, UnsafeFile
from lipaudit.formats.detect import read_model
from lipaudit.graph.model import Topology
from lipaudit.layers import network
from lipaudit.layers.execution import run
from tests import shared_models

ROOT = Path(__file__).resolve().parents[2]
DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8,
    torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn,
    torch.float8_e5m2,
]  # fmt: skip


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Bit for bit."""
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return False
    a, b = ours.contiguous().flatten(), theirs.contiguous().flatten()
    return a.numel() == 0 or torch.equal(a.view(torch.uint8), b.view(torch.uint8))


# torch itself cannot save 8-bit floats in the legacy layout.
LAYOUTS = [(dtype, False) for dtype in DTYPES] + [
    (d, True) for d in DTYPES if "float8" not in str(d)
]


@pytest.mark.parametrize(("dtype", "legacy"), LAYOUTS, ids=str)
def test_tensors_equal_torchs_bit_for_bit(
    dtype: torch.dtype, tmp_path: Path, *, legacy: bool
) -> None:
    torch.manual_seed(0)
    base = (torch.randn(6, 4) * 3).to(dtype)
    tree = {
        "plain": base.clone(),
        "turned": base.t(),
        "part": base[1:5:2, 1:],
        "scalar": base[0, 0].clone(),
        "empty": base[:0].clone(),
        "inner": {"again": base},
    }
    torch.save(tree, tmp_path / "t.pt", _use_new_zipfile_serialization=not legacy)
    model = read_model(str(tmp_path / "t.pt"))
    truth = torch.load(tmp_path / "t.pt", weights_only=True)
    flat = {
        **{k: v for k, v in truth.items() if k != "inner"},
        "inner/again": truth["inner"]["again"],
    }
    assert set(model.tensors) == set(flat)
    for key, theirs in flat.items():
        assert same(model.tensors[key].read(), theirs), key


def test_wrappers_are_looked_through(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    tree = {
        "epoch": 7,
        "state_dict": state,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(4, 3)}}}],
        "hyper_parameters": Namespace(lr=0.1),
    }
    torch.save(tree, tmp_path / "l.ckpt")
    model = read_model(str(tmp_path / "l.ckpt"))
    assert list(model.tensors) == [f"state_dict/module.{key}" for key in net.state_dict()]
    assert [node.name for node in model.graph.nodes] == ["0", "2"]
    assert model.topology is Topology.ASSUMED
    assert any("optimizer_states" in note for note in model.notes)


@pytest.mark.parametrize(
    ("shapes", "topology"),
    [
        ({"0.weight": (4, 3), "2.weight": (2, 4)}, Topology.ASSUMED),
        ({"conv1.weight": (4, 3, 3, 3), "fc.weight": (5, 36)}, Topology.ASSUMED),
        ({"body.weight": (4, 3), "head1.weight": (2, 4), "head2.weight": (2, 4)}, Topology.UNKNOWN),
        ({"rnn.weight_ih_l0": (4, 3), "rnn.weight_hh_l0": (4, 4)}, Topology.UNKNOWN),
        (
            {"block1.conv1.weight": (3, 3, 3, 3), "block2.conv1.weight": (3, 3, 3, 3)},
            Topology.UNKNOWN,
        ),
        ({"fc.weight": (4, 3), "position": (4, 4)}, Topology.UNKNOWN),
    ],
)
def test_a_chain_is_assumed_only_when_nothing_is_left_over(
    shapes: dict[str, tuple[int, ...]], topology: Topology, tmp_path: Path
) -> None:
    torch.save({key: torch.randn(shape) for key, shape in shapes.items()}, tmp_path / "s.pt")
    assert read_model(str(tmp_path / "s.pt")).topology is topology


@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
    ],
    ids=["weight_norm", "spectral_norm", "parametrized weight_norm", "parametrized spectral_norm"],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("layer", [nn.Linear(5, 6), nn.Conv2d(3, 4, 3)], ids=["linear", "conv"])
def test_parametrized_weights_are_the_effective_ones(
    wrap: Callable[[nn.Module], nn.Module], layer: nn.Module, tmp_path: Path
) -> None:
    import copy  # noqa: PLC0415 - the parametrization changes its argument

    torch.manual_seed(1)
    made = wrap(copy.deepcopy(layer)).eval()
    x = torch.randn(2, 5) if isinstance(layer, nn.Linear) else torch.randn(1, 3, 6, 6)
    made(x)
    torch.save({f"fc.{k}": v for k, v in made.state_dict().items()}, tmp_path / "p.pt")
    model = read_model(str(tmp_path / "p.pt"))
    (node,) = model.graph.nodes
    ours = model.graph.constants[node.inputs[1]].values()
    assert isinstance(made.weight, torch.Tensor)
    theirs = made.weight.detach().double()
    # torch works the quotient out in float32: a few of its roundings, 6e-8 each, sums included.
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


SEQUENTIALS: list[tuple[list[nn.Module], tuple[int, ...]]] = [
    ([nn.Linear(4, 5), nn.LeakyReLU(0.2), nn.Linear(5, 2), nn.Softmax(dim=1)], (4,)),
    ([nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.ELU(0.7), nn.Flatten()], (2, 7, 7)),
    ([nn.Conv1d(2, 3, 3, padding="same", dilation=2), nn.BatchNorm1d(3), nn.Tanh()], (2, 9)),
    ([nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.Sigmoid()], (2, 6, 6)),
    ([nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.GELU()], (2, 6, 6)),
    ([nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1), nn.ReLU6()], (2, 4, 4)),
    ([nn.MaxPool2d(3, stride=2, padding=1), nn.AvgPool2d(2), nn.Hardtanh()], (2, 9, 9)),
    ([nn.AdaptiveAvgPool2d((3, 2)), nn.Flatten(), nn.LayerNorm(12)], (2, 7, 7)),
    ([nn.Conv3d(1, 2, 2), nn.PReLU(), nn.Dropout(), nn.Identity()], (1, 4, 4, 4)),
]


@pytest.mark.parametrize(("layers", "shape"), SEQUENTIALS, ids=range(len(SEQUENTIALS)))
def test_a_pickled_sequential_runs_as_torch_runs_it(
    layers: list[nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(2)
    net = nn.Sequential(*layers).eval()
    torch.save(net, tmp_path / "n.pt")
    model = read_model(str(tmp_path / "n.pt"))
    assert model.topology is Topology.STATED
    x = torch.randn(1, *shape)
    made = run(network.build(model.graph, {"input": (1, *shape)}), {"input": x}, None)
    torch.testing.assert_close(next(iter(made.values())), net(x), rtol=1e-5, atol=1e-5)


class Own(nn.Module):
    """A class with forward code of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3)


def test_an_own_class_gives_layers_with_their_geometry(tmp_path: Path) -> None:
    torch.save(Own(), tmp_path / "o.pt")
    model = read_model(str(tmp_path / "o.pt"))
    assert model.topology is Topology.UNKNOWN
    (node,) = model.graph.nodes
    assert node.name == "conv"
    assert node.attributes["strides"] == (2, 2)
    assert node.attributes["group"] == 3


class Payload:
    """Touches a file when it is unpickled by somebody careless."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        import os  # noqa: PLC0415 - what attackers do

        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_payload_is_shown_and_never_runs(tmp_path: Path, *, legacy: bool) -> None:
    marker = tmp_path / "marker"
    tree = {"weight": torch.eye(3), "extra": Payload(marker)}
    torch.save(tree, tmp_path / "evil.pt", _use_new_zipfile_serialization=not legacy)
    done = subprocess.run(
        [sys.executable, "-m", "lipaudit", "inspect", tmp_path / "evil.pt"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "LIP005" in done.stdout
    assert "posix.system" in done.stdout
    assert not marker.exists()


def edited(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "f.pt"
    torch.save({"w": torch.full((4, 4), 1.25)}, path)
    edited(path, torch.full((4,), 1.25).numpy().tobytes(), torch.full((4,), 1.5).numpy().tobytes())
    with pytest.raises(MalformedFile, match="CRC mismatch"):
        read_model(str(path))


def rezipped(path: Path, change: Callable[[str, bytes], tuple[str, bytes, int]]) -> None:
    with zipfile.ZipFile(path) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members:
            title, content, method = change(name, data)
            new.writestr(title, content, compress_type=method)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, d: (n, d, 8 if "/data/" in n else 0), "is compressed"),
        (lambda n, d: ("../../x" if n.endswith("version") else n, d, 0), "unsafe member name"),
        (lambda n, d: (n, d[: len(d) // 2] if "/data/" in n else d, 0), "the pickle claims"),
        (lambda n, d: (n, b"odd" if n.endswith("byteorder") else d, 0), "neither little nor big"),
        (lambda n, d: (n, d[:50] if n.endswith("data.pkl") else d, 0), "pickle"),
    ],
    ids=["compressed", "outside", "short storage", "byte order", "cut pickle"],
)
def test_dishonest_zips_are_refused(
    change: Callable[[str, bytes], tuple[str, bytes, int]], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "z.pt"
    torch.save({"w": torch.randn(4, 4)}, path)
    rezipped(path, change)
    with pytest.raises(LipauditError, match=message):
        read_model(str(path))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_may_not_appear_twice(tmp_path: Path) -> None:
    path = tmp_path / "d.pt"
    torch.save({"w": torch.randn(4, 4)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("d/data/0", b"\0" * 64)
    with pytest.raises(UnsafeFile, match="appears twice"):
        read_model(str(path))


def test_an_expanded_tensor_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1).expand(1000, 1000)}, tmp_path / "e.pt")
    with pytest.raises(MalformedFile, match="declares 1,000,000 items"):
        read_model(str(tmp_path / "e.pt"))


def test_deep_nesting_and_great_lengths_are_refused(tmp_path: Path) -> None:
    cases = {
        b"\x80\x02" + b")" + b"\x85" * 2000 + b".": "nested deeper",
        b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"x.": "asks for",
        b"\x80\x02X" + (1 << 31).to_bytes(4, "little") + b"x.": "asks for",
        b"\x80\x02\x82\x01.": "opcode",
    }
    for data, message in cases.items():
        path = tmp_path / "x.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", data)
        with pytest.raises(LipauditError, match=message):
            read_model(str(path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 102530333\n",
            "102,530,333",
        ),
        (b"<!DOCTYPE html><html></html>", "HTML page"),
        (b"GGUF" + b"\0" * 60, "GGUF"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 60, "HDF5"),
        (bytes(range(256)) * 16, "not a known model format"),
        (b"PK\x03\x04" + b"\0" * 600, "zip"),
        (pickle.dumps({"a": 1}), "not a known model format"),
    ],
)
def test_what_is_no_model_is_named(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(data)
    with pytest.raises(LipauditError, match=message):
        read_model(str(path))


def test_an_average_beside_its_weights_is_left_out(tmp_path: Path) -> None:
    weights = {"0.weight": torch.randn(4, 3), "2.weight": torch.randn(2, 4)}
    average = {key: value.clone() for key, value in weights.items()}
    torch.save({"model": weights, "ema": average}, tmp_path / "e.pt")
    model = read_model(str(tmp_path / "e.pt"))
    assert [node.name for node in model.graph.nodes] == ["0", "2"]
    assert model.topology is Topology.ASSUMED
    assert any("EMA" in note for note in model.notes)
    torch.save({"ema": weights}, tmp_path / "only.pt")
    assert len(read_model(str(tmp_path / "only.pt")).graph.nodes) == 2


@pytest.mark.filterwarnings("ignore")
def test_tensors_of_other_layouts_are_named_not_dropped(tmp_path: Path) -> None:
    tree = {
        "dense.weight": torch.eye(3),
        "sparse.weight": torch.eye(3).to_sparse(),
        "quantized.weight": torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8),
        "meta.weight": torch.empty(3, 3, device="meta"),
    }
    torch.save(tree, tmp_path / "l.pt")
    model = read_model(str(tmp_path / "l.pt"))
    assert list(model.tensors) == ["dense.weight", "quantized.weight"]
    named = {unread.name: unread.slug for unread in model.unread}
    assert set(named) == {"sparse.weight", "meta.weight"}
    assert named["meta.weight"] == "meta-tensor"
    assert model.topology is not Topology.STATED


@pytest.mark.filterwarnings("ignore")
def test_quantized_tensors_are_the_numbers_they_stand_for(tmp_path: Path) -> None:
    torch.manual_seed(0)
    values = torch.randn(3, 4)
    scales, points = torch.tensor([0.1, 0.03, 0.5], dtype=torch.float64), torch.tensor([0, -5, 7])
    whole = torch.quantize_per_tensor(values, 0.05, 3, torch.quint8)
    channels = torch.quantize_per_channel(values, scales, points, 0, torch.qint8)
    torch.save({"a.weight": whole, "b.weight": channels}, tmp_path / "q.pt")
    model = read_model(str(tmp_path / "q.pt"))
    exact = {
        "a.weight": (whole.int_repr().double() - 3) * whole.q_scale(),
        "b.weight": (channels.int_repr().double() - points[:, None].double()) * scales[:, None],
    }
    for key, truth in exact.items():
        assert torch.equal(model.tensors[key].values(), truth)
        assert 0 < model.tensors[key].entry_error <= 2.0**-53
    assert any("qint8" in note for note in model.notes)


def test_optimizer_state_alone_is_no_model(tmp_path: Path) -> None:
    torch.save({"optimizer": {"state": {0: torch.ones(3)}}}, tmp_path / "o.pt")
    with pytest.raises(MalformedFile, match="optimizer state only"):
        read_model(str(tmp_path / "o.pt"))


def leaves(tree: object, path: str = "") -> dict[str, torch.Tensor]:
    """Name every tensor of what torch.load returns as lipaudit names it."""
    if isinstance(tree, torch.Tensor):
        return {path: tree}
    found: dict[str, torch.Tensor] = {}
    if isinstance(tree, dict):
        for key, value in tree.items():
            found |= leaves(value, f"{path}/{key}" if path else str(key))
    elif isinstance(tree, (list, tuple)):
        for at, value in enumerate(tree):
            found |= leaves(value, f"{path}[{at}]")
    return found


@pytest.mark.parametrize("name", shared_models.every(".pt", ".pth", ".ckpt", ".th", ".model"))
def test_models_by_other_people_read_as_torch_reads_them(name: str) -> None:
    path = shared_models.path(name)
    try:
        truth = leaves(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # noqa: BLE001 - torch has many ways to refuse
        pytest.skip(f"torch.load(weights_only=True) refuses it: {type(error).__name__}")
    model = read_model(str(path))
    assert model.tensors
    for key, constant in model.tensors.items():
        assert same(constant.read(), truth[key]), key


def test_a_weight_at_the_top_is_called_as_its_key(tmp_path: Path) -> None:
    torch.save(nn.RNN(4, 3).state_dict(), tmp_path / "rnn.pt")
    names = [layer.name for layer in lipaudit.inspect(tmp_path / "rnn.pt").layers]
    assert names == ["weight_ih_l0", "weight_hh_l0"]


A, B = torch.eye(3), torch.ones(3, 3)


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        # Containers that hold everything are no part of a name.
        ({"state_dict": {"fc.weight": A}}, ["fc"]),
        ({"state_dict": {"fc.weight": A}, "best": torch.tensor(0.5)}, ["fc"]),
        ({"a": {"b": {"module.fc.weight": A}}}, ["fc"]),
        # Of several networks each keeps its own.
        ({"G": {"conv.weight": A}, "D": {"fc.weight": B}}, ["G/conv", "D/fc"]),
        ({"G": {"fc.weight": A}, "D": {"fc.weight": B}}, ["G/fc", "D/fc"]),
        ({"x": {"G": {"module.a.weight": A}, "D": {"b.weight": B}}}, ["G/a", "D/b"]),
        ([{"a.weight": A}, {"b.weight": B}], ["[0]/a", "[1]/b"]),
        # A slash may be part of a key.
        ({"enc/fc.weight": A, "dec/fc.weight": B}, ["enc/fc", "dec/fc"]),
        ({"enc/one.weight": A, "enc/two.weight": B}, ["enc/one", "enc/two"]),
        ({"model": {"enc/one.weight": A, "dec/two.weight": B}}, ["enc/one", "dec/two"]),
        # What would be the same is told apart.
        (
            {"n": {"module.module.a.weight": A, "module.a.weight": B, "a.weight": A}},
            ["n/module.module.a", "n/module.a", "n/a"],
        ),
        ({"n": {"weight_ih": A}}, ["weight_ih"]),
    ],
    ids=str,
)
def test_names_are_whole_and_unique(tree: object, expected: list[str], tmp_path: Path) -> None:
    torch.save(tree, tmp_path / "n.pt")
    report = lipaudit.inspect(tmp_path / "n.pt").models[0]
    assert [layer.name for layer in report.layers] == expected


def test_what_a_name_was_is_said(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module.fc.weight": A}}, tmp_path / "n.pt")
    (model,) = lipaudit.inspect(tmp_path / "n.pt").models
    assert any("'state_dict/module.'" in note for note in model.notes)
    assert model.layers[0].tensors == ("state_dict/module.fc.weight",)
    torch.save({"module.fc.weight": A}, tmp_path / "p.pt")
    (model,) = lipaudit.inspect(tmp_path / "p.pt").models
    assert model.layers[0].name == "module.fc"
    assert not any("names of layers" in note for note in model.notes)


def test_networks_side_by_side_are_no_chain(tmp_path: Path) -> None:
    torch.save({"G": {"fc.weight": A}, "D": {"out.weight": B}}, tmp_path / "n.pt")
    assert read_model(str(tmp_path / "n.pt")).topology is Topology.UNKNOWN


def test_slashes_of_safetensors_stay(tmp_path: Path) -> None:
    save_file({"enc/fc.weight": A, "enc/out.weight": B}, tmp_path / "n.safetensors")
    names = [layer.name for layer in lipaudit.inspect(tmp_path / "n.safetensors").layers]
    assert names == ["enc/fc", "enc/out"]
