"""What the writer does, in a few lines: copies with edits, checked by reading them back."""

from collections.abc import Sequence
from pathlib import Path

from lipaudit.formats.base import ChangedFile


def apply(files: Sequence[ChangedFile], output: Path) -> None:
    """Write the edited copies: the file "" as `output`, others beside it, or all in a folder."""
    is_folder = all(file.name for file in files)
    for file in files:
        place = output / file.name if is_folder else output.parent / file.name
        if not file.name:
            place = output
        place.parent.mkdir(parents=True, exist_ok=True)
        data = bytearray(file.original.read_bytes())
        for edit in file.edits:
            data[edit.offset : edit.offset + len(edit.data)] = edit.data
        assert len(data) == file.original.stat().st_size
        place.write_bytes(data)
