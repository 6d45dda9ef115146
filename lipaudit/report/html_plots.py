"""Plots on a page: figures with captions, spectra on both kinds of axes, names of the curves."""

import html
from collections.abc import Sequence

from lipaudit.report import figures, html_parts, svg
from lipaudit.report.chart import Chart, LineChart
from lipaudit.report.text import short
from lipaudit.results import LayerResult


def figure(chart: Chart | None, classes: str = "") -> str:
    """Write one chart with its caption; nothing for none."""
    if chart is None:
        return ""
    kind = f' class="{classes}"' if classes else ""
    return (
        f"<figure{kind}><figcaption><strong>{html.escape(chart.title)}</strong>"
        f'{html.escape(chart.caption)}</figcaption><div class="plot">{svg.drawing(chart)}</div>'
        "</figure>"
    )


def spectra(layers: Sequence[LayerResult], id_: str, limit: int) -> str:
    """Write the paper's three figures, linear and logarithmic, with one key for all."""
    linear = figures.spectra(layers, limit=limit)
    if not linear:
        return ""
    logarithmic = figures.spectra(layers, logarithmic=True, limit=limit)
    missing = figures.omitted(layers, limit)
    note = f'<p class="soft">{html.escape(missing)}.</p>' if missing else ""
    return (
        f"<h3>Spectra</h3>{note}"
        f'<div class="axes" data-curves="{id_}-curves">'
        f"{_choice(id_, 'linear', 'Linear axes, as in the paper', 'first', checked=True)}"
        f"{_choice(id_, 'logarithmic', 'Logarithmic', 'last', checked=False)}"
        f'<div class="figures linear">{"".join(map(figure, linear))}{_key(linear[0])}</div>'
        f'<div class="figures logarithmic">{"".join(map(figure, logarithmic))}'
        f"{_key(linear[0])}</div>"
        f"{_data(layers, id_, limit)}</div>"
    )


def _choice(id_: str, which: str, label: str, side: str, *, checked: bool) -> str:
    own = f"{id_}-{which}"
    mark = " checked" if checked else ""
    return (
        f'<input type="radio" name="{id_}-axes" id="{own}" class="{which}"{mark}>'
        f'<label for="{own}" class="{side}">{label}</label>'
    )


def _key(chart: LineChart) -> str:
    """Name the curves, from the input (first colour) to the output."""
    entries = []
    for at, curve in enumerate(chart.curves):
        classes = svg.curve_class(curve, at, len(chart.curves))
        entries.append(
            f'<li class="{classes}" title="{html.escape(curve.note)}"><svg viewBox="0 0 22 8" '
            f'aria-hidden="true"><line x1="0" y1="4" x2="22" y2="4"/></svg>'
            f"<span>{html.escape(curve.name)}</span></li>"
        )
    return (
        "<figure><figcaption><strong>Layers</strong>From the input to the output; point at one "
        f'to see its curve.</figcaption><ul class="key">{"".join(entries)}</ul></figure>'
    )


def _data(layers: Sequence[LayerResult], id_: str, limit: int) -> str:
    """Write the numbers behind the curves, for the values under the pointer."""
    curves = [
        {
            "name": short(layer.name, html_parts.NAME_LIMIT),
            "count": layer.spectrum.count,
            "ranks": [rank for rank, _ in layer.spectrum.curve],
            # As many digits as are shown: the last ones depend on the number of threads.
            "values": [float(f"{value:.6g}") for _, value in layer.spectrum.curve],
        }
        for layer in figures.drawable(layers, limit)
        if layer.spectrum is not None
    ]
    return html_parts.data(f"{id_}-curves", curves)
