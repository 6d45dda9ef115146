"""The figures of one report: the papers' three spectra, the waterfall, effective ranks, changes.

Singular values by rank, as ratio to the largest, and that by the share of the rank are Figures
5, 6 and 7 of Sedghi, Gupta & Long (ICLR 2019), with a curve for every layer.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lipaudit.report import numbers
from lipaudit.report.chart import Curve, LineChart, Point, Row, RowChart
from lipaudit.report.marks import marked
from lipaudit.report.scale import Scale, fitting, widened
from lipaudit.report.text import short
from lipaudit.results import Factor, LayerResult, Measure, ModelReport, SpectrumSummary

CURVES = 24
"""So many layers are drawn at most: those whose norms are furthest from 1."""
ROWS = 40
NAME_LIMIT = 200
_FLAT = 1e-9
"""A |log10 gain| below this is no step: activations, reshapes."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One thing before and after: a layer, or a whole bound."""

    name: str
    before: Measure | None
    after: Measure | None
    note: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class _View:
    """One way to draw spectra."""

    key: str
    title: str
    caption: str
    x_title: str
    y_title: str
    point: Callable[[int, float, SpectrumSummary], Point]
    share: bool = False


def _largest(spectrum: SpectrumSummary) -> float:
    return spectrum.curve[0][1] or 1.0


VIEWS = (
    _View(
        "values",
        "Singular values by rank",
        "Every layer's singular values, largest first.",
        "rank",
        "singular value σ",
        lambda rank, value, _spectrum: (float(rank), value),
    ),
    _View(
        "ratios",
        "Ratio to the largest, by rank",
        "How fast each layer's singular values fall off: σ divided by the layer's largest.",
        "rank",
        "σ / σ₁",
        lambda rank, value, spectrum: (float(rank), value / _largest(spectrum)),
    ),
    _View(
        "shares",
        "Ratio to the largest, by share of all ranks",
        "The same, with the rank divided by how many singular values the layer has.",
        "rank / number of singular values",
        "σ / σ₁",
        lambda rank, value, spectrum: (rank / spectrum.count, value / _largest(spectrum)),
        share=True,
    ),
)


_HEIGHTS = _View(
    "heights",
    "Singular values, by share of all ranks",
    "Every layer's singular values over the rank divided by their number.",
    "rank / number of singular values",
    "singular value σ",
    lambda rank, value, spectrum: (rank / spectrum.count, value),
    share=True,
)
"""For terminals, where one plot must do: layers of any size side by side, as high as they are."""


def drawable(layers: Sequence[LayerResult], limit: int = CURVES) -> list[LayerResult]:
    """Return the layers whose spectra are drawn, in their order: the most telling ones.

    Those are the layers whose norms are furthest from 1, batch norms last; a tied weight counts
    once.
    """
    known = [x for x in layers if x.spectrum is not None and x.spectrum.curve and not x.tied_with]
    ranked = sorted(
        range(len(known)), key=lambda at: (_is_norm(known[at]), -_distance(known[at].norm), at)
    )
    return [known[at] for at in sorted(ranked[:limit])]


def omitted(layers: Sequence[LayerResult], limit: int = CURVES) -> str:
    """Say which layers have no curve; "" if all have one."""
    known = [x for x in layers if x.spectrum is not None and x.spectrum.curve]
    shown = len(drawable(layers, limit))
    texts = []
    if len(known) > shown:
        texts.append(f"{shown} of {len(known)} spectra are drawn: norms furthest from 1 first")
    if len(layers) > len(known):
        missing = len(layers) - len(known)
        texts.append(f"{missing} layers have no spectrum (out of reach, or not asked for)")
    return "; ".join(texts)


def spectra(
    layers: Sequence[LayerResult], *, logarithmic: bool = False, limit: int = CURVES
) -> tuple[LineChart, ...]:
    """Return the three figures of the paper; empty without spectra."""
    shown = drawable(layers, limit)
    return tuple(_spectra(view, shown, logarithmic=logarithmic) for view in VIEWS if shown)


def heights(layers: Sequence[LayerResult], *, logarithmic: bool, limit: int) -> LineChart:
    """Return the one figure that shows most of the three; of at least one spectrum."""
    return _spectra(_HEIGHTS, drawable(layers, limit), logarithmic=logarithmic)


