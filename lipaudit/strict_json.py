"""Strict JSON: text from a file, its size bounded, no key given twice, every number one."""

import json
from collections import Counter
from typing import Any

from lipaudit.errors import MalformedFile, UnsafeFile

MAX_BYTES = 25_000_000
# An entry of an honest header takes three brackets and ten quotes in about a hundred bytes; a
# file of nothing else would make objects of twenty times its size.
_MAX_BRACKETS = 1_000_000
_MAX_QUOTES = 4_000_000


def parse(data: bytes, what: str, *, path: str) -> Any:
    """Return the decoded value; `what` names the text in messages: "header"."""
    crowded = data.count(b"[") + data.count(b"{") > _MAX_BRACKETS
    if crowded or data.count(b'"') > _MAX_QUOTES or len(data) > MAX_BYTES:
        raise UnsafeFile(f"{what} is too large to be one", slug="json-size", path=path)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            twice = next(name for name, count in counts.items() if count > 1)
            raise MalformedFile(f"{what}: {twice!r} is defined twice", slug="json-twice", path=path)
        return found

    def no_number(word: str) -> float:
        raise MalformedFile(f"{what}: {word} is no JSON number", slug="json", path=path)

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_number)
    except UnicodeDecodeError as error:
        place, cause = error.start, "is not UTF-8"
    except json.JSONDecodeError as error:
        place, cause = len(error.doc[: error.pos].encode()), "is not valid JSON"
    except RecursionError:
        raise UnsafeFile(f"{what} is nested too deep", slug="json-depth", path=path) from None
    except ValueError as error:  # a number of thousands of digits
        raise MalformedFile(f"{what}: {error}", slug="json", path=path) from error
    raise MalformedFile(f"{what} {cause} at byte {place:,}", slug="json", path=path)
