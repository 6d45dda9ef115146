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
