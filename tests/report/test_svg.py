"""SVG plots: well-formed, and every coordinate says the number it stands for."""

import math
import re
from xml.etree import ElementTree as ET

import pytest

from lipaudit.report import figures, svg
from lipaudit.report.chart import LineChart, RowChart
from lipaudit.report.scale import Scale
from lipaudit.results import LayerResult
from tests.report import reports

SPACE = "{http://www.w3.org/2000/svg}"


def parsed(text: str) -> ET.Element:
    assert "<!DOCTYPE" not in text
    return ET.fromstring(text)  # noqa: S314 - written by ourselves a line ago


def layers() -> list[LayerResult]:
    return [reports.layer("first", 4.0, count=10), reports.layer("second", 0.5, count=300)]


def charts() -> list[LineChart | RowChart]:
    hostile = reports.hostile()[0].models[0]
    made = reports.model(*layers())
    clip = [figures.Pair("x", reports.measure(2.0), reports.measure(1.0))]
    found: list[LineChart | RowChart | None] = []
    for model in (hostile, made, reports.model(*layers(), bounded=False)):
        found += [*figures.spectra(model.layers), *figures.spectra(model.layers, logarithmic=True)]
        found += [figures.waterfall(model), figures.ranks(model.layers)]
    found.append(figures.changes(clip, 1.5))
    return [chart for chart in found if chart is not None]


@pytest.mark.parametrize("chart", charts(), ids=lambda chart: chart.key)
def test_every_chart_is_a_well_formed_file_that_loads_nothing(chart: LineChart | RowChart) -> None:
    text = svg.document(chart)
    root = parsed(text)
    assert root.tag == f"{SPACE}svg"
    tags = {element.tag.removeprefix(SPACE) for element in root.iter()}
    assert tags <= {
        "svg", "title", "desc", "style", "rect", "line", "text", "g", "polyline", "circle",
    }  # fmt: skip
    for element in root.iter():
        for name in element.attrib:
            assert not name.startswith("on")
            assert "href" not in name
    style = root.findtext(f"{SPACE}style") or ""
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("chart", charts(), ids=lambda chart: chart.key)
def test_nothing_is_drawn_outside_the_picture(chart: LineChart | RowChart) -> None:
    root = parsed(svg.document(chart))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for element in root.iter():
        for name, limit in (("x", width), ("cx", width), ("y", height), ("cy", height)):
            assert -0.1 <= float(element.get(name, 0)) <= limit
        for point in element.get("points", "").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height


@pytest.mark.parametrize(
    "name", ["W" * 60, "模型" * 30, "features.denseblock.transition_layer.normalization", "a"]
)
def test_names_end_where_the_picture_does(name: str) -> None:
    """Held against DejaVu Sans, one of the widest fonts of pages, where matplotlib brings it."""
    font_manager = pytest.importorskip("matplotlib.font_manager")
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    font.set_size(svg._LETTER, 72)
    shown = svg._fitted(name, 182)
    if shown.isascii():
        font.set_text(shown, 0)
        assert font.get_width_height()[0] / 64 <= 182
    assert svg._width(shown) <= 182
    assert shown == name or len(shown) >= 12


@pytest.mark.parametrize("logarithmic", [False, True])
def test_curves_read_back_as_the_singular_values(*, logarithmic: bool) -> None:
    """The spectrum of `reports.layer` is top / rank: a curve that is known everywhere."""
    charts = figures.spectra(layers(), logarithmic=logarithmic)
    assert [chart.key for chart in charts] == ["values", "ratios", "shares"]
    for chart in charts:
        root = parsed(svg.document(chart))
        left, top, width, height = map(float, root.attrib["data-plot"].split())
        lines = root.findall(f".//{SPACE}polyline")
        assert len(lines) == 2
        for line, norm, count in zip(lines, (4.0, 0.5), (10, 300), strict=True):
            spots = [tuple(map(float, spot.split(","))) for spot in line.attrib["points"].split()]
            over = count if chart.key == "shares" else 1
            height_of = norm if chart.key == "values" else 1.0
            known = [(rank / over, height_of / rank) for rank in range(1, count + 1)]
            places = [
                (
                    left + width * share(root.attrib["data-x"], x),
                    top + height * (1 - share(root.attrib["data-y"], y)),
                )
                for x, y in known
            ]
            for x, y in spots:
                nearest = min(math.dist((x, y), place) for place in places)
                assert nearest < 0.1, "a point that no rank has"
            assert math.dist(spots[0], places[0]) < 0.1
            assert math.dist(spots[-1], places[-1]) < 1.0


