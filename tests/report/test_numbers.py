"""Numbers read back from every format are the report's: all digits, or six rounded outward."""

import csv
import io
import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipaudit.enclosure import Enclosure, Rigor
from lipaudit.report import numbers
from lipaudit.report.base import Canvas, Choice
from lipaudit.report.catalog import REPORTERS
from lipaudit.results import Change, Finding, Headline, Measure, ModelReport, Report, Verdict
from tests.report.hostile import CLIP, PLAIN, TOOL, layer

ENDS = st.floats(min_value=0.0, allow_nan=False, allow_infinity=True)
WIDE = Canvas(width=400)


@st.composite
def measures(draw: st.DrawFn) -> Measure:
    low, high = sorted((draw(ENDS), draw(ENDS)))
    low = 0.0 if math.isinf(low) else low
    return Measure.of(Enclosure.of(low, high, Rigor.PROVED), "test")


def report_of(norms: list[Measure], *, bounded: bool) -> tuple[Report, Verdict]:
    layers = tuple(layer(f"layer{at}", norm) for at, norm in enumerate(norms))
    headline = Headline(norms[0], certified=True, reasons=()) if bounded else None
    model = replace(PLAIN, layers=layers, bound=headline, bounds=())
    found = Finding("LIP001", "error", model.path, "", "above", norms[0].upper, norms[0].lower)
    return Report(TOOL, (model,)), Verdict((found,), passed=False, exit_code=1)


def written(name: str, report: Report, verdict: Verdict) -> str:
    return REPORTERS[name].audit(report, verdict, WIDE, Choice())


def plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def ends(norm: Measure) -> list[float | None]:
    return [plain(x) for x in (norm.lower, norm.upper, norm.log10_lower, norm.log10_upper)]


KEYS = ("lower", "upper", "log10_lower", "log10_upper")


def strict(text: str) -> Any:
    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def of_json(text: str) -> tuple[Any, Any, Any]:
    document = strict(text)
    (model,) = document["models"]
    layers = [[x["norm"][key] for key in KEYS] for x in model["layers"]]
    (found,) = document["findings"]
    return layers, [model["bound"][key] for key in KEYS], [found["measured"], found["limit"]]


def of_jsonl(text: str) -> tuple[Any, Any, Any]:
    records = [strict(line) for line in text.splitlines()]
    layers = [[r["norm"][key] for key in KEYS] for r in records if r["record"] == "layer"]
    (model,) = (r for r in records if r["record"] == "model")
    (found,) = (r for r in records if r["record"] == "finding")
    return layers, [model["bound"][key] for key in KEYS], [found["measured"], found["limit"]]


def of_csv(text: str) -> tuple[Any, Any, Any]:
    def read(row: dict[str, str], *keys: str) -> list[float | None]:
        return [float(row[key]) if row[key] else None for key in keys]

    rows = list(csv.DictReader(io.StringIO(text)))
    layers = [read(row, *KEYS) for row in rows if row["record"] == "layer"]
    (bound,) = (row for row in rows if row["record"] == "bound")
    (found,) = (row for row in rows if row["record"] == "finding")
    return layers, read(bound, *KEYS), read(found, "measured", "limit")


def of_sarif(text: str) -> tuple[Any, Any, Any]:
    (run,) = strict(text)["runs"]
    layers = [[place["properties"][key] for key in KEYS] for place in run["logicalLocations"]]
    (model,) = run["properties"]["models"]
    (result,) = run["results"]
    found = result["properties"]
    return layers, [model["bound"][key] for key in KEYS], [found["measured"], found["limit"]]


def of_junit(text: str) -> tuple[Any, Any, Any]:
    def read(case: ET.Element, what: str) -> list[float | None]:
        values = {p.get("name"): p.get("value") for p in case.iter("property")}
        return [float(v) if (v := values[f"{what}_{key}"]) else None for key in KEYS]

    root = ET.fromstring(text)  # noqa: S314 - our own document
    cases = {case.get("name"): case for case in root.iter("testcase")}
    layers = [
        read(case, "norm") for name, case in cases.items() if (name or "").startswith("layer")
    ]
    said = cases["LIP001 LIP001"][0].get("message") or ""
    figures = dict(re.findall(r"(measured|limit) ([^,)]+)", said))
    found = [float(figures[k]) if k in figures else None for k in ("measured", "limit")]
    return layers, read(cases["Lipschitz bound"], "bound"), found


READERS = {"json": of_json, "jsonl": of_jsonl, "csv": of_csv, "sarif": of_sarif, "junit": of_junit}


@pytest.mark.parametrize("name", sorted(READERS))
@given(norms=st.lists(measures(), min_size=1, max_size=4))
def test_every_digit_comes_back(name: str, norms: list[Measure]) -> None:
    report, verdict = report_of(norms, bounded=True)
    layers, bound, found = READERS[name](written(name, report, verdict))
    assert layers == [ends(norm) for norm in norms]
    assert bound == ends(norms[0])
    assert found == [plain(norms[0].upper), plain(norms[0].lower)]


