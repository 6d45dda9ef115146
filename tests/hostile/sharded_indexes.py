"""Sharded checkpoints: an index that lies about its shards, and shards that lie outside."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.hostile import written
from tests.hostile.case import MARKER, Hostile
from tests.hostile.written import VALUES, Build, file

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
MAP = {"a.weight": FIRST, "b.weight": SECOND}
_FIRST = written.tensors({"a.weight": VALUES})
_SECOND = written.tensors({"b.weight": VALUES})


def _put(folder: Path, index: object, shards: dict[str, bytes] | None = None) -> Path:
    """Write a folder with an index (bytes as they are) and shards, by default two good ones."""
    place = folder / "model"
    place.mkdir(exist_ok=True)
    text = index if isinstance(index, bytes) else json.dumps(index).encode()
    (place / INDEX).write_bytes(text)
    stored = {FIRST: _FIRST, SECOND: _SECOND} if shards is None else shards
    for name, data in stored.items():
        (place / name).write_bytes(data)
    return place


def _indexed(index: object, shards: dict[str, bytes] | None = None) -> Build:
    return lambda folder: _put(folder, index, shards)


def _mapped(weight_map: object) -> Build:
    return _indexed({"metadata": {"total_size": 32}, "weight_map": weight_map})


def _then(build: Build, more: Callable[[Path], object]) -> Build:
    def both(folder: Path) -> Path:
        path = build(folder)
        more(path)
        return path

    return both


def _elsewhere(place: Path) -> None:
    """Put the second shard outside of the folder, with a link to it inside."""
    outside = place.parent / "outside.safetensors"
    (place / SECOND).rename(outside)
    (place / SECOND).symlink_to(outside)


def _a_folder(place: Path) -> None:
    (place / SECOND).unlink()
    (place / SECOND).mkdir()


def _in_a_cache(folder: Path) -> Path:
    """Lay the files as in a Hugging Face cache: links into a folder of blobs."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    files = {INDEX: json.dumps({"weight_map": MAP}).encode(), FIRST: _FIRST, SECOND: _SECOND}
    for at, (name, data) in enumerate(files.items()):
        (blobs / f"{at:064x}").write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{at:064x}")
    return snapshot


