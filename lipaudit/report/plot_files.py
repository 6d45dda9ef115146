"""Plots as files: every chart of a report under a name of its own."""

from collections.abc import Callable, Mapping

from lipaudit.errors import UsageError
from lipaudit.report import figures, png, svg
from lipaudit.report.chart import Chart
from lipaudit.results import ModelReport, Report


def _as_svg(chart: Chart) -> bytes:
    return svg.document(chart).encode("utf-8")


KINDS: Mapping[str, Callable[[Chart], bytes]] = {"svg": _as_svg, "png": png.document}


def check_kind(kind: str) -> None:
    """Refuse a kind of file that there is not, or that needs what is not installed."""
    if kind not in KINDS:
        raise UsageError(
            f"no plot format {kind!r}", slug="plot-format", hint=f"there are {', '.join(KINDS)}"
        )
    if kind == "png":
        png.check()


def names(count: int, kind: str) -> list[str]:
    """Return every file name that so many models may get."""
    charts = [view.key for view in figures.VIEWS]
    charts += [f"{key}-log" for key in charts]
    charts += ["waterfall", "ranks"]
    return [f"{start}{chart}.{kind}" for start in _starts(count) for chart in charts]


def drawn(report: Report, kind: str) -> dict[str, bytes]:
    """Return every chart by its file name."""
    return {
        f"{start}{name}.{kind}": KINDS[kind](chart)
        for start, model in zip(_starts(len(report.models)), report.models, strict=True)
        for name, chart in _named(model).items()
    }


def _starts(count: int) -> list[str]:
    """Return how the names of each model's files begin: with its number, if there are several."""
    return [""] if count == 1 else [f"{at}-" for at in range(1, count + 1)]


def _named(model: ModelReport) -> dict[str, Chart]:
    linear = {chart.key: chart for chart in figures.spectra(model.layers)}
    logarithmic = {
        f"{chart.key}-log": chart for chart in figures.spectra(model.layers, logarithmic=True)
    }
    others = (figures.waterfall(model), figures.ranks(model.layers))
    return {**linear, **logarithmic, **{chart.key: chart for chart in others if chart is not None}}
