"""The HTML report as text: well-formed, self-contained, and its numbers are the report's."""

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

from lipaudit import api
from lipaudit.report import html, html_changes, table
from lipaudit.report.base import REPORTERS, Canvas, Choice
from lipaudit.report.figures import Pair
from lipaudit.results import Failure, Report, Verdict
from tests.report import reports

VOID = {"meta", "input", "br", "img", "link", "hr"}
LOADING = {"src", "href", "srcset", "action", "formaction", "data", "poster", "background"}


class Document(HTMLParser):
    """What a parser makes of a page: that tags close, cells of tables, scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: dict[str, list[list[tuple[str, str]]]] = {}
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.text = ""
        self._table = ""
        self._cell: list[str] | None = None
        self._value = ""
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        assert len(given) == len(attrs), f"an attribute twice on {tag}"
        self.attributes += [(tag, name, value) for name, value in given.items()]
        if tag not in VOID:
            self.open.append(tag)
        if tag in self.inside:
            self.inside[tag].append("")
        if tag == "table":
            self._table = given["id"]
            self.rows[self._table] = []
        elif tag == "tr" and "tbody" in self.open:
            self.rows[self._table].append([])
        elif tag == "td":
            self._cell, self._value = [], ""
        elif tag == "data":
            self._value = given["value"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "td" and self._cell is not None:
            self.rows[self._table][-1].append(("".join(self._cell), self._value))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.inside:
            self.inside[self.open[-1]][-1] += data
        else:
            self.text += data
        if self._cell is not None:
            self._cell.append(data)


def audited(report: Report, verdict: Verdict = reports.QUIET) -> str:
    return html.audit(report, verdict, Canvas(), Choice())


def drawn(report: Report) -> str:
    return table.audit(report, reports.QUIET, Canvas(), Choice())


def simple() -> Report:
    return reports.report(reports.model(reports.layer("a", 4.0), reports.layer("b", 1 / 3)))


PAGES = {
    "hostile": audited(*reports.hostile()),
    "simple": audited(simple()),
    "several": audited(reports.report(*simple().models, *simple().models)),
    "layers only": audited(reports.report(reports.model(reports.layer("a"), bounded=False))),
    "nothing": audited(reports.report(reports.model(bounded=False))),
    "no model": audited(reports.report()),
    "clip": html.clip(reports.clipped("a", *reports.HOSTILE), Canvas()),
    "changes": html_changes.comparison(
        "two", ["a sentence"], [Pair(reports.HOSTILE[0], None, reports.measure(2.0))], tone="bad"
    ),
}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_pages_are_well_formed_and_load_nothing(page: str) -> None:
    document = Document(page)
    for tag, name, value in document.attributes:
        assert not name.startswith("on"), f"{tag} {name}"
        assert name != "style", "the policy forbids it"
        if name in LOADING:
            assert re.fullmatch(r"#m\d+", value), f"{tag} {name}={value}"
    tags = {tag for tag, _, _ in document.attributes}
    assert not tags & {"img", "iframe", "object", "embed", "link", "base", "video", "audio"}
    (style,) = document.inside["style"]
    assert "url(" not in style
    assert "@import" not in style
    script = document.inside["script"][-1]
    for word in ("fetch", "XMLHttpRequest", "import(", "innerHTML", "eval(", "WebSocket"):
        assert word not in script
    assert not re.search(r"https?://", page.replace("http://www.w3.org/2000/svg", ""))


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_the_policy_allows_this_very_style_and_script_only(page: str) -> None:
    document = Document(page)
    policy = next(v for t, n, v in document.attributes if n == "content" and "default-src" in v)
    own = {
        kind: "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for kind, text in (
            ("style-src", document.inside["style"][0]),
            ("script-src", document.inside["script"][-1]),
        )
    }
    assert policy.split("; ") == [
        "default-src 'none'",
        *(f"{kind} '{digest}'" for kind, digest in own.items()),
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_names_are_there_to_read_and_cannot_be_anything_else() -> None:
    document = Document(PAGES["hostile"])
    shown = [row[1][0] for row in document.rows["m1-layers"]]
    assert shown[:3] == list(reports.HOSTILE[:3])
    assert shown[7] == "line\\x0abreak\\x1b[31m red \\u202e turned \\u200b"
    assert len(PAGES["hostile"]) < 500_000, "a name of a megabyte is cut"
    for character in ("\x1b", "\u202e", "\u200b", "\ud800"):
        assert character not in PAGES["hostile"]


def test_data_for_the_script_cannot_end_its_element() -> None:
    document = Document(PAGES["hostile"])
    (data, _) = document.inside["script"]
    assert not set(data) & set("<>&")
    curves = json.loads(data)
    assert reports.HOSTILE[2] in [curve["name"] for curve in curves]


def test_numbers_in_the_page_are_the_reports(tmp_path: Path) -> None:
    torch.manual_seed(1)
    path = tmp_path / "net.pt"
    torch.save(nn.Sequential(nn.Linear(9, 200), nn.ReLU(), nn.Linear(200, 160)), path)
    report = api.bound(path, spectra=True)
    (model,) = report.models
    document = Document(audited(report))
    rows = document.rows["m1-layers"]
    head = re.search(r'<table class="data" id="m1-layers">.*?</thead>', audited(report), re.DOTALL)
    assert head is not None
    titles = re.findall(r">([^<]+)</button>", head[0])
    assert [row[titles.index("layer")][0] for row in rows] == [x.name for x in model.layers]
    for row, layer in zip(rows, model.layers, strict=True):
        spectrum = layer.spectrum
        assert spectrum is not None
        expected = {
            "σ_max ≤": layer.norm.upper,
            "≥": layer.norm.lower,
            "‖·‖_F": layer.frobenius,
            "share": layer.log_share,
            "stable": spectrum.stable_rank,
            "entropy": spectrum.entropy_rank,
            "rank": spectrum.numerical_rank,
            "of": spectrum.count,
        }
        found = {title: float(row[titles.index(title)][1]) for title in expected}
        assert found == expected
    methods = {row[0][0]: row[1][1] for row in document.rows["m1-methods"]}
    assert {name: float(value or "inf") for name, value in methods.items()} == {
        bound.method: bound.measure.upper for bound in model.bounds
    }
    curves = json.loads(document.inside["script"][0])
    for curve, layer in zip(curves, model.layers, strict=True):
        assert layer.spectrum is not None
        shown = [(rank, float(f"{value:.6g}")) for rank, value in layer.spectrum.curve]
        assert list(zip(curve["ranks"], curve["values"], strict=True)) == shown
    assert model.bound is not None
    facts = re.findall(r'<span class="value">[≤≥] <data value="([^"]+)"', audited(report))
    assert list(map(float, facts)) == [model.bound.measure.upper, model.bound.measure.lower]


def test_ends_are_rounded_outward_and_the_ratio_up() -> None:
    document = Document(PAGES["simple"])
    uppers = [cell for row in document.rows["m1-layers"] for cell in row]
    assert ("0.333334", repr(1 / 3)) in uppers
    headline = simple().models[0].bound
    assert headline is not None
    shown = re.search(r"×([\d.]+)", document.text)
    assert shown is not None
    measure = headline.measure
    assert float(shown[1]) >= measure.upper / measure.lower


@pytest.mark.parametrize(
    ("verdict", "title"),
    [
        (Verdict((), True, 0), "Passed: every gate is proved to hold"),
        (reports.hostile()[1], "Not passed: a limit is exceeded"),
        (Verdict((), False, 2), "Not passed: a file could not be read"),
        (reports.QUIET, "Certified; no gate was set"),
    ],
)
def test_the_verdict_comes_first(verdict: Verdict, title: str) -> None:
    page = audited(simple(), verdict)
    assert re.search(r"<h1>([^<]*)", page[page.index("<main>") :])[1] == title  # type: ignore[index]
    assert page.index("<h1>") < page.index("<h2>")


def test_what_is_not_certified_never_looks_as_if_it_were() -> None:
    (model,) = simple().models
    assert model.bound is not None
    unsure = replace(model.bound, certified=False, reasons=("the graph is assumed",))
    page = audited(reports.report(replace(model, bound=unsure, topology="assumed")))
    assert "Not certified; no gate was set" in page
    assert 'class="verdict unsure"' in page
    assert page.count("the graph is assumed") >= 2
    endless = replace(unsure, measure=reports.measure(math.inf, 0.5))
    page = audited(reports.report(replace(model, bound=endless)))
    assert '<span class="value">none</span>' in page
    assert "Loose by" not in page


def test_several_models_have_a_table_of_contents() -> None:
    document = Document(PAGES["several"])
    assert [v for t, n, v in document.attributes if (t, n) == ("a", "href")] == ["#m1", "#m2"]
    assert {v for t, n, v in document.attributes if (t, n) == ("section", "id")} == {"m1", "m2"}


def test_ids_are_unique() -> None:
    for page in PAGES.values():
        ids = [value for _, name, value in Document(page).attributes if name == "id"]
        assert len(ids) == len(set(ids))


def test_a_clip_says_before_and_after() -> None:
    document = Document(html.clip(reports.clipped("a", "b"), Canvas()))
    rows = [(row[1][0], row[2][1], row[3][1]) for row in document.rows["changes"]]
    assert rows == [("a", "2.0", "1.0"), ("b", "3.0", "1.0"), ("kept", "0.5", "0.5")]
    assert "Clipped 2 of 3 layers by scale to 1" in document.text


def test_it_is_registered() -> None:
    assert REPORTERS["html"].audit is html.audit


@pytest.mark.parametrize("ratio", [1.0, 1.00000001, 3.1225, 9.9996, 1234.5601, 9999.9, 10.0**7.123])
def test_looseness_is_never_understated(ratio: float) -> None:
    (model,) = simple().models
    assert model.bound is not None
    bound = replace(model.bound, measure=reports.measure(ratio, 1.0))
    text = Document(audited(reports.report(replace(model, bound=bound)))).text
    shown = re.search(r"Loose by at most\s*×(?:10\^)?([\d.e+]+)", text)
    assert shown is not None
    said = float(shown[1]) if "10^" not in shown[0] else 10 ** float(shown[1])
    assert ratio <= said <= 1.03 * ratio


def test_the_product_is_the_terminals() -> None:
    (model,) = simple().models
    large = tuple(replace(x, norm=reports.measure(2.0**70, 1.0)) for x in model.layers)
    for layers in (model.layers, large):
        one = reports.report(replace(model, bound=None, bounds=(), layers=layers))
        shown = re.search(r"product of all norms ≤ (\S+)", drawn(one))
        assert shown is not None
        assert f"Product of all norms≤ {shown[1]}no bound" in Document(audited(one)).text


def test_a_path_is_repeated_only_where_there_are_several() -> None:
    one, verdict = simple(), reports.hostile()[1]
    (model,) = one.models
    found = replace(verdict.findings[0], model=model.path)
    verdict = replace(verdict, findings=(found, found, found))
    few = audited(one, verdict)
    several = audited(replace(one, models=(model, replace(model, path="other.pt"))), verdict)
    listed = [re.search(r'<ul class="findings">.*?</ul>', page) for page in (few, several)]
    assert [part[0].count(model.path) for part in listed if part] == [0, 3]


def test_a_file_that_could_not_be_read_is_named() -> None:
    failure = Failure("gone <b>.pt", "no-such-file", "no such file", "look again", 2)
    page = audited(replace(simple(), failures=(failure,)), Verdict((), False, 2))
    assert "gone <b>.pt no such file; look again" in Document(page).text


def test_a_clip_that_missed_its_limit_looks_bad() -> None:
    report = reports.clipped("a", "b")
    assert 'class="verdict good"' in html.clip(report, Canvas())
    assert 'class="verdict bad"' in html.clip(replace(report, met=False), Canvas())
