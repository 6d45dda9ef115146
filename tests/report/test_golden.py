"""Every format of a fixed hostile report, compared with the file that shows what it looks like.

To rewrite the files after a wanted change, and then read the difference:

    LIPAUDIT_REWRITE_GOLDEN=1 python -m pytest tests/report/test_golden.py
"""

import os
import re
import unicodedata
from pathlib import Path

import pytest

from lipaudit.report import sarif
from lipaudit.report.base import Canvas, Choice
from lipaudit.report.catalog import NAMES, REPORTERS
from lipaudit.report.html_script import SCRIPT
from lipaudit.report.html_style import css
from tests.report.hostile import CLIP, LONG, REPORT, VERDICT

GOLDEN = Path(__file__).parent / "golden"
REWRITE = os.environ.get("LIPAUDIT_REWRITE_GOLDEN") == "1"
CANVAS = Canvas(width=100, folder="/project/here")
SCREENS = {
    "20": Canvas(width=20),
    "40": Canvas(width=40),
    "140": Canvas(width=140),
    "ascii": Canvas(width=100, unicode=False),
}
LONGEST = {"html": 300_000}
"""Characters, where a format needs more than the others: a page draws every plot twice."""
WHOLE = frozenset({"json", "jsonl"})
"""Formats that keep a name of a megabyte as it is."""


@pytest.fixture(autouse=True)
def one_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif, "__version__", "1.2.3")


def written(name: str, about: str, canvas: Canvas = CANVAS) -> str:
    reporter = REPORTERS[name]
    if about == "clip":
        return reporter.clip(CLIP, canvas)
    return reporter.audit(REPORT, VERDICT, canvas, Choice())


def without_dress(text: str) -> str:
    """Take out the style and the script of a page: a browser test looks at what they do."""
    for part in (css(), SCRIPT):
        text = text.replace(part, "...")
    return re.sub(r"'sha256-[^']*'", "'sha256-...'", text)


def compare(name: str, text: str) -> None:
    path = GOLDEN / name
    if name.endswith(".html"):
        text = without_dress(text)
    shown = text.replace(LONG, "<a name of a megabyte>")
    if REWRITE:
        path.write_text(shown, encoding="utf-8")
    assert path.is_file(), f"{name} is missing: see the top of {Path(__file__).name}"
    assert shown == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("about", ["audit", "clip"])
@pytest.mark.parametrize("name", sorted(REPORTERS))
def test_every_format_is_as_it_was(name: str, about: str) -> None:
    compare(f"{about}.{name}", written(name, about))


@pytest.mark.parametrize("screen", sorted(SCREENS))
def test_the_table_is_as_it_was_on_every_screen(screen: str) -> None:
    canvas = SCREENS[screen]
    compare(f"audit.table.{screen}", written("table", "audit", canvas))
    compare(f"clip.table.{screen}", written("table", "clip", canvas))


def test_a_reporter_is_called_as_its_file_is() -> None:
    assert set(NAMES) == set(REPORTERS)


def test_no_golden_file_is_left_over() -> None:
    known = {f"{about}.{name}" for name in REPORTERS for about in ("audit", "clip")}
    known |= {f"{about}.table.{screen}" for screen in SCREENS for about in ("audit", "clip")}
    assert {path.name for path in GOLDEN.iterdir()} == known


@pytest.mark.parametrize("about", ["audit", "clip"])
@pytest.mark.parametrize("name", sorted(REPORTERS))
def test_nothing_acts_on_the_reader(name: str, about: str) -> None:
    text = without_dress(written(name, about))
    # What a page's script sorts by: numbers as it writes them, names in lower case.
    text = re.sub(r'data-key="[^"]*"', "", text)
    hidden = {c for c in text if unicodedata.category(c)[0] == "C" and c != "\n"}
    assert not hidden
    assert name in WHOLE or len(text) < LONGEST.get(name, 100_000)
    own = ("::error ", "::warning ", "::notice ") if name == "github" else ()
    for line in text.splitlines():
        assert not line.lstrip().startswith("::") or line.startswith(own)
        if name != "github" and name not in WHOLE:
            assert "##[" not in line
            assert "##vso[" not in line
    assert not re.search(r"\b(nan|inf|Infinity)\b", text)


def test_what_is_long_is_cut_but_in_json() -> None:
    for name in REPORTERS:
        assert (LONG in written(name, "audit")) == (name in WHOLE)
