"""What has no number, and why, as lines of a page."""

from collections.abc import Sequence

from lipaudit.report.page import Page
from lipaudit.report.text import safe, short
from lipaudit.results import Skipped

_SHOWN_SKIPS = 12


def draw_skips(page: Page, skipped: Sequence[Skipped]) -> None:
    """Name what has no number, those of one reason together."""
    groups: dict[str, list[str]] = {}
    for item in skipped:
        groups.setdefault(f"{safe(item.reason)} [{item.slug}]", []).append(item.name)
    for reason, names in list(groups.items())[:_SHOWN_SKIPS]:
        shown = ", ".join(short(name, 40) for name in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        page.say(f"no number: {shown}{more}: {short(reason, 300)}")
    if len(groups) > _SHOWN_SKIPS:
        page.say(f"no number, for {len(groups) - _SHOWN_SKIPS} more reasons: see -f json")
