"""What clipping did, as a person reads it in a terminal."""

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
    touched = [change for change in report.changes if change.tensors]
    page.say(f"clipped {len(touched)} of {len(report.changes)} layers to {report.limit:g}")
    rows = [_change_row(change) for change in report.changes]
    page.table(("layer", "before ≤", "after ≤", "change", ""), rows, right={1, 2, 3})
    draw_skips(page, report.skipped)
    for note in report.notes:
        page.say(f"note: {safe(note)}")
    if report.written:
        page.say("read back: every clipped layer is proved to meet the limit")
    else:
        page.say("dry run: nothing was written")
    return page.text()


def _change_row(change: Change) -> tuple[str, ...]:
    return (
        short(change.name, 48),
        marked(change.before),
        marked(change.after),
        f"{100 * change.relative_change:.3g}%",
        safe(change.reason),
    )
