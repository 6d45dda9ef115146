"""The plot in the terminal: the spectra of the most telling layers, over shares of the rank."""

from collections.abc import Sequence

from lipaudit.report import braille, figures
from lipaudit.report.page import Page
from lipaudit.results import LayerResult

_WIDE = 30.0
"""Largest values this far apart need a logarithmic axis."""


def draw_spectra(page: Page, layers: Sequence[LayerResult]) -> None:
    """Draw the spectra of some layers, and say which."""
    shown = figures.drawable(layers, braille.CURVES)
    if not shown:
        page.say("no spectrum to draw: none is known")
        return
    chart = figures.heights(layers, logarithmic=_is_wide(shown), limit=braille.CURVES)
    page.gap()
    page.draw(braille.draw(chart, page.canvas))
    missing = figures.omitted(layers, braille.CURVES)
    if missing:
        page.say(missing)


def _is_wide(layers: Sequence[LayerResult]) -> bool:
    tops = [x.spectrum.curve[0][1] for x in layers if x.spectrum is not None]
    positive = [top for top in tops if top > 0]
    return bool(positive) and max(positive) > _WIDE * min(positive)
