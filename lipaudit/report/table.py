"""The table: the report as a person reads it in a terminal."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lipaudit.enclosure import Rigor
from lipaudit.report import numbers
from lipaudit.report.base import Canvas, Choice, Reporter, register
from lipaudit.report.bound_table import draw_bound
from lipaudit.report.choices import chosen
from lipaudit.report.clip_table import clip
from lipaudit.report.marks import marked
from lipaudit.report.page import Page
from lipaudit.report.plot import draw_spectra
from lipaudit.report.skips import draw_skips
from lipaudit.report.text import DATA_LIMIT, safe, short
from lipaudit.results import (
    NO_LAYER,
    LayerResult,
    Measure,
    ModelReport,
    Report,
    Verdict,
)

_LEGEND = {
    Rigor.NUMERICAL: "~ computed in floating point, not proved",
    Rigor.ESTIMATED: "? estimated",
}
_BAR_WIDTH = 8


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the layer table; those that matter least go first when room is short."""

    title: str
    cell: Callable[[LayerResult], str]
    priority: int
    right: bool = True


_COLUMNS = (
    Column("layer", lambda x: x.name, 0, right=False),
    Column("kind", lambda x: x.kind, 2, right=False),
    Column("shape", lambda x: numbers.shape(x.shape), 3),
    Column("geometry", lambda x: " ".join(_geometry(x)), 7, right=False),
    Column("σ_max ≤", lambda x: marked(x.norm), 0),
    Column("≥", lambda x: _lower(x.norm), 5),
    Column("reshaped", lambda x: numbers.nearest(x.reshaped_norm), 6),
    Column("power it.", lambda x: numbers.nearest(x.power_iteration), 6),
    Column("‖·‖_F", lambda x: numbers.nearest(x.frobenius), 10),
    Column("stable", lambda x: _rank(x, "stable"), 8),
    Column("entropy", lambda x: _rank(x, "entropy"), 9),
    Column("rank", lambda x: _rank(x, "numerical"), 4),
    Column("σ≥1", lambda x: _rank(x, "one"), 11),
    Column("share", lambda x: numbers.percent(x.log_share), 1),
)
_BAR_PRIORITY = 5


def audit(report: Report, verdict: Verdict, canvas: Canvas, choice: Choice) -> str:
    """Draw the report of an audit."""
    page = Page(canvas)
    for model in report.models:
        _draw_model(page, model, choice)
    _draw_verdict(page, report, verdict)
    return page.text()


def _draw_model(page: Page, model: ModelReport, choice: Choice) -> None:
    page.say(safe(model.path), bold=True)
    parameters = sum(layer.parameters for layer in model.layers if not layer.tied_with)
    page.say(
        f"{safe(model.format)}, {numbers.counted(len(model.layers), 'layer')} measured, "
        f"{numbers.count(parameters)} parameters, layer graph {model.topology}"
    )
    shapes = numbers.inputs(model.input_shapes)
    source = {"file": "from the file", "command line": "as asked"}.get(model.input_shape_source, "")
    page.say(f"input: {shapes} ({source})" if shapes else "input: any size")
    for alarm in model.alarms:
        page.say(f"DANGER: its pickle {safe(alarm)}; lipaudit ran nothing", bold=True)
    if model.bound is not None:
        draw_bound(page, model, model.bound)
    else:
        _draw_layers(page, model, choice)
    if choice.plot:
        draw_spectra(page, chosen(model.layers, choice))
    draw_skips(page, model.skipped)
    for note in model.notes:
        if note.startswith(NO_LAYER) and model.bound is not None:
            continue  # what was asked about the network has its answer
        page.say(f"note: {safe(note)}")
    page.gap()


