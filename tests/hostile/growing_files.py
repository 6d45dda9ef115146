"""Zips, safetensors, indexes and configs of n things."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile import configs, exported_programs, written
from tests.hostile.growth import Growth, of
from tests.hostile.pickling import FOUR, TOP, program, storage, tensor
from tests.hostile.written import VALUES, entry
from tests.hostile.zip_building import Member, honest, packed

_ZIP64 = struct.pack("<HHQ", 1, 8, 16)
_EMPTY_FIELD = struct.pack("<HH", 2, 0)
_FULL = 200
"""Members whose extra fields are counted."""


def _extra_fields(count: int) -> bytes:
    """Return a zip whose members have n empty fields before the one that holds their size."""
    extra = _EMPTY_FIELD * count + _ZIP64
    full = [
        Member(f"{TOP}/x{at}", FOUR, extra=extra, local_extra=extra, size=0xFFFFFFFF)
        for at in range(_FULL)
    ]
    return packed([*honest(), *full])


def _members(count: int) -> bytes:
    return packed([*honest(), *(Member(f"{TOP}/x{at}", b"") for at in range(count))])


def _storages(count: int) -> bytes:
    """Return a checkpoint of n tensors, each with a storage of its own."""
    tree = {f"l{at}.w": tensor(of=storage(key=str(at))) for at in range(count)}
    data = [Member(f"{TOP}/data/{at}", FOUR) for at in range(count)]
    return packed([Member(f"{TOP}/data.pkl", program(tree)), *data])


def _windows(count: int) -> bytes:
    """Return n matrices that lie one after the other in one storage."""
    held = storage(items=4 * 64 * count)
    tree = {f"l{at}.weight": tensor(first=4 * 64 * at, of=held) for at in range(count // 4)}
    return packed(
        [Member(f"{TOP}/data.pkl", program(tree)), Member(f"{TOP}/data/0", FOUR * 64 * count)]
    )


def _safetensors(name: str, header: Callable[[int], dict[str, Any]], count: int) -> Growth:
    """Return the growth of a header; behind it as many bytes as it says."""

    def made(many: int) -> bytes:
        entries = header(many)
        size = max(one["data_offsets"][1] for one in entries.values() if "dtype" in one)
        return written.packed(entries, (VALUES * size)[:size])

    return Growth(f"safetensors-{name}", of("m.safetensors", made), count)


def _named(name: Callable[[int], str]) -> Callable[[int], dict[str, Any]]:
    """Return the header of n tensors by their names."""
    return lambda count: {name(at): entry(span=(16 * at, 16 * at + 16)) for at in range(count)}


def _normed(count: int) -> dict[str, Any]:
    names = ("weight_g", "weight_v", "bias")
    return {
        f"l{at}.{part}": entry(span=(16 * (3 * at + place), 16 * (3 * at + place + 1)))
        for at in range(count)
        for place, part in enumerate(names)
    }


def _shards(folder: Path, count: int) -> Path:
    """Write a folder of n shards, each of one tensor."""
    place = folder / "model"
    place.mkdir()
    names = {f"l{at}.weight": f"s{at}.safetensors" for at in range(count)}
    for name, shard in names.items():
        (place / shard).write_bytes(written.tensors({name: VALUES}))
    index = {"metadata": {"total_size": 16 * count}, "weight_map": names}
    (place / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return place


def _mapped(folder: Path, count: int) -> Path:
    """Write a folder of one shard with n tensors."""
    place = folder / "model"
    place.mkdir()
    names = [f"l{at}.w" for at in range(count)]
    (place / "s.safetensors").write_bytes(written.tensors(dict.fromkeys(names, VALUES)))
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "s.safetensors")}
    (place / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return place


def _exported(folder: Path, count: int) -> Path:
    """Write an exported program in which one activation is applied n times more."""

    def grown(document: Any) -> None:
        graph = document["graph_module"]["graph"]
        (at,) = (k for k, node in enumerate(graph["nodes"]) if "relu" in node["target"])
        first = graph["nodes"][at]
        text = json.dumps(first)
        named = first["outputs"][0]["as_tensor"]["name"]
        given = first["inputs"][0]["arg"]["as_tensor"]["name"]
        values = graph["tensor_values"]
        steps = []
        for step in range(count):
            new, old = f"more_{step}", f"more_{step - 1}" if step else given
            steps.append(
                json.loads(text.replace(f'"{named}"', f'"{new}"').replace(f'"{given}"', f'"{old}"'))
            )
            values[new] = values[given]
        graph["nodes"][at : at + 1] = [
            *steps, json.loads(text.replace(f'"{given}"', f'"more_{count - 1}"'))
        ]  # fmt: skip

    change = exported_programs._json(exported_programs.GRAPH, grown)
    return exported_programs._case("grown", "", change, 0).build(folder)


def _beside(folder: Path, name: str, data: bytes) -> Path:
    return configs._beside(name, written.file(name, data))(folder)


def _config(made: Callable[[int], str]) -> Callable[[Path, int], Path]:
    return lambda folder, count: _beside(folder, "lipaudit.toml", made(count).encode())


def _baseline(folder: Path, count: int) -> Path:
    layers = [configs._layer(name=f"l{at}") for at in range(count)]
    base = configs._baseline(models=[{"path": "m.safetensors", "layers": layers}])
    return _beside(folder, "base.json", json.dumps(base).encode())


def _report(folder: Path, count: int) -> Path:
    layers = [
        {
            "name": f"l{at}",
            "kind": "Linear",
            "norm": {"lower": 1.0, "upper": 2.0, "rigor": "proved"},
        }
        for at in range(count)
    ]
    model = {"path": "m", "layers": layers, "bounds": [], "skipped": [], "notes": []}
    report = configs._report(models=[model])
    return _beside(folder, "report.json", json.dumps(report).encode())


CASES: tuple[Growth, ...] = (
    Growth("zip-extra-fields", of("m.pt", _extra_fields), 4_000),
    Growth("zip-members", of("m.pt", _members), 5_000),
    Growth("zip-storages", of("m.pt", _storages), 1_000),
    Growth("zip-windows-of-one-storage", of("m.pt", _windows), 1_000),
    _safetensors("entries", _named(lambda at: f"l{at}.w"), 3_000),
    _safetensors("layers", _named(lambda at: f"l{at}.weight"), 200),
    _safetensors("wrapped", _named(lambda at: f"module.l{at}.running_mean"), 3_000),
    _safetensors(
        "metadata",
        lambda n: {"__metadata__": {f"k{at}": "v" for at in range(n)}, "w.weight": entry()},
        50_000,
    ),
    _safetensors("slashes", lambda n: {"/" * n + ".weight": entry()}, 250_000),
    _safetensors("dots", lambda n: {"." * n + "weight": entry()}, 250_000),
    _safetensors(
        "parametrizations", lambda n: {"parametrizations." * n + "weight.original": entry()}, 20_000
    ),
    _safetensors(
        "letters-that-are-not-shown", lambda n: {"\x1b\u202e" * n + ".weight": entry()}, 20_000
    ),
    _safetensors("dimensions", lambda n: {"w.weight": entry(shape=(1,) * n)}, 100_000),
    _safetensors("weight-norms", _normed, 200),
    Growth("index-shards", _shards, 150),
    Growth("index-entries", _mapped, 3_000),
    Growth("pt2-nodes", _exported, 300),
    Growth(
        "config-models",
        _config(lambda n: '[[models]]\npath = "none"\n' * n),
        1_000,
        ("check", "--config"),
    ),
    Growth(
        "config-keys",
        _config(lambda n: "".join(f"k{at} = 1\n" for at in range(n))),
        5_000,
        ("check", "--config"),
    ),
    Growth(
        "config-tables",
        _config(lambda n: "".join(f"[t{at}]\nk = 1\n" for at in range(n))),
        2_000,
        ("check", "--config"),
    ),
    Growth("config-dots", _config(lambda n: "a." * n + "a = 1\n"), 2_000, ("check", "--config")),
    Growth(
        "config-limits",
        _config(lambda n: '[[limits]]\nlayer = "f*"\nmax-norm = 3\n' * n),
        1_000,
        ("check", "--config"),
    ),
    Growth(
        "baseline-layers", _baseline, 2_000, ("check", "--config", "lipaudit.toml", "--baseline")
    ),
    Growth("report-layers", _report, 1_000, ("diff", "good.json", "--format", "json")),
)
