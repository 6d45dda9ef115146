"""Renaming a file onto a name that nothing has, in one step: what Python has no call for."""

import ctypes
import errno
import os
import sys
from pathlib import Path

_NO_REPLACE = 1
"""RENAME_NOREPLACE of renameat2(2), Linux."""
_EXCLUSIVE = 4
"""RENAME_EXCL of renamex_np(2), macOS."""
_HERE = -100
"""AT_FDCWD of Linux: paths are of the current folder."""
# What a system, or a file system, answers that has no such step.
_UNKNOWN = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM})


def without_replacing(path: Path, place: Path) -> bool:
    """Move a file; raise if something is there, and return False where there is no such call."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            failed = libc.renamex_np(os.fsencode(path), os.fsencode(place), _EXCLUSIVE)
        else:
            old, new = os.fsencode(path), os.fsencode(place)
            failed = libc.renameat2(_HERE, old, _HERE, new, _NO_REPLACE)
    except (AttributeError, OSError, TypeError):  # another system, or an older libc
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(path), None, str(place))
