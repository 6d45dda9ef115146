"""What each format's readers would make of the hostile report: spreadsheets, runners, CI, pages."""

import csv
import html
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from lipaudit.enclosure import Rigor
from lipaudit.report import clips, names
from lipaudit.report.base import Canvas, Choice
from lipaudit.report.catalog import FORMATS, REPORTERS
from lipaudit.results import Bound, BoundChange, Change, ClipReport, Finding, Report, Verdict
from tests.report.hostile import CLIP, HOSTILE, NAMES, PLAIN, REPORT, TOOL, VERDICT, layer, measure

HERE = Canvas(folder="/project/here")


def audited(name: str, report: Report = REPORT, verdict: Verdict = VERDICT) -> str:
    return REPORTERS[name].audit(report, verdict, HERE, Choice())


def clipped(name: str) -> str:
    return REPORTERS[name].clip(CLIP, HERE)


@pytest.mark.parametrize("text", [audited("csv"), clipped("csv")], ids=["audit", "clip"])
def test_no_cell_of_csv_is_a_formula(text: str) -> None:
    rows = list(csv.reader(io.StringIO(text)))
    assert len({len(row) for row in rows}) == 1
    cells = [cell for row in rows for cell in row]
    assert "'=cmd|' /C calc'!A0" in cells
    for cell in cells:
        if cell.lstrip().startswith(("=", "+", "-", "@")):
            float(cell)  # a number is none
        assert cell.lower() not in {"nan", "inf", "-inf", "infinity"}


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1.5", "@x", "\t=1", " =1", "\uff1d1", "-"])
def test_a_name_that_looks_like_a_formula_is_text(name: str) -> None:
    report = Report(TOOL, (replace(PLAIN, layers=(layer(name, measure(1.0, 1.0)),)),))
    rows = list(csv.DictReader(io.StringIO(audited("csv", report, Verdict((), None, 0)))))
    (row,) = (row for row in rows if row["record"] == "layer")
    assert row["name"].startswith(("'", "\\"))


def test_where_csv_has_no_number_it_has_a_reason() -> None:
    rows = [r for r in csv.DictReader(io.StringIO(audited("csv"))) if r["record"] == "layer"]
    assert len(rows) == len(REPORT.layers)
    for row in rows:
        assert row["upper"] or "upper" in row["reason"]
        for key in ("frobenius", "stable_rank", "power_iteration"):
            assert row[key] or f"{key}: " in row["reason"]


def runner(line: str) -> tuple[str, dict[str, str], str]:
    """Take a workflow command apart as the runner of GitHub Actions does."""
    found = re.fullmatch(r"::([a-z]+) ([^:]*)::(.*)", line)
    assert found, line
    name, properties, data = found.groups()

    def decoded(text: str, *codes: tuple[str, str]) -> str:
        for code, character in codes:
            text = text.replace(code, character)
        return text.replace("%25", "%")

    lines = (("%0D", "\r"), ("%0A", "\n"))
    pairs = (pair.split("=", 1) for pair in properties.split(","))
    return (
        name,
        {key: decoded(value, *lines, ("%3A", ":"), ("%2C", ",")) for key, value in pairs},
        decoded(data, *lines),
    )


def test_the_runner_gets_one_command_a_finding() -> None:
    commands = [runner(line) for line in audited("github").splitlines()]
    wanted = {"error": "error", "undecided": "warning", "note": "notice"}
    about = [c for c in commands if c[1]["title"].startswith("LIP")]
    assert [name for name, _, _ in about] == [wanted[f.severity] for f in VERDICT.findings]
    for (_, properties, data), finding in zip(about, VERDICT.findings, strict=True):
        assert properties["title"].startswith(finding.rule)
        assert set(properties) == {"title", "file", "line"}
        assert "\n" not in data
    assert about[0][1]["file"] == r"models/a b/100%|<net>\x0a\x3a:error::.pt"
    assert commands[-1] == ("error", {"title": "lipaudit"}, "3 models: the gate did NOT pass")


def test_a_file_outside_of_the_checkout_is_not_annotated() -> None:
    found = Finding("LIP001", "error", "/elsewhere/net.pt", "", "above")
    text = audited("github", Report(TOOL, ()), Verdict((found,), passed=False, exit_code=1))
    _, properties, data = runner(text.splitlines()[0])
    assert "file" not in properties
    assert data.startswith("/elsewhere/net.pt: above")


def outcomes(root: ET.Element, tag: str) -> int:
    return len(list(root.iter(tag)))


