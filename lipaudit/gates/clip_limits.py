"""Clip limits: what a TOML file says about how large norms may be.

to = 1.0            # every layer that nothing else is said about
[layers]
"features.*" = 0.9  # by globs, split at commas; the least of those that match counts
"""

from collections.abc import Mapping

from lipaudit.errors import UsageError
from lipaudit.gates import toml_table
from lipaudit.gates.toml_table import TomlTable


def read(path: str) -> tuple[float | None, Mapping[str, float]]:
    """Return the limit for all layers, if a file states one, and those by globs of names."""
    table = TomlTable(toml_table.parsed(path), path)
    to = table.take("to", toml_table.positive)
    by_glob = table.take("layers", _layers) or {}
    table.close()
    if to is None and not by_glob:
        raise UsageError(
            "states no limit",
            slug="clip-limit",
            path=path,
            hint='write to = 1.0, or a table [layers] with "conv*" = 1.0',
        )
    return to, by_glob


def _layers(table: TomlTable, key: str, value: object) -> Mapping[str, float]:
    inner = table.inside(key, value)
    return {
        toml_table.globs(inner, name, name): toml_table.positive(inner, name, limit)
        for name, limit in inner.items()
    }
