"""What clipping did, as a person reads it in a terminal."""

from lipaudit.report import clips, numbers
from lipaudit.report.base import Canvas
from lipaudit.report.marks import marked
from lipaudit.report.page import Page
from lipaudit.report.skips import draw_skips
from lipaudit.report.text import safe, short
from lipaudit.results import Change, ClipReport


def clip(report: ClipReport, canvas: Canvas) -> str:
    """Draw what clipping did."""
    page = Page(canvas)
    page.say(f"{safe(report.path)} -> {safe(report.output)}", bold=True)
    page.say(clips.in_words(report))
    for text in (clips.of_the_network(report), *(f"assumed: {a}" for a in report.assumptions)):
        if text:
            page.say(safe(text))
    # One limit for all stands above already.
    alike = report.limit is not None
    page.table(
        ("layer", "before ≤", "after ≤", "limit", "change", ""),
        [_change_row(change, alike=alike) for change in report.changes],
        right={1, 2, 3, 4},
        priorities=(0, 0, 0, 2, 1, 3),
    )
    draw_skips(page, report.skipped)
    for note in report.notes:
        page.say(f"note: {safe(note)}")
    near = clips.nearness(report)
    if near:
        page.say(near)
    page.say(clips.outcome(report))
    return page.text()


def _change_row(change: Change, *, alike: bool) -> tuple[str, ...]:
    return (
        short(change.name, 48),
        marked(change.before),
        marked(change.after),
        # Whole: six digits could lie below an upper end that meets it.
        "" if alike or change.limit is None else numbers.limit(change.limit),
        numbers.change(change.relative_change),
        safe(change.reason),
    )
