"""Pieces of Markdown that hold untrusted text: code spans, prose, tables."""

import re
from collections.abc import Collection, Sequence

from lipaudit.report.text import DATA_LIMIT, short

_PLAIN = re.compile(r"[A-Za-z0-9_./:,=+-][A-Za-z0-9_./:,=+ -]*")
_PUNCTUATION = re.compile(r"[\\`*_{}\[\]<>()#!|~$&]")
_LINKS = (
    # A mention or a link must not be made of a tensor's name: a blank of no width, and an
    # entity, which are not seen, keep its parts from each other.
    (re.compile(r"@(?=\w)"), "@&#8203;"),
    (re.compile(r"://"), "&#58;//"),
    (re.compile(r"(?<=\bwww)\.", re.IGNORECASE), "&#46;"),
)


def code(text: str, limit: int = DATA_LIMIT // 5) -> str:
    """Return a name as it is written; "" for none."""
    shown = short(text, limit)
    if not shown:
        return ""
    if _PLAIN.fullmatch(shown) and shown == shown.strip():
        return f"`{shown}`"
    return f"<code>{_entities(shown)}</code>"


def prose(text: str) -> str:
    """Return a sentence whose words mean nothing to Markdown."""
    shown = _PUNCTUATION.sub(lambda found: _entity(found[0]), short(text, DATA_LIMIT))
    for pattern, instead in _LINKS:
        shown = pattern.sub(instead, shown)
    return shown


def table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = ()
) -> str:
    """Return a table of cells that are Markdown already; "" without rows."""
    if not rows:
        return ""
    sides = ["--:" if title in right else "---" for title in titles]
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, sides, *rows))


def _entities(text: str) -> str:
    """Return the text with every mark that is no letter, digit or blank as an entity."""
    return "".join(
        _entity(character)
        if character.isascii() and not character.isalnum() and character != " "
        else character
        for character in text
    )


def _entity(character: str) -> str:
    return f"&#{ord(character)};"
