"""The gate for untrusted text: nothing that acts gets through, plain names come out as they are."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipaudit.report.marked_up import code, prose
from lipaudit.report.text import encodable, safe, short

PLAIN = (
    "layer1.0.conv2",
    "block1.conv1 + block1.bn1",
    "torch::nn::Linear",
    "σ_max ≤ 2·√π",
    "层卷积",
    "é",
    "a: b",
    "",
)


@pytest.mark.parametrize("text", PLAIN)
def test_plain_names_are_left_alone(text: str) -> None:
    assert safe(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", r"\x1b[31m"),
        ("a\nb\r", r"a\x0ab\x0d"),
        ("\u202e", r"\u202e"),
        ("\u2028", r"\u2028"),
        ("\u3000", r"\u3000"),
        ("\ud800", r"\ud800"),
        ("\U000e0001", r"\U000e0001"),
        ("\u3164", r"\u3164"),
        ("e\u0301\u0301\u0301", "e\u0301\u0301\\u0301"),
        ("\u0301a", r"\u0301a"),
        ("::error::x", r"\x3a:error::x"),
        ("x ::Set-Output name=a::b", r"x \x3a:Set-Output name=a::b"),
        ("##[error]x", r"\x23#[error]x"),
        ("##vso[task]", r"\x23#vso[task]"),
        ("##teamcity[x]", r"\x23#teamcity[x]"),
    ],
)
def test_what_acts_is_escaped(text: str, shown: str) -> None:
    assert safe(text) == shown


@given(st.text())
def test_all_text_becomes_visible_and_stays(text: str) -> None:
    shown = safe(text)
    assert shown.isprintable()
    assert safe(shown) == shown
    shown.encode()
    assert not any(unicodedata.category(character)[0] == "C" for character in shown)


@given(st.text(), st.integers(min_value=8, max_value=60))
def test_short_text_keeps_to_its_limit(text: str, limit: int) -> None:
    shown = short(text, limit)
    assert len(shown) <= limit
    assert shown == safe(text) or "..." in shown


def test_a_megabyte_is_cut_before_it_is_read() -> None:
    begun = time.perf_counter()
    for _ in range(100):
        assert len(short("\x1b" * 1_000_000)) == 120
    assert time.perf_counter() - begun < 1


@given(st.text(alphabet=st.characters()))
def test_strict_json_can_hold_it(text: str) -> None:
    encodable(text).encode()


@given(st.text(alphabet="ab|`<>&*_[]()!#~\\ \n@:/w.", max_size=30))
def test_nothing_in_markdown_acts(text: str) -> None:
    for shown in (code(text), prose(text)):
        inner = shown.removeprefix("<code>").removesuffix("</code>")
        span = shown.startswith("`") and shown.endswith("`") and len(shown) > 2
        if span:
            # A code span of plain characters: none of them ends it or a cell.
            assert not set(shown[1:-1]) & set("|`<>&")
        else:
            assert not set(inner) & set("|`<>*_[]!~\\")
            assert "://" not in inner
        assert "\n" not in shown
