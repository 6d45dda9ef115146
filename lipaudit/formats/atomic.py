"""Atomic: new files appear whole or not at all, and never in the place of the input.

Everything is staged in a hidden folder beside the target (same file system, same file names),
read back and measured there by the caller, and then moved into place, the main file last.
"""

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lipaudit.errors import WriteRefused
from lipaudit.formats import renaming

if TYPE_CHECKING:
    from lipaudit.formats.base import ChangedFile  # reports are written without torch

# What file systems without hard links answer: FAT, some network shares.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


@dataclass(frozen=True, slots=True)
class Stage:
    """A hidden folder in which the output is prepared under its final names."""

    folder: Path
    main: Path
    """Where the output itself stands while it is staged: a file, or a folder of shards."""
    target: Path

    def write(self, files: "Sequence[ChangedFile]") -> None:
        """Write the edited copies, replacing what an earlier attempt staged."""
        for file in files:
            path = self.main / file.name if self._is_folder(files) else self._beside(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(file, path)

    def commit(self, *, originals: Sequence[Path], force: bool) -> None:
        """Move what is staged to its final place."""
        commit((self,), originals=originals, force=force)

    def moves(self) -> "Iterator[_Move]":
        """Yield what has to be moved where, the main file last."""
        parent = self.target.absolute().parent
        spares = self.folder / secrets.token_hex(8)
        beside = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        for count, path in enumerate((*(p for p in beside if p != self.main), self.main)):
            place = self.target if path == self.main else parent / path.relative_to(self.folder)
            yield _Move(path, place, spares / str(count))

    @staticmethod
    def _is_folder(files: "Sequence[ChangedFile]") -> bool:
        return all(file.name for file in files)

    def _beside(self, file: "ChangedFile") -> Path:
        return self.folder / file.name if file.name else self.main


def commit(stages: "Sequence[Stage]", *, originals: Sequence[Path], force: bool) -> None:
    """Move everything that is staged to its final place, all of it or none.

    Where one file cannot be moved, those before it are moved back.
    """
    folders = [stage for stage in stages if stage.main.is_dir()]
    for stage in folders:
        for folder, _, _ in os.walk(stage.main):
            _sync_folder(Path(folder))
        _check_place(stage.target, originals, force=force)
        stage.main.rename(stage.target)  # onto nothing, or an empty folder made meanwhile
    moves = [move for stage in stages if stage not in folders for move in stage.moves()]
    # Seen before anything is moved: half an output is worse than none.
    for move in moves:
        _check_place(move.place, originals, force=force)
    _move(moves, force=force)
    for parent in {stage.target.absolute().parent: None for stage in stages}:
        _sync_folder(parent)


@contextmanager
def staged(
    target: Path, *, originals: Sequence[Path], force: bool, may_write: bool = True
) -> Iterator[Stage]:
    """Prepare an output; whatever happens, the hidden folder is gone afterwards."""
    parent = target.absolute().parent if may_write else Path(tempfile.gettempdir())
    # Named before it is made: an interruption right after cannot leave it behind.
    folder = parent / f".lipaudit-{secrets.token_hex(8)}"
    try:
        if may_write:
            check_target(target, originals, force=force)
        folder.mkdir(mode=0o700)
        yield Stage(folder, folder / target.name, target)
    except OSError as error:
        raise _refused(target, error) from error
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Take the hidden folder away, even from under an impatient second Ctrl-C."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_target(target: Path, originals: Sequence[Path], *, force: bool) -> None:
    """Raise if an output cannot, or must not, be put there."""
    if not target.name or target.name in {".", ".."}:
        raise WriteRefused("is no name for an output", slug="write-target", path=str(target))
    if not os.path.isdir(target.absolute().parent):  # noqa: PTH112 - False for what is too long
        raise WriteRefused(
            f"no such folder: {target.absolute().parent}", slug="write-folder", path=str(target)
        )
    if not os.access(target.absolute().parent, os.W_OK | os.X_OK):
        raise WriteRefused(
            f"nothing may be written into {target.absolute().parent}",
            slug="write-failed",
            path=str(target),
        )
    _check_place(target, originals, force=force)


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
    if place.is_dir():
        raise WriteRefused(
            "is a folder that exists",
            slug="write-exists",
            path=str(place),
            hint="choose another name",
        )
    if not force:
        raise WriteRefused(
            "exists already", slug="write-exists", path=str(place), hint="use --force to replace it"
        )


def _write(file: "ChangedFile", path: Path) -> None:
    """Copy an input file with its edits, and see it safely on the disk."""
    from lipaudit.formats.edits import chunks  # noqa: PLC0415 - reports are written without torch

    with path.open("wb") as out:
        for chunk in chunks(file):
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())


_Undo = Callable[[], object]


@dataclass(frozen=True, slots=True)
class _Move:
    """One file to be put in its place."""

    path: Path
    place: Path
    spare: Path
    """Where an old file waits that it replaces."""


def _move(moves: Sequence[_Move], *, force: bool) -> None:
    """Move files into place one after another; all back again if one of them fails."""
    undo: list[_Undo] = []
    try:
        for move in moves:
            move.spare.parent.mkdir(exist_ok=True)
            _make_folders(move.place.parent, undo)
            _place(move, undo, force=force)
    except BaseException as error:
        for step in reversed(undo):
            with contextlib.suppress(OSError):
                step()
        if isinstance(error, OSError):
            raise _refused(move.place, error) from error
        raise


def _make_folders(folder: Path, undo: list[_Undo]) -> None:
    if not folder.is_dir():
        _make_folders(folder.parent, undo)
        undo.append(folder.rmdir)
        folder.mkdir()


def _place(move: _Move, undo: list[_Undo], *, force: bool) -> None:
    """Move one file; each way back is noted before the step, and does nothing without it."""
    path, place, spare = move.path, move.place, move.spare
    umask = os.umask(0)
    os.umask(umask)
    replaces = force and os.path.lexists(place)
    path.chmod(place.stat().st_mode & 0o777 if replaces and place.exists() else 0o666 & ~umask)
    if replaces:
        undo.append(lambda: spare.replace(place))
        _keep(place, spare)
        path.replace(place)
        return
    undo.append(lambda: place.unlink() if place.samefile(path) else None)
    try:
        os.link(path, place)  # unlike a rename, a link never replaces what is there
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        undo.append(lambda: None if path.exists() else place.unlink())
        if renaming.without_replacing(path, place):
            return
        place.open("xb").close()  # an empty file, for the moment in which it holds the name
        undo.append(place.unlink)
        path.replace(place)


def _keep(place: Path, spare: Path) -> None:
    """Give a file that is about to be replaced a second name, to come back under."""
    try:
        os.link(place, spare, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copy2(place, spare, follow_symlinks=False)


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
