"""What a clip did, in one sentence: the same in every format for people."""

from collections.abc import Iterator
from decimal import ROUND_CEILING, Context, Decimal

from lipaudit.enclosure import Rigor
from lipaudit.report import numbers
from lipaudit.results import Change, ClipReport


def in_words(report: ClipReport) -> str:
    """Say how many layers were clipped, and to what."""
    touched = sum(1 for change in report.changes if change.tensors)
    layers = numbers.counted(len(report.changes), "layer")
    said = f"clipped {numbers.count(touched)} of {layers} by {report.method}"
    if report.limit is not None:
        return f"{said} to {numbers.limit(report.limit)}"
    if report.bound is not None:
        return f"{said} for a bound of {numbers.limit(report.bound.limit)}"
    return f"{said}, each to its own limit"


def of_the_network(report: ClipReport) -> str:
    """Say what became of the bound of the whole network; "" where none was asked for."""
    if report.bound is None:
        return ""
    before, after = report.bound.before, report.bound.after
    return (
        f"the network's bound: {numbers.upper(before.upper, before.log10_upper)} before, "
        f"{numbers.upper(after.upper, after.log10_upper)} after ({after.rigor.label})"
    )


def nearness(report: ClipReport) -> str:
    """Say how much farther than the nearest weights the new ones are; "" where nobody knows."""
    ratios = [
        change.relative_change / change.least_change - 1.0
        for change in report.changes
        if change.least_change
    ]
    if not ratios:
        return ""
    share, layers = _rounded_up(max(*ratios, 0.0)), numbers.counted(len(ratios), "layer")
    return (
        "no weights that meet the limits, convolutions at every input size, are nearer by more "
        f"than {share}% (computed, {layers})"
    )


def unmet(report: ClipReport) -> Iterator[Change]:
    """Yield the layers that are not proved to meet their limit; none where the clip did."""
    for change in () if report.met else report.changes:
        proved = change.after.rigor is Rigor.PROVED
        if change.limit is not None and not (proved and change.after.upper <= change.limit):
            yield change


def objection(change: Change) -> str:
    """Say what is known of a layer that is not proved to meet its limit."""
    end = numbers.upper(change.after.upper, change.after.log10_upper)
    limit = "its limit" if change.limit is None else numbers.limit(change.limit)
    rigor = change.after.rigor.label
    return f"its norm is not proved to be at most {limit}: its upper end is {end} ({rigor})"


def outcome(report: ClipReport) -> str:
    """Say what is true of the output."""
    if not report.met:
        held = "the single pass did not bring every layer to its limit"
    else:
        proved = "every limit is proved to be met"
        if report.limit is not None:
            proved = "every clipped layer is proved to meet the limit"
        held = f"read back: {proved}"
    return held if report.written else f"dry run: nothing was written; {held}"


def _rounded_up(share: float) -> str:
    """Write a share in percent, two digits rounded up: "by no more than" must stay true."""
    percent = Context(prec=2, rounding=ROUND_CEILING).multiply(Decimal(share), 100)
    return f"{float(percent):g}"
