"""External data of ONNX models: where it may lie, what may be said of it, and what it may be."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from tests.hostile import written
from tests.hostile.case import Hostile
from tests.hostile.onnx_wire import field, graph, model, number, tensor
from tests.hostile.written import file

_VALUES = np.array([[3.0, 0.0], [0.0, 1.0]], dtype=np.float32).tobytes()
_SUM = hashlib.sha1(_VALUES, usedforsecurity=False).hexdigest()
_DATA = "model.bin"
Entries = Sequence[tuple[str, str]]


def _stored(entries: Entries) -> bytes:
    """Encode a weight whose values lie beside the model, as the entries say."""
    said = b"".join(field(13, field(1, key) + field(2, value)) for key, value in entries)
    return tensor(said, number(14, 1))


def _model(entries: Entries, name: str = "model.onnx") -> Callable[[Path], Path]:
    return file(name, model(graph(_stored(entries))))


def _with(*builds: Callable[[Path], object], entries: Entries) -> Callable[[Path], Path]:
    """Return what writes other things first, and then the model, in a folder of its own."""

    def build(folder: Path) -> Path:
        place = folder / "model"
        place.mkdir()
        for one in builds:
            one(place)
        return _model(entries)(place)

    return build


def _at(location: str, **more: str) -> Entries:
    return [("location", location), *more.items()]


_GOOD = file(_DATA, _VALUES)


def _said(**more: str) -> Callable[[Path], Path]:
    return _with(_GOOD, entries=_at(_DATA, **more))


def _refused(
    name: str, what: str, build: Callable[[Path], Path], *says: str, row: int = 48
) -> Hostile:
    return Hostile(f"external-{name}", what, build, 2, ("'W'", *says), row=row, plain="onnx")


def _secret(place: Path) -> None:
    (place.parent / "secret.bin").write_bytes(_VALUES)


def _linked(target: str) -> Callable[[Path], None]:
    return lambda place: (place / _DATA).symlink_to(target)


def _linked_folder(place: Path) -> None:
    (place / "data").symlink_to("..")


def _hard_link(place: Path) -> None:
    _secret(place)
    (place / _DATA).hardlink_to(place.parent / "secret.bin")


def _in_a_cache(folder: Path) -> Path:
    """Lay model and data as a Hugging Face cache does: links into a folder of blobs."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    _model(_at("model.onnx_data"), "1f00")(blobs)
    (blobs / "2e11").write_bytes(_VALUES)
    (snapshot / "model.onnx").symlink_to("../../blobs/1f00")
    (snapshot / "model.onnx_data").symlink_to("../../blobs/2e11")
    return snapshot / "model.onnx"


def _linked_model(folder: Path) -> Path:
    """Put a link to the model into a folder where its data does not lie."""
    _said()(folder)
    (folder / "link.onnx").symlink_to("model/model.onnx")
    return folder / "link.onnx"


