"""Detection: which format a file is in, from its content; the suffix is only a hint."""

from dataclasses import replace
from pathlib import Path

from lipaudit.errors import UnreadableFile, UnsupportedFormat, WriteRefused
from lipaudit.formats.base import AbstractFormat
from lipaudit.formats.catalog import registered
from lipaudit.formats.folder import read_folder
from lipaudit.formats.source import Source
from lipaudit.graph.model import Model

_LFS = b"version https://git-lfs.github.com/spec/"
# First bytes of what people mistake for models, or models of other worlds.
_OTHERS = (
    (b"GGUF", "GGUF file: format not supported"),
    (b"\x89HDF\r\n\x1a\n", "HDF5 file: format not supported"),
    (b"\x1f\x8b", "gzip file: unpack it first"),
    (b"\x93NUMPY", "npy array: not a model"),
    (b"MATLAB 5.0", "MATLAB file: format not supported"),
    (b"BZh", "bzip2 file: unpack it first"),
    (b"7z\xbc\xaf", "7z archive: unpack it first"),
    (b"%PDF", "PDF file, not a model"),
)
_HTML = (b"<!doctype html", b"<html", b"<?xml")


def read_model(path: str) -> Model:
    """Read the model in a file or a folder, whatever its format."""
    try:
        source = None if Path(path).is_dir() else Source(Path(path))
    except ValueError as error:  # a NUL byte in the name
        raise UnreadableFile(f"is no file name: {error}", slug="no-such-file", path=path) from error
    model = read_folder(Path(path)) if source is None else _read_file(source)
    seen = {file: Source(file).fingerprint() for file in model.files}
    return replace(model, fingerprints=seen)


def _read_file(source: Source) -> Model:
    form = _recognized(source)
    model = form.read(source)
    suffix = source.path.suffix.lower()
    expected = {end for other in registered() for end in other.suffixes} - set(form.suffixes)
    if suffix in expected:
        note = f"its content is {form.name}, whatever the suffix {suffix} says"
        return replace(model, notes=(*model.notes, note))
    return model


def format_of(model: Model) -> AbstractFormat:
    """Return the format that can write a changed copy of a model that was read."""
    for path in model.files[:1]:
        return _recognized(Source(path))
    raise WriteRefused(
        "is not a file, so that there is nothing to copy", slug="write-live", path=model.path
    )


def _recognized(source: Source) -> AbstractFormat:
    problem = _known_other(source)
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


def _known_other(source: Source) -> tuple[str, str] | None:
    """Name what the file is when it is certainly no model, with the way out."""
    head = source.head(1024)
    if head.startswith(_LFS):
        size = next((line[5:] for line in head.split(b"\n") if line.startswith(b"size ")), b"?")
        count = f"{int(size):,}" if size.isdigit() else "some"
        return f"Git LFS pointer for {count} bytes, not the model", "run `git lfs pull`"
    for magic, what in _OTHERS:
        if head.startswith(magic):
            return what, ""
    if head[257:262] == b"ustar":
        return "tar archive: format not supported", "save it again with torch 1.6 or newer"
    if head.lstrip().lower().startswith(_HTML):
        return "HTML page, not a model", "was the download an error page?"
    return None
