"""Config file: `[tool.lipaudit]` of a pyproject.toml, or a lipaudit.toml, found and checked.

docs/config.md describes every key for users; here is what each accepts.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from lipaudit.cache import place
from lipaudit.errors import UsageError
from lipaudit.gates import quantities, toml_table
from lipaudit.gates.catalog import IDS
from lipaudit.gates.config import EVERY_INPUT, Config, Entry, Settings
from lipaudit.gates.policy import Ignore, LayerLimit
from lipaudit.gates.toml_table import TomlTable
from lipaudit.gates.upkeep import ID as EXPIRED

PROJECT = "pyproject.toml"
OWN = "lipaudit.toml"
_UNPROVED = "what is not proved cannot pass; limit other layers or models instead"
_NEVER_IGNORED = {
    "LIP003": _UNPROVED,
    "LIP004": _UNPROVED,
    "LIP007": "assume-sequential = true says that the assumed graph is the true one",
    EXPIRED: "renew the exception, or remove it",
}
"""Rules without which a gate would pass on nothing, and what to do instead."""


def load(file: str | None = None, *, today: date | None = None) -> Config | None:
    """Read the config that is named, or the nearest one; None where there is none."""
    if file is None:
        found = _nearest(Path.cwd())
        if found is None:
            return None
        file = os.path.relpath(found)
    table = _table(file, toml_table.parsed(file))
    if table is None:
        raise UsageError("has no [tool.lipaudit] table", slug="config-missing", path=file)
    return _config(TomlTable(table, file), file, today or datetime.now(UTC).date())


def _nearest(folder: Path) -> Path | None:
    """Look for a config from a folder upward, no further than the root of its repository."""
    for here in (folder, *folder.parents):
        own, project = here / OWN, here / PROJECT
        in_project = (
            project.is_file() and _table(str(project), toml_table.parsed(str(project))) is not None
        )
        # Also what cannot be read: in place of a broken link no other config must count.
        is_here = os.path.lexists(own)
        if is_here and in_project:
            raise UsageError(
                f"{OWN} and [tool.lipaudit] in {PROJECT} stand side by side",
                slug="config-two",
                path=str(here),
                hint="keep one of them, or name it with --config",
            )
        if is_here or in_project:
            return own if is_here else project
        if (here / ".git").exists():
            return None
    return None


def _table(file: str, whole: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the part of a file that is lipaudit's; None where it has none."""
    tool = whole.get("tool")
    if isinstance(tool, dict) and "lipaudit" in tool:
        own = tool["lipaudit"]
        if not isinstance(own, dict):
            raise UsageError("tool.lipaudit must be a table", slug="config-value", path=file)
        return own
    return None if Path(file).name == PROJECT else whole


def _config(table: TomlTable, file: str, today: date) -> Config:
    defaults = _settings(table)
    folder = str(Path(file).parent)
    baseline = table.take("baseline", toml_table.text)
    config = Config(
        file=file,
        folder=folder,
        defaults=defaults,
        models=table.take("models", _models) or (),
        ignores=tuple(
            replace(ignore, expired=today > ignore.expires)
            for ignore in table.take("ignore", _ignores) or ()
        ),
        baseline=None if baseline is None else os.path.normpath(Path(folder) / baseline),
        device=table.take("device", toml_table.text),
        max_memory=table.take("max-memory", _memory),
        workers=table.take("workers", _workers),
        scheduler=table.take("scheduler", toml_table.text),
        cache=_cache(folder, table.take("cache", _cache_folder)),
    )
    table.close()
    return config


def _cache_folder(table: TomlTable, key: str, value: object) -> str:
    return place.OFF if value is False else toml_table.text(table, key, value)


def _cache(folder: str, stated: str | None) -> str | None:
    """Return where results are kept; the folder is relative to the config's."""
    if stated is None or stated == place.OFF:
        return stated
    return os.path.normpath(Path(folder) / stated)


def _settings(table: TomlTable) -> Settings:
    return Settings(
        max_bound=table.take("max-bound", toml_table.number),
        max_norm=table.take("max-norm", toml_table.number),
        max_increase=table.take("max-increase", _increase),
        layers=table.take("layers", _layers),
        input_shape=table.take("input-shape", _shapes),
        input_range=table.take("input-range", _ranges),
        model=table.take("model", toml_table.text),
        hf=table.take("hf", toml_table.flag),
        assume_sequential=table.take("assume-sequential", toml_table.flag),
        executed=table.take("executed", toml_table.text),
        input_radius=table.take("input-radius", toml_table.number),
        constants=table.take("constants", _constants),
    )