def _many(count: int) -> Callable[[Path], Path]:
    """Return what writes a model of so many weights, each in a file of its own."""

    def build(folder: Path) -> Path:
        nodes, weights = [], []
        for at in range(count):
            name = f"w{at}"
            (folder / f"{name}.bin").write_bytes(_VALUES)
            weight = TensorProto(name=name, data_type=1, dims=[2, 2])
            weight.data_location = TensorProto.EXTERNAL
            weight.external_data.add(key="location", value=f"{name}.bin")
            weights.append(weight)
            nodes.append(helper.make_node("MatMul", [f"v{at}", name], [f"v{at + 1}"]))
        ends = [helper.make_tensor_value_info(name, 1, [1, 2]) for name in ("v0", f"v{count}")]
        chain = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
        made = helper.make_model(chain, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path = folder / "model.onnx"
        path.write_bytes(made.SerializeToString())
        return path

    return build


def _two(first: Entries, second: Entries) -> Callable[[Path], Path]:
    """Return what writes a model whose two weights lie in one file, as is said of each."""

    def build(folder: Path) -> Path:
        _GOOD(folder)
        nodes = b"".join(
            field(1, field(1, source) + field(1, name) + field(2, target) + field(4, "MatMul"))
            for source, name, target in (("x", "W", "m"), ("m", "V", "y"))
        )
        other = _stored(second).replace(field(8, "W"), field(8, "V"))
        body = graph(_stored(first), other, nodes=nodes)
        return file("model.onnx", model(body))(folder)

    return build


_OUTSIDE = "points outside the model folder"
_LOCATIONS = {
    "above": "../secret.bin",
    "above-behind-a-folder": "data/../../secret.bin",
    "absolute": "/etc/passwd",
    "of-windows": "C:\\secret.bin",
    "above-for-windows": "..\\secret.bin",
    "of-a-share": "\\\\server\\secret.bin",
}
_NUMBERS = {
    "negative": "-5",
    "no number": "abc",
    "empty": "",
    "plus": "+5",
    "blank": " 5",
    "underscore": "1_6",
    "hexadecimal": "0x10",
    "exponent": "1e1",
    "of other digits": "\u0661\u0666",
    "of 500 digits": "9" * 500,
}
_NO_FILE = "not a regular file"

CASES: tuple[Hostile, ...] = (
    Hostile("external-good", "data beside the model", _said(), 0, ("fc",), plain="onnx"),
    Hostile(
        "external-good-checksum",
        "data with a checksum",
        _said(offset="0", length="16", checksum=_SUM),
        0,
        ("fc",),
        plain="onnx",
    ),
    Hostile(
        "external-in-a-cache",
        "data in a Hugging Face cache",
        _in_a_cache,
        0,
        ("fc",),
        row=47,
        plain="onnx",
    ),
    Hostile(
        "external-of-a-linked-model",
        "data beside the file that a link leads to",
        _linked_model,
        0,
        ("fc",),
        row=47,
        plain="onnx",
    ),
    *(
        _refused(
            f"location-{name}",
            f"data at {value!r}",
            _with(_secret, entries=_at(value)),
            _OUTSIDE,
            row=46,
        )
        for name, value in _LOCATIONS.items()
    ),
    _refused(
        "link-out",
        "data that is a link out of the folder",
        _with(_secret, _linked("../secret.bin"), entries=_at(_DATA)),
        _OUTSIDE,
        row=46,
    ),
    _refused(
        "link-to-passwd",
        "data that is a link to /etc/passwd",
        _with(_linked("/etc/passwd"), entries=_at(_DATA)),
        _OUTSIDE,
        row=46,
    ),
    _refused(
        "folder-link-out",
        "data in a folder that is a link",
        _with(_secret, _linked_folder, entries=_at("data/secret.bin")),
        _OUTSIDE,
        row=46,
    ),
    _refused("nul", "name with NUL", _with(entries=_at("a\0b")), "NUL", row=46),
    _refused(
        "itself", "data that is the model", _with(entries=_at("model.onnx")), "the model itself"
    ),
    _refused("missing", "missing data", _with(entries=_at(_DATA)), "no file 'model.bin' beside"),
    _refused(
        "of-300-bytes", "name of 300 bytes", _with(entries=_at("x" * 300)), "beside the model"
    ),
    _refused(
        "of-a-megabyte",
        "name of a megabyte",
        _with(entries=_at("x" * 1_000_000)),
        "beside the model",
    ),
    _refused("empty-name", "empty name", _with(entries=_at("")), "without a location"),
    _refused("dot", "data that is the folder itself", _with(entries=_at(".")), _NO_FILE),
    _refused(
        "is-a-folder",
        "data that is a folder",
        _with(lambda place: (place / _DATA).mkdir(), entries=_at(_DATA)),
        _NO_FILE,
    ),
    _refused(
        "is-a-pipe",
        "data that is a pipe",
        _with(lambda place: os.mkfifo(place / _DATA), entries=_at(_DATA)),
        _NO_FILE,
        row=8,
    ),
    _refused(
        "is-a-device",
        "data that is a link to /dev/zero",
        _with(_linked("/dev/zero"), entries=_at(_DATA)),
        _OUTSIDE,
        row=46,
    ),
    _refused(
        "is-a-loop",
        "data that is a link to itself",
        _with(_linked(_DATA), entries=_at(_DATA)),
        "Too many levels of symbolic links",
    ),
    _refused("is-empty", "empty data", _with(file(_DATA, b""), entries=_at(_DATA)), "is empty"),
    _refused(
        "is-a-pointer",
        "data that is a Git LFS pointer",
        _with(
            file(_DATA, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 16\n"),
            entries=_at(_DATA),
        ),
        "Git LFS pointer for 16 bytes",
        "git lfs pull",
        row=4,
    ),
    _refused(
        "too-short",
        "data cut short",
        _with(file(_DATA, _VALUES[:9]), entries=_at(_DATA)),
        "model.bin has 9 bytes, needs 0 + 16",
    ),
    _refused(
        "offset-past-the-end",
        "offset past the end",
        _said(offset="4096", length="16"),
        "model.bin has 16 bytes, needs 4,096 + 16",
    ),
    _refused("length-past-the-end", "length past the end", _said(length="17"), "model.bin has 16"),
    _refused("length-too-short", "length too short", _said(length="12"), "needs 16 bytes, has 12"),
    _refused(
        "length-of-a-petabyte", "length of 1 PB", _said(length=str(10**15)), "model.bin has 16"
    ),
    _refused("offset-of-2-to-64", "offset of 2^64", _said(offset=str(2**64)), "model.bin has 16"),
    *(
        _refused(
            f"{key}-{name.replace(' ', '-')}",
            f"{key} {value[:9]!r}",
            _said(**{key: value}),
            f"external data {key} is",
        )
        for key in ("offset", "length")
        for name, value in _NUMBERS.items()
    ),
    _refused("key-unknown", "entry of an unknown key", _said(compression="zstd"), "'compression'"),
    _refused("key-in-capitals", "key in capitals", _said(Offset="0"), "'Offset'"),
    _refused(
        "key-twice",
        "two locations",
        _with(_GOOD, entries=[*_at(_DATA), ("location", "other.bin")]),
        "'location' appears twice",
    ),
    _refused(
        "key-missing", "no location", _with(_GOOD, entries=[("offset", "0")]), "without a location"
    ),
    _refused("no-entries", "no entries", _with(_GOOD, entries=[]), "without a location"),
    _refused(
        "and-inside",
        "values both inside and beside",
        file("model.onnx", model(graph(_stored(_at(_DATA)) + field(9, _VALUES)))),
        "both in the file and beside it",
    ),
    Hostile(
        "external-hard-link",
        "data that is a hard link",
        _with(_hard_link, entries=_at(_DATA)),
        0,
        ("external file 'model.bin' is a hard link",),
        row=46,
        plain="onnx",
    ),
    Hostile(
        "external-hard-link-clipped",
        "data that is a hard link, to be clipped",
        _with(_hard_link, entries=_at(_DATA)),
        2,
        ("external file 'model.bin' is a hard link",),
        command=("clip",),
        options=("--to", "1", "-o", "out.onnx"),
        row=46,
    ),
    Hostile(
        "external-shared",
        "two weights on the same bytes",
        _two(_at(_DATA), _at(_DATA)),
        0,
        ("has the weight of",),
        plain="onnx",
        row=31,
    ),
    Hostile(
        "external-overlapping",
        "two weights of which one lies half past the end",
        _two(_at(_DATA, length="16"), _at(_DATA, offset="8", length="16")),
        2,
        ("'V'", "model.bin has 16 bytes, needs 8 + 16"),
        row=48,
        plain="onnx",
    ),
    Hostile(
        "external-of-200-files",
        "200 weights in 200 files",
        _many(200),
        0,
        ("200 layers measured",),
    ),
    Hostile(
        "external-mostly-unused",
        "data of 200 MB, 16 bytes of it used",
        _with(written.sparse(_DATA, _VALUES, 200 << 20), entries=_at(_DATA, length="16")),
        0,
        ("fc",),
        row=48,
    ),
)