def test_junit_counts_what_it_holds() -> None:
    root = ET.fromstring(audited("junit"))  # noqa: S314 - our own document
    for part in (root, *root.iter("testsuite")):
        assert int(part.get("tests", "")) == outcomes(part, "testcase")
        assert int(part.get("failures", "")) == outcomes(part, "failure")
        assert int(part.get("errors", "")) == outcomes(part, "error")
        assert int(part.get("skipped", "")) == outcomes(part, "skipped")
    assert len(list(root)) == len(REPORT.models) + len(REPORT.failures)
    # Both findings about one layer are told, in its one case.
    (twice,) = (x for x in root.iter("failure") if "0.1" in x.get("message", ""))
    assert "above 0.1" in twice.get("message", "")
    assert "above 0.2" in twice.get("message", "")
    for case in root.iter("testcase"):
        assert len([x for x in case if x.tag in {"failure", "error", "skipped"}]) <= 1


def test_a_gate_that_did_not_pass_is_always_seen_in_junit() -> None:
    verdict = Verdict((), passed=False, exit_code=3)
    for report in (Report(TOOL, ()), Report(TOOL, (PLAIN,))):
        root = ET.fromstring(audited("junit", report, verdict))  # noqa: S314 - our own document
        assert root.get("errors") == "1"


def unmet() -> ClipReport:
    """Return what a single pass left: of four limited layers two above it, or not proved."""
    at_limit = measure(0.9, 1.0)
    guess = replace(at_limit, rigor=Rigor.ESTIMATED)
    ends = {"over": measure(1.1, 1.25), "met": at_limit, "guess": guess, "free": measure(8.0, 9.0)}
    changes = tuple(
        Change(name, "Conv2d", (name,), measure(8.0, 9.0), after, 0.5)
        for name, after in ends.items()
    )
    limited = tuple(replace(x, limit=None if x.name == "free" else 1.0) for x in changes)
    return replace(CLIP, method="sedghi", changes=limited, skipped=(), met=False)


def test_a_limit_that_a_clip_missed_fails_in_junit() -> None:
    def root(report: ClipReport) -> ET.Element:
        return ET.fromstring(REPORTERS["junit"].clip(report, HERE))  # noqa: S314 - our own document

    found = root(unmet())
    assert found.get("failures") == "2"
    failed = {case.get("name"): case.find("failure") for case in found.iter("testcase")}
    assert [name for name, failure in failed.items() if failure is not None] == ["over", "guess"]
    (over, *_) = found.iter("failure")
    assert "at most 1: its upper end is 1.25 (proved)" in over.get("message", "")
    # Whatever the reason why a limit is not proved to be met: the run is seen to fail.
    assert root(replace(unmet(), changes=())).get("failures") == "1"
    assert root(replace(unmet(), met=True)).get("failures") == "0"


def test_a_limit_that_a_clip_missed_is_an_error_on_github() -> None:
    lines = REPORTERS["github"].clip(unmet(), HERE).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["::error"] * 3
    assert (
        "over: its norm is not proved to be at most 1: its upper end is 1.25 (proved)" in lines[1]
    )
    met = REPORTERS["github"].clip(replace(unmet(), met=True), HERE).splitlines()
    assert [line.split(" ")[0] for line in met] == ["::notice"]


@pytest.mark.parametrize("name", sorted(REPORTERS))
def test_a_limit_that_a_clip_missed_is_said_in_every_format(name: str) -> None:
    def text(report: ClipReport) -> str:
        return REPORTERS[name].clip(report, HERE)

    assert text(unmet()) != text(replace(unmet(), met=True))
    said = {
        "json": '"met": false',
        "jsonl": '"met": false',
        "csv": ",false,",
        "table": "did not bring every layer to its limit",
        "junit": "<failure",
        "github": "::error",
        "sarif": '"level": "error"',
    }
    objection = "not proved to be at most 1: its upper end is 1.25"
    assert said.get(name, objection) in text(unmet())


def test_a_limit_that_a_clip_missed_looks_like_it() -> None:
    assert '<section class="verdict bad">' in REPORTERS["html"].clip(unmet(), HERE)
    assert REPORTERS["markdown"].clip(unmet(), HERE).startswith("## ❌")


ASSUMED = ("the layers act one after the other", "every item of the input lies in [0, 1]")