def share(scale: str, value: float) -> float:
    """Where a value stands between the ends: worked out from the ends alone."""
    low, high, logarithmic = map(float, scale.split())
    if logarithmic:
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)


def test_ticks_stand_where_they_say() -> None:
    chart = LineChart("k", "t", "c", Scale(0.0, 50.0), Scale(0.0, 2.0), "x", "y", ())
    root = parsed(svg.document(chart))
    left, top, width, height = map(float, root.attrib["data-plot"].split())
    labels = {t.text: t for t in root.iter(f"{SPACE}text") if t.get("class") == "soft"}
    assert float(labels["10"].attrib["x"]) == pytest.approx(left + width / 5, abs=0.1)
    assert float(labels["0.5"].attrib["y"]) == pytest.approx(top + height * 0.75 + 4, abs=0.1)


def test_the_waterfall_ends_at_the_bound() -> None:
    chart = figures.waterfall(reports.model(*layers()))
    assert chart is not None
    ends = [end for row in chart.rows for end in row.bar or ()]
    assert ends == pytest.approx([0.0, math.log10(4), math.log10(4), math.log10(2)])
    assert [row.tone for row in chart.rows] == ["up", "down"]


def test_a_node_without_a_bound_is_said_not_drawn() -> None:
    made = reports.model(reports.layer("good", 2.0), reports.layer("bad", math.inf))
    chart = figures.waterfall(made)
    assert chart is not None
    assert [row.bar is None for row in chart.rows] == [False, True]
    assert "no finite gain" in svg.document(chart)


def test_only_the_most_telling_of_many_layers_are_drawn_and_that_is_said() -> None:
    many = [reports.layer(f"l{at}", 1 + at / 1000) for at in range(100)]
    (chart, _, _) = figures.spectra(many)
    assert [curve.name for curve in chart.curves] == [f"l{at}" for at in range(76, 100)]
    assert figures.omitted(many) == "24 of 100 spectra are drawn: norms furthest from 1 first"


def test_the_stylesheet_of_a_page_and_of_a_file_name_the_same_colours() -> None:
    text = svg.document(figures.spectra(layers())[0])
    used = set(re.findall(r'class="(k\d+)', text))
    assert used == {"k0", "k11"}
    assert all(f".{name} {{" in text for name in used)


def test_a_limit_is_marked() -> None:
    pairs = [figures.Pair("x", reports.measure(4.0), reports.measure(1.0))]
    chart = figures.changes(pairs, 1.0)
    assert chart is not None
    root = parsed(svg.document(chart))
    (mark,) = [line for line in root.iter(f"{SPACE}line") if line.get("class") == "mark"]
    (dot,) = [c for c in root.iter(f"{SPACE}circle") if c.get("class") == "dot1" and
              float(c.attrib["cx"]) > 100]  # fmt: skip
    assert float(mark.attrib["x1"]) == pytest.approx(float(dot.attrib["cx"]), abs=0.1)


def test_what_did_not_change_is_not_drawn() -> None:
    same = reports.measure(2.0)
    assert figures.changes([figures.Pair("x", same, same)]) is None


def test_no_dot_lies_on_the_words_at_the_right() -> None:
    ends = (reports.measure(1.14051e10), reports.measure(0.0674745))
    chart = figures.changes([figures.Pair("x", *ends)], 0.05)
    assert chart is not None
    root = parsed(svg.document(chart))
    (words,) = [text for text in root.iter(f"{SPACE}text") if "→" in (text.text or "")]
    start = float(words.attrib["x"]) - 6.5 * len(words.text or "")  # at 12 pixels, in any font
    dots = [float(c.attrib["cx"]) for c in root.iter(f"{SPACE}circle")]
    assert max(dots) + 4.5 < start
