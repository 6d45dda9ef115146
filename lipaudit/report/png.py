"""PNG: charts through matplotlib, which the extra `plot` installs."""

import importlib.util
import io
import warnings
from typing import TYPE_CHECKING

from lipaudit.errors import UsageError
from lipaudit.report import theme
from lipaudit.report.chart import Chart, LineChart, RowChart
from lipaudit.report.scale import Scale
from lipaudit.report.text import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 150
_NAME_LIMIT = 40
_SERIES = (theme.LIGHT["bad"], theme.LIGHT["accent"], theme.LIGHT["soft"])
_MARKERS = ("o", "s", "D")


def check() -> None:
    """Refuse where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "PNG plots need matplotlib",
            slug="plot-extra",
            hint="pip install 'lipaudit[plot]', or leave --plot-format at svg",
        )


def document(chart: Chart) -> bytes:
    """Draw a chart as a PNG."""
    check()
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra
    from matplotlib.figure import Figure  # noqa: PLC0415 - the same

    rows = len(chart.rows) if isinstance(chart, RowChart) else 0
    figure = Figure(figsize=(9, 1.6 + 0.26 * rows if rows else 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # Names from files are plain text: $ would begin a formula.
    axes.set_title(chart.title, loc="left", parse_math=False)
    if isinstance(chart, LineChart):
        _lines(axes, chart)
    else:
        _rows(axes, chart)
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that its font does not have
        figure.savefig(out, format="png", dpi=_DPI, metadata={"Software": None})
    return out.getvalue()


def _lines(axes: "Axes", chart: LineChart) -> None:
    for at, curve in enumerate(chart.curves):
        axes.plot(
            [x for x, _ in curve.points],
            [y for _, y in curve.points],
            color=theme.RAMP_LIGHT[theme.shade(curve.depth)],
            linestyle="--" if len(chart.curves) > len(theme.RAMP_LIGHT) and at % 2 else "-",
            marker="o" if len(curve.points) == 1 else "",
            linewidth=1.4,
            # A name that begins with _ would be left out of the legend.
            label=f"\u200b{short(curve.name, _NAME_LIMIT)}",
        )
    _scale(axes, chart.x, "x")
    _scale(axes, chart.y, "y")
    axes.set_xlabel(chart.x_title)
    axes.set_ylabel(chart.y_title)
    axes.grid(color=theme.LIGHT["grid"])
    legend = axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _rows(axes: "Axes", chart: RowChart) -> None:
    for at, row in enumerate(chart.rows):
        if row.bar is not None:
            low, high = sorted(row.bar)
            if row.dots:
                axes.plot([low, high], [at, at], color=theme.LIGHT["soft"], zorder=1)
            else:
                axes.barh(at, high - low, left=low, height=0.6, color=theme.LIGHT[row.tone])
        for series, value in enumerate(row.dots):
            if value is not None:
                _dot(axes, series, value, at)
    for series, name in enumerate(chart.series):
        axes.plot([], [], _MARKERS[series], color=_SERIES[series], label=name)
    if chart.series:
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    for value, label in chart.marks:
        colour = theme.LIGHT["bad"] if label else theme.LIGHT["soft"]
        axes.axvline(value, color=colour, linewidth=1, linestyle="--" if label else "-")
    names = [short(row.name, _NAME_LIMIT) for row in chart.rows]
    axes.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    _scale(axes, chart.scale, "x")
    axes.set_xlabel(chart.axis_title)


def _dot(axes: "Axes", series: int, value: float, at: int) -> None:
    mark, colour = _MARKERS[series], _SERIES[series]
    axes.plot(value, at, mark, color=colour, markersize=5, clip_on=False, zorder=3)


def _scale(axes: "Axes", scale: Scale, which: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: PLC0415 - the same

    axis = axes.xaxis if which == "x" else axes.yaxis
    if scale.logarithmic:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(scale.low, scale.high)
    axis.set_major_locator(FixedLocator([tick.value for tick in scale.ticks()]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _place: scale.label(value)))
