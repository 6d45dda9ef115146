"""Atomic: new files appear whole or not at all, and never in the place of the input.

Everything is staged in a hidden folder beside the target (same file system, same file names),
read back and measured there by the caller, and then moved into place, the main file last.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lipaudit.errors import WriteRefused
from lipaudit.formats.base import ChangedFile
from lipaudit.formats.source import Source

_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class Stage:
    """A hidden folder in which the output is prepared under its final names."""

    folder: Path
    main: Path
    """Where the output itself stands while it is staged: a file, or a folder of shards."""
    target: Path

    def write(self, files: Sequence[ChangedFile]) -> None:
        """Write the edited copies, replacing what an earlier attempt staged."""
        for file in files:
            path = self.main / file.name if self._is_folder(files) else self._beside(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            _copy_edited(file, path)

    def commit(self, *, originals: Sequence[Path], force: bool) -> None:
        """Move the staged files to their final places, the main one last."""
        if self.main.is_dir():
            self.main.rename(self.target)
        else:
            moves = {
                path: self.target.parent / path.relative_to(self.folder)
                for path in sorted(self.folder.rglob("*"))
                if path.is_file() and path != self.main
            }
            # Seen before anything is moved: half an output is worse than none.
            for place in moves.values():
                _check_place(place, originals, force=force)
            for path, place in (*moves.items(), (self.main, self.target)):
                _place(path, place, force=force)
        _sync_folder(self.target.absolute().parent)

    @staticmethod
    def _is_folder(files: Sequence[ChangedFile]) -> bool:
        return all(file.name for file in files)

    def _beside(self, file: ChangedFile) -> Path:
        return self.folder / file.name if file.name else self.main


@contextmanager
def staged(
    target: Path, *, originals: Sequence[Path], force: bool, may_write: bool = True
) -> Iterator[Stage]:
    """Prepare an output; whatever happens, the hidden folder is gone afterwards."""
    if may_write:
        _check_target(target, originals, force=force)
    parent = target.absolute().parent if may_write else None
    try:
        folder = Path(tempfile.mkdtemp(prefix=".lipaudit-", dir=parent))
    except OSError as error:
        raise _refused(target, error) from error
    try:
        yield Stage(folder, folder / target.name, target)
    except OSError as error:
        raise _refused(target, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_target(target: Path, originals: Sequence[Path], *, force: bool) -> None:
    if not target.name or target.name in {".", ".."}:
        raise WriteRefused("is no name for an output", slug="write-target", path=str(target))
    if not target.absolute().parent.is_dir():
        raise WriteRefused(
            f"no such folder: {target.absolute().parent}", slug="write-folder", path=str(target)
        )
    _check_place(target, originals, force=force)
    if target.is_dir():
        raise WriteRefused("is a folder that exists", slug="write-exists", path=str(target))


def _check_place(place: Path, originals: Sequence[Path], *, force: bool) -> None:
    """Raise if a file must not be put there: it is the input, or exists and force is not given."""
    if not os.path.lexists(place):
        return
    # A folder as input is meant by its own path, and its files' folder is that path.
    inputs = [path for original in originals for path in (original, original.parent)]
    if place.exists() and any(path.exists() and place.samefile(path) for path in inputs):
        raise WriteRefused(
            "is the input itself", slug="write-input", path=str(place), hint="choose another name"
        )
    if not force:
        raise WriteRefused(
            "exists already", slug="write-exists", path=str(place), hint="use --force to replace it"
        )


def _copy_edited(file: ChangedFile, path: Path) -> None:
    """Copy an input file with some byte ranges replaced, and see it safely on the disk."""
    source = Source(file.original)
    with path.open("wb") as out:
        for offset in range(0, source.size, _CHUNK):
            out.write(source.read(offset, min(_CHUNK, source.size - offset)))
        for edit in file.edits:
            out.seek(edit.offset)
            out.write(edit.data)
        out.flush()
        os.fsync(out.fileno())


def _place(staged_file: Path, target: Path, *, force: bool) -> None:
    umask = os.umask(0)
    os.umask(umask)
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~umask
    staged_file.chmod(mode)
    if force:
        staged_file.replace(target)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(staged_file, target)  # unlike a rename, a link never replaces what is there


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(target: Path, error: OSError) -> WriteRefused:
    return WriteRefused(
        f"cannot be written: {error.strerror or error}", slug="write-failed", path=str(target)
    )
