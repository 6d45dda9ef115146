"""Outputs: finished files put in their places, all of them or none, and pipes written to.

A pipe or a device (/dev/stderr, a shell's `>(...)`) is no place for a file: it is written to,
and never replaced.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lipaudit.errors import WriteRefused
from lipaudit.formats import atomic

_STREAMS = frozenset({"/dev/stdout", "/dev/stderr"})
_DESCRIPTORS = Path("/dev/fd")


def check(target: Path, originals: Sequence[Path], *, force: bool) -> None:
    """Raise `WriteRefused` if an output could not go there, before any work is done."""
    if not is_device(target):
        atomic.check_target(target, originals, force=force)


def put(files: Mapping[Path, bytes], *, originals: Sequence[Path], force: bool) -> None:
    """Write files, each of which appears whole, and none without the others."""
    with contextlib.ExitStack() as stack:
        stages = []
        for path, content in files.items():
            if not is_device(path):
                stage = stack.enter_context(atomic.staged(path, originals=originals, force=force))
                _write(stage.main, content, path)
                stages.append(stage)
        atomic.commit(stages, originals=originals, force=force)
    for path, content in files.items():
        if is_device(path):
            _write(path, content, path)


def put_in(
    folder: Path, files: Mapping[str, bytes], *, originals: Sequence[Path], force: bool
) -> None:
    """Write files into a folder, which is made if it is missing."""
    made = False
    try:
        made = not folder.exists()
        folder.mkdir(exist_ok=True)
        put(
            {folder / name: content for name, content in files.items()},
            originals=originals,
            force=force,
        )
    except OSError as error:
        raise refused(folder, error) from error
    finally:
        if made:  # stays, unless nothing came into it
            with contextlib.suppress(OSError):
                folder.rmdir()


def append(path: Path, content: bytes) -> None:
    """Add to a file that others write as well: all of it, or nothing."""
    if is_device(path):
        _write(path, content, path)
        return
    try:
        is_new = not path.exists()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o666)
        try:
            _append(descriptor, content)
        except BaseException:
            with contextlib.suppress(OSError):
                if is_new and not os.fstat(descriptor).st_size:
                    path.unlink()
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise refused(path, error) from error


def _append(descriptor: int, content: bytes) -> None:
    """Write behind what is there, in one step unless the system breaks it up.

    What fails is taken back, as far as no other writer has come behind it or into it.
    """
    start = end = -1
    left = memoryview(content)
    try:
        while left:
            count = os.write(descriptor, left)
            now = os.lseek(descriptor, 0, os.SEEK_CUR)
            start, end = (start if now - count == end else now - count), now
            left = left[count:]
        os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            if os.fstat(descriptor).st_size == end:
                os.ftruncate(descriptor, start)
        raise


def is_device(path: Path) -> bool:
    """Tell a pipe or a device: there is no file to replace."""
    whole = path.absolute()
    if str(whole) in _STREAMS or whole.parent == _DESCRIPTORS:
        return path.exists()  # /dev/stdout may lead to a file, which the shell opened
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except OSError:  # a name that is too long: writing will say so
        return False


def refused(target: Path, error: OSError) -> WriteRefused:
    """Return the error that says why a place cannot be written."""
    return WriteRefused(
        f"cannot be written: {error.strerror or error}", slug="write-failed", path=str(target)
    )


def _write(path: Path, content: bytes, target: Path) -> None:
    """Write what is staged, or is no file; an error names the target."""
    try:
        with path.open("wb") as out:
            out.write(content)
            out.flush()
            if path.is_file():
                os.fsync(out.fileno())
    except OSError as error:
        raise refused(target, error) from error
