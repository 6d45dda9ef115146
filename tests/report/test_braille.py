"""The plot in the terminal: it fits, it can be read, and in ASCII too."""

from dataclasses import replace

import pytest
from rich.cells import cell_len

from lipaudit.report import figures, table
from lipaudit.report.base import Canvas, Choice
from lipaudit.report.braille import draw
from lipaudit.results import LayerResult
from tests.report import reports

WIDTHS = [20, 33, 80, 100, 140]


def layers(count: int = 3) -> list[LayerResult]:
    return [reports.layer(f"net.layer{at}", 4.0 / (at + 1), count=30) for at in range(count)]


def plotted(canvas: Canvas, *chosen: LayerResult, logarithmic: bool = False) -> list[str]:
    chart = figures.heights(chosen or layers(), logarithmic=logarithmic, limit=6)
    return [line.plain for line in draw(chart, canvas)]


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("logarithmic", [True, False])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_wider_than_the_terminal(
    width: int, *, unicode: bool, logarithmic: bool
) -> None:
    lines = plotted(Canvas(width, unicode=unicode), logarithmic=logarithmic)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) >= 12
    if not unicode:
        assert "\n".join(lines).isascii()


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("width", WIDTHS)
def test_titles_are_whole(width: int, *, unicode: bool) -> None:
    shown = " ".join(" ".join(plotted(Canvas(width, unicode=unicode), logarithmic=True)).split())
    sigma = "σ" if unicode else "sigma"
    assert f"singular value {sigma} (log)" in shown
    assert "rank / number of singular values" in shown


@pytest.mark.parametrize("unicode", [True, False])
def test_every_curve_has_its_letter_on_it_and_in_the_key(*, unicode: bool) -> None:
    lines = plotted(Canvas(100, unicode=unicode))
    bar = "│" if unicode else "|"
    field = "".join(line.partition(bar)[2] for line in lines if bar in line)
    for letter, name in zip("abc", ["net.layer0", "net.layer1", "net.layer2"], strict=True):
        assert letter in field
        assert f"{letter} {name}" in lines


def test_a_level_curve_stands_at_its_height_by_the_axis() -> None:
    """In ASCII a character is a cell: the row of the letters is the row of the label."""
    flat = reports.layer("flat", 2.0, count=4)
    assert flat.spectrum is not None
    level = tuple((rank, 2.0) for rank in range(1, 5))
    flat = replace(flat, spectrum=replace(flat.spectrum, curve=level))
    lines = plotted(Canvas(60, unicode=False), flat)
    (row,) = [line for line in lines if "aa" in line]
    assert row.split("|")[0].strip() == "2"
    # Ranks 1 to 4 of 4: from a quarter of the width on.
    marks = row.split("|")[1]
    assert marks.index("a") == pytest.approx(len(marks) / 4, abs=1)
    assert marks.endswith("a")


def test_colours_are_used_where_there_are_any_and_never_needed() -> None:
    chart = figures.heights(layers(), logarithmic=False, limit=6)
    assert not any(line.spans for line in draw(chart, Canvas(80, colour=False)))
    styles = {
        str(span.style) for line in draw(chart, Canvas(80, colour=True)) for span in line.spans
    }
    assert {"red", "green", "yellow"} <= styles


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("unicode", [True, False])
def test_the_report_with_a_plot_fits_too(width: int, *, unicode: bool) -> None:
    made = reports.report(reports.model(*layers(9), bounded=False))
    canvas = Canvas(width, unicode=unicode)
    text = table.audit(made, reports.QUIET, canvas, Choice(plot=True))
    assert "rank" in text
    assert "6 of 9 spectra" in " ".join(text.split())
    assert text.isascii() or unicode


def test_hostile_names_stay_in_their_line() -> None:
    bad = [reports.layer(name, 2.0 + at) for at, name in enumerate(reports.HOSTILE)]
    for canvas in (Canvas(40), Canvas(40, unicode=False)):
        made = reports.report(reports.model(*bad, bounded=False))
        text = table.audit(made, reports.QUIET, canvas, Choice(plot=True))
        assert "\x1b" not in text
        assert "\u202e" not in text
    chart = figures.heights(bad, logarithmic=False, limit=6)
    assert max(cell_len(line.plain) for line in draw(chart, Canvas(40))) <= 40


def test_without_spectra_it_says_so() -> None:
    made = reports.report(reports.model(bounded=False))
    text = table.audit(made, reports.QUIET, Canvas(), Choice(plot=True))
    assert "no spectrum to draw" in text