def _spectra(view: _View, shown: Sequence[LayerResult], *, logarithmic: bool) -> LineChart:
    curves = []
    for at, layer in enumerate(shown):
        spectrum = layer.spectrum
        if spectrum is None:
            continue
        note = f"{spectrum.count:,} values, largest {numbers.nearest(spectrum.curve[0][1])}"
        if spectrum.of:
            note += f", of the {short(spectrum.of, 60)} operator"
        points = tuple(view.point(rank, value, spectrum) for rank, value in spectrum.curve)
        depth = at / max(len(shown) - 1, 1)
        curves.append(Curve(short(layer.name, NAME_LIMIT), points, depth, note))
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points]
    # Shares of the rank stay linear: they are read as percent.
    x = Scale(0.0, 1.0, percent=True) if view.share else _ranks(xs, logarithmic=logarithmic)
    return LineChart(
        view.key,
        view.title,
        view.caption,
        x,
        widened(fitting(ys, logarithmic=logarithmic, decades=8)),
        view.x_title,
        view.y_title,
        tuple(curves),
    )


def _ranks(xs: Sequence[float], *, logarithmic: bool) -> Scale:
    last = max([2.0, *xs])
    return Scale(1.0, last, logarithmic=True) if logarithmic else Scale(0.0, last)


def waterfall(model: ModelReport) -> RowChart | None:
    """Return where the bound comes from: every node's gain at the height it acts on."""
    whole = next((b for b in model.bounds if b.method == "graph" and b.factors), None)
    if whole is None:
        return _product(model.layers)
    factors = [f for f in whole.factors if f.remaining.log10_upper > -math.inf]
    steps = [f for f in factors if abs(f.gain.log10_upper) > _FLAT]
    return _steps(
        [(f.name, f.kind, f.gain, _ending(f)) for f in steps],
        title="Where the bound comes from",
        caption="A bar is as long as the logarithm of the node's own gain, and ends at the bound "
        "from the input up to there (method: graph).",
        flat=len(factors) - len(steps),
    )


def _ending(factor: Factor) -> float:
    return factor.running.log10_upper


def _product(layers: Sequence[LayerResult]) -> RowChart | None:
    """Return the norms multiplied one after the other: no bound, but what it would be made of."""
    total, steps = 0.0, []
    for layer in layers:
        log10 = layer.norm.log10_upper
        total += log10 if math.isfinite(log10) else 0.0
        steps.append((layer.name, layer.kind, layer.norm, total))
    return _steps(
        steps,
        title="What each layer contributes",
        caption="The layers' norms multiplied in the order of the file: no bound of the network "
        "(lipaudit bound gives one), but where growth and decay sit.",
        flat=0,
    )


def _steps(
    steps: Sequence[tuple[str, str, Measure, float]], *, title: str, caption: str, flat: int
) -> RowChart | None:
    if not steps:
        return None
    ranked = sorted(range(len(steps)), key=lambda at: (-_distance(steps[at][2]), at))
    shown = [steps[at] for at in sorted(ranked[:ROWS])]
    rows, ends = [], [0.0]
    for name, kind, gain, end in shown:
        log10 = gain.log10_upper
        finite = math.isfinite(log10) and math.isfinite(end)
        bar = (end - log10, end) if finite else None
        ends += bar or ()
        rows.append(
            Row(
                short(name, NAME_LIMIT),
                f"×{marked(gain)}" if math.isfinite(log10) or log10 < 0 else numbers.NONE,
                f"{short(kind, 40)}: gain ≤ {marked(gain)}, log10 so far ≤ {_log(end)}",
                bar,
                tone="up" if log10 >= 0 else "down",
                missing="" if finite else _missing(gain),
            )
        )
    texts = [caption, "Red grows, blue shrinks."]
    if flat:
        texts.append(f"{flat} nodes of gain 1 are not drawn.")
    if len(steps) > len(shown):
        texts.append(f"The {len(shown)} of {len(steps)} steps that are furthest from 1.")
    scale = widened(fitting(ends, logarithmic=False))
    return RowChart(
        "waterfall", title, " ".join(texts), scale, "log10", tuple(rows), marks=((0.0, ""),)
    )


def _missing(gain: Measure) -> str:
    if gain.log10_upper == -math.inf:
        return "gain 0"
    return "behind a node without a bound" if gain.is_finite else "no finite gain"


