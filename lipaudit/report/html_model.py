"""One model on a page: its bound and methods, its plots, its layers, what has no number."""

import html
from collections.abc import Callable
from dataclasses import dataclass

from lipaudit.enclosure import Rigor
from lipaudit.report import figures, html_parts, html_plots, numbers
from lipaudit.report.html_parts import Cell, Table
from lipaudit.report.text import short
from lipaudit.results import Certificates, Headline, LayerResult, ModelReport, Running, Skipped

_RIGORS = {
    Rigor.PROVED: ("good", "proved: rounding errors are included"),
    Rigor.NUMERICAL: ("unsure", "computed in floating point, not proved"),
    Rigor.ESTIMATED: ("unsure", "an estimate"),
}
_MANY = 24
"""Longer tables scroll by themselves."""


def section(model: ModelReport, id_: str, *, curves: int = figures.CURVES) -> str:
    """Write everything about one model."""
    headline = model.bound
    return "\n".join(
        part
        for part in (
            f'<section class="model" id="{id_}"><h2>{html_parts.text(model.path)}</h2>',
            _about(model),
            _bound(model, headline) if headline is not None else _norms(model),
            _lists(model),
            _methods(model, id_) if headline is not None else "",
            _running(model.running, headline) if model.running is not None else "",
            _certificates(model.certificates) if model.certificates is not None else "",
            _pairs(model, id_),
            _charts(model),
            html_plots.spectra(model.layers, id_, curves),
            _layers(model, id_),
            _nodes(model, id_),
            _skipped(model.skipped, id_),
            _provenance(model),
            "</section>",
        )
        if part
    )


def badge(rigor: Rigor) -> str:
    """Say how far a number is to be trusted."""
    kind, meaning = _RIGORS[rigor]
    return f'<span class="badge {kind}" title="{meaning}">{rigor.label}</span>'


def _about(model: ModelReport) -> str:
    parameters = sum(layer.parameters for layer in model.layers if not layer.tied_with)
    shapes = numbers.inputs(model.input_shapes)
    part = f"; the part {model.part}" if model.part else ""
    return (
        f'<p class="soft">{html_parts.text(model.format)}, {len(model.layers):,} layers measured, '
        f"{parameters:,} parameters, layer graph {html_parts.text(model.topology)}, "
        f"input {html_parts.text(shapes or 'of any size')}{html_parts.text(part)}</p>"
    )


def _bound(model: ModelReport, headline: Headline) -> str:
    measure = headline.measure
    certified = "good" if headline.certified else "unsure"
    facts = [
        html_parts.fact(
            "Lipschitz bound (ℓ2)",
            f"≤ {html_parts.upper_fact(measure)}" if measure.is_finite else "none",
            f"{badge(measure.rigor)} by {html_parts.text(measure.method)}"
            if measure.is_finite
            else "there is no finite upper bound",
            certified,
        )
    ]
    if measure.lower > 0:
        facts.append(
            html_parts.fact(
                "Attained by two inputs",
                f"≥ {html_parts.lower_fact(measure)}",
                "a computed lower bound: no true bound is below",
            )
        )
        if measure.is_finite:
            looseness = f"×{numbers.ratio(measure)}"
            facts.append(html_parts.fact("Loose by at most", looseness, "upper / lower"))
    facts.append(
        html_parts.fact(
            "Certified",
            "yes" if headline.certified else "no",
            "proved, of the graph as the file states it"
            if headline.certified
            else _first(headline.reasons),
            certified,
        )
    )
    advice = f"<p>{html_parts.text(model.advice)}</p>" if model.advice else ""
    return f'<div class="facts">{"".join(facts)}</div>{advice}'


def _first(reasons: tuple[str, ...]) -> str:
    if not reasons:
        return "not proved"
    more = f"; and {len(reasons) - 1} more reasons" if len(reasons) > 1 else ""
    return html_parts.text(short(reasons[0], 160) + more)