def six_digits(text: str, value: float, log10: float, *, up: bool) -> None:
    """Check a number for people: it lies outward of the true one, by less than a sixth digit."""
    if log10 == math.inf:
        assert text == "none"
        return
    if text.startswith("10^"):
        shown, true, step = Decimal(text[3:]), Decimal(log10), Decimal("0.01")
    else:
        shown, true = Decimal(text), Decimal(value)
        step = Decimal(1).scaleb(true.adjusted() - 5) if true else Decimal(0)
    assert (true <= shown <= true + step) if up else (true - step <= shown <= true)


def cells(text: str, name: str) -> dict[str, str]:
    """Return the row of a layer by the titles of its columns."""
    lines = [line for line in text.splitlines() if line]
    if name == "markdown":
        rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
        titles = next(row for row in rows if row[0] == "layer")
        row = next(row for row in rows if row[0] == "`layer0`")
    else:
        rows = [re.split(r" {3,}", line.strip()) for line in lines]
        titles = next(row for row in rows if row[0] == "layer")
        row = next(row for row in rows if row[0] == "layer0")
    return dict(zip(titles, row, strict=False))


@pytest.mark.parametrize("name", ["table", "markdown"])
@given(norm=measures())
def test_six_digits_come_back_rounded_outward(name: str, norm: Measure) -> None:
    row = cells(written(name, *report_of([norm], bounded=False)), name)
    below = row["≥"] if name == "table" else row["σ_max ≥"]
    six_digits(row["σ_max ≤"], norm.upper, norm.log10_upper, up=True)
    six_digits(below, norm.lower, norm.log10_lower, up=False)


@pytest.mark.parametrize("name", ["table", "markdown"])
@given(norm=measures())
def test_the_bound_for_people_is_rounded_outward(name: str, norm: Measure) -> None:
    text = written(name, *report_of([norm], bounded=True))
    pattern = {"table": r"upper bound (\S+) \(", "markdown": r"\(ℓ2\): ≤ (\S+?)\*\* \("}[name]
    found = re.search(pattern, text)
    assert (found is not None) == norm.is_finite
    if found is not None:
        six_digits(found[1], norm.upper, norm.log10_upper, up=True)


@given(before=measures(), after=measures())
def test_a_clip_keeps_its_numbers(before: Measure, after: Measure) -> None:
    change = Change("layer", "Linear", ("w",), before, after, 0.125)
    report = replace(CLIP, changes=(change,), skipped=(), notes=())
    texts = {name: REPORTERS[name].clip(report, WIDE) for name in REPORTERS}
    want = {"before": ends(before), "after": ends(after)}
    (found,) = strict(texts["json"])["changes"]
    assert {side: [found[side][key] for key in KEYS] for side in want} == want
    found = strict(texts["jsonl"].splitlines()[1])
    assert {side: [found[side][key] for key in KEYS] for side in want} == want
    (result,) = strict(texts["sarif"])["runs"][0]["results"]
    assert {s: [result["properties"][s][key] for key in KEYS] for s in want} == want
    (row,) = (r for r in csv.DictReader(io.StringIO(texts["csv"])) if r["record"] == "change")
    for side, numbers_of in want.items():
        values = [row[f"{side}.{key}"] for key in KEYS]
        assert [float(value) if value else None for value in values] == numbers_of
    root = ET.fromstring(texts["junit"])  # noqa: S314 - our own document
    properties = {p.get("name"): p.get("value") for p in root.iter("property")}
    for side, numbers_of in want.items():
        values = [properties[f"{side}_{key}"] or "" for key in KEYS]
        assert [float(value) if value else None for value in values] == numbers_of
    for name in ("table", "markdown"):
        assert numbers.upper(after.upper, after.log10_upper) in texts[name]


@given(value=st.floats(min_value=0.0, allow_nan=False, allow_infinity=False))
def test_outward_rounding_itself(value: float) -> None:
    log10 = math.log10(value) if value else -math.inf
    six_digits(numbers.upper(value, log10), value, log10, up=True)
    six_digits(numbers.lower(value, log10), value, log10, up=False)


def test_a_product_of_ones_is_one() -> None:
    one = Measure.of(Enclosure.exactly(1), "test")
    assert numbers.product_of_uppers([one] * 400) == "1"
    ten = Measure.of(Enclosure.exactly(10), "test")
    assert numbers.product_of_uppers([ten] * 400) == "10^400.00"
    assert numbers.product_of_uppers([ten, Measure.of(Enclosure.unknown(), "test")]) == "none"


def test_how_loose_a_bound_can_be_is_rounded_up() -> None:
    third = Measure.of(Enclosure.of(0.75, 1.0, Rigor.PROVED), "test")
    assert numbers.ratio(third) == "1.33334"


def test_no_model_no_numbers() -> None:
    empty: tuple[ModelReport, ...] = ()
    for name in READERS:
        assert written(name, Report(TOOL, empty), Verdict((), None, 3))
