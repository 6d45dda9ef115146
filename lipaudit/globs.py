"""Globs: names of layers as people list them, "conv*, fc": any of several, split at commas."""

import fnmatch


def parts(globs: str) -> tuple[str, ...]:
    """Return the single globs of a list, without the blanks around them."""
    return tuple(part.strip() for part in globs.split(","))


def matches(name: str, globs: str) -> bool:
    """Tell whether a name is meant by any glob of a list."""
    return any(fnmatch.fnmatchcase(name, part) for part in parts(globs))
