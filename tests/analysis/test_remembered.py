"""Layers that were measured before: the same numbers, for the same layer and no other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import lipaudit
from lipaudit.analysis import layerwise, remembered
from lipaudit.analysis.remembered import Question
from lipaudit.cache import codec, keys
from lipaudit.cache.store import LAYERS, Store
from lipaudit.device import Compute
from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.formats.source import Source
from lipaudit.graph.constant import computed
from lipaudit.graph.node import TORCH_DOMAIN, Node
from lipaudit.layers.base import Call
from lipaudit.layers.linear import Linear
from lipaudit.operators.base import Norm
from lipaudit.results import Report, Skipped


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture(autouse=True)
def everything_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "WORTH", 0.0)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the layers that were really measured."""
    names: list[str] = []
    real = layerwise._numbers

    def counting(question, *rest):  # type: ignore[no-untyped-def]
        sources = question.layer.weights()[0].sources
        names.append("".join(sources[:1]).removesuffix(".weight"))
        return real(question, *rest)

    monkeypatch.setattr(layerwise, "_numbers", counting)
    return names


def network(seed: int = 0, **geometry: int) -> nn.Sequential:
    torch.manual_seed(seed)
    options = {"stride": 1, "padding": 1} | geometry
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, **options),  # type: ignore[arg-type]
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    ).eval()


def parts(net: nn.Module) -> list[Any]:
    return list(net.children())


def inspect(store: Store | None, net: nn.Module, **options: object) -> Report:
    stated = {"input_shape": (3, 8, 8)} | options
    return lipaudit.inspect(net, cache=store, **stated)  # type: ignore[arg-type]


def test_a_second_run_measures_nothing_and_says_the_same(store: Store, measured: list[str]) -> None:
    net = network()
    plain = inspect(None, net, power_steps=3)
    assert len(measured) == 3
    first = inspect(store, net, power_steps=3)
    assert len(measured) == 6
    second = inspect(store, net, power_steps=3)
    assert len(measured) == 6
    assert plain == first == second


def test_one_changed_layer_costs_one_layer(store: Store, measured: list[str]) -> None:
    net = network()
    inspect(store, net)
    measured.clear()
    with torch.no_grad():
        weight = parts(net)[2].weight
        weight.view(-1).view(torch.int32)[5] ^= 1  # the last bit of one number
    found = inspect(store, net)
    assert measured == ["2"]
    assert found == inspect(None, net)


def test_names_are_no_part_of_the_key(store: Store, measured: list[str]) -> None:
    net = network()
    inspect(store, net)
    measured.clear()
    renamed = nn.Sequential()
    for count, part in enumerate(net):
        renamed.add_module(f"part{count}", part)
    found = inspect(store, renamed)
    assert not measured
    assert [layer.name for layer in found.layers] == ["part0", "part2", "part5"]


