"""The HTML report in a real browser: it works, asks nobody, and hostile names do nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lipaudit.report import html
from lipaudit.report.base import Canvas, Choice
from tests.browser import Browser, Page, browser, needs_browser
from tests.report import reports

pytestmark = [pytest.mark.browser, needs_browser]

Open = Callable[..., Page]
NAMES = ["stem", "block.conv1", "block.conv2", "head"]
NORMS = [1.5, 12.25, 0.125, 3.0]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture
def page(chromium: Browser, tmp_path: Path) -> Open:
    def opened(text: str, *, width: int = 1280, dark: bool = False) -> Page:
        path = tmp_path / "report.html"
        path.write_text(text, encoding="utf-8")
        return Page(chromium, path, width=width, dark=dark)

    return opened


def report() -> str:
    kinds = ["Conv2d", "Conv2d", "Conv2d", "Gemm"]
    layers = [reports.layer(*three) for three in zip(NAMES, NORMS, kinds, strict=True)]
    return html.audit(reports.report(reports.model(*layers)), reports.QUIET, Canvas(), Choice())


def order(opened: Page) -> list[str]:
    found: list[str] = opened.run(
        "[...document.querySelectorAll('#m1-layers tbody tr')].filter((r) => !r.hidden)"
        ".map((r) => r.querySelector('.name').textContent)"
    )
    return found


def heading(title: str) -> str:
    return (
        "[...document.querySelectorAll('#m1-layers th')]"
        f".find((head) => head.textContent.startsWith({title!r}))"
    )


def test_nothing_is_asked_for_and_nothing_complains(page: Open) -> None:
    opened = page(report())
    assert opened.complaints() == []
    assert opened.requests() == []
    # Otherwise the test would pass on a page whose script never ran.
    assert opened.run("document.documentElement.classList.contains('js')")
    assert opened.run("getComputedStyle(document.querySelector('.verdict')).borderRadius") != "0px"


def test_the_browser_does_report_what_goes_wrong(page: Open) -> None:
    opened = page("<!DOCTYPE html><script>nowhere()</script><img src='file:///no/such.png'>")
    assert any("nowhere" in text for text in opened.complaints())
    assert opened.requests() == ["file:///no/such.png"]


def test_a_click_sorts_and_a_second_one_turns_round(page: Open) -> None:
    opened = page(report())
    assert order(opened) == NAMES
    head = heading("σ_max")
    opened.run(f"{head}.firstElementChild.click()")
    by_norm = ["block.conv1", "head", "stem", "block.conv2"]
    assert order(opened) == by_norm
    assert opened.run(f"{head}.getAttribute('aria-sort')") == "descending"
    opened.run(f"{head}.firstElementChild.click()")
    assert order(opened) == by_norm[::-1]
    assert opened.run(f"{head}.getAttribute('aria-sort')") == "ascending"
    opened.run(f"{heading('layer')}.firstElementChild.click()")
    assert order(opened) == sorted(NAMES)
    assert opened.run(f"{head}.getAttribute('aria-sort')") == "none"


def test_the_keyboard_sorts(page: Open) -> None:
    opened = page(report())
    opened.run(f"{heading('layer')}.firstElementChild.focus()")
    opened.press("Enter", 13, "\r")
    assert order(opened) == sorted(NAMES)
    opened.press(" ", 32, " ")
    assert order(opened) == sorted(NAMES, reverse=True)


def test_the_filters_hide_rows_and_say_how_many_are_left(page: Open) -> None:
    opened = page(report())
    form = "document.querySelector('form[data-for=m1-layers]')"
    opened.run(f"{form}.querySelector('input').focus()")
    opened.call("Input.insertText", text="CONV")
    assert order(opened) == ["block.conv1", "block.conv2"]
    assert opened.run(f"{form}.querySelector('output').textContent") == "2 of 4"
    opened.run(
        f"{form}.querySelector('input').value = '';"
        f"{form}.querySelector('select').value = 'Gemm';"
        f"{form}.dispatchEvent(new Event('input'))"
    )
    assert order(opened) == ["head"]


def test_pressing_enter_in_the_filter_leaves_the_page_where_it_is(page: Open) -> None:
    opened = page(report())
    opened.run("document.querySelector('form.filter input').focus()")
    opened.press("Enter", 13, "\r")
    assert opened.run("location.href") == opened.url
    assert opened.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
def test_the_theme_follows_the_system_until_it_is_chosen(page: Open, *, dark: bool) -> None:
    opened = page(report(), dark=dark)
    ground = "getComputedStyle(document.body).backgroundColor"
    schemes = ["rgb(251, 251, 250)", "rgb(20, 23, 27)"]
    assert opened.run(ground) == schemes[dark]
    opened.run("document.getElementById('theme').click()")
    assert opened.run(ground) == schemes[not dark]
    opened.run("document.getElementById('theme').click()")
    assert opened.run(ground) == schemes[dark]


def test_the_pointer_reads_values_off_the_curves(page: Open) -> None:
    opened = page(report())
    # `head` at its first rank: the norm 3 in the figure of values by rank.
    x, y = opened.run(
        """(() => {
          const svg = document.querySelector("svg[data-view=values]");
          svg.scrollIntoView({ block: "center", behavior: "instant" });
          const curve = svg.querySelector("[data-curve='3'] polyline");
          const [x, y] = curve.getAttribute("points").split(" ")[0].split(",").map(Number);
          const spot = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
          return [spot.x, spot.y];
        })()"""
    )
    opened.point(x, y)
    said = opened.run("document.getElementById('tip').textContent")
    assert said == "head\nσ = 3 at rank 1 of 40\n1 of the largest"
    assert opened.run("document.querySelectorAll('.linear svg[data-view=values] .lit').length") == 1
    opened.point(2, 2)
    assert opened.run("document.getElementById('tip').hidden")


def test_the_axes_can_be_chosen(page: Open) -> None:
    opened = page(report())
    visible = (
        "[...document.querySelectorAll('#m1 .figures')].filter((f) => f.className.length > 7)"
        ".filter((f) => getComputedStyle(f).display !== 'none').map((f) => f.className)"
    )
    assert opened.run(visible) == ["figures linear"]
    opened.run("document.getElementById('m1-logarithmic').click()")
    assert opened.run(visible) == ["figures logarithmic"]


def test_hostile_names_do_nothing(page: Open) -> None:
    text = html.audit(*reports.hostile(), Canvas(), Choice())
    opened = page(text)
    opened.run("document.querySelectorAll('th button').forEach((button) => button.click())")
    opened.run("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    box = opened.run(
        """(() => {
          const svg = document.querySelector("svg[data-view=values]");
          svg.scrollIntoView({ block: "center", behavior: "instant" });
          const { x, y, width, height } = svg.getBoundingClientRect();
          return [x, y, width, height];
        })()"""
    )
    for step in range(20):
        opened.point(box[0] + step / 20 * box[2], box[1] + box[3] / 2)
    assert opened.run("window.hurt") is None
    assert (
        opened.run("document.querySelectorAll('img, iframe, object, embed, link, b').length") == 0
    )
    assert opened.run("document.querySelectorAll('script').length") == 2
    assert opened.run("document.querySelectorAll('style').length") == 1
    handlers = (
        "[...document.querySelectorAll('*')].flatMap((e) => [...e.attributes])"
        ".filter((a) => a.name.startsWith('on') || ['src', 'action'].includes(a.name)"
        " || (a.name === 'href' && !/^#m\\d+$/.test(a.value))).length"
    )
    assert opened.run(handlers) == 0
    assert opened.complaints() == []
    assert opened.requests() == []
    assert order(opened), "the table is still there"


def test_even_what_slipped_in_would_not_run(page: Open) -> None:
    planted = report().replace(
        "<main>", "<main><script>window.hurt = 9</script><img src=x onerror='window.hurt = 8'>"
    )
    opened = page(planted)
    assert opened.run("window.hurt") is None
    assert opened.requests() == []


def test_two_thousand_layers_stay_usable(page: Open) -> None:
    layers = [
        reports.layer(f"block{at}.weight", 1 + (at % 7) / 10, count=128) for at in range(2000)
    ]
    made = reports.report(reports.model(*layers))
    opened = page(html.audit(made, reports.QUIET, Canvas(), Choice()))
    opened.run(f"{heading('σ_max')}.firstElementChild.click()")
    assert len(order(opened)) == 2000
    drawn = opened.run("document.querySelectorAll('svg[data-view=values] polyline').length")
    assert drawn == 2 * 24
    assert "24 of 2000 spectra" in opened.run("document.body.textContent")


@pytest.mark.parametrize("width", [400, 800, 1280])
def test_no_width_makes_the_page_itself_scroll_sideways(page: Open, width: int) -> None:
    for text in (report(), html.audit(*reports.hostile(), Canvas(), Choice())):
        opened = page(text, width=width)
        assert opened.run("document.documentElement.scrollWidth") <= width


def test_the_page_can_be_printed(page: Open) -> None:
    opened = page(report(), dark=True)
    opened.call("Emulation.setEmulatedMedia", media="print")
    assert opened.run("getComputedStyle(document.querySelector('.filter')).display") == "none"
    # Black on white, though the system is dark.
    assert opened.run("getComputedStyle(document.body).color") == "rgb(29, 33, 39)"
    assert opened.pdf().startswith(b"%PDF")


def test_a_page_of_changes_works(page: Open) -> None:
    opened = page(html.clip(reports.clipped("a", *reports.HOSTILE), Canvas()))
    assert opened.complaints() == []
    assert opened.requests() == []
    assert opened.run("window.hurt") is None
    assert opened.run("document.querySelectorAll('#changes tbody tr').length") == 14
