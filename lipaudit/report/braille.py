"""Braille: line charts in a terminal, eight dots to a character; in ASCII, letters.

Every curve has a letter, which stands on it once and in the key: colours help where there are
any, and are never needed.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from lipaudit.report.base import Canvas
from lipaudit.report.chart import LineChart
from lipaudit.report.page import in_ascii
from lipaudit.report.scale import Scale
from lipaudit.report.text import short

CURVES = 6
"""More curves cannot be told apart in so few characters."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_STYLES = ("red", "green", "yellow", "blue", "magenta", "cyan")
_BLANK = 0x2800
# The dots of a braille character, by row and column: Unicode, Braille Patterns.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_LEAST, _MOST = 8, 18
"""Lines of a plot."""
_WIDEST = 120


@dataclass(slots=True)
class _Spot:
    """One character of the plot."""

    dots: int = 0
    curve: int = -1
    letter: str = ""


def draw(chart: LineChart, canvas: Canvas) -> list[Text]:
    """Return the lines of a plot with its axes and its key, none wider than the canvas."""
    width = max(min(canvas.width, _WIDEST), 20)
    height = min(max(width // 5, _LEAST), _MOST)
    labels = _y_labels(chart.y, height, canvas)
    margin = max(len(label) for label in labels.values()) + 1
    across = width - margin - 1
    field = _field(chart, across, height, canvas)
    bar, corner, dash = ("│", "└", "─") if canvas.unicode else ("|", "+", "-")
    lines = [_line(text) for text in _folded(_head(chart.y_title, chart.y), canvas)]
    for at, row in enumerate(field):
        line = Text(f"{labels.get(at, ''):>{margin - 1}} {bar}")
        for spot in row:
            line.append(_character(spot, canvas), style=_style(spot, canvas))
        lines.append(line)
    lines.append(_line(" " * margin + corner + dash * across))
    lines.append(_line(" " * (margin + 1) + _x_labels(chart.x, across, canvas)))
    lines += [_line(text.rjust(width)) for text in _folded(_head(chart.x_title, chart.x), canvas)]
    for at, curve in enumerate(chart.curves[:CURVES]):
        entry = Text(f"{_LETTERS[at]} ", style=f"bold {_STYLES[at]}" if canvas.colour else "")
        name = curve.name if canvas.unicode else in_ascii(curve.name)
        lines.append(entry.append(short(name, width - 2), style=""))
    return lines


def _field(chart: LineChart, across: int, height: int, canvas: Canvas) -> list[list[_Spot]]:
    fine_across, fine_down = (2, 4) if canvas.unicode else (1, 1)
    field = [[_Spot() for _ in range(across)] for _ in range(height)]
    for at, curve in enumerate(chart.curves[:CURVES]):
        xs = [round(chart.x.place(x) * (across * fine_across - 1)) for x, _ in curve.points]
        ys = [round((1 - chart.y.place(y)) * (height * fine_down - 1)) for _, y in curve.points]
        seen: list[tuple[int, int]] = []
        for x, y in _joined(xs, ys):
            spot = field[y // fine_down][x // fine_across]
            if canvas.unicode:
                spot.dots |= _DOTS[y % 4][x % 2]
            spot.curve = at
            seen.append((y // fine_down, x // fine_across))
        # Letters stand at different places along the curves, or one would hide the other.
        place = seen[(2 * at + 1) * len(seen) // (2 * CURVES)]
        field[place[0]][place[1]].letter = _LETTERS[at]
    return field


def _joined(xs: Sequence[int], ys: Sequence[int]) -> list[tuple[int, int]]:
    """Return every dot on the way through the points."""
    found = [(xs[0], ys[0])]
    for (x0, y0), (x1, y1) in zip(
        zip(xs, ys, strict=True), zip(xs[1:], ys[1:], strict=True), strict=False
    ):
        steps = max(abs(x1 - x0), abs(y1 - y0))
        found += [
            (x0 + round(step * (x1 - x0) / steps), y0 + round(step * (y1 - y0) / steps))
            for step in range(1, steps + 1)
        ]
    return found


def _character(spot: _Spot, canvas: Canvas) -> str:
    if spot.letter:
        return spot.letter
    if spot.curve < 0:
        return " "
    return chr(_BLANK + spot.dots) if canvas.unicode else _LETTERS[spot.curve]


def _style(spot: _Spot, canvas: Canvas) -> str:
    if spot.curve < 0 or not canvas.colour:
        return ""
    owner = _LETTERS.index(spot.letter) if spot.letter else spot.curve
    return f"bold {_STYLES[owner]}" if spot.letter else _STYLES[owner]


def _y_labels(scale: Scale, height: int, canvas: Canvas) -> dict[int, str]:
    found: dict[int, str] = {}
    for tick in scale.ticks(max(height // 3, 2)):
        found[round((1 - tick.place) * (height - 1))] = _label(tick.label, canvas)
    return found or {height - 1: ""}


def _x_labels(scale: Scale, across: int, canvas: Canvas) -> str:
    """Write the labels under their places, as many as fit with a gap."""
    line = [" "] * across
    free = 0
    for tick in scale.ticks(max(across // 12, 2)):
        label = _label(tick.label, canvas)
        start = min(max(round(tick.place * (across - 1)) - len(label) // 2, 0), across - len(label))
        if start >= free:
            line[start : start + len(label)] = label
            free = start + len(label) + 2
    return "".join(line).rstrip()


def _label(text: str, canvas: Canvas) -> str:
    """Write powers without superscripts where there is no Unicode."""
    if canvas.unicode or "10" not in text:
        return text
    plain = text.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    if plain == text:
        return text
    mantissa, _, power = plain.rpartition("10")
    return f"{mantissa.rstrip('·') or '1'}e{power}"


def _head(title: str, scale: Scale) -> str:
    return f"{title} (log)" if scale.logarithmic else title


def _folded(text: str, canvas: Canvas) -> list[str]:
    """Return the lines of a title: on a narrow terminal it takes several."""
    return textwrap.wrap(text if canvas.unicode else in_ascii(text), max(canvas.width, 20))


def _line(text: str) -> Text:
    return Text(text)
