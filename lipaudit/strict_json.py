"""Strict JSON: text from a file, its size bounded, no key given twice, every number one."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from lipaudit.errors import MalformedFile, UnsafeFile

MAX_BYTES = 25_000_000
# An entry of an honest header takes three brackets, ten quotes and five commas in about a hundred
# bytes; a file of nothing else would make objects of twenty times its size.
_MAX_BRACKETS = 1_000_000
_MAX_QUOTES = 4_000_000
_MAX_COMMAS = 2_000_000
_MAX_TEXT = 50_000_000
"""Bytes of the whole as Python's text, in which one emoji makes every letter take four."""

_MAX_DIGITS = 4300
"""Of one number; Python reads no longer one either."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""How half of a pair of UTF-16 is written."""
_HALF = re.compile("[\ud800-\udfff]")


def parse(data: bytes, what: str, *, path: str) -> Any:
    """Return the decoded value; `what` names the text in messages: "header"."""
    if _is_crowded(data):
        raise UnsafeFile(f"{what} is too large to be one", slug="json-size", path=path)
    rules = _Rules(data, what, path)
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=rules.unique,
            parse_constant=rules.no_number,
            parse_int=rules.whole,
        )
    except UnicodeDecodeError as error:
        place, cause = error.start, "is not UTF-8"
    except json.JSONDecodeError as error:
        place, cause = len(error.doc[: error.pos].encode()), "is not valid JSON"
    except RecursionError:
        raise UnsafeFile(f"{what} is nested too deep", slug="json-depth", path=path) from None
    else:
        if _SURROGATE.search(data) and not _is_unicode(value):
            cause = "half of a character (a lone surrogate)"
            raise MalformedFile(f"{what} has {cause}", slug="json", path=path)
        return value
    raise MalformedFile(f"{what} {cause} at byte {place:,}", slug="json", path=path)


@dataclass(frozen=True, slots=True)
class _Rules:
    """What Python's reader asks about the parts of one text."""

    data: bytes
    what: str
    path: str

    def unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Return an object whose keys are all different."""
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            twice = next(name for name, count in counts.items() if count > 1)
            raise self._malformed(f"{twice!r} is defined twice", slug="json-twice")
        return found

    def no_number(self, word: str) -> float:
        """Refuse NaN and the infinities."""
        raise self._malformed(f"{word} is no JSON number")

    def whole(self, word: str) -> int | float:
        """Return an integer of a size that Python reads; -0, which is none, as the float it is."""
        digits = len(word.removeprefix("-"))
        if digits > _MAX_DIGITS:
            at = self.data.find(word.encode())
            raise self._malformed(f"a number of {digits:,} digits at byte {at:,}")
        return -0.0 if word == "-0" else int(word)

    def _malformed(self, cause: str, slug: str = "json") -> MalformedFile:
        return MalformedFile(f"{self.what}: {cause}", slug=slug, path=self.path)


def _is_unicode(value: Any) -> bool:
    """Tell whether every text in it can be written as UTF-8; no text is copied for it."""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, str) and _HALF.search(part):
            return False
        if isinstance(part, dict):
            left += [*part, *part.values()]
        elif isinstance(part, list):
            left += part
    return True


def _is_crowded(data: bytes) -> bool:
    """Tell what would take too much memory, from its bytes alone."""
    if len(data) > MAX_BYTES or len(data) * _width(data) > _MAX_TEXT:
        return True
    return (
        data.count(b"[") + data.count(b"{") > _MAX_BRACKETS
        or data.count(b'"') > _MAX_QUOTES
        or data.count(b",") > _MAX_COMMAS
    )


def _width(data: bytes) -> int:
    """Return how many bytes Python takes for a letter, by the largest first byte of one in UTF-8.

    PEP 393: as many as the widest letter of a text needs, which is past U+00FF from byte C4 on,
    and past U+FFFF from byte F0 on.
    """
    widest = 0 if data.isascii() else max(data)
    return 4 if widest >= 0xF0 else 2 if widest >= 0xC4 else 1
