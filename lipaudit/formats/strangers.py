"""Strangers: what people mistake for a model, or name like one, known by its first bytes."""

from lipaudit import strict_json
from lipaudit.errors import UnsupportedFormat
from lipaudit.formats.base import AbstractFormat, registered
from lipaudit.formats.source import Source

INDEX_SUFFIX = ".index.json"
"""How the index of a sharded model is called."""
_HEAD = 1024
_LFS = b"version https://git-lfs.github.com/spec/"
_LONGEST_SIZE = 20
"""Digits: no file is longer than 2^64 bytes."""
_FIRST_BYTES = (
    (b"GGUF", "GGUF file: format not supported"),
    (b"tjgg", "GGML file: format not supported"),
    (b"lmgg", "GGML file: format not supported"),
    (b"\x89HDF\r\n\x1a\n", "HDF5 file: format not supported"),
    (b"\x1f\x8b", "gzip file: unpack it first"),
    (b"BZh", "bzip2 file: unpack it first"),
    (b"\xfd7zXZ\0", "xz file: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd file: unpack it first"),
    (b"7z\xbc\xaf", "7z archive: unpack it first"),
    (b"Rar!", "rar archive: unpack it first"),
    (b"PK\x05\x06", "empty zip archive, not a model"),
    (b"\x93NUMPY", "npy array: not a model"),
    (b"MATLAB 5.0", "MATLAB file: format not supported"),
    (b"%PDF", "PDF file, not a model"),
    (b"\x89PNG", "PNG image, not a model"),
    (b"\x7fELF", "program, not a model"),
)
# The identifiers of FlatBuffers stand behind four bytes.
_FIFTH_BYTES = (
    (b"TFL3", "TFLite file: format not supported"),
    (b"ORTM", "ORT file: format not supported; give the .onnx it was made from"),
)
_MARK = b"\xef\xbb\xbf"
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body", b"<!--")
_DOWNLOAD = "was the download an error page?"


def recognized(source: Source) -> AbstractFormat:
    """Return the format that reads a file; raise naming what it is instead."""
    problem = _known(source)
    if problem is None:
        for form in registered():
            if form.recognizes(source):
                return form
        problem = ("not a known model format", "")
    cause, hint = problem
    raise UnsupportedFormat(
        f"{cause} ({source.size:,} bytes)" if source.size < 64 else cause,
        slug="unsupported-format",
        path=str(source.path),
        hint=hint,
    )


def pointer(source: Source) -> str:
    """Say of which file it is a pointer of Git LFS; "" where it is none."""
    head = source.head(_HEAD)
    if not head.startswith(_LFS):
        return ""
    sizes = [line[5:].strip() for line in head.split(b"\n") if line.startswith(b"size ")]
    known = bool(sizes) and sizes[0].isdigit() and len(sizes[0]) <= _LONGEST_SIZE
    return f"Git LFS pointer for {f'{int(sizes[0]):,}' if known else 'some'} bytes, not the model"


def is_index(source: Source) -> bool:
    """Tell whether it is the index of a sharded model, or something called like one."""
    if source.head(1) not in b"{[ \t\r\n":
        return False
    is_called_so = source.path.name.endswith(INDEX_SUFFIX)
    return is_called_so or b'"weight_map"' in source.head(strict_json.MAX_BYTES)


def _known(source: Source) -> tuple[str, str] | None:
    """Name what the file is when it is certainly no model, with the way out."""
    found = pointer(source)
    if found:
        return found, "run `git lfs pull`"
    head = source.head(_HEAD)
    for start, magics in ((0, _FIRST_BYTES), (4, _FIFTH_BYTES)):
        for magic, what in magics:
            if head.startswith(magic, start):
                return what, ""
    if head[257:262] == b"ustar":
        return "tar archive: format not supported", "save it again with torch 1.6 or newer"
    return _text(head.removeprefix(_MARK).lstrip().lower(), source) if _is_text(head) else None


def _text(words: bytes, source: Source) -> tuple[str, str] | None:
    """Name a text by how it begins; None where it may be the index of a model."""
    if words.startswith(_HTML):
        return "HTML page, not a model", _DOWNLOAD
    if words.startswith(b"<?xml"):
        if b"<html" in words:
            return "HTML page, not a model", _DOWNLOAD
        if b"<net " in words:
            return "OpenVINO model: format not supported", "give the ONNX model it was made from"
        return "XML text, not a model", _DOWNLOAD
    if words[:1] in {b"{", b"["}:
        return None if is_index(source) else ("JSON text, not a model", _DOWNLOAD)
    return "not a known model format: plain text", _DOWNLOAD


def _is_text(head: bytes) -> bool:
    """Tell whether a file begins as text: every binary format has control characters early on."""
    if any(byte < 0x20 and byte not in b"\t\n\f\r" for byte in head) or b"\x7f" in head:
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > 0 and error.end == len(head) == _HEAD  # cut within a character
    return True
