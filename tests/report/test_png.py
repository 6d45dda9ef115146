"""PNG plots: through matplotlib, with names as they are."""

import importlib.util
import struct
from unittest import mock

import pytest

from lipaudit.errors import UsageError
from lipaudit.report import figures, plot_files, png
from tests.report import reports


def test_every_chart_becomes_a_picture() -> None:
    pytest.importorskip("matplotlib")
    named = reports.hostile()[0]
    few = reports.report(reports.model(reports.layer("$a_b$ 100%"), reports.layer("_hidden", 0.5)))
    for report in (named, few):
        files = plot_files.drawn(report, "png")
        assert set(files) == set(plot_files.names(1, "png"))
        for content in files.values():
            assert content.startswith(b"\x89PNG\r\n\x1a\n")
            width, height = struct.unpack(">II", content[16:24])
            assert width > 600
            assert height > 200


def test_it_says_what_is_missing() -> None:
    chart = figures.ranks([reports.layer("a")])
    assert chart is not None
    with (
        mock.patch.object(importlib.util, "find_spec", return_value=None),
        pytest.raises(UsageError, match="PNG plots need matplotlib"),
    ):
        png.document(chart)


def test_several_models_do_not_share_names() -> None:
    one = reports.model(reports.layer("a"))
    files = plot_files.drawn(reports.report(one, one), "svg")
    assert len(files) == 16
    assert set(files) == set(plot_files.names(2, "svg"))