def _norms(model: ModelReport) -> str:
    """Say what stands out among the layers, where no bound was asked for."""
    if not model.layers:
        return "" if model.notes else "<p>No layer was measured.</p>"
    largest = max(model.layers, key=lambda x: x.norm.log10_upper)
    least = min(model.layers, key=lambda x: x.norm.log10_upper)
    facts = [
        html_parts.fact(
            "Largest norm",
            f"≤ {html_parts.upper_fact(largest.norm)}",
            f"{badge(largest.norm.rigor)} {html_parts.text(short(largest.name, 60))}",
        ),
        html_parts.fact(
            "Least norm",
            f"≤ {html_parts.upper_fact(least.norm)}",
            f"{badge(least.norm.rigor)} {html_parts.text(short(least.name, 60))}",
        ),
        html_parts.fact(
            "Product of all norms",
            f"≤ {numbers.product_of_uppers([layer.norm for layer in model.layers])}",
            "no bound of the network: lipaudit bound gives one",
        ),
    ]
    return f'<div class="facts">{"".join(facts)}</div>'


def _lists(model: ModelReport) -> str:
    alarms = [f"its pickle {alarm}; lipaudit ran nothing" for alarm in model.alarms]
    headline = model.bound
    reasons = headline.reasons if headline is not None and not headline.certified else ()
    lists = (
        html_parts.items(alarms, "Danger", "bad")
        + html_parts.items(reasons, "Why it is not certified", "unsure")
        + html_parts.items(model.assumed, "Assumed", "unsure")
        + html_parts.items(model.notes, "Notes")
    )
    return f'<div class="lists">{lists}</div>' if lists else ""


def _methods(model: ModelReport, id_: str) -> str:
    rows = []
    for bound in sorted(model.bounds, key=lambda b: b.measure.log10_upper):
        measure = bound.measure
        why = "; ".join(bound.reasons) or measure.method
        rows.append(
            [
                Cell(html.escape(bound.method), bound.method, "name"),
                html_parts.upper(measure),
                html_parts.number(measure.log10_upper if measure.is_finite else None),
                Cell(badge(measure.rigor) if measure.is_finite else "–", int(measure.rigor)),
                html_parts.phrase(why),
            ]
        )
    titles = (
        ("method", "how the bound was found"),
        ("bound ≤", "rounded up; none where there is no finite number"),
        ("log10", "its decimal logarithm"),
        ("rigor", "how far it is to be trusted"),
        ("how", "or why there is none"),
    )
    table = html_parts.table(Table(f"{id_}-methods", "Every method's bound", titles, rows))
    return f"<h3>Every method's bound, least first</h3>{table}" if rows else ""


def _pairs(model: ModelReport, id_: str) -> str:
    if not model.pairs:
        return ""
    rows = [
        [
            html_parts.name(pair.source),
            html_parts.name(pair.target),
            html_parts.upper(pair.measure),
            html_parts.plain(pair.method),
        ]
        for pair in model.pairs
    ]
    titles = (("input", ""), ("output", ""), ("bound ≤", "the other inputs held still"), ("by", ""))
    table = html_parts.table(Table(f"{id_}-pairs", "From input to output", titles, rows))
    return f"<h3>From each input to each output</h3>{table}"


def _running(running: Running, headline: Headline | None) -> str:
    where = f"in {running.dtype} on inputs of norm at most {running.radius:g}"
    if not running.error.is_finite:
        reasons = "; ".join(running.reasons)
        said = f"{html_parts.text(where)}: no error bound: {html_parts.text(reasons)}"
    else:
        finite = headline is not None and headline.measure.is_finite
        known = html_parts.upper_fact(headline.measure) if finite and headline else "L"
        error = html_parts.upper_fact(running.error)
        said = f"{html_parts.text(where)}: ‖f(x) − f(y)‖ ≤ {known}·‖x − y‖ + 2·{error}"
    return f"<h3>As it runs</h3><p>{said}</p>{html_parts.items(running.assumptions, 'Assumed')}"


