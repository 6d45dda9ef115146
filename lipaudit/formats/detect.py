"""Detection: which format a file is in, from its content; the suffix is only a hint."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lipaudit.errors import UnreadableFile, WriteRefused
from lipaudit.formats.base import AbstractFormat
from lipaudit.formats.catalog import registered
from lipaudit.formats.folder import read_folder
from lipaudit.formats.source import Source, changed, noted, opened
from lipaudit.formats.strangers import recognized
from lipaudit.graph.model import Model


def read_model(path: str) -> Model:
    """Read the model in a file or a folder, whatever its format."""
    with noted() as noticed, _uncollected():
        source = opened(path)
        try:
            model = read_folder(Path(path)) if source is None else _read_file(source)
        except OSError as error:
            raise UnreadableFile(
                f"cannot be read: {error.strerror or error}", slug="unreadable", path=path
            ) from error
    seen = {file: Source(file).fingerprint() for file in model.files}
    for file, fingerprint in seen.items():
        if fingerprint not in noticed:
            raise changed(file)
    return replace(model, fingerprints=seen)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Let nobody look for garbage meanwhile.

    All that is made is kept: the millions of objects of a large file would be gone through again
    and again.
    """
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            gc.enable()


def _read_file(source: Source) -> Model:
    form = recognized(source)
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
        return recognized(Source(path))
    raise WriteRefused(
        "is not a file, so that there is nothing to copy", slug="write-live", path=model.path
    )
