"""SVG: charts as vector graphics, inside a page or as files of their own."""

import html
import math
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from lipaudit.report import theme
from lipaudit.report.chart import Chart, Curve, LineChart, Row, RowChart
from lipaudit.report.scale import Scale
from lipaudit.report.text import short

WIDTH = 600
_HEIGHT = 370
_TOP, _BOTTOM, _LEFT, _RIGHT = 12, 48, 66, 20
_HEAD = 30
"""Room for the title, where a chart stands alone."""
_KEY = 210
"""Room for the names of the curves at the right, likewise."""
_KEY_LINE = 15
_KEY_LIMIT = 30
ROW = 20
_NAMES = 196
_VALUES = 110
"""Least room for the values at the right; the widest of them may take more."""
_LETTER = 12
"""Pixels of an em."""
_EMS = {
    **dict.fromkeys("iljI.,:;'!|", 0.34),
    **dict.fromkeys("()[]ftr/\\ -", 0.41),
    **dict.fromkeys("mwMW@%", 1.0),
}
"""How wide letters are at most in the fonts of a page, DejaVu Sans and Verdana the widest."""
_CAPITAL, _OTHER, _WIDE = 0.78, 0.64, 1.1
_DOTS = "..."
_CLOSE = 0.6
"""Points nearer than this (in user units, on both axes) to the last one drawn are left out."""
_SAME_COLOUR = len(theme.RAMP_LIGHT)


def escape(text: str) -> str:
    """Return text for an element or a quoted attribute."""
    return html.escape(text, quote=True)


def drawing(chart: Chart) -> str:
    """Draw a chart for a page that has the theme, the title and the names of the curves."""
    return _lines(chart, alone=False) if isinstance(chart, LineChart) else _rows(chart, alone=False)


def document(chart: Chart) -> str:
    """Draw a chart as a file of its own."""
    body = _lines(chart, alone=True) if isinstance(chart, LineChart) else _rows(chart, alone=True)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _open(chart: Chart, width: float, height: float, *, alone: bool, data: str = "") -> list[str]:
    about = f"<title>{escape(chart.title)}</title><desc>{escape(chart.caption)}</desc>"
    space = ' xmlns="http://www.w3.org/2000/svg"' if alone else ""
    size = f' width="{width:g}" height="{height:g}"' if alone else ""
    box = f'viewBox="0 0 {width:g} {height:g}"'
    label = f'role="img" aria-label="{escape(chart.title)}"'
    parts = [f'<svg{space}{size} class="chart" {box} {label}{data}>']
    if alone:
        parts.append(about)
        parts.append(f"<style>{theme.css()}</style>")
        parts.append(f'<rect class="back" width="{width:g}" height="{height:g}"/>')
        parts.append(_text(12, 20, chart.title, "title"))
    return parts


def _lines(chart: LineChart, *, alone: bool) -> str:
    top = _TOP + (_HEAD if alone else 0)
    across, down = WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    width = WIDTH + (_KEY if alone else 0)
    height = max(top + down + _BOTTOM, top + len(chart.curves) * _KEY_LINE + 20 if alone else 0)
    data = (
        f' data-plot="{_LEFT} {top} {across} {down}" data-view="{escape(chart.key)}"'
        f' data-x="{_ends(chart.x)}" data-y="{_ends(chart.y)}"'
    )
    parts = _open(chart, width, height, alone=alone, data=data)
    for tick in chart.x.ticks(7):
        x = _LEFT + tick.place * across
        parts.append(_line(x, top, x, top + down, "grid"))
        parts.append(_text(x, top + down + 17, tick.label, "soft", "middle"))
    for tick in chart.y.ticks(6):
        y = top + (1 - tick.place) * down
        parts.append(_line(_LEFT, y, _LEFT + across, y, "grid"))
        parts.append(_text(_LEFT - 7, y + 4, tick.label, "soft", "end"))
    parts.append(f'<rect class="frame" x="{_LEFT}" y="{top}" width="{across}" height="{down}"/>')
    parts.append(
        _text(_LEFT + across / 2, top + down + 38, _axis(chart.x, chart.x_title), anchor="middle")
    )
    middle, title = f"{top + down / 2:g}", escape(_axis(chart.y, chart.y_title))
    parts.append(
        f'<text x="13" y="{middle}" text-anchor="middle" transform="rotate(-90 13 {middle})">'
        f"{title}</text>"
    )
    for at, curve in enumerate(chart.curves):
        spots = [
            (_LEFT + chart.x.place(x) * across, top + (1 - chart.y.place(y)) * down)
            for x, y in curve.points
        ]
        classes = curve_class(curve, at, len(chart.curves))
        parts.append(_curve(curve, spots, f'class="{classes}" data-curve="{at}"'))
    if alone:
        parts += _key(chart.curves, WIDTH + 8, top + 8)
    return "\n".join([*parts, "</svg>"])


def curve_class(curve: Curve, at: int, total: int) -> str:
    """Return the classes that colour a curve; where colours repeat, every other one is dashed."""
    dashed = " dashed" if total > _SAME_COLOUR and at % 2 else ""
    return f"k{theme.shade(curve.depth)}{dashed}"


def _curve(curve: Curve, spots: Sequence[tuple[float, float]], marks: str) -> str:
    title = f"<title>{escape(curve.name)}: {escape(curve.note)}</title>"
    kept = _telling(spots)
    if len(kept) == 1:  # a single value is a dot
        x, y = kept[0]
        return (
            f'<circle {marks} cx="{x:.1f}" cy="{y:.1f}" r="3" fill="currentColor">{title}</circle>'
        )
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in kept)
    return f'<g {marks}>{title}<polyline class="curve" points="{points}"/></g>'


