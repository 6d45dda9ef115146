"""Files of other worlds under a model's name: pointers, error pages, archives, noise."""

import gzip
import io
import random
import tarfile
import zipfile

import numpy as np

from tests.hostile import written
from tests.hostile.case import Hostile
from tests.hostile.paths import JSON
from tests.hostile.written import file, torch_file

_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 102530333\n" % (
    b"4d7a" * 16
)
_LFS = ("Git LFS pointer for 102,530,333 bytes, not the model", "run `git lfs pull`")
_SUFFIXES = ("pt", "pth", "ckpt", "bin", "onnx", "safetensors", "pt2", "safetensors.index.json")
_LOADERS = {"onnx": "onnx", "safetensors": "safetensors", "pt2": None}
_GOOD = written.tensors()


def _loader(suffix: str) -> str | None:
    return None if suffix.endswith("json") else _LOADERS.get(suffix, "torch")


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("model.safetensors")
        info.size = len(_GOOD)
        archive.addfile(info, io.BytesIO(_GOOD))
    return out.getvalue()


def _zip(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def _npz() -> bytes:
    out = io.BytesIO()
    np.savez(out, weight=np.ones((2, 2)))
    return out.getvalue()


_NOISE = random.Random(7).randbytes(4096)  # noqa: S311 - reproducible noise, no secret
_KERAS = {"metadata.json": b"{}", "config.json": b"{}", "model.weights.h5": b"\x89HDF\r\n\x1a\n"}
# Name, suffix, bytes, and what must be said of them.
_OTHERS: tuple[tuple[str, str, bytes, str], ...] = (
    ("gguf", "pt", b"GGUF\x03\0\0\0" + bytes(64), "GGUF file: format not supported"),
    ("ggml", "bin", b"tjgg\x03\0\0\0" + bytes(64), "GGML file: format not supported"),
    ("hdf5", "pt", b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5 file: format not supported"),
    ("tar", "pt", _tar(), "tar archive: format not supported"),
    ("gzip", "pt", gzip.compress(_GOOD, mtime=0), "gzip file: unpack it first"),
    ("bzip2", "pt", b"BZh91AY&SY" + bytes(64), "bzip2 file: unpack it first"),
    ("xz", "pt", b"\xfd7zXZ\0" + bytes(64), "xz file: unpack it first"),
    ("zstd", "safetensors", b"\x28\xb5\x2f\xfd" + bytes(64), "zstd file: unpack it first"),
    ("7z", "pt", b"7z\xbc\xaf\x27\x1c" + bytes(64), "7z archive: unpack it first"),
    ("rar", "pt", b"Rar!\x1a\x07\x01\0" + bytes(64), "rar archive: unpack it first"),
    ("npy", "pt", b"\x93NUMPY\x01\0" + bytes(120), "npy array: not a model"),
    ("npz", "pt", _npz(), "NumPy archive (npz), not a model"),
    ("keras", "pt", _zip(_KERAS), "zip without data.pkl, not a model"),
    ("zip-without-pickle", "pt", _zip({"a/version": b"3\n"}), "zip without data.pkl"),
    ("tflite", "bin", b"\x1c\0\0\0TFL3" + bytes(64), "TFLite file: format not supported"),
    ("ort", "onnx", b"\x1c\0\0\0ORTM" + bytes(64), "ORT file: format not supported"),
    ("coreml", "mlmodel", b"\x08\x05\x12\x04\x0a\x02ab\xa2\x1f\0", "not a known model format"),
    (
        "openvino",
        "xml",
        b'<?xml version="1.0"?>\n<net name="m" version="11"><layers/></net>',
        "OpenVINO model: format not supported",
    ),
    ("matlab", "pt", b"MATLAB 5.0 MAT-file" + bytes(128), "MATLAB file: format not supported"),
    ("pdf", "pt", b"%PDF-1.7\n" + bytes(64), "PDF file, not a model"),
    ("png", "pt", b"\x89PNG\r\n\x1a\n" + bytes(64), "PNG image, not a model"),
    ("elf", "bin", b"\x7fELF\x02\x01\x01" + bytes(64), "program, not a model"),
    ("html", "pt", b"<!DOCTYPE html>\n<html><head><title>404</title>", "HTML page, not a model"),
    ("html-in-capitals", "onnx", b"\r\n  <HTML><BODY>Not found", "HTML page, not a model"),
    ("html-behind-a-mark", "pt2", b"\xef\xbb\xbf<html lang=en>", "HTML page, not a model"),
    ("html-behind-a-comment", "ckpt", b"<!-- cached --><html>", "HTML page, not a model"),
    (
        "xml-error",
        "safetensors",
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>',
        "XML text, not a model",
    ),
    ("json-error", "pt", b'{"error": "Repository not found"}', "JSON text, not a model"),
    # Byte 8 is a brace, where the header of a safetensors file begins.
    (
        "json-error-like-a-header",
        "safetensors",
        b'{"code":{"http": 401, "why": "Invalid username or password."}}',
        "JSON text, not a model",
    ),
    ("text-error", "safetensors", b"Invalid username or password.\n", "plain text"),
    ("text-error-onnx", "onnx", b"404: Not Found", "plain text"),
    ("noise", "pt", _NOISE, "not a known model format"),
    ("noise-bin", "bin", _NOISE[::-1], "not a known model format"),
    ("noise-safetensors", "safetensors", _NOISE, "not a known model format"),
    ("noise-onnx", "onnx", _NOISE, "not a valid ONNX protobuf"),
    ("one-byte", "pt", b"\x80", "not a known model format (1 bytes)"),
    ("seven-bytes", "safetensors", b"\x02\0\0\0\0\0\0", "header claims 2 bytes, file has 7"),
    ("half-a-magic-number", "pt", b"PK", "plain text"),
    ("zip-of-four-bytes", "pt", b"PK\x03\x04", "truncated zip: no end record"),
    ("empty-zip", "pt", b"PK\x05\x06" + bytes(18), "empty zip archive"),
)
_ROWS = {"html": 5, "gguf": 6, "hdf5": 6, "tar": 6, "noise": 9}

CASES: tuple[Hostile, ...] = (
    *(
        Hostile(
            f"empty-{suffix.replace('.', '-')}",
            f"empty .{suffix}",
            file(f"model.{suffix}", b""),
            2,
            ("file is empty (0 bytes)",),
            row=3 if suffix == "onnx" else 2,
            plain=_loader(suffix),
        )
        for suffix in _SUFFIXES
    ),
    *(
        Hostile(
            f"lfs-pointer-{suffix.replace('.', '-')}",
            f"Git LFS pointer called .{suffix}",
            file(f"model.{suffix}", _POINTER),
            2,
            _LFS,
            row=4,
            plain=_loader(suffix),
        )
        for suffix in _SUFFIXES
    ),
    Hostile(
        "lfs-pointer-with-crlf",
        "Git LFS pointer with Windows line ends",
        file("model.pt", _POINTER.replace(b"\n", b"\r\n")),
        2,
        _LFS,
    ),
    Hostile(
        "lfs-pointer-of-odd-size",
        "Git LFS pointer with a size of 900 digits",
        file("model.pt", _POINTER.replace(b"102530333", b"9" * 900)),
        2,
        ("Git LFS pointer for some bytes, not the model",),
        silent=("9" * 100, "9,999,999,999,999,999,999,999"),
    ),
    *(
        Hostile(
            f"other-{name}",
            f"{said.partition(':')[0].partition(',')[0]} called .{suffix}",
            file(f"model.{suffix}", data),
            2,
            (said,),
            row=_ROWS.get(name),
            plain=_loader(suffix),
        )
        for name, suffix, data, said in _OTHERS
    ),
    *(
        Hostile(
            f"suffix-{suffix or 'none'}-of-safetensors",
            f"safetensors renamed .{suffix}",
            file(f"model.{suffix}".rstrip("."), _GOOD),
            0,
            (f"its content is safetensors, whatever the suffix .{suffix} says",)
            if suffix not in {"", "dat", "SAFETENSORS"}
            else ('"format": "safetensors"',),
            options=JSON,
            row=7,
            plain=_loader(suffix),
        )
        for suffix in ("pt", "bin", "onnx", "pt2", "", "dat", "SAFETENSORS")
    ),
    *(
        Hostile(
            f"suffix-{suffix}-of-torch",
            f".pt renamed .{suffix}",
            torch_file(f"model.{suffix}"),
            0,
            (f"its content is torch (zip), whatever the suffix .{suffix} says",)
            if suffix != "PT"
            else ('"format": "torch (zip)"',),
            options=JSON,
            row=7,
            plain=_loader(suffix),
        )
        for suffix in ("safetensors", "onnx", "pt2", "PT")
    ),
)
