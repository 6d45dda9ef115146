"""Strict JSON: what Python's own reader lets through, and the format does not have."""

import pytest

from lipaudit import strict_json
from lipaudit.errors import MalformedFile


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(MalformedFile, match=f"header: {word} is no JSON number") as caught:
        strict_json.parse(f'{{"a": [1, {word}]}}'.encode(), "header", path="x.json")
    assert (caught.value.path, caught.value.slug) == ("x.json", "json")
    assert strict_json.parse(f'{{"a": "{word}"}}'.encode(), "header", path="x.json") == {"a": word}


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(MalformedFile, match="'a' is defined twice"):
        strict_json.parse(b'{"a": 1, "a": 2}', "header", path="x.json")


@pytest.mark.parametrize("sign", ["", "-"])
def test_a_number_without_end_is_named_by_its_length(sign: str) -> None:
    with pytest.raises(MalformedFile) as caught:
        strict_json.parse(f'{{"a": {sign}{"7" * 5000}}}'.encode(), "header", path="x.json")
    assert caught.value.cause == "header: a number of 5,000 digits at byte 6"
    longest = strict_json.parse(b"9" * 4300, "header", path="x.json")
    assert longest == 10**4300 - 1


def test_minus_zero_is_no_integer() -> None:
    assert type(strict_json.parse(b"[-0]", "header", path="x.json")[0]) is float
    assert type(strict_json.parse(b"[0]", "header", path="x.json")[0]) is int


@pytest.mark.parametrize("text", [r'{"\ud800": 1}', r'["\uDFFF"]', r'{"a": "\udc00\ud800"}'])
def test_half_a_character_is_refused(text: str) -> None:
    with pytest.raises(MalformedFile, match="half of a character"):
        strict_json.parse(text.encode(), "header", path="x.json")


def test_a_whole_one_is_read() -> None:
    assert strict_json.parse(rb'"\ud83d\ude00 \\ud800"', "header", path="x") == "\U0001f600 \\ud800"
