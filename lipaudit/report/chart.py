"""Charts as data: what is to be seen, before anyone chooses how to draw it.

One description, three drawings: `svg` for pages and files, `png` through matplotlib, `braille`
for terminals. Every text in here is safe already (`report/text.py`).
"""

from dataclasses import dataclass, field

from lipaudit.report.scale import Scale

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """One line through points, from left to right."""

    name: str
    points: tuple[Point, ...]
    depth: float
    """Where its layer stands: 0 nearest to the input, 1 to the output. It gives the colour."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class LineChart:
    """Curves over two scales."""

    key: str
    """A plain name: of the file it is written to."""
    title: str
    caption: str
    x: Scale
    y: Scale
    x_title: str
    y_title: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a row chart: a bar from a value to a value, dots, or both."""

    name: str
    value: str
    """What is written at its right end."""
    hover: str
    bar: tuple[float, float] | None = None
    dots: tuple[float | None, ...] = ()
    """One a series, in the order of `RowChart.series`; None where it has no such number."""
    tone: str = "up"
    """up (grows), down (shrinks), plain."""
    missing: str = ""
    """What is written where a bar cannot be drawn."""


@dataclass(frozen=True, slots=True)
class RowChart:
    """Rows under one another over one scale."""

    key: str
    title: str
    caption: str
    scale: Scale
    axis_title: str
    rows: tuple[Row, ...]
    series: tuple[str, ...] = ()
    """What the dots are."""
    marks: tuple[tuple[float, str], ...] = field(default=())
    """Lines through all rows, as a limit."""


Chart = LineChart | RowChart
