"""Place: which folder the cache is, as systems keep such folders."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

OFF = "off"
"""What an option, a variable or a config says instead of a folder: there shall be none."""
_NAME = "lipaudit"


def default(environment: Mapping[str, str], platform: str = sys.platform) -> Path | None:
    """Return the user's own folder for it; None where the user has no place for such things.

    https://specifications.freedesktop.org/basedir-spec: a relative path there is to be ignored.
    """
    stated = environment.get("XDG_CACHE_HOME", "")
    if Path(stated).is_absolute():
        return Path(stated) / _NAME
    home = Path(environment.get("HOME", ""))
    # Under sudo the home is another user's: root's files there would be in the way.
    if not home.is_absolute() or not _is_own(home):
        return None
    return home / ("Library/Caches" if platform == "darwin" else ".cache") / _NAME


def _is_own(folder: Path) -> bool:
    try:
        return folder.stat().st_uid == os.geteuid()
    except (OSError, ValueError):
        return False