def _draw_layers(page: Page, model: ModelReport, choice: Choice) -> None:
    layers = chosen(model.layers, choice)
    if not layers:
        return
    largest = max((abs(layer.log_share or 0.0) for layer in layers), default=0.0)
    page.table(
        (*(column.title for column in _COLUMNS), ""),
        [
            (
                *(short(column.cell(layer), page.name_limit) for column in _COLUMNS),
                _bar(layer.log_share or 0.0, largest),
            )
            for layer in layers
        ],
        right={at for at, column in enumerate(_COLUMNS) if column.right},
        priorities=(*(column.priority for column in _COLUMNS), _BAR_PRIORITY),
    )
    hidden = len(model.layers) - len(layers)
    if hidden:
        page.say(f"{hidden} more layers not shown")
    product = numbers.product_of_uppers([layer.norm for layer in model.layers])
    page.say(f"product of all norms ≤ {product}")
    _draw_legend(page, [layer.norm for layer in model.layers])
    if any(layer.spectrum and layer.spectrum.rigor < Rigor.PROVED for layer in layers):
        page.say("some ranks rest on values that are computed, not proved; --svd proves them")
        page.say(f"ranks take values below {_tolerance(layers)} of the largest for 0")
    for text in model.assumptions:
        page.say(f"assumed: {safe(text)}")
    for layer in layers:
        if layer.tied_with:
            page.say(f"{short(layer.name)} has the weight of {short(layer.tied_with)}")
    for line in sorted({_stand_in(model, layer) for layer in layers} - {""}):
        page.say(line)
    if any(layer.leading for layer in layers):
        page.say("the largest singular values of what is too large stand, from below, in -f json")


def _draw_verdict(page: Page, report: Report, verdict: Verdict) -> None:
    for failure in report.failures:
        page.say(f"no report: {short(failure.path)}: {short(failure.cause, DATA_LIMIT)}")
    for finding in verdict.findings:
        # With one model there is no doubt which is meant.
        model = f" {short(finding.model)}" if len(report.models) > 1 else ""
        where = f"{model} {short(finding.where)}" if finding.where else model
        measured = numbers.measured(finding.measured)
        told = f" ({measured})" if measured else ""
        message = short(finding.message, DATA_LIMIT)
        page.say(f"{safe(finding.rule)} {finding.severity}{where}: {message}{told}")
    if verdict.passed is not None:
        page.say("gate: passed" if verdict.passed else "gate: NOT passed", bold=True)


def _draw_legend(page: Page, measures: Iterable[Measure]) -> None:
    rigors = {measure.rigor for measure in measures}
    if rigors == {Rigor.PROVED}:
        page.say("every σ_max is proved, rounding errors included")
    for rigor, meaning in _LEGEND.items():
        if rigor in rigors:
            page.say(meaning)


def _bar(share: float, largest: float) -> str:
    """Draw a share as a bar; shrinking layers (a negative logarithm) as a dotted one."""
    length = round(abs(share) / largest * _BAR_WIDTH) if largest else 0
    return ("█" if share >= 0 else "·") * max(length, 1 if share else 0)


def _lower(measure: Measure) -> str:
    return numbers.lower(measure.lower, measure.log10_lower)


def _stand_in(model: ModelReport, layer: LayerResult) -> str:
    """Say of which other operator a layer's rank is, and how to get its own; "" where it is."""
    if layer.spectrum is None or not layer.spectrum.of:
        return ""
    if "geometry" in layer.geometry:
        way = "the file holds no stride and padding; --model gives the real"
    elif model.input_shapes:
        way = "the real one is too large"
    else:
        way = "give --input-shape for the real"
    return f"* ranks are of the {safe(layer.spectrum.of)} operator ({way})"


def _geometry(layer: LayerResult) -> list[str]:
    names = {"stride": "s", "padding": "p", "dilation": "d", "groups": "g", "geometry": ""}
    return [f"{names.get(key, key + ' ')}{value}" for key, value in layer.geometry.items()]


def _rank(layer: LayerResult, which: str) -> str:
    spectrum = layer.spectrum
    if spectrum is None:
        return "-"
    value = {
        "stable": f"{spectrum.stable_rank:.1f}",
        "entropy": f"{spectrum.entropy_rank:.1f}",
        "numerical": f"{spectrum.numerical_rank}/{spectrum.count}",
        "one": str(spectrum.at_least_one),
    }[which]
    # What belongs to a stand-in for the layer's own operator is marked.
    return f"{value}*" if spectrum.of else value


def _tolerance(layers: Sequence[LayerResult]) -> str:
    """Write the largest tolerance of a rank, as a share of the largest value."""
    spectra = [layer.spectrum for layer in layers if layer.spectrum and layer.spectrum.quantiles]
    shares = (x.tolerance / x.quantiles[0] for x in spectra if x.quantiles[0] > 0)
    return f"{max(shares, default=0.0):.0e}"


register(Reporter("table", "tables for the terminal", audit, clip))