def _certificates(found: Certificates) -> str:
    about = "true" if found.labelled else "predicted"
    shares = "".join(
        f"<dt>within {distance:g}</dt><dd>{100 * share:.4g}%</dd>"
        for distance, share in found.accuracy.items()
    )
    accuracy = f"<h4>Certified accuracy</h4><dl>{shares}</dl>" if shares else ""
    return (
        f"<h3>Certified radii</h3><p>{found.count:,} samples of {html_parts.text(found.path)}, "
        f"{found.correct:,} of them right; the {about} class is certain within a median radius of "
        f"{numbers.nearest(found.median)} ({found.rigor.label}, {html_parts.text(found.of)}).</p>"
        f"{accuracy}"
    )


def _charts(model: ModelReport) -> str:
    charts = html_plots.figure(figures.waterfall(model)) + html_plots.figure(
        figures.ranks(model.layers)
    )
    return f'<h3>Layer by layer</h3><div class="figures">{charts}</div>' if charts else ""


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of the layer table."""

    title: str
    meaning: str
    cell: Callable[[LayerResult], Cell]


def _columns(model: ModelReport) -> list[_Column]:
    order = {id(layer): at for at, layer in enumerate(model.layers, 1)}
    largest = max((abs(layer.log_share or 0.0) for layer in model.layers), default=0.0)

    def share(layer: LayerResult) -> Cell:
        return html_parts.share(layer.log_share, largest)

    all_of_them = [
        _Column("#", "place in the file", lambda x: html_parts.count(order[id(x)])),
        _Column("layer", "its name in the file", lambda x: html_parts.name(x.name)),
        _Column("kind", "", lambda x: html_parts.plain(x.kind)),
        _Column("shape", "of its weight", _shape),
        _Column("geometry", "stride, padding, ...", _geometry),
        _Column("σ_max ≤", "its operator norm, rounded up", lambda x: html_parts.upper(x.norm)),
        _Column("≥", "the same, from below", lambda x: html_parts.lower(x.norm)),
        _Column("share", "of the sum of |log norm|", share),
        _Column(
            "reshaped", "norm of the weight as a matrix: not the layer's norm",
            lambda x: html_parts.number(x.reshaped_norm),
        ),
        _Column(
            "power it.", "what power iteration says: an estimate",
            lambda x: html_parts.number(x.power_iteration),
        ),
        _Column("‖·‖_F", "√Σσ²", lambda x: html_parts.number(x.frobenius)),
        _Column("stable", "stable rank ‖A‖²_F / σ₁²", lambda x: _rank(x, "stable_rank")),
        _Column("entropy", "entropy rank exp H(σ/Σσ)", lambda x: _rank(x, "entropy_rank")),
        _Column("rank", "numerical rank", lambda x: _rank(x, "numerical_rank")),
        _Column("of", "how many singular values there are", lambda x: _rank(x, "count")),
        _Column("σ≥1", "how many are at least 1", lambda x: _rank(x, "at_least_one")),
        _Column("rigor", "of the norm", lambda x: Cell(badge(x.norm.rigor), int(x.norm.rigor))),
        _Column("how", "how the norm was found", lambda x: html_parts.phrase(x.norm.method)),
    ]  # fmt: skip
    return [c for c in all_of_them if any(c.cell(x).shown not in {"", "–"} for x in model.layers)]


def _shape(layer: LayerResult) -> Cell:
    return Cell(numbers.shape(layer.shape), layer.parameters, "number")


def _geometry(layer: LayerResult) -> Cell:
    told = [
        value if key == "geometry" else f"{key} {value}" for key, value in layer.geometry.items()
    ]
    cell = html_parts.plain(" ".join(told))
    return Cell(cell.shown, cell.key, "middle")


def _rank(layer: LayerResult, which: str) -> Cell:
    spectrum = layer.spectrum
    if spectrum is None:
        return html_parts.number(None)
    value = getattr(spectrum, which)
    cell = html_parts.count(value) if isinstance(value, int) else html_parts.number(value)
    # What belongs to a stand-in for the layer's own operator is marked.
    mark = f'<span title="of the {html_parts.text(spectrum.of)} operator">*</span>'
    return Cell(cell.shown + mark, cell.key, cell.classes) if spectrum.of else cell


def _layers(model: ModelReport, id_: str) -> str:
    if not model.layers:
        return ""
    columns = _columns(model)
    made = Table(
        f"{id_}-layers",
        "Layers",
        [(column.title, column.meaning) for column in columns],
        [[column.cell(layer) for column in columns] for layer in model.layers],
        [layer.kind for layer in model.layers],
    )
    tied = [
        f"{short(x.name)} has the weight of {short(x.tied_with)}"
        for x in model.layers
        if x.tied_with
    ]
    stand_ins = {x.spectrum.of for x in model.layers if x.spectrum is not None and x.spectrum.of}
    marked = [f"* ranks are of the {of} operator" for of in sorted(stand_ins)]
    tall = ' class="tall"' if len(model.layers) > _MANY else ""
    below = html_parts.items([*tied, *marked], "About the table", "below")
    return f"<h3>Layers</h3><div{tall}>{html_parts.table(made)}</div>{below}"


def _nodes(model: ModelReport, id_: str) -> str:
    """List every step of the graph's bound, folded away: the waterfall draws it."""
    whole = next((b for b in model.bounds if b.method == "graph" and b.factors), None)
    if whole is None:
        return ""
    rows = [
        [
            html_parts.count(at),
            html_parts.name(factor.name),
            html_parts.plain(factor.kind),
            html_parts.upper(factor.gain),
            html_parts.upper(factor.running),
            html_parts.upper(factor.remaining),
            html_parts.number(factor.expected),
            html_parts.phrase(factor.gain.method),
        ]
        for at, factor in enumerate(whole.factors, 1)
    ]
    titles = (
        ("#", "place in the graph"),
        ("node", ""),
        ("kind", ""),
        ("gain ≤", "of the node alone"),
        ("so far ≤", "from the input to here"),
        ("behind ≤", "from here to the output: by how much a gradient can grow"),
        ("typical", "stretch of a random direction: an estimate"),
        ("how", "how the gain was found"),
    )
    kinds = [factor.kind for factor in whole.factors]
    made = Table(f"{id_}-nodes", "Nodes of the graph", titles, rows, kinds)
    return (
        f"<details><summary>All {len(rows):,} nodes of the graph's bound</summary>"
        f'<div class="tall">{html_parts.table(made)}</div></details>'
    )


def _skipped(skipped: tuple[Skipped, ...], id_: str) -> str:
    rows = [
        [
            html_parts.name(item.name),
            html_parts.plain(item.kind),
            html_parts.plain(item.slug),
            html_parts.phrase(item.reason),
        ]
        for item in skipped
    ]
    titles = (("name", ""), ("kind", ""), ("slug", "the reason in short"), ("reason", ""))
    made = Table(f"{id_}-skipped", "What has no number", titles, rows)
    count = f"{len(rows):,} without a number"
    opened = " open" if len(rows) <= _MANY else ""
    return (
        f"<details{opened}><summary>{count}</summary>"
        f'<div class="tall">{html_parts.table(made)}</div></details>'
        if rows
        else ""
    )


def _provenance(model: ModelReport) -> str:
    facts = {
        "SHA-256": model.sha256,
        "format": model.format,
        "layer graph": model.topology,
        "input shape from": model.input_shape_source,
    }
    entries = "".join(
        f"<dt>{key}</dt><dd><code>{html_parts.text(value)}</code></dd>"
        for key, value in facts.items()
        if value
    )
    return f"<details><summary>The file</summary><dl>{entries}</dl></details>"
