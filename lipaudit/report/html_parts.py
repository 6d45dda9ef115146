"""Parts of an HTML page: text made harmless, tables that sort and filter, cards, lists.

Everything that comes from outside goes through `text` or `name`; the rest is written here.
"""

import html
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lipaudit.report import numbers
from lipaudit.report.marks import marked
from lipaudit.report.text import safe, short
from lipaudit.results import Measure

NAME_LIMIT = 200
"""Characters of a name that the page holds."""
TEXT_LIMIT = 600
_LINKED = 80
"""Characters of a name that a table shows; the rest stands in its tooltip."""
_RIGHT = ' class="number"'


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: what is seen, what it is sorted by, and how it is set."""

    shown: str
    """HTML."""
    key: float | str
    classes: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a caption; every row has a cell for every title."""

    id: str
    caption: str
    titles: Sequence[tuple[str, str]]
    """(what stands above the column, what it means)."""
    rows: Sequence[Sequence[Cell]]
    kinds: Sequence[str] = ()
    """One a row: what the kind filter chooses by; empty for no filter."""


def text(value: str) -> str:
    """Return text from outside as HTML."""
    return html.escape(short(value, TEXT_LIMIT))


def name(value: str) -> Cell:
    """Show a name from a file."""
    whole = short(value, NAME_LIMIT)
    seen = short(value, _LINKED)
    title = f' title="{html.escape(whole)}"' if seen != whole else ""
    return Cell(f"<span{title}>{html.escape(seen)}</span>", whole.lower(), "name")


def plain(value: str) -> Cell:
    """Show a word or two."""
    return Cell(html.escape(short(value, NAME_LIMIT)), safe(value[:NAME_LIMIT]).lower())


def phrase(value: str) -> Cell:
    """Show a sentence, which needs room."""
    return Cell(text(value), safe(value[:NAME_LIMIT]).lower(), "phrase")


def upper(measure: Measure) -> Cell:
    """Show an upper end; the exact float stands beside it, for programs and for sorting."""
    return Cell(_valued(marked(measure), measure.upper), measure.log10_upper, "number")


def lower(measure: Measure) -> Cell:
    """Show a lower end likewise."""
    shown = numbers.lower(measure.lower, measure.log10_lower)
    return Cell(_valued(shown, measure.lower), measure.log10_lower, "number")


def number(value: float | None) -> Cell:
    """Show a computed value; a dash for none."""
    if value is None or math.isnan(value):
        return Cell("–", -math.inf, "number")
    return Cell(_valued(numbers.nearest(value), value), value, "number")


def count(value: int) -> Cell:
    """Show a count."""
    return Cell(_valued(numbers.count(value), value), value, "number")


def share(value: float | None, largest: float) -> Cell:
    """Show a share as percent and as a bar."""
    if value is None:
        return Cell("–", -math.inf, "number")
    width = abs(value) / largest * 60 if largest > 0 else 0.0
    tone = "up" if value >= 0 else "down"
    bar = (
        f'<svg class="bar" viewBox="0 0 60 8" aria-hidden="true">'
        f'<rect class="{tone}" width="{width:.1f}" height="8" rx="1"/></svg>'
    )
    return Cell(f"{_valued(_percent(value), value)} {bar}", value, "number share")


def _percent(value: float) -> str:
    """Write a share as percent: of many layers each has little."""
    shown = f"{100 * value:.1f}" if abs(value) < 0.1 else f"{100 * value:.0f}"
    return ("0" if float(shown) == 0 else shown) + "%"


def _valued(shown: str, value: float) -> str:
    exact = f"{value!r}" if math.isfinite(value) else ""
    return f'<data value="{exact}">{html.escape(shown)}</data>'


def table(made: Table) -> str:
    """Write a table, with its filters if it has kinds."""
    if not made.rows:
        return ""
    numeric = ["number" in cell.classes for cell in made.rows[0]]
    head = "".join(
        f'<th scope="col" aria-sort="none"{_RIGHT if right else ""}><button type="button"'
        f' title="{html.escape(meaning)}">'
        f"{html.escape(title)}</button></th>"
        for (title, meaning), right in zip(made.titles, numeric, strict=True)
    )
    kinds = made.kinds or [""] * len(made.rows)
    body = "\n".join(
        f'<tr data-kind="{html.escape(short(kind, NAME_LIMIT))}">{"".join(map(_cell, row))}</tr>'
        for kind, row in zip(kinds, made.rows, strict=True)
    )
    return (
        f"{_filters(made) if made.kinds else ''}"
        f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(made.caption)}">'
        f'<table class="data" id="{made.id}"><caption>{html.escape(made.caption)}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    key = cell.key if isinstance(cell.key, str) else _finite(cell.key)
    classes = f' class="{cell.classes}"' if cell.classes else ""
    return f'<td{classes} data-key="{html.escape(str(key))}">{cell.shown}</td>'


def _finite(value: float) -> str:
    """Write a key that JavaScript reads as the number it is."""
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return repr(value)


def _filters(made: Table) -> str:
    kinds = sorted({short(kind, NAME_LIMIT) for kind in made.kinds})
    options = "".join(f"<option>{html.escape(kind)}</option>" for kind in kinds)
    hidden = " hidden" if len(kinds) < 2 else ""
    return (
        f'<form class="filter live" data-for="{made.id}">'
        f'<label>Name contains <input type="search" autocomplete="off" spellcheck="false"></label>'
        f'<label{hidden}>Kind <select><option value="">all</option>{options}</select></label>'
        f'<output aria-live="polite">{len(made.rows)} of {len(made.rows)}</output></form>'
    )


def items(texts: Iterable[str], title: str, classes: str = "") -> str:
    """Write a titled list of sentences from outside; nothing for none."""
    entries = "".join(f"<li>{text(line)}</li>" for line in texts)
    kind = f' class="{classes}"' if classes else ""
    return f"<div{kind}><h4>{html.escape(title)}</h4><ul>{entries}</ul></div>" if entries else ""


def fact(title: str, value: str, note: str = "", classes: str = "") -> str:
    """Write one figure in large type; `value` and `note` are HTML."""
    below = f'<span class="note">{note}</span>' if note else ""
    return (
        f'<div class="fact {classes}"><span class="what">{html.escape(title)}</span>'
        f'<span class="value">{value}</span>{below}</div>'
    )


def upper_fact(measure: Measure) -> str:
    """Write an upper bound as HTML, the exact float beside it."""
    return _valued(marked(measure), measure.upper)


def lower_fact(measure: Measure) -> str:
    """Write a lower bound likewise."""
    return _valued(numbers.lower(measure.lower, measure.log10_lower), measure.lower)


def data(id_: str, value: Any) -> str:
    """Write data for the page's script; nothing in it can end the element or begin another."""
    dumped = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    for character in "<>&":
        dumped = dumped.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{id_}">{dumped}</script>'
