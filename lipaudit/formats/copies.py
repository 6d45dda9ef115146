"""Copies: which files an output consists of, beside those in which a tensor changes.

A folder given as input makes a folder as output, with what its readers need besides the
weights: configuration, tokenizer, licence. It comes from a stranger, so that its links are
only followed as far as the reader of the weights follows them.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lipaudit.formats.base import AbstractFormat, ChangedFile, Patch
from lipaudit.formats.catalog import registered
from lipaudit.formats.detect import format_of
from lipaudit.formats.edits import check_same
from lipaudit.formats.folder import ShardedFormat
from lipaudit.formats.source import Source
from lipaudit.formats.strangers import INDEX_SUFFIX
from lipaudit.graph.model import Model

# What loaders read beside the weights (configuration, vocabularies, custom code), and people.
_KEPT = frozenset(
    {"", ".json", ".txt", ".model", ".tiktoken", ".jinja", ".md", ".yaml", ".yml", ".py"}
)
_LARGEST = 1 << 26
_MOST = 1000


def changed(model: Model, patch: Patch, output: str) -> Sequence[ChangedFile]:
    """Return all files of an output of that name: copies of the input's with edits.

    Raise `WriteRefused` for a tensor that cannot be written in place, and when the input is no
    longer what was read.
    """
    for path, seen in model.fingerprints.items():
        check_same(Source(path), seen)
    form = format_of(model)
    in_folder = model.folder is not None and not _is_file(form, output)
    # In a folder of its own everything keeps its name.
    files = form.changed(model, patch, "" if in_folder else output)
    if model.folder is not None and in_folder:
        main = files[0].original
        names = {file.name or main.name for file in files}
        files = [
            *(replace(file, name=file.name or main.name) for file in files),
            *(
                ChangedFile(path, name, ())
                for name, path in _companions(model.folder, main)
                if name not in names
            ),
        ]
    return [replace(file, seen=model.fingerprints.get(file.original)) for file in files]


def _is_file(form: AbstractFormat, output: str) -> bool:
    """Tell whether the output's name asks for the file with the weights alone."""
    known = {suffix for other in registered() for suffix in other.suffixes}
    return not isinstance(form, ShardedFormat) and Path(output).suffix in known


def _companions(folder: Path, main: Path) -> Iterator[tuple[str, Path]]:
    """Yield the small files that go with the weights: name in the folder, real place."""
    weights = {suffix for form in registered() for suffix in form.suffixes} - _KEPT
    home, blobs = folder.resolve(), main.resolve().parent
    count = 0
    for path in sorted(_entries(folder)):
        name, real = path.name, Path(os.path.realpath(path))  # also of links in a circle
        if name.startswith(".") or name.endswith((INDEX_SUFFIX, *weights)):
            continue
        if path.suffix not in _KEPT or not _is_small(real):
            continue
        if not real.is_relative_to(home) and (real.parent != blobs or real.name.startswith(".")):
            continue
        count += 1
        if count > _MOST:
            return
        yield str(path.relative_to(folder)), real


def _entries(folder: Path) -> Iterator[Path]:
    """Yield what lies in a folder and in those right below it that are not hidden."""
    for path in folder.iterdir():
        yield path
        with contextlib.suppress(OSError):  # no folder, or a link to a name that is too long
            if not path.name.startswith("."):
                yield from path.iterdir()


def _is_small(real: Path) -> bool:
    try:
        return real.is_file() and 0 < real.stat().st_size <= _LARGEST
    except OSError:  # a link to a name that is too long
        return False