@pytest.mark.parametrize("name", sorted(REPORTERS))
def test_what_is_assumed_stands_beside_the_number_in_every_format(name: str) -> None:
    """A reader must not take a bound for one that holds without its assumptions."""
    bounds = (Bound("graph", measure(0.5, 1.0), ASSUMED[1:], ()),)
    report = Report(TOOL, (replace(PLAIN, assumptions=ASSUMED[:1], bounds=bounds),))
    change = BoundChange(2.0, measure(3.0, 4.0), measure(1.0, 2.0))
    clip = replace(CLIP, assumptions=ASSUMED, bound=change)
    passed = Verdict((), passed=True, exit_code=0)
    for text in (audited(name, report, passed), REPORTERS[name].clip(clip, HERE)):
        shown = " ".join(html.unescape(text).replace("%2C", ",").split())
        assert all(words in shown for words in ASSUMED)


@pytest.mark.parametrize(
    ("moved", "least", "said"),
    [(0.0, 0.5, "0%"), (0.5, 0.5, "0%"), (1.0010026, 1.0, "0.11%"), (1.5, 1.0, "50%")],
)
def test_a_share_that_is_not_exceeded_is_rounded_up(moved: float, least: float, said: str) -> None:
    change = replace(CLIP.changes[0], relative_change=moved, least_change=least)
    text = clips.nearness(replace(CLIP, changes=(change,)))
    assert f"by more than {said} (computed, 1 layer)" in text


class Tags(HTMLParser):
    """Collects the elements that a browser would make."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert all(name in {"style", "align"} for name, _ in attrs)
        self.found.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page(markdown: str) -> Tags:
    tags = Tags()
    tags.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))
    return tags


@pytest.mark.parametrize("text", [audited("markdown"), clipped("markdown")], ids=["audit", "clip"])
def test_nothing_hostile_becomes_an_element_of_a_page(text: str) -> None:
    tags = page(text)
    table = {"table", "thead", "tbody", "tr", "th", "td"}
    assert set(tags.found) <= table | {"h2", "h3", "p", "ul", "li", "code", "strong", "sub"}
    shown = "".join(tags.text)
    assert "<script>alert(1)</script>" in shown
    assert "a|b`c`|**d** [e](f) <!-- g" in shown


def test_every_row_of_markdown_has_its_cells() -> None:
    lines = audited("markdown").splitlines()
    for block in "\n".join(lines).split("\n\n"):
        rows = block.split("\n")
        if rows[0].startswith("|"):
            assert len({row.count("|") for row in rows}) == 1
    tags = page(audited("markdown"))
    cells = 7 * (len(VERDICT.findings) + len(REPORT.failures))
    cells += 5 * sum(len(model.bounds) for model in REPORT.models) + 8 * len(REPORT.layers)
    cells += 3 * len(HOSTILE.skipped)
    assert tags.found.count("td") == cells


def test_markdown_names_no_one_and_links_nowhere() -> None:
    text = audited("markdown") + clipped("markdown")
    assert "@team" not in text
    assert "https://" not in text
    assert "www." not in text
    assert NAMES["mention"].split()[0] in "".join(page(text).text).replace("\u200b", "")


def test_markdown_of_many_layers_fits_a_job_summary() -> None:
    many = tuple(
        layer(f"blocks.{at}.attention.projection", measure(1.0, 2.0)) for at in range(5000)
    )
    text = audited("markdown", Report(TOOL, (replace(PLAIN, layers=many),)))
    assert len(text.encode()) < 1 << 20
    assert "4,500 more layers not shown" in text


def test_choices_hold_for_people() -> None:
    report = Report(TOOL, (replace(PLAIN, bound=None),))
    for name in ("table", "markdown"):
        text = REPORTERS[name].audit(report, Verdict((), None, 0), HERE, Choice("norm", 1))
        assert "conv1" in text
        assert "conv2" not in text
    whole = REPORTERS["json"].audit(report, Verdict((), None, 0), HERE, Choice("norm", 1))
    assert "conv2" in whole


def test_a_reporter_is_called_as_its_file_and_help_knows_it() -> None:
    assert tuple(module.__name__.rpartition(".")[2] for module in FORMATS) == names.NAMES
    assert set(REPORTERS) == set(names.NAMES)


def test_a_limit_that_is_met_never_looks_as_if_it_were_not() -> None:
    limit = 0.48385348036182035
    met = replace(CLIP.changes[0], name="fc", limit=limit, after=measure(0.48, limit - 1e-9))
    other = replace(met, name="other", limit=0.9)
    report = replace(CLIP, changes=(met, other), limit=None)
    table = REPORTERS["table"].clip(report, Canvas(width=140))
    (row,) = (line.split() for line in table.splitlines() if line.startswith("fc"))
    assert row[2:4] == ["0.483854", repr(limit)]