class _Payload:
    """Touches the marker when an ordinary loader opens it."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        import os  # noqa: PLC0415 - its name is what the pickle holds

        return os.system, (f"touch {self._marker}",)


def _torch_shards(folder: Path) -> Path:
    """Write shards of torch, one of which runs a command in an ordinary loader."""
    place = folder / "model"
    place.mkdir()
    names = {"a.weight": "pytorch_model-1.bin", "b.weight": "pytorch_model-2.bin"}
    (place / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    torch.save({"a.weight": torch.eye(2)}, place / names["a.weight"])
    payload = _Payload(folder / MARKER)
    torch.save({"b.weight": torch.eye(2), "x": payload}, place / names["b.weight"])
    return place


def _mixed(folder: Path) -> Path:
    place = _put(folder, {"weight_map": {**MAP, "b.weight": "b.bin"}}, {FIRST: _FIRST})
    torch.save({"b.weight": torch.eye(2)}, place / "b.bin")
    return place


def _refused(name: str, what: str, build: Build, *says: str, row: int | None = None) -> Hostile:
    return Hostile(f"index-{name}", what, build, 2, says, row=row)


_LEAVES = "shard name leaves the folder"
_NAMES = {
    "above": "../../etc/passwd",
    "absolute": "/etc/passwd",
    "dots": "..",
    "dot": ".",
    "below": "a/b.safetensors",
    "backslash": "..\\x",
    "nul": "model\0.safetensors",
}
_MAPS: dict[str, object] = {"list": [FIRST], "text": FIRST, "null": None, "empty": {}}

CASES: tuple[Hostile, ...] = (
    *(
        _refused(
            f"name-{name}",
            f"shard called {value!r}",
            _mapped({**MAP, "b.weight": value}),
            _LEAVES,
            row=41,
        )
        for name, value in _NAMES.items()
    ),
    *(
        _refused(
            f"name-{name}",
            f"shard's name is {json.dumps(value)[:12]}",
            _mapped({**MAP, "b.weight": value}),
            said,
            row=41,
        )
        for name, value, said in (
            ("number", 7, "'b.weight' has no shard"),
            ("null", None, "'b.weight' has no shard"),
            ("list", [SECOND], "'b.weight' has no shard"),
            ("empty", "", "'b.weight' has no shard"),
            ("of-300-bytes", "x" * 300, "shard 2 of 2 missing"),
            ("half-a-pair", "\ud800", "half of a character"),
        )
    ),
    _refused(
        "shard-missing",
        "missing shard",
        _then(_mapped(MAP), lambda place: (place / SECOND).unlink()),
        "shard 2 of 2 missing",
        row=41,
    ),
    _refused(
        "shard-empty",
        "empty shard",
        _indexed({"weight_map": MAP}, {FIRST: _FIRST, SECOND: b""}),
        "file is empty",
    ),
    _refused(
        "shard-is-a-pointer",
        "shard that is a Git LFS pointer",
        _indexed(
            {"weight_map": MAP},
            {
                FIRST: _FIRST,
                SECOND: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
            },
        ),
        "Git LFS pointer for 5 bytes",
        row=4,
    ),
    _refused(
        "shard-is-a-page",
        "shard that is an error page",
        _indexed({"weight_map": MAP}, {FIRST: _FIRST, SECOND: b"<html>404</html>"}),
        "HTML page, not a model",
        row=5,
    ),
    _refused(
        "shard-cut",
        "shard cut short",
        _indexed({"weight_map": MAP}, {FIRST: _FIRST, SECOND: _SECOND[:-1]}),
        "data cut at byte 15",
    ),
    _refused(
        "shard-outside",
        "shard that is a link out of the folder",
        _then(_mapped(MAP), _elsewhere),
        "'model-00002-of-00002.safetensors'",
        "outside the folder",
        row=41,
    ),
    _refused(
        "shard-is-a-folder",
        "shard that is a folder",
        _then(_mapped(MAP), _a_folder),
        "not a regular file",
    ),
    _refused(
        "of-itself",
        "index that is its own shard",
        _indexed({"weight_map": {"a.weight": INDEX}}),
        "is an index itself",
    ),
    _refused(
        "of-an-index",
        "index whose shard is an index that names it",
        _then(
            _indexed({"weight_map": {"a.weight": "x.index.json"}}),
            lambda place: (place / "x.index.json").write_text(
                json.dumps({"weight_map": {"a.weight": INDEX}})
            ),
        ),
        "is an index itself",
    ),
    _refused("mixed", "shards of two formats", _mixed, "shards of several formats"),
    _refused(
        "key-missing",
        "tensor that the index does not name",
        _indexed(
            {"weight_map": MAP},
            {FIRST: _FIRST, SECOND: written.tensors({"b.weight": VALUES, "c.weight": VALUES})},
        ),
        "'c.weight' of shard 'model-00002-of-00002.safetensors' is not in the index",
        row=41,
    ),
    _refused(
        "key-extra",
        "shard listed but key absent",
        _mapped({**MAP, "c.weight": SECOND}),
        "'c.weight' is not in shard",
        row=41,
    ),
    _refused(
        "key-in-two-shards",
        "key in two shards",
        _indexed(
            {"weight_map": MAP},
            {FIRST: _FIRST, SECOND: written.tensors({"b.weight": VALUES, "a.weight": VALUES})},
        ),
        "'a.weight' is in two shards",
        row=41,
    ),
    _refused(
        "key-twice",
        "index that names a key twice",
        _indexed(json.dumps({"weight_map": MAP}).replace("b.weight", "a.weight").encode()),
        "'a.weight' is defined twice",
        row=41,
    ),
    _refused("map-missing", "index without a map", _indexed({"metadata": {}}), "weight_map"),
    *(
        _refused(f"map-{name}", f"weight_map: {value!r}", _mapped(value), "without a weight_map")
        for name, value in _MAPS.items()
    ),
    _refused("is-a-list", "index that is a list", _indexed(b'[{"weight_map": {}}]'), "weight_map"),
    _refused("no-json", "index that is no JSON", _indexed(b'{"weight_map": '), "not valid JSON"),
    _refused("no-utf-8", "index that is not UTF-8", _indexed(b'{"weight_map": "\xff"}'), "UTF-8"),
    _refused(
        "nested",
        "index nested too deep",
        _indexed(b'{"weight_map": ' + b"[" * 100_000),
        "nested too deep",
    ),
    _refused(
        "of-100-mb",
        "index of 100 MB",
        written.sparse(INDEX, b'{"weight_map": {', 100_000_000),
        "index of 100,000,000 bytes",
    ),
    _refused(
        "of-20000-shards",
        "index of 20,000 shards",
        _mapped({str(at): f"{at}.safetensors" for at in range(20_000)}),
        "more than 10,000 shards",
    ),
    Hostile(
        "index-in-a-cache",
        "shards in a Hugging Face cache",
        _in_a_cache,
        0,
        ("2 shards",),
    ),
    Hostile(
        "index-of-a-payload",
        "shard whose pickle runs a command",
        _torch_shards,
        1,
        ("LIP005", "system"),
        row=12,
    ),
    Hostile(
        "index-config-is-noise",
        "config.json that is noise",
        _then(_mapped(MAP), file("config.json", b"\xff\xfe{{{")),
        0,
        ("2 shards",),
    ),
    Hostile(
        "index-config-is-100-mb",
        "config.json of 100 MB",
        _then(_mapped(MAP), written.sparse("config.json", b"{", 100_000_000)),
        0,
        ("2 shards",),
    ),
    Hostile(
        "index-config-names-code",
        "config.json that names code to run",
        _then(
            _mapped(MAP),
            file("config.json", b'{"auto_map": {"AutoModel": "evil.Model"}, "_name": "x"}'),
        ),
        0,
        ("2 shards", "--hf takes the layer graph from it"),
    ),
)
