"""Lists of globs mean the same wherever they are given: to gates, to inspect and to clip."""

import pytest

from lipaudit import globs
from lipaudit.analysis import layerwise
from lipaudit.analysis.clipping.limits import Limits
from lipaudit.gates.policy import LayerLimit, Policy


@pytest.mark.parametrize(
    ("name", "listed", "meant"),
    [
        ("fc", "fc", True),
        ("fc", "conv*,fc", True),
        ("fc", "conv*, fc", True),
        ("fc", " fc ", True),
        ("conv1", "conv? , fc", True),
        ("FC", "fc", False),
        ("fc2", "conv*, fc", False),
        ("fc", "", False),
        ("fc", ",", False),
    ],
)
def test_a_list_of_globs(name: str, listed: str, meant: bool) -> None:
    assert globs.matches(name, listed) is meant
    assert layerwise.matches(name, listed) is meant
    assert Policy(layer_limits=(LayerLimit(listed, 2.0),)).limit_of(name) == (
        2.0 if meant else None
    )
    assert Limits(None, {listed: 2.0}).of(name) == (2.0 if meant else None)
    assert Limits(2.0, only=listed).of(name) == (2.0 if meant else None)


def test_no_list_means_every_layer() -> None:
    assert layerwise.matches("anything", None)
