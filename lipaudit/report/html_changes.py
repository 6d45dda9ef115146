"""Before and after on a page: of a clip, of two models, of a report and its baseline."""

import html
import math
from collections.abc import Sequence

from lipaudit.report import figures, html_parts, html_plots
from lipaudit.report.figures import Pair
from lipaudit.report.html_page import page
from lipaudit.report.html_parts import Cell, Table

_MANY = 24


def comparison(
    title: str,
    sentences: Sequence[str],
    pairs: Sequence[Pair],
    *,
    limit: float | None = None,
    tone: str = "",
) -> str:
    """Write a page about what was before and after; `tone` is good, bad, unsure or ""."""
    lines = "".join(f"<p>{html_parts.text(line)}</p>" for line in sentences)
    body = (
        f'<section class="verdict {tone}"><h1>{html_parts.text(title)}</h1>{lines}</section>'
        f'<section class="model">{section(pairs, "changes", limit=limit)}</section>'
    )
    return page(title, body, "")


def section(pairs: Sequence[Pair], id_: str, *, limit: float | None = None) -> str:
    """Write the chart and the table of all pairs."""
    rows = [
        [
            html_parts.count(at),
            html_parts.name(pair.name),
            html_parts.upper(pair.before) if pair.before is not None else html_parts.number(None),
            html_parts.upper(pair.after) if pair.after is not None else html_parts.number(None),
            _change(pair),
            html_parts.phrase(pair.note),
        ]
        for at, pair in enumerate(pairs, 1)
    ]
    titles = (
        ("#", "place in the file"),
        ("layer", ""),
        ("before ≤", "upper bound of the norm, rounded up"),
        ("after ≤", "the same, afterwards"),
        ("norm", "after / before"),
        ("note", ""),
    )
    made = Table(id_, "Before and after", titles, rows, [pair.kind for pair in pairs])
    tall = ' class="tall"' if len(rows) > _MANY else ""
    return (
        html_plots.figure(figures.changes(pairs, limit))
        + f"<h3>All {len(rows):,}</h3><div{tall}>{html_parts.table(made)}</div>"
    )


def _change(pair: Pair) -> Cell:
    if pair.before is None or pair.after is None:
        return Cell("added" if pair.before is None else "removed", -math.inf, "number")
    decades = pair.after.log10_upper - pair.before.log10_upper
    if not math.isfinite(decades):
        return html_parts.number(None)
    percent = 100 * math.expm1(min(decades * math.log(10), 700.0))
    return Cell(html.escape("0%" if percent == 0 else f"{percent:+.3g}%"), percent, "number")
