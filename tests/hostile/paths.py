"""Paths that lead to no model: what is missing, no file, no folder of a model, or oddly called."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

from tests.hostile import written
from tests.hostile.case import Hostile
from tests.hostile.written import Build, file

JSON = ("-f", "json")
LONGEST = 255
"""Bytes of a name on the usual file systems."""


def _missing(*parts: str) -> Build:
    return lambda folder: folder.joinpath(*parts)


def _in_folder(*builds: Build) -> Build:
    def build(folder: Path) -> Path:
        place = folder / "model"
        place.mkdir()
        for one in builds:
            one(place)
        return place

    return build


def _link(name: str, target: str) -> Build:
    def build(folder: Path) -> Path:
        path = folder / name
        path.symlink_to(target)
        return path

    return build


def _both(first: Build, second: Build) -> Build:
    def build(folder: Path) -> Path:
        first(folder)
        return second(folder)

    return build


def _pipe(name: str) -> Build:
    def build(folder: Path) -> Path:
        os.mkfifo(folder / name)
        return folder / name

    return build


def _socket(folder: Path) -> Path:
    descriptor = os.open(folder, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{descriptor}/model.pt")  # its name may have 107 bytes
    os.close(descriptor)
    return folder / "model.pt"


def _below_a_file(folder: Path) -> Path:
    return file("file", b"x")(folder) / "model.pt"


def _called(name: bytes, data: bytes) -> Callable[[Path], Path]:
    return file(os.fsdecode(name), data)


GOOD = written.tensors()
_CANNOT = "cannot be opened: "
_NO_MODEL = "no model file found (looked for"

CASES: tuple[Hostile, ...] = (
    Hostile("path-missing", "missing path", _missing("m.pt"), 2, ("no such file",), row=1),
    Hostile("path-missing-folder", "missing folder", _missing("a", "m.pt"), 2, ("no such file",)),
    Hostile(
        "path-folder-without-model",
        "folder without a model",
        _in_folder(file("README.md", b"nothing")),
        2,
        (_NO_MODEL,),
        row=1,
    ),
    Hostile("path-empty-folder", "empty folder", _in_folder(), 2, (_NO_MODEL,), row=1),
    Hostile(
        "path-folder-of-two",
        "folder with two models",
        _in_folder(file("a.safetensors", GOOD), file("b.safetensors", GOOD)),
        2,
        ("2 model files: a.safetensors, b.safetensors", "name the one that is meant"),
    ),
    Hostile(
        "path-below-a-file", "path below a file", _below_a_file, 2, (_CANNOT + "Not a directory",)
    ),
    Hostile("path-fifo", "pipe", _pipe("m.pt"), 2, ("not a regular file",), row=8),
    Hostile(
        "path-device", "/dev/zero", lambda _: Path("/dev/zero"), 2, ("not a regular file",), row=8
    ),
    Hostile("path-socket", "socket", _socket, 2, ("not a regular file",), row=8),
    Hostile(
        "path-link-to-fifo",
        "link to a pipe",
        _both(_pipe("pipe"), _link("m.pt", "pipe")),
        2,
        ("not a regular file",),
        row=8,
    ),
    Hostile(
        "path-link-loop",
        "link to itself",
        _link("m.pt", "m.pt"),
        2,
        (_CANNOT + "Too many levels of symbolic links",),
    ),
    Hostile("path-link-to-nothing", "dangling link", _link("m.pt", "no"), 2, ("no such file",)),
    Hostile(
        "path-link-to-good",
        "link to a good file",
        _both(file("good", GOOD), _link("m.safetensors", "good")),
        0,
        ("fc",),
        plain="safetensors",
    ),
    Hostile(
        "path-link-to-folder",
        "link to a good folder",
        _both(_in_folder(file("model.safetensors", GOOD)), _link("linked", "model")),
        0,
        ("fc",),
    ),
    Hostile(
        "path-name-not-utf-8",
        "name that is not UTF-8",
        _called(b"mod\xff\xfeel.safetensors", GOOD),
        0,
        ("mod\\udcff\\udcfeel.safetensors",),
        plain="safetensors",
    ),
    Hostile(
        "path-name-not-utf-8-json",
        "name that is not UTF-8, as JSON",
        _called(b"mod\xff\xfeel.safetensors", GOOD),
        0,
        ('"path": ', "mod\\\\udcff\\\\udcfeel"),
        options=JSON,
    ),
    Hostile(
        "path-name-not-utf-8-empty",
        "empty file whose name is not UTF-8",
        _called(b"mod\xff.pt", b""),
        2,
        ("mod\\udcff.pt: file is empty",),
    ),
    Hostile(
        "path-name-forges-a-log",
        "name with a newline and ::error::",
        _called(b"a\n::error file=x::broken.pt", b""),
        2,
        ("a\\x0a", "file is empty"),
        silent=("\n::error",),
        row=35,
    ),
    Hostile(
        "path-name-with-escapes",
        "name with terminal escapes",
        _called(b"a\x1b[31m\x1b]0;owned\x07.safetensors", GOOD),
        0,
        ("a\\x1b[31m",),
        silent=("\x07",),
        row=35,
    ),
    Hostile(
        "path-name-with-markup",
        "name with [/red]",
        _called(b"a[bold][red.safetensors", GOOD),
        0,
        ("a[bold][red.safetensors",),
        row=35,
    ),
    Hostile(
        "path-name-turned-round",
        "name with a right-to-left override",
        _called("tp.\u202esrosnetefas".encode(), b""),
        2,
        ("tp.\\u202esrosnetefas",),
    ),
    Hostile(
        "path-name-of-255-bytes",
        "name of 255 bytes",
        _called(b"a" * (LONGEST - 12) + b".safetensors", GOOD),
        0,
        ("fc",),
    ),
    Hostile(
        "path-name-of-300-bytes",
        "name of 300 bytes",
        _missing("a" * 300),
        2,
        (_CANNOT + "File name too long",),
    ),
    Hostile(
        "path-of-5000-bytes",
        "path of 5,000 bytes",
        _missing(*["a" * 100] * 50),
        2,
        (_CANNOT + "File name too long",),
    ),
    Hostile(
        "path-folder-with-endless-link",
        "folder with a link to a name that is too long",
        _in_folder(_link("x.json", "b" * 300), file("model.safetensors", GOOD)),
        0,
        ("fc",),
    ),
    Hostile(
        "path-folder-of-links-to-nothing",
        "folder whose model is a link to itself",
        _in_folder(_link("model.safetensors", "model.safetensors")),
        2,
        (_NO_MODEL,),
    ),
    Hostile(
        "path-folder-of-a-pipe",
        "folder whose model is a pipe",
        _in_folder(_pipe("model.safetensors")),
        2,
        (_NO_MODEL,),
        row=8,
    ),
    Hostile(
        "path-folder-with-an-empty-model",
        "folder whose model is empty",
        _in_folder(file("pytorch_model.bin", b"")),
        2,
        ("pytorch_model.bin: file is empty (0 bytes)",),
    ),
    Hostile(
        "path-folder-with-odd-companions",
        "folder to clip, with links that lead nowhere",
        _in_folder(
            _link("config.json", "config.json"),
            _link("tokenizer.json", "c" * 300),
            file("model.safetensors", GOOD),
        ),
        0,
        ("fc",),
        command=("clip",),
        options=("--to", "1", "--dry-run", "-o", "out"),
    ),
    Hostile(
        "path-a-gigabyte-of-zeros",
        "a gigabyte of zeros called .pt",
        written.sparse("m.pt", b"\0", 1 << 30),
        2,
        ("not a known model format",),
        row=9,
    ),
)
