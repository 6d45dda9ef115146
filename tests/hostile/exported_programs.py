"""torch.export archives whose parts are missing, contradict each other, or would run code."""

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.hostile.case import Hostile
from tests.hostile.pickling import archive, opcodes, program, touches
from tests.hostile.zip_building import write

Members = dict[str, bytes]
Change = Callable[[Members, Path], None]
GRAPH = "p/models/model.json"
WEIGHTS = "p/data/weights/model_weights_config.json"
_SAMPLE = "p/data/sample_inputs/model.pt"


@cache
def _exported() -> Members:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    made = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(net, (torch.ones(1, 3),)), made)
    with zipfile.ZipFile(made) as whole:
        top = whole.namelist()[0].partition("/")[0]
        return {name.replace(top, "p", 1): whole.read(name) for name in whole.namelist()}


def _case(
    name: str,
    what: str,
    change: Change,
    code: int,
    *says: str,
    row: int | None = None,
    command: str = "inspect",
) -> Hostile:
    def build(folder: Path) -> Path:
        members = dict(_exported())
        change(members, folder)
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as made:
            for member, content in members.items():
                made.writestr(member, content)
        return write(folder, data.getvalue(), "m.pt2")

    return Hostile(f"pt2-{name}", what, build, code, says, row=row, command=(command,),
                   plain="export")  # fmt: skip


def _json(member: str, change: Callable[[Any], object]) -> Change:
    """Return the change of one JSON member; a value that is returned takes its place."""

    def changed(members: Members, _folder: Path) -> None:
        document = json.loads(members[member])
        made = change(document)
        members[member] = json.dumps(document if made is None else made).encode()

    return changed


def _text(member: str, old: bytes, new: bytes) -> Change:
    def changed(members: Members, _folder: Path) -> None:
        assert old in members[member]
        members[member] = members[member].replace(old, new, 1)

    return changed


def _without(member: str) -> Change:
    def changed(members: Members, _folder: Path) -> None:
        del members[member]

    return changed


def _sample(made: Callable[[Path], bytes]) -> Change:
    def changed(members: Members, folder: Path) -> None:
        members[_SAMPLE] = made(folder)

    return changed


def _zipped(folder: Path, pickle: bytes) -> bytes:
    path = archive(folder, pickle, name="inner.pt")
    data = path.read_bytes()
    path.unlink()
    return data


def _deflated(folder: Path) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as inner:
        inner.writestr("m/data.pkl", program(touches(folder)))
        inner.writestr("m/version", b"3\n")
        inner.writestr("m/byteorder", b"little")
    return made.getvalue()


def _legacy(folder: Path) -> bytes:
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    return magic + program(1001) + program({}) + program(touches(folder)) + program([])


def _broken(folder: Path) -> bytes:
    return _zipped(folder, b"\x80\x02" + opcodes(touches(folder)) + b"\xff")


