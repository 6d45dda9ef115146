"""Tables on narrow and odd screens: they keep to the width, and numbers are never cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from lipaudit.report.base import Canvas, Choice
from lipaudit.report.catalog import REPORTERS
from lipaudit.report.columns import lay_out, padded, shortened
from lipaudit.report.page import Page
from tests.report.hostile import CLIP, REPORT, VERDICT

TITLES = ("layer", "kind", "norm", "share")
ROWS = (
    ("block1.conv1.very.long.name", "Conv2d", "1.58919", "40%"),
    ("fc", "Gemm", "0.67353", "5%"),
)


def drawn(width: int, *, unicode: bool = True) -> list[str]:
    page = Page(Canvas(width=width, unicode=unicode))
    page.table(TITLES, ROWS, right={2, 3}, priorities=(0, 2, 0, 1))
    return page.text().splitlines()


@pytest.mark.parametrize("width", [20, 25, 30, 40, 60, 80, 140, 400])
@pytest.mark.parametrize("unicode", [True, False])
def test_no_line_of_a_report_is_wider_than_the_screen(width: int, unicode: bool) -> None:
    canvas = Canvas(width=width, unicode=unicode)
    table = REPORTERS["table"]
    for text in (table.audit(REPORT, VERDICT, canvas, Choice()), table.clip(CLIP, canvas)):
        assert max(map(cell_len, text.splitlines())) <= width
        assert unicode or text.isascii()


@pytest.mark.parametrize("width", range(20, 100))
def test_numbers_are_whole_on_every_screen(width: int) -> None:
    text = "\n".join(drawn(width))
    for number in ("1.58919", "0.67353"):
        assert number in text
    # Either a column is there with its title and all of its cells, or nothing of it.
    assert ("share" in text) == ("40%" in text)


def test_the_least_important_column_goes_first() -> None:
    assert [title for title in TITLES if title in drawn(80)[0]] == list(TITLES)
    assert "kind" not in drawn(40)[0]
    assert "share" in drawn(40)[0]
    assert "share" not in drawn(24)[0]


def test_where_nothing_fits_side_by_side_rows_become_lines() -> None:
    page = Page(Canvas(width=20))
    page.table(("layer", "before", "after"), [("a" * 30, "1.23456", "6.54321")], right={1, 2},
               priorities=(0, 0, 0))  # fmt: skip
    assert page.text().splitlines() == [
        "layer:",
        "a" * 20,
        "a" * 10,
        "before: 1.23456",
        "after: 6.54321",
    ]


def test_a_table_without_rows_is_nothing() -> None:
    page = Page(Canvas(width=40))
    page.table(("a", "b"), [], right={1})
    assert page.text() == "\n"


def test_empty_columns_are_left_out() -> None:
    layout = lay_out(("a", "b", "c"), [("x", "-", "1"), ("y", "", "2")], 80, {1, 2}, (0, 1, 2))
    assert layout is not None
    assert layout.kept == (0, 2)


def test_colour_is_only_where_it_is_wanted() -> None:
    table = REPORTERS["table"]
    assert "\x1b" in table.clip(CLIP, Canvas(width=80, colour=True))
    assert "\x1b" not in table.clip(CLIP, Canvas(width=80))


@given(st.text(alphabet="ab层é.", max_size=40), st.integers(min_value=1, max_value=30))
def test_cells_are_as_wide_as_they_should_be(text: str, width: int) -> None:
    assert cell_len(shortened(text, width)) <= width
    assert cell_len(padded(text, width, right=True)) == width
    assert cell_len(padded(text, width, right=False)) == width
    if cell_len(text) <= width:
        assert shortened(text, width) == text