def _telling(spots: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Leave out the points that nobody could tell from the last one drawn."""
    kept = list(spots[:1])
    for before, spot in pairwise(spots):
        if abs(spot[0] - kept[-1][0]) >= _CLOSE or abs(spot[1] - kept[-1][1]) >= _CLOSE:
            # A level stretch that was left out must stay level up to the next step.
            if before != kept[-1] and abs(before[1] - spot[1]) >= _CLOSE:
                kept.append(before)
            kept.append(spot)
    return kept


def _key(curves: Sequence[Curve], x: float, y: float) -> list[str]:
    parts = []
    for at, curve in enumerate(curves):
        middle = y + at * _KEY_LINE
        classes = curve_class(curve, at, len(curves))
        parts.append(_line(x, middle, x + 20, middle, f"curve {classes}"))
        parts.append(_text(x + 26, middle + 4, short(curve.name, _KEY_LIMIT)))
    return parts


def _rows(chart: RowChart, *, alone: bool) -> str:
    head = (_HEAD if alone else 0) + (20 if chart.series or chart.marks else 6)
    # A dot at the right end, 5 wide, must not lie on the widest value.
    widest = max((_width(row.value) for row in chart.rows), default=0.0)
    room = max(_VALUES, math.ceil(widest) + 14)
    across = WIDTH - _NAMES - room
    down = len(chart.rows) * ROW
    height = head + down + 44
    parts = _open(chart, WIDTH, height, alone=alone)
    parts += _series(chart, head - 8)
    for at in range(0, len(chart.rows), 2):
        parts.append(
            f'<rect class="stripe" x="0" y="{head + at * ROW}" width="{WIDTH}" height="{ROW}"/>'
        )
    for tick in chart.scale.ticks(5):
        x = _NAMES + tick.place * across
        parts.append(_line(x, head, x, head + down, "grid"))
        parts.append(_text(x, head + down + 16, tick.label, "soft", "middle"))
    parts.append(_text(_NAMES + across / 2, head + down + 36, chart.axis_title, anchor="middle"))
    for value, label in chart.marks:
        x = _NAMES + chart.scale.place(value) * across
        parts.append(_line(x, head, x, head + down, "mark" if label else "zero"))
        if label:
            # Nearer to the right edge a label would run out of the picture.
            side = "end" if x > WIDTH - room else "middle"
            parts.append(_text(x, head - 8, label, "soft", side))
    for at, row in enumerate(chart.rows):
        parts.append(_row(chart.scale, row, head + at * ROW, across))
    return "\n".join([*parts, "</svg>"])


def _row(scale: Scale, row: Row, top: float, across: float) -> str:
    middle = top + ROW / 2
    parts = [
        f'<g class="row"><title>{escape(row.name)}: {escape(row.hover)}</title>',
        f'<rect class="hit" x="0" y="{top:g}" width="{WIDTH}" height="{ROW}"/>',
        _text(_NAMES - 10, middle + 4, _fitted(row.name, _NAMES - 14), anchor="end"),
        _text(WIDTH - 4, middle + 4, row.value, "soft", "end"),
    ]
    if row.bar is not None:
        ends = sorted(_NAMES + scale.place(value) * across for value in row.bar)
        if row.dots:
            parts.append(_line(ends[0], middle, ends[1], middle, "link"))
        else:
            parts.append(
                f'<rect class="{row.tone}" x="{ends[0]:.1f}" y="{middle - 5:g}" '
                f'width="{max(ends[1] - ends[0], 1.5):.1f}" height="10" rx="1.5"/>'
            )
    elif row.missing:
        parts.append(_text(_NAMES + 6, middle + 4, row.missing, "none"))
    # The last series first: where dots meet, the first one is to be seen.
    for series, value in reversed(list(enumerate(row.dots))):
        if value is not None:
            x = _NAMES + scale.place(value) * across
            parts.append(f'<circle class="dot{series}" cx="{x:.1f}" cy="{middle:g}" r="4.5"/>')
    return "".join([*parts, "</g>"])


def _fitted(name: str, room: float) -> str:
    """Return the name, or the end of it, which says more, where it is wider than the room."""
    if _width(name) <= room:
        return name
    end = len(name)
    left = room - _width(_DOTS)
    while end > 0 and left >= _width(name[end - 1]):
        end -= 1
        left -= _width(name[end])
    return _DOTS + name[end:]


def _width(text: str) -> float:
    """Return at most how many pixels a text is wide."""
    return _LETTER * sum(
        _WIDE
        if unicodedata.east_asian_width(letter) in {"W", "F"}
        else _EMS.get(letter, _CAPITAL if letter.isupper() else _OTHER)
        for letter in text
    )


def _series(chart: RowChart, y: float) -> list[str]:
    parts, left = [], 8.0
    for at, name in enumerate(chart.series):
        parts.append(f'<circle class="dot{at}" cx="{left:g}" cy="{y - 4:g}" r="4.5"/>')
        parts.append(_text(left + 9, y, name))
        left += 30 + 6.4 * len(name)
    return parts


def _axis(scale: Scale, title: str) -> str:
    return f"{title} (logarithmic)" if scale.logarithmic else title


def _ends(scale: Scale) -> str:
    return f"{scale.low!r} {scale.high!r} {int(scale.logarithmic)}"


def _line(x1: float, y1: float, x2: float, y2: float, classes: str) -> str:
    return f'<line class="{classes}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, classes: str = "", anchor: str = "") -> str:
    kind = f' class="{classes}"' if classes else ""
    side = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kind}{side}>{escape(text)}</text>'
