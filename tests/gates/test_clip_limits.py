"""The file of `lipaudit clip --limits`: what it may say, and how its globs are read."""

from pathlib import Path

import pytest

from lipaudit.analysis.clipping.limits import Limits
from lipaudit.errors import LipauditError, UsageError
from lipaudit.gates import clip_limits


def written(folder: Path, text: str) -> str:
    path = folder / "limits.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_of_limits(tmp_path: Path) -> None:
    text = 'to = 2\n[layers]\n"conv*, fc" = 0.5\nfc = 0.25'
    to, by_glob = clip_limits.read(written(tmp_path, text))
    assert (to, dict(by_glob)) == (2.0, {"conv*, fc": 0.5, "fc": 0.25})
    limits = Limits(to, by_glob)
    assert [limits.of(name) for name in ("conv1", "fc", "head")] == [0.5, 0.25, 2.0]
    limits.check_names(["conv1", "fc", "head"])
    with pytest.raises(UsageError, match="'conv\\*'"):
        limits.check_names(["fc", "head"])


def test_blanks_around_the_commas_of_a_list_of_layers_mean_nothing() -> None:
    limits = Limits(1.0, only="conv*, fc")
    assert [limits.of(name) for name in ("conv1", "fc", "head")] == [1.0, 1.0, None]
    limits.check_names(["conv1", "fc"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "states no limit"),
        ("[layers]", "states no limit"),
        ("to = 0", "to must be a positive number"),
        ("to = -1", "to must be a positive number"),
        ("to = nan", "to must be a finite number"),
        ("to = inf", "to must be a finite number"),
        ("to = true", "to must be a number"),
        ("to = '1'", "to must be a number"),
        (f"to = 1{'0' * 400}", "to must be a finite number"),
        (f"to = 1{'0' * 9000}", "is not valid TOML"),
        ("too = 1", "unknown key 'too'"),
        ("layers = 1", "layers must be a table"),
        ("[layers]\nfc = 0", "layers.fc must be a positive number"),
        ("[layers]\n'fc[' = 1", "a bracket is not closed"),
        ("[layers]\n' ' = 1", "it is empty"),
        ("to = ", "is not valid TOML"),
        (f"to = {'[' * 5000}", "nested too deep"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(LipauditError, match=said) as caught:
        clip_limits.read(path)
    assert caught.value.path == path
    assert "\n" not in str(caught.value)