def ranks(layers: Sequence[LayerResult], limit: int = ROWS) -> RowChart | None:
    """Return the effective ranks, as shares of the full rank."""
    known = [x for x in layers if x.spectrum is not None and x.spectrum.count and not x.tied_with]
    if not known:
        return None
    ordered = sorted(
        range(len(known)), key=lambda at: (_is_norm(known[at]), _entropy(known[at]), at)
    )
    shown = [known[at] for at in sorted(ordered[:limit])]
    rows = []
    for layer in shown:
        spectrum = layer.spectrum
        if spectrum is None:
            continue
        full = spectrum.count
        values = (spectrum.stable_rank, spectrum.entropy_rank, float(spectrum.numerical_rank))
        rows.append(
            Row(
                short(layer.name, NAME_LIMIT),
                f"of {full:,}{'*' if spectrum.of else ''}",
                f"stable rank {values[0]:.4g}, entropy rank {values[1]:.4g}, numerical rank "
                f"{values[2]:.0f}, of {full:,}",
                dots=tuple(min(value / full, 1.0) for value in values),
                tone="plain",
            )
        )
    caption = "How many directions a layer really uses, as a share of the full rank."
    if len(known) > len(shown):
        caption += f" The {len(shown)} of {len(known)} layers that use the smallest share."
    if any(layer.spectrum and layer.spectrum.of for layer in shown):
        caption += " * of a stand-in for the layer's own operator."
    return RowChart(
        "ranks",
        "Effective rank",
        caption,
        Scale(0.0, 1.0, percent=True),
        "share of the full rank",
        tuple(rows),
        ("stable rank ‖A‖²_F / σ₁²", "entropy rank exp H(σ / Σσ)", "numerical rank"),
    )


def changes(pairs: Sequence[Pair], limit: float | None = None) -> RowChart | None:
    """Return what was before and after, side by side."""
    moved = [pair for pair in pairs if _moved(pair) > 0]
    ranked = sorted(range(len(moved)), key=lambda at: (-_moved(moved[at]), at))
    shown = [moved[at] for at in sorted(ranked[:ROWS])]
    if not shown:
        return None
    values = [limit] if limit is not None and limit > 0 else []
    rows = []
    for pair in shown:
        ends = (_upper(pair.before), _upper(pair.after))
        known = [value for value in ends if value is not None and value > 0]
        values += known
        first, last = (marked(m) if m is not None else "-" for m in (pair.before, pair.after))
        rows.append(
            Row(
                short(pair.name, NAME_LIMIT),
                f"{first} → {last}",
                f"before ≤ {first}, after ≤ {last}" + (f": {pair.note}" if pair.note else ""),
                bar=(known[0], known[1]) if len(known) == 2 else None,
                dots=ends,
                tone="plain",
            )
        )
    caption = "Upper bounds of the norms that changed, on a logarithmic axis."
    if len(moved) > len(shown):
        caption += f" The {len(shown)} of {len(moved)} that moved furthest."
    return RowChart(
        "changes",
        "Before and after",
        caption,
        widened(fitting(values, logarithmic=True)),
        "norm ≤",
        tuple(rows),
        ("before", "after"),
        ((limit, f"limit {numbers.limit(limit)}"),) if limit is not None and limit > 0 else (),
    )


def _upper(measure: Measure | None) -> float | None:
    return measure.upper if measure is not None and math.isfinite(measure.upper) else None


def _moved(pair: Pair) -> float:
    """Return by how much something changed, in decades; what came or went moved furthest."""
    if pair.before is None or pair.after is None:
        return math.inf
    first, last = pair.before.log10_upper, pair.after.log10_upper
    return 0.0 if first == last else abs(first - last)


def _distance(measure: Measure) -> float:
    """Return how far a norm is from 1, in decades; nothing is as telling as no norm at all."""
    log10 = measure.log10_upper
    return abs(log10) if log10 > -math.inf else 0.0


def _entropy(layer: LayerResult) -> float:
    spectrum = layer.spectrum
    return spectrum.entropy_rank / spectrum.count if spectrum is not None else 1.0


def _is_norm(layer: LayerResult) -> bool:
    """Tell whether a layer only scales channels: its spectrum says little."""
    return layer.kind.endswith("Normalization")


def _log(log10: float) -> str:
    return f"{log10:.3f}" if math.isfinite(log10) else numbers.NONE
