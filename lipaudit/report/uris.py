"""URIs of model files, and what of a path is the same on every machine."""

import posixpath
from collections.abc import Sequence
from pathlib import PurePath
from urllib.parse import quote

from lipaudit.report.text import encodable


def uri(path: str, folder: str) -> str:
    """Return a file's URI: relative to the folder, with ../ for a file that lies elsewhere.

    Only where nothing is known that it could be relative to it is a file:// one.
    """
    found = relative(path, folder)
    return f"file://{_encoded(found)}" if posixpath.isabs(found) else _encoded(found)


def relative(path: str, folder: str) -> str:
    """Return the path from the folder, by which a report does not tell where it was made.

    Without a folder a path stays as it is.
    """
    if not path:
        return ""
    base, whole = _whole(path, folder)
    if posixpath.isabs(whole) and posixpath.isabs(base):
        return posixpath.relpath(whole, base)
    return whole


def inside(path: str, folder: str) -> str:
    """Return the path relative to the folder; "" for one that does not lie there."""
    if not path:
        return ""
    base, whole = _whole(path, folder)
    if not posixpath.isabs(whole):
        return "" if whole.startswith("../") else whole
    if not posixpath.isabs(base) or posixpath.commonpath([base, whole]) != base:
        return ""
    return posixpath.relpath(whole, base)


def _whole(path: str, folder: str) -> tuple[str, str]:
    base = posixpath.normpath(PurePath(folder).as_posix())
    return base, posixpath.normpath(posixpath.join(base, PurePath(path).as_posix()))


def tails(paths: Sequence[str]) -> dict[str, str]:
    """Return, for each path, as few of its last parts as tell it from the others.

    These are the same wherever the models lie, as long as they lie in the same way.
    """
    parts = {path: PurePath(posixpath.normpath(path)).parts for path in dict.fromkeys(paths)}
    found = {}
    for path, own in parts.items():
        count = 1
        others = [other for known, other in parts.items() if known != path]
        while count < len(own) and any(other[-count:] == own[-count:] for other in others):
            count += 1
        found[path] = "/".join(own[-count:])
    return found


def _encoded(path: str) -> str:
    try:
        # Names that are no UTF-8 reach Python as lone surrogates (PEP 383).
        return quote(path.encode("utf-8", "surrogateescape"), safe="/")
    except UnicodeEncodeError:
        return quote(encodable(path), safe="/")