def _models(table: TomlTable, key: str, value: object) -> tuple[Entry, ...]:
    if not isinstance(value, list):
        raise table.wrong(key, "a list of tables, as in [[models]]", value)
    entries = []
    for at, item in enumerate(value):
        place = f"{key}[{at}]"
        inner = table.inside(place, item)
        paths = inner.need("path", _globs, "a file, a folder, or a glob of them")
        entries.append(Entry(inner.name("path"), paths, _settings(inner)))
        inner.close()
    return tuple(entries)


def _ignores(table: TomlTable, key: str, value: object) -> tuple[Ignore, ...]:
    if not isinstance(value, list):
        raise table.wrong(key, "a list of tables, as in [[ignore]]", value)
    ignores = []
    for at, item in enumerate(value):
        inner = table.inside(f"{key}[{at}]", item)
        ignores.append(
            Ignore(
                rule=inner.need("rule", _rule, "an id such as LIP002"),
                reason=inner.need("reason", toml_table.text, "say why this may be ignored"),
                expires=inner.need("expires", toml_table.day, "the last day, as in 2026-12-31"),
                models=inner.take("models", toml_table.glob) or "*",
                layers=inner.take("layers", toml_table.globs),
            )
        )
        inner.close()
    return tuple(ignores)


def _rule(table: TomlTable, key: str, value: object) -> str:
    rule = toml_table.text(table, key, value)
    known = tuple(one for one in IDS if one not in _NEVER_IGNORED)
    if rule in _NEVER_IGNORED:
        raise table.error(
            f"{table.name(key)}: {rule} cannot be ignored",
            slug="config-value",
            hint=_NEVER_IGNORED[rule],
        )
    if rule not in known:
        raise table.error(
            f"{table.name(key)}: no rule {rule!r}",
            slug="config-value",
            hint=toml_table.suggestion(rule, known),
        )
    return rule


def _globs(table: TomlTable, key: str, value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise table.wrong(key, "a glob or a list of globs", value)
    return tuple(toml_table.glob(table, key, one) for one in values)


def _layers(table: TomlTable, key: str, value: object) -> tuple[LayerLimit, ...]:
    inner = table.inside(key, value)
    return tuple(
        LayerLimit(toml_table.globs(inner, name, name), toml_table.number(inner, name, limit))
        for name, limit in inner.items()
    )


def _constants(table: TomlTable, key: str, value: object) -> Mapping[str, float]:
    inner = table.inside(key, value)
    return {name: toml_table.number(inner, name, constant) for name, constant in inner.items()}


def _increase(table: TomlTable, key: str, value: object) -> float:
    share = quantities.percent(value) if isinstance(value, str) else None
    if share is None:
        raise table.wrong(key, "a percentage", value, 'write it like "5%"')
    return share


def _memory(table: TomlTable, key: str, value: object) -> int:
    amount = quantities.memory(value) if isinstance(value, str) else None
    if amount is None:
        raise table.wrong(key, "an amount of memory", value, 'write it like "2G"')
    return amount


def _workers(table: TomlTable, key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise table.wrong(key, "a number of processes, 0 for one a core", value)
    return value


def _shapes(table: TomlTable, key: str, value: object) -> Mapping[str, str]:
    if isinstance(value, dict):
        inner = table.inside(key, value)
        return {name: _shape(inner, name, shape) for name, shape in inner.items()}
    return {EVERY_INPUT: _shape(table, key, value)}


def _shape(table: TomlTable, key: str, value: object) -> str:
    if isinstance(value, list):
        sizes = [size for size in value if isinstance(size, int) and not isinstance(size, bool)]
        if len(sizes) == len(value) > 0 and min(sizes) > 0:
            return "x".join(map(str, sizes))
    if isinstance(value, str) and re.fullmatch(r"[1-9]\d*([x×,][1-9]\d*)*", value):
        return value
    raise table.wrong(key, 'a shape such as "3x32x32" or [3, 32, 32]', value)


def _ranges(table: TomlTable, key: str, value: object) -> Mapping[str, tuple[float, float]]:
    if isinstance(value, dict):
        inner = table.inside(key, value)
        return {name: _range(inner, name, span) for name, span in inner.items()}
    return {EVERY_INPUT: _range(table, key, value)}


def _range(table: TomlTable, key: str, value: object) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise table.wrong(key, "two numbers, as in [0, 1]", value)
    low, high = (toml_table.real(table, key, end) for end in value)
    if low > high:
        raise table.wrong(key, "a range whose first number is not above the second", value)
    return low, high