def test_what_is_over_the_memory_is_not_read_for_its_key(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = Source.read

    def noting(file: Source, offset: int, length: int) -> bytes:
        read.append(length)
        return real(file, offset, length)

    monkeypatch.setattr(Source, "read", noting)
    save_file({"0.weight": torch.eye(100)}, tmp_path / "m.safetensors")
    report = lipaudit.inspect(tmp_path / "m.safetensors", cache=store, max_memory=30_000)
    (skipped,) = report.models[0].skipped
    assert skipped.slug == "memory"
    assert 4 * 100 * 100 not in read


CHANGES: dict[str, dict[str, object]] = {
    "the input": {"input_shape": (3, 9, 9)},
    "padding": {"padding": "circular"},
    "steps": {"power_steps": 2},
    "no spectra": {"spectra": False},
    "by SVD": {"by_svd": True},
    "memory": {"max_memory": 1 << 29},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_asked_is_part_of_the_key(store: Store, measured: list[str], change: str) -> None:
    net = network()
    inspect(store, net)
    measured.clear()
    found = inspect(store, net, **CHANGES[change])
    assert "0" in measured
    assert found == inspect(None, net, **CHANGES[change])


@pytest.mark.parametrize(
    "geometry",
    [{"stride": 2}, {"padding": 0}, {"dilation": 2}, {"padding_mode": "circular"}],
)
def test_geometry_is_part_of_the_key(
    store: Store, measured: list[str], geometry: dict[str, int]
) -> None:
    inspect(store, network())
    measured.clear()
    other = network(**geometry)
    assert torch.equal(parts(other)[0].weight, parts(network())[0].weight)
    found = inspect(store, other)
    assert "0" in measured
    assert found == inspect(None, other)


@pytest.mark.parametrize("version", ["NUMERICAL_VERSION", "__version__"])
def test_the_version_is_part_of_the_key(
    store: Store, measured: list[str], monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    inspect(store, network())
    measured.clear()
    monkeypatch.setattr(keys, version, 99)
    keys.setting.cache_clear()
    try:
        inspect(store, network())
    finally:
        monkeypatch.undo()
        keys.setting.cache_clear()
    assert len(measured) == 3


def test_dtype_is_part_of_the_key(store: Store, measured: list[str]) -> None:
    """Equal values, other stored types: what is read of them differs in the report."""
    net = nn.Sequential(nn.Linear(4, 4)).eval()
    with torch.no_grad():
        parts(net)[0].weight.copy_(torch.eye(4))
    inspect(store, net, input_shape=(4,))
    found = inspect(store, net.to(torch.bfloat16), input_shape=(4,))
    assert len(measured) == 2
    assert found.layers[0].dtype == "bfloat16"


def test_a_bias_that_is_no_number_is_found_out_again(store: Store) -> None:
    net = network()
    inspect(store, net)
    with torch.no_grad():
        parts(net)[0].bias[1] = float("nan")
    for _ in range(2):
        skipped = inspect(store, net).models[0].skipped
        assert [(one.name, one.slug) for one in skipped] == [("0", "non-finite")]


def test_spectra_that_are_wanted_whole_are_worked_out(store: Store, measured: list[str]) -> None:
    inspect(store, network())
    measured.clear()
    kept = []
    inspect(store, network(), keep=lambda name, spectrum: kept.append((name, spectrum)))
    assert measured == ["0", "2", "5"] == [name for name, _ in kept]


def test_what_warned_is_not_kept(store: Store) -> None:
    """On the next run nobody would be warned."""
    real = layerwise._numbers

    def warning(question, compute, keep):  # type: ignore[no-untyped-def]
        compute.warn("done on the CPU instead")
        return real(question, compute, keep)

    said: list[str] = []
    with mock.patch.object(layerwise, "_numbers", warning):
        inspect(store, network(), warn=said.append)
    assert len(said) == 3
    assert store.size()[0] == 0


def test_the_memory_of_a_device_is_part_of_the_key() -> None:
    """It decides what can be proved there; on the CPU it decides nothing."""
    weight = computed("w", torch.eye(3))
    node = Node("Linear", "fc", ("x", "w"), ("y",), {}, TORCH_DOMAIN)
    question = Question(Linear.from_node(Call(node, {1: weight})), (weight,), None)

    def key(device: str, memory: int) -> str | None:
        return remembered._key(question, Compute(torch.device(device), device_memory=memory))

    assert key("cuda", 1 << 30) == key("cuda", 1 << 30)
    assert key("cuda", 1 << 30) != key("cuda", 1 << 31)
    assert key("cpu", 1 << 30) == key("cpu", 1 << 31)


def test_what_is_measured_in_no_time_is_not_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "WORTH", 60.0)
    inspect(store, network())
    assert store.size()[0] == 0


@pytest.mark.parametrize("damage", [b"", b"[]", b"[1,2,3]", b"not json"])
def test_an_entry_that_means_nothing_is_written_anew(
    store: Store, measured: list[str], damage: bytes
) -> None:
    net = network()
    plain = inspect(store, net)
    for path in store.folder.rglob("*"):
        if path.is_file():
            store.put(LAYERS, path.name, damage)  # with a sound checksum
    measured.clear()
    assert inspect(store, net) == plain
    assert len(measured) == 3
    assert inspect(store, net) == plain
    assert len(measured) == 3


def test_a_number_is_no_more_certain_than_it_was(store: Store) -> None:
    net = nn.Sequential(nn.Linear(4, 4)).eval()
    inspect(store, net, input_shape=(4,))
    (entry,) = (path for path in store.folder.rglob("*") if path.is_file())
    body = store.get(LAYERS, entry.name)
    assert body is not None
    kept = codec.loads(remembered.Numbers, body)
    guess = Norm(Enclosure.of(1, 2, Rigor.ESTIMATED), "guessed")
    store.put(LAYERS, entry.name, codec.dumps(replace(kept, norm=guess)))
    norm = inspect(store, net, input_shape=(4,)).layers[0].norm
    assert (norm.rigor, norm.method) == (Rigor.ESTIMATED, "guessed")


def test_bounds_use_them(store: Store, measured: list[str]) -> None:
    net = network()
    plain = lipaudit.bound(net, input_shape=(3, 8, 8))
    lipaudit.bound(net, input_shape=(3, 8, 8), cache=store)
    measured.clear()
    assert lipaudit.bound(net, input_shape=(3, 8, 8), cache=store) == plain
    assert not measured


LAYERS_OF_EVERY_KIND: dict[str, Callable[[], nn.Module]] = {
    "grouped": lambda: nn.Conv2d(4, 4, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 3, 3, stride=2, output_padding=1),
    "normalized": lambda: nn.BatchNorm2d(4),
    "folded": lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
    "parametrized": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)),
    "half": lambda: nn.Conv2d(4, 4, 3).to(torch.float16),
}


@pytest.mark.parametrize("name", LAYERS_OF_EVERY_KIND)
def test_every_kind_of_layer_has_a_key(store: Store, measured: list[str], name: str) -> None:
    torch.manual_seed(0)
    net = LAYERS_OF_EVERY_KIND[name]().eval()
    plain = lipaudit.bound(net, input_shape=(4, 8, 8))
    count = len(measured)
    assert count > 0
    assert lipaudit.bound(net, input_shape=(4, 8, 8), cache=store) == plain
    assert lipaudit.bound(net, input_shape=(4, 8, 8), cache=store) == plain
    assert len(measured) == 2 * count


def test_a_layer_that_cannot_be_measured_has_no_entry(store: Store) -> None:
    net = network()
    with torch.no_grad():
        parts(net)[0].weight[0, 0, 0, 0] = float("inf")
    report = inspect(store, net)
    assert [type(one) for one in report.models[0].skipped] == [Skipped]
    assert store.size()[0] == 2
