"""figure1.svg: the paper's Figure 1 with lipaudit in it, drawn by hand."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from figure1 import Row

_WIDTH, _HEIGHT = 400.0, 300.0
"""Of one panel's axes."""
_LEFT, _TOP, _GAP, _BOTTOM = 70.0, 64.0, 90.0, 104.0
_LINES = (("numpy", "NumPy two-liner", "#0072b2"), ("torch", "torch SVD", "#d55e00"))
_OURS = ("ours", "lipaudit", "#009e73")
"""Okabe and Ito's colours: told apart by everybody."""

Point = tuple[float, float, bool]
"""Channels, seconds, whether the time was scaled up."""


@dataclass(frozen=True, slots=True)
class _Axes:
    """Where numbers are drawn; both axes are logarithmic."""

    left: float
    channels: tuple[float, float]
    seconds: tuple[float, float]

    def x(self, channels: float) -> float:
        """Return where a number of channels lies."""
        low, high = (math.log2(end) for end in self.channels)
        return self.left + _WIDTH * (math.log2(channels) - low) / max(high - low, 1e-9)

    def y(self, seconds: float) -> float:
        """Return where a number of seconds lies."""
        low, high = (math.log10(end) for end in self.seconds)
        return _TOP + _HEIGHT * (high - math.log10(seconds)) / (high - low)


def draw(rows: Sequence[Row], subtitle: str, file: Path) -> None:
    """Write the figure: one panel a kernel and image size, channels against seconds."""
    panels: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        panels.setdefault((row.kernel, row.size), []).append(row)
    width = len(panels) * (_WIDTH + _GAP) + 30.0
    height = _TOP + _HEIGHT + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"',
        f'width="{width:.0f}" height="{height:.0f}" fill="#222"',
        'font-family="Helvetica, Arial, sans-serif" font-size="13">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>',
        _text(_LEFT, 22, "Seconds for all singular values", anchor="start", size=16),
    ]
    for index, ((side, size), cases) in enumerate(panels.items()):
        left = _LEFT + index * (_WIDTH + _GAP)
        parts += _panel(f"{side}x{side} kernels on {size}x{size} images", cases, left)
    note = f"{_escaped(subtitle)} Hollow marks: measured in part and scaled up."
    parts += [*_legend(height - 34), _text(_LEFT, height - 10, note, anchor="start", size=11)]
    file.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def _panel(title: str, rows: Sequence[Row], left: float) -> list[str]:
    """Draw one panel: frame, ticks, and a line for each method."""
    lines = {key: _points(rows, key) for key, _, _ in (*_LINES, _OURS)}
    seconds = [second for points in lines.values() for _, second, _ in points]
    axes = _Axes(
        left,
        (min(row.channels for row in rows) / 1.2, max(row.channels for row in rows) * 1.2),
        (
            10 ** math.floor(math.log10(min(seconds))),
            10 ** (math.floor(math.log10(max(seconds))) + 1),
        ),
    )
    parts = [_text(left + _WIDTH / 2, _TOP - 12, title, size=14)]
    parts += _ticks(axes, [row.channels for row in rows])
    for key, _, colour in (*_LINES, _OURS):
        parts += _line(axes, lines[key], colour)
    return parts


def _points(rows: Iterable[Row], key: str) -> list[Point]:
    """Return what one method's line goes through; lipaudit may have declined a case."""
    found = []
    for row in rows:
        second, grid = {
            "numpy": (row.numpy, row.grid),
            "torch": (row.torch, row.torch_grid),
            "ours": (row.ours, row.size),
        }[key]
        if second is not None:
            found.append((float(row.channels), second, grid < row.size))
    return found


def _ticks(axes: _Axes, channels: Iterable[int]) -> list[str]:
    """Draw the frame, a grid line for each power of ten, and the labels."""
    left, right, bottom = axes.left, axes.left + _WIDTH, _TOP + _HEIGHT
    parts = []
    low, high = (round(math.log10(end)) for end in axes.seconds)
    for power in range(low, high + 1):
        y = axes.y(10.0**power)
        parts.append(f'<path d="M{left:.1f} {y:.1f}H{right:.1f}" stroke="#ddd"/>')
        parts.append(_text(left - 8, y + 4, f"{10.0**power:g}", anchor="end"))
    for count in channels:
        x = axes.x(count)
        parts.append(f'<path d="M{x:.1f} {bottom:.1f}v5" stroke="#222"/>')
        parts.append(_text(x, bottom + 18, str(count)))
    parts.append(f'<path d="M{left:.1f} {_TOP:.1f}V{bottom:.1f}H{right:.1f}" {_stroke("#222")}/>')
    middle = _TOP + _HEIGHT / 2
    turned = f'transform="rotate(-90 {left - 50:.1f} {middle:.1f})"'
    parts.append(f'<text x="{left - 50:.1f}" y="{middle:.1f}" text-anchor="middle" {turned}>')
    parts[-1] += "seconds</text>"
    parts.append(_text((left + right) / 2, bottom + 36, "channels (in = out)"))
    return parts


def _line(axes: _Axes, points: Sequence[Point], colour: str) -> list[str]:
    """Draw one method: a line, and a mark for each case."""
    if not points:
        return []
    places = [(axes.x(channels), axes.y(seconds)) for channels, seconds, _ in points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts = [f'<path d="M{path}" {_stroke(colour, 2)}/>']
    for (x, y), (_, _, scaled) in zip(places, points, strict=True):
        parts.append(_mark(x, y, colour, hollow=scaled))
    return parts


def _legend(y: float) -> list[str]:
    """Draw the names of the lines in one row."""
    parts = []
    for index, (_, name, colour) in enumerate((*_LINES, _OURS)):
        x = _LEFT + index * 170.0
        parts.append(f'<path d="M{x:.1f} {y:.1f}h28" {_stroke(colour, 2)}/>')
        parts.append(_mark(x + 14, y, colour, hollow=False))
        parts.append(_text(x + 36, y + 4, name, anchor="start"))
    return parts


def _mark(x: float, y: float, colour: str, *, hollow: bool) -> str:
    """Return the mark of one case."""
    fill = "#fff" if hollow else colour
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{colour}"/>'


def _stroke(colour: str, width: int = 1) -> str:
    """Return the attributes of a line."""
    return f'fill="none" stroke="{colour}" stroke-width="{width}"'


def _text(x: float, y: float, content: str, *, anchor: str = "middle", size: int = 13) -> str:
    """Return one piece of text."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{content}</text>'
    )


def _escaped(text: str) -> str:
    """Return text as XML holds it."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