def _set(path: tuple[object, ...], value: object) -> Callable[[Any], None]:
    """Return the change of one place in a document."""

    def change(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return change


def _drop(path: tuple[object, ...]) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        del document[path[-1]]

    return change


_MODULE = ("graph_module",)
_INSIDE = (*_MODULE, "graph")
_SIGNATURE = (*_MODULE, "signature")
_VALUES = (*_INSIDE, "tensor_values")
_NODE = (*_INSIDE, "nodes", 0)
FIELDS: dict[str, tuple[object, ...]] = {
    "graph-module": _MODULE,
    "graph": _INSIDE,
    "signature": _SIGNATURE,
    "tensor-values": _VALUES,
    "nodes": (*_INSIDE, "nodes"),
    "node": _NODE,
    "node-inputs": (*_NODE, "inputs"),
    "node-outputs": (*_NODE, "outputs"),
    "node-input": (*_NODE, "inputs", 0),
    "input-specs": (*_SIGNATURE, "input_specs"),
    "output-specs": (*_SIGNATURE, "output_specs"),
    "input-spec": (*_SIGNATURE, "input_specs", 0),
    "sizes": (*_VALUES, "linear", "sizes"),
    "value": (*_VALUES, "linear"),
}
_ITEMS = ("node", "node-input", "input-spec", "value")
"""Fields without which the list, or the mapping, is just shorter."""
WRONG: dict[str, object] = {"none": None, "text": "x", "number": 7}
ODD: dict[str, tuple[int, tuple[object, ...], object]] = {
    "target-number": (3, (*_NODE, "target"), 7),
    "target-list": (3, (*_NODE, "target"), []),
    "target-shell": (3, (*_NODE, "target"), "os.system"),
    "target-dots": (3, (*_NODE, "target"), "torch.ops.aten....."),
    "argument-name": (3, (*_NODE, "inputs", 1, "name"), ["weight"]),
    "argument-empty": (3, (*_NODE, "inputs", 1, "arg"), {}),
    "argument-text": (3, (*_NODE, "inputs", 1, "arg"), "p_0_weight"),
    "argument-list": (3, (*_NODE, "inputs", 1, "arg"), {"as_tensors": 7}),
    "argument-int": (3, (*_NODE, "inputs", 1, "arg"), {"as_int": 10**400}),
    "argument-object": (3, (*_NODE, "inputs", 1, "arg"), {"as_custom_obj": {"name": "x"}}),
    "metadata": (0, (*_NODE, "metadata"), 7),
    "metadata-stack": (0, (*_NODE, "metadata", "nn_module_stack"), ";;,,;"),
    "value-dtype": (2, (*_VALUES, "linear", "dtype"), [7]),
    "value-dtype-unknown": (2, (*_VALUES, "linear", "dtype"), 99),
    "size-huge": (2, (*_VALUES, "linear", "sizes", 0), {"as_int": 10**30}),
    "size-negative": (2, (*_VALUES, "linear", "sizes", 0), {"as_int": -4}),
    "size-text": (2, (*_VALUES, "linear", "sizes", 0), {"as_int": "4"}),
    "input-size-huge": (2, (*_VALUES, "input", "sizes", 0), {"as_int": 10**30}),
    "input-size-large": (2, (*_VALUES, "input", "sizes", 0), {"as_int": 1 << 50}),
}
"""Places whose wrong value leaves a graph that can be read, or one that is refused: never more."""
_ENTRY = ("config", "0.weight")
_META = (*_ENTRY, "tensor_meta")
WEIGHT: dict[str, tuple[tuple[object, ...], object, str]] = {
    "pickled": ((*_ENTRY, "use_pickle"), True, "weight '0.weight' is pickled inside the pt2"),
    "pickled-none": ((*_ENTRY, "use_pickle"), None, "is pickled inside the pt2"),
    "pickled-text": ((*_ENTRY, "use_pickle"), "false", "is pickled inside the pt2"),
    "path-leaves": ((*_ENTRY, "path_name"), "../sample_inputs/model.pt", "has no bytes"),
    "path-absolute": ((*_ENTRY, "path_name"), "/etc/passwd", "has no bytes"),
    "path-unknown": ((*_ENTRY, "path_name"), "weight_9", "no member 'weight_9'"),
    "path-none": ((*_ENTRY, "path_name"), None, "has no bytes"),
    "path-list": ((*_ENTRY, "path_name"), ["weight_0"], "has no bytes"),
    "dtype-unknown": ((*_META, "dtype"), 99, "unknown type"),
    "dtype-list": ((*_META, "dtype"), [7], "unknown type"),
    "dtype-none": ((*_META, "dtype"), None, "unknown type"),
    "dtype-larger": ((*_META, "dtype"), 8, "'0.weight' reaches item 11 of 6"),
    "layout": ((*_META, "layout"), 1, "unknown layout"),
    "meta-text": (_META, "x", "unknown type"),
    "meta-none": (_META, None, "'0.weight' is not stored"),
    "sizes-negative": ((*_META, "sizes", 0), {"as_int": -4}, "'0.weight' has size -4"),
    "sizes-huge": ((*_META, "sizes", 0), {"as_int": 1 << 62}, "size that overflows"),
    "sizes-digits": ((*_META, "sizes", 0), {"as_int": 10**4000}, "size that overflows"),
    "sizes-large": ((*_META, "sizes", 0), {"as_int": 5}, "reaches item 14 of 12"),
    "sizes-text": ((*_META, "sizes", 0), {"as_int": "4"}, "size that is no number"),
    "sizes-float": ((*_META, "sizes", 0), {"as_int": 4.0}, "size that is no number"),
    "sizes-bool": ((*_META, "sizes", 0), {"as_int": True}, "size that is no number"),
    "sizes-symbol": ((*_META, "sizes", 0), {"as_expr": {}}, "size that is no number"),
    "sizes-none": ((*_META, "sizes"), None, "size that is no number"),
    "strides-few": ((*_META, "strides"), [{"as_int": 1}], "odd strides"),
    "strides-negative": ((*_META, "strides", 0), {"as_int": -3}, "negative offset or stride"),
    "strides-huge": ((*_META, "strides", 0), {"as_int": 1 << 70}, "overflows"),
    "offset-negative": ((*_META, "storage_offset"), {"as_int": -1}, "negative offset"),
    "offset-past": ((*_META, "storage_offset"), {"as_int": 4}, "reaches item 15 of 12"),
    "offset-none": ((*_META, "storage_offset"), None, "size that is no number"),
    "config-none": (("config",), None, "has no config"),
    "config-list": (("config",), [], "has no config"),
    "entry-text": (_ENTRY, "weight_0", "'0.weight' is not stored"),
}
VERSIONS: dict[str, object] = {
    "major-newer": {"major": 9, "minor": 0},
    "major-older": {"major": 1, "minor": 0},
    "major-text": {"major": "8", "minor": 0},
    "none": None,
    "list": [8, 1],
}


def _payload(
    name: str, what: str, made: Callable[[Path], bytes], row: int | None = None
) -> Hostile:
    return _case(f"payload-{name}", what, _sample(made), 1, "LIP005", "os.system", "0", "2",
                 row=row)  # fmt: skip


CASES = (
    _payload("zip", ".pt2 with pickled sample_inputs payload",
             lambda folder: _zipped(folder, program(touches(folder))), row=13),
    _payload("legacy", ".pt2 with a payload in legacy sample_inputs", _legacy),
    _payload("broken", ".pt2 with a payload in front of what is no pickle", _broken),
    _payload("bare", ".pt2 with a bare pickle as sample_inputs",
             lambda folder: program(touches(folder))),
    _case("payload-deflated", ".pt2 with compressed sample_inputs", _sample(_deflated), 1, "LIP005",
          "cannot be looked through"),
    _case("sample-noise", ".pt2 whose sample_inputs are noise", _sample(lambda _: b"\x00" * 99), 1,
          "LIP005", "cannot be looked through"),
    _case("sample-missing", ".pt2 without sample_inputs", _without(_SAMPLE), 0, "0", "2"),
    _case("good", "a good .pt2", lambda *_: None, 0, "proved", command="bound"),
    _case("no-weight", ".pt2 without a weight's member", _without("p/data/weights/weight_0"), 2,
          "weight '0.weight' has no bytes: no member 'weight_0'"),
    _case("no-config", ".pt2 without the weights' config", _without(WEIGHTS), 2, "is not stored"),
    _case("no-graph", ".pt2 without its graph", _without(GRAPH), 2, "0 graphs in one archive"),
    _case("two-graphs", ".pt2 of two graphs",
          lambda members, _: members.update({"p/models/b.json": members[GRAPH]}), 2,
          "2 graphs in one archive"),
    _case("weight-short", ".pt2 with a weight cut short",
          lambda members, _: members.update({"p/data/weights/weight_0": b"1234"}), 2,
          "'0.weight' reaches item 11 of 1"),
    _case("weight-leaves", ".pt2 with a member that leaves the archive",
          lambda members, _: members.update({"p/data/weights/../../x": b"1"}), 2,
          "unsafe member name"),
    _case("graph-empty", ".pt2 whose graph is empty",
          lambda members, _: members.update({GRAPH: b""}), 2, "not valid JSON at byte 0"),
    _case("graph-list", ".pt2 whose graph is a list", _json(GRAPH, lambda _: []), 2,
          "models/model.json is no JSON object"),
    _case("graph-nested", ".pt2 of 100,000 brackets",
          lambda members, _: members.update({GRAPH: b"[" * 100_000}), 2, "nested too deep"),
    _case("graph-nan", ".pt2 with NaN for a size",
          _text(GRAPH, b'"as_int": 4', b'"as_int": NaN'), 2, "NaN is no JSON number"),
    _case("graph-twice", ".pt2 with a key twice",
          _text(GRAPH, b'{"graph_module"', b'{"graph_module": 1, "graph_module"'), 2,
          "defined twice"),
    _case("graph-utf16", ".pt2 in UTF-16",
          lambda members, _: members.update({GRAPH: "{}".encode("utf-16")}), 2, "is not UTF-8"),
    _case("graph-large", ".pt2 of 26 MB of blanks",
          lambda members, _: members.update({GRAPH: b" " * 26_000_000}), 2, "too large to be one"),
    _case("graph-digits", ".pt2 with a number of 9,000 digits",
          _text(GRAPH, b'"as_int": 4', b'"as_int": ' + b"4" * 9000), 2, "models/model.json"),
    *(_case(f"version-{name}", f"schema version: {name}",
            _json(GRAPH, _set(("schema_version",), version)), 2, "schema version")
      for name, version in VERSIONS.items()),
    *(_case(f"weight-{name}", f"weight: {name}", _json(WEIGHTS, _set(path, value)), 2, says,
            row=14 if name == "pickled" else None)
      for name, (path, value, says) in WEIGHT.items()),
    *(_case(f"{name}-missing", f"graph without {name}", _json(GRAPH, _drop(path)), 2, "")
      for name, path in FIELDS.items() if name not in _ITEMS),
    *(_case(f"{name}-{kind}", f"{name}: {kind}", _json(GRAPH, _set(path, value)), 2, "")
      for name, path in FIELDS.items() for kind, value in WRONG.items()),
    _case("input-spec-empty", "an input that is nothing",
          _json(GRAPH, _set((*_SIGNATURE, "input_specs", 0), {})), 2, ""),
    _case("strides-zero", "a weight whose strides are 0",
          _json(WEIGHTS, _set((*_META, "strides"), [{"as_int": 0}] * 2)), 0, "0", "2"),
    _case("stated-size", "a value of another size than its nodes make",
          _json(GRAPH, _set((*_VALUES, "linear", "sizes", 1), {"as_int": 5})), 2,
          "value 'linear' is declared 1x5, is 1x4", command="bound"),
    _case("stated-rank", "a value of another rank than its nodes make",
          _json(GRAPH, _set((*_VALUES, "relu", "sizes"), [{"as_int": 4}])), 2,
          "value 'relu' is declared 4, is 1x4"),
    _case("stated-weight", "a weight of another size than is stored",
          _json(GRAPH, _set((*_VALUES, "p_0_weight", "sizes", 0), {"as_int": 5})), 2,
          "value 'p_0_weight' is declared 5x3, is 4x3"),
    _case("stated-type", "real numbers said to be integers",
          _json(GRAPH, _set((*_VALUES, "linear", "dtype"), 5)), 3,
          "the file states int64 for 'linear'", command="bound"),
    _case("cycle", "a node that reads what comes later",
          _json(GRAPH, _set((*_NODE, "inputs", 0, "arg"), {"as_tensor": {"name": "linear_1"}})), 2,
          "uses 'linear_1' before it is made"),
    _case("made-twice", "two nodes that make one value",
          _json(GRAPH, _set((*_INSIDE, "nodes", 1, "outputs"),
                            [{"as_tensor": {"name": "linear"}}])), 2, "'linear'"),
    _case("output-unknown", "an output that no node makes",
          _json(GRAPH, _set((*_SIGNATURE, "output_specs", 0, "user_output", "arg"),
                            {"as_tensor": {"name": "nothing"}})), 2, "'nothing'"),
)  # fmt: skip
ODD_CASES = tuple(
    _case(f"odd-{name}", f"graph: {name}", _json(GRAPH, _set(path, value)), code, "",
          command="bound")
    for name, (code, path, value) in ODD.items()
)  # fmt: skip
