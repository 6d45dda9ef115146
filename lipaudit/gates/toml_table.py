"""TomlTable: a table of a config whose values are taken by type, and whose keys all count.

A misspelt key must not silently switch a gate off: every key that nobody took is an error,
with the nearest one that there is.
"""

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Any, TypeVar

from lipaudit.errors import UsageError
from lipaudit.gates import document
from lipaudit.globs import parts

Value = TypeVar("Value")
_MAX_BYTES = 1_000_000
_MAX_PARTS = 200
# A bare or quoted part of a dotted key, with the dot behind it if there is one.
_KEY_PART = re.compile(r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')[ \t]*(?:(\.)[ \t]*)?""")


def parsed(file: str) -> Mapping[str, Any]:
    """Return what a TOML file says; one line of error for what is none."""
    try:
        text = document.read(file, limit=_MAX_BYTES).decode("utf-8")
        found = tomllib.loads(text) if _longest_key(text) <= _MAX_PARTS else None
    except UnicodeDecodeError as error:
        cause = f"is not UTF-8 at byte {error.start:,}"
    except tomllib.TOMLDecodeError as error:  # says the line and column
        cause = f"is not valid TOML: {error}"
    except RecursionError:
        cause = "is nested too deep"
    except ValueError as error:  # an integer of thousands of digits
        cause = f"is not valid TOML: {error}"
    else:
        if found is not None:
            return found
        cause = "is nested too deep"
    raise UsageError(cause, slug="config-syntax", path=file)


def _longest_key(text: str) -> int:
    """Return of how many parts the longest dotted key consists, or what looks like one.

    The standard library takes time in the square of that.
    """
    longest = parts = end = 0
    for part in _KEY_PART.finditer(text):
        parts = parts + 1 if part.start() == end else 1
        end = part.end() if part[1] else -1
        longest = max(longest, parts)
    return longest


class TomlTable:
    """One table: its values, and which keys were asked for."""

    def __init__(self, values: Mapping[str, Any], path: str, place: str = "") -> None:
        self._values = values
        self._path = path
        self._place = place
        self._known: set[str] = set()

    def take(self, key: str, read: "Callable[[TomlTable, str, Any], Value]") -> Value | None:
        """Return a value as `read` understands it; None where the key is absent."""
        self._known.add(key)
        return read(self, key, self._values[key]) if key in self._values else None

    def need(self, key: str, read: "Callable[[TomlTable, str, Any], Value]", why: str) -> Value:
        """Return a value that must be there."""
        value = self.take(key, read)
        if value is None:
            raise self.error(f"{self.name(key)} is missing", slug="config-value", hint=why)
        return value

    def close(self) -> None:
        """Refuse every key that was not asked for."""
        for key in self._values:
            if key not in self._known:
                raise self.error(
                    f"unknown key {self.name(key)!r}",
                    slug="config-key",
                    hint=suggestion(key, self._known),
                )

    def inside(self, key: str, values: object) -> "TomlTable":
        """Return a table that lies in this one."""
        if not isinstance(values, dict):
            raise self.wrong(key, "a table", values)
        return TomlTable(values, self._path, self.name(key))

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Return all keys and values of a table whose keys are free."""
        self._known.update(self._values)
        return tuple(self._values.items())

    def name(self, key: str) -> str:
        """Return the full name of a key, for messages."""
        return f"{self._place}.{key}" if self._place else key

    def wrong(self, key: str, wanted: str, found: object, hint: str = "") -> UsageError:
        """Return the error that says what a value should have been."""
        return self.error(
            f"{self.name(key)} must be {wanted}, not {_described(found)}",
            slug="config-value",
            hint=hint,
        )

    def error(self, cause: str, *, slug: str, hint: str = "") -> UsageError:
        """Return an error about this file."""
        return UsageError(cause, slug=slug, hint=hint, path=self._path)


def suggestion(word: str, known: "set[str] | tuple[str, ...]") -> str:
    """Return "did you mean ...?", or all that there is when nothing is near."""
    near = nearest(word, known)
    return f"did you mean {near!r}?" if near else f"there are {', '.join(sorted(known))}"


def nearest(word: str, known: "set[str] | tuple[str, ...]") -> str:
    """Return the known word that is most like this one; "" where none is."""
    return next(iter(difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)), "")


def text(table: TomlTable, key: str, value: object) -> str:
    """Read a string that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise table.wrong(key, "a string", value)
    return value


def flag(table: TomlTable, key: str, value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise table.wrong(key, "true or false", value)
    return value


def number(table: TomlTable, key: str, value: object) -> float:
    """Read a finite number that is not negative: a limit, a radius."""
    found = real(table, key, value)
    if found < 0:
        raise table.wrong(key, "a number >= 0", value)
    return found


def positive(table: TomlTable, key: str, value: object) -> float:
    """Read a finite number above 0: what a norm can be brought to."""
    found = real(table, key, value)
    if found <= 0:
        raise table.wrong(key, "a positive number", value)
    return found


def real(table: TomlTable, key: str, value: object) -> float:
    """Read a finite number; true and "1" are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise table.wrong(key, "a number", value)
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise table.wrong(key, "a finite number", value)
    return found


def day(table: TomlTable, key: str, value: object) -> date:
    """Read a date, with or without quotation marks."""
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value)
        except ValueError:
            raise table.wrong(key, "a date such as 2026-12-31", value) from None
    if isinstance(value, datetime) or not isinstance(value, date):
        raise table.wrong(key, "a date such as 2026-12-31", value)
    return value


def glob(table: TomlTable, key: str, value: object) -> str:
    """Read a glob in which every bracket is closed."""
    if not isinstance(value, str):
        raise table.wrong(key, "a glob", value)
    problem = glob_problem(value)
    if problem:
        raise table.error(f"{table.name(key)}: bad glob {value!r}: {problem}", slug="config-glob")
    return value


def globs(table: TomlTable, key: str, value: object) -> str:
    """Read globs of names, split at commas, each of which must be one."""
    for part in parts(value) if isinstance(value, str) else ():
        glob(table, key, part)
    return glob(table, key, value)


def glob_problem(value: str) -> str:
    """Say what is wrong with a glob; "" for nothing."""
    if not value.strip():
        return "it is empty"
    if "\0" in value:
        return "it holds a NUL byte"
    rest = value
    while "[" in rest:
        rest = rest.partition("[")[2]
        # A bracket that comes first belongs to the set: [] ] and [!]] are sets.
        start = 2 if rest.startswith("!") else 1
        if "]" not in rest[start:]:
            return "a bracket is not closed"
        rest = rest[start:].partition("]")[2]
    return ""


def _described(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the string {value!r}" if len(value) <= 40 else "a long string"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    return str(value)
