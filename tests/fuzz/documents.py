"""Documents: JSON and TOML that still parse, with other values in some places."""

import json
import tomllib
from collections.abc import Callable
from copy import deepcopy
from datetime import date
from random import Random
from typing import Any

from tests.fuzz.case import Case
from tests.fuzz.corpus import good
from tests.fuzz.mutations import edge, mutated
from tests.fuzz.pickles import members_of, zipped

_TEXTS = (
    "", " ", "x", "weight", "F32", "F16", "BF16", "F8_E4M3", "F4", "BOOL", "C64", "I8", "../x",
    "/etc/passwd", "a.safetensors", "b.safetensors", "model.pt", ".", "..", "a\0b", "a/b", "\\",
    "\ud800", "\x1b[31m", "a\nb", "::error::", "as_int", "as_ints", "as_tensor", "as_none",
    "torch.ops.aten.conv2d.default", "torch.ops.aten.linear.default", "torch.ops.aten.view.default",
    "torch.ops.aten.expand.default", "torch.ops.aten.cat.default", "torch.ops.aten.mul.Tensor",
    "torch.ops.aten.max_pool2d.default", "torch.ops.aten.slice.Tensor",
    "torch.ops.aten.lstm.input",
    "torch.ops.aten.batch_norm.default", "torch.ops.aten.softmax.int", "torch.ops.os.system",
    "torch.ops.aten.permute.default", "torch.ops.aten.pad.default", "torch.ops.aten.zeros.default",
    "torch.ops.aten.arange.default",
    "torch.ops.aten.upsample_bilinear2d.vec",
    "proved", "estimated",
    "LIP002", "LIP003", "2026-12-31", "5%", "-5%", "2G", "1e99G", "3x8x8", "0x0", "9" * 30, "*",
    "[", "**", "x" * 3000, "float32", "cuda:99", "os:system",
)  # fmt: skip
_ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, -0.0, 1e308, 10**25, -(10**25), 10**400, [], {}, [[]],
    [None], {"": None}, [1, 2, 3, 4], float("nan"), float("inf"), [10**9] * 3, [0], [0, 0],
)  # fmt: skip
_GENERIC = ("weight_map", "models", "layers", "bound", "graph_module", "config", "tool")


def safetensors(rng: Random) -> Case:
    """Return a safetensors file whose header says other things, its length right."""
    case = good()["safetensors"]
    (data,) = case.files.values()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    text = _text(rng, _changed(rng, header))
    body = data[8 + length :]
    if rng.random() < 0.2:
        body = rng.choice((body[:-4], body + b"\0\0\0\0", b"", mutated(rng, body)))
    return case.changed(case.target, len(text).to_bytes(8, "little") + text + body)


def index(rng: Random) -> Case:
    """Return a sharded model whose index, or one shard, says other things."""
    case = good()["sharded"]
    name = "model.safetensors.index.json"
    if rng.random() < 0.3:
        name = rng.choice(sorted(case.files))
        return case.changed(name, mutated(rng, case.files[name]))
    text = _text(rng, _changed(rng, json.loads(case.files[name])))
    return case.changed(name, text)


def baseline(rng: Random) -> Case:
    """Return a baseline with other values."""
    return _document(rng, good()["baseline"])


def report(rng: Random) -> Case:
    """Return a report with other values."""
    return _document(rng, good()["report"])


def program(rng: Random) -> Case:
    """Return a torch.export archive whose graph or weights say other things, checksums right."""
    case = good()["pt2"]
    (data,) = case.files.values()
    members = members_of(data)
    documents = [name for name in members if name.endswith(".json")]
    graph = next(name for name in documents if "/models/" in name)
    name = graph if rng.random() < 0.7 else rng.choice(documents)
    members[name] = _text(rng, _changed(rng, json.loads(members[name])))
    return case.changed(case.target, zipped(members))


def config(rng: Random) -> Case:
    """Return a config with other values, still TOML."""
    case = good()["config"]
    table = _changed(rng, tomllib.loads(case.files[case.target].decode()))
    text = "".join(f"{_key(name)} = {_toml(value)}\n" for name, value in table.items())
    return case.changed(case.target, text.encode("utf-8", "replace"))


def _document(rng: Random, case: Case) -> Case:
    value = _changed(rng, json.loads(case.files[case.target]))
    return case.changed(case.target, _text(rng, value))


def _text(rng: Random, value: Any) -> bytes:
    """Return JSON, rarely with a key said twice or nested beyond reason."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.8)
    chance = rng.random()
    if chance < 0.05:
        text = text.replace("{", '{"weight_map": 1, ' * 2, 1)
    elif chance < 0.08:
        deep = rng.choice((100, 900, 5000, 100_000))
        text = text.replace("[", "[" * deep, 1).replace("]", "]" * deep, 1)
    elif chance < 0.1:
        text = " " * 1000 + text
    return text.encode("utf-8", "surrogatepass")


def _changed(rng: Random, value: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a tree with one to four places changed."""
    tree = deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = _places(tree)
        if not places:
            break
        holder, key = rng.choice(places)
        way = rng.randrange(8)
        if way == 0:
            del holder[key]
        elif way == 1:
            other, name = rng.choice(places)
            holder[key] = deepcopy(other[name])
        elif way == 2 and isinstance(holder, dict):
            holder[_word(rng)] = holder[key]
        elif way == 3 and isinstance(holder, list):
            holder[key:key] = [deepcopy(holder[key]) for _ in range(rng.choice((1, 1, 30)))]
        elif way == 4 and isinstance(holder, dict):
            holder[_word(rng)] = holder.pop(key)
        else:
            holder[key] = _odd(rng, holder[key])
    return tree


def _odd(rng: Random, old: object) -> Any:
    """Return another value, more often one of the same type."""
    if rng.random() < 0.6:
        if isinstance(old, bool):
            return not old
        if isinstance(old, int):
            return rng.choice((edge(rng), old + 1, old - 1, -old, 2 * old))
        if isinstance(old, str):
            return _word(rng)
        if isinstance(old, list):
            return rng.choice((old[:-1], old + old, old[::-1], []))
    return deepcopy(rng.choice((*_ODD, _word(rng), edge(rng))))


def _word(rng: Random) -> str:
    return rng.choice(_TEXTS if rng.random() < 0.9 else _GENERIC)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Return every holder and key of a tree."""
    found: list[tuple[Any, Any]] = []
    todo = [tree]
    while todo:
        holder = todo.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], (dict, list)):
                todo.append(holder[key])
    return found


def _key(name: str) -> str:
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")


_WRITERS: dict[type, Callable[[Any], str]] = {
    bool: lambda value: "true" if value else "false",
    int: str,
    float: repr,
    str: _key,
    date: date.isoformat,
    type(None): lambda _: '"null"',
}


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)} = {_toml(x)}" for name, x in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return _WRITERS[type(value)](value)
