"""The bound as a person reads it: where it comes from, every method, and what is around it."""

import math
from collections.abc import Sequence

from lipaudit.report import numbers
from lipaudit.report.marks import marked
from lipaudit.report.page import Page
from lipaudit.report.text import safe, short
from lipaudit.results import Bound, Certificates, Factor, Headline, ModelReport, Running

_ALL = 24
"""A network with more nodes shows only its worst ones."""
_WORST = 10
_BAR_WIDTH = 12
_COLUMNS = (
    *(("node", 0), ("kind", 3), ("gain ≤", 0), ("so far ≤", 1), ("behind ≤", 2)),
    *(("typical", 4), ("log10 gain", 6), ("how", 5)),
)
"""Columns of the waterfall, the least important ones with the largest numbers."""
_NUMBERS = frozenset({"gain ≤", "so far ≤", "behind ≤", "typical"})


def draw_bound(page: Page, model: ModelReport, headline: Headline) -> None:
    """Draw everything about the bound of one model."""
    if model.part:
        page.say(f"bound of the part {safe(model.part)}")
    _draw_factors(page, model)
    page.table(
        ("method", "bound (ℓ2) ≤", "log10", "rigor"),
        [_method_row(bound) for bound in model.bounds],
        right={1, 2},
        priorities=(0, 0, 2, 1),
    )
    _draw_pairs(page, model)
    for text in model.assumed:
        page.say(f"assumed: {safe(text)}")
    _draw_headline(page, headline)
    if model.advice:
        page.say(safe(model.advice))
    if model.running is not None:
        _draw_running(page, model.running, headline)
    if model.certificates is not None:
        _draw_certificates(page, model.certificates)


def _draw_factors(page: Page, model: ModelReport) -> None:
    """Draw the waterfall of the graph's bound: each node's gain, before it and behind it."""
    whole = next((b for b in model.bounds if b.method == "graph" and b.factors), None)
    if whole is None:
        return
    # What leads nowhere stands in the JSON only.
    shown: Sequence[Factor] = [f for f in whole.factors if f.remaining.log10_upper > -math.inf]
    if len(shown) > _ALL:
        # Nodes without a finite gain first: they are the reason.
        shown = sorted(shown, key=lambda f: -f.gain.log10_upper)[:_WORST]
        page.say(f"the {len(shown)} worst of {len(whole.factors)} nodes (all stand in -f json)")
    if not shown:
        return
    largest = max((abs(f.gain.log10_upper) for f in shown if f.gain.is_finite), default=0.0)
    stretches = {x.name: x.expected_stretch for x in model.layers}
    titles = [title for title, _ in _COLUMNS]
    rows = [_factor_row(factor, stretches.get(factor.name), largest, page) for factor in shown]
    page.table(
        titles,
        rows,
        right={at for at, title in enumerate(titles) if title in _NUMBERS},
        priorities=[priority for _, priority in _COLUMNS],
    )
    ends = [f.typical for f in whole.factors if f.typical is not None]
    backs = [f.typical_back for f in whole.factors if f.typical_back is not None]
    if ends and backs:
        page.say(
            f"typical growth (random directions, an estimate): forward {ends[-1]:.3g}, "
            f"of gradients back to the first layer {backs[0]:.3g}"
        )


def _factor_row(
    factor: Factor, stretch: float | None, largest: float, page: Page
) -> tuple[str, ...]:
    return (
        short(factor.name, page.name_limit),
        short(factor.kind, 24),
        marked(factor.gain),
        marked(factor.running),
        marked(factor.remaining),
        numbers.nearest(factor.expected if stretch is None else stretch),
        _bar(factor.gain.log10_upper, largest),
        short(factor.gain.method, page.name_limit),
    )


def _draw_pairs(page: Page, model: ModelReport) -> None:
    if model.pairs:
        page.table(
            ("input", "output", "bound ≤"),
            [(short(p.source, 40), short(p.target, 40), marked(p.measure)) for p in model.pairs],
            right={2},
            priorities=(0, 0, 0),
        )


def _draw_headline(page: Page, headline: Headline) -> None:
    measure = headline.measure
    if measure.upper == 0:
        page.say("the output does not depend on the input")
    if measure.is_finite:
        kind = f"{measure.rigor.label}, {measure.method}"
        page.say(f"upper bound {marked(measure)} ({kind})", bold=True)
        if measure.lower > 0:
            below = numbers.lower(measure.lower, measure.log10_lower)
            loose = numbers.ratio(measure)
            page.say(f"lower bound {below} (computed): two inputs were found that attain it")
            page.say(f"so the upper bound is loose by at most a factor of {loose}")
    if not headline.certified:
        page.say(f"not certified: {'; '.join(map(safe, headline.reasons))}", bold=True)


def _draw_running(page: Page, running: Running, headline: Headline) -> None:
    where = f"running in {safe(running.dtype)} on inputs of norm at most {running.radius:g}"
    if not running.error.is_finite:
        page.say(f"{where}: no error bound: {'; '.join(map(safe, running.reasons))}")
        return
    bound = marked(headline.measure) if headline.measure.is_finite else "L"
    page.say(f"{where}: |f(x) - f(y)| ≤ {bound}·|x - y| + 2·{marked(running.error)}", bold=True)
    for text in running.assumptions:
        page.say(f"assumed of the run: {safe(text)}")


def _draw_certificates(page: Page, found: Certificates) -> None:
    about = "true" if found.labelled else "predicted"
    page.say(
        f"{found.count} samples of {safe(found.path)}, {found.correct} of them right; "
        f"the {about} class is certain within a median radius of {found.median:.4g} "
        f"({found.rigor.label}, {safe(found.of)})"
    )
    for distance, share in found.accuracy.items():
        page.say(f"certified accuracy at {distance:g}: {100 * share:.4g}%")


def _method_row(bound: Bound) -> tuple[str, ...]:
    measure = bound.measure
    log10 = numbers.exponent(measure.log10_upper)
    return bound.method, marked(measure), log10, measure.rigor.label if measure.is_finite else ""


def _bar(log10: float, largest: float) -> str:
    """Draw a logarithm as a bar; of what shrinks as a dotted one."""
    if not math.isfinite(log10):
        return numbers.NONE if log10 > 0 else ""
    length = round(abs(log10) / largest * _BAR_WIDTH) if largest else 0
    return ("█" if log10 >= 0 else "·") * length
